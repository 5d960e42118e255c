//! What changes from one set of files to another, for a person to read before it happens.
//!
//! Owns the comparison: files by their bytes, meaning by the documents in them. A document that only moved, or whose
//! comments changed, changes a file and has no effect.

use super::documents::{Documents, parse};
use super::fault::Placed;
use super::placement::Placement;
use super::rule::Rule;
use super::source::{Deliver, Source, Take};
use super::topology::Topology;
use super::tree::DocumentFile;
use super::validate::owned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Diff {
    /// The files that change, by name.
    pub documents: Vec<DocumentChange>,
    /// What that means, in words.
    pub effects: Vec<String>,
}

/// One file that changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentChange {
    /// Its name.
    pub file: String,
    /// How.
    pub change: Change,
}

/// How a file changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is new.
    Added,
    /// Its bytes differ.
    Changed,
    /// It is gone.
    Removed,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        })
    }
}

/// Compares two sets of files. What can't be read has no effect here; `validate` says why.
pub fn diff(old: &[DocumentFile], new: &[DocumentFile]) -> Diff {
    let (before, _) = parse(old);
    let (after, _) = parse(new);
    let mut effects = Vec::new();
    topology_effects(&before, &after, &mut effects);
    placement_effects(&before, &after, &mut effects);
    let by_name = |sources: &[Placed<Source>]| {
        sources
            .iter()
            .map(|source| (source.name.to_string(), source.value.clone()))
            .collect::<BTreeMap<_, _>>()
    };
    named_effects(
        "source",
        &by_name(&before.sources),
        &by_name(&after.sources),
        describe_source,
        source_changes,
        &mut effects,
    );
    left_behind(&before, &after, &mut effects);
    let by_name = |rules: &[Placed<Rule>]| {
        rules
            .iter()
            .map(|rule| (rule.name.to_string(), rule.value.clone()))
            .collect::<BTreeMap<_, _>>()
    };
    named_effects(
        "rule",
        &by_name(&before.rules),
        &by_name(&after.rules),
        describe_rule,
        rule_changes,
        &mut effects,
    );
    Diff {
        documents: file_changes(old, new),
        effects,
    }
}

fn file_changes(old: &[DocumentFile], new: &[DocumentFile]) -> Vec<DocumentChange> {
    let before: BTreeMap<_, _> = old.iter().map(|file| (&file.name, &file.text)).collect();
    let after: BTreeMap<_, _> = new.iter().map(|file| (&file.name, &file.text)).collect();
    let mut changes: Vec<_> = after
        .iter()
        .filter_map(|(name, text)| match before.get(name) {
            None => Some((*name, Change::Added)),
            Some(old) if old != text => Some((*name, Change::Changed)),
            Some(_) => None,
        })
        .chain(
            before
                .keys()
                .filter(|name| !after.contains_key(*name))
                .map(|name| (*name, Change::Removed)),
        )
        .map(|(name, change)| DocumentChange {
            file: name.clone(),
            change,
        })
        .collect();
    changes.sort_by(|a, b| a.file.cmp(&b.file));
    changes
}

/// Queues of sources that aren't there any more, and weren't emptied.
fn left_behind(before: &Documents, after: &Documents, effects: &mut Vec<String>) {
    for source in &before.sources {
        let name = &source.name.value;
        let stays = after.sources.iter().any(|one| one.name.value == *name);
        let own = matches!(source.take.value, Take::Exchange { .. });
        if own && !source.retired && !stays {
            effects.push(format!(
                "the queues of source {name} stay, bound and with what is in them, until it is put back; \
                 `setgate sources retire {name}` would empty and delete them first"
            ));
        }
    }
}

