//! Out of a diversion: what is consumed of it is routed anew, until the way is direct again.

use super::super::action::{Action, Moment, Note, Routing, Target};
use super::super::diversion::{Diversion, HOLD_BELOW, Order, PATIENCE, Place, follows_its_slot};
use super::super::envelope::Admitted;
use super::super::expiration::remaining;
use super::super::ledger::{EntryId, Ledger};
use super::super::outlet::{Claim, Feed, Outlet};
use super::super::park::Kept;
use super::super::unwrap::{Unwrapped, unwrap};
use super::route::Before;
use super::{Lane, Turn, cost_bytes};
use crate::amqp::{Edit, TextProperty};
use crate::model::{DeliveryTag, Message, Reason, Slot, UnitId};
use crate::routing::{Table, Target as Whither};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// While another target's oldest message waits for longer, a drain gives way.
const OTHERS_WAIT: Duration = Duration::from_millis(200);

/// What a drain has brought and may not go on yet.
#[derive(Debug)]
pub(super) struct Waiting {
    claim: Claim,
    admitted: Arc<Admitted>,
    before: Before,
}

impl Lane {
    /// Whether another message of the diversion of this unit may be taken now.
    pub fn drain_has_room(&self, unit: &UnitId, now: Instant) -> bool {
        let drained: usize = self.drains().map(Ledger::cost_bytes).sum();
        !self.stopping
            && !self.waiting.contains_key(unit)
            && (drained == 0 || drained * 2 < self.settings.window.bytes)
            && self
                .diversions
                .get(unit)
                .is_some_and(|diversion| diversion.drain_has_room(now))
    }

    /// Takes a message of a diversion in, and routes it anew.
    pub fn take_diverted(
        &mut self,
        unit: &UnitId,
        tag: DeliveryTag,
        message: Message,
        routing: Routing<'_>,
        at: Moment,
    ) -> Vec<Action> {
        let mut turn = Turn::new(routing, at);
        self.follow_seats(&mut turn);
        let Some(drain) = self.diversions.get_mut(unit).and_then(|diversion| {
            diversion.took(at.now);
            diversion.drain_mut()
        }) else {
            return Vec::new();
        };
        drain.runs = true;
        if drain.ledger.is_empty() {
            drain.progress = at.now;
        }
        let claim = Claim {
            feed: Feed::Diversion(unit.clone()),
            entry: drain.ledger.open(tag, cost_bytes(&message), at.now),
        };
        let unwrapped = unwrap(&message, routing.keys);
        // What can't be read has no order: it goes nowhere but into the park.
        let order = unwrapped.as_ref().map_or(None, |one| order(&one.kept));
        drain.orders.push_back(order.unwrap_or_default());
        drain.taken = order.or(drain.taken);
        let place = match unwrapped {
            Ok(unwrapped) => self.take_unwrapped(unit, &claim, tag, unwrapped, &mut turn),
            Err(error) => {
                let parked = self.parked_as_it_is(message, Reason::Malformed);
                let cause = format!("in the diversion of {unit}: {error}");
                self.park(&claim, &parked, cause, &mut turn);
                None
            }
        };
        if let Some(drain) = self.diversions.get_mut(unit).and_then(Diversion::drain_mut) {
            drain.places.push_back(place);
            drain.ledger.close(claim.entry);
        }
        // Another drain may have waited to hear what this one brings.
        if self.waiting.keys().any(|other| other != unit) {
            self.take_up_waiting(&mut turn);
        }
        self.end(turn)
    }

    /// The consumer of a diversion has ended by itself.
    pub fn drain_lost(&mut self, unit: &UnitId, routing: Routing<'_>, at: Moment) -> Vec<Action> {
        let mut turn = Turn::new(routing, at);
        self.give_up_drain(unit, &mut turn);
        self.end(turn)
    }

    /// What is due of one diversion.
    pub(super) fn tend(&mut self, unit: &UnitId, turn: &mut Turn<'_>) {
        let now = turn.at.now;
        let is_up = self
            .outlets
            .get(&Target::Unit(unit.clone()))
            .is_some_and(Outlet::is_up);
        let others_wait = self.outlets.iter().any(|(target, outlet)| {
            let waits = |since| now.saturating_duration_since(since) >= OTHERS_WAIT;
            *target != Target::Diversion(unit.clone())
                && outlet.oldest_from_source().is_some_and(waits)
        });
        let way_in = self.outlets.get(&Target::Diversion(unit.clone()));
        let waited = way_in.and_then(|outlet| outlet.overdue(now));
        let is_in = way_in.is_none_or(Outlet::is_empty);
        let has_others = self.has_others(unit, now);
        let quarter = self.budget() / 4;
        if is_up && waited.is_some_and(|waited| waited >= PATIENCE) {
            self.take_back(unit, turn);
        }
        let Some(diversion) = self.diversions.get_mut(unit) else {
            return;
        };
        diversion.adapt(now, others_wait);
        if diversion.is_behind() {
            return self.catch_up(unit, turn);
        }
        if diversion.is_stalled(now) {
            return self.give_up_drain(unit, turn);
        }
        if diversion.is_over(now) {
            if self
                .diversions
                .remove(unit)
                .is_some_and(|one| one.drain().is_some())
            {
                turn.actions.push(Action::Undrain(unit.clone()));
            }
            return;
        }
        if is_in && diversion.misses_its_marker(now) {
            return self.put_marker(unit, turn);
        }
        let revision = turn.routing.table.revision();
        if !self.stopping && diversion.begin_drain(is_up, revision, now) {
            turn.actions.push(Action::Drain(unit.clone()));
        }
        // Where nobody waits behind what is held, or not for long, a backlog that followed would keep the detour going until it
        // is through.
        let held_max = if has_others && !diversion.ends_soon() {
            quarter
        } else {
            usize::MAX
        };
        if diversion.has_held_enough(held_max, now) {
            self.put_held_in(unit, turn);
        } else if !self.stopping {
            let hold_below = if has_others { HOLD_BELOW } else { u64::MAX };
            diversion.consider_holding(hold_below, now);
        }
    }

