//! The checks between documents: names that must exist, rules that hide each other, loops, sizes.
//!
//! Each check notes its faults and goes on. What a document that couldn't be read names is not called unknown or missing:
//! it may be what stands in there.

use super::documents::Documents;
use super::fault::{Fault, FaultCode, Place, Placed};
use super::placement::Placement;
use super::rule::{Route, Rule};
use super::source::{Deliver, KeyFrom, KeyMap, Source, Take};
use super::topology::{Access, Isolated, Takeover, Topology};
use super::tree::DocumentFile;
use crate::model::{SourceName, SpaceId, UnitId};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What etcd takes in one transaction by default (`--max-txn-ops`), and what `apply` needs besides the files:
/// placement, seats, seal and history.
const TRANSACTION_KEYS_MAX: usize = 128;
const TRANSACTION_KEYS_BESIDES: usize = 4;

/// What etcd takes in one request by default (`--max-request-bytes`).
const TRANSACTION_BYTES_MAX: usize = 3 << 19;

/// A file is written twice in one transaction: as a wish, and in force.
const WRITES_PER_FILE: usize = 2;

pub(super) fn topology(documents: &Documents, space: Option<&SpaceId>, faults: &mut Vec<Fault>) {
    let Some(topology) = &documents.topology else {
        return;
    };
    if let Some(space) = space
        && *space != topology.space.value
    {
        faults.push(Fault::at(
            &topology.space.place,
            FaultCode::WrongSpace,
            format!(
                "these documents are for space {}, and the space here is {space}",
                topology.space.value
            ),
            format!("write `space: {space}`, or use the folder of {space}"),
        ));
    }
    let cities: HashSet<_> = topology.cities.iter().map(|city| &city.value).collect();
    for site in &topology.sites {
        if !cities.contains(&site.city.value) && !topology.incomplete {
            faults.push(Fault::at(
                &site.city.place,
                FaultCode::UnknownCity,
                format!("site {} is in an unknown city, {}", *site.name, *site.city),
                known("cities", topology.cities.iter().map(|city| city.as_str())),
            ));
        }
    }
    let sites: HashSet<_> = topology.sites.iter().map(|site| &site.name.value).collect();
    for unit in &topology.units {
        if !sites.contains(&unit.site.value) && !topology.incomplete {
            faults.push(Fault::at(
                &unit.site.place,
                FaultCode::UnknownSite,
                format!("unit {} is at an unknown site, {}", *unit.name, *unit.site),
                known(
                    "sites",
                    topology.sites.iter().map(|site| site.name.as_str()),
                ),
            ));
        }
        unit_list(topology, &unit.standby, "a stand-in", faults);
        for standby in &unit.standby {
            if standby.value == unit.name.value {
                faults.push(Fault::at(
                    &standby.place,
                    FaultCode::OwnStandby,
                    format!("unit {} stands by for itself", *unit.name),
                    "name other units",
                ));
            }
        }
    }
    if let Some(center) = &topology.center {
        unit_exists(topology, center, "the center", faults);
        unit_consumes(topology, center, "the center", faults);
    }
    for link in &topology.links {
        for end in [&link.from, &link.to].into_iter().flatten() {
            unit_exists(topology, end, "a link's end", faults);
        }
    }
    failover(topology, faults);
}

fn failover(topology: &Topology, faults: &mut Vec<Fault>) {
    let failover = &topology.failover;
    let sites = topology.sites.len();
    if let Some(place) = &failover.sites_down_max_place
        && !topology.incomplete
        && failover.sites_down_max > 0
        && failover.sites_down_max as usize >= sites
    {
        faults.push(Fault::at(
            place,
            FaultCode::SitesDownMax,
            format!(
                "{} sites down at once would leave no survivor of {sites}",
                failover.sites_down_max
            ),
            format!("write at most {}", sites.saturating_sub(1)),
        ));
    }
    let automatic = failover.within_city == Takeover::Automatic
        || failover.across_cities == Takeover::Automatic;
    if automatic && failover.isolated.value == Isolated::Continue {
        faults.push(Fault::at(
            &failover.isolated.place,
            FaultCode::IsolatedContinue,
            "a unit that goes on while it is isolated can't be failed over automatically: two units would serve its slots",
            "write `isolated: fence`, or both `within_city: manual` and `across_cities: manual`",
        ));
    }
}

pub(super) fn placement(
    documents: &Documents,
    placement: Option<&Placement>,
    faults: &mut Vec<Fault>,
) {
    let (Some(topology), Some(placement)) = (&documents.topology, placement) else {
        return;
    };
    for range in &placement.ranges {
        unit_exists(topology, &range.unit, "the owner of a range", faults);
        unit_consumes(topology, &range.unit, "the owner of a range", faults);
    }
    for pin in &placement.pins {
        unit_exists(topology, &pin.unit, "the owner of a pinned key", faults);
        unit_consumes(topology, &pin.unit, "the owner of a pinned key", faults);
    }
}

