//! What a lane is made with, is told, and asks for.

use super::envelope::Limits;
use super::ledger::Settlement;
use super::outlet::Feed;
use crate::model::{Partition, Reason, SealKeys, SourceName, UnitId};
use crate::routing::{Source, Table};
use crate::rules::Duplicates;
use std::fmt;
use std::time::{Duration, Instant};

/// Where a parcel goes: a unit (the local one too), the diversion of one, or this unit's park.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A unit.
    Unit(UnitId),
    /// `setgate.<space>.divert.<source>.<partition>.<unit>`, in the source's virtual host.
    Diversion(UnitId),
    /// `setgate.<space>.park` of the source's virtual host.
    Park,
}

/// The time of an event: one clock to measure with, one for people's eyes.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Never jumps.
    pub now: Instant,
    /// Seconds since 1970.
    pub unix_seconds: u64,
}

/// How much a lane may have in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Deliveries.
    pub deliveries: usize,
    /// Bytes of bodies, with an allowance for each message.
    pub bytes: usize,
}

/// What a lane is.
#[derive(Debug, Clone)]
pub struct LaneSettings {
    /// This unit.
    pub here: UnitId,
    /// What it takes.
    pub source: SourceName,
    /// Which lane of it.
    pub partition: Partition,
    /// Of the gateway.
    pub limits: Limits,
    /// Of this lane.
    pub window: Window,
    /// By the source's document.
    pub duplicates: Duplicates,
    /// Of this life of the lane: no other has it, a later one has a higher one.
    pub incarnation: u64,
}

/// What messages are routed by: one table and the space's seal keys, for one message from start to end.
#[derive(Debug, Clone, Copy)]
pub struct Routing<'a> {
    /// In force.
    pub table: &'a Table,
    /// The source, in that table.
    pub source: &'a Source,
    /// Of the space.
    pub keys: &'a SealKeys,
}

/// What the shell has to do.
#[derive(Debug)]
pub enum Action {
    /// A target without an outlet so far: open a stream to it, and keep one open.
    Open(Target),
    /// Give the target's stream up; a new one may be opened after a pause.
    Close(Target),
    /// Consume the diversion of this unit, with [`super::DRAIN_DELIVERIES`] as prefetch, and hand over what it gives while
    /// [`super::Lane::drain_has_room`].
    Drain(UnitId),
    /// Consume it no longer: give it up by closing its channel, and hand nothing more over.
    Undrain(UnitId),
    /// Acknowledge these deliveries of this feed.
    Acknowledge(Feed, Settlement),
    /// Count it, log it.
    Note(Note),
}

/// What happened, for metrics and log.
#[derive(Debug, PartialEq, Eq)]
pub enum Note {
    /// A delivery was taken.
    Received,
    /// A unit has it, this long after it was taken.
    Delivered {
        /// Which.
        to: UnitId,
        /// Taken → answered.
        transit: Duration,
    },
    /// A unit had it already.
    Duplicate {
        /// Which.
        to: UnitId,
    },
    /// It lies in the park.
    Parked {
        /// Why.
        reason: Reason,
    },
    /// It ended here, by a rule.
    Dropped {
        /// Why.
        reason: Reason,
    },
    /// Its marks had no valid seal.
    SealRefused,
    /// It is on its way to the park.
    Parking {
        /// Why.
        reason: Reason,
        /// In words.
        cause: String,
    },
    /// Parcels for this unit go through its diversion from now on.
    Diverting {
        /// Which.
        to: UnitId,
        /// Why.
        reason: DivertReason,
        /// In words.
        cause: String,
    },
    /// All that was diverted for this unit has been answered: the way is direct again.
    Drained {
        /// Which.
        to: UnitId,
    },
}

/// Why a target is diverted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DivertReason {
    /// There is no stream to it.
    Down,
    /// It doesn't answer in time.
    Slow,
    /// A former holder of the lane has left something in it, perhaps.
    Found,
    /// Slots that it serves are being moved: those alone.
    Fenced,
}

impl DivertReason {
    /// Every one of them.
    pub const ALL: [Self; 4] = [Self::Down, Self::Slow, Self::Found, Self::Fenced];

    /// The word in metrics and status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Slow => "slow",
            Self::Found => "found",
            Self::Fenced => "fenced",
        }
    }
}

impl fmt::Display for DivertReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
