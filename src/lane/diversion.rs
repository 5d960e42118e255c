//! What a lane knows of the diversion of one unit.
//!
//! Owns when parcels for a unit go through its diversion, what of the lane's own lies in it, and when the way is direct
//! again. Promises that a diversion is left only when all that went into it has come out and has been answered: a number
//! for each message that goes in, and for each slot the last one. Bounded by the slots of the space. Never reads a clock.

use super::ledger::Ledger;
use super::outlet::Offered;
use super::rate::DrainRate;
use crate::model::{DeliveryTag, Parcel, Slot, Why};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

/// A target that leaves its oldest parcel unanswered for so long is diverted.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// One that fills half of the lane's budget is diverted after so long. Not at once: a target that is far away and well
/// fills as much, and answers within its round trip.
pub(super) const PATIENCE_HALF: Duration = Duration::from_millis(500);

/// With so many or fewer in a diversion that is drained, what comes new is held for a moment, so that an end is reached
/// while messages go on coming.
const HOLD_BELOW: u64 = 512;

/// What is held goes into the diversion after all when the end isn't reached in this time, and holding is tried again
/// after the next.
const HOLD_MAX: Duration = Duration::from_secs(1);
const HOLD_PAUSE: Duration = Duration::from_secs(5);

/// A drain stays for so long after the last message, for what a former holder of the lane may still bring.
pub(super) const LINGER: Duration = Duration::from_secs(10);

/// A drain whose oldest message hasn't been answered for so long is given up and begun again: far below the broker's
/// `consumer_timeout` (30 minutes).
pub(super) const DRAIN_STALL: Duration = Duration::from_mins(1);

/// The pause before a drain that ended is begun again.
pub(super) const DRAIN_PAUSE: Duration = Duration::from_secs(1);

/// Why a target is diverted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DivertReason {
    /// There is no stream to it.
    Down,
    /// It doesn't answer in time.
    Slow,
    /// A former holder of the lane has left something in it, perhaps.
    Found,
}

impl DivertReason {
    /// Every one of them.
    pub const ALL: [Self; 3] = [Self::Down, Self::Slow, Self::Found];

    /// The word in metrics and status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Slow => "slow",
            Self::Found => "found",
        }
    }
}

impl fmt::Display for DivertReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A message's place in a diversion: its number, and the slot whose order it is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) slot: Option<Slot>,
}

/// What is consumed of a diversion.
#[derive(Debug)]
pub(super) struct Drain {
    pub(super) ledger: Ledger,
    /// The lane's own end marker, when it has come out.
    pub(super) marker: Option<DeliveryTag>,
    /// When something was last answered, or taken into an empty ledger.
    pub(super) progress: Instant,
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
    pub(super) reason: DivertReason,
    /// Parcels for the unit follow into it. False once it is empty, while its drain lingers.
    active: bool,
    empty_since: Option<Instant>,
    /// The number of the last one that went in.
    last: u64,
    /// The highest that has come out and is answered.
    out: u64,
    last_of: HashMap<Option<Slot>, u64>,
    /// The number of the end marker, until it has come out.
    pub(super) marker: Option<u64>,
    messages: u64,
    bytes: u64,
    oldest_at: u64,
    pub(super) drain: Option<Drain>,
    pub(super) drain_from: Instant,
    held: Option<Held>,
    hold_from: Instant,
    pub(super) rate: DrainRate,
    arrived: u64,
    adapted: Instant,
}

/// What waits for the diversion's end.
#[derive(Debug)]
struct Held {
    since: Instant,
    parcels: VecDeque<Offered>,
    bytes: usize,
}

impl Diversion {
    pub(super) fn new(reason: DivertReason, now: Instant, unix_seconds: u64) -> Self {
        Self {
            reason,
            active: true,
            empty_since: None,
            last: 0,
            out: 0,
            last_of: HashMap::new(),
            marker: None,
            messages: 0,
            bytes: 0,
            oldest_at: unix_seconds,
            drain: None,
            drain_from: now,
            held: None,
            hold_from: now,
            rate: DrainRate::new(now),
            arrived: 0,
            adapted: now,
        }
    }

