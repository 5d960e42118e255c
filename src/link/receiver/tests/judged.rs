//! What a receiver's table says of a parcel.

use super::*;
use crate::model::{Seats, Slot, SlotSet, SpaceId};
use crate::routing::{Table, TableInputs};
use crate::rules::DocumentFile;

const DOCUMENTS: &str = "kind: topology
space: trade
cities: {here: {}}
sites: {a: {city: here}, b: {city: here}}
units: {sh-1: {site: a}, sh-2: {site: b}}
---
kind: placement
slots: 10
ranges: [{slots: 0-4, unit: sh-1}, {slots: 5-9, unit: sh-2}]
---
kind: source
name: orders
take: {queue: orders}
deliver: {exchange: orders.local}
key: {from: [{header: uid}], map: digits}
---
kind: rule
name: all
source: orders
order: 1
route: owner
";

/// What sh-2 says under these seats of a parcel of its slot 7 that was routed by that epoch.
fn judged(seats: Seats, why: Why, epoch: u64) -> Result<(), Answer> {
    let table = Table::compile(TableInputs {
        files: &[DocumentFile {
            name: "all.yaml".to_owned(),
            text: DOCUMENTS.as_bytes().to_vec(),
        }],
        placement: None,
        seats,
        moves: crate::model::Moves::new(),
        revision: Revision(1),
        space: &SpaceId::parse("trade").unwrap(),
    });
    let here: UnitId = "sh-2".parse().unwrap();
    let parcel = Parcel {
        slot: Some(Slot(7)),
        why,
        epoch: Epoch(epoch),
        marking: Marking::AtReceiver(Way {
            path: vec!["sh-1".parse().unwrap()],
            ..Way::default()
        }),
        ..parcel(1, "a")
    };
    check(&table.unwrap(), &here, &parcel, &lane(0))
}

#[test]
fn what_was_routed_before_a_slot_or_its_sources_rules_changed_is_routed_anew() {
    let sources = [("orders".parse().unwrap(), Epoch(4))];
    let changed = Seats {
        epoch: Epoch(5),
        sources: sources.into(),
        ..Seats::default()
    };
    for why in [Why::Owner, Why::Gray, Why::Pin] {
        assert_eq!(
            judged(changed.clone(), why, 3),
            Err(Answer::Moved),
            "{why:?}"
        );
        assert_eq!(judged(changed.clone(), why, 4), Ok(()), "{why:?}");
    }
    let slots = SlotSet::parse("7").unwrap();
    let moved = Seats::default().with_changed(&slots, &"sh-1".parse().unwrap());
    for why in [Why::Owner, Why::Gray, Why::Pin] {
        assert_eq!(judged(moved.clone(), why, 0), Err(Answer::Moved), "{why:?}");
        assert_eq!(judged(moved.clone(), why, 1), Ok(()), "{why:?}");
    }
}
