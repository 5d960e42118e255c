//! All documents of a folder, or of etcd, read.
//!
//! Owns the step from files to [`Documents`], each document by itself. Promises at least one fault per document that
//! is wrong in itself. Whether the documents fit together is the next step's question.

use super::fault::{Fault, FaultCode, Place, Placed};
use super::fields::{self, Fields};
use super::placement::{self, Placement};
use super::rule::{self, Rule};
use super::source::Source;
use super::source_read;
use super::topology::{self, Topology};
use super::tree::{self, DocumentFile, Node, Value};
use std::collections::HashSet;

/// The documents that could be read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Documents {
    /// The units and where they are.
    pub topology: Option<Placed<Topology>>,
    /// Which unit owns which slots.
    pub placement: Option<Placed<Placement>>,
    /// In the order of the files.
    pub sources: Vec<Placed<Source>>,
    /// In the order of the files.
    pub rules: Vec<Placed<Rule>>,
    /// The words of those that couldn't be read; none when all could.
    unread: Option<HashSet<Vec<u8>>>,
}

impl Documents {
    /// Whether a document that couldn't be read may be what others name: then they aren't told that it is missing.
    pub fn may_name(&self, name: &str) -> bool {
        let mut unread = self.unread.iter();
        unread.any(|words| words.contains(name.as_bytes()))
    }

    /// Whether any couldn't be read.
    pub fn is_incomplete(&self) -> bool {
        self.unread.is_some()
    }

    fn could_not_read(&mut self, text: &[u8]) {
        let in_names = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let words = text.split(|byte| !in_names(byte));
        let words = words.filter(|word| !word.is_empty()).map(<[u8]>::to_vec);
        self.unread.get_or_insert_default().extend(words);
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Topology,
    Placement,
    Source,
    Rule,
}

const KINDS: [(&str, Kind); 4] = [
    ("topology", Kind::Topology),
    ("placement", Kind::Placement),
    ("source", Kind::Source),
    ("rule", Kind::Rule),
];

/// Reads all files. The faults are in the order of files and lines.
pub fn parse(files: &[DocumentFile]) -> (Documents, Vec<Fault>) {
    let mut documents = Documents::default();
    let mut faults = Vec::new();
    for file in files {
        let before = faults.len();
        for one in tree::read(file, &mut faults) {
            let read = one.node.and_then(|node| {
                let place = node.place.clone();
                read_kind(node, &mut documents, &place, &mut faults)
            });
            if read.is_none() {
                documents.could_not_read(one.text);
            }
        }
        faults[before..].sort_by_key(|fault| (fault.line, fault.column));
    }
    (documents, faults)
}

fn read_kind(
    node: Node,
    documents: &mut Documents,
    place: &Place,
    faults: &mut Vec<Fault>,
) -> Option<()> {
    let mut fields = Fields::of(node, "a document", faults)?;
    let kind = fields.must("kind", faults, |node, faults| {
        let text = fields::text(node, "`kind`", faults)?;
        let found = KINDS.iter().find(|(word, _)| *word == text.value);
        if found.is_none() {
            faults.push(Fault::at(
                &text.place,
                FaultCode::UnknownKind,
                format!("there is no kind {:?}", text.value),
                "write one of: topology, placement, source, rule",
            ));
        }
        found.copied()
    });
    if let Some(node) = fields.optional("version")
        && node.value != Value::Int(1)
    {
        faults.push(Fault::at(
            &node.place,
            FaultCode::UnknownVersion,
            "this program reads documents of version 1",
            "leave `version` out, or run a newer setgate",
        ));
        return None;
    }
    let (word, kind) = kind?;
    fields.name_it(format!("a {word}"));
    let placed = |faults: &mut Vec<Fault>, what: &str, first: &Place| {
        faults.push(Fault::at(
            place,
            FaultCode::RepeatedDocument,
            format!("there is a {what} already, at {first}"),
            "keep one of them",
        ));
    };
    match kind {
        Kind::Topology => {
            let read = at(topology::read(fields, faults), place)?;
            match &documents.topology {
                Some(first) => placed(faults, word, &first.place),
                None => documents.topology = Some(read),
            }
        }
        Kind::Placement => {
            let read = at(placement::read(fields, faults), place)?;
            match &documents.placement {
                Some(first) => placed(faults, word, &first.place),
                None => documents.placement = Some(read),
            }
        }
        Kind::Source => documents
            .sources
            .push(at(source_read::read(fields, faults), place)?),
        Kind::Rule => documents.rules.push(at(rule::read(fields, faults), place)?),
    }
    Some(())
}

fn at<T>(read: Option<T>, place: &Place) -> Option<Placed<T>> {
    read.map(|value| Placed {
        value,
        place: place.clone(),
    })
}
