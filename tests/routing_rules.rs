//! The rule folders that ship with the project are valid as they stand, and each makes a table.

#![allow(clippy::unwrap_used)] // tests and their helpers panic at what must hold

use setgate::gateway::feed::read_folder;
use setgate::model::{Epoch, Lineage, Revision, Seats, SpaceId};
use setgate::routing::{Table, TableInputs};
use setgate::rules::{Context, DocumentFile, NotYet, Validation, validate};
use std::path::Path;

fn folder(name: &str) -> Vec<DocumentFile> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("routing-rules")
        .join(name);
    read_folder(&path).unwrap()
}

#[test]
fn every_example_is_valid_and_makes_a_table() {
    let space = SpaceId::parse("trade").unwrap();
    for (name, units) in [
        ("single", 1),
        ("active-active", 3),
        ("two-sites-three-centers", 3),
    ] {
        let files = folder(name);
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
                lineage: Lineage("first".to_owned()),
                epoch: Epoch(1),
                stand_ins: std::collections::BTreeMap::new(),
            },
            revision: Revision(1),
            space: &space,
        })
        .unwrap();
        assert_eq!(table.units().len(), units, "{name}");
    }
}
