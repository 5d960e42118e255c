//! From a delivery to its parcels: envelope, decision, stamp, offer.

use super::super::action::{Note, Routing, Target};
use super::super::diversion::follows_its_slot;
use super::super::envelope::{Admission, Admitted, Envelope, user_id_of};
use super::super::give_back::give_back;
use super::super::outlet::{Claim, Feed, Offered, Origin};
use super::super::park::{Kept, Stored, Wrapping, wrap};
use super::super::stamp::{Stamp, stamp};
use super::{Lane, Turn};
use crate::amqp::RawProperties;
use crate::model::{
    Address, Marking, Message, Parcel, ParcelNumber, Reason, Retry, Round, RuleName, Slot, UnitId,
    Why, own_queues,
};
use crate::routing::{self, Outcome, Table, Unrecorded};
use bytes::Bytes;
use std::sync::Arc;

/// What is known of a message's way before it is routed.
#[derive(Debug, Clone)]
pub(super) struct Before {
    /// A copy for this unit, whatever the rule's other targets are.
    pub(super) copy_for: Option<UnitId>,
    /// A target may have it.
    pub(super) sent: bool,
    /// How often a receiver has said that it belongs elsewhere.
    pub(super) moves: u32,
}

impl Before {
    /// Nothing.
    pub(super) const NOTHING: Self = Self {
        copy_for: None,
        sent: false,
        moves: 0,
    };
}

/// What was sent again goes to the one unit that it was sent again for, or nowhere.
const NOT_REPLAYED: Note = Note::Dropped {
    reason: Reason::Rule,
};

/// Where a message goes, and by what.
#[derive(Debug)]
pub(super) struct Directed {
    pub(super) target: routing::Target,
    pub(super) slot: Option<Slot>,
    pub(super) rule: Option<RuleName>,
}

impl Lane {
    pub(super) fn route(&mut self, claim: &Claim, message: Message, turn: &mut Turn<'_>) {
        let keys = turn.routing.keys;
        let limits = self.settings.limits;
        let envelope = match Envelope::decode(message, &self.settings.duplicates, keys, limits) {
            Ok(envelope) => envelope,
            Err(unread) => {
                let (message, unreadable) = *unread;
                let parked = self.parked_as_it_is(message, unreadable.reason);
                return self.park(claim, &parked, unreadable.cause, turn);
            }
        };
        if envelope.has_refused_marks() {
            turn.note(Note::SealRefused);
        }
        match envelope.admit(&self.settings.here, keys, limits) {
            Admission::CopyOfOurs | Admission::Knock => {}
            Admission::TooManyRounds(admitted) => {
                let cause = format!("hops_max is {}", limits.rounds_max);
                let parked = parked(&admitted, Reason::Hops, None);
                self.park(claim, &parked, cause, turn);
            }
            Admission::Go(admitted) => {
                self.dispatch(claim, &Arc::new(admitted), &Before::NOTHING, turn);
            }
        }
    }

    /// Decides by the table in force, and offers a parcel for each target.
    pub(super) fn dispatch(
        &mut self,
        claim: &Claim,
        admitted: &Arc<Admitted>,
        before: &Before,
        turn: &mut Turn<'_>,
    ) {
        let table = turn.routing.table;
        let decision = table.route(
            turn.routing.source,
            &self.settings.here,
            &admitted.path,
            &admitted.message,
            &mut Unrecorded,
        );
        let rule = decision.rule;
        let mut targets = match decision.outcome {
            Outcome::Drop(reason) => return turn.note(Note::Dropped { reason }),
            Outcome::Park(_) if admitted.replay_for.is_some() => {
                return turn.note(NOT_REPLAYED);
            }
            Outcome::Park(reason) if turn.routing.source.returns_for(reason).is_some() => {
                return self.give_back(claim, admitted, reason, rule, before, turn);
            }
            Outcome::Park(reason) => {
                let parked = parked(admitted, reason, rule);
                return self.park(claim, &parked, "by the decision".to_owned(), turn);
            }
            Outcome::Deliver(targets) => targets,
        };
        if let Feed::Diversion(unit) = &claim.feed
            && self.must_wait(unit, claim, decision.slot, &targets, table)
        {
            return self.wait(unit, claim, admitted, before);
        }
        if let Some(unit) = &admitted.replay_for {
            // What has an owner was its owner's once: never again.
            targets.retain(|one| one.unit == *unit && !follows_its_slot(one.why));
            if targets.is_empty() {
                return turn.note(NOT_REPLAYED);
            }
        } else if let Some(unit) = &before.copy_for {
            targets.retain(|target| target.unit == *unit);
            if targets.is_empty() {
                let cause = format!("no rule sends a copy to {unit} any more");
                let parked = parked(admitted, Reason::Rule, rule);
                return self.park(claim, &parked, cause, turn);
            }
        }
        for target in targets {
            let directed = Directed {
                target,
                slot: decision.slot,
                rule: rule.clone(),
            };
            self.send(claim, admitted, directed, before, turn);
        }
    }

