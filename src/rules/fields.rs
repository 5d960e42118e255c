//! Reading a mapping field by field, all faults noted.
//!
//! Owns what every document has in common: required and optional fields, unknown ones, names, units, sizes, durations.
//! A reader returns `None` for what it couldn't read, after it has noted why; so the fault is never noted twice, and
//! the fields behind it are read all the same.

use super::fault::{Fault, FaultCode, Place, Placed};
use super::tree::{Node, Value};
use crate::model::NameError;
use std::time::Duration;

/// Longest name that AMQP has room for: a short string.
pub(super) const SHORT_BYTES_MAX: usize = 255;

/// A mapping that is being read.
pub(super) struct Fields {
    what: String,
    place: Place,
    entries: Vec<(Placed<String>, Option<Node>)>,
    asked: Vec<&'static str>,
}

impl Fields {
    /// Begins to read a mapping; `what` names it in faults, such as "a source".
    pub(super) fn of(node: Node, what: impl Into<String>, faults: &mut Vec<Fault>) -> Option<Self> {
        let what = what.into();
        match node.value {
            Value::Map(entries) => Some(Self {
                what,
                place: node.place,
                entries: entries
                    .into_iter()
                    .map(|(key, value)| (key, Some(value)))
                    .collect(),
                asked: Vec::new(),
            }),
            other => {
                faults.push(wrong_type(&node.place, &what, &other, "a mapping"));
                None
            }
        }
    }

    /// Names the mapping in faults more closely than was known when its reading began.
    pub(super) fn name_it(&mut self, what: String) {
        self.what = what;
    }

    /// Where the mapping begins.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The value of a field, `None` when it isn't there or is null.
    pub(super) fn optional(&mut self, name: &'static str) -> Option<Node> {
        self.asked.push(name);
        self.entries
            .iter_mut()
            .filter(|(key, _)| key.value == name)
            .filter_map(|(_, value)| value.take())
            .find(|node| node.value != Value::Null)
    }

    /// The value of a field that must be there.
    pub(super) fn required(&mut self, name: &'static str, faults: &mut Vec<Fault>) -> Option<Node> {
        let found = self.optional(name);
        if found.is_none() {
            faults.push(Fault::at(
                &self.place,
                FaultCode::MissingField,
                format!("{} needs `{name}`", self.what),
                format!("add `{name}:`"),
            ));
        }
        found
    }

    /// An optional field through a reader; `default` when it isn't there or can't be read.
    pub(super) fn or<T>(
        &mut self,
        name: &'static str,
        default: T,
        faults: &mut Vec<Fault>,
        read: impl FnOnce(Node, &mut Vec<Fault>) -> Option<T>,
    ) -> T {
        self.optional(name)
            .and_then(|node| read(node, faults))
            .unwrap_or(default)
    }

    /// A required field through a reader.
    pub(super) fn must<T>(
        &mut self,
        name: &'static str,
        faults: &mut Vec<Fault>,
        read: impl FnOnce(Node, &mut Vec<Fault>) -> Option<T>,
    ) -> Option<T> {
        let node = self.required(name, faults)?;
        read(node, faults)
    }

    /// Ends the reading: whatever nobody asked for is unknown.
    pub(super) fn end(self, faults: &mut Vec<Fault>) {
        let known = self.asked;
        for (key, value) in self.entries {
            if value.is_none() || known.contains(&key.value.as_str()) {
                continue;
            }
            let mend = match closest(&key.value, &known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known are: {}", known.join(", ")),
            };
            faults.push(Fault::at(
                &key.place,
                FaultCode::UnknownField,
                format!("{} has no field `{}`", self.what, key.value),
                mend,
            ));
        }
    }
}

