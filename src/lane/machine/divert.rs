//! Into a diversion: which targets are diverted, and what goes in.

use super::super::action::{Action, DivertReason, LaneSettings, Moment, Note, Routing, Target};
use super::super::diversion::{Detour, Diversion, PATIENCE, Place, SILENCE, follows_its_slot};
use super::super::outlet::{Feed, Offered, Origin, Outlet};
use super::super::park::{Diverted, Kept, Stored, wrap};
use super::route::{Before, own_address, own_parcel};
use super::{Lane, Turn};
use crate::amqp::RawProperties;
use crate::model::{Parcel, UnitId, Why, own_queues};
use crate::routing::Table;
use bytes::Bytes;
use std::time::{Duration, Instant};

/// A lane that has had nothing for any other target for so long keeps nobody waiting behind a late one.
const OTHERS: Duration = Duration::from_mins(1);

/// After a diversion took nothing, no target is diverted for being slow alone.
const NO_DETOUR: Duration = Duration::from_secs(30);

impl Lane {
    /// Looks at its targets and diversions; to be called several times a second.
    pub fn tick(&mut self, routing: Routing<'_>, at: Moment) -> Vec<Action> {
        let mut turn = Turn::new(routing, at);
        self.follow_seats(&mut turn);
        let slow: Vec<_> = self
            .outlets
            .iter()
            .filter_map(|(target, outlet)| match target {
                Target::Unit(unit) if !self.is_diverted(unit) => {
                    let (reason, cause) = self.impatience(unit, outlet, at.now)?;
                    Some((unit.clone(), reason, cause))
                }
                Target::Unit(_) | Target::Diversion(_) | Target::Park => None,
            })
            .collect();
        for (unit, reason, cause) in slow {
            self.begin_diversion(&unit, reason, cause, &mut turn);
        }
        let diverted: Vec<_> = self.diversions.keys().cloned().collect();
        for unit in diverted {
            self.tend(&unit, &mut turn);
        }
        self.take_up_waiting(&mut turn);
        self.end(turn)
    }

    /// A former holder of the lane may have left messages in the diversion of this unit: what is for the unit is held, or
    /// follows into it where that takes long, until an end marker has come out.
    pub fn diversion_found(
        &mut self,
        unit: &UnitId,
        routing: Routing<'_>,
        at: Moment,
    ) -> Vec<Action> {
        let mut turn = Turn::new(routing, at);
        if self.diversions.contains_key(unit) {
            return Vec::new();
        }
        let diversion = Diversion::found(self.next_number, at);
        self.diversions.insert(unit.clone(), diversion);
        turn.note(Note::Diverting {
            to: unit.clone(),
            reason: DivertReason::Found,
            cause: "a former holder of the lane may have left messages in it".to_owned(),
        });
        // It is drained when there is a way to its unit.
        self.outlet(&Target::Unit(unit.clone()), &mut turn);
        self.put_marker(unit, &mut turn);
        self.end(turn)
    }

    /// Puts an end marker into a diversion; one that was put before counts no more.
    pub(super) fn put_marker(&mut self, unit: &UnitId, turn: &mut Turn<'_>) {
        let number = self.number();
        if let Some(diversion) = self.diversions.get_mut(unit) {
            diversion.put_marker(number);
        }
        let marker = Stored::marker(self.settings.incarnation, number);
        let (properties, body) = wrap(&marker, self.wrapping(turn));
        let offered = Offered {
            claim: None,
            detour: None,
            parcel: self.diverted_parcel(unit, &marker, properties, body, turn),
            taken: turn.at.now,
            since: turn.at.now,
            origin: None,
        };
        self.offer(&Target::Diversion(unit.clone()), offered, turn);
    }

    /// The lane takes no more and works off what it has: the end is [`Lane::in_flight`] and [`Lane::drains_in_flight`] 0.
    pub fn stop(&mut self, routing: Routing<'_>, at: Moment) -> Vec<Action> {
        let mut turn = Turn::new(routing, at);
        self.stopping = true;
        // What waits for a fence or another diversion is back in its own.
        let waiting: Vec<_> = self.waiting.keys().cloned().collect();
        for unit in waiting {
            self.give_up_drain(&unit, &mut turn);
        }
        let diverted: Vec<_> = self.diversions.keys().cloned().collect();
        for unit in diverted {
            // What waits for what is under way to its unit must not be in the diversion if that comes again.
            if !self.is_behind(&unit) {
                self.put_held_in(&unit, &mut turn);
            }
        }
        self.end(turn)
    }

