//! The lane: deliveries in, parcels out, answers in, settlements out.
//!
//! Owns the ledger and an outlet for each target. Promises that a delivery is settled once, after every target has
//! answered for good; that what a target returns or refuses is parked and never settled as if it had arrived; that
//! parcels for one target stay in the order of the queue. Never talks to a broker, never reads a clock.

use super::action::{Action, LaneSettings, Moment, Note, Routing, Target};
use super::envelope::{Admission, Admitted, Envelope, user_id_of};
use super::give_back::give_back;
use super::ledger::{EntryId, Ledger};
use super::outlet::{Offered, Origin, Outlet, OutletView};
use super::park::{LargeParcel, Parked, Parking, wrap, wrap_large};
use super::stamp::{Stamp, stamp};
use crate::amqp::RawValue;
use crate::model::marks::X_SET_REASON;
use crate::model::{
    Address, Answer, DeliveryTag, Message, MessageId, Parcel, ParcelNumber, Reason, Retry, Round,
    RuleName, SealKeys, Why, own_queues,
};
use crate::routing::{Outcome, Table, Unrecorded};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// See the file's head.
#[derive(Debug)]
pub struct Lane {
    settings: LaneSettings,
    ledger: Ledger,
    outlets: BTreeMap<Target, Outlet>,
    /// Of the ledger's entries, those whose bodies are being parked in pieces.
    large: BTreeSet<EntryId>,
}

impl Lane {
    /// An empty lane: of one consumer on one channel, whose end is the lane's end.
    pub fn new(settings: LaneSettings) -> Self {
        Self {
            settings,
            ledger: Ledger::default(),
            outlets: BTreeMap::new(),
            large: BTreeSet::new(),
        }
    }

    /// Whether it takes another delivery now.
    pub fn has_room(&self) -> bool {
        self.ledger.is_empty()
            || (self.ledger.len() < self.settings.window.deliveries
                && self.ledger.cost_bytes() < self.settings.window.bytes)
    }

    /// Deliveries that are not settled.
    pub fn in_flight(&self) -> usize {
        self.ledger.len()
    }

    /// Bytes that they count for.
    pub fn cost_bytes(&self) -> usize {
        self.ledger.cost_bytes()
    }

    /// When the oldest of them was taken.
    pub fn oldest(&self) -> Option<Instant> {
        self.ledger.oldest()
    }

    /// What the status page says of each target.
    pub fn views(&self) -> impl Iterator<Item = (&Target, OutletView)> {
        self.outlets
            .iter()
            .map(|(target, outlet)| (target, outlet.view()))
    }

    /// Takes a delivery in, routes it, and offers its parcels.
    pub fn take(
        &mut self,
        tag: DeliveryTag,
        message: Message,
        routing: Routing<'_>,
        at: Moment,
    ) -> Vec<Action> {
        let mut actions = vec![Action::Note(Note::Received)];
        let entry = self.ledger.open(tag, cost_bytes(&message), at.now);
        self.route(entry, message, routing, at, &mut actions);
        self.ledger.close(entry);
        self.settle(&mut actions);
        self.check_invariants();
        actions
    }

    /// Takes a delivery in whose body is above `message_max` and comes in pieces. Gives what goes into the park queue in
    /// front of them; the delivery is settled when all of it is there, see [`Lane::large_parked`]. Others may be taken
    /// meanwhile: what is parked keeps nobody waiting, though their acknowledgement waits for its own.
    pub fn take_large(
        &mut self,
        tag: DeliveryTag,
        message: Message,
        body_bytes: u64,
        routing: Routing<'_>,
        at: Moment,
    ) -> (Vec<Action>, LargeParcel) {
        let reason = Reason::TooLarge;
        let max = self.settings.limits.body_bytes_max;
        let cause = format!("its body has {body_bytes} bytes, message_max is {max}");
        let actions = vec![
            Action::Note(Note::Received),
            Action::Note(Note::Parking { reason, cause }),
        ];
        // Its body counts for nothing: no more of it than a piece is ever held.
        let entry = self.ledger.open(tag, OVERHEAD_BYTES, at.now);
        self.ledger.wait_for(entry);
        self.ledger.close(entry);
        self.large.insert(entry);
        let Routing { table, keys, .. } = routing;
        let parked = self.parked_as_it_is(message, reason);
        let parking = self.parking(keys, at);
        let (properties, prefix, body_bytes) = wrap_large(&parked, body_bytes, parking);
        let parcel = LargeParcel {
            entry,
            address: park_address(table),
            properties,
            prefix,
            body_bytes,
        };
        self.check_invariants();
        (actions, parcel)
    }

