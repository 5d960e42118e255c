//! A file of YAML as a tree in which every node knows its place.
//!
//! Owns the step from bytes to [`Node`]: encoding, size, documents, syntax. Promises at least one fault per document that
//! can't be read, bounded work whatever the text (size, depth, nodes and aliases are limited), and places as an editor
//! counts them. Never knows what a document means.
//!
//! Why a tree and not derived types: serde stops at the first wrong field, and its tagged and untagged enums lose the
//! place. Here a person gets all faults of all files at once.

use super::fault::{Fault, FaultCode, Place, Placed};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};
use std::fmt;
use std::sync::Arc;

/// Largest file. etcd takes 1.5 MiB in a request, and a file is one key.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Deepest nesting. The deepest document (`when.headers.x.in`) has six levels; the rest is for people's experiments.
const DEPTH_MAX: usize = 32;

/// Nodes in a document. A file of 1 MiB that is all `[1,1,…]` has half a million; a placement with 10,000 ranges has
/// 60,000.
const NODES_MAX: usize = 500_000;

/// Aliases in a document, and nodes that all of them together may repeat.
const ALIASES_MAX: usize = 1_000;
const ALIASED_NODES_MAX: usize = 100_000;

/// One file of documents: a file of the folder, or one key in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentFile {
    /// Its name without folder or prefix, such as `topology.yaml`.
    pub name: String,
    /// As written, comments and all.
    pub text: Vec<u8>,
}

/// A value of YAML.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Nothing, or `null`.
    Null,
    /// `true` or `false`; `yes`, `on`, `off` are texts.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// Any other number.
    Float(f64),
    /// Everything else that isn't a collection.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in its order.
    Map(Vec<(Placed<String>, Node)>),
}

/// A value and its place.
pub(super) type Node = Placed<Value>;

impl Value {
    /// What it is, for a fault.
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Int(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// One document of a file.
pub(super) struct Read<'a> {
    /// As written; the whole file, where that isn't text.
    pub(super) text: &'a [u8],
    /// `None` when it can't be read.
    pub(super) node: Option<Node>,
}

/// The documents of one file, each a tree.
pub(super) fn read<'a>(file: &'a DocumentFile, faults: &mut Vec<Fault>) -> Vec<Read<'a>> {
    let unread = || {
        vec![Read {
            text: &file.text,
            node: None,
        }]
    };
    let whole = Place::whole(&file.name);
    if file.text.len() > FILE_BYTES_MAX {
        faults.push(Fault::at(
            &whole,
            FaultCode::FileTooLarge,
            format!(
                "the file has {} bytes, and a file of documents at most {FILE_BYTES_MAX}",
                file.text.len()
            ),
            "split it into several files",
        ));
        return unread();
    }
    let text = match std::str::from_utf8(&file.text) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let before = &file.text[..error.valid_up_to()];
            let line = before.split(|b| *b == b'\n').count();
            let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
            let place = Place {
                line: small(line as u64),
                column: small(column as u64),
                ..whole
            };
            faults.push(Fault::at(
                &place,
                FaultCode::NotUtf8,
                "the file isn't UTF-8",
                "save it as UTF-8",
            ));
            return unread();
        }
    };
    split(text)
        .into_iter()
        .filter_map(|chunk| {
            let node = read_one(&whole.file, &chunk, faults)?;
            let text = chunk.text.as_bytes();
            Some(Read { text, node })
        })
        .collect()
}

/// The documents of a text as they are written, comments and all: joined again they are the text.
pub(super) fn chunks(text: &str) -> Vec<&str> {
    split(text).into_iter().map(|chunk| chunk.text).collect()
}

/// One document's text, and how many lines of the file lie before it.
struct Chunk<'a> {
    text: &'a str,
    lines_before: u64,
}

/// Cuts at the lines that begin with `---`, which YAML lets mean nothing else, even inside a block of text. Read one by
/// one, a document that can't be read doesn't take those behind it along.
fn split(text: &str) -> Vec<Chunk<'_>> {
    let mut chunks = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marker && at > start {
            chunks.push(Chunk {
                text: &text[start..at],
                lines_before: start_line,
            });
            (start, start_line) = (at, number as u64);
        }
        at += line.len();
    }
    chunks.push(Chunk {
        text: &text[start..],
        lines_before: start_line,
    });
    chunks
}