/// The known word that a misspelt one is likely meant to be: at most two edits away.
fn closest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    // Longer than any field: not worth the quadratic work.
    if word.len() > 40 {
        return None;
    }
    known
        .iter()
        .map(|candidate| (edits(word.as_bytes(), candidate.as_bytes()), *candidate))
        .filter(|(distance, candidate)| *distance <= 2 && *distance < candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, row by row.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// The fault of a value that isn't what its field takes.
pub(super) fn wrong_type(place: &Place, what: &str, found: &Value, wanted: &str) -> Fault {
    let mend = match (found, wanted) {
        (Value::Int(_) | Value::Float(_) | Value::Bool(_), "a text") => {
            "put it in quotes".to_owned()
        }
        _ => format!("write {wanted}"),
    };
    Fault::at(
        place,
        FaultCode::WrongType,
        format!("{what} must be {wanted}, and this is {}", found.what()),
        mend,
    )
}

/// The fault of a value that its field doesn't take.
pub(super) fn bad_value(
    place: &Place,
    message: impl Into<String>,
    mend: impl Into<String>,
) -> Fault {
    Fault::at(place, FaultCode::BadValue, message, mend)
}

/// The default of a field that is best left out.
pub(super) const NOTHING: &str = "nothing";

/// The fault of what this version knows and doesn't do yet.
pub(super) fn not_yet(place: &Place, what: &str, default: &str) -> Fault {
    Fault::at(
        place,
        FaultCode::NotYet,
        format!("{what} isn't in this version yet"),
        match default {
            NOTHING => "leave it out".to_owned(),
            default => format!("leave it out, or at its default: {default}"),
        },
    )
}

/// A text.
pub(super) fn text(node: Node, what: &str, faults: &mut Vec<Fault>) -> Option<Placed<String>> {
    match node.value {
        Value::Text(value) => Some(Placed {
            value,
            place: node.place,
        }),
        other => {
            faults.push(wrong_type(&node.place, what, &other, "a text"));
            None
        }
    }
}

/// A text that AMQP carries as a short string: an exchange, a queue, a routing key, a header's name.
pub(super) fn short(node: Node, what: &str, faults: &mut Vec<Fault>) -> Option<Placed<String>> {
    let text = text(node, what, faults)?;
    fits_short(&text, what, faults).then_some(text)
}

/// Whether a text has at most 255 bytes; notes a fault when not.
pub(super) fn fits_short(text: &Placed<String>, what: &str, faults: &mut Vec<Fault>) -> bool {
    let fits = text.value.len() <= SHORT_BYTES_MAX;
    if !fits {
        faults.push(Fault::at(
            &text.place,
            FaultCode::NameTooLong,
            format!(
                "{what} has {} bytes, and AMQP takes {SHORT_BYTES_MAX}",
                text.value.len()
            ),
            "shorten it",
        ));
    }
    fits
}

/// A name of ours: a unit, a source, a rule, …
pub(super) fn name<T>(
    node: Node,
    what: &str,
    parse: impl FnOnce(&str) -> Result<T, NameError>,
    faults: &mut Vec<Fault>,
) -> Option<Placed<T>> {
    let text = text(node, what, faults)?;
    name_of(&text, what, parse, faults)
}

/// As [`name`], from a text: a field's name may be one.
pub(super) fn name_of<T>(
    text: &Placed<String>,
    what: &str,
    parse: impl FnOnce(&str) -> Result<T, NameError>,
    faults: &mut Vec<Fault>,
) -> Option<Placed<T>> {
    match parse(&text.value) {
        Ok(value) => Some(Placed {
            value,
            place: text.place.clone(),
        }),
        Err(error) => {
            let code = match error {
                NameError::TooLong(_) => FaultCode::NameTooLong,
                NameError::Empty | NameError::BadCharacter(_) => FaultCode::BadName,
            };
            faults.push(Fault::at(
                &text.place,
                code,
                format!("{what} {:?} can't be a name: {error}", text.value),
                "choose another name",
            ));
            None
        }
    }
}

/// Names in a list.
pub(super) fn names<T>(
    node: Node,
    what: &str,
    parse: impl Fn(&str) -> Result<T, NameError>,
    faults: &mut Vec<Fault>,
) -> Option<Vec<Placed<T>>> {
    let items = list(node, &format!("the list of {what}s"), faults)?;
    let read: Vec<_> = items
        .into_iter()
        .map(|item| name(item, what, &parse, faults))
        .collect();
    read.into_iter().collect()
}

/// A list.
pub(super) fn list(node: Node, what: &str, faults: &mut Vec<Fault>) -> Option<Vec<Node>> {
    match node.value {
        Value::List(items) => Some(items),
        other => {
            faults.push(wrong_type(&node.place, what, &other, "a list"));
            None
        }
    }
}

/// `true` or `false`.
pub(super) fn truth(node: Node, what: &str, faults: &mut Vec<Fault>) -> Option<bool> {
    match node.value {
        Value::Bool(value) => Some(value),
        other => {
            faults.push(wrong_type(&node.place, what, &other, "true or false"));
            None
        }
    }
}

/// A whole number between two bounds, ends included.
pub(super) fn whole(
    node: Node,
    what: &str,
    (low, high): (i64, i64),
    faults: &mut Vec<Fault>,
) -> Option<Placed<i64>> {
    match node.value {
        Value::Int(value) => match i64::try_from(value) {
            Ok(value) if (low..=high).contains(&value) => Some(Placed {
                value,
                place: node.place,
            }),
            _ => {
                faults.push(bad_value(
                    &node.place,
                    format!("{what} is from {low} to {high}, not {value}"),
                    "choose a number in between",
                ));
                None
            }
        },
        other => {
            faults.push(wrong_type(&node.place, what, &other, "a whole number"));
            None
        }
    }
}

/// One of a few words.
pub(super) fn word<T: Copy>(
    node: Node,
    what: &str,
    words: &[(&str, T)],
    faults: &mut Vec<Fault>,
) -> Option<T> {
    let text = text(node, what, faults)?;
    let found = words.iter().find(|(word, _)| *word == text.value);
    if found.is_none() {
        let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        faults.push(bad_value(
            &text.place,
            format!("{what} can't be {:?}", text.value),
            format!("write one of: {}", known.join(", ")),
        ));
    }
    found.map(|(_, value)| *value)
}

/// A time such as `500ms`, `10s`, `15m`, `2h`, `7d`.
pub(super) fn duration(node: &Node, what: &str, faults: &mut Vec<Fault>) -> Option<Duration> {
    const UNITS: [(&str, u64); 5] = [
        ("ms", 1),
        ("s", 1_000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    let read = amount(node, what, &UNITS, "10s, 15m or 2h", faults)?;
    Some(Duration::from_millis(read))
}

/// A size such as `10GiB`.
pub(super) fn bytes(node: &Node, what: &str, faults: &mut Vec<Fault>) -> Option<u64> {
    const UNITS: [(&str, u64); 5] = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("B", 1),
    ];
    amount(node, what, &UNITS, "512KiB, 16MiB or 10GiB", faults)
}

fn amount(
    node: &Node,
    what: &str,
    units: &[(&str, u64)],
    examples: &str,
    faults: &mut Vec<Fault>,
) -> Option<u64> {
    let parsed = match &node.value {
        Value::Text(text) => {
            let digits = text.bytes().take_while(u8::is_ascii_digit).count();
            let (number, unit) = text.split_at(digits);
            units
                .iter()
                .find(|(word, _)| *word == unit.trim_start())
                .and_then(|(_, factor)| number.parse::<u64>().ok()?.checked_mul(*factor))
        }
        _ => None,
    };
    if parsed.is_none() {
        faults.push(bad_value(
            &node.place,
            format!("{what} needs a whole number with its unit"),
            format!("write it like {examples}"),
        ));
    }
    parsed
}
