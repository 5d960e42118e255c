//! A YAML text as a tree in which every key and value knows its place.
//!
//! Typed deserialization stops at its first error; an operator wants all of them. So the text becomes a tree, and the
//! reader takes it apart field by field. Scalars are text here; what they mean is the field's business.

use super::ConfigFault;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Options, Spanned};
use std::fmt;

/// Where something stands, from 1; 0 when unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    pub(super) line: u64,
    pub(super) column: u64,
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// `null`, `~` or nothing: as good as absent.
    Nothing,
    /// Text, a number or a boolean, as text.
    Scalar(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<Entry>),
}

/// One key of a mapping.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_place: Place,
    pub(super) value: Node,
}

/// Parses a text that is one mapping.
pub(super) fn parse(file: &str, text: &str) -> Result<Node, ConfigFault> {
    let fault = |line, column, message: String| ConfigFault {
        file: file.to_owned(),
        line,
        column,
        code: "syntax",
        message,
        mend: "write it as YAML: `field: value` lines, indented by spaces".to_owned(),
    };
    let mut options = Options::default();
    options.with_snippet = false;
    let root: Spanned<RawKind> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let (line, column) = error
                .location()
                .map_or((0, 0), |at| (at.line(), at.column()));
            let words = error.without_snippet().to_string();
            let first = words.lines().next().unwrap_or("it can't be read");
            fault(
                line,
                column,
                format!("this is no YAML that can be read: {first}"),
            )
        })?;
    let root = settle(root);
    match root.kind {
        Kind::Map(_) => Ok(root),
        Kind::Nothing => Err(fault(1, 1, "the file is empty".to_owned())),
        Kind::Scalar(_) | Kind::List(_) => Err(fault(
            1,
            1,
            "the file has to be a mapping of fields".to_owned(),
        )),
    }
}

/// The tree as the deserializer gives it, places still wrapped around values.
enum RawKind {
    Nothing,
    Scalar(String),
    List(Vec<Spanned<RawKind>>),
    Map(Vec<(Spanned<String>, Spanned<RawKind>)>),
}

fn settle(raw: Spanned<RawKind>) -> Node {
    let place = Place {
        line: raw.referenced.line(),
        column: raw.referenced.column(),
    };
    let kind = match raw.value {
        RawKind::Nothing => Kind::Nothing,
        RawKind::Scalar(text) => Kind::Scalar(text),
        RawKind::List(items) => Kind::List(items.into_iter().map(settle).collect()),
        RawKind::Map(entries) => Kind::Map(
            entries
                .into_iter()
                .map(|(key, value)| Entry {
                    key_place: Place {
                        line: key.referenced.line(),
                        column: key.referenced.column(),
                    },
                    key: key.value,
                    value: settle(value),
                })
                .collect(),
        ),
    };
    Node { place, kind }
}

impl<'de> Deserialize<'de> for RawKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = RawKind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<RawKind, E> {
        Ok(RawKind::Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<RawKind, E> {
        Ok(RawKind::Scalar(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<RawKind, E> {
        Ok(RawKind::Scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<RawKind, E> {
        Ok(RawKind::Scalar(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<RawKind, E> {
        Ok(RawKind::Scalar(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<RawKind, E> {
        Ok(RawKind::Nothing)
    }

    fn visit_none<E>(self) -> Result<RawKind, E> {
        Ok(RawKind::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawKind, D::Error> {
        RawKind::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawKind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(RawKind::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawKind, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(RawKind::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_value_knows_its_place() {
        let tree = parse("f", "a: 1\nb:\n  - x\n  - {c: true}\n").unwrap();
        let Kind::Map(entries) = tree.kind else {
            panic!("no map")
        };
        assert_eq!(entries[1].key_place, Place { line: 2, column: 1 });
        let Kind::List(items) = &entries[1].value.kind else {
            panic!("no list")
        };
        assert_eq!(items[0].place, Place { line: 3, column: 5 });
        let Kind::Map(inner) = &items[1].kind else {
            panic!("no map")
        };
        assert_eq!(inner[0].key_place, Place { line: 4, column: 6 });
        assert!(matches!(&inner[0].value.kind, Kind::Scalar(text) if text == "true"));
    }

    #[test]
    fn a_text_that_is_no_yaml_is_one_fault_with_its_place() {
        let fault = parse("f.yaml", "a: 1\nb: [1, 2\nc: }\n").unwrap_err();
        assert_eq!(fault.code, "syntax");
        assert!(fault.line >= 2, "{fault}");
        assert!(!fault.to_string().contains('\n'), "{fault}");
        assert!(parse("f", "").unwrap_err().message.contains("empty"));
        assert!(parse("f", "- a\n").is_err());
    }

    #[test]
    fn a_repeated_key_is_a_fault() {
        assert_eq!(parse("f", "a: 1\nb: 2\na: 3\n").unwrap_err().line, 3);
    }
}
