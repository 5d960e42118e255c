//! What another table would do to owners, shown by examples: for each rule a message that it is about, under many keys.
//!
//! Owns how such a message is made, and the counts. Messages are routed by both tables with the very code that gateways
//! run. A rule whose conditions no example meets (an expression that isn't plain text) is left out.

use super::decision::Outcome;
use super::source::{CompiledRule, Source};
use super::steps::Unrecorded;
use super::table::Table;
use crate::amqp::{FieldTable, FieldValue, Properties, RawProperties};
use crate::model::{Address, Message, RuleName, SourceName, UnitId};
use crate::rules::{KeyFrom, Scalar, Test, When};
use bytes::Bytes;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Keys of an example: enough for a share of a hundredth of a percent, where there are few examples.
const KEYS_MAX: usize = 10_000;
const KEYS_MIN: usize = 100;
/// Decisions in all: some seconds at most.
const DECISIONS_MAX: usize = 2_000_000;

/// Keys of messages that a rule is about, and that go elsewhere by another table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shift {
    /// The source.
    pub source: SourceName,
    /// The rule that is about the example: of the new table, where it has one.
    pub rule: RuleName,
    /// The example's routing key, and its headers.
    pub example: String,
    /// So many keys were tried.
    pub keys: usize,
    /// Those that go elsewhere.
    pub moves: Vec<Moved>,
}

/// Keys that went to one place and go to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Units, or `park`, or `drop`, or `nobody`.
    pub from: String,
    /// The same.
    pub to: String,
    /// How many of the keys.
    pub keys: usize,
}

/// For every source that both tables have: the examples whose messages go elsewhere.
pub fn shifts(old: &Table, new: &Table) -> Vec<Shift> {
    let mut compared = Vec::new();
    for source in new.sources() {
        let Some(before) = old.source(&source.name) else {
            continue;
        };
        let both = |unit: &&UnitId| before.taken_in(unit);
        if let Some(here) = source.units().iter().find(both) {
            let examples = examples(before, source);
            compared.push((before, source, here, examples));
        }
    }
    let count: usize = compared.iter().map(|(.., examples)| examples.len()).sum();
    let keys = (DECISIONS_MAX / 2 / count.max(1)).clamp(KEYS_MIN, KEYS_MAX);
    let mut shifts = Vec::new();
    for (before, source, here, examples) in compared {
        for example in examples {
            let mut moves: BTreeMap<(String, String), usize> = BTreeMap::new();
            for key in 0..keys {
                let message = example.message(key);
                let was = old.route(before, here, &[], &message, &mut Unrecorded);
                let is = new.route(source, here, &[], &message, &mut Unrecorded);
                // Another rule's message, hidden here or there: that rule has an example of its own.
                if key == 0 && ![&was.rule, &is.rule].contains(&&Some(example.rule.clone())) {
                    break;
                }
                if was.outcome != is.outcome {
                    let (from, to) = (end(&was.outcome), end(&is.outcome));
                    if from != to {
                        *moves.entry((from, to)).or_default() += 1;
                    }
                }
            }
            if !moves.is_empty() {
                let moves = moves.into_iter();
                shifts.push(Shift {
                    source: source.name.clone(),
                    rule: example.rule.clone(),
                    example: example.to_string(),
                    keys,
                    moves: moves
                        .map(|((from, to), keys)| Moved { from, to, keys })
                        .collect(),
                });
            }
        }
    }
    shifts
}

fn end(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Park(_) => "park".to_owned(),
        Outcome::Drop(_) => "drop".to_owned(),
        Outcome::Deliver(targets) if targets.is_empty() => "nobody".to_owned(),
        Outcome::Deliver(targets) => {
            let units: Vec<&str> = targets.iter().map(|one| one.unit.as_str()).collect();
            units.join(", ")
        }
    }
}

