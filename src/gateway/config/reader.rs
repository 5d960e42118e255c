//! Takes a configuration's tree apart, field by field, and keeps every fault on the way.
//!
//! The environment goes before the file. Unknown fields are faults from the start; so is a `SETGATE_` variable that
//! begins like a section but names no field. Other `SETGATE_` variables are only a warning, because orchestrators make
//! such names of their own (a Kubernetes service called setgate sets `SETGATE_PORT`).

use super::ConfigFault;
use super::fields::{FIELDS, Shape, field, is_section, names_below, variable};
use super::yaml::{Kind, Node, Place};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    file: String,
    place: Place,
}

/// A value and where it came from.
#[derive(Debug, Clone)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

/// Kinds of faults, as words for scripts.
pub(super) mod code {
    pub(in super::super) const UNKNOWN_FIELD: &str = "unknown_field";
    pub(in super::super) const MISSING: &str = "missing";
    pub(in super::super) const BAD_VALUE: &str = "bad_value";
    pub(in super::super) const UNREADABLE: &str = "unreadable";
    pub(in super::super) const NOT_YET: &str = "not_yet";
}

/// Reads one configuration.
pub(super) struct Reader<'a> {
    file: &'a str,
    root: &'a Node,
    folder: &'a Path,
    environment: BTreeMap<&'static str, &'a str>,
    faults: Vec<ConfigFault>,
    warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    /// Checks the names of all fields at once.
    pub(super) fn new(
        file: &'a str,
        root: &'a Node,
        folder: &'a Path,
        variables: &'a [(String, String)],
    ) -> Self {
        let mut reader = Self {
            file,
            root,
            folder,
            environment: BTreeMap::new(),
            faults: Vec::new(),
            warnings: Vec::new(),
        };
        reader.check_names("", root);
        reader.take_environment(variables);
        reader
    }

    fn take_environment(&mut self, variables: &'a [(String, String)]) {
        for (name, value) in variables {
            if !name.starts_with("SETGATE_") {
                continue;
            }
            match FIELDS.iter().find(|field| variable(field.path) == *name) {
                Some(field) => {
                    self.environment.insert(field.path, value);
                }
                None if name.contains("__") => {
                    let origin = Origin {
                        file: name.clone(),
                        place: Place::default(),
                    };
                    self.fault(
                        &origin,
                        code::UNKNOWN_FIELD,
                        "this environment variable names no field",
                        "write it as SETGATE_<SECTION>__<FIELD>, or unset it",
                    );
                }
                None => self.warnings.push(format!(
                    "the environment variable {name} names no field; it is ignored"
                )),
            }
        }
    }

    fn check_names(&mut self, path: &str, node: &Node) {
        let Kind::Map(entries) = &node.kind else {
            if !path.is_empty() && field(path).is_none() && !matches!(node.kind, Kind::Nothing) {
                let names = names_below(path).join(", ");
                let origin = self.at(node.place);
                self.fault(
                    &origin,
                    code::BAD_VALUE,
                    format!("`{path}` holds fields, not a value"),
                    format!("write `{path}: {{…}}` with some of: {names}"),
                );
            }
            return;
        };
        for entry in entries {
            let inner = if path.is_empty() {
                entry.key.clone()
            } else {
                format!("{path}.{}", entry.key)
            };
            if is_section(&inner) {
                self.check_names(&inner, &entry.value);
            } else if field(&inner).is_none() {
                let names = names_below(path);
                let mend = match nearest(&entry.key, &names) {
                    Some(name) => format!("did you mean `{name}`?"),
                    None => format!("known here: {}", names.join(", ")),
                };
                let origin = self.at(entry.key_place);
                self.fault(
                    &origin,
                    code::UNKNOWN_FIELD,
                    format!("unknown field `{inner}`"),
                    mend,
                );
            }
        }
    }

    fn at(&self, place: Place) -> Origin {
        Origin {
            file: self.file.to_owned(),
            place,
        }
    }

    fn node(&self, path: &str) -> Option<&'a Node> {
        let mut node = self.root;
        for name in path.split('.') {
            let Kind::Map(entries) = &node.kind else {
                return None;
            };
            node = &entries.iter().find(|entry| entry.key == name)?.value;
        }
        (!matches!(node.kind, Kind::Nothing)).then_some(node)
    }

    fn in_environment(&self, path: &str) -> Option<Found<&'a str>> {
        let value = *self.environment.get(path)?;
        let origin = Origin {
            file: variable(path),
            place: Place::default(),
        };
        Some(Found { value, origin })
    }

    /// Whether a field, or one below it, is given at all.
    pub(super) fn has(&self, path: &str) -> bool {
        let below = |known: &&str| {
            known
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with('.'))
        };
        self.node(path).is_some()
            || self.environment.contains_key(path)
            || self.environment.keys().any(below)
    }

    /// Where a field stands, or the nearest section around it, or the file.
    pub(super) fn origin(&self, path: &str) -> Origin {
        if let Some(found) = self.in_environment(path) {
            return found.origin;
        }
        let mut path = path;
        loop {
            if let Some(node) = self.node(path) {
                return self.at(node.place);
            }
            match path.rsplit_once('.') {
                Some((outer, _)) => path = outer,
                None => return self.at(Place { line: 1, column: 1 }),
            }
        }
    }

    /// Keeps a fault.
    pub(super) fn fault(
        &mut self,
        origin: &Origin,
        code: &'static str,
        message: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.faults.push(ConfigFault {
            file: origin.file.clone(),
            line: origin.place.line,
            column: origin.place.column,
            code,
            message: message.into(),
            mend: mend.into(),
        });
    }

    /// Keeps something that is no fault but probably not meant.
    pub(super) fn warn(&mut self, words: impl Into<String>) {
        self.warnings.push(words.into());
    }

    /// The text of a field, if it is there.
    pub(super) fn text(&mut self, path: &str) -> Option<Found<String>> {
        if let Some(found) = self.in_environment(path) {
            return Some(Found {
                value: found.value.to_owned(),
                origin: found.origin,
            });
        }
        let node = self.node(path)?;
        let origin = self.at(node.place);
        match &node.kind {
            Kind::Scalar(text) => Some(Found {
                value: text.clone(),
                origin,
            }),
            Kind::Map(_) if is_section(path) => None,
            Kind::Nothing | Kind::List(_) | Kind::Map(_) => {
                self.fault(
                    &origin,
                    code::BAD_VALUE,
                    format!("`{path}` is one value"),
                    format!("write `{}: …` with a text or number", last(path)),
                );
                None
            }
        }
    }

    /// The items of a list, if it is there.
    pub(super) fn list(&mut self, path: &str) -> Option<Found<Vec<Found<String>>>> {
        if let Some(found) = self.in_environment(path) {
            let origin = found.origin;
            let items = found
                .value
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            let items = items
                .map(|item| Found {
                    value: item.to_owned(),
                    origin: origin.clone(),
                })
                .collect();
            return Some(Found {
                value: items,
                origin,
            });
        }
        let node = self.node(path)?;
        let origin = self.at(node.place);
        let Kind::List(nodes) = &node.kind else {
            self.fault(
                &origin,
                code::BAD_VALUE,
                format!("`{path}` is a list"),
                format!("write `{}: [\"…\"]`", last(path)),
            );
            return None;
        };
        let mut items = Vec::with_capacity(nodes.len());
        for node in nodes {
            let origin = self.at(node.place);
            match &node.kind {
                Kind::Scalar(text) => items.push(Found {
                    value: text.clone(),
                    origin,
                }),
                Kind::Nothing | Kind::List(_) | Kind::Map(_) => self.fault(
                    &origin,
                    code::BAD_VALUE,
                    format!("an item of `{path}` is one text"),
                    "put it in quotes",
                ),
            }
        }
        Some(Found {
            value: items,
            origin,
        })
    }

    /// The pairs of a mapping with free keys; empty when it is absent.
    pub(super) fn pairs(&mut self, path: &str) -> Vec<Found<(String, String)>> {
        debug_assert_eq!(field(path).map(|field| field.shape), Some(Shape::Map));
        let mend = format!("write `{}: {{key: \"value\"}}`", last(path));
        let mut pairs = Vec::new();
        if let Some(found) = self.in_environment(path) {
            for item in found
                .value
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
            {
                match item.split_once('=') {
                    Some((key, value)) => pairs.push(Found {
                        value: (key.trim().to_owned(), value.trim().to_owned()),
                        origin: found.origin.clone(),
                    }),
                    None => self.fault(
                        &found.origin,
                        code::BAD_VALUE,
                        format!("{item:?} is no pair"),
                        "write key=value,key=value",
                    ),
                }
            }
            return pairs;
        }
        let Some(node) = self.node(path) else {
            return pairs;
        };
        let Kind::Map(entries) = &node.kind else {
            let origin = self.at(node.place);
            self.fault(
                &origin,
                code::BAD_VALUE,
                format!("`{path}` is a mapping"),
                mend,
            );
            return pairs;
        };
        for entry in entries {
            let origin = self.at(entry.key_place);
            match &entry.value.kind {
                Kind::Scalar(text) => {
                    pairs.push(Found {
                        value: (entry.key.clone(), text.clone()),
                        origin,
                    });
                }
                Kind::Nothing | Kind::List(_) | Kind::Map(_) => {
                    self.fault(
                        &origin,
                        code::BAD_VALUE,
                        format!("`{path}.{}` is one text", entry.key),
                        mend.clone(),
                    );
                }
            }
        }
        pairs
    }

    /// Reads a field by `parse`, whose error says what is wrong. `None` when it is absent or faulty.
    pub(super) fn parsed<T, E: std::fmt::Display>(
        &mut self,
        path: &str,
        mend: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let found = self.text(path)?;
        match parse(&found.value) {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault(
                    &found.origin,
                    code::BAD_VALUE,
                    format!("`{path}`: {error}"),
                    mend,
                );
                None
            }
        }
    }

    /// Says that a field is missing where nothing was said of it yet.
    pub(super) fn require(&mut self, path: &str, mend: &str) {
        if !self.has(path) {
            let origin = self.origin(path);
            self.fault(&origin, code::MISSING, format!("`{path}` is missing"), mend);
        }
    }

    /// A path of the file's folder.
    pub(super) fn resolve(&self, text: &str) -> PathBuf {
        self.folder.join(text)
    }

    /// All faults, in the order of the file, or all warnings.
    pub(super) fn finish(mut self) -> Result<Vec<String>, Vec<ConfigFault>> {
        if self.faults.is_empty() {
            return Ok(self.warnings);
        }
        self.faults.sort_by_key(|fault| (fault.line, fault.column));
        Err(self.faults)
    }
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// The one of `names` that was probably meant.
fn nearest<'n>(text: &str, names: &[&'n str]) -> Option<&'n str> {
    let distances = names.iter().map(|name| (edits(text, name), *name));
    let (distance, name) = distances.min()?;
    // Two slips of the finger, or two letters that changed places; in a short word, one slip.
    (distance <= if name.len() > 3 { 2 } else { 1 }).then_some(name)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