/// `None` for an empty document, `Some(None)` for one that can't be read.
#[expect(
    clippy::option_option,
    reason = "absent and unreadable are not the same"
)]
fn read_one(file: &Arc<str>, chunk: &Chunk<'_>, faults: &mut Vec<Fault>) -> Option<Option<Node>> {
    let blank = |line: &str| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        line.is_empty() || line.starts_with('#') || line == "..."
    };
    if chunk.text.lines().all(blank) {
        return None;
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_nodes: NODES_MAX,
            max_aliases: ALIASES_MAX,
            max_documents: 2,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: ALIASED_NODES_MAX,
            max_replay_stack_depth: DEPTH_MAX,
        },
        // Told apart by `check_repeats`, which names every one.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(chunk.text, options) {
        Ok(raw) => {
            let node = place(raw, file, chunk.lines_before);
            check_repeats(&node, faults);
            Some(Some(node))
        }
        Err(error) => {
            faults.push(syntax_fault(file, chunk, &error));
            Some(None)
        }
    }
}

fn syntax_fault(file: &Arc<str>, chunk: &Chunk<'_>, error: &serde_saphyr::Error) -> Fault {
    let (line, column) = error
        .location()
        .map_or((1, 1), |at| (at.line().max(1), at.column().max(1)));
    let at = |line: u64, column: u64| Place {
        file: Arc::clone(file),
        line: small(chunk.lines_before + line),
        column: small(column),
    };
    // The parser names the end of what it read before the tab, which is often in the line above.
    let tabbed = [line, line + 1].into_iter().find_map(|line| {
        let index = usize::try_from(line).ok()?.checked_sub(1)?;
        let text = chunk.text.lines().nth(index)?;
        let spaces = text.bytes().take_while(|byte| *byte == b' ').count() as u64;
        let text = text.trim_start_matches(' ');
        text.starts_with('\t').then(|| at(line, spaces + 1))
    });
    if let Some(place) = tabbed {
        return Fault::at(
            &place,
            FaultCode::Yaml,
            "the line is indented with a tab, which YAML doesn't allow",
            "indent with spaces",
        );
    }
    let text = error.without_snippet().to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    Fault::at(
        &at(line, column),
        FaultCode::Yaml,
        format!("this isn't readable as YAML: {text}"),
        "correct the line, or the indentation around it",
    )
}

fn check_repeats(node: &Node, faults: &mut Vec<Fault>) {
    match &node.value {
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {}
        Value::List(items) => items.iter().for_each(|item| check_repeats(item, faults)),
        Value::Map(entries) => {
            let mut seen = std::collections::HashMap::new();
            for (key, value) in entries {
                if let Some(first) = seen.insert(key.value.as_str(), key.place.line) {
                    faults.push(Fault::at(
                        &key.place,
                        FaultCode::RepeatedField,
                        format!("`{}` is written in line {first} already", key.value),
                        "keep one of them",
                    ));
                }
                check_repeats(value, faults);
            }
        }
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn place(raw: Spanned<Raw>, file: &Arc<str>, lines_before: u64) -> Node {
    let at = |spanned: &serde_saphyr::Location| Place {
        file: Arc::clone(file),
        line: small(lines_before + spanned.line().max(1)),
        column: small(spanned.column().max(1)),
    };
    let here = at(&raw.referenced);
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Bool(v) => Value::Bool(v),
        Raw::Int(v) => Value::Int(v),
        Raw::Float(v) => Value::Float(v),
        Raw::Text(v) => Value::Text(v),
        Raw::List(items) => Value::List(
            items
                .into_iter()
                .map(|item| place(item, file, lines_before))
                .collect(),
        ),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let key_place = at(&key.referenced);
                    let key = Placed {
                        value: key.value.0,
                        place: key_place,
                    };
                    (key, place(value, file, lines_before))
                })
                .collect(),
        ),
    };
    Placed { value, place: here }
}

/// What serde hands over.
enum Raw {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Key>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Raw, E> {
        Ok(Raw::Int(i128::from(v)))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Raw, E> {
        Ok(Raw::Int(i128::from(v)))
    }

    fn visit_i128<E>(self, v: i128) -> Result<Raw, E> {
        Ok(Raw::Int(v))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Raw, E> {
        Ok(Raw::Float(v))
    }

    fn visit_str<E>(self, v: &str) -> Result<Raw, E> {
        Ok(Raw::Text(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Raw, E> {
        Ok(Raw::Text(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key()? {
            entries.push((key, access.next_value()?));
        }
        Ok(Raw::Map(entries))
    }
}

/// A field's name: a text, or a number or truth value as text.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Raw::deserialize(deserializer)? {
            Raw::Text(text) => Ok(Self(text)),
            Raw::Bool(v) => Ok(Self(v.to_string())),
            Raw::Int(v) => Ok(Self(v.to_string())),
            Raw::Float(v) => Ok(Self(v.to_string())),
            Raw::Null | Raw::List(_) | Raw::Map(_) => {
                Err(D::Error::custom("a field's name must be a text"))
            }
        }
    }
}
