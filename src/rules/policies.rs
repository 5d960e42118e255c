//! What a rule says of the hours in which something is away: owners that are down, copies, promises, lag.
//!
//! Owns the shape of these fields, how they are read, and their defaults. This version reads, validates and explains
//! them, and does only what the defaults say: anything else is *not yet*, a warning of `validate` and a refusal of
//! `apply` and of gateways, so that nobody believes in a copy that isn't made.

use super::checks::{unit_consumes, unit_list};
use super::documents::Documents;
use super::fault::{Fault, FaultCode, Place, Placed};
use super::fields::{self, Fields};
use super::placement::Placement;
use super::rule::{Route, Rule};
use super::topology::Topology;
use super::tree::Node;
use crate::model::{SourceName, UnitId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// What a rule says of the hours in which something is away.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policies {
    /// While its owner is down.
    pub owner_down: OwnerDown,
    /// When nothing is bound at the target.
    pub owner_absent: OwnerAbsent,
    /// When the outcome is unknown and the unit was lost.
    pub in_doubt: InDoubt,
    /// When a message counts as sent.
    pub promise: Promise,
    /// Whether its publisher is told.
    pub receipt: bool,
    /// Who gets a copy besides its owner.
    pub copies: Option<Copies>,
    /// How old the oldest that isn't answered may become.
    pub max_lag: Option<MaxLag>,
}

/// While the owner of a message is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OwnerDown {
    /// Who stands in for it gets it.
    #[default]
    Standby,
    /// It waits for the owner.
    Hold,
}

/// When nothing is bound at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnerAbsent {
    /// Before anything is done about it.
    pub wait: Duration,
    /// What is done.
    pub then: AbsentThen,
}

/// What becomes of a message that nothing is bound for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AbsentThen {
    /// A person looks at it.
    #[default]
    Park,
    /// The center's seat gets it.
    Center,
}

/// When the outcome of a parcel is unknown and its unit was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InDoubt {
    /// It is sent again, marked.
    #[default]
    Resend,
    /// A person looks at it.
    Park,
}

/// When a message counts as sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Promise {
    /// When its target has confirmed it.
    #[default]
    Confirmed,
    /// When it has been written to the link.
    Rapid,
}

/// Who gets a copy besides the owner.
#[derive(Debug, Clone, PartialEq)]
pub struct Copies {
    /// Where it is written; no part of what it says.
    pub place: Placed<()>,
    /// Before the message counts as sent.
    pub now: Vec<Placed<UnitId>>,
    /// Some time after.
    pub later: Vec<Placed<UnitId>>,
    /// While one of `now` is away.
    pub degrade: Degrade,
}

/// While a unit that is to have a copy at once is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Degrade {
    /// The message goes on without.
    #[default]
    Allow,
    /// It waits.
    Block,
}

/// How old the oldest message that isn't answered may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxLag {
    /// By the sender's clock.
    pub age: Duration,
    /// What happens then.
    pub then: LagThen,
}

/// What happens when a lane lags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LagThen {
    /// Somebody is told.
    #[default]
    Alert,
    /// The lane's queue refuses publishes.
    Throttle,
}

/// Reads them from a rule; each that says anything but its default is noted as not yet enforced.
pub(super) fn read(fields: &mut Fields, faults: &mut Vec<Fault>) -> Policies {
    let default = Policies::default();
    let owner_down = fields.or("owner_down", default.owner_down, faults, |node, faults| {
        let words = [("standby", OwnerDown::Standby), ("hold", OwnerDown::Hold)];
        fields::word(node, "`owner_down`", &words, faults)
    });
    let in_doubt = choice(
        fields,
        "in_doubt",
        &[("resend", InDoubt::Resend), ("park", InDoubt::Park)],
        faults,
    );
    let promise = choice(
        fields,
        "promise",
        &[("confirmed", Promise::Confirmed), ("rapid", Promise::Rapid)],
        faults,
    );
    let receipt = fields.or("receipt", default.receipt, faults, |node, faults| {
        let place = node.place.clone();
        let read = fields::truth(node, "`receipt`", faults)?;
        if read {
            faults.push(not_yet(&place, "receipt", "false"));
        }
        Some(read)
    });
    let owner_absent = fields.or(
        "owner_absent",
        default.owner_absent,
        faults,
        read_owner_absent,
    );
    let copies = fields
        .optional("copies")
        .and_then(|node| read_copies(node, faults));
    let max_lag = fields
        .optional("max_lag")
        .and_then(|node| read_max_lag(node, faults));
    Policies {
        owner_down,
        owner_absent,
        in_doubt,
        promise,
        receipt,
        copies,
        max_lag,
    }
}