pub(super) fn sources(
    documents: &Documents,
    placement: Option<&Placement>,
    faults: &mut Vec<Fault>,
    warnings: &mut Vec<Fault>,
) {
    let mut seen: HashMap<&SourceName, &Place> = HashMap::new();
    let ruled: HashSet<_> = documents
        .rules
        .iter()
        .map(|rule| &rule.source.value)
        .collect();
    for source in &documents.sources {
        if let Some(first) = seen.insert(&source.name.value, &source.name.place) {
            faults.push(repeated(
                &source.name.place,
                "source",
                source.name.as_str(),
                first,
            ));
        }
        if let (Some(topology), Some(units)) = (&documents.topology, &source.units) {
            unit_list(topology, units, "where the source is taken", faults);
            for unit in units {
                unit_produces(topology, unit, faults);
            }
        }
        if !ruled.contains(&source.name.value) && !documents.may_name(source.name.as_str()) {
            warnings.push(Fault::at(
                &source.name.place,
                FaultCode::NoRules,
                format!(
                    "no rule is about source {}, so all of it is parked",
                    *source.name
                ),
                "add a document of `kind: rule`",
            ));
        }
        partitions(source, faults);
        if let (true, Take::Queue { queue }) = (source.retired, &source.take.value) {
            faults.push(Fault::at(
                &source.name.place,
                FaultCode::BadValue,
                format!(
                    "source {} takes from queue {queue}, which isn't setgate's to empty and delete",
                    *source.name
                ),
                "delete the source instead: the queue stays as it is",
            ));
        }
        if let (KeyMap::LastDigits(digits), Some(placement)) = (source.key.map, placement)
            && 10u64.saturating_pow(u32::from(digits)) < u64::from(placement.slots.value)
        {
            warnings.push(Fault::at(
                &source.key_place.place,
                FaultCode::KeyMap,
                format!(
                    "{digits} digits reach only {} of {} slots, so owners of the others get nothing",
                    10u64.saturating_pow(u32::from(digits)),
                    placement.slots.value
                ),
                "take more digits, or another map",
            ));
        }
    }
}

/// The broker spreads a source over its partitions, and sees neither bodies nor words of a routing key.
fn partitions(source: &Source, faults: &mut Vec<Fault>) {
    if source.partitions.value == 1 {
        return;
    }
    let fault = |message: String, mend: &str| {
        Fault::at(
            &source.partitions.place,
            FaultCode::Partitions,
            message,
            mend,
        )
    };
    match &source.take.value {
        Take::Queue { queue } => faults.push(fault(
            format!("queue {queue} is one queue and can't be spread over partitions"),
            "take an exchange instead, or leave `partitions` out",
        )),
        Take::Exchange { .. } => match source.key.from.first() {
            Some(KeyFrom::Header(_) | KeyFrom::RoutingKey) | None => {}
            Some(other @ (KeyFrom::RoutingKeyWord(_) | KeyFrom::Json(_))) => faults.push(fault(
                format!("the broker can't spread messages by {other}"),
                "let `key.from` begin with {header: NAME} or {routing_key: whole}, or leave `partitions` out",
            )),
        },
    }
}

pub(super) fn rules(documents: &Documents, faults: &mut Vec<Fault>) {
    let sources: HashMap<&SourceName, &Source> = documents
        .sources
        .iter()
        .rev()
        .map(|source| (&source.name.value, &source.value))
        .collect();
    let mut names: HashMap<_, &Place> = HashMap::new();
    let mut by_source: BTreeMap<&SourceName, Vec<&Rule>> = BTreeMap::new();
    for rule in &documents.rules {
        if let Some(first) = names.insert(&rule.name.value, &rule.name.place) {
            faults.push(repeated(
                &rule.name.place,
                "rule",
                rule.name.as_str(),
                first,
            ));
        }
        by_source.entry(&rule.source.value).or_default().push(rule);
        match sources.get(&rule.source.value) {
            Some(source) => rule_and_source(rule, source, faults),
            None if documents.may_name(rule.source.as_str()) => {}
            None => faults.push(Fault::at(
                &rule.source.place,
                FaultCode::UnknownSource,
                format!(
                    "rule {} is about an unknown source, {}",
                    *rule.name, *rule.source
                ),
                known("sources", sources.keys().map(|name| name.as_str())),
            )),
        }
        if let (Some(topology), Some(gray)) = (&documents.topology, &rule.gray) {
            unit_exists(topology, &gray.unit, "the unit of a gray share", faults);
            unit_consumes(topology, &gray.unit, "the unit of a gray share", faults);
        }
        if let Some(gray) = &rule.gray
            && rule.route.value != Route::Owner
        {
            faults.push(Fault::at(
                &gray.place.place,
                FaultCode::BadValue,
                format!(
                    "rule {} has a gray share, and its route is {}: there is no owner to take a share from",
                    *rule.name, *rule.route
                ),
                "write `route: owner`, or leave `gray` out",
            ));
        }
        if let (Some(topology), Route::Units(units)) = (&documents.topology, &rule.route.value) {
            unit_list(topology, units, "a target", faults);
            for unit in units {
                unit_consumes(topology, unit, "a target", faults);
            }
        }
    }
    for rules in by_source.values_mut() {
        rules.sort_by_key(|rule| rule.order.value);
        order(rules, faults);
    }
}