/// Added, changed and removed documents of one kind.
fn named_effects<T: PartialEq>(
    kind: &str,
    before: &BTreeMap<String, T>,
    after: &BTreeMap<String, T>,
    describe: impl Fn(&T) -> String,
    changes: impl Fn(&T, &T) -> Vec<String>,
    effects: &mut Vec<String>,
) {
    for (name, new) in after {
        match before.get(name) {
            None => effects.push(format!("{kind} {name} added: {}", describe(new))),
            Some(old) if old != new => {
                effects.push(format!(
                    "{kind} {name} changed: {}",
                    changes(old, new).join("; ")
                ));
            }
            Some(_) => {}
        }
    }
    for (name, old) in before {
        if !after.contains_key(name) {
            effects.push(format!("{kind} {name} removed: it was {}", describe(old)));
        }
    }
}

/// `what: before → after` for each that differs.
fn compare(pairs: Vec<(&str, String, String)>) -> Vec<String> {
    pairs
        .into_iter()
        .filter(|(_, before, after)| before != after)
        .map(|(what, before, after)| format!("{what} {before} → {after}"))
        .collect()
}

fn topology_effects(before: &Documents, after: &Documents, effects: &mut Vec<String>) {
    let (before, after) = match (&before.topology, &after.topology) {
        (None, None) => return,
        (None, Some(new)) => {
            let units: Vec<_> = new.units.iter().map(|unit| unit.name.as_str()).collect();
            effects.push(format!(
                "topology added: space {}, units {}",
                *new.space,
                units.join(", ")
            ));
            return;
        }
        (Some(_), None) => {
            effects.push("topology removed".to_owned());
            return;
        }
        (Some(old), Some(new)) => (old, new),
    };
    let describe = |topology: &Topology| {
        topology
            .units
            .iter()
            .map(|unit| {
                let standby: Vec<_> = unit.standby.iter().map(|one| one.as_str()).collect();
                let description = format!(
                    "at site {}, standby [{}], access {}",
                    *unit.site,
                    standby.join(", "),
                    unit.access.as_str()
                );
                (unit.name.to_string(), description)
            })
            .collect::<BTreeMap<_, _>>()
    };
    named_effects(
        "unit",
        &describe(before),
        &describe(after),
        Clone::clone,
        |old, new| vec![format!("{old} → {new}")],
        effects,
    );
    let center = |topology: &Topology| match topology.center() {
        Some(center) => center.to_string(),
        None => "nobody".to_owned(),
    };
    effects.extend(compare(vec![
        ("space", before.space.to_string(), after.space.to_string()),
        ("center", center(before), center(after)),
    ]));
    if before.sites != after.sites || before.cities != after.cities {
        effects.push("sites or cities changed".to_owned());
    }
    if before.failover != after.failover {
        effects.push("failover settings changed".to_owned());
    }
    if before.links != after.links {
        effects.push("link policies changed".to_owned());
    }
}

fn placement_effects(before: &Documents, after: &Documents, effects: &mut Vec<String>) {
    let describe = |placement: &Placement| {
        let ranges = owned(placement).into_iter();
        let ranges = ranges.map(|(first, last, unit)| format!("{first}-{last} {unit}"));
        let pinned = placement.pinned().into_iter();
        let pinned = pinned.map(|(key, unit)| format!("key {key:?} {unit}"));
        let all: Vec<_> = ranges.chain(pinned).collect();
        format!("{} slots: {}", *placement.slots, all.join(", "))
    };
    match (&before.placement, &after.placement) {
        (None, None) => {}
        (None, Some(new)) => effects.push(format!(
            "placement added: {}; it creates a space, and changes none that lives",
            describe(new)
        )),
        (Some(_), None) => effects.push("placement removed: the live one stays".to_owned()),
        (Some(old), Some(new)) => {
            let (old, new) = (describe(old), describe(new));
            if old != new {
                effects.push(format!(
                    "placement differs, and the live one stays (moves alone change it): {old} → {new}"
                ));
            }
        }
    }
}