/// One of some words, of which the first is the default and all that this version does.
fn choice<T: Copy + Default + PartialEq>(
    fields: &mut Fields,
    name: &'static str,
    words: &[(&str, T)],
    faults: &mut Vec<Fault>,
) -> T {
    fields.or(name, T::default(), faults, |node, faults| {
        let place = node.place.clone();
        let read = fields::word(node, &format!("`{name}`"), words, faults)?;
        if read != T::default() {
            let default = words.first().map_or("", |(word, _)| word);
            faults.push(not_yet(&place, name, default));
        }
        Some(read)
    })
}

fn not_yet(place: &Place, name: &str, default: &str) -> Fault {
    fields::not_yet(place, &format!("`{name}` like this"), default)
}

fn read_owner_absent(node: Node, faults: &mut Vec<Fault>) -> Option<OwnerAbsent> {
    let mut fields = Fields::of(node, "`owner_absent`", faults)?;
    let default = OwnerAbsent::default();
    let wait = fields.or("wait", default.wait, faults, |node, faults| {
        fields::duration(&node, "`wait`", faults)
    });
    let then = fields.or("then", default.then, faults, |node, faults| {
        let words = [("park", AbsentThen::Park), ("center", AbsentThen::Center)];
        fields::word(node, "`then`", &words, faults)
    });
    fields.end(faults);
    Some(OwnerAbsent { wait, then })
}

fn read_copies(node: Node, faults: &mut Vec<Fault>) -> Option<Copies> {
    let mut fields = Fields::of(node, "`copies`", faults)?;
    let place = fields.place().clone();
    let units = |name, fields: &mut Fields, faults: &mut Vec<Fault>| {
        fields.or(name, Vec::new(), faults, |node, faults| {
            fields::names(node, "unit", UnitId::parse, faults)
        })
    };
    let now = units("now", &mut fields, faults);
    let later = units("later", &mut fields, faults);
    let degrade = fields.or("degrade", Degrade::default(), faults, |node, faults| {
        let words = [("allow", Degrade::Allow), ("block", Degrade::Block)];
        fields::word(node, "`degrade`", &words, faults)
    });
    fields.end(faults);
    faults.push(not_yet(&place, "copies", fields::NOTHING));
    Some(Copies {
        place: Placed { value: (), place },
        now,
        later,
        degrade,
    })
}

fn read_max_lag(node: Node, faults: &mut Vec<Fault>) -> Option<MaxLag> {
    let mut fields = Fields::of(node, "`max_lag`", faults)?;
    let place = fields.place().clone();
    let age = fields.must("age", faults, |node, faults| {
        fields::duration(&node, "`age`", faults)
    });
    let then = fields.or("then", LagThen::default(), faults, |node, faults| {
        let words = [("alert", LagThen::Alert), ("throttle", LagThen::Throttle)];
        fields::word(node, "`then`", &words, faults)
    });
    fields.end(faults);
    faults.push(not_yet(&place, "max_lag", fields::NOTHING));
    Some(MaxLag { age: age?, then })
}

/// Whether the units of the copies exist, may be delivered to, and aren't the owner itself; whether they are far away.
pub(super) fn check(
    documents: &Documents,
    placement: Option<&Placement>,
    faults: &mut Vec<Fault>,
    warnings: &mut Vec<Fault>,
) {
    let Some(topology) = &documents.topology else {
        return;
    };
    holders(documents, faults);
    for rule in &documents.rules {
        let Some(copies) = &rule.policies.copies else {
            continue;
        };
        let all: Vec<_> = copies.now.iter().chain(&copies.later).cloned().collect();
        unit_list(topology, &all, "a unit that gets copies", faults);
        let homes = homes(rule, topology, placement);
        for unit in &all {
            unit_consumes(topology, unit, "a unit that gets copies", faults);
            if homes.len() == 1 && homes.contains(&unit.value) {
                faults.push(Fault::at(
                    &unit.place,
                    FaultCode::CopyAtHome,
                    format!(
                        "rule {} wants copies in {}, where all of its messages go anyway",
                        *rule.name, unit.value
                    ),
                    "name another unit",
                ));
            }
        }
        if let Some(fault) = far_copies(rule, copies, &homes, topology) {
            warnings.push(fault);
        }
    }
}

