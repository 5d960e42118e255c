//! The lane's promises, without a broker: conservation, order, nothing settled early, whatever targets and links do.

#![allow(clippy::unwrap_used)] // tests and their helpers panic at what must hold

use bytes::Bytes;
use proptest::prelude::*;
use setgate::amqp::{FieldTable, FieldValue, Properties, RawProperties, TextProperty};
use setgate::lane::{
    Action, EntryId, Lane, LaneSettings, LargeParcel, Limits, Moment, Note, Routing, Target,
    WRAPPED_CONTENT_TYPE, Window,
};
use setgate::model::marks::{X_SET_BODY_BYTES, X_SET_IN_DOUBT, X_SET_REASON};
use setgate::model::{
    Address, Answer, DeliveryTag, Epoch, Lineage, Message, Parcel, ParcelNumber, Partition, Reason,
    Revision, SealKeys, Seats, SourceName, SpaceId, UnitId,
};
use setgate::routing::{Table, TableInputs};
use setgate::rules::{DocumentFile, Duplicates};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
kind: rule
name: everywhere
source: catalog
order: 100
route: shared
"##;

fn table() -> Table {
    let files = [DocumentFile {
        name: "all.yaml".into(),
        text: DOCUMENTS.into(),
    }];
    Table::compile(TableInputs {
        files: &files,
        placement: None,
        seats: Seats {
            lineage: Lineage("one".into()),
            epoch: Epoch(1),
            stand_ins: BTreeMap::new(),
        },
        revision: Revision(7),
        space: &SpaceId::parse("trade").unwrap(),
    })
    .unwrap_or_else(|faults| panic!("{faults:#?}"))
}

fn keys() -> SealKeys {
    SealKeys::parse(br#"{"seal":"000102030405060708090a0b0c0d0e0f"}"#).unwrap()
}

fn unit(name: &str) -> UnitId {
    UnitId::parse(name).unwrap()
}

struct World {
    table: Table,
    keys: SealKeys,
    source: SourceName,
    lane: Lane,
    /// Settled up to this tag.
    settled: u64,
    settled_count: usize,
    notes: Vec<Note>,
    opened: BTreeSet<Target>,
    closed: Vec<Target>,
}

impl World {
    fn new(source: &str, deliveries: usize) -> Self {
        let source = SourceName::parse(source).unwrap();
        let lane = Lane::new(LaneSettings {
            here: unit("sh-1"),
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
        });
        Self {
            table: table(),
            keys: keys(),
            source,
            lane,
            settled: 0,
            settled_count: 0,
            notes: Vec::new(),
            opened: BTreeSet::new(),
            closed: Vec::new(),
        }
    }

    fn at() -> Moment {
        Moment {
            now: tokio::time::Instant::now().into_std(),
            unix_seconds: 1,
        }
    }

    fn take(&mut self, tag: u64, message: Message) {
        let routing = Routing {
            table: &self.table,
            source: self.table.source(&self.source).unwrap(),
            keys: &self.keys,
        };
        let actions = self
            .lane
            .take(DeliveryTag(tag), message, routing, Self::at());
        self.apply(actions);
    }

    fn take_large(&mut self, tag: u64, message: Message, body_bytes: u64) -> LargeParcel {
        let routing = Routing {
            table: &self.table,
            source: self.table.source(&self.source).unwrap(),
            keys: &self.keys,
        };
        let (actions, parcel) =
            self.lane
                .take_large(DeliveryTag(tag), message, body_bytes, routing, Self::at());
        self.apply(actions);
        parcel
    }

    fn large_parked(&mut self, entry: EntryId) {
        let actions = self.lane.large_parked(entry);
        self.apply(actions);
    }

    fn answer(&mut self, target: &Target, number: ParcelNumber, answer: Answer) {
        let routing = Routing {
            table: &self.table,
            source: self.table.source(&self.source).unwrap(),
            keys: &self.keys,
        };
        let actions = self
            .lane
            .answered(target, vec![(number, answer)], routing, Self::at());
        self.apply(actions);
    }

    fn apply(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Acknowledge(settlement) => {
                    assert!(settlement.tag().0 > self.settled, "a tag was settled twice");
                    self.settled = settlement.tag().0;
                    self.settled_count += settlement.count();
                }
                Action::Open(target) => assert!(self.opened.insert(target), "opened twice"),
                Action::Close(target) => self.closed.push(target),
                Action::Note(note) => self.notes.push(note),
            }
        }
    }

    fn next(&mut self, target: &Target) -> Option<Parcel> {
        self.lane.next_to_send(target, Self::at().now)
    }
}

