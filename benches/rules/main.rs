//! What routing costs: a decision beside few and many rules, and a large table from its documents.
//!
//! `make bench-rules`. The goals, on one core: a decision at most 300 ns beside 20 rules of a source and 1 us beside 1,000;
//! a table of 10,000 rules and 10,000 pins within 100 ms.

#![allow(clippy::unwrap_used)] // a benchmark that can't run says so by a panic

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use setgate::amqp::{FieldTable, FieldValue, Properties, RawProperties};
use setgate::model::{
    Address, Epoch, Lineage, Message, Moves, Revision, Seats, SourceName, SpaceId, UnitId,
};
use setgate::routing::{Table, TableInputs, Unrecorded};
use setgate::rules::DocumentFile;
use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Duration;

const WORLD: &str = "kind: topology
space: bench
cities: {here: {}}
sites: {a: {city: here}, b: {city: here}}
units: {u1: {site: a}, u2: {site: b}}
";

/// Rules over so many sources, each source with a last one for everything; pins beside.
fn documents(sources: usize, rules: usize, pins: usize) -> Vec<DocumentFile> {
    let mut placement = "kind: placement\nslots: 10000\nranges:\n  - {slots: 0-4999, unit: u1}\n  - {slots: 5000-9999, unit: u2}\npins:\n".to_owned();
    for pin in 0..pins {
        let _ = writeln!(placement, "  - {{key: \"vip-{pin}\", unit: u2}}");
    }
    let mut files = vec![
        file("topology.yaml", WORLD.to_owned()),
        file("placement.yaml", placement),
    ];
    for source in 0..sources {
        let mut text = format!(
            "kind: source\nname: s-{source}\ntake: {{exchange: in-{source}, bindings: [{{routing_key: \"#\"}}]}}\n\
             deliver: {{exchange: out-{source}}}\nkey: {{from: [{{header: uid}}]}}\n"
        );
        for rule in 0..rules / sources {
            let _ = write!(
                text,
                "---\nkind: rule\nname: r-{source}-{rule}\nsource: s-{source}\norder: {rule}\n\
                 when: {{routing_key: \"shop-{rule}.*.created\", headers: {{region: {{in: [cn, sg]}}}}}}\nroute: {{units: [u1]}}\n"
            );
        }
        let _ = write!(
            text,
            "---\nkind: rule\nname: rest-{source}\nsource: s-{source}\norder: 1000000\nroute: owner\n"
        );
        files.push(file(&format!("s-{source}.yaml"), text));
    }
    files
}

fn file(name: &str, text: String) -> DocumentFile {
    DocumentFile {
        name: name.to_owned(),
        text: text.into_bytes(),
    }
}

fn compile(files: &[DocumentFile]) -> Table {
    let space = SpaceId::parse("bench").unwrap();
    Table::compile(TableInputs {
        files,
        placement: None,
        seats: Seats {
            lineage: Lineage("l".into()),
            epoch: Epoch(1),
            ..Seats::default()
        },
        moves: Moves::new(),
        revision: Revision(1),
        space: &space,
    })
    .unwrap()
}

/// One whose routing key is that of a rule in the middle, with the headers that orders have.
fn message(key: &str, region: &str) -> Message {
    let entries = [
        ("uid", "20250042"),
        ("region", region),
        ("channel", "app"),
        ("trace", "0af7651916cd43dd8448eb211c80319c"),
    ];
    let entries =
        entries.map(|(name, value)| (Bytes::from_static(name.as_bytes()), FieldValue::str(value)));
    let properties = Properties {
        headers: Some(FieldTable::from_iter(entries)),
        ..Properties::default()
    };
    Message {
        address: Address {
            exchange: Bytes::from_static(b"in-0"),
            routing_key: Bytes::copy_from_slice(key.as_bytes()),
        },
        properties: RawProperties::of(&properties).unwrap(),
        body: Bytes::from_static(b"{}"),
        redelivered: false,
    }
}

fn decisions(criterion: &mut Criterion) {
    let here = UnitId::parse("u1").unwrap();
    let mut group = criterion.benchmark_group("decision");
    for rules in [20, 1_000] {
        let table = compile(&documents(1, rules, 1_000));
        let source = table.source(&SourceName::parse("s-0").unwrap()).unwrap();
        let middle = format!("shop-{}.order.created", rules / 2);
        for (what, message) in [
            ("a rule in the middle", message(&middle, "cn")),
            (
                "the last one, by its owner",
                message("refund.created", "eu"),
            ),
        ] {
            group.bench_function(format!("beside {rules} rules: {what}"), |bencher| {
                bencher
                    .iter(|| table.route(source, &here, &[], black_box(&message), &mut Unrecorded));
            });
        }
    }
    group.finish();
}

fn tables(criterion: &mut Criterion) {
    let files = documents(20, 10_000, 10_000);
    let mut group = criterion.benchmark_group("table");
    group
        .sample_size(20)
        .measurement_time(Duration::from_secs(10));
    group.bench_function("10,000 rules and 10,000 pins", |bencher| {
        bencher.iter(|| compile(black_box(&files)));
    });
    group.finish();
}

criterion_group!(benches, decisions, tables);
criterion_main!(benches);