/// One for each rule of the new source, and for each of the old one's whose conditions the new one doesn't have.
fn examples(old: &Source, new: &Source) -> Vec<Example> {
    let gone = old.rules.iter().filter(|rule| {
        let same = |other: &CompiledRule| other.when == rule.when;
        !new.rules.iter().any(same)
    });
    let all = new.rules.iter().chain(gone);
    all.filter_map(|rule| Example::of(&rule.name, &rule.when, &new.key.from))
        .collect()
}

/// A message that a rule is about, without its key.
struct Example {
    rule: RuleName,
    words: Vec<String>,
    headers: Vec<(String, FieldValue)>,
    key: Option<KeyFrom>,
}

impl Example {
    fn of(rule: &RuleName, when: &When, places: &[KeyFrom]) -> Option<Self> {
        let pattern = when.routing_key.as_ref().map_or("#", |one| one.as_str());
        let words = pattern.split('.').filter(|word| *word != "#");
        let words = words.map(|word| if word == "*" { "x" } else { word }.to_owned());
        let headers = when.headers.iter().filter_map(|condition| {
            let value = value(&condition.test)?;
            Some((condition.name.clone(), value))
        });
        let mut example = Self {
            rule: rule.clone(),
            words: words.collect(),
            headers: headers.collect(),
            key: None,
        };
        // The first place where a key may stand without changing what the rule is about.
        for place in places {
            example.key = Some(place.clone());
            if when.mismatch(&example.message(0)).is_none() {
                return Some(example);
            }
        }
        example.key = None;
        when.mismatch(&example.message(0))
            .is_none()
            .then_some(example)
    }

    fn message(&self, key: usize) -> Message {
        let key = key.to_string();
        let mut routing_key = self.words.join(".");
        let mut headers = self.headers.clone();
        let mut body = Bytes::new();
        match &self.key {
            None => {}
            Some(KeyFrom::Header(name)) => {
                // In front: the first header of a name counts.
                headers.insert(0, (name.clone(), FieldValue::str(&key)));
            }
            Some(KeyFrom::RoutingKey) => routing_key = key,
            Some(KeyFrom::RoutingKeyWord(number)) => {
                let mut words = self.words.clone();
                let at = usize::from(*number);
                words.resize(words.len().max(at), "x".to_owned());
                if let Some(word) = words.get_mut(at.saturating_sub(1)) {
                    *word = key;
                }
                routing_key = words.join(".");
            }
            Some(KeyFrom::Json(pointer)) => {
                let steps = pointer.steps().iter().rev();
                let text = steps.fold(
                    serde_json::Value::from(key),
                    |inner, step| serde_json::json!({ step.as_str(): inner }),
                );
                body = Bytes::from(text.to_string());
            }
        }
        let entries = headers.into_iter();
        let entries = entries.map(|(name, value)| (Bytes::from(name), value));
        let properties = Properties {
            headers: Some(entries.collect::<FieldTable>()),
            ..Properties::default()
        };
        Message {
            address: Address {
                exchange: Bytes::new(),
                routing_key: Bytes::from(routing_key),
            },
            // Too large for AMQP is what no message has; none is like that one then.
            properties: RawProperties::of(&properties).unwrap_or_default(),
            body,
            redelivered: false,
        }
    }
}

impl fmt::Display for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words.join(".").as_str() {
            "" => f.write_str("any routing key")?,
            key => f.write_str(key)?,
        }
        for (name, value) in &self.headers {
            match value.as_bytes() {
                Some(text) => write!(f, " {name}={}", String::from_utf8_lossy(text))?,
                None => write!(f, " {name}={value:?}")?,
            }
        }
        Ok(())
    }
}

