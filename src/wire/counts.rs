//! How often a link port turned somebody away, by reason.

use crate::link::RefusalReason;
use std::sync::atomic::{AtomicU64, Ordering};

/// One counter per reason, shared by the port and the metrics.
#[derive(Debug)]
pub struct RefusedCounts {
    counts: Vec<AtomicU64>,
}

impl Default for RefusedCounts {
    fn default() -> Self {
        Self {
            counts: RefusalReason::ALL
                .iter()
                .map(|_| AtomicU64::new(0))
                .collect(),
        }
    }
}

impl RefusedCounts {
    /// Counts one more, and says how many there are now.
    pub fn add(&self, reason: RefusalReason) -> u64 {
        self.counts
            .get(reason.index())
            .map_or(0, |count| count.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// How often for this reason.
    pub fn of(&self, reason: RefusalReason) -> u64 {
        self.counts
            .get(reason.index())
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Every reason with its count.
    pub fn snapshot(&self) -> impl Iterator<Item = (RefusalReason, u64)> + '_ {
        RefusalReason::ALL
            .iter()
            .map(|reason| (*reason, self.of(*reason)))
    }
}
