//! A decision allocates nothing but the list of its targets.

#![allow(clippy::unwrap_used)] // tests and their helpers panic at what must hold

use bytes::Bytes;
use setgate::amqp::{FieldTable, FieldValue, Properties, RawProperties};
use setgate::model::{
    Address, Epoch, Lineage, Message, Moves, Revision, Seats, SourceName, SpaceId, UnitId,
};
use setgate::routing::{Outcome, Table, TableInputs, Unrecorded};
use setgate::rules::DocumentFile;

const DOCUMENTS: &str = "kind: topology
space: t
cities: {here: {}}
sites: {a: {city: here}, b: {city: here}}
units: {u1: {site: a}, u2: {site: b}}
---
kind: placement
slots: 100
ranges: [{slots: 0-49, unit: u1}, {slots: 50-99, unit: u2}]
pins: [{key: vip, unit: u2}]
---
kind: source
name: orders
take: {exchange: orders, bindings: [{routing_key: \"#\"}]}
deliver: {exchange: orders.local}
key: {from: [{header: uid}, {routing_key_word: 2}]}
---
kind: rule
name: app
source: orders
order: 1
when: {routing_key: \"app.*.created\", headers: {region: {prefix: cn-}, tier: {in: [gold, 7]}}}
route: owner
gray: {percent: 50, salt: g1, unit: u1}
---
kind: rule
name: both
source: orders
order: 2
when: {routing_key: \"both.#\"}
route: {units: [u1, u2]}
---
kind: rule
name: noise
source: orders
order: 3
when: {routing_key: \"noise.#\"}
route: drop
";

fn table() -> Table {
    let file = DocumentFile {
        name: "all.yaml".to_owned(),
        text: DOCUMENTS.as_bytes().to_vec(),
    };
    Table::compile(TableInputs {
        files: &[file],
        placement: None,
        seats: Seats {
            lineage: Lineage("l".into()),
            epoch: Epoch(1),
            ..Seats::default()
        },
        moves: Moves::new(),
        revision: Revision(1),
        space: &SpaceId::parse("t").unwrap(),
    })
    .unwrap()
}

fn message(key: &'static str, headers: &[(&'static str, &str)]) -> Message {
    let entries = headers.iter().map(|(name, value)| {
        let value = FieldValue::str(value);
        (Bytes::from_static(name.as_bytes()), value)
    });
    let properties = Properties {
        headers: Some(entries.collect::<FieldTable>()),
        ..Properties::default()
    };
    Message {
        address: Address {
            exchange: Bytes::from_static(b"orders"),
            routing_key: Bytes::from_static(key.as_bytes()),
        },
        properties: RawProperties::of(&properties).unwrap(),
        body: Bytes::new(),
        redelivered: false,
    }
}

#[test]
fn a_decision_allocates_the_list_of_its_targets_and_nothing_else() {
    let table = table();
    let source = table.source(&SourceName::parse("orders").unwrap()).unwrap();
    let here = UnitId::parse("u1").unwrap();
    let app = [("uid", "42"), ("region", "cn-east"), ("tier", "gold")];
    let pinned = [("uid", "vip"), ("region", "cn-east"), ("tier", "gold")];
    for (message, targets) in [
        (message("app.x.created", &app), 1),
        (message("app.x.created", &pinned), 1),
        (message("both.x", &[]), 2),
        (message("noise.x", &[]), 0),
        (message("nobody.x", &[]), 0),
    ] {
        // Bytes that nobody has shared yet are given a count of their sharers once: a delivery's come with theirs.
        drop(table.route(source, &here, &[], &message, &mut Unrecorded));
        let mut found = None;
        let counted = allocation_counter::measure(|| {
            found = Some(table.route(source, &here, &[], &message, &mut Unrecorded));
        });
        let decision = found.unwrap();
        let to = match &decision.outcome {
            Outcome::Deliver(targets) => targets.len(),
            Outcome::Park(_) | Outcome::Drop(_) => 0,
        };
        let key = String::from_utf8_lossy(&message.address.routing_key);
        assert_eq!(to, targets, "{key}: {decision:?}");
        let lists = u64::from(targets > 0);
        assert_eq!(counted.count_total, lists, "{key}: {decision:?}");
    }
}