    /// Settles what drains have brought, and ends the diversions that are through.
    pub(super) fn settle_drains(&mut self, turn: &mut Turn<'_>) {
        let now = turn.at.now;
        for (unit, diversion) in &mut self.diversions {
            if let Some(settled) = diversion.settle(now) {
                let feed = Feed::Diversion(unit.clone());
                turn.actions.push(Action::Acknowledge(feed, settled));
            }
        }
        let through: Vec<_> = self
            .diversions
            .iter()
            .filter(|(_, diversion)| diversion.is_active() && diversion.is_through())
            .map(|(unit, _)| unit.clone())
            .collect();
        for unit in through {
            self.end_diversion(&unit, turn);
        }
    }

    /// All that went in has come out and is answered: what was held goes on directly.
    fn end_diversion(&mut self, unit: &UnitId, turn: &mut Turn<'_>) {
        let Some(diversion) = self.diversions.get_mut(unit) else {
            return;
        };
        diversion.deactivate(turn.at.now);
        let held = diversion.release(turn.at.now);
        turn.note(Note::Drained { to: unit.clone() });
        for mut offered in held {
            // Its unit had no chance to answer so far.
            offered.since = turn.at.now;
            self.go(offered, turn);
        }
    }

    /// Whether what was drained may not go on yet: its slot is being moved, or messages of it from before may lie in
    /// another diversion; or others wait in front of it.
    pub(super) fn must_wait(
        &self,
        unit: &UnitId,
        claim: &Claim,
        slot: Option<Slot>,
        targets: &[Whither],
        table: &Table,
    ) -> bool {
        let order = self.order_of(unit, claim.entry);
        // In the diversions of its seat and of the one before there may be what went in earlier. What went in first of all
        // that they have never waits for another.
        let may_hold_older = |other: &UnitId| {
            let diversion = self.diversions.get(other).filter(|_| other != unit);
            let waits = self.waiting.get(other).and_then(VecDeque::front);
            let waits = waits.map(|first| self.order_of(other, first.claim.entry));
            diversion.is_some_and(|one| one.may_hold_older(order, waits))
        };
        let former = slot.and_then(|slot| table.seat_before(slot));
        // What was routed before and comes back is older than what has come to wait since.
        let in_front = self.waiting.get(unit).and_then(VecDeque::front);
        in_front.is_some_and(|first| first.claim.entry < claim.entry)
            || targets.iter().any(|target| {
                follows_its_slot(target.why)
                    && (table.is_fenced(slot, target.why, &target.unit)
                        || may_hold_older(&target.unit)
                        || former.is_some_and(may_hold_older))
            })
    }

    /// When what a drain has brought went into the diversion of this unit.
    fn order_of(&self, unit: &UnitId, entry: EntryId) -> Order {
        let drain = self.diversions.get(unit).and_then(Diversion::drain);
        let order = drain.and_then(|drain| {
            let at = drain.ledger.in_front_of(entry)?;
            drain.orders.get(at).copied()
        });
        order.unwrap_or_default()
    }

    /// Keeps it, in the order in which the drain brought it, and whatever that would bring behind it.
    pub(super) fn wait(
        &mut self,
        unit: &UnitId,
        claim: &Claim,
        admitted: &Arc<Admitted>,
        before: &Before,
    ) {
        if let Some(ledger) = self.ledger_of(&claim.feed) {
            ledger.wait_for(claim.entry);
        }
        let waiting = Waiting {
            claim: claim.clone(),
            admitted: Arc::clone(admitted),
            before: before.clone(),
        };
        let queue = self.waiting.entry(unit.clone()).or_default();
        let at = queue.partition_point(|one| one.claim.entry < claim.entry);
        queue.insert(at, waiting);
    }

    /// Sends on what waited, as far as it may go now: one that goes may have been what another waited for.
    pub(super) fn take_up_waiting(&mut self, turn: &mut Turn<'_>) {
        loop {
            let waited = self.waits();
            self.try_waiting(turn);
            if self.waits() == 0 || self.waits() == waited {
                return;
            }
        }
    }