fn order(uid: i32, id: u64) -> Message {
    let mut properties = Properties {
        message_id: Some(Bytes::from(format!("m{id}"))),
        ..Properties::default()
    };
    properties.headers_mut().set("uid", FieldValue::I32(uid));
    message("orders", "order.created", &properties)
}

fn message(exchange: &'static str, key: &'static str, properties: &Properties) -> Message {
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

fn reason(parked: &Parcel) -> &[u8] {
    let reason = parked.properties.header(X_SET_REASON).unwrap();
    reason.as_bytes().unwrap()
}

fn here() -> Target {
    Target::Unit(unit("sh-1"))
}

fn there() -> Target {
    Target::Unit(unit("bj-1"))
}

#[test]
fn a_message_goes_to_the_unit_that_owns_its_key_and_is_settled_when_that_has_it() {
    let mut world = World::new("orders", 100);
    world.take(1, order(70, 1));
    assert_eq!(world.opened, BTreeSet::from([there()]));
    assert_eq!(world.next(&there()), None, "no stream yet");
    world.lane.stream_up(&there(), 1 << 20, 100);
    let parcel = world.next(&there()).unwrap();
    assert_eq!(parcel.slot.map(|slot| slot.0), Some(70));
    assert_eq!(&parcel.address.exchange[..], b"orders.local");
    assert_eq!(&parcel.address.routing_key[..], b"order.created");
    assert_eq!(world.settled, 0, "settled before it arrived");
    world.answer(&there(), parcel.number, Answer::Accepted);
    assert_eq!((world.settled, world.lane.in_flight()), (1, 0));
}

#[test]
fn a_returned_message_is_parked_before_it_is_settled() {
    let mut world = World::new("orders", 100);
    world.take(1, order(70, 1));
    world.lane.stream_up(&there(), 1 << 20, 100);
    let parcel = world.next(&there()).unwrap();
    world.answer(&there(), parcel.number, Answer::Returned);
    assert_eq!(world.settled, 0, "settled though it is nowhere");
    world.lane.stream_up(&Target::Park, 1 << 20, 100);
    let parked = world.next(&Target::Park).unwrap();
    assert_eq!(reason(&parked), b"unroutable");
    assert_eq!(&parked.address.routing_key[..], b"setgate.trade.park");
    assert_eq!(&parked.body[..], b"body");
    world.answer(&Target::Park, parked.number, Answer::Accepted);
    assert_eq!(world.settled, 1);
    assert!(world.notes.contains(&Note::Parked {
        reason: Reason::Unroutable
    }));
}

#[test]
fn a_message_that_the_park_does_not_take_is_not_settled() {
    for answer in [
        Answer::Returned,
        Answer::Refused {
            reason: Reason::TooLarge,
            cause: "too large".to_owned(),
        },
    ] {
        let mut world = World::new("orders", 100);
        world.take(
            1,
            message("orders", "order.created", &Properties::default()),
        );
        world.lane.stream_up(&Target::Park, 1 << 20, 100);
        let parked = world.next(&Target::Park).unwrap();
        world.answer(&Target::Park, parked.number, answer);
        assert_eq!((world.settled, world.lane.in_flight()), (0, 1));
        world.lane.stream_up(&Target::Park, 1 << 20, 100);
        let again = world.next(&Target::Park).unwrap();
        assert_eq!(again.body, parked.body);
        world.answer(&Target::Park, again.number, Answer::Accepted);
        assert_eq!((world.settled, world.lane.in_flight()), (1, 0));
    }
}

#[test]
fn a_message_without_a_key_is_parked_and_one_that_a_rule_drops_is_settled() {
    let mut world = World::new("orders", 100);
    let bare = |key| message("orders", key, &Properties::default());
    world.take(1, bare("order.created"));
    world.take(2, bare("order.noise.x"));
    world.take(3, bare("order.created.twice"));
    world.lane.stream_up(&Target::Park, 1 << 20, 100);
    let reasons: Vec<_> = std::iter::from_fn(|| world.next(&Target::Park))
        .map(|parcel| (parcel.number, reason(&parcel).to_vec()))
        .collect();
    let texts: Vec<_> = reasons.iter().map(|(_, reason)| &reason[..]).collect();
    assert_eq!(texts, [&b"key_absent"[..], b"no_rule"]);
    for (number, _) in reasons {
        world.answer(&Target::Park, number, Answer::Accepted);
    }
    assert_eq!(world.settled, 3);
    assert!(world.notes.contains(&Note::Dropped {
        reason: Reason::Rule
    }));
}

#[test]
fn after_a_lost_stream_all_that_is_unanswered_goes_again_in_order_and_marked() {
    let mut world = World::new("orders", 100);
    (1..=3).for_each(|tag| world.take(tag, order(70, tag)));
    world.lane.stream_up(&there(), 1 << 20, 100);
    let sent: Vec<_> = std::iter::from_fn(|| world.next(&there())).collect();
    assert!(sent.iter().all(|parcel| !parcel.sent_before));
    world.answer(&there(), sent[1].number, Answer::Accepted);
    assert_eq!(world.settled, 0, "the first is unanswered");
    world.lane.stream_down(&there(), "cut".into());
    assert_eq!(world.next(&there()), None);
    world.take(4, order(71, 4));
    world.lane.stream_up(&there(), 1 << 20, 100);
    let again: Vec<_> = std::iter::from_fn(|| world.next(&there())).collect();
    let numbers: Vec<_> = again.iter().map(|parcel| parcel.number.0).collect();
    assert_eq!(numbers, [1, 3, 4]);
    let doubt: Vec<_> = again.iter().map(|parcel| parcel.sent_before).collect();
    assert_eq!(doubt, [true, true, false]);
    assert!(
        again[0].properties.header(X_SET_IN_DOUBT).is_none(),
        "the receiver's to say"
    );
}

#[test]
fn later_keeps_the_parcel_and_gives_the_stream_up() {
    let mut world = World::new("orders", 100);
    world.take(1, order(70, 1));
    world.lane.stream_up(&there(), 1 << 20, 100);
    let parcel = world.next(&there()).unwrap();
    world.answer(
        &there(),
        parcel.number,
        Answer::Later {
            cause: "the queue is full".into(),
        },
    );
    assert_eq!((world.closed.clone(), world.settled), (vec![there()], 0));
    world.lane.stream_down(&there(), "the stream ended".into());
    let view = world
        .lane
        .views()
        .find(|(target, _)| **target == there())
        .unwrap()
        .1;
    assert_eq!(
        view.cause.as_deref(),
        Some("the queue is full"),
        "the cause that says more"
    );
    world.lane.stream_up(&there(), 1 << 20, 100);
    assert_eq!(world.next(&there()).unwrap().number, parcel.number);
}

#[test]
fn a_shared_copy_goes_to_every_other_unit_and_not_back() {
    let mut world = World::new("catalog", 100);
    world.take(1, message("catalog", "item.1", &Properties::default()));
    assert_eq!(
        world.opened,
        BTreeSet::from([there()]),
        "here it is already"
    );
    world.lane.stream_up(&there(), 1 << 20, 100);
    let copy = world.next(&there()).unwrap();
    let mut arrived = World::new("catalog", 100);
    // In bj-1 the copy is taken from the same exchange; from there it would go back to sh-1.
    arrived.lane = Lane::new(LaneSettings {
        here: unit("bj-1"),
        source: arrived.source.clone(),
        partition: Partition(0),
        limits: Limits {
            body_bytes_max: 1 << 20,
            rounds_max: 4,
        },
        window: Window {
            deliveries: 10,
            bytes: 1 << 20,
        },
        duplicates: Duplicates::default(),
    });
    let Parcel {
        address,
        properties,
        body,
        ..
    } = copy;
    arrived.take(
        1,
        Message {
            address,
            properties,
            body,
            redelivered: false,
        },
    );
    assert_eq!((arrived.settled, arrived.opened.len()), (1, 0));
}

#[test]
fn a_lane_takes_no_more_than_its_window() {
    let mut world = World::new("orders", 2);
    world.take(1, order(70, 1));
    assert!(world.lane.has_room());
    world.take(2, order(70, 2));
    assert!(!world.lane.has_room());
}

#[test]
fn a_target_gets_no_more_than_its_credit() {
    let mut world = World::new("orders", 100);
    (1..=5).for_each(|tag| world.take(tag, order(70, tag)));
    world.lane.stream_up(&there(), 1 << 20, 2);
    let sent: Vec<_> = std::iter::from_fn(|| world.next(&there())).collect();
    assert_eq!(sent.len(), 2);
    world.answer(&there(), sent[0].number, Answer::Accepted);
    assert_eq!(std::iter::from_fn(|| world.next(&there())).count(), 1);
    world.lane.stream_down(&there(), "cut".into());
    world.lane.stream_up(&there(), 1, 100);
    assert_eq!(
        std::iter::from_fn(|| world.next(&there())).count(),
        1,
        "one larger than the credit"
    );
}

#[test]
fn a_large_message_is_settled_when_the_park_has_all_of_it_and_keeps_nobody_waiting() {
    let mut world = World::new("orders", 100);
    let mut large = order(70, 1);
    large.body = Bytes::new();
    let parcel = world.take_large(1, large, 5 << 20);
    assert_eq!(&parcel.address.exchange[..], b"setgate.trade.park");
    assert_eq!((parcel.prefix.len(), parcel.body_bytes), (0, 5 << 20));
    let mark = |name| parcel.properties.header(name).unwrap();
    assert_eq!(mark(X_SET_REASON).as_bytes(), Some(&b"too_large"[..]));
    assert_eq!(mark(X_SET_BODY_BYTES).as_integer(), Some(5 << 20));
    assert!(
        world
            .keys
            .holds(None, &parcel.properties, &vec![7; 5 << 20])
    );
    assert!(
        world.lane.cost_bytes() < 2_048,
        "its body counts for nothing"
    );
    // A later one overtakes it; its settlement waits.
    world.take(2, order(70, 2));
    world.lane.stream_up(&there(), 1 << 20, 100);
    let later = world.next(&there()).unwrap();
    world.answer(&there(), later.number, Answer::Accepted);
    assert_eq!((world.settled, world.lane.in_flight()), (0, 2));
    world.large_parked(parcel.entry);
    assert_eq!((world.settled, world.settled_count), (2, 2));
    world.large_parked(parcel.entry);
    let parked = Note::Parked {
        reason: Reason::TooLarge,
    };
    assert_eq!(
        world.notes.iter().filter(|note| **note == parked).count(),
        1
    );
}

#[test]
fn a_large_message_that_cannot_carry_marks_has_its_properties_in_front_of_its_body() {
    let mut world = World::new("orders", 100);
    let mut large = order(70, 1);
    large.body = Bytes::new();
    large.properties = RawProperties::from_wire(Bytes::from_static(&[0x80, 0, 9]));
    let parcel = world.take_large(1, large, 5 << 20);
    assert_eq!(&parcel.prefix[..], [0, 0, 0, 3, 0x80, 0, 9]);
    assert_eq!(parcel.body_bytes, (5 << 20) + 7);
    let kind = parcel.properties.text(TextProperty::ContentType);
    assert_eq!(kind, Some(WRAPPED_CONTENT_TYPE.as_bytes()));
}

#[test]
fn what_is_damaged_is_parked_as_it_came_and_what_only_nests_deep_is_carried() {
    let mut world = World::new("orders", 100);
    let mut damaged = order(70, 1);
    damaged.properties = RawProperties::from_wire(Bytes::from_static(&[0x80, 0, 9]));
    world.take(1, damaged);
    world.lane.stream_up(&Target::Park, 1 << 20, 100);
    let parked = world.next(&Target::Park).unwrap();
    assert_eq!(reason(&parked), b"malformed");
    assert_eq!(&parked.body[..], b"\0\0\0\x03\x80\0\x09body");
    let mut properties = Properties::default();
    let deep = (0..200).fold(FieldTable::new(), |inner, _| {
        FieldTable::from_iter([(Bytes::from_static(b"t"), FieldValue::Table(inner))])
    });
    properties
        .headers_mut()
        .set("deep", FieldValue::Table(deep.clone()));
    properties.headers_mut().set("uid", FieldValue::I32(70));
    world.take(2, message("orders", "order.created", &properties));
    world.lane.stream_up(&there(), 1 << 20, 100);
    let carried = world.next(&there()).unwrap();
    let came = carried.properties.header("deep").unwrap();
    assert_eq!(came.decode().unwrap(), FieldValue::Table(deep));
}

#[derive(Debug, Clone)]
enum Step {
    Take { uid: i32 },
    Send { there: bool },
    Answer { there: bool, how: u8 },
    Cut { there: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..100i32).prop_map(|uid| Step::Take { uid }),
        4 => any::<bool>().prop_map(|there| Step::Send { there }),
        4 => (any::<bool>(), any::<u8>()).prop_map(|(there, how)| Step::Answer { there, how }),
        1 => any::<bool>().prop_map(|there| Step::Cut { there }),
    ];
    prop::collection::vec(step, 1..300)
}

