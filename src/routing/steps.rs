//! The steps of a decision, kept or not.
//!
//! Owns what one step says. The gateway keeps none, so that a decision costs no text; `explain` keeps all.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Where the steps of a decision go.
pub trait Steps {
    /// Whether any is kept: then every rule is looked at, for why it didn't match.
    const KEPT: bool;

    /// One step; `make` is called only where it is kept.
    fn note(&mut self, make: impl FnOnce() -> Step);
}

/// Keeps nothing: what a gateway routes with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unrecorded;

impl Steps for Unrecorded {
    const KEPT: bool = false;

    fn note(&mut self, _make: impl FnOnce() -> Step) {}
}

/// Keeps every step: what `explain` routes with.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    /// In the order in which they were taken.
    pub steps: Vec<Step>,
}

impl Steps for Recorded {
    const KEPT: bool = true;

    fn note(&mut self, make: impl FnOnce() -> Step) {
        self.steps.push(make());
    }
}

/// One step of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which.
    pub step: StepName,
    /// What came of it, in a word.
    pub outcome: String,
    /// The reason.
    pub detail: String,
}

impl Step {
    pub(super) fn new(
        step: StepName,
        outcome: impl fmt::Display,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            step,
            outcome: outcome.to_string(),
            detail: detail.into(),
        }
    }
}

/// The steps, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepName {
    /// Where it has been.
    Trail,
    /// Which rule is about it.
    Rule,
    /// What its rule says and this version doesn't do.
    NotYet,
    /// What decides its owner.
    Key,
    /// Whether nobody may deliver its slot now.
    Fence,
    /// What becomes of it without a key.
    Policy,
    /// Whether its key is one that a unit owns by itself.
    Pin,
    /// Whether it is one of those that go elsewhere than to their owner.
    Gray,
    /// Who owns its slot.
    Range,
    /// Who serves that now.
    Seat,
    /// Where it goes.
    Target,
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Trail => "trail",
            Self::Rule => "rule",
            Self::NotYet => "not_yet",
            Self::Key => "key",
            Self::Fence => "fence",
            Self::Policy => "policy",
            Self::Pin => "pin",
            Self::Gray => "gray",
            Self::Range => "range",
            Self::Seat => "seat",
            Self::Target => "target",
        })
    }
}