    fn waits(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    fn try_waiting(&mut self, turn: &mut Turn<'_>) {
        let units: Vec<_> = self.waiting.keys().cloned().collect();
        for unit in units {
            // The others stay: what is tried looks at them.
            for waiting in self.waiting.remove(&unit).unwrap_or_default() {
                let Waiting {
                    claim,
                    admitted,
                    before,
                } = waiting;
                self.dispatch(&claim, &admitted, &before, turn);
                if let Some(ledger) = self.ledger_of(&claim.feed) {
                    ledger.answered(claim.entry);
                }
            }
        }
    }

    /// What was taken of a diversion comes again, from the oldest.
    pub(super) fn give_up_drain(&mut self, unit: &UnitId, turn: &mut Turn<'_>) {
        let Some(diversion) = self.diversions.get_mut(unit) else {
            return;
        };
        if diversion.end_drain(turn.at.now) {
            self.waiting.remove(unit);
            let feed = Feed::Diversion(unit.clone());
            for (target, outlet) in &mut self.outlets {
                let taken_out = outlet.take_out(&feed);
                // What the receiver has and hasn't answered counts against the credit there, which isn't known here any more.
                if taken_out.iter().any(|offered| offered.parcel.sent_before)
                    && outlet.close("a drain was given up while its messages were under way")
                {
                    turn.actions.push(Action::Close(target.clone()));
                }
            }
            turn.actions.push(Action::Undrain(unit.clone()));
            if self.is_found(unit) {
                // What others have brought since is behind what comes again.
                let found = self.diversions.iter().filter(|(_, one)| one.is_found());
                let others: Vec<_> = found.map(|(other, _)| other.clone()).collect();
                for other in others {
                    self.give_up_drain(&other, turn);
                }
            }
        }
    }

    /// Its place, where this lane has put it there.
    fn take_unwrapped(
        &mut self,
        unit: &UnitId,
        claim: &Claim,
        tag: DeliveryTag,
        unwrapped: Unwrapped,
        turn: &mut Turn<'_>,
    ) -> Option<Place> {
        let Unwrapped {
            message,
            id,
            path,
            round,
            retry,
            user_id,
            replay_for,
            at,
            kept,
            from: _,
            source: _,
        } = unwrapped;
        let diverted = match kept {
            Kept::Diverted(diverted) => diverted,
            Kept::Marker {
                incarnation,
                number,
            } => {
                let diversion = self.diversions.get_mut(unit)?;
                if incarnation == self.settings.incarnation && diversion.is_its_end(number) {
                    diversion.drain_mut()?.marker = Some(tag);
                }
                return None;
            }
            Kept::Parked { .. } | Kept::Replayed => {
                let parked = self.parked_as_it_is(message, Reason::Malformed);
                let cause =
                    format!("in the diversion of {unit}: it was put there for something else");
                self.park(claim, &parked, cause, turn);
                return None;
            }
        };
        let is_ours = diverted.incarnation == self.settings.incarnation;
        let diversion = self.diversions.get_mut(unit)?;
        diversion.saw_oldest(at);
        // What was taken back on its way in has gone directly since. Of a former life's only the receiver can tell, by its id.
        let went_otherwise = is_ours && diversion.went_otherwise(diverted.number);
        let place = is_ours.then(|| Place {
            number: diverted.number,
            slot: diverted.slot,
            body_bytes: message.body.len() as u64,
        });
        let before = Before {
            copy_for: (!follows_its_slot(diverted.why)).then_some(diverted.to),
            sent: diverted.sent || message.redelivered || went_otherwise,
            moves: 0,
        };
        let waited = Duration::from_secs(turn.at.unix_seconds.saturating_sub(at));
        let admitted = Admitted {
            message: aged(message, waited),
            id,
            path,
            round,
            retry,
            user_id,
            replay_for,
        };
        self.dispatch(claim, &Arc::new(admitted), &before, turn);
        place
    }
}

fn order(kept: &Kept) -> Option<Order> {
    match kept {
        Kept::Diverted(diverted) => Some(Order {
            incarnation: diverted.incarnation,
            number: diverted.number,
        }),
        Kept::Marker {
            incarnation,
            number,
        } => Some(Order {
            incarnation: *incarnation,
            number: *number,
        }),
        Kept::Parked { .. } | Kept::Replayed => None,
    }
}

/// What waited in a diversion has so much less to live.
fn aged(mut message: Message, waited: Duration) -> Message {
    if let Some(expiration) = message.properties.text(TextProperty::Expiration) {
        let left = remaining(expiration, waited);
        let mut edit = Edit::new();
        edit.set_text(TextProperty::Expiration, &left);
        // What came out of a wrapping can be edited: it stays as it is for the compiler alone.
        if let Ok(properties) = edit.apply(&message.properties) {
            message.properties = properties;
        }
    }
    message
}
