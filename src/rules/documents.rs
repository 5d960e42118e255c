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
    /// The texts of those that couldn't be read.
    unread: Vec<Vec<u8>>,
}

impl Documents {
    /// Whether a document that couldn't be read may be what others name: then they aren't told that it is missing.
    pub fn may_name(&self, name: &str) -> bool {
        let mut unread = self.unread.iter();
        unread.any(|text| has_word(text, name.as_bytes()))
    }

    /// Whether any couldn't be read.
    pub fn is_incomplete(&self) -> bool {
        !self.unread.is_empty()
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
                documents.unread.push(one.text.to_vec());
            }
        }
        faults[before..].sort_by_key(|fault| (fault.line, fault.column));
    }
    (documents, faults)
}

/// Whether a text has a word, with none of a name's characters before or behind it.
fn has_word(text: &[u8], word: &[u8]) -> bool {
    let of_name = |at: Option<&u8>| {
        at.is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let mut places = text.windows(word.len().max(1)).enumerate();
    places.any(|(at, part)| {
        let before = at.checked_sub(1).and_then(|at| text.get(at));
        part == word && !of_name(before) && !of_name(text.get(at + word.len()))
    })
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