/// Who owns messages of a rule; none where it has no owner.
fn homes<'a>(
    rule: &'a Rule,
    topology: &'a Topology,
    placement: Option<&'a Placement>,
) -> BTreeSet<&'a UnitId> {
    match &rule.route.value {
        Route::Owner => placement
            .into_iter()
            .flat_map(|placement| {
                let pins = placement.pins.iter().map(|pin| &pin.unit.value);
                let ranges = placement.ranges.iter().map(|range| &range.unit.value);
                ranges.chain(pins)
            })
            .collect(),
        Route::Center => topology.center().into_iter().collect(),
        Route::Units(units) => units.iter().map(|unit| &unit.value).collect(),
        Route::Shared | Route::Local | Route::Park | Route::Drop => BTreeSet::new(),
    }
}

/// A copy that is awaited from another city: every message takes that round trip, and that city's loss holds it up.
fn far_copies(
    rule: &Rule,
    copies: &Copies,
    homes: &BTreeSet<&UnitId>,
    topology: &Topology,
) -> Option<Fault> {
    let city = |unit: &UnitId| topology.city_of(unit);
    for unit in &copies.now {
        let there = city(&unit.value)?;
        let apart = homes.iter().find(|home| city(home) != Some(there));
        if let Some(home) = apart {
            return Some(Fault::at(
                &unit.place,
                FaultCode::CopiesAcrossCities,
                format!(
                    "messages of rule {} that {home} owns wait for a copy in another city, {there}",
                    *rule.name
                ),
                "copy to a unit of the same city at once, and across cities `later`, unless that is what you want",
            ));
        }
    }
    None
}

/// What waits for a unit lies in one queue for each source: in front of what somebody stands in for, it would hold that too.
fn holders(documents: &Documents, faults: &mut Vec<Fault>) {
    let mut firsts: BTreeMap<&SourceName, &Rule> = BTreeMap::new();
    for rule in &documents.rules {
        if !matches!(rule.route.value, Route::Owner | Route::Center) {
            continue;
        }
        let first = firsts.entry(&rule.source.value).or_insert(rule);
        if first.policies.owner_down != rule.policies.owner_down {
            faults.push(Fault::at(
                &rule.name.place,
                FaultCode::BadValue,
                format!(
                    "rules {} and {} of source {} say different things of an owner that is down",
                    *first.name, *rule.name, *rule.source
                ),
                "write the same `owner_down` in all rules of a source that lead to owners or the center, or give one kind a source of its own",
            ));
        }
    }
}

impl Policies {
    /// What of it this version doesn't do, for a person; empty where all is at its default.
    pub fn unenforced(&self) -> String {
        let default = Self::default();
        let mut parts = Vec::new();
        if self.in_doubt != default.in_doubt {
            parts.push("in_doubt: park".to_owned());
        }
        if self.promise != default.promise {
            parts.push("promise: rapid".to_owned());
        }
        if self.receipt {
            parts.push("receipt".to_owned());
        }
        if let Some(copies) = &self.copies {
            parts.push(format!("copies: {copies}"));
        }
        if let Some(lag) = &self.max_lag {
            let then = match lag.then {
                LagThen::Alert => "alert",
                LagThen::Throttle => "throttle",
            };
            parts.push(format!("max_lag: {:?}, then {then}", lag.age));
        }
        parts.join("; ")
    }
}

impl fmt::Display for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |units: &[Placed<UnitId>]| {
            let names: Vec<&str> = units.iter().map(|unit| unit.as_str()).collect();
            if names.is_empty() {
                "nowhere".to_owned()
            } else {
                names.join(", ")
            }
        };
        let degrade = match self.degrade {
            Degrade::Allow => "going on",
            Degrade::Block => "waiting",
        };
        write!(
            f,
            "now {}, later {}, {degrade} while one is away",
            names(&self.now),
            names(&self.later)
        )
    }
}
