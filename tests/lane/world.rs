//! A lane in a world of two units, driven by hand: whatever it asks for is noted.

use bytes::Bytes;
use setgate::amqp::{FieldValue, Properties, RawProperties};
use setgate::failover::place;
use setgate::lane::{
    Action, EntryId, Feed, Lane, LaneSettings, LargeParcel, Limits, Moment, Note, Routing, Target,
    Window,
};
use setgate::model::marks::X_SET_REASON;
use setgate::model::{
    Address, Answer, Asked, Change, DecidedBy, DeliveryTag, Epoch, Kind, Lineage, Message, Move,
    MoveId, Moves, Parcel, ParcelNumber, Partition, Revision, SealKeys, SeatChange, Seats, SlotSet,
    SourceName, SpaceId, Stage, UnitId,
};
use setgate::routing::{Table, TableInputs};
use setgate::rules::{DocumentFile, Duplicates};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const DOCUMENTS: &str = r##"
kind: topology
space: trade
cities: {shanghai: {}, beijing: {}}
sites: {sh-a: {city: shanghai}, bj-c: {city: beijing}}
units: {sh-1: {site: sh-a}, bj-1: {site: bj-c}}
center: sh-1
---
kind: placement
slots: 100
ranges: [{slots: 0-49, unit: sh-1}, {slots: 50-99, unit: bj-1}]
---
kind: source
name: orders
take: {exchange: orders, bindings: [{routing_key: "order.#"}]}
deliver: {exchange: orders.local}
key: {from: [{header: uid}], map: digits}
---
kind: rule
name: by-user
source: orders
order: 100
when: {routing_key: "order.*"}
route: owner
---
kind: rule
name: noise
source: orders
order: 200
when: {routing_key: "order.noise.#"}
route: drop
---
kind: source
name: catalog
take: {exchange: catalog, bindings: [{routing_key: "#"}]}
---
kind: source
name: mended
take: {exchange: mended, bindings: [{routing_key: "#"}]}
deliver: {exchange: mended.local}
returns: {exchange: mended.returned}
key: {from: [{header: uid}], map: digits}
---
kind: rule
name: mended-by-user
source: mended
order: 100
when: {routing_key: "order.*"}
route: owner
---
kind: rule
name: everywhere
source: catalog
order: 100
route: shared
"##;

/// What it begins with.
pub(crate) fn documents() -> String {
    DOCUMENTS.to_owned()
}

/// A move of the slots 70 to 79.
fn moving(stage: Stage, from: &UnitId, to: &UnitId) -> Move {
    let change = Change::Seats(SeatChange {
        kind: Kind::Planned,
        slots: SlotSet::parse("70-79").unwrap(),
        from: from.clone(),
        to: to.clone(),
        key: None,
    });
    Move {
        stage,
        ..Move::asked(change, DecidedBy::Person, Asked::default(), 60)
    }
}

/// The placement while a unit has the slots 70 to 79, and `last` those behind them.
fn placement(owner: &UnitId, last: &UnitId) -> String {
    format!(
        "kind: placement\nslots: 100\nranges:\n  - {{slots: 0-49, unit: sh-1}}\n  \
         - {{slots: 50-69, unit: bj-1}}\n  - {{slots: 70-79, unit: {owner}}}\n  \
         - {{slots: 80-99, unit: {last}}}\n"
    )
}

fn table(documents: &str, moves: &Moves, revision: i64) -> Table {
    let seats = Seats {
        lineage: Lineage("one".into()),
        epoch: Epoch(1),
        ..Seats::default()
    };
    let placed = moves.values().find(|one| one.stage == Stage::Placed);
    let seats = placed.map_or(seats.clone(), |one| place(&seats, &one.change));
    let placement = placed.map(|one| match &one.change {
        Change::Seats(change) => placement(&change.to, &unit("bj-1")),
        rules @ Change::Rules(_) => panic!("{rules:?} has no placement"),
    });
    table_under(documents, placement.as_deref(), moves, seats, revision)
}

fn table_under(
    documents: &str,
    placement: Option<&str>,
    moves: &Moves,
    seats: Seats,
    revision: i64,
) -> Table {
    let files = [DocumentFile {
        name: "all.yaml".into(),
        text: documents.into(),
    }];
    Table::compile(TableInputs {
        files: &files,
        placement: placement.map(str::as_bytes),
        seats,
        moves: moves.clone(),
        revision: Revision(revision),
        space: &SpaceId::parse("trade").unwrap(),
    })
    .unwrap_or_else(|faults| panic!("{faults:#?}"))
}