fn describe_deliver(deliver: Option<&Deliver>) -> String {
    match deliver {
        None => "the taken exchange".to_owned(),
        Some(Deliver {
            exchange,
            routing_key: None,
        }) => exchange.clone(),
        Some(Deliver {
            exchange,
            routing_key: Some(key),
        }) => format!("{exchange} with routing key {key}"),
    }
}

fn describe_take(take: &Take) -> String {
    match take {
        Take::Exchange { exchange, bindings } => {
            let keys: Vec<_> = bindings
                .iter()
                .map(|one| one.routing_key.as_str())
                .collect();
            format!("exchange {exchange} ({})", keys.join(", "))
        }
        Take::Queue { queue } => format!("queue {queue}"),
    }
}

fn describe_key(source: &Source) -> String {
    let from: Vec<_> = source.key.from.iter().map(ToString::to_string).collect();
    format!("{} by {}", from.join(", then "), source.key.map)
}

fn describe_source(source: &Source) -> String {
    format!(
        "takes {}, delivers to {}, key from {}",
        describe_take(&source.take),
        describe_deliver(source.deliver.as_deref()),
        describe_key(source)
    )
}

fn source_changes(old: &Source, new: &Source) -> Vec<String> {
    let units = |source: &Source| match &source.units {
        None => "every unit".to_owned(),
        Some(units) => units
            .iter()
            .map(|unit| unit.as_str())
            .collect::<Vec<_>>()
            .join(", "),
    };
    let vhost = |source: &Source| source.vhost.clone().unwrap_or("the gateway's".to_owned());
    let returns = |source: &Source| match &source.returns {
        None => "nowhere".to_owned(),
        Some(exchange) => format!("exchange {}", **exchange),
    };
    let mut changes = compare(vec![
        ("takes", describe_take(&old.take), describe_take(&new.take)),
        (
            "delivers to",
            describe_deliver(old.deliver.as_deref()),
            describe_deliver(new.deliver.as_deref()),
        ),
        ("returns to", returns(old), returns(new)),
        ("key from", describe_key(old), describe_key(new)),
        ("taken in", units(old), units(new)),
        ("vhost", vhost(old), vhost(new)),
        (
            "partitions",
            old.partitions.value.to_string(),
            new.partitions.value.to_string(),
        ),
        (
            "queue type",
            old.queue_type.as_str().to_owned(),
            new.queue_type.as_str().to_owned(),
        ),
        ("retired", old.retired.to_string(), new.retired.to_string()),
    ]);
    if old.duplicates != new.duplicates {
        changes.push("what makes duplicates changed".to_owned());
    }
    if old.divert != new.divert {
        changes.push("limit of diversions changed".to_owned());
    }
    if changes.is_empty() {
        changes.push("binding arguments changed".to_owned());
    }
    changes
}

fn describe_rule(rule: &Rule) -> String {
    format!(
        "source {}, order {}, {} → {}{}",
        *rule.source,
        *rule.order,
        rule.when,
        *rule.route,
        match &rule.deliver {
            Some(deliver) => format!(" ({})", describe_deliver(Some(deliver))),
            None => String::new(),
        }
    )
}

fn rule_changes(old: &Rule, new: &Rule) -> Vec<String> {
    let deliver = |rule: &Rule| match &rule.deliver {
        None => "as the source says".to_owned(),
        Some(deliver) => describe_deliver(Some(deliver)),
    };
    let absent = |rule: &Rule| format!("{:?}", rule.key_absent).to_lowercase();
    let gray = |rule: &Rule| match &rule.gray {
        None => "none".to_owned(),
        Some(gray) => format!("{gray} to {}", *gray.unit),
    };
    compare(vec![
        ("route", old.route.to_string(), new.route.to_string()),
        ("when", old.when.to_string(), new.when.to_string()),
        ("order", old.order.to_string(), new.order.to_string()),
        ("source", old.source.to_string(), new.source.to_string()),
        ("deliver", deliver(old), deliver(new)),
        ("without a key", absent(old), absent(new)),
        ("gray", gray(old), gray(new)),
    ])
}