    /// The park queue has a large message, to its last byte.
    pub fn large_parked(&mut self, entry: EntryId) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.large.remove(&entry) {
            self.ledger.answered(entry);
            actions.push(Action::Note(Note::Parked {
                reason: Reason::TooLarge,
            }));
        }
        self.settle(&mut actions);
        self.check_invariants();
        actions
    }

    /// There is a stream to a target, with this credit.
    pub fn stream_up(&mut self, target: &Target, credit_bytes: usize, credit_parcels: usize) {
        if let Some(outlet) = self.outlets.get_mut(target) {
            outlet.up(credit_bytes, credit_parcels);
        }
        self.check_invariants();
    }

    /// There is none.
    pub fn stream_down(&mut self, target: &Target, cause: String) {
        if let Some(outlet) = self.outlets.get_mut(target) {
            outlet.down(cause);
        }
        self.check_invariants();
    }

    /// The next parcel that may go to a target now.
    pub fn next_to_send(&mut self, target: &Target, now: Instant) -> Option<Parcel> {
        self.outlets.get_mut(target)?.next_to_send(now)
    }

    /// Takes a target's answers in.
    pub fn answered(
        &mut self,
        target: &Target,
        answers: Vec<(ParcelNumber, Answer)>,
        routing: Routing<'_>,
        at: Moment,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        for (number, answer) in answers {
            let answer = on_trial(target, answer);
            let offered = self
                .outlets
                .get_mut(target)
                .and_then(|outlet| outlet.answer(number, &answer));
            if let Some(offered) = offered {
                self.finish(target, offered, answer, routing, at, &mut actions);
            }
        }
        if self.outlets.get(target).is_some_and(Outlet::is_closing) {
            actions.push(Action::Close(target.clone()));
        }
        self.settle(&mut actions);
        self.check_invariants();
        actions
    }

    fn route(
        &mut self,
        entry: EntryId,
        message: Message,
        routing: Routing<'_>,
        at: Moment,
        actions: &mut Vec<Action>,
    ) {
        let Routing {
            table,
            source,
            keys,
        } = routing;
        let limits = self.settings.limits;
        let envelope = match Envelope::decode(message, &self.settings.duplicates, keys, limits) {
            Ok(envelope) => envelope,
            Err(unread) => {
                let (message, unreadable) = *unread;
                let parked = self.parked_as_it_is(message, unreadable.reason);
                return self.park(entry, &parked, unreadable.cause, routing, at, actions);
            }
        };
        if envelope.has_refused_marks() {
            actions.push(Action::Note(Note::SealRefused));
        }
        let admitted = match envelope.admit(&self.settings.here, keys, limits) {
            Admission::CopyOfOurs => return,
            Admission::TooManyRounds(admitted) => {
                let cause = format!("hops_max is {}", limits.rounds_max);
                let parked = parked(&admitted, Reason::Hops, None);
                return self.park(entry, &parked, cause, routing, at, actions);
            }
            Admission::Go(admitted) => Arc::new(admitted),
        };
        let decision = table.route(
            source,
            &self.settings.here,
            &admitted.path,
            &admitted.message,
            &mut Unrecorded,
        );
        match decision.outcome {
            Outcome::Drop(reason) => actions.push(Action::Note(Note::Dropped { reason })),
            Outcome::Park(reason) if source.returns_for(reason).is_some() => {
                self.give_back(entry, admitted, reason, decision.rule, routing, at, actions);
            }
            Outcome::Park(reason) => {
                let parked = parked(&admitted, reason, decision.rule);
                self.park(
                    entry,
                    &parked,
                    "by the decision".to_owned(),
                    routing,
                    at,
                    actions,
                );
            }
            Outcome::Deliver(targets) => {
                for target in targets {
                    let to = Target::Unit(target.unit.clone());
                    let number = self.outlet(&to, actions).next_number();
                    let stamped = stamp(
                        &admitted,
                        Stamp {
                            keys,
                            lineage: table.lineage(),
                            epoch: table.epoch(),
                            revision: table.revision(),
                            from: &self.settings.here,
                            to: &target.unit,
                            slot: decision.slot,
                            why: target.why,
                            address: target.address,
                        },
                        number,
                    );
                    let rule = decision.rule.clone();
                    let parcel = match stamped {
                        Ok(parcel) => parcel,
                        Err(error) => {
                            let parked = parked(&admitted, Reason::Malformed, rule);
                            let cause = format!("its properties: {error}");
                            self.park(entry, &parked, cause, routing, at, actions);
                            continue;
                        }
                    };
                    let origin = Origin {
                        admitted: Arc::clone(&admitted),
                        rule,
                    };
                    self.offer(&to, entry, parcel, at, Some(origin), actions);
                }
            }
        }
    }

    /// Gives a message back to its publishers, through this unit's own receiver. When nobody takes it there it is parked,
    /// as whatever can't be delivered.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call in the middle of one event"
    )]
    fn give_back(
        &mut self,
        entry: EntryId,
        admitted: Arc<Admitted>,
        reason: Reason,
        rule: Option<RuleName>,
        routing: Routing<'_>,
        at: Moment,
        actions: &mut Vec<Action>,
    ) {
        let Routing {
            table,
            source,
            keys,
        } = routing;
        let here = self.settings.here.clone();
        let to = Target::Unit(here.clone());
        let number = self.outlet(&to, actions).next_number();
        let stamp = Stamp {
            keys,
            lineage: table.lineage(),
            epoch: table.epoch(),
            revision: table.revision(),
            from: &here,
            to: &here,
            slot: None,
            why: Why::Local,
            address: Address {
                exchange: source.returns_for(reason).cloned().unwrap_or_default(),
                routing_key: admitted.message.address.routing_key.clone(),
            },
        };
        match give_back(&admitted, reason, rule.as_ref(), stamp, number) {
            Ok(parcel) => {
                let origin = Origin { admitted, rule };
                self.offer(&to, entry, parcel, at, Some(origin), actions);
            }
            Err(error) => {
                let parked = parked(&admitted, Reason::Malformed, rule);
                let cause = format!("its properties: {error}");
                self.park(entry, &parked, cause, routing, at, actions);
            }
        }
    }

    fn offer(
        &mut self,
        target: &Target,
        entry: EntryId,
        parcel: Parcel,
        at: Moment,
        origin: Option<Origin>,
        actions: &mut Vec<Action>,
    ) {
        self.ledger.wait_for(entry);
        self.outlet(target, actions).offer(Offered {
            entry,
            parcel,
            taken: at.now,
            origin,
        });
    }

    fn outlet(&mut self, target: &Target, actions: &mut Vec<Action>) -> &mut Outlet {
        self.outlets.entry(target.clone()).or_insert_with(|| {
            actions.push(Action::Open(target.clone()));
            Outlet::new()
        })
    }

    /// A target's word on a parcel is final.
    fn finish(
        &mut self,
        target: &Target,
        offered: Offered,
        answer: Answer,
        routing: Routing<'_>,
        at: Moment,
        actions: &mut Vec<Action>,
    ) {
        let Offered {
            entry,
            parcel,
            taken,
            origin,
        } = offered;
        let note = match (target, answer) {
            (Target::Unit(to), Answer::Accepted) => Some(Note::Delivered {
                to: to.clone(),
                transit: at.now.saturating_duration_since(taken),
            }),
            (Target::Unit(to), Answer::Duplicate) => Some(Note::Duplicate { to: to.clone() }),
            (Target::Unit(to), Answer::Returned) => {
                let cause = format!("nothing is bound at its address in {to}");
                self.park_undelivered(
                    entry,
                    origin,
                    Reason::Unroutable,
                    cause,
                    routing,
                    at,
                    actions,
                );
                None
            }
            (Target::Unit(to), Answer::Refused { reason, cause }) => {
                let cause = format!("{to} refused it: {cause}");
                self.park_undelivered(entry, origin, reason, cause, routing, at, actions);
                None
            }
            (Target::Park, Answer::Accepted | Answer::Duplicate) => Some(Note::Parked {
                reason: parked_reason(&parcel),
            }),
            // The outlet keeps what is to come later.
            (Target::Park, Answer::Returned | Answer::Refused { .. })
            | (_, Answer::Moved | Answer::Later { .. }) => None,
        };
        self.ledger.answered(entry);
        actions.extend(note.map(Action::Note));
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one call in the middle of one event"
    )]
    fn park_undelivered(
        &mut self,
        entry: EntryId,
        origin: Option<Origin>,
        reason: Reason,
        cause: String,
        routing: Routing<'_>,
        at: Moment,
        actions: &mut Vec<Action>,
    ) {
        let Some(Origin { admitted, rule }) = origin else {
            return;
        };
        self.park(
            entry,
            &parked(&admitted, reason, rule),
            cause,
            routing,
            at,
            actions,
        );
    }

    fn parked_as_it_is(&self, message: Message, reason: Reason) -> Parked {
        Parked {
            id: None,
            path: vec![self.settings.here.clone()],
            round: Round(1),
            retry: Retry(0),
            user_id: user_id_of(&message.properties),
            message,
            reason,
            rule: None,
        }
    }

    fn parking<'a>(&'a self, keys: &'a SealKeys, at: Moment) -> Parking<'a> {
        Parking {
            keys,
            from: &self.settings.here,
            source: &self.settings.source,
            at: at.unix_seconds,
        }
    }

    fn park(
        &mut self,
        entry: EntryId,
        parked: &Parked,
        cause: String,
        routing: Routing<'_>,
        at: Moment,
        actions: &mut Vec<Action>,
    ) {
        let Routing { table, keys, .. } = routing;
        let (properties, body) = wrap(parked, self.parking(keys, at));
        let number = self.outlet(&Target::Park, actions).next_number();
        let parcel = Parcel {
            number,
            lineage: table.lineage().clone(),
            epoch: table.epoch(),
            revision: table.revision(),
            id: parked.id.clone(),
            round: parked.round,
            retry: parked.retry,
            slot: None,
            why: Why::Local,
            to: self.settings.here.clone(),
            address: park_address(table),
            properties,
            body,
            sent_before: parked.message.redelivered,
        };
        actions.push(Action::Note(Note::Parking {
            reason: parked.reason,
            cause,
        }));
        self.offer(&Target::Park, entry, parcel, at, None, actions);
    }

    fn settle(&mut self, actions: &mut Vec<Action>) {
        actions.extend(self.ledger.settle().map(Action::Acknowledge));
    }

    fn check_invariants(&self) {
        if cfg!(debug_assertions) {
            self.outlets.values().for_each(Outlet::check_invariants);
            let unanswered: usize = self.outlets.values().map(Outlet::unanswered).sum();
            debug_assert_eq!(
                unanswered + self.large.len(),
                self.ledger.waiting(),
                "every parcel has its entry"
            );
        }
    }
}