pub(crate) fn keys() -> SealKeys {
    SealKeys::parse(br#"{"seal":"000102030405060708090a0b0c0d0e0f"}"#).unwrap()
}

pub(crate) fn unit(name: &str) -> UnitId {
    UnitId::parse(name).unwrap()
}

pub(crate) struct World {
    documents: String,
    pub(crate) table: Table,
    pub(crate) keys: SealKeys,
    pub(crate) source: SourceName,
    pub(crate) lane: Lane,
    /// Settled up to this tag.
    pub(crate) settled: u64,
    pub(crate) settled_count: usize,
    pub(crate) notes: Vec<Note>,
    pub(crate) opened: BTreeSet<Target>,
    pub(crate) closed: Vec<Target>,
    /// The diversions that are being drained.
    pub(crate) drains: BTreeSet<UnitId>,
    /// Settled up to this tag, of each of them.
    pub(crate) drained: BTreeMap<UnitId, u64>,
    pub(crate) now: Instant,
    began: Instant,
}

impl World {
    pub(crate) fn new(source: &str, deliveries: usize) -> Self {
        Self::under(DOCUMENTS, source, deliveries)
    }

    /// A world of other documents.
    pub(crate) fn under(documents: &str, source: &str, deliveries: usize) -> Self {
        let source = SourceName::parse(source).unwrap();
        let lane = lane("sh-1", &source, deliveries, 1);
        let began = tokio::time::Instant::now().into_std();
        Self {
            documents: documents.to_owned(),
            table: table(documents, &Moves::new(), 7),
            keys: keys(),
            source,
            lane,
            settled: 0,
            settled_count: 0,
            notes: Vec::new(),
            opened: BTreeSet::new(),
            closed: Vec::new(),
            drains: BTreeSet::new(),
            drained: BTreeMap::new(),
            now: began,
            began,
        }
    }

    /// A move of the slots 70 to 79 from bj-1 to sh-1 has come so far.
    pub(crate) fn moves(&mut self, stage: Stage) {
        let revision = self.table.revision().0 + 1;
        self.table = table(
            DOCUMENTS,
            &[(MoveId(1), moving(stage, &unit("bj-1"), &unit("sh-1")))].into(),
            revision,
        );
    }

    /// The slots 70 to 79 are being moved from their owner, by seats of this world.
    pub(crate) fn fence(&mut self, seats: &Seats, from: &UnitId, to: &UnitId) {
        let moves = [(MoveId(1), moving(Stage::Fenced, from, to))].into();
        self.put_in_force(from, &moves, seats.clone());
    }

    /// They have their new owner. Gives the seats from then on.
    pub(crate) fn place(&mut self, seats: &Seats, from: &UnitId, to: &UnitId) -> Seats {
        let seats = place(seats, &moving(Stage::Placed, from, to).change);
        self.put_in_force(to, &Moves::new(), seats.clone());
        seats
    }

    fn put_in_force(&mut self, owner: &UnitId, moves: &Moves, seats: Seats) {
        let revision = self.table.revision().0 + 1;
        let last = self.table.units().last().unwrap();
        let placement = placement(owner, &last.name);
        self.table = table_under(&self.documents, Some(&placement), moves, seats, revision);
    }

    /// The slots 70 to 79 have come from sh-1 to bj-1 some time ago.
    pub(crate) fn moved_before(&mut self) {
        let revision = self.table.revision().0 + 1;
        let seats = Seats {
            lineage: Lineage("one".into()),
            ..Seats::default()
        };
        let seats = seats.with_changed(&SlotSet::parse("70-79").unwrap(), &unit("sh-1"));
        self.table = table_under(DOCUMENTS, None, &Moves::new(), seats, revision);
    }

    /// The rules of its source have given keys other owners.
    pub(crate) fn rules_changed(&mut self) {
        let revision = self.table.revision().0 + 1;
        let epoch = Epoch(self.table.epoch().0 + 1);
        let seats = Seats {
            lineage: Lineage("one".into()),
            epoch,
            sources: [(self.source.clone(), epoch)].into(),
            ..Seats::default()
        };
        self.table = table_under(DOCUMENTS, None, &Moves::new(), seats, revision);
    }

    /// Another life of the lane, on another channel.
    pub(crate) fn restart(&mut self, deliveries: usize, incarnation: u64) {
        self.lane = lane("sh-1", &self.source, deliveries, incarnation);
        self.settled = 0;
        self.opened.clear();
        self.closed.clear();
        self.drains.clear();
        self.drained.clear();
    }

    fn at(&self) -> Moment {
        Moment {
            now: self.now,
            unix_seconds: 1 + (self.now - self.began).as_secs(),
        }
    }

    /// Asks the lane something under the table, and does what it wants.
    pub(crate) fn ask<T>(
        &mut self,
        ask: impl FnOnce(&mut Lane, Routing<'_>, Moment) -> (Vec<Action>, T),
    ) -> T {
        let routing = Routing {
            table: &self.table,
            source: self.table.source(&self.source).unwrap(),
            keys: &self.keys,
        };
        let at = self.at();
        let (actions, result) = ask(&mut self.lane, routing, at);
        self.apply(actions);
        result
    }

    pub(crate) fn take(&mut self, tag: u64, message: Message) {
        self.ask(|lane, routing, at| (lane.take(DeliveryTag(tag), message, routing, at), ()));
    }

    pub(crate) fn take_large(
        &mut self,
        tag: u64,
        message: Message,
        body_bytes: u64,
    ) -> LargeParcel {
        self.ask(|lane, routing, at| {
            lane.take_large(DeliveryTag(tag), message, body_bytes, routing, at)
        })
    }

    pub(crate) fn large_parked(&mut self, entry: EntryId) {
        self.ask(|lane, routing, at| (lane.large_parked(entry, routing, at), ()));
    }

    pub(crate) fn answer(&mut self, target: &Target, number: ParcelNumber, answer: Answer) {
        self.ask(|lane, routing, at| {
            (
                lane.answered(target, vec![(number, answer)], routing, at),
                (),
            )
        });
    }

    /// Time passes, and the lane looks at its targets.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.ask(|lane, routing, at| (lane.tick(routing, at), ()));
    }

    pub(crate) fn take_diverted(&mut self, unit: &UnitId, tag: u64, message: Message) {
        self.ask(|lane, routing, at| {
            (
                lane.take_diverted(unit, DeliveryTag(tag), message, routing, at),
                (),
            )
        });
    }

    fn apply(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Acknowledge(Feed::Source, settlement) => {
                    assert!(settlement.tag().0 > self.settled, "a tag was settled twice");
                    self.settled = settlement.tag().0;
                    self.settled_count += settlement.count();
                }
                Action::Acknowledge(Feed::Diversion(unit), settlement) => {
                    let last = self.drained.entry(unit).or_default();
                    assert!(settlement.tag().0 > *last, "a tag was settled twice");
                    *last = settlement.tag().0;
                }
                Action::Open(target) => assert!(self.opened.insert(target), "opened twice"),
                Action::Close(target) => self.closed.push(target),
                Action::Drain(unit) => {
                    self.drained.insert(unit.clone(), 0);
                    assert!(self.drains.insert(unit), "drained twice");
                }
                Action::Undrain(unit) => assert!(self.drains.remove(&unit), "drained by nobody"),
                Action::Note(note) => self.notes.push(note),
            }
        }
    }

    pub(crate) fn next(&mut self, target: &Target) -> Option<Parcel> {
        self.lane.next_to_send(target, self.now)
    }
}

