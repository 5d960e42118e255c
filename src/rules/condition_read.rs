//! How the conditions of a rule are read.

use super::condition::{HeaderCondition, Regex, Scalar, Test, When};
use super::fault::{Fault, FaultCode};
use super::fields::{self, Fields};
use super::topic::TopicPattern;
use super::tree::{Node, Value};
use std::cmp::Ordering;

pub(super) fn read(node: Node, faults: &mut Vec<Fault>) -> Option<When> {
    let mut fields = Fields::of(node, "`when`", faults)?;
    let routing_key = fields.optional("routing_key").map(|node| {
        let text = fields::short(node, "the pattern", faults)?;
        match TopicPattern::parse(&text.value) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                faults.push(Fault::at(
                    &text.place,
                    FaultCode::BadPattern,
                    format!("{:?} is no topic pattern: {error}", text.value),
                    "put `*` (one word) and `#` (any number of words) alone between dots, or match a header",
                ));
                None
            }
        }
    });
    let headers = fields
        .optional("headers")
        .map(|node| read_headers(node, faults));
    fields.end(faults);
    Some(When {
        routing_key: match routing_key {
            Some(read) => Some(read?),
            None => None,
        },
        headers: match headers {
            Some(read) => read?,
            None => Vec::new(),
        },
    })
}

pub(super) fn read_headers(node: Node, faults: &mut Vec<Fault>) -> Option<Vec<HeaderCondition>> {
    let entries = match node.value {
        Value::Map(entries) => entries,
        other => {
            let fault = fields::wrong_type(&node.place, "`headers`", &other, "a mapping");
            faults.push(fault);
            return None;
        }
    };
    let mut complete = true;
    let mut conditions = Vec::new();
    for (name, value) in entries {
        complete &= fields::fits_short(&name, "the header's name", faults);
        match read_tests(value, &name.value, faults) {
            Some(tests) => conditions.extend(tests.into_iter().map(|test| HeaderCondition {
                name: name.value.clone(),
                test,
            })),
            None => complete = false,
        }
    }
    complete.then_some(conditions)
}

/// A plain value, or a mapping of tests of which all must hold.
fn read_tests(node: Node, name: &str, faults: &mut Vec<Fault>) -> Option<Vec<Test>> {
    if !matches!(node.value, Value::Map(_)) {
        return Some(vec![Test::Equals(scalar(node, name, faults)?)]);
    }
    let mut fields = Fields::of(node, format!("the condition on header {name}"), faults)?;
    let place = fields.place().clone();
    let mut tests = Vec::new();
    if let Some(node) = fields.optional("equals") {
        tests.push(scalar(node, name, faults).map(Test::Equals));
    }
    if let Some(node) = fields.optional("in") {
        tests.push(fields::list(node, "`in`", faults).and_then(|items| {
            let read: Vec<_> = items
                .into_iter()
                .map(|item| scalar(item, name, faults))
                .collect();
            read.into_iter().collect::<Option<Vec<_>>>().map(Test::In)
        }));
    }
    if let Some(node) = fields.optional("exists") {
        tests.push(fields::truth(node, "`exists`", faults).map(Test::Exists));
    }
    if let Some(node) = fields.optional("matches") {
        tests.push(fields::text(node, "`matches`", faults).and_then(|text| {
            match Regex::parse(&text.value) {
                Ok(regex) => Some(Test::Matches(regex)),
                Err(error) => {
                    faults.push(Fault::at(
                        &text.place,
                        FaultCode::BadRegex,
                        format!("the regular expression doesn't compile: {error}"),
                        "correct it; it is unanchored, so `^` and `$` mark the ends",
                    ));
                    None
                }
            }
        }));
    }
    if let Some(node) = fields.optional("prefix") {
        tests.push(fields::text(node, "`prefix`", faults).map(|text| Test::Prefix(text.value)));
    }
    if let Some(node) = fields.optional("range") {
        tests.push(read_range(node, name, faults));
    }
    if tests.is_empty() {
        faults.push(fields::bad_value(
            &place,
            format!("the condition on header {name} says nothing"),
            "write one of equals, in, exists, matches, prefix, range",
        ));
    }
    fields.end(faults);
    tests.into_iter().collect()
}

/// `{from: 10, to: 20}`, ends included; one of them may be left out.
fn read_range(node: Node, name: &str, faults: &mut Vec<Fault>) -> Option<Test> {
    let mut fields = Fields::of(node, "`range`", faults)?;
    let place = fields.place().clone();
    let mut end = |field: &'static str| {
        let node = fields.optional(field);
        node.map(|node| range_end(node, name, faults))
    };
    let (from, to) = (end("from"), end("to"));
    fields.end(faults);
    if from.is_none() && to.is_none() {
        faults.push(fields::bad_value(
            &place,
            "`range` has neither `from` nor `to`",
            "write it like {from: 10, to: 20}; ends are included",
        ));
        return None;
    }
    // What was written and isn't a number has its fault.
    if [&from, &to]
        .into_iter()
        .any(|end| matches!(end, Some(None)))
    {
        return None;
    }
    let (from, to) = (from.flatten(), to.flatten());
    let is_empty = from
        .as_ref()
        .zip(to.as_ref())
        .and_then(|(from, to)| from.number()?.compare(to))
        .is_some_and(Ordering::is_gt);
    if is_empty {
        faults.push(fields::bad_value(
            &place,
            "the range ends before it begins",
            "swap `from` and `to`",
        ));
        return None;
    }
    Some(Test::Range { from, to })
}

fn range_end(node: Node, name: &str, faults: &mut Vec<Fault>) -> Option<Scalar> {
    match node.value {
        Value::Int(v) => Some(Scalar::Int(v)),
        Value::Float(v) => Some(Scalar::Float(v)),
        other => {
            let what = format!("an end of the range of header {name}");
            faults.push(fields::wrong_type(&node.place, &what, &other, "a number"));
            None
        }
    }
}

fn scalar(node: Node, name: &str, faults: &mut Vec<Fault>) -> Option<Scalar> {
    match node.value {
        Value::Text(v) => Some(Scalar::Text(v)),
        Value::Int(v) => Some(Scalar::Int(v)),
        Value::Float(v) => Some(Scalar::Float(v)),
        Value::Bool(v) => Some(Scalar::Bool(v)),
        other @ (Value::Null | Value::List(_) | Value::Map(_)) => {
            let what = format!("what header {name} is compared with");
            faults.push(fields::wrong_type(
                &node.place,
                &what,
                &other,
                "a text, a number, true or false",
            ));
            None
        }
    }
}
