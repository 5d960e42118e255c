//! Which drills there are.

use serde::Serialize;

/// A drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// Every one of them, one after the other
    All,
    /// Slots of one unit move to another and back
    PlannedMove,
    /// A rule that gives half of the keys another owner is put into etcd by hand, and rolled back
    RuleChange,
    /// A move that waits for a gateway which is away, until it is undone
    MoveThatCannotDrain,
    /// A unit's gateways and broker are killed
    UnitLoss,
    /// It gets its seat back
    Failback,
    /// A unit's gateways are killed and started, each time within the grace
    FlappingUnit,
    /// A unit is cut off from etcd alone
    CutOffFromEtcd,
    /// A unit is cut off from its peers alone
    CutOffFromPeers,
    /// A unit is cut off from etcd and peers
    CutOffFromAll,
    /// A unit's gateways are frozen for longer than it takes another to take over, and wake up
    PausedGateway,
    /// A unit's broker hangs: it keeps its connections and confirms nothing
    GrayFailure,
    /// A gateway starts again with a table from before a move, cut off from etcd
    StaleGateway,
    /// The coordinator is killed at random points of moves
    CoordinatorLoss,
    /// All of etcd is killed for longer than any lease lives
    EtcdLoss,
}

impl Name {
    pub(super) const EACH: [Self; 14] = [
        Self::PlannedMove,
        Self::RuleChange,
        Self::MoveThatCannotDrain,
        Self::UnitLoss,
        Self::Failback,
        Self::FlappingUnit,
        Self::CutOffFromEtcd,
        Self::CutOffFromPeers,
        Self::CutOffFromAll,
        Self::PausedGateway,
        Self::GrayFailure,
        Self::StaleGateway,
        Self::CoordinatorLoss,
        Self::EtcdLoss,
    ];

    pub(super) fn as_str(self) -> String {
        let text = serde_json::to_value(self).unwrap_or_default();
        text.as_str().unwrap_or_default().to_owned()
    }
}
