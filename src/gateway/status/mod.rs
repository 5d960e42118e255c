//! What the status page and `setgate status` say: one gateway's view, and the space's, put together of several.
//!
//! Owns the JSON of both and the hub into which the gateway's tasks write what they know. Promises that the hub is
//! bounded, that a writer never waits for a reader for longer than a copy takes, and that putting together is a pure
//! function. Never asks anybody anything.

mod assemble;
mod hub;
mod ready;

pub use assemble::assemble;
pub use hub::StatusHub;
pub use ready::{Readiness, readiness};

use crate::model::{
    Change, Epoch, GatewayId, Lineage, MoveId, Partition, Revision, SiteId, SlotSet, SourceName,
    SpaceId, Stage, UnitId,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Whether something answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpDown {
    /// It answers.
    Up,
    /// It doesn't.
    Down,
}

/// A unit as the space sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitState {
    /// Some gateway of it answers and its broker takes messages.
    Up,
    /// A gateway answers, but its broker does not; or none answers though one is registered; or nobody can be asked.
    Doubtful,
    /// No gateway of it is registered.
    Down,
    /// Its slots may not be delivered.
    Fenced,
}

/// A link to another unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// No connection; the cause says why.
    Down,
    /// Being connected.
    Opening,
    /// Ending in order.
    Draining,
    /// Carries parcels.
    Up,
}

/// A lane, as its gateway sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LaneState {
    /// Its queue is being declared and taken for the first time.
    Opening,
    /// It can't take: its broker, its exchange or its queue is missing; the cause says which.
    Down,
    /// Ready, but another gateway of the unit has the lane, or nothing came yet.
    Waiting,
    /// Takes messages.
    Taking,
    /// Takes no more, because a target doesn't answer; the cause says which.
    Held,
    /// Settles what it has and ends.
    Draining,
    /// Its source is retired, and nothing of it is left.
    Retired,
}

/// The unit's broker, in one vhost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerLine {
    /// Its vhost.
    pub vhost: String,
    /// Whether there is a connection.
    pub state: UpDown,
    /// The broker takes no publishes now (an alarm), and why.
    pub blocked: Option<String>,
    /// Why it is down.
    pub cause: Option<String>,
}

/// What a gateway knows of its link to one gateway of another unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerLine {
    /// The unit.
    pub to: UnitId,
    /// The gateway there.
    pub peer: GatewayId,
    /// As the link's state machine has it.
    pub state: LinkState,
    /// The last canary's round trip.
    pub rtt_ms: Option<u64>,
    /// Why it isn't up.
    pub cause: Option<String>,
}

/// What a lane holds for one unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetLine {
    /// The unit.
    pub to: UnitId,
    /// Parcels without an answer.
    pub in_flight: u64,
    /// Age of the oldest of them.
    pub lag_ms: u64,
    /// Why they are not going.
    pub cause: Option<String>,
    /// The diversion that parcels for it go through, while they do.
    pub diversion: Option<DiversionLine>,
}

/// One lane's diversion for one unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiversionLine {
    /// `down`, `slow` or `found`.
    pub reason: String,
    /// Messages in it that this lane has put there.
    pub messages: u64,
    /// Their bodies.
    pub bytes: u64,
    /// `divert.max`.
    pub bytes_max: u64,
    /// Since when the oldest of them waits.
    pub oldest_seconds: u64,
    /// When it is full, if it goes on growing so.
    pub full_in_seconds: Option<u64>,
    /// It is being drained.
    pub draining: bool,
    /// Messages of a former holder of the lane may be in it, which nobody has counted.
    pub found: bool,
}

/// One lane, with what it holds per target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneFacts {
    /// What it does now.
    pub state: LaneState,
    /// Deliveries that aren't settled.
    pub in_flight: u64,
    /// Why it doesn't take.
    pub cause: Option<String>,
    /// By unit, this one too.
    pub targets: Vec<TargetLine>,
}

impl LaneFacts {
    /// A lane with nothing in flight.
    pub fn of(state: LaneState, cause: Option<String>) -> Self {
        Self {
            state,
            in_flight: 0,
            cause,
            targets: Vec::new(),
        }
    }
}

/// A lane of one gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneOfGateway {
    /// What it takes.
    pub source: SourceName,
    /// Which of the source's lanes.
    pub partition: Partition,
    /// The rest.
    #[serde(flatten)]
    pub facts: LaneFacts,
}

/// Something that an operator should know and mend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StatusFault {
    /// What it is about: `orders`, `in-force/orders.yaml`, `link bj-1`.
    pub subject: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub mend: String,
}

