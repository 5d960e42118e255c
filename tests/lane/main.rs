//! The lane's promises, without a broker: conservation, order, nothing settled early, whatever targets and links do.

#![allow(clippy::unwrap_used)] // tests and their helpers panic at what must hold

mod absent;
mod conservation;
mod detours;
mod diversions;
mod explained;
mod fences;
mod park;
#[path = "../shared/seeds.rs"]
mod seeds;
mod world;

use crate::world::{World, keys, lane, message, order, there, unit};
use bytes::Bytes;
use setgate::amqp::Properties;
use setgate::lane::{Stored, Wrapping, wrap};
use setgate::model::marks::X_SET_REPLAY;
use setgate::model::{Address, Answer, Message, Parcel, SourceName};
use std::collections::BTreeSet;

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
fn what_is_behind_one_that_must_wait_goes_singly_until_that_is_confirmed() {
    let mut world = World::new("orders", 100);
    (1..=3).for_each(|tag| world.take(tag, order(70, tag)));
    world.lane.stream_up(&there(), 1 << 20, 100);
    let sent: Vec<_> = std::iter::from_fn(|| world.next(&there())).collect();
    let cause = "the queue is full".to_owned();
    world.answer(&there(), sent[0].number, Answer::Later { cause });
    world.lane.stream_down(&there(), "the stream ended".into());
    world.lane.stream_up(&there(), 1 << 20, 100);
    let first = world.next(&there()).unwrap();
    assert_eq!((first.number, world.next(&there())), (sent[0].number, None));
    world.answer(&there(), first.number, Answer::Accepted);
    assert_eq!(std::iter::from_fn(|| world.next(&there())).count(), 2);
}

#[test]
fn moved_says_nothing_until_the_table_here_is_as_new() {
    let mut world = World::new("orders", 100);
    world.take(1, order(70, 1));
    // More often than a message may go round.
    for _ in 0..10 {
        world.lane.stream_up(&there(), 1 << 20, 100);
        let parcel = world.next(&there()).unwrap();
        world.answer(&there(), parcel.number, Answer::Moved);
        world.lane.stream_down(&there(), "the stream ended".into());
    }
    assert_eq!((world.settled, world.lane.in_flight()), (0, 1));
    assert_eq!(world.opened, BTreeSet::from([there()]), "it isn't parked");
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
    arrived.lane = lane("bj-1", &arrived.source, 10, 1);
    let properties = copy.marked(&unit("sh-1"), &keys()).unwrap();
    let Parcel { address, body, .. } = copy;
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
fn what_is_sent_again_to_a_unit_goes_there_alone_and_says_so() {
    let mut world = World::new("catalog", 100);
    let item = message("catalog", "item.1", &Properties::default());
    for (tag, to) in [(1, "bj-1"), (2, "sh-1")] {
        world.take(tag, replayed(item.clone(), to));
    }
    assert_eq!(world.settled, 0);
    world.lane.stream_up(&there(), 1 << 20, 100);
    let copy = world.next(&there()).unwrap();
    assert_eq!(world.next(&there()), None, "the other one isn't for it");
    assert_eq!(copy.body, item.body);
    assert_eq!(copy.address, item.address);
    let marked = copy.marked(&unit("sh-1"), &keys()).unwrap();
    let mark = marked.header(X_SET_REPLAY).unwrap();
    assert_eq!(mark.as_bool(), Some(true));
    world.answer(&there(), copy.number, Answer::Accepted);
    assert_eq!(world.settled, 2);
}

#[test]
fn what_has_an_owner_is_never_sent_again() {
    let mut world = World::new("orders", 100);
    world.take(1, replayed(order(70, 1), "bj-1"));
    world.take(
        2,
        replayed(message("orders", "nothing", &Properties::default()), "bj-1"),
    );
    assert_eq!((world.settled, world.opened.len()), (2, 0));
}

/// As a lane finds it in its queue.
fn replayed(message: Message, to: &str) -> Message {
    let (keys, here) = (world::keys(), world::unit("sh-1"));
    let stored = Stored::replayed(message, world::unit(to));
    let source = SourceName::parse("catalog").unwrap();
    let wrapping = Wrapping {
        keys: &keys,
        from: &here,
        source: &source,
        at: 5,
    };
    let (properties, body) = wrap(&stored, wrapping);
    Message {
        address: Address {
            exchange: Bytes::new(),
            routing_key: Bytes::from_static(b"setgate.trade.lane.catalog.0"),
        },
        properties,
        body,
        redelivered: false,
    }
}
