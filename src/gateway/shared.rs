//! What every task of the gateway may look at: who it is, the rules in force, the broker, the links, the counters.

use super::brokers::Brokers;
use super::failpoint::Failpoint;
use super::fencing::Fencing;
use super::journal::Journal;
use super::links::Links;
use super::metrics::Metrics;
use super::probe::Probe;
use super::right::Rights;
use super::status::StatusHub;
use crate::lane::{Limits, Moment};
use crate::link::Here;
use crate::model::SealKeys;
use crate::routing::Table;
use crate::wire::ReceiverPipe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

/// What messages are routed and marked by: one table and the keys of the marks' seal, swapped together.
#[derive(Debug)]
pub(super) struct Rules {
    /// In force.
    pub(super) table: Arc<Table>,
    /// Of the space.
    pub(super) keys: Arc<SealKeys>,
}

/// See the file's head.
pub(super) struct Shared {
    pub(super) here: Here,
    pub(super) limits: Limits,
    pub(super) memory_bytes: usize,
    pub(super) drain: Duration,
    pub(super) rules: watch::Receiver<Option<Arc<Rules>>>,
    pub(super) brokers: Brokers,
    pub(super) links: Links,
    /// Streams to this gateway's receivers, from links and from its own lanes.
    pub(super) incoming: mpsc::Sender<ReceiverPipe>,
    /// What the unit has received.
    pub(super) journal: Journal,
    /// What is under way of slots that are being moved.
    pub(super) fencing: Arc<Fencing>,
    /// Whether the broker confirms.
    pub(super) probe: Probe,
    /// Whether this gateway may deliver what its unit serves.
    pub(super) rights: Rights,
    pub(super) failpoint: Failpoint,
    pub(super) status: StatusHub,
    pub(super) metrics: Metrics,
    pub(super) tracker: TaskTracker,
}

impl Shared {
    /// The rules in force; none until the first table.
    pub(super) fn rules(&self) -> Option<Arc<Rules>> {
        self.rules.borrow().clone()
    }

    /// How many lanes this unit has by the rules in force, at least one.
    pub(super) fn lanes_taken(&self) -> usize {
        let rules = self.rules();
        rules.map_or(1, |rules| rules.table.lanes_of(&self.here.unit).max(1))
    }

    /// Now, by both clocks.
    pub(super) fn moment() -> Moment {
        let unix_seconds = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
        Moment {
            now: tokio::time::Instant::now().into_std(),
            unix_seconds,
        }
    }
}