    /// Whether parcels for the unit go through it.
    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    /// Whether a message of this slot lies in it, as far as this lane has put it there.
    pub(super) fn has(&self, slot: Slot) -> bool {
        self.last_of.contains_key(&Some(slot))
    }

    /// The unit's parcels go through it (again).
    pub(super) fn activate(&mut self, reason: DivertReason, unix_seconds: u64) {
        if !self.active {
            self.oldest_at = unix_seconds;
        }
        self.reason = reason;
        self.active = true;
        self.empty_since = None;
    }

    /// A message goes in under this number.
    pub(super) fn put(&mut self, number: u64, parcel: &Parcel) {
        self.last = self.last.max(number);
        self.last_of.insert(parcel.slot, number);
        self.messages += 1;
        self.arrived += 1;
        self.bytes += parcel.body.len() as u64;
    }

    /// The lane's end marker goes in under this number.
    pub(super) fn put_marker(&mut self, number: u64) {
        self.marker = Some(number);
    }

    /// A message has come out and is answered for good, or never went in.
    pub(super) fn is_out(&mut self, place: Place, body_bytes: usize) {
        if self.last_of.get(&place.slot).is_some_and(|last| *last <= place.number) {
            self.last_of.remove(&place.slot);
        }
        if place.number > self.out {
            self.out = place.number;
        }
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(body_bytes as u64);
    }

    /// What was seen of the oldest.
    pub(super) fn saw_oldest(&mut self, at: u64) {
        self.oldest_at = at;
    }

    /// Whether all that went in has come out. What is on its way in has to be asked of its outlet.
    pub(super) fn is_through(&self) -> bool {
        self.marker.is_none()
            && self.out >= self.last
            && self.last_of.is_empty()
            && self.drain.as_ref().is_none_or(|drain| drain.ledger.is_empty())
    }

    /// Whether new parcels wait for the end instead of going in.
    pub(super) fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// Begins to hold where the end is near.
    pub(super) fn consider_holding(&mut self, now: Instant) {
        let near = self.drain.is_some() && self.marker.is_none() && self.messages <= HOLD_BELOW;
        if self.active && self.held.is_none() && near && now >= self.hold_from {
            self.held = Some(Held {
                since: now,
                parcels: VecDeque::new(),
                bytes: 0,
            });
        }
    }

    /// Holds one.
    pub(super) fn hold(&mut self, offered: Offered) {
        if let Some(held) = &mut self.held {
            held.bytes += offered.parcel.cost_bytes();
            held.parcels.push_back(offered);
        }
    }

    /// Whether it has held for too long, or too much.
    pub(super) fn held_enough(&self, now: Instant, bytes_max: usize) -> bool {
        self.held.as_ref().is_some_and(|held| {
            held.bytes >= bytes_max || now.saturating_duration_since(held.since) >= HOLD_MAX
        })
    }

    /// Ends holding, and gives what was held.
    pub(super) fn release(&mut self, now: Instant) -> VecDeque<Offered> {
        self.hold_from = now + HOLD_PAUSE;
        self.held.take().map(|held| held.parcels).unwrap_or_default()
    }

    /// How many are held.
    pub(super) fn held(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.parcels.len())
    }

    /// All has come out: the way is direct again.
    pub(super) fn deactivate(&mut self, now: Instant) {
        self.active = false;
        self.empty_since = Some(now);
        self.messages = 0;
        self.bytes = 0;
    }

    /// Whether it may be forgotten, with its drain.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let lingered = |since| now.saturating_duration_since(since) >= LINGER;
        !self.active && self.is_through() && self.empty_since.is_some_and(lingered)
    }

    /// Once a second: how fast it is drained, by what arrives and how the lane's other targets fare.
    pub(super) fn adapt(&mut self, now: Instant, others_wait: bool) {
        let passed = now.saturating_duration_since(self.adapted);
        if passed >= Duration::from_secs(1) {
            let arrivals = self.arrived as f64 / passed.as_secs_f64();
            self.rate.adapt(arrivals, others_wait);
            self.arrived = 0;
            self.adapted = now;
        }
    }

    /// What was taken of it is void: it comes again, from the oldest.
    pub(super) fn end_drain(&mut self, now: Instant) {
        self.drain = None;
        self.drain_from = now + DRAIN_PAUSE;
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
