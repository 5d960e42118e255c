//! What a lane knows of the diversion of one unit.
//!
//! Owns when parcels for a unit go through its diversion, what of the lane's own lies in it, and when the way is direct
//! again. Promises that a diversion is left only when all that went into it has come out and has been answered: a number
//! for each message that goes in, and for each slot how many are in. Bounded by the slots of the space. Never reads a clock.

use super::action::{DivertReason, Moment};
use super::ledger::{Ledger, Settlement};
use super::outlet::Offered;
use super::rate::DrainRate;
use crate::model::{DeliveryTag, Revision, Slot, UnitId, Why};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

/// A target is late that leaves its oldest parcel unanswered for so long. One is diverted that is late and silent; or one that
/// fills half of the budget of a lane that has others, and is late or silent.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// A target is silent that has said nothing for so long: beyond any round trip and the pauses of a loaded broker, within which
/// one that is far away and well answers, though it fills half of the budget; so does one that works off a backlog.
pub(super) const SILENCE: Duration = Duration::from_secs(1);

/// Of a diversion in hand at most. Its rate leaves room for what is live, and so does a bound of half of the lane's bytes; a
/// quarter of these, on a busy broker that takes a third of a second for each, were a limit of 700 messages a second.
pub const DRAIN_DELIVERIES: u16 = 1_024;

/// Of these, a drain has as many in hand as were answered in the last second, and so many at least: more would only wait at its
/// unit, in front of what other lanes send there, until they are late and diverted too.
const DRAIN_LEAST: u64 = 128;

/// With so many or fewer in a diversion that is drained, what comes new is held for a moment, so that an end is reached
/// while messages go on coming; with any number, in a lane that has nothing for other units.
pub(super) const HOLD_BELOW: u64 = 512;

/// What is held goes into the diversion after all when the end isn't reached in this time, and holding is tried again
/// after the next.
const HOLD_MAX: Duration = Duration::from_secs(3);
/// In this time, where what is left comes out within the other all along: what had waited behind what is held would come at
/// once, and follow.
const HOLD_LONGEST: Duration = Duration::from_secs(10);
const HOLD_PAUSE: Duration = Duration::from_secs(1);

/// A diversion that takes nothing, while there is a way to its unit, gets nothing more for so long: the broker that it is
/// in is worse off than the unit.
const CLOGGED: Duration = Duration::from_secs(5);

/// Numbers that are remembered as taken back: more than any lane has under way.
const TAKEN_BACK_MAX: usize = 8_192;

/// A drain stays for so long after the last message, for what a former holder of the lane may still bring.
pub(super) const LINGER: Duration = Duration::from_secs(10);

/// A drain whose oldest message hasn't been answered for so long is given up and begun again: far below the broker's
/// `consumer_timeout` (30 minutes).
pub(super) const DRAIN_STALL: Duration = Duration::from_mins(1);

/// The pause before a drain that ended is begun again.
pub(super) const DRAIN_PAUSE: Duration = Duration::from_secs(1);

/// A message's place in a diversion: its number, the slot whose order it is part of, and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) slot: Option<Slot>,
    pub(super) body_bytes: u64,
}

/// Of all that a lane's holders, one after the other, put into diversions: what is less went in before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Order {
    /// A later holder has a higher one.
    pub(super) incarnation: u64,
    pub(super) number: u64,
}

/// What a parcel is on its way into a diversion: whose it is, and what it would be without it.
#[derive(Debug, Clone)]
pub(super) struct Detour {
    pub(super) place: Place,
    pub(super) to: UnitId,
    pub(super) why: Why,
    /// Its unit may have it.
    pub(super) sent: bool,
}