    /// The diversion that a parcel follows into: the one with earlier messages of its slot, whatever its seat has become
    /// since; one in which a former holder may have left some; else the one of its unit.
    pub(super) fn followed_by(&self, parcel: &Parcel, table: &Table) -> Option<UnitId> {
        if let Some(slot) = parcel.slot.filter(|_| follows_its_slot(parcel.why)) {
            let has = |unit: &UnitId| self.diversions.get(unit).is_some_and(|one| one.has(slot));
            if has(&parcel.to) {
                return Some(parcel.to.clone());
            }
            let mut others = self.diversions.keys();
            if let Some(unit) = others.find(|unit| has(unit)) {
                return Some(unit.clone());
            }
            let before = table.seat_before(slot);
            if let Some(unit) = before.filter(|unit| self.is_found(unit)) {
                return Some(unit.clone());
            }
        }
        self.is_diverted(&parcel.to).then(|| parcel.to.clone())
    }

    /// Whether a former holder's messages may lie in a unit's diversion.
    pub(super) fn is_found(&self, unit: &UnitId) -> bool {
        self.diversions.get(unit).is_some_and(Diversion::is_found)
    }

    /// After a change of seats or rules: what the old ones haven't answered is routed anew, from the oldest on, so that what is new for
    /// the same slots doesn't reach their new seat before it.
    pub(super) fn follow_seats(&mut self, turn: &mut Turn<'_>) {
        let table = turn.routing.table;
        if self.epoch == table.epoch() {
            return;
        }
        self.epoch = table.epoch();
        let by_other_rules = turn.routing.source.changed_at;
        let elsewhere = |unit: &UnitId, parcel: &Parcel| {
            if parcel.epoch < by_other_rules {
                // Its receiver takes no such parcel.
                return true;
            }
            if table.is_from_before(parcel) {
                // Its slot has come back here: what is routed now would be taken, and go past it.
                return true;
            }
            let seat = match parcel.why {
                Why::Owner | Why::Standby => parcel.slot.and_then(|slot| table.seat_of(slot)),
                Why::Center => Some(table.center_seat()),
                // By their key, which a parcel doesn't carry: it leads to a home that has another seat.
                Why::Gray | Why::Pin => Some(table.seats().seat_of(unit)),
                Why::Shared | Why::Units | Why::Local => None,
            };
            seat.is_some_and(|seat| seat != unit)
        };
        let mut left = Vec::new();
        for (target, outlet) in &mut self.outlets {
            let Target::Unit(unit) = target else { continue };
            let taken_out = outlet.take_out_where(|one| elsewhere(unit, &one.parcel));
            if taken_out.iter().any(|offered| offered.parcel.sent_before)
                && outlet.close("its slots have another seat")
            {
                turn.actions.push(Action::Close(target.clone()));
            }
            left.extend(taken_out);
        }
        // What is held for a fence is newer than that.
        let behind = self.diversions.values_mut();
        let behind = behind.filter(|diversion| diversion.is_behind());
        let newer: Vec<_> = behind
            .flat_map(|diversion| diversion.catch_up(turn.at.now))
            .collect();
        for offered in left {
            self.route_again(offered, turn);
        }
        for offered in newer {
            self.go(offered, turn);
        }
    }

    /// Slots that a unit serves are being moved: from now on they go through its diversion.
    pub(super) fn fence(&mut self, unit: &UnitId, turn: &mut Turn<'_>) {
        let reason = DivertReason::Fenced;
        let in_use = self.diversions.get(unit).is_some_and(Diversion::is_active);
        self.activate(unit, reason, turn);
        let outlet = self.outlets.get(&Target::Unit(unit.clone()));
        let table = turn.routing.table;
        let fenced = |parcel: &Parcel| table.is_fenced(parcel.slot, parcel.why, &parcel.to);
        let behind = outlet.is_some_and(|outlet| outlet.count_of_source(fenced) > 0);
        if let Some(diversion) = self.diversions.get_mut(unit).filter(|_| behind)
            && !diversion.takes_all()
        {
            diversion.fall_behind(turn.at.now);
        }
        if !in_use {
            turn.note(Note::Diverting {
                to: unit.clone(),
                reason,
                cause: format!("slots {} are being moved", turn.routing.table.fenced()),
            });
        }
    }

    /// Puts a parcel into a diversion, or holds it where the end of that is near.
    pub(super) fn divert(&mut self, unit: &UnitId, offered: Offered, turn: &mut Turn<'_>) {
        let diversion = self.diversions.get_mut(unit);
        let due = match diversion {
            Some(diversion) if !self.stopping || diversion.is_behind() => diversion.hold(offered),
            Some(_) | None => Some(offered),
        };
        if let Some(offered) = due {
            self.put_in(unit, offered, turn);
        }
    }