fn parked(admitted: &Admitted, reason: Reason, rule: Option<RuleName>) -> Parked {
    Parked {
        message: admitted.message.clone(),
        id: admitted.id.clone() as Option<MessageId>,
        path: admitted.path.clone(),
        round: admitted.round,
        retry: admitted.retry,
        reason,
        rule,
        user_id: admitted.user_id.clone(),
    }
}

/// There is nowhere to go from the park: what it doesn't take is tried again, in sight of the status page, never settled.
fn on_trial(target: &Target, answer: Answer) -> Answer {
    match (target, answer) {
        (Target::Park, Answer::Returned) => Answer::Later {
            cause: "nothing is bound to the exchange of the park queue".to_owned(),
        },
        (Target::Park, Answer::Refused { cause, .. }) => Answer::Later { cause },
        (_, answer) => answer,
    }
}

/// The exchange in front of the park queue has the queue's name.
fn park_address(table: &Table) -> Address {
    let queue = Bytes::from(own_queues::park(table.space()));
    Address {
        exchange: queue.clone(),
        routing_key: queue,
    }
}

fn parked_reason(parcel: &Parcel) -> Reason {
    parcel
        .properties
        .header(X_SET_REASON)
        .and_then(RawValue::as_bytes)
        .and_then(Reason::from_word)
        .unwrap_or(Reason::Malformed)
}

/// A flat allowance for what a message takes besides its body; the same as a parcel's.
const OVERHEAD_BYTES: usize = 1_024;

/// What a message counts for in a lane's window.
fn cost_bytes(message: &Message) -> usize {
    message.body.len() + OVERHEAD_BYTES
}
