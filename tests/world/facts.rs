//! What never changes in any world: units, gateways, the tables that come into force one after the other, the seal's key.

use setgate::model::{
    Epoch, GatewayId, LaneId, Lineage, Moves, Partition, Revision, SealKeys, Seats, SourceName,
    SpaceId, UnitId,
};
use setgate::routing::{Source, Table, TableInputs};
use setgate::rules::DocumentFile;
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// By index: so everything in a world names them.
pub(crate) const UNITS: usize = 3;
pub(crate) const GATEWAYS: usize = 2 * UNITS;

/// Slots that no table moves: their order holds throughout.
pub(crate) const STEADY: [u32; 4] = [2, 6, 7, 9];
/// Slots that change their owner.
pub(crate) const MOVING: [u32; 3] = [0, 4, 5];

/// Which unit a gateway is of.
pub(crate) const fn unit_of(gateway: usize) -> usize {
    gateway / 2
}

const DOCUMENTS: &str = r##"
kind: topology
space: trade
cities: {shanghai: {}, beijing: {}}
sites: {sh-a: {city: shanghai}, sh-b: {city: shanghai}, bj-c: {city: beijing}}
units: {sh-1: {site: sh-a}, sh-2: {site: sh-b}, bj-1: {site: bj-c}}
center: sh-1
---
kind: source
name: orders
take: {exchange: orders, bindings: [{routing_key: "#"}]}
deliver: {exchange: orders.local}
key: {from: [{header: uid}], map: digits}
---
kind: rule
name: by-user
source: orders
order: 100
when: {routing_key: "order.#"}
route: owner
---
kind: rule
name: everywhere
source: orders
order: 200
when: {routing_key: "all.#"}
deliver: {exchange: orders}
route: shared
"##;

/// The owners of slots 0, 1-3, 4, 5, 6-7 and 8-11, of one table after the other.
const OWNERS: [[&str; 6]; 4] = [
    ["sh-1", "sh-1", "sh-2", "sh-2", "sh-2", "bj-1"],
    ["sh-1", "sh-1", "bj-1", "bj-1", "sh-2", "bj-1"],
    ["sh-2", "sh-1", "bj-1", "sh-1", "sh-2", "bj-1"],
    ["sh-1", "sh-1", "sh-1", "sh-2", "sh-2", "bj-1"],
];

pub(crate) struct Facts {
    pub(crate) tables: Vec<Table>,
    pub(crate) keys: SealKeys,
    pub(crate) space: SpaceId,
    pub(crate) source: SourceName,
    pub(crate) units: Vec<UnitId>,
    pub(crate) gateways: Vec<GatewayId>,
}

pub(crate) static FACTS: LazyLock<Facts> = LazyLock::new(|| {
    let space = SpaceId::parse("trade").unwrap();
    let names = ["sh-1", "sh-2", "bj-1"];
    Facts {
        tables: (1..)
            .zip(&OWNERS)
            .map(|(n, to)| table(&space, n, to))
            .collect(),
        keys: SealKeys::parse(br#"{"seal":"000102030405060708090a0b0c0d0e0f"}"#).unwrap(),
        space,
        source: SourceName::parse("orders").unwrap(),
        units: names.map(|name| UnitId::parse(name).unwrap()).into(),
        gateways: (0..GATEWAYS)
            .map(|gateway| GatewayId::parse(&format!("g{gateway}")).unwrap())
            .collect(),
    }
});

fn table(space: &SpaceId, number: u32, owners: &[&str; 6]) -> Table {
    let slots = ["0-0", "1-3", "4-4", "5-5", "6-7", "8-11"];
    let ranges: Vec<_> = slots
        .iter()
        .zip(owners)
        .map(|(slots, unit)| format!("{{slots: {slots}, unit: {unit}}}"))
        .collect();
    let ranges = ranges.join(", ");
    let placement = format!("---\nkind: placement\nslots: 12\nranges: [{ranges}]\n");
    let files = [DocumentFile {
        name: "all.yaml".into(),
        text: format!("{DOCUMENTS}{placement}").into(),
    }];
    Table::compile(TableInputs {
        files: &files,
        placement: None,
        seats: Seats {
            lineage: Lineage("one".into()),
            epoch: Epoch(u64::from(number)),
            ..Seats::default()
        },
        moves: Moves::new(),
        revision: Revision(i64::from(number)),
        space,
    })
    .unwrap_or_else(|faults| panic!("{faults:#?}"))
}

impl Facts {
    pub(crate) fn source_in(&self, table: usize) -> &Source {
        self.tables[table].source(&self.source).unwrap()
    }

    pub(crate) fn unit(&self, name: &UnitId) -> usize {
        self.units.iter().position(|one| one == name).unwrap()
    }

    pub(crate) fn lane(&self, unit: usize) -> LaneId {
        LaneId {
            unit: self.units[unit].clone(),
            source: self.source.clone(),
            partition: Partition(0),
        }
    }

    pub(crate) fn names(&self) -> BTreeSet<UnitId> {
        self.units.iter().cloned().collect()
    }
}