    /// What was held goes in after all.
    pub(super) fn put_held_in(&mut self, unit: &UnitId, turn: &mut Turn<'_>) {
        let held = self.diversions.get_mut(unit);
        let held = held.map(|diversion| diversion.release(turn.at.now));
        for offered in held.unwrap_or_default() {
            self.put_in(unit, offered, turn);
        }
    }

    fn is_behind(&self, unit: &UnitId) -> bool {
        let diversion = self.diversions.get(unit);
        diversion.is_some_and(Diversion::is_behind)
    }

    fn is_diverted(&self, unit: &UnitId) -> bool {
        let diversion = self.diversions.get(unit);
        diversion.is_some_and(Diversion::takes_all)
    }

    /// Why a target is to be diverted, if it is.
    fn impatience(
        &self,
        unit: &UnitId,
        outlet: &Outlet,
        now: Instant,
    ) -> Option<(DivertReason, String)> {
        let waited = outlet.overdue(now)?;
        let under_way = outlet.of_source();
        let fills_bytes = under_way.bytes * 2 >= self.settings.window.bytes;
        let silent = outlet.silent(now)? >= SILENCE;
        let hinders = |deliveries: usize| {
            (fills_bytes || under_way.parcels * 2 >= deliveries) && self.has_others(unit, now)
        };
        // One that answers and leaves half of the budget to the others hinders nobody, however late it is; a detour would
        // only give the broker more to do when that is what is slow.
        let cause = if waited >= PATIENCE && (silent || !outlet.is_up() || hinders(self.deliveries))
        {
            format!("its oldest message waits for {} ms", waited.as_millis())
        } else if outlet.answers() && silent && hinders(self.budget()) {
            format!(
                "it is silent, and its {} messages fill half of the lane's budget",
                under_way.parcels
            )
        } else {
            return None;
        };
        match outlet.cause() {
            Some(why) => Some((DivertReason::Down, format!("{cause} ({why})"))),
            // A detour through a broker that is slow itself only gives it more to do.
            None if self.no_detour_until.is_some_and(|until| now < until) => None,
            None => Some((DivertReason::Slow, cause)),
        }
    }

    /// Whether the lane has had something for another unit lately.
    pub(super) fn has_others(&self, unit: &UnitId, now: Instant) -> bool {
        self.outlets.iter().any(|(target, outlet)| match target {
            Target::Unit(other) => other != unit && outlet.is_wanted(OTHERS, now),
            Target::Diversion(_) | Target::Park => false,
        })
    }

    /// Takes back what is on its way into a diversion that takes nothing, though there is a way to its unit: it is held
    /// until all that is in there has come out.
    pub(super) fn take_back(&mut self, unit: &UnitId, turn: &mut Turn<'_>) {
        let now = turn.at.now;
        let target = Target::Diversion(unit.clone());
        let (Some(outlet), Some(diversion)) =
            (self.outlets.get_mut(&target), self.diversions.get_mut(unit))
        else {
            return;
        };
        self.no_detour_until = Some(now + NO_DETOUR);
        let behind = diversion.clog(now);
        let taken_back = outlet.take_out(&Feed::Source);
        if taken_back.iter().any(|offered| offered.parcel.sent_before)
            && outlet.close("it takes nothing, and its unit does")
        {
            turn.actions.push(Action::Close(target));
        }
        for offered in taken_back {
            let (Some(claim), Some(detour), Some(origin)) =
                (offered.claim, offered.detour, offered.origin)
            else {
                debug_assert!(false, "what goes into a diversion was routed to a unit");
                continue;
            };
            if let Some(diversion) = self.diversions.get_mut(unit) {
                diversion.take_back(detour.place);
            }
            let before = Before {
                copy_for: (!follows_its_slot(detour.why)).then_some(detour.to),
                sent: detour.sent || offered.parcel.sent_before,
                moves: origin.moves,
            };
            self.dispatch(&claim, &origin.admitted, &before, turn);
            if let Some(ledger) = self.ledger_of(&claim.feed) {
                ledger.answered(claim.entry);
            }
        }
        for offered in behind {
            self.go(offered, turn);
        }
    }

