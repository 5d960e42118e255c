//! Whether a change of documents can give keys of a live source another owner.
//!
//! Such a change comes in force by a move: messages of one key that are under way to both owners would overtake each other. Owns the
//! comparison, which errs on the side of a move: rules are compared, not the messages that they might be about.

use super::condition::When;
use super::documents::Documents;
use super::fault::{Fault, FaultCode, Place};
use super::gray::Gray;
use super::rule::{KeyAbsent, Route, Rule};
use super::source::Source;
use crate::model::{SourceName, UnitId};
use serde::{Deserialize, Serialize};

/// A source whose keys may get other owners.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerChange {
    /// Its name.
    pub source: SourceName,
    /// Why and where, for whoever waits for it.
    pub fault: Fault,
}

/// What of a rule decides where messages go.
#[derive(Debug, PartialEq)]
struct Leads<'a> {
    when: &'a When,
    route: &'a Route,
    key_absent: Option<KeyAbsent>,
    gray: Option<&'a Gray>,
    /// Where it can lead there.
    center: Option<&'a UnitId>,
}

/// The sources that are in force, and whose keys the new documents may give to others.
pub(super) fn changes(before: &Documents, after: &Documents) -> Vec<OwnerChange> {
    let mut changes = Vec::new();
    for source in &after.sources {
        let name = &source.name.value;
        if !before.sources.iter().any(|old| old.name.value == *name) {
            continue;
        }
        let (old, new) = (rules_of(before, name), rules_of(after, name));
        if old.is_empty() || new.is_empty() {
            // Nothing has been delivered, or nothing will be: there is one owner at most.
            continue;
        }
        let old_leads: Vec<_> = old.iter().map(|rule| lead(before, rule)).collect();
        let new_leads: Vec<_> = new.iter().map(|rule| lead(after, rule)).collect();
        if old_leads == new_leads {
            continue;
        }
        let same = old_leads.iter().zip(&new_leads);
        let at = same.take_while(|(old, new)| old == new).count();
        let what = match (old.get(at), new.get(at)) {
            (Some(old), Some(new)) if old.name.value == new.name.value => {
                format!("rule {} leads elsewhere", new.name.value)
            }
            (Some(old), Some(new)) => format!(
                "rule {} stands where rule {} stood",
                new.name.value, old.name.value
            ),
            (None, Some(new)) => format!("rule {} is new", new.name.value),
            (Some(old), None) => format!("rule {} is gone", old.name.value),
            (None, None) => continue,
        };
        changes.push(OwnerChange {
            source: name.clone(),
            fault: needs_move(source, &what, place(source, new.get(at).copied())),
        });
    }
    changes
}

fn needs_move(source: &Source, what: &str, place: &Place) -> Fault {
    Fault::at(
        place,
        FaultCode::NeedsMove,
        format!(
            "keys of source {} may get other owners: {what}; that comes in force by a move, so that messages of one key don't overtake each other",
            source.name.value
        ),
        format!(
            "the coordinator makes that move: `setgate move status` says how far it is; one that was undone is asked for again with `setgate move start --source {}`",
            source.name.value
        ),
    )
}

fn place<'a>(source: &'a Source, rule: Option<&'a Rule>) -> &'a Place {
    rule.map_or(&source.name.place, |rule| &rule.name.place)
}

/// Those that deliver, in their order: what is parked or dropped has no owner.
fn rules_of<'a>(documents: &'a Documents, source: &SourceName) -> Vec<&'a Rule> {
    let of_source = documents.rules.iter().map(|rule| &rule.value);
    let mut rules: Vec<&Rule> = of_source
        .filter(|rule| rule.source.value == *source && rule.route.delivers())
        .collect();
    rules.sort_by_key(|rule| rule.order.value);
    rules
}

fn lead<'a>(documents: &'a Documents, rule: &'a Rule) -> Leads<'a> {
    let by_key = rule.route.value == Route::Owner;
    let to_center =
        rule.route.value == Route::Center || (by_key && rule.key_absent == KeyAbsent::Center);
    let topology = documents.topology.as_ref();
    Leads {
        when: &rule.when,
        route: &rule.route.value,
        key_absent: by_key.then_some(rule.key_absent),
        gray: rule.gray.as_ref(),
        center: topology
            .filter(|_| to_center)
            .and_then(|topology| topology.center()),
    }
}