/// A header for which a test holds; none where it wants none, or nothing plain.
fn value(test: &Test) -> Option<FieldValue> {
    let scalar = |scalar: &Scalar| match scalar {
        Scalar::Text(text) => Some(FieldValue::str(text)),
        Scalar::Int(number) => i64::try_from(*number).ok().map(FieldValue::I64),
        Scalar::Float(number) => Some(FieldValue::F64(*number)),
        Scalar::Bool(truth) => Some(FieldValue::Bool(*truth)),
    };
    match test {
        Test::Equals(wanted) => scalar(wanted),
        Test::In(several) => several.first().and_then(scalar),
        Test::Exists(true) => Some(FieldValue::str("x")),
        Test::Exists(false) => None,
        Test::Prefix(prefix) => Some(FieldValue::str(prefix)),
        Test::Range { from, to } => from.as_ref().or(to.as_ref()).and_then(scalar),
        Test::Matches(regex) => {
            let plain = regex.as_str().trim_start_matches('^').trim_end_matches('$');
            Some(FieldValue::str(plain))
        }
    }
}

impl fmt::Display for Shift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |keys: usize| keys as f64 / self.keys.max(1) as f64 * 100.0;
        let all: usize = self.moves.iter().map(|moved| moved.keys).sum();
        write!(
            f,
            "source {}, rule {} ({}): {:.1} % of keys go elsewhere",
            self.source,
            self.rule,
            self.example,
            percent(all)
        )?;
        for (n, moved) in self.moves.iter().enumerate() {
            let joint = if n == 0 { ": " } else { ", " };
            write!(
                f,
                "{joint}{} → {} {:.1} %",
                moved.from,
                moved.to,
                percent(moved.keys)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::table_of;
    use super::*;

    const WORLD: &str = "kind: topology
space: trade
cities: {here: {}}
sites: {a: {city: here}, b: {city: here}}
units: {u1: {site: a}, u2: {site: b}}
---
kind: placement
slots: 10000
ranges: [{slots: 0-5999, unit: u1}, {slots: 6000-9999, unit: u2}]
---
kind: source
name: orders
take: {exchange: orders, bindings: [{routing_key: \"#\"}]}
deliver: {exchange: orders.local}
key: {from: [{header: uid}, {json: /user/id}], map: digits}
---
kind: rule
name: by-user
source: orders
order: 100
when: {routing_key: \"order.*.created\"}
route: owner
";
    const GOLD: &str = "---
kind: rule
name: gold
source: orders
order: 50
when: {routing_key: \"order.#\", headers: {tier: {in: [gold, platinum]}}}
route: {units: [u2]}
";

    fn said(old: &str, new: &str) -> Vec<String> {
        let found = shifts(&table_of(old), &table_of(new));
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_new_rule_says_which_share_of_its_keys_goes_elsewhere() {
        let new = format!("{WORLD}{GOLD}");
        assert_eq!(
            said(WORLD, &new),
            [
                "source orders, rule gold (order tier=gold): 100.0 % of keys go elsewhere: park → u2 100.0 %"
            ]
        );
        let narrow = new.replace("order.#", "order.cn.created");
        assert_eq!(
            said(WORLD, &narrow),
            [
                "source orders, rule gold (order.cn.created tier=gold): 60.0 % of keys go elsewhere: u1 → u2 60.0 %"
            ]
        );
        assert_eq!(said(&new, &new), Vec::<String>::new());
    }

    #[test]
    fn a_gray_share_moves_its_share_and_a_rule_that_goes_is_named() {
        let gray = WORLD.replace(
            "route: owner",
            "route: owner\ngray: {percent: 50, salt: g, unit: u2}",
        );
        let found = shifts(&table_of(WORLD), &table_of(&gray));
        assert_eq!(found[0].moves.len(), 1, "{found:?}");
        let moved = found[0].moves[0].keys;
        assert!((2_800..3_200).contains(&moved), "half of 6,000: {moved}");
        let without = WORLD.replace("when: {routing_key: \"order.*.created\"}\n", "");
        let gold = format!("{without}{GOLD}");
        assert_eq!(
            said(&gold, &without),
            [
                "source orders, rule gold (order tier=gold): 60.0 % of keys go elsewhere: u2 → u1 60.0 %"
            ]
        );
    }
}