    /// Offers a parcel for one target.
    pub(super) fn send(
        &mut self,
        claim: &Claim,
        admitted: &Arc<Admitted>,
        directed: Directed,
        before: &Before,
        turn: &mut Turn<'_>,
    ) {
        let table = turn.routing.table;
        let Directed { target, slot, rule } = directed;
        let parcel = stamp(
            admitted,
            Stamp {
                lineage: table.lineage(),
                epoch: table.epoch(),
                revision: table.revision(),
                to: &target.unit,
                slot,
                why: target.why,
                address: target.address,
            },
        );
        self.offer_routed(claim, admitted, parcel, rule, before, turn);
    }

    /// Gives a message back to its publishers, through this unit's own receiver. When nobody takes it there it is parked,
    /// as whatever can't be delivered.
    fn give_back(
        &mut self,
        claim: &Claim,
        admitted: &Arc<Admitted>,
        reason: Reason,
        rule: Option<RuleName>,
        before: &Before,
        turn: &mut Turn<'_>,
    ) {
        let Routing {
            table,
            source,
            keys,
        } = turn.routing;
        let stamp = Stamp {
            lineage: table.lineage(),
            epoch: table.epoch(),
            revision: table.revision(),
            to: &self.settings.here,
            slot: None,
            why: Why::Local,
            address: Address {
                exchange: source.returns_for(reason).cloned().unwrap_or_default(),
                routing_key: admitted.message.address.routing_key.clone(),
            },
        };
        match give_back(admitted, reason, rule.as_ref(), keys, stamp) {
            Ok(parcel) => self.offer_routed(claim, admitted, parcel, rule, before, turn),
            Err(error) => {
                let parked = parked(admitted, Reason::Malformed, rule);
                let cause = format!("its properties: {error}");
                self.park(claim, &parked, cause, turn);
            }
        }
    }

    fn offer_routed(
        &mut self,
        claim: &Claim,
        admitted: &Arc<Admitted>,
        mut parcel: Parcel,
        rule: Option<RuleName>,
        before: &Before,
        turn: &mut Turn<'_>,
    ) {
        parcel.sent_before |= before.sent;
        let origin = Origin {
            admitted: Arc::clone(admitted),
            rule,
            moves: before.moves,
        };
        self.offer_to_unit(claim, parcel, origin, turn);
    }

    /// Offers a parcel directly, or through the diversion that it has to follow. What a drain brings goes directly.
    fn offer_to_unit(
        &mut self,
        claim: &Claim,
        parcel: Parcel,
        origin: Origin,
        turn: &mut Turn<'_>,
    ) {
        if let Some(ledger) = self.ledger_of(&claim.feed) {
            ledger.wait_for(claim.entry);
        }
        let offered = Offered {
            claim: Some(claim.clone()),
            detour: None,
            parcel,
            taken: turn.at.now,
            since: turn.at.now,
            origin: Some(origin),
        };
        match claim.feed {
            Feed::Source => self.go(offered, turn),
            Feed::Diversion(_) => self.go_directly(offered, turn),
        }
    }

    /// Offers a parcel to its unit, or through the diversion that it has to follow.
    pub(super) fn go(&mut self, offered: Offered, turn: &mut Turn<'_>) {
        let (table, parcel) = (turn.routing.table, &offered.parcel);
        if parcel.epoch != table.epoch() {
            // It was held meanwhile: its slot may have another seat.
            return self.route_again(offered, turn);
        }
        if let Some(unit) = self.followed_by(parcel, table) {
            self.divert(&unit, offered, turn);
        } else if table.is_fenced(parcel.slot, parcel.why, &parcel.to) {
            let unit = parcel.to.clone();
            self.fence(&unit, turn);
            self.divert(&unit, offered, turn);
        } else {
            self.go_directly(offered, turn);
        }
    }