/// A unit as the table has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitFacts {
    /// Its name.
    pub unit: UnitId,
    /// Where it is.
    pub site: SiteId,
    /// The units whose slots it serves now, its own among them as a rule.
    pub seat_of: Vec<UnitId>,
}

/// What of the table in force a reader of the status wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFacts {
    /// Which life of the space.
    pub lineage: Lineage,
    /// Grows with every change of a seat.
    pub epoch: Epoch,
    /// Of etcd, that the table was compiled from.
    pub revision: Revision,
    /// All units.
    pub units: Vec<UnitFacts>,
    /// Moves that are not over.
    #[serde(default)]
    pub moves: Vec<MoveLine>,
}

/// A move under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveLine {
    /// Its number.
    pub id: MoveId,
    /// How far it is.
    pub stage: Stage,
    /// What gets another owner.
    pub change: Change,
}

/// What nobody may deliver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceLine {
    /// These slots.
    pub slots: SlotSet,
    /// All of these sources.
    #[serde(default)]
    pub sources: BTreeSet<SourceName>,
    /// The move that they wait for.
    #[serde(rename = "move")]
    pub id: MoveId,
}

/// What one gateway knows: `/v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// Its space.
    pub space: SpaceId,
    /// Its unit.
    pub unit: UnitId,
    /// Its name.
    pub gateway: GatewayId,
    /// Of setgate.
    pub version: String,
    /// Whether etcd answers it; up where rules come from a folder.
    pub etcd: UpDown,
    /// Why etcd doesn't.
    pub etcd_cause: Option<String>,
    /// The table in force; none before the first.
    pub table: Option<TableFacts>,
    /// Its connections to the broker.
    pub brokers: Vec<BrokerLine>,
    /// Its links.
    pub links: Vec<PeerLine>,
    /// Its lanes.
    pub lanes: Vec<LaneOfGateway>,
    /// What is wrong.
    pub faults: Vec<StatusFault>,
}

/// The whole space: `setgate status -o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceStatus {
    /// Its name.
    pub space: SpaceId,
    /// The newest that a gateway reports.
    pub lineage: Lineage,
    /// The newest that a gateway reports.
    pub epoch: Epoch,
    /// The newest that a gateway reports.
    pub revision: Revision,
    /// Whether etcd answers whoever asks.
    pub etcd: UpDown,
    /// All units of the table.
    pub units: Vec<UnitStatus>,
    /// What nobody may deliver.
    pub fences: Vec<FenceLine>,
    /// Moves under way.
    pub moves: Vec<MoveLine>,
    /// Everything that some gateway complains of, each once.
    pub faults: Vec<StatusFault>,
}

/// One unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitStatus {
    /// Its name.
    pub unit: UnitId,
    /// Where it is.
    pub site: Option<SiteId>,
    /// As the space sees it.
    pub state: UnitState,
    /// The units whose slots it serves.
    pub seat_of: Vec<UnitId>,
    /// Its gateways.
    pub gateways: Vec<GatewayLine>,
    /// From it to the others.
    pub links: Vec<LinkLine>,
    /// What it takes.
    pub lanes: Vec<LaneLine>,
}

/// One gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayLine {
    /// Its name.
    pub gateway: GatewayId,
    /// Whether it answered.
    pub state: UpDown,
    /// Of setgate.
    pub version: Option<String>,
    /// Of the table that it runs.
    pub epoch: Option<Epoch>,
    /// Of the table that it runs.
    pub revision: Option<Revision>,
    /// Whether all its connections to the broker are open.
    pub broker: UpDown,
    /// Why something of this isn't up.
    pub cause: Option<String>,
}

/// All links from one unit to another, as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkLine {
    /// The other unit.
    pub to: UnitId,
    /// The best of them.
    pub state: LinkState,
    /// Age of the oldest parcel without an answer.
    pub lag_ms: u64,
    /// The shortest round trip.
    pub rtt_ms: Option<u64>,
    /// Parcels without an answer.
    pub in_flight: u64,
    /// Parcels in diversion queues.
    pub diverted: u64,
    /// Why it isn't up, or why parcels wait.
    pub cause: Option<String>,
}

/// One lane at one gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneLine {
    /// What it takes.
    pub source: SourceName,
    /// Which of the source's lanes.
    pub partition: Partition,
    /// Who has it.
    pub gateway: GatewayId,
    /// What it does now.
    pub state: LaneState,
    /// Deliveries that aren't settled.
    pub in_flight: u64,
    /// Why it doesn't take.
    pub cause: Option<String>,
}

/// A gateway that a reader of the status has heard of, and what it answered.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its unit.
    pub unit: UnitId,
    /// Its name.
    pub gateway: GatewayId,
    /// Its own view, or why there is none.
    pub answer: Result<GatewayStatus, String>,
}