fn order(rules: &[&Rule], faults: &mut Vec<Fault>) {
    // Conditions that look the same to a person are the same: the first rule of each, and the first that takes all.
    let mut first: HashMap<String, &Rule> = HashMap::new();
    let mut takes_all: Option<&Rule> = None;
    for (n, rule) in rules.iter().enumerate() {
        if n > 0 && rules[n - 1].order.value == rule.order.value {
            faults.push(Fault::at(
                &rule.order.place,
                FaultCode::EqualOrders,
                format!(
                    "rules {} and {} of source {} have the same order, {}",
                    *rules[n - 1].name,
                    *rule.name,
                    *rule.source,
                    *rule.order
                ),
                "give each rule of a source its own order",
            ));
        }
        let same: &Rule = first.entry(rule.when.to_string()).or_insert(rule);
        let hider = takes_all.or(Some(same).filter(|same| same.when == rule.when));
        if let Some(hider) = hider.filter(|hider| hider.order.value < rule.order.value) {
            faults.push(Fault::at(
                &rule.name.place,
                FaultCode::HiddenRule,
                format!(
                    "rule {} is never reached: rule {} before it takes {}",
                    *rule.name,
                    *hider.name,
                    if hider.when.takes_all() {
                        "every message"
                    } else {
                        "the same messages"
                    }
                ),
                format!("give {} a lower order, or delete it", *rule.name),
            ));
        }
        if takes_all.is_none() && rule.when.takes_all() {
            takes_all = Some(rule);
        }
    }
}

fn rule_and_source(rule: &Rule, source: &Source, faults: &mut Vec<Fault>) {
    let route = &rule.route;
    if !route.delivers() {
        return;
    }
    let shared = route.value == Route::Shared;
    if shared && matches!(source.take.value, Take::Queue { .. }) {
        faults.push(Fault::at(
            &route.place,
            FaultCode::SharedOnQueue,
            format!(
                "rule {} shares what source {} takes from a queue, and the consumers of that queue would miss it",
                *rule.name, *source.name
            ),
            "take from the exchange in front of the queue, or choose another route",
        ));
    }
    let Some(deliver) = rule.deliver.as_ref().or(source.deliver.as_ref()) else {
        if !shared {
            faults.push(Fault::at(
                &route.place,
                FaultCode::NoDeliver,
                format!(
                    "rule {} delivers, and neither it nor source {} says to which exchange",
                    *rule.name, *source.name
                ),
                "add `deliver: {exchange: NAME}` to the source",
            ));
        }
        return;
    };
    if !shared && delivers_to_itself(&source.take.value, deliver) && !apart(rule, source) {
        faults.push(Fault::at(
            &deliver.place,
            FaultCode::SelfDelivery,
            format!(
                "rule {} would deliver into what source {} takes from, again and again",
                *rule.name, *source.name
            ),
            "deliver to an exchange that the applications' queues are bound to, such as NAME.local",
        ));
    }
}

/// What is returned into the exchange that it was taken from would go round until it has made its last round.
pub(super) fn returns(documents: &Documents, faults: &mut Vec<Fault>) {
    for source in &documents.sources {
        if let (Some(returns), Take::Exchange { exchange, .. }) =
            (&source.returns, &source.take.value)
            && returns.value == *exchange
        {
            faults.push(Fault::at(
                &returns.place,
                FaultCode::SelfDelivery,
                format!(
                    "source {} would return into what it takes from, again and again",
                    *source.name
                ),
                "return to an exchange that publishers' queues are bound to, such as NAME.returned",
            ));
        }
    }
}

/// Whether the source isn't taken in any unit that the rule delivers to: an exchange of one name, at both ends of a way.
fn apart(rule: &Rule, source: &Source) -> bool {
    let (Route::Units(targets), Some(taken)) = (&rule.route.value, &source.units) else {
        return false;
    };
    targets
        .iter()
        .all(|target| taken.iter().all(|unit| unit.value != target.value))
}

