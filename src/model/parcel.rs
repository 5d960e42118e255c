//! One message addressed to one target, and what the target answers.

use super::{
    Address, Epoch, Lineage, MessageId, ParcelNumber, Partition, Retry, Revision, Round, Slot,
    SourceName, UnitId, Why,
};
use crate::amqp::RawProperties;
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

/// One message addressed to one target, marked and sealed.
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
    /// Marked and sealed; `expiration` as it was at receipt.
    pub properties: RawProperties,
    /// As it came.
    pub body: Bytes,
    /// It may have reached a target before: redelivered by the broker, or sent again by a link.
    pub sent_before: bool,
}

/// A flat allowance for what a parcel takes besides its body: headers, names, bookkeeping.
const PARCEL_OVERHEAD_BYTES: usize = 1_024;

impl Parcel {
    /// What it counts for in byte budgets and credits.
    pub fn cost_bytes(&self) -> usize {
        self.body.len() + PARCEL_OVERHEAD_BYTES
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
