//! The rule folders that ship with the project are valid as they stand, and each makes a table; one that is full of faults
//! has each of them named.

#![allow(clippy::unwrap_used)] // tests and their helpers panic at what must hold

use setgate::gateway::feed::read_folder;
use setgate::model::{Epoch, Lineage, Moves, Revision, Seats, SpaceId};
use setgate::routing::{Table, TableInputs};
use setgate::rules::{Context, DocumentFile, Fault, NotYet, Validation, validate};
use std::collections::BTreeSet;
use std::path::Path;

fn folder(name: &str) -> Vec<DocumentFile> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    read_folder(&path).unwrap()
}

/// File, line and code of what is wrong.
type Found = BTreeSet<(String, u32, String)>;

/// What the ends of lines say: the codes of faults, or of warnings.
fn written(files: &[DocumentFile]) -> (Found, Found) {
    let (mut faults, mut warnings) = (Found::new(), Found::new());
    for file in files {
        let text = String::from_utf8(file.text.clone()).unwrap();
        for (line, number) in text.lines().zip(1..) {
            // What stands in a line of its own, or has several words, is for people.
            let Some((_, comment)) = line.split_once(" # ") else {
                continue;
            };
            for code in comment.split(", ") {
                let (list, code) = match code.strip_prefix("warning: ") {
                    Some(code) => (&mut warnings, code),
                    None => (&mut faults, code),
                };
                if !code.contains(' ') {
                    list.insert((file.name.clone(), number, code.to_owned()));
                }
            }
        }
    }
    (faults, warnings)
}

fn found(faults: &[Fault]) -> Found {
    let one = |fault: &Fault| (fault.file.clone(), fault.line, fault.code.to_string());
    faults.iter().map(one).collect()
}

#[test]
fn every_fault_of_a_folder_full_of_them_is_named_at_its_line_in_one_run() {
    let files = folder("tests/routing_rules/faults");
    let context = Context {
        not_yet: NotYet::Warn,
        ..Context::default()
    };
    let validation = validate(&files, &context);
    let (faults, warnings) = written(&files);
    assert_eq!(found(&validation.faults), faults);
    assert_eq!(found(&validation.warnings), warnings);
    let kinds: BTreeSet<_> = faults.iter().map(|(_, _, code)| code).collect();
    assert!(kinds.len() >= 20, "{} kinds", kinds.len());
}

#[test]
fn every_example_is_valid_and_makes_a_table() {
    let space = SpaceId::parse("trade").unwrap();
    for (name, units) in [
        ("single", 1),
        ("active-active", 3),
        ("two-sites-three-centers", 3),
    ] {
        let files = folder(&format!("routing-rules/{name}"));
        let context = Context {
            space: Some(&space),
            not_yet: NotYet::Warn,
            ..Context::default()
        };
        assert_eq!(validate(&files, &context), Validation::default(), "{name}");
        let table = Table::compile(TableInputs {
            files: &files,
            placement: None,
            seats: Seats {
                lineage: Lineage("first".into()),
                epoch: Epoch(1),
                ..Seats::default()
            },
            moves: Moves::new(),
            revision: Revision(1),
            space: &space,
        })
        .unwrap();
        assert_eq!(table.units().len(), units, "{name}");
    }
}