/// What is consumed of a diversion, on one channel.
#[derive(Debug)]
pub(super) struct Drain {
    pub(super) ledger: Ledger,
    /// Of the ledger's deliveries, in order; none for what this lane hasn't put in.
    pub(super) places: VecDeque<Option<Place>>,
    /// Of the ledger's deliveries, in order.
    pub(super) orders: VecDeque<Order>,
    /// Of the last one that was taken.
    pub(super) taken: Option<Order>,
    /// The lane's own end marker, when it has come out.
    pub(super) marker: Option<DeliveryTag>,
    /// When something was last answered, or taken into an empty ledger.
    pub(super) progress: Instant,
    /// It has given something.
    pub(super) runs: bool,
}

impl Drain {
    fn new(now: Instant) -> Self {
        Self {
            ledger: Ledger::default(),
            places: VecDeque::new(),
            orders: VecDeque::new(),
            taken: None,
            marker: None,
            progress: now,
            runs: false,
        }
    }
}

/// What a status page says of a diversion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiversionView {
    /// Why.
    pub reason: DivertReason,
    /// Messages that this lane has put into it and that have not come out; what a former holder left isn't known.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the oldest of them went in, in seconds since 1970.
    pub oldest_at: u64,
    /// Whether it is being drained.
    pub drains: bool,
    /// Whether a former holder's messages may be in it.
    pub found: bool,
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Diversion {
    reason: DivertReason,
    /// Parcels follow into it. False once it is empty, while its drain lingers.
    active: bool,
    /// All of the unit's do; else those of the slots that are in it.
    whole: bool,
    /// Messages of slots that are to go in are still under way to the unit: what is new is held until they are answered, or
    /// taken back and put in first.
    behind: bool,
    empty_since: Option<Instant>,
    /// What has gone in and not come out: how many, how many of each slot, their bytes.
    messages: u64,
    of_slot: HashMap<Option<Slot>, u64>,
    bytes: u64,
    /// The highest number that has come out and is answered. What went in twice, and what the broker gives again, has
    /// numbers up to it.
    out: u64,
    /// Numbers that were taken back on their way in, and may be in it all the same.
    taken_back: BTreeSet<u64>,
    /// Numbers below it are of a diversion of the same unit that has ended: copies that came late.
    first: u64,
    oldest_at: u64,
    /// The number of the end marker, until it has come out.
    marker: Option<u64>,
    drain: Option<Drain>,
    drain_from: Instant,
    /// The table by which there is no way but to its unit, as far as was tried.
    drained_by: Option<Revision>,
    held: Option<Held>,
    hold_from: Instant,
    clogged_until: Option<Instant>,
    rate: DrainRate,
    arrived: u32,
    /// What came out and was answered since it was last looked at, and a second before that.
    left: u64,
    left_per_second: u64,
    adapted: Instant,
}

/// What waits for the diversion's end.
#[derive(Debug)]
struct Held {
    since: Instant,
    parcels: VecDeque<Offered>,
    slots: HashSet<Option<Slot>>,
}

impl Held {
    fn new(since: Instant) -> Self {
        Self {
            since,
            parcels: VecDeque::new(),
            slots: HashSet::new(),
        }
    }
}

impl Diversion {
    /// `routed_by`: the table that sends its unit's messages there; none where it isn't known what lies in it.
    /// `first`: the next number of what this lane puts into diversions.
    pub(super) fn new(
        reason: DivertReason,
        routed_by: Option<Revision>,
        first: u64,
        at: Moment,
    ) -> Self {
        Self {
            reason,
            active: true,
            whole: reason != DivertReason::Fenced,
            behind: false,
            empty_since: None,
            messages: 0,
            of_slot: HashMap::new(),
            bytes: 0,
            out: first.saturating_sub(1),
            taken_back: BTreeSet::new(),
            first,
            oldest_at: at.unix_seconds,
            marker: None,
            drain: None,
            drain_from: at.now,
            drained_by: routed_by,
            held: None,
            hold_from: at.now,
            clogged_until: None,
            rate: DrainRate::new(at.now),
            arrived: 0,
            left: 0,
            left_per_second: 0,
            adapted: at.now,
        }
    }

