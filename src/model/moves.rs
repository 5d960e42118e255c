//! Moves of slots from one unit to another: the keys `moves/<id>`, as operators, coordinator and gateways read them.

use super::{Seats, SlotSet, UnitId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A move's number in its space, from 1.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct MoveId(pub u32);

impl fmt::Display for MoveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// An operator has written it; the coordinator hasn't looked at it yet.
    Asked,
    /// Nobody may deliver its slots: what comes for them is diverted, and what was under way is worked off.
    Fenced,
    /// Every member diverts them, and nothing of them is under way anywhere.
    Drained,
    /// The slots have their new home; diversions drain to it.
    Placed,
    /// Every gateway that runs routes by it.
    Done,
    /// Nothing has changed its home.
    Undone,
}

impl Stage {
    /// Every one of them.
    pub const ALL: [Self; 6] = [
        Self::Asked,
        Self::Fenced,
        Self::Drained,
        Self::Placed,
        Self::Done,
        Self::Undone,
    ];

    /// The word in etcd, metrics and status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Fenced => "fenced",
            Self::Drained => "drained",
            Self::Placed => "placed",
            Self::Done => "done",
            Self::Undone => "undone",
        }
    }

    /// Whether its slots are fenced.
    pub const fn fences(self) -> bool {
        matches!(self, Self::Fenced | Self::Drained)
    }

    /// Whether it goes no further.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Undone)
    }

    /// Whether it can still be undone: nothing has another home yet.
    pub const fn can_be_undone(self) -> bool {
        matches!(self, Self::Asked | Self::Fenced | Self::Drained)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a move changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The home of slots: the placement.
    #[default]
    Planned,
    /// The seat of a unit that is lost, to one that stands in for it.
    Failover,
    /// It gets its seat back.
    Failback,
}

impl Kind {
    /// The word in etcd and status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Failover => "failover",
            Self::Failback => "failback",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who decided on a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecidedBy {
    /// An operator.
    #[default]
    Person,
    /// The coordinator, by the topology's policy.
    Policy,
}

/// An operator's wish that a move be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Undo {
    /// `user@host`.
    pub who: String,
    /// In their words.
    pub why: String,
}

/// One move. The coordinator advances it; an operator asks for it, and may ask that it be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// How far it is.
    pub stage: Stage,
    /// What it changes.
    #[serde(default)]
    pub kind: Kind,
    /// Who decided on it.
    #[serde(default)]
    pub decided_by: DecidedBy,
    /// What moves.
    pub slots: SlotSet,
    /// Who serves them before.
    pub from: UnitId,
    /// Who serves them afterwards.
    pub to: UnitId,
    /// `user@host`.
    pub who: String,
    /// In their words.
    pub why: String,
    /// When it was asked for, RFC 3339.
    pub at: String,
    /// A stage before *placed* that takes longer undoes the move; by the coordinator's own clock, from when it saw it.
    pub deadline_seconds: u32,
    /// It is to be undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Undo>,
    /// When it was over, in milliseconds since 1970 by the coordinator's clock: for the damping alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<u64>,
    /// When the fence was ordered, in milliseconds since 1970 by the coordinator's clock: for the pause alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced_at_ms: Option<u64>,
    /// From the order of the fence until every gateway that runs routed by the new home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<u64>,
    /// Why it was undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

impl Move {
    /// The unit whose seat a failover or a failback changes.
    pub fn home(&self) -> &UnitId {
        match self.kind {
            Kind::Planned | Kind::Failover => &self.from,
            Kind::Failback => &self.to,
        }
    }
}

/// Those that a space knows of.
pub type Moves = BTreeMap<MoveId, Move>;

/// The slots that nobody may deliver: those of moves whose stage fences them.
pub fn fenced(moves: &Moves) -> SlotSet {
    let fences = moves.values().filter(|one| one.stage.fences());
    fences.fold(SlotSet::empty(), |all, one| all.or(&one.slots))
}

/// The units that another one stands in for, or is about to.
pub fn taken(seats: &Seats, moves: &Moves) -> BTreeSet<UnitId> {
    let failovers = moves.values().filter(|one| {
        one.kind == Kind::Failover && (one.stage.fences() || one.stage == Stage::Placed)
    });
    let failovers = failovers.map(|one| one.from.clone());
    seats.stand_ins.keys().cloned().chain(failovers).collect()
}
