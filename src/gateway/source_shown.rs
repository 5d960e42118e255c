//! What the status page shows of a source beside what its lanes say themselves.
//!
//! Owns the places of lanes that don't run yet, and the fault of a source that can't be spread. Never talks to a broker.

use super::shared::Shared;
use super::status::{LaneFacts, LaneState};
use crate::broker::Connection;
use crate::lane::Bank;
use crate::model::{Partition, SourceName};
use std::sync::Arc;

pub(super) struct Shown {
    shared: Arc<Shared>,
    source: SourceName,
    /// Shown in the status without running.
    partitions: Vec<Partition>,
    /// In a row.
    failures: u32,
}

impl Shown {
    pub(super) fn new(shared: Arc<Shared>, source: SourceName) -> Self {
        Self {
            shared,
            source,
            partitions: Vec::new(),
            failures: 0,
        }
    }

    /// Lanes that aren't known yet are shown, so that the gateway isn't taken for ready.
    pub(super) fn opening(&mut self, partitions: u16) {
        self.partitions = Bank::A.partitions(partitions).collect();
        self.show(LaneState::Opening, None);
    }

    /// It is retired, and nothing is left of it.
    pub(super) fn retired(&mut self) {
        self.partitions = Bank::A.partitions(1).collect();
        let cause = "its queues are empty and gone: take the source out of the documents";
        self.show(LaneState::Retired, Some(cause.to_owned()));
    }

    /// Said at once; the connection goes on trying by itself.
    pub(super) fn away(&self, control: &Connection) {
        let state = control.state();
        let cause = state.cause();
        let cause = cause.map(|cause| format!("the broker is away: {cause}"));
        self.show(LaneState::Opening, cause);
    }

    /// The source can't be spread, while so many of its lanes run.
    pub(super) fn failed(&mut self, cause: String, running: usize) {
        self.failures = self.failures.saturating_add(1);
        // A connection that is just lost fails one look, and the lanes say so themselves.
        if self.failures == 1 && running > 0 {
            return;
        }
        if self.failures <= 2 {
            tracing::warn!(source = %self.source, %cause, "a source can't be spread as it should");
        }
        self.show(LaneState::Down, Some(cause.clone()));
        let mend = "mend what the message names; the gateway tries again by itself";
        self.shared.status.set_fault(&self.subject(), cause, mend);
    }

    pub(super) fn mended(&mut self) {
        self.failures = 0;
        self.shared.status.clear_fault(&self.subject());
    }

    /// Only those of them are shown from now on that run, and say themselves how they are.
    pub(super) fn hide(&mut self, runs: impl Fn(&Partition) -> bool) {
        for partition in self.partitions.drain(..) {
            if !runs(&partition) {
                self.shared.status.drop_lane(&self.source, partition);
            }
        }
    }

    fn show(&self, state: LaneState, cause: Option<String>) {
        let facts = LaneFacts::of(state, cause);
        for partition in &self.partitions {
            let status = &self.shared.status;
            status.set_lane(&self.source, *partition, facts.clone());
        }
    }

    fn subject(&self) -> String {
        format!("source {}", self.source)
    }
}
