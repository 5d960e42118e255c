//! Since when nothing is bound, in a unit, for what a rule sends there.
//!
//! Promises that a message is put off for no longer than its rule says since the first one that came back, and that one
//! which found its way ends an absence. Never reads a clock, knows no table.

use crate::model::{RuleName, UnitId};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// See the file's head. One place for each unit and rule.
#[derive(Debug, Default)]
pub(super) struct Absent {
    since: BTreeMap<(UnitId, RuleName), Instant>,
}

impl Absent {
    /// One came back: whether what the rule sends waits still.
    pub(super) fn waits(
        &mut self,
        unit: &UnitId,
        rule: &RuleName,
        wait: Duration,
        now: Instant,
    ) -> bool {
        let since = *self
            .since
            .entry((unit.clone(), rule.clone()))
            .or_insert(now);
        now.saturating_duration_since(since) < wait
    }

    /// One was taken.
    pub(super) fn ends(&mut self, unit: &UnitId, rule: Option<&RuleName>) {
        if self.since.is_empty() {
            return;
        }
        if let Some(rule) = rule {
            self.since.remove(&(unit.clone(), rule.clone()));
        }
    }
}
