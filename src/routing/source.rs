//! A source as messages are routed by it: what is taken, what decides the owner, its rules by their order.
//!
//! Promises that every name in it was looked up when it was compiled. Never reads a message.

use super::rule_index::RuleIndex;
use super::table::{Unit, UnitIndex};
use crate::model::{Epoch, Reason, RuleName, SourceName, UnitId};
use crate::rules::{
    self, Deliver, Divert, Duplicates, Gray, Key, KeyAbsent, OwnerAbsent, OwnerDown, Placed,
    QueueType, Route, Rule, Take, When,
};
use bytes::Bytes;

/// A source with its rules.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name.
    pub name: SourceName,
    /// `None` for the gateway's own.
    pub vhost: Option<String>,
    /// From what.
    pub take: Take,
    /// Over how many lanes it is spread.
    pub partitions: u16,
    /// The type of the queues that are declared for it.
    pub queue_type: QueueType,
    /// Where its messages go, unless a rule says otherwise.
    pub deliver: Option<Deliver>,
    /// Where publishers get back what can't be routed; bytes, so that an address costs no copy.
    pub returns: Option<Bytes>,
    /// What decides the owner.
    pub key: Key,
    /// What makes two messages the same.
    pub duplicates: Duplicates,
    /// The limit of its diversions.
    pub divert: Divert,
    /// Nothing more is taken of it.
    pub retired: bool,
    /// Its rules are being changed: nothing is taken until they are.
    pub fenced: bool,
    /// The epoch in which its rules last gave keys other owners: a receiver takes no parcel of it that was routed before.
    pub changed_at: Epoch,
    /// The units in which it is taken.
    pub(super) units: Vec<UnitId>,
    /// By ascending order.
    pub(super) rules: Vec<CompiledRule>,
    pub(super) index: RuleIndex,
}

/// A rule as it is applied.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CompiledRule {
    pub(super) name: RuleName,
    pub(super) order: i64,
    pub(super) when: When,
    pub(super) route: CompiledRoute,
    pub(super) key_absent: KeyAbsent,
    /// Its messages wait for an owner that is down, whoever stands in for it.
    pub(super) holds: bool,
    /// When nothing is bound at its owner.
    pub(super) owner_absent: OwnerAbsent,
    /// The exchange at the target; bytes, so that an address costs no copy.
    pub(super) exchange: Bytes,
    /// `None` keeps the message's own.
    pub(super) routing_key: Option<Bytes>,
    /// Which messages go elsewhere than to their owner, and where.
    pub(super) gray: Option<(Gray, UnitIndex)>,
    /// What the rule says and this version doesn't do; empty in every table but a draft.
    pub(super) unenforced: String,
}

/// A route with what it takes looked up.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum CompiledRoute {
    Owner,
    Center,
    /// To here too, or to others alone.
    Shared(Reach),
    Local,
    Units(Vec<UnitId>),
    Park,
    Drop,
}

/// Whom a shared message reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// It is where it was taken already.
    Others,
    /// It is delivered to another exchange than it was taken from.
    Everybody,
}

impl Source {
    /// Whether it is taken in a unit.
    pub fn taken_in(&self, unit: &UnitId) -> bool {
        self.units.contains(unit)
    }

    /// The units in which it is taken.
    pub fn units(&self) -> &[UnitId] {
        &self.units
    }

    /// The exchanges that its rules deliver to, and that of its returns; some more than once.
    pub fn exchanges(&self) -> impl Iterator<Item = &[u8]> {
        self.rules
            .iter()
            .filter(|rule| !matches!(rule.route, CompiledRoute::Park | CompiledRoute::Drop))
            .map(|rule| rule.exchange.as_ref())
            .chain(self.returns.as_deref())
    }

    /// What a rule says of an owner where nothing is bound.
    pub fn owner_absent(&self, rule: &RuleName) -> OwnerAbsent {
        let named = self.rules.iter().find(|one| one.name == *rule);
        named.map_or_else(OwnerAbsent::default, |rule| rule.owner_absent)
    }