    /// Routes what was routed before, by the table as it is now.
    pub(super) fn route_again(&mut self, offered: Offered, turn: &mut Turn<'_>) {
        let (Some(claim), Some(origin)) = (offered.claim, offered.origin) else {
            debug_assert!(false, "what goes to a unit was routed to it");
            return;
        };
        let parcel = offered.parcel;
        let before = Before {
            copy_for: (!follows_its_slot(parcel.why)).then_some(parcel.to),
            sent: parcel.sent_before,
            moves: origin.moves,
        };
        self.dispatch(&claim, &origin.admitted, &before, turn);
        if let Some(ledger) = self.ledger_of(&claim.feed) {
            ledger.answered(claim.entry);
        }
    }

    fn go_directly(&mut self, offered: Offered, turn: &mut Turn<'_>) {
        let target = Target::Unit(offered.parcel.to.clone());
        self.offer(&target, offered, turn);
    }

    pub(super) fn wrapping<'a>(&'a self, turn: &Turn<'a>) -> Wrapping<'a> {
        Wrapping {
            keys: turn.routing.keys,
            from: &self.settings.here,
            source: &self.settings.source,
            at: turn.at.unix_seconds,
        }
    }

    pub(super) fn parked_as_it_is(&self, message: Message, reason: Reason) -> Stored {
        Stored {
            id: None,
            path: vec![self.settings.here.clone()],
            round: Round(1),
            retry: Retry(0),
            user_id: user_id_of(&message.properties),
            replay_for: None,
            message,
            kept: Kept::Parked { reason, rule: None },
        }
    }

    pub(super) fn park(
        &mut self,
        claim: &Claim,
        parked: &Stored,
        cause: String,
        turn: &mut Turn<'_>,
    ) {
        let table = turn.routing.table;
        let here = &self.settings.here;
        let (properties, body) = wrap(parked, self.wrapping(turn));
        if let Kept::Parked { reason, .. } = parked.kept {
            turn.note(Note::Parking { reason, cause });
        }
        let parcel = own_parcel(table, parked, here, park_address(table), properties, body);
        if let Some(ledger) = self.ledger_of(&claim.feed) {
            ledger.wait_for(claim.entry);
        }
        let offered = Offered {
            claim: Some(claim.clone()),
            detour: None,
            parcel,
            taken: turn.at.now,
            since: turn.at.now,
            origin: None,
        };
        self.offer(&Target::Park, offered, turn);
    }
}

/// A parcel for a queue of the lane's own.
pub(super) fn own_parcel(
    table: &Table,
    stored: &Stored,
    here: &UnitId,
    address: Address,
    properties: RawProperties,
    body: Bytes,
) -> Parcel {
    let (slot, sent_before) = match &stored.kept {
        Kept::Parked { .. } => (None, stored.message.redelivered),
        // What has been sent is said inside; this says whether the diversion may have it.
        Kept::Diverted(diverted) => (diverted.slot, false),
        Kept::Replayed | Kept::Marker { .. } => (None, false),
    };
    Parcel {
        number: ParcelNumber(0),
        lineage: table.lineage().clone(),
        epoch: table.epoch(),
        revision: table.revision(),
        id: stored.id.clone(),
        round: stored.round,
        retry: stored.retry,
        slot,
        why: Why::Local,
        to: here.clone(),
        address,
        properties,
        body,
        sent_before,
        marking: Marking::Done,
    }
}

pub(super) fn parked(admitted: &Admitted, reason: Reason, rule: Option<RuleName>) -> Stored {
    Stored {
        message: admitted.message.clone(),
        id: admitted.id.clone(),
        path: admitted.path.clone(),
        round: admitted.round,
        retry: admitted.retry,
        user_id: admitted.user_id.clone(),
        replay_for: admitted.replay_for.clone(),
        kept: Kept::Parked { reason, rule },
    }
}

/// The exchange in front of an own queue has the queue's name.
pub(super) fn own_address(queue: String) -> Address {
    let queue = Bytes::from(queue);
    Address {
        exchange: queue.clone(),
        routing_key: queue,
    }
}

pub(super) fn park_address(table: &Table) -> Address {
    own_address(own_queues::park(table.space()))
}
