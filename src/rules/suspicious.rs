//! What is legal, and probably not meant.

use super::documents::Documents;
use super::fault::{Fault, FaultCode};
use super::placement::Placement;
use super::rule::Rule;
use super::source::{Source, Take};
use super::topic::TopicPattern;
use super::topology::{Takeover, Topology};
use std::collections::{HashMap, HashSet};

pub(super) fn warn(
    documents: &Documents,
    placement: Option<&Placement>,
    warnings: &mut Vec<Fault>,
) {
    if let Some(topology) = &documents.topology {
        across_cities(topology, warnings);
        if let Some(placement) = placement {
            units_without_slots(topology, placement, warnings);
        }
    }
    let sources = documents.sources.iter();
    let sources: HashMap<_, _> = sources.map(|one| (&one.name.value, one)).collect();
    for rule in &documents.rules {
        if let Some(source) = sources.get(&rule.source.value) {
            never_matches(rule, source, warnings);
        }
    }
}

fn across_cities(topology: &Topology, warnings: &mut Vec<Fault>) {
    if topology.failover.across_cities == Takeover::Automatic && topology.cities.len() > 1 {
        warnings.push(Fault::at(
            &topology.space.place,
            FaultCode::AcrossCities,
            "the loss of a city is answered automatically: what its units had confirmed and not yet copied is left behind without a person's word",
            "write `across_cities: manual`, unless that is what you want",
        ));
    }
}

fn units_without_slots(topology: &Topology, placement: &Placement, warnings: &mut Vec<Fault>) {
    let ranges = placement.ranges.iter().map(|range| &range.unit.value);
    let pins = placement.pins.iter().map(|pin| &pin.unit.value);
    let owners: HashSet<_> = ranges.chain(pins).collect();
    for unit in &topology.units {
        if unit.access.value.consumes() && !owners.contains(&unit.name.value) {
            warnings.push(Fault::at(
                &unit.name.place,
                FaultCode::NoSlots,
                format!("unit {} owns no slot and no key", *unit.name),
                "give it some by a move, or write `access: produce-only` where nothing is to be delivered",
            ));
        }
    }
}

fn never_matches(rule: &Rule, source: &Source, warnings: &mut Vec<Fault>) {
    let (Some(pattern), Take::Exchange { bindings, .. }) =
        (&rule.when.routing_key, &source.take.value)
    else {
        return;
    };
    // A binding with arguments, or without a routing key, is one of a headers or a fanout exchange: those take any.
    let takes_any = bindings
        .iter()
        .any(|binding| binding.routing_key.is_empty() || binding.arguments.iter().next().is_some());
    let meets = |key: &str| TopicPattern::parse(key).is_ok_and(|binding| binding.meets(pattern));
    if !takes_any && !bindings.iter().any(|binding| meets(&binding.routing_key)) {
        let keys: Vec<&str> = bindings
            .iter()
            .map(|binding| binding.routing_key.as_str())
            .collect();
        warnings.push(Fault::at(
            &rule.name.place,
            FaultCode::NeverMatches,
            format!(
                "rule {} is about routing keys like {}, and source {} takes only {}",
                *rule.name,
                pattern.as_str(),
                *source.name,
                keys.join(", ")
            ),
            "correct the pattern, or add a binding to the source",
        ));
    }
}