    /// Has the diversion of a unit in use, for this reason.
    fn activate(&mut self, unit: &UnitId, reason: DivertReason, turn: &Turn<'_>) {
        let diversion = self.diversions.entry(unit.clone()).or_insert_with(|| {
            let routed_by = turn.routing.table.revision();
            Diversion::new(reason, Some(routed_by), self.next_number, turn.at)
        });
        diversion.activate(reason, turn.at);
    }

    fn begin_diversion(
        &mut self,
        unit: &UnitId,
        reason: DivertReason,
        cause: String,
        turn: &mut Turn<'_>,
    ) {
        let target = Target::Unit(unit.clone());
        let Some(outlet) = self.outlets.get_mut(&target) else {
            return;
        };
        // What was held for a fence is newer than what is under way.
        let behind = self.diversions.get_mut(unit);
        let newer = behind.map(|diversion| diversion.catch_up(turn.at.now));
        let taken_out = outlet.take_out(&Feed::Source);
        // What its receiver has not published yet must not be published beside what the drain will bring.
        if taken_out.iter().any(|offered| offered.parcel.sent_before) && outlet.close(&cause) {
            turn.actions.push(Action::Close(target));
        }
        self.activate(unit, reason, turn);
        turn.note(Note::Diverting {
            to: unit.clone(),
            reason,
            cause,
        });
        for offered in taken_out {
            self.divert(unit, offered, turn);
        }
        for offered in newer.unwrap_or_default() {
            self.divert(unit, offered, turn);
        }
    }

    /// Looks after a diversion that is behind messages under way to its unit.
    pub(super) fn catch_up(&mut self, unit: &UnitId, turn: &mut Turn<'_>) {
        let Some(diversion) = self.diversions.get(unit) else {
            return;
        };
        let outlet = self.outlets.get(&Target::Unit(unit.clone()));
        let goes_in = |parcel: &Parcel| parcel.slot.is_some_and(|slot| diversion.has(slot));
        let in_front = outlet.map_or(0, |outlet| outlet.count_of_source(goes_in));
        if in_front == 0 {
            let diversion = self.diversions.get_mut(unit);
            let held = diversion.map(|diversion| diversion.catch_up(turn.at.now));
            for offered in held.unwrap_or_default() {
                self.put_in(unit, offered, turn);
            }
        } else if diversion.has_held_enough(self.budget() / 4, turn.at.now) {
            let cause =
                format!("{in_front} messages of slots that are being moved keep others waiting");
            self.begin_diversion(unit, DivertReason::Slow, cause, turn);
        }
    }

    fn put_in(&mut self, unit: &UnitId, offered: Offered, turn: &mut Turn<'_>) {
        let Offered {
            claim,
            parcel,
            taken,
            origin,
            ..
        } = offered;
        let Some(Origin { admitted, .. }) = &origin else {
            debug_assert!(false, "only what was routed to a unit is diverted");
            return;
        };
        let place = Place {
            number: self.number(),
            slot: parcel.slot,
            body_bytes: parcel.body.len() as u64,
        };
        if let Some(diversion) = self.diversions.get_mut(unit) {
            diversion.put(place);
        }
        let detour = Detour {
            place,
            to: parcel.to,
            why: parcel.why,
            sent: parcel.sent_before,
        };
        let stored = Stored {
            message: admitted.message.clone(),
            id: admitted.id.clone(),
            path: admitted.path.clone(),
            round: admitted.round,
            retry: admitted.retry,
            user_id: admitted.user_id.clone(),
            replay_for: admitted.replay_for.clone(),
            kept: Kept::Diverted(Diverted {
                incarnation: self.settings.incarnation,
                number: place.number,
                why: detour.why,
                to: detour.to.clone(),
                slot: place.slot,
                sent: detour.sent,
                held: turn.at.now.saturating_duration_since(taken),
            }),
        };
        let (properties, body) = wrap(&stored, self.wrapping(turn));
        let offered = Offered {
            claim,
            parcel: self.diverted_parcel(unit, &stored, properties, body, turn),
            detour: Some(detour),
            taken,
            since: turn.at.now,
            origin,
        };
        self.offer(&Target::Diversion(unit.clone()), offered, turn);
    }

    fn diverted_parcel(
        &self,
        unit: &UnitId,
        stored: &Stored,
        properties: RawProperties,
        body: Bytes,
        turn: &Turn<'_>,
    ) -> Parcel {
        let table = turn.routing.table;
        let LaneSettings {
            here,
            source,
            partition,
            ..
        } = &self.settings;
        let queue = own_queues::divert(table.space(), source, *partition, unit);
        own_parcel(table, stored, here, own_address(queue), properties, body)
    }

    /// Numbers what goes into diversions.
    fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }
}