/// One target as the test keeps it: what is under way, and what has arrived.
#[derive(Default)]
struct Side {
    up: bool,
    under_way: VecDeque<Parcel>,
    arrived: Vec<(u64, bool)>,
}

fn id(parcel: &Parcel) -> u64 {
    let id = parcel.id.as_ref().unwrap();
    std::str::from_utf8(&id.0[1..]).unwrap().parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_targets_and_links_do_nothing_is_lost_or_settled_early_and_order_holds(
        steps in steps()
    ) {
        let mut world = World::new("orders", 64);
        let mut sides: BTreeMap<Target, Side> = BTreeMap::new();
        let mut taken = 0u64;
        let mut owner: BTreeMap<u64, Target> = BTreeMap::new();
        let side_of = |there_side: bool| if there_side { there() } else { here() };
        let finish = |sides: &mut BTreeMap<Target, Side>, world: &mut World| {
            for target in [here(), there()] {
                let side = sides.entry(target.clone()).or_default();
                world.lane.stream_down(&target, "end".into());
                side.under_way.clear();
                world.lane.stream_up(&target, 1 << 20, 100);
                while let Some(parcel) = world.next(&target) {
                    side.arrived.push((id(&parcel), parcel.sent_before));
                    world.answer(&target, parcel.number, Answer::Accepted);
                }
            }
        };
        for step in steps {
            match step {
                Step::Take { uid } if world.lane.has_room() => {
                    taken += 1;
                    owner.insert(taken, side_of(uid >= 50));
                    world.take(taken, order(uid, taken));
                }
                Step::Take { .. } => {}
                Step::Send { there } => {
                    let target = side_of(there);
                    let side = sides.entry(target.clone()).or_default();
                    if !side.up {
                        world.lane.stream_up(&target, 1 << 20, 10);
                        side.up = true;
                    }
                    side.under_way.extend(world.next(&target));
                }
                Step::Answer { there, how } => {
                    let target = side_of(there);
                    let side = sides.entry(target.clone()).or_default();
                    let Some(parcel) = side.under_way.pop_front() else { continue };
                    if how < 200 {
                        side.arrived.push((id(&parcel), parcel.sent_before));
                        world.answer(&target, parcel.number, Answer::Accepted);
                    } else {
                        world.answer(&target, parcel.number, Answer::Later { cause: "full".into() });
                        side.under_way.clear();
                        side.up = false;
                        world.lane.stream_down(&target, "ended".into());
                    }
                }
                Step::Cut { there } => {
                    let target = side_of(there);
                    let side = sides.entry(target.clone()).or_default();
                    // The first of what was under way arrived; its answer didn't.
                    if let Some(parcel) = side.under_way.pop_front() {
                        side.arrived.push((id(&parcel), parcel.sent_before));
                    }
                    side.under_way.clear();
                    side.up = false;
                    world.lane.stream_down(&target, "cut".into());
                }
            }
            // Nothing is settled that has not arrived.
            for settled in 1..=world.settled {
                let arrived = &sides[&owner[&settled]].arrived;
                prop_assert!(arrived.iter().any(|(id, _)| *id == settled));
            }
        }
        finish(&mut sides, &mut world);
        prop_assert_eq!(world.settled_count as u64, taken);
        for (target, side) in &sides {
            let mut seen = BTreeSet::new();
            let mut highest = 0;
            for (id, sent_before) in &side.arrived {
                prop_assert_eq!(&owner[id], target);
                if seen.insert(*id) {
                    prop_assert!(*id > highest, "first arrivals are in order");
                    highest = *id;
                } else {
                    prop_assert!(*sent_before, "what comes twice is marked");
                }
            }
        }
        let arrived: usize = sides.values().map(|side| {
            side.arrived.iter().map(|(id, _)| id).collect::<BTreeSet<_>>().len()
        }).sum();
        prop_assert_eq!(arrived as u64, taken, "everything arrived");
    }
}