    /// As [`Self::new`], of one in which a former holder may have left something: mostly there is nothing, and what comes new is
    /// held until its end marker says so.
    pub(super) fn found(first: u64, at: Moment) -> Self {
        Self {
            held: Some(Held::new(at.now)),
            ..Self::new(DivertReason::Found, None, first, at)
        }
    }

    /// Whether parcels go through it.
    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    /// Whether all parcels for the unit do.
    pub(super) fn takes_all(&self) -> bool {
        self.active && self.whole
    }

    /// What goes in is behind messages that are under way to the unit.
    pub(super) fn fall_behind(&mut self, now: Instant) {
        self.behind = true;
        self.held.get_or_insert_with(|| Held::new(now));
    }

    /// Whether it is.
    pub(super) fn is_behind(&self) -> bool {
        self.behind
    }

    /// Nothing is in front of it any more. Gives what was held.
    pub(super) fn catch_up(&mut self, now: Instant) -> VecDeque<Offered> {
        self.behind = false;
        self.release(now)
    }

    /// Whether a former holder's messages may lie in it.
    pub(super) fn is_found(&self) -> bool {
        self.marker.is_some()
    }

    /// Whether a former holder may have left something in it that went in before this, and hasn't been sent on yet;
    /// `waits`: what its drain has brought and may not go on yet.
    pub(super) fn may_hold_older(&self, than: Order, waits: Option<Order>) -> bool {
        let Some(drain) = self.drain.as_ref().filter(|_| self.is_found()) else {
            return self.is_found();
        };
        // Behind the lane's own marker there is nothing of a former holder's.
        match (waits, drain.taken) {
            (Some(first), _) => first < than,
            (None, Some(last)) => drain.marker.is_none() && last < than,
            (None, None) => true,
        }
    }

    /// Whether a message of this slot lies in it or waits for its end, as far as this lane has put it there.
    pub(super) fn has(&self, slot: Slot) -> bool {
        let held = |held: &Held| held.slots.contains(&Some(slot));
        self.of_slot.contains_key(&Some(slot)) || self.held.as_ref().is_some_and(held)
    }

    /// The unit's parcels go through it (again); for a fence, those of its slots.
    pub(super) fn activate(&mut self, reason: DivertReason, at: Moment) {
        if !self.active {
            self.oldest_at = at.unix_seconds;
        }
        if self.takes_all() && reason == DivertReason::Fenced {
            return;
        }
        self.reason = reason;
        self.active = true;
        self.whole = reason != DivertReason::Fenced;
        self.empty_since = None;
    }

    /// A message goes in.
    pub(super) fn put(&mut self, place: Place) {
        self.messages += 1;
        *self.of_slot.entry(place.slot).or_default() += 1;
        self.bytes += place.body_bytes;
        self.arrived = self.arrived.saturating_add(1);
    }

    /// The lane's end marker goes in under this number.
    pub(super) fn put_marker(&mut self, number: u64) {
        self.marker = Some(number);
    }