fn delivers_to_itself(take: &Take, deliver: &Deliver) -> bool {
    match take {
        Take::Exchange { exchange, .. } => *exchange == deliver.exchange,
        Take::Queue { queue } => {
            deliver.exchange.is_empty() && deliver.routing_key.as_ref() == Some(queue)
        }
    }
}

/// A source's key decides the owner of all that is in flight; it may not change under it.
pub(super) fn keys_kept(documents: &Documents, in_force: &Documents, faults: &mut Vec<Fault>) {
    for source in &documents.sources {
        let before = in_force
            .sources
            .iter()
            .find(|before| before.name.value == source.name.value);
        if let Some(before) = before
            && before.key != source.key
        {
            faults.push(Fault::at(
                &source.key_place.place,
                FaultCode::KeyChanged,
                format!(
                    "the key of source {} differs from the one in force",
                    *source.name
                ),
                "put it back, and give the new key to a source of another name",
            ));
        }
    }
}

pub(super) fn transaction(
    files: &[DocumentFile],
    in_force: &[DocumentFile],
    folder: &Place,
    faults: &mut Vec<Fault>,
) {
    let changed = files.iter().filter(|file| !in_force.contains(file));
    let (keys, bytes) = changed.fold((TRANSACTION_KEYS_BESIDES, 0), |(keys, bytes), file| {
        let written = file.text.len() + file.name.len();
        (keys + WRITES_PER_FILE, bytes + WRITES_PER_FILE * written)
    });
    if keys > TRANSACTION_KEYS_MAX {
        faults.push(Fault::at(
            folder,
            FaultCode::TransactionTooLarge,
            format!("the change writes {keys} keys, and etcd takes {TRANSACTION_KEYS_MAX} in one transaction"),
            "put several documents into one file, or raise etcd's --max-txn-ops on every member",
        ));
    }
    if bytes > TRANSACTION_BYTES_MAX {
        faults.push(Fault::at(
            folder,
            FaultCode::TransactionTooLarge,
            format!("the change writes {bytes} bytes, and etcd takes {TRANSACTION_BYTES_MAX} in one request"),
            "apply it in several steps, or raise etcd's --max-request-bytes on every member",
        ));
    }
}

fn repeated(place: &Place, what: &str, name: &str, first: &Place) -> Fault {
    Fault::at(
        place,
        FaultCode::RepeatedDocument,
        format!("there is a {what} {name} already, at {first}"),
        "give each its own name",
    )
}

/// Units that exist, each once.
pub(super) fn unit_list(
    topology: &Topology,
    units: &[Placed<UnitId>],
    what: &str,
    faults: &mut Vec<Fault>,
) {
    let mut seen = HashSet::new();
    for unit in units {
        unit_exists(topology, unit, what, faults);
        if !seen.insert(&unit.value) {
            faults.push(Fault::at(
                &unit.place,
                FaultCode::RepeatedUnit,
                format!("{} is named twice", unit.value),
                "name it once",
            ));
        }
    }
}

fn unit_exists(topology: &Topology, unit: &Placed<UnitId>, what: &str, faults: &mut Vec<Fault>) {
    if access_of(topology, unit).is_none() && !topology.incomplete {
        faults.push(Fault::at(
            &unit.place,
            FaultCode::UnknownUnit,
            format!("{what} is an unknown unit, {}", unit.value),
            known(
                "units",
                topology.units.iter().map(|unit| unit.name.as_str()),
            ),
        ));
    }
}

pub(super) fn unit_consumes(
    topology: &Topology,
    unit: &Placed<UnitId>,
    what: &str,
    faults: &mut Vec<Fault>,
) {
    if let Some(access) = access_of(topology, unit)
        && !access.consumes()
    {
        faults.push(Fault::at(
            &unit.place,
            FaultCode::Access,
            format!(
                "{what} is {}, whose access is {}",
                unit.value,
                access.as_str()
            ),
            "write `access: rw` or `consume-only`, or name another unit",
        ));
    }
}

fn unit_produces(topology: &Topology, unit: &Placed<UnitId>, faults: &mut Vec<Fault>) {
    if let Some(access) = access_of(topology, unit)
        && !access.produces()
    {
        faults.push(Fault::at(
            &unit.place,
            FaultCode::Access,
            format!(
                "the source is taken in {}, whose access is {}",
                unit.value,
                access.as_str()
            ),
            "write `access: rw` or `produce-only`, or leave the unit out",
        ));
    }
}

fn access_of(topology: &Topology, unit: &UnitId) -> Option<Access> {
    let found = topology.units.iter().find(|one| one.name.value == *unit)?;
    Some(found.access.value)
}

/// A mend that lists what exists.
fn known<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    match names.len() {
        0 => format!("there are no {what} yet: add it"),
        _ => format!(
            "known {what} are: {}; add it, or correct the name",
            names.join(", ")
        ),
    }
}