pub(crate) fn lane(here: &str, source: &SourceName, deliveries: usize, incarnation: u64) -> Lane {
    Lane::new(LaneSettings {
        here: unit(here),
        source: source.clone(),
        partition: Partition(0),
        limits: Limits {
            body_bytes_max: 1 << 20,
            rounds_max: 4,
        },
        window: Window {
            deliveries,
            bytes: 64 << 20,
        },
        duplicates: Duplicates::default(),
        incarnation,
    })
}

pub(crate) fn order(uid: i32, id: u64) -> Message {
    let mut properties = Properties {
        message_id: Some(Bytes::from(format!("m{id}"))),
        ..Properties::default()
    };
    properties.headers_mut().set("uid", FieldValue::I32(uid));
    message("orders", "order.created", &properties)
}

pub(crate) fn message(
    exchange: &'static str,
    key: &'static str,
    properties: &Properties,
) -> Message {
    Message {
        address: Address {
            exchange: Bytes::from_static(exchange.as_bytes()),
            routing_key: Bytes::from_static(key.as_bytes()),
        },
        properties: RawProperties::of(properties).unwrap(),
        body: Bytes::from_static(b"body"),
        redelivered: false,
    }
}

pub(crate) fn reason(parked: &Parcel) -> &[u8] {
    let reason = parked.properties.header(X_SET_REASON).unwrap();
    reason.as_bytes().unwrap()
}

pub(crate) fn here() -> Target {
    Target::Unit(unit("sh-1"))
}

pub(crate) fn there() -> Target {
    Target::Unit(unit("bj-1"))
}