    /// The exchange where publishers get a message back that would be parked for this reason, if it is one that they
    /// can mend and the source says where.
    pub fn returns_for(&self, reason: Reason) -> Option<&Bytes> {
        match reason {
            Reason::NoRule | Reason::KeyAbsent | Reason::KeyMalformed => self.returns.as_ref(),
            Reason::Unroutable
            | Reason::Malformed
            | Reason::TooLarge
            | Reason::Hops
            | Reason::Rule
            | Reason::Fenced
            | Reason::DivertFull
            | Reason::Expired
            | Reason::OwnerDown
            | Reason::Batch
            | Reason::Session => None,
        }
    }
}

pub(super) fn compile_source(
    source: &rules::Source,
    all: &[Placed<Rule>],
    units: &[Unit],
    find: &impl Fn(&UnitId) -> UnitIndex,
) -> Source {
    let mut compiled: Vec<_> = all
        .iter()
        .filter(|rule| rule.source.value == source.name.value)
        .map(|rule| compile_rule(rule, source, find))
        .collect();
    compiled.sort_by_key(|rule| rule.order);
    let named: Option<Vec<&UnitId>> = source
        .units
        .as_ref()
        .map(|units| units.iter().map(|unit| &unit.value).collect());
    Source {
        name: source.name.value.clone(),
        vhost: source.vhost.clone(),
        take: source.take.value.clone(),
        partitions: source.partitions.value,
        queue_type: source.queue_type,
        deliver: source.deliver.as_ref().map(|deliver| deliver.value.clone()),
        returns: source
            .returns
            .as_ref()
            .map(|exchange| Bytes::copy_from_slice(exchange.value.as_bytes())),
        key: source.key.clone(),
        duplicates: source.duplicates.clone(),
        divert: source.divert.clone(),
        retired: source.retired,
        fenced: false,
        changed_at: Epoch::default(),
        units: units
            .iter()
            .filter(|unit| unit.produces)
            .filter(|unit| {
                named
                    .as_ref()
                    .is_none_or(|named| named.contains(&&unit.name))
            })
            .map(|unit| unit.name.clone())
            .collect(),
        index: RuleIndex::of(&compiled),
        rules: compiled,
    }
}

fn compile_rule(
    rule: &Rule,
    source: &rules::Source,
    find: &impl Fn(&UnitId) -> UnitIndex,
) -> CompiledRule {
    let deliver = rule.deliver.as_ref().or(source.deliver.as_ref());
    let taken = match &source.take.value {
        Take::Exchange { exchange, .. } => exchange.as_str(),
        Take::Queue { .. } => "",
    };
    // Only a shared rule may do without: its copies go to the same exchange elsewhere.
    let exchange = deliver.map_or(taken, |deliver| deliver.exchange.as_str());
    let route = match &rule.route.value {
        Route::Owner => CompiledRoute::Owner,
        Route::Center => CompiledRoute::Center,
        Route::Shared if exchange == taken => CompiledRoute::Shared(Reach::Others),
        Route::Shared => CompiledRoute::Shared(Reach::Everybody),
        Route::Local => CompiledRoute::Local,
        Route::Units(units) => {
            CompiledRoute::Units(units.iter().map(|unit| unit.value.clone()).collect())
        }
        Route::Park => CompiledRoute::Park,
        Route::Drop => CompiledRoute::Drop,
    };
    CompiledRule {
        name: rule.name.value.clone(),
        order: rule.order.value,
        when: rule.when.clone(),
        route,
        key_absent: rule.key_absent,
        holds: rule.policies.owner_down == OwnerDown::Hold,
        owner_absent: rule.policies.owner_absent,
        exchange: Bytes::copy_from_slice(exchange.as_bytes()),
        routing_key: deliver
            .and_then(|deliver| deliver.routing_key.as_ref())
            .map(|key| Bytes::copy_from_slice(key.as_bytes())),
        gray: rule
            .gray
            .as_ref()
            .map(|gray| (gray.clone(), find(&gray.unit))),
        unenforced: rule.policies.unenforced(),
    }
}
