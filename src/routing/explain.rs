//! A decision for a person, with every step and its reason.
//!
//! Owns the JSON of `setgate explain` and its text. Runs the very code that routes.

use super::decision::Outcome;
use super::route::printed;
use super::source::Source;
use super::steps::{Recorded, Step};
use super::table::Table;
use crate::model::{Epoch, Message, Reason, RuleName, Slot, UnitId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A decision for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The rule that matched.
    pub rule: Option<RuleName>,
    /// The key.
    pub key: Option<String>,
    /// Its slot.
    pub slot: Option<Slot>,
    /// The unit that owns it.
    pub home: Option<UnitId>,
    /// The unit that serves it now.
    pub seat: Option<UnitId>,
    /// The units that get it; none when it is parked or dropped.
    pub targets: Vec<UnitId>,
    /// Why they do, or `park`, or `drop`, or `nobody`.
    pub why: String,
    /// Why it is parked or dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Where it is published at its targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver: Option<Published>,
    /// Of the table.
    pub epoch: Epoch,
    /// How it came to this.
    pub steps: Vec<Step>,
}

/// Where a message is published at its targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
}

/// Explains where a message goes that was published in unit `here` and visited none before.
pub fn explain(table: &Table, source: &Source, here: &UnitId, message: &Message) -> Explanation {
    let mut recorded = Recorded::default();
    let decision = table.route(source, here, &[], message, &mut recorded);
    let (targets, why, reason) = match decision.outcome {
        Outcome::Park(reason) => (Vec::new(), "park", Some(reason)),
        Outcome::Drop(reason) => (Vec::new(), "drop", Some(reason)),
        Outcome::Deliver(targets) => {
            let why = targets.first().map_or("nobody", |first| first.why.as_str());
            (targets, why, None)
        }
    };
    Explanation {
        rule: decision.rule,
        key: decision.key.as_ref().map(printed),
        slot: decision.slot,
        home: decision.home,
        seat: decision.seat,
        why: why.to_owned(),
        reason,
        deliver: targets.first().map(|first| Published {
            exchange: printed(&first.address.exchange),
            routing_key: printed(&first.address.routing_key),
        }),
        targets: targets.into_iter().map(|target| target.unit).collect(),
        epoch: table.epoch(),
        steps: recorded.steps,
    }
}

impl Explanation {
    /// What becomes of the message, in one line.
    pub fn headline(&self) -> String {
        let units: Vec<_> = self.targets.iter().map(UnitId::as_str).collect();
        match (self.reason, units.is_empty()) {
            (Some(reason), _) => format!("{}: {reason}", self.why),
            (None, true) => "nobody is left to deliver it to".to_owned(),
            (None, false) => format!("→ {} ({})", units.join(", "), self.why),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.headline())?;
        writeln!(f)?;
        for step in &self.steps {
            writeln!(f, "  {:<7} {:<10} {}", step.step, step.outcome, step.detail)?;
        }
        write!(f, "\n  by the table of epoch {}", self.epoch)
    }
}
