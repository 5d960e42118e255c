//! The metrics of who serves what: fences, moves, units.
//!
//! Owns their names and meaning; they are in the gateway's one registry.

use super::metrics::{MetricsError, gauges, plain};
use crate::model::{Moves, Stage, UnitId};
use prometheus::{IntGauge, IntGaugeVec, Registry};

/// Handles of them.
#[derive(Debug)]
pub struct OwnershipMetrics {
    fenced_slots: IntGauge,
    coordinator: IntGauge,
    moves: IntGaugeVec,
    unit_state: IntGaugeVec,
}

/// How a unit is, as a gateway knows it by etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitIs {
    /// Some gateway of it holds its lease and says that its broker takes confirms.
    Up,
    /// None does, for less than the grace.
    Doubtful,
    /// None does, for longer.
    Down,
    /// Another unit stands in for it, or is about to.
    Fenced,
}

impl UnitIs {
    const ALL: [Self; 4] = [Self::Up, Self::Doubtful, Self::Down, Self::Fenced];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Doubtful => "doubtful",
            Self::Down => "down",
            Self::Fenced => "fenced",
        }
    }
}

impl OwnershipMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, MetricsError> {
        Ok(Self {
            fenced_slots: plain(
                r,
                "setgate_fenced_slots",
                IntGauge::new,
                "Slots that nobody may deliver now: they are being moved.",
            )?,
            coordinator: plain(
                r,
                "setgate_coordinator",
                IntGauge::new,
                "Whether this gateway advances the space's moves.",
            )?,
            moves: gauges(
                r,
                "setgate_moves",
                "Moves that the space knows of, by stage; said by the coordinator alone.",
                &["stage"],
            )?,
            unit_state: gauges(
                r,
                "setgate_unit_state",
                "1 for how a unit is, as this gateway knows it by etcd: up, doubtful, down, fenced.",
                &["unit", "state"],
            )?,
        })
    }

    /// How many slots are fenced by the table in force.
    pub fn fenced_slots(&self, count: u64) {
        self.fenced_slots.set(gauge(count));
    }

    /// Whether this gateway leads.
    pub fn coordinator(&self) -> &IntGauge {
        &self.coordinator
    }

    /// Counts moves by stage.
    pub fn moves(&self, moves: &Moves) {
        for stage in Stage::ALL {
            let count = moves.values().filter(|one| one.stage == stage).count();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.moves.with_label_values(&[stage.as_str()]).set(count);
        }
    }

    /// How a unit is.
    pub fn unit(&self, unit: &UnitId, is: UnitIs) {
        for state in UnitIs::ALL {
            let labels = [unit.as_str(), state.as_str()];
            let gauge = self.unit_state.with_label_values(&labels);
            gauge.set(i64::from(state == is));
        }
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
