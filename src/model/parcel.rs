//! One message addressed to one target, and what the target answers.

use super::marks::{
    X_SET_DELIVERED, X_SET_EPOCH, X_SET_FROM, X_SET_ID, X_SET_PATH, X_SET_REPLAY, X_SET_RETRY,
    X_SET_ROUND, X_SET_SLOT, X_SET_TO, X_SET_USER_ID, X_SET_WHY, is_mark, is_mark_or_count,
    number_value,
};
use super::{
    Address, BodyHash, Epoch, Lineage, MessageId, ParcelNumber, Partition, Retry, Revision, Round,
    SealKeys, SealedBody, Slot, SourceName, UnitId, Why,
};
use crate::amqp::{CodecError, Edit, FieldValue, RawProperties, TextProperty};
use bytes::Bytes;

/// One lane, as everybody names it: the unit in which it takes, its source, its partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId {
    /// The unit whose broker has the lane's queue.
    pub unit: UnitId,
    /// What is taken.
    pub source: SourceName,
    /// Which of the source's lanes.
    pub partition: Partition,
}

impl std::fmt::Display for LaneId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.unit, self.source, self.partition)
    }
}

/// One message addressed to one target.
#[derive(Debug, Clone, PartialEq)]
pub struct Parcel {
    /// Pairs the answer.
    pub number: ParcelNumber,
    /// Of the table that routed it.
    pub lineage: Lineage,
    /// Of the table that routed it.
    pub epoch: Epoch,
    /// Of the table that routed it.
    pub revision: Revision,
    /// Absent when the source knows no id in the message.
    pub id: Option<MessageId>,
    /// How often a lane has taken this message.
    pub round: Round,
    /// How often a person had it retried.
    pub retry: Retry,
    /// Absent when the rule needs no key and there is none.
    pub slot: Option<Slot>,
    /// Why it goes there.
    pub why: Why,
    /// The unit that it goes to.
    pub to: UnitId,
    /// Where it is to be published there.
    pub address: Address,
    /// As they came, unless they are [`Marking::Done`]; `expiration` as it was at receipt.
    pub properties: RawProperties,
    /// As it came.
    pub body: Bytes,
    /// It may have reached a target before: redelivered by the broker, or sent again by a link.
    pub sent_before: bool,
    /// Whether its properties have their marks.
    pub marking: Marking,
}

/// Who puts a parcel's marks on.
#[derive(Debug, Clone, PartialEq)]
pub enum Marking {
    /// They are on: it goes into a queue of this unit's own, or back to its publishers here.
    Done,
    /// Whoever receives it: this is what they say beside what the parcel says itself.
    AtReceiver(Way),
}

/// Of one message, on its way to one unit.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Way {
    /// The units that it has visited before that one, oldest first.
    pub path: Vec<UnitId>,
    /// What its publisher called itself.
    pub user_id: Option<Bytes>,
    /// An operator has it sent again.
    pub replayed: bool,
    /// Its source's broker has handed it out before, and may have counted that in a header.
    pub redelivered: bool,
}

/// A flat allowance for what a parcel takes besides its body: headers, names, bookkeeping.
const PARCEL_OVERHEAD_BYTES: usize = 1_024;

impl Parcel {
    /// What it counts for in byte budgets and credits.
    pub fn cost_bytes(&self) -> usize {
        self.body.len() + PARCEL_OVERHEAD_BYTES
    }

    /// Collects its marks, in place of all that it came with. They are still to be sealed.
    pub fn mark(&self, way: &Way, from: &UnitId, keys: &SealKeys, edit: &mut Edit<'_>) {
        edit.remove_if(if way.redelivered {
            is_mark_or_count
        } else {
            is_mark
        });
        // The broker ends the channel of whoever publishes under another's name.
        edit.clear_text(TextProperty::UserId);
        if let Some(id) = &self.id {
            edit.set_str(X_SET_ID, &id.0);
        }
        if let Some(slot) = self.slot {
            edit.set(X_SET_SLOT, &number_value(slot.0));
        }
        edit.set_str(X_SET_FROM, from.as_str());
        edit.set_str(X_SET_TO, self.to.as_str());
        let epoch = i64::try_from(self.epoch.0).unwrap_or(i64::MAX);
        edit.set(X_SET_EPOCH, &FieldValue::I64(epoch));
        let path = way.path.iter().chain([&self.to]).map(UnitId::as_str);
        edit.set_strings(X_SET_PATH, path);
        edit.set(X_SET_ROUND, &number_value(self.round.0));
        edit.set(X_SET_RETRY, &number_value(self.retry.0));
        let delivered = keys.delivered(&self.address, &self.properties);
        edit.set_bytes(X_SET_DELIVERED, delivered);
        edit.set_str(X_SET_WHY, self.why.as_str());
        if let Some(user) = &way.user_id {
            edit.set_str(X_SET_USER_ID, user);
        }
        if way.replayed {
            edit.set(X_SET_REPLAY, &FieldValue::Bool(true));
        }
    }

    /// Seals the marks that are collected for it; the hash is that of its body.
    pub fn seal(&self, keys: &SealKeys, body: &BodyHash, edit: &mut Edit<'_>) {
        keys.seal(self.id.as_ref(), edit, SealedBody::Hashed(body));
    }

    /// Its properties with the marks of a parcel from that unit, sealed; as they are where they have them already. An error
    /// only for properties that have not been checked.
    pub fn marked(&self, from: &UnitId, keys: &SealKeys) -> Result<RawProperties, CodecError> {
        let Marking::AtReceiver(way) = &self.marking else {
            return Ok(self.properties.clone());
        };
        let mut edit = Edit::new();
        self.mark(way, from, keys, &mut edit);
        self.seal(keys, &keys.body(&self.body), &mut edit);
        edit.apply(&self.properties)
    }
}

/// What a target says of one parcel: a closed set. Everything but `Later` settles it at the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Durable at the target.
    Accepted,
    /// The target has it already.
    Duplicate,
    /// Its slot has another seat by a newer table; route it anew.
    Moved,
    /// Not now (the broker refused it or is away, the receiver's table is behind, …): offer it again, in order.
    Later {
        /// For the status page.
        cause: String,
    },
    /// Nothing is bound at its address there.
    Returned,
    /// Never: it may not or can't be delivered there, whatever is tried.
    Refused {
        /// Why, of the closed set.
        reason: super::Reason,
        /// For the log and the parked message.
        cause: String,
    },
}