    /// A message has come out and is answered, or has never gone in.
    pub(super) fn is_out(&mut self, place: Place) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(place.body_bytes);
        if let Some(left) = self.of_slot.get_mut(&place.slot) {
            *left -= 1;
            if *left == 0 {
                self.of_slot.remove(&place.slot);
            }
        }
    }

    /// Begins to consume it, if that has a purpose now: its unit is there, or messages may have another seat.
    pub(super) fn begin_drain(&mut self, is_up: bool, revision: Revision, now: Instant) -> bool {
        let due = is_up || self.drained_by.is_none_or(|by| by < revision);
        let begins = self.drain.is_none() && due && now >= self.drain_from;
        if begins {
            self.drain = Some(Drain::new(now));
            self.drained_by = Some(revision);
        }
        begins
    }

    pub(super) fn drain(&self) -> Option<&Drain> {
        self.drain.as_ref()
    }

    pub(super) fn drain_mut(&mut self) -> Option<&mut Drain> {
        self.drain.as_mut()
    }

    /// What was taken of it is void: it comes again, from the oldest. False when there is no drain.
    pub(super) fn end_drain(&mut self, now: Instant) -> bool {
        self.drain_from = now + DRAIN_PAUSE;
        if !self.is_stalled(now) {
            // It ended for no fault of its target's, and what it brought may have had a way.
            self.drained_by = None;
        }
        self.drain.take().is_some()
    }

    /// Whether its oldest message has waited for too long.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        self.drain.as_ref().is_some_and(|drain| {
            let waited = now.saturating_duration_since(drain.progress);
            !drain.ledger.is_empty() && waited >= DRAIN_STALL
        })
    }

    /// Whether another of its messages may be taken now.
    pub(super) fn drain_has_room(&self, now: Instant) -> bool {
        let answered = self.left_per_second.max(DRAIN_LEAST);
        let in_hand_max = answered.min(u64::from(DRAIN_DELIVERIES));
        let room = |drain: &Drain| (drain.ledger.len() as u64) < in_hand_max;
        // While what is new waits for the end, nothing is gained by going slowly.
        self.drain.as_ref().is_some_and(room) && (self.held.is_some() || self.rate.allows(now))
    }

    /// One was taken.
    pub(super) fn took(&mut self, now: Instant) {
        self.rate.took(now);
    }

    /// Settles what is done with of what was consumed.
    pub(super) fn settle(&mut self, now: Instant) -> Option<Settlement> {
        let drain = self.drain.as_mut()?;
        let settled = drain.ledger.settle()?;
        drain.progress = now;
        if drain.marker.is_some_and(|marker| marker <= settled.tag()) {
            drain.marker = None;
            self.marker = None;
        }
        self.left += settled.count() as u64;
        drain.orders.drain(..settled.count());
        let places: Vec<_> = drain.places.drain(..settled.count()).flatten().collect();
        for place in places {
            if place.number > self.out {
                self.out = place.number;
                if !self.taken_back.contains(&place.number) {
                    self.is_out(place);
                }
            }
        }
        Some(settled)
    }

    /// Whether this marker ends it.
    pub(super) fn is_its_end(&self, number: u64) -> bool {
        self.marker == Some(number)
    }

    /// Whether its end marker has got lost: a former holder of the lane that came to itself once more, its drain still
    /// open, takes whatever comes out for its own. To be asked when nothing is on its way in.
    pub(super) fn misses_its_marker(&mut self, now: Instant) -> bool {
        let Some(drain) = self.drain.as_mut().filter(|drain| drain.ledger.is_empty()) else {
            return false;
        };
        let waits = now.saturating_duration_since(drain.progress) >= LINGER;
        let misses = self.marker.is_some() && waits;
        if misses {
            drain.progress = now;
        }
        misses
    }

    /// What was seen of the oldest.
    pub(super) fn saw_oldest(&mut self, at: u64) {
        self.oldest_at = at;
    }

    /// Whether all that went in has come out. What is on its way in counts as in.
    pub(super) fn is_through(&self) -> bool {
        self.marker.is_none()
            && self.messages == 0
            && !self.behind
            && self
                .drain
                .as_ref()
                .is_none_or(|drain| drain.ledger.is_empty())
    }

    /// Whether all that is in it comes out in the time for which what is new may be held, as fast as its drain is.
    pub(super) fn ends_soon(&self) -> bool {
        self.drains() && self.messages <= self.left_per_second * HOLD_MAX.as_secs()
    }

    /// Whether it is drained, and nothing but what this lane put in is in it.
    fn drains(&self) -> bool {
        self.marker.is_none() && self.drain.as_ref().is_some_and(|drain| drain.runs)
    }

    /// Begins to hold where the end is near: so many or fewer are in it, or it ends soon.
    pub(super) fn consider_holding(&mut self, hold_below: u64, now: Instant) {
        let near = self.ends_soon() || (self.drains() && self.messages <= hold_below);
        if self.active && self.held.is_none() && near && now >= self.hold_from {
            self.held = Some(Held::new(now));
        }
    }

    /// Holds one, or gives it back where nothing is held.
    pub(super) fn hold(&mut self, offered: Offered) -> Option<Offered> {
        match &mut self.held {
            Some(held) => {
                held.slots.insert(offered.parcel.slot);
                held.parcels.push_back(offered);
                None
            }
            None => Some(offered),
        }
    }

    /// It takes nothing: what comes is held. Gives what was held already, which belongs behind what is taken back.
    pub(super) fn clog(&mut self, now: Instant) -> VecDeque<Offered> {
        self.clogged_until = Some(now + CLOGGED);
        let held = self.held.replace(Held::new(now));
        held.map(|held| held.parcels).unwrap_or_default()
    }

    /// A message is taken back on its way in.
    pub(super) fn take_back(&mut self, place: Place) {
        self.is_out(place);
        self.taken_back.insert(place.number);
        while self.taken_back.len() > TAKEN_BACK_MAX {
            self.taken_back.pop_first();
        }
    }

    /// Whether this one has gone to its unit otherwise, as it seems.
    pub(super) fn went_otherwise(&self, number: u64) -> bool {
        number < self.first || self.taken_back.contains(&number)
    }

    /// Whether it has held for too long, or more than this.
    pub(super) fn has_held_enough(&self, parcels_max: usize, now: Instant) -> bool {
        if self.clogged_until.is_some_and(|until| now < until) {
            return false;
        }
        let longest = if self.ends_soon() {
            HOLD_LONGEST
        } else {
            HOLD_MAX
        };
        let since = |held: &Held| {
            held.parcels.len() >= parcels_max
                || now.saturating_duration_since(held.since) >= longest
        };
        self.held.as_ref().is_some_and(since)
    }

    /// Ends holding, and gives what was held.
    pub(super) fn release(&mut self, now: Instant) -> VecDeque<Offered> {
        self.hold_from = now + HOLD_PAUSE;
        self.held
            .take()
            .map(|held| held.parcels)
            .unwrap_or_default()
    }

    /// How many are held.
    pub(super) fn held(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.parcels.len())
    }

    /// All has come out: the way is direct again.
    pub(super) fn deactivate(&mut self, now: Instant) {
        self.active = false;
        self.whole = false;
        self.empty_since = Some(now);
        self.clogged_until = None;
    }

    /// Whether it may be forgotten, with its drain.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let lingered = |since| now.saturating_duration_since(since) >= LINGER;
        let drained = match &self.drain {
            Some(drain) => lingered(drain.progress),
            // Copies of what was taken back may lie in it.
            None => self.taken_back.is_empty(),
        };
        !self.active && self.is_through() && self.empty_since.is_some_and(lingered) && drained
    }

    /// Once a second: how fast it is drained, by what arrives and how the lane's other targets fare.
    pub(super) fn adapt(&mut self, now: Instant, others_wait: bool) {
        let passed = now.saturating_duration_since(self.adapted);
        if passed >= Duration::from_secs(1) {
            let arrivals = f64::from(self.arrived) / passed.as_secs_f64();
            self.rate.adapt(arrivals, others_wait);
            self.left_per_second = self.left / passed.as_secs();
            (self.arrived, self.left) = (0, 0);
            self.adapted = now;
        }
    }

    pub(super) fn view(&self) -> DiversionView {
        DiversionView {
            reason: self.reason,
            messages: self.messages + self.held() as u64,
            bytes: self.bytes,
            oldest_at: self.oldest_at,
            drains: self.drain.is_some(),
            found: self.marker.is_some(),
        }
    }
}

/// Whether a parcel goes where its slot has its seat, so that it may go elsewhere once that changes; the others are copies
/// for the one unit that they name.
pub(super) fn follows_its_slot(why: Why) -> bool {
    match why {
        Why::Owner | Why::Center | Why::Standby | Why::Gray | Why::Pin => true,
        Why::Shared | Why::Units | Why::Local => false,
    }
}
