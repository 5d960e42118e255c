//! Moves: what gets another owner, with its order kept. The keys `moves/<id>`, as operators, coordinator and gateways read
//! them.

use super::{Seats, SlotSet, SourceName, UnitId};
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
    /// Nobody may deliver what it moves: what comes waits in queues, and what was under way is worked off.
    Fenced,
    /// Every member keeps to that, and nothing of it is under way anywhere.
    Drained,
    /// It has its new owner; what waited goes there.
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

    /// Whether what it moves is fenced.
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

/// What a change of seats is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The home of slots, or of a pinned key: the placement.
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

/// What a fence waits for, besides every member's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Drain {
    /// Nothing: no parcel is under way.
    #[default]
    Parcels,
    /// Applications of the old seat have consumed what was delivered to them.
    Consumed,
}

/// What an operator says of something: who, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Word {
    /// `user@host`.
    pub who: String,
    /// In their words.
    pub why: String,
}

/// What a move gives another owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Slots get another seat.
    Seats(SeatChange),
    /// The wished documents come in force.
    Rules(RuleChange),
}

/// Slots get another seat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeatChange {
    /// What for.
    pub kind: Kind,
    /// Which. With a key, those that it lies in.
    pub slots: SlotSet,
    /// Who serves them before.
    pub from: UnitId,
    /// Who serves them afterwards.
    pub to: UnitId,
    /// Of these slots this key alone, which gets a pin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// The wished documents come in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleChange {
    /// Those whose keys may get other owners.
    pub sources: BTreeSet<SourceName>,
    /// What the documents were when this was asked for, as a hash: others are another wish.
    pub documents: String,
}

impl SeatChange {
    /// The unit whose seat a failover or a failback changes.
    pub fn home(&self) -> &UnitId {
        match self.kind {
            Kind::Planned | Kind::Failover => &self.from,
            Kind::Failback => &self.to,
        }
    }
}

impl fmt::Display for SeatChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            slots,
            from,
            to,
            key,
            ..
        } = self;
        match key {
            Some(key) => write!(f, "key {key:?} from {from} to {to}"),
            None => write!(f, "slots {slots} from {from} to {to}"),
        }
    }
}

impl fmt::Display for RuleChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources: Vec<&str> = self.sources.iter().map(SourceName::as_str).collect();
        write!(f, "the rules of {}", sources.join(", "))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seats(seats) => seats.fmt(f),
            Self::Rules(rules) => rules.fmt(f),
        }
    }
}

/// One move. The coordinator advances it; an operator asks for it, and may ask that it be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// How far it is.
    pub stage: Stage,
    /// What it changes.
    pub change: Change,
    /// Who decided on it.
    #[serde(default)]
    pub decided_by: DecidedBy,
    /// `user@host`.
    pub who: String,
    /// In their words.
    pub why: String,
    /// When it was asked for, RFC 3339.
    pub at: String,
    /// A stage before *placed* that takes longer undoes the move; by the coordinator's own clock, from when it saw it.
    pub deadline_seconds: u32,
    /// What the fence waits for.
    #[serde(default)]
    pub drain: Drain,
    /// It is to be undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Word>,
    /// Whoever doesn't hold its lease is said not to run: nobody waits for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<Word>,
    /// When it was over, in milliseconds since 1970 by the coordinator's clock: for the damping alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at_ms: Option<u64>,
    /// When the fence was ordered, in milliseconds since 1970 by the coordinator's clock: for the pause alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced_at_ms: Option<u64>,
    /// From the order of the fence until every gateway that runs routed by the new owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<u64>,
    /// Why it was undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// Who asks for something, in whose words, and when.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// `user@host`.
    pub who: String,
    /// In their words.
    pub why: String,
    /// RFC 3339.
    pub at: String,
}

impl Move {
    /// One that nobody has looked at yet.
    pub fn asked(change: Change, decided_by: DecidedBy, by: Asked, deadline_seconds: u32) -> Self {
        Self {
            stage: Stage::Asked,
            change,
            decided_by,
            who: by.who,
            why: by.why,
            at: by.at,
            deadline_seconds,
            drain: Drain::Parcels,
            undo: None,
            force: None,
            ended_at_ms: None,
            fenced_at_ms: None,
            pause_ms: None,
            cause: None,
        }
    }

    /// The word for what it is, in logs and status.
    pub fn kind(&self) -> &'static str {
        match &self.change {
            Change::Seats(seats) => seats.kind.as_str(),
            Change::Rules(_) => "rules",
        }
    }

    /// The seats that it changes; `None` where it changes rules.
    pub fn seats(&self) -> Option<&SeatChange> {
        match &self.change {
            Change::Seats(seats) => Some(seats),
            Change::Rules(_) => None,
        }
    }

    /// The rules that it changes; `None` where it changes seats.
    pub fn rules(&self) -> Option<&RuleChange> {
        match &self.change {
            Change::Rules(rules) => Some(rules),
            Change::Seats(_) => None,
        }
    }
}

/// Those that a space knows of.
pub type Moves = BTreeMap<MoveId, Move>;

/// The number that the next move gets.
pub fn next_move(moves: &Moves) -> MoveId {
    MoveId(moves.keys().next_back().map_or(0, |last| last.0) + 1)
}

/// The slots that nobody may deliver: those of moves whose stage fences them.
pub fn fenced(moves: &Moves) -> SlotSet {
    let fences = moves.values().filter(|one| one.stage.fences());
    let slots = fences.filter_map(Move::seats).map(|change| &change.slots);
    slots.fold(SlotSet::empty(), |all, one| all.or(one))
}

/// The units that somebody is about to stand in for, or that are about to give back what they stand in for: who serves then
/// what leads to a unit without regard to slots.
pub fn leaving(moves: &Moves) -> BTreeSet<UnitId> {
    let fences = moves.values().filter(|one| one.stage.fences());
    let seats = fences
        .filter_map(Move::seats)
        .filter(|change| change.kind != Kind::Planned);
    seats.map(|change| change.from.clone()).collect()
}

/// The sources of which nothing may be taken, for the same reason.
pub fn fenced_sources(moves: &Moves) -> BTreeSet<SourceName> {
    let fences = moves.values().filter(|one| one.stage.fences());
    let rules = fences.filter_map(Move::rules);
    rules
        .flat_map(|rules| rules.sources.iter().cloned())
        .collect()
}

/// The units that another one stands in for, or is about to.
pub fn taken(seats: &Seats, moves: &Moves) -> BTreeSet<UnitId> {
    let going_on = moves
        .values()
        .filter(|one| one.stage.fences() || one.stage == Stage::Placed);
    let failovers = going_on
        .filter_map(Move::seats)
        .filter(|change| change.kind == Kind::Failover);
    let failovers = failovers.map(|change| change.from.clone());
    seats.stand_ins.keys().cloned().chain(failovers).collect()
}
