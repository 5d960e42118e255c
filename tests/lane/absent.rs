//! Where nothing is bound at an owner: what a rule's `owner_absent` does about it.

use crate::world::{World, here, order, reason, there};
use setgate::lane::Target;
use setgate::model::{Answer, Parcel, Why};
use std::time::Duration;

const ABSENT: &str = "owner_absent: {wait: 60s, then: park}";

fn world(says: &str) -> World {
    let rule = format!("route: owner\n{says}\n");
    World::under(
        &crate::world::documents().replace("route: owner\n", &rule),
        "orders",
        100,
    )
}

/// Opens a stream to the owner, and gives what goes there.
fn sent(world: &mut World) -> Vec<Parcel> {
    world.lane.stream_up(&there(), 1 << 20, 100);
    std::iter::from_fn(|| world.next(&there())).collect()
}

fn comes_back(world: &mut World, parcel: &Parcel) {
    world.answer(&there(), parcel.number, Answer::Returned);
}

fn cause(world: &World) -> String {
    let mut views = world.lane.views();
    let view = views.find(|(target, _)| **target == there()).unwrap().1;
    view.cause.unwrap_or_default()
}

#[test]
fn what_finds_nothing_bound_waits_as_long_as_its_rule_says_in_front_of_what_is_behind_it() {
    let mut world = world(ABSENT);
    (1..=3).for_each(|tag| world.take(tag, order(70, tag)));
    let first = sent(&mut world);
    for parcel in &first {
        comes_back(&mut world, parcel);
    }
    assert_eq!(world.settled, 0);
    assert!(world.closed.contains(&there()));
    assert!(
        cause(&world).contains("rule by-user, it waits for 60 s"),
        "{}",
        cause(&world)
    );
    world.lane.stream_down(&there(), "the stream ended".into());
    world.now += Duration::from_secs(59);
    let again = sent(&mut world);
    assert_eq!(again.len(), 1, "the others are behind it");
    comes_back(&mut world, &again[0]);
    world.lane.stream_down(&there(), "the stream ended".into());
    // Somebody has bound a queue.
    let bound = sent(&mut world);
    assert_eq!(bound[0].number, first[0].number);
    world.answer(&there(), bound[0].number, Answer::Accepted);
    let rest: Vec<_> = std::iter::from_fn(|| world.next(&there())).collect();
    for parcel in &rest {
        world.answer(&there(), parcel.number, Answer::Accepted);
    }
    assert_eq!((rest.len(), world.settled), (2, 3));
}

#[test]
fn after_that_it_is_parked_and_so_is_what_comes_until_one_arrives() {
    let mut world = world(ABSENT);
    world.lane.stream_up(&Target::Park, 1 << 20, 100);
    world.take(1, order(70, 1));
    let first = sent(&mut world);
    comes_back(&mut world, &first[0]);
    world.lane.stream_down(&there(), "the stream ended".into());
    world.now += Duration::from_mins(1);
    for tag in 1..=2 {
        if tag == 2 {
            world.take(2, order(70, 2));
        }
        let parcel = sent(&mut world).remove(0);
        comes_back(&mut world, &parcel);
        world.lane.stream_up(&Target::Park, 1 << 20, 100);
        let parked = world.next(&Target::Park).unwrap();
        assert_eq!(reason(&parked), b"unroutable");
        world.answer(&Target::Park, parked.number, Answer::Accepted);
        assert_eq!(world.settled, tag);
    }
    world.take(3, order(70, 3));
    let arrives = world.next(&there()).unwrap();
    world.answer(&there(), arrives.number, Answer::Accepted);
    world.take(4, order(70, 4));
    let absent_again = world.next(&there()).unwrap();
    comes_back(&mut world, &absent_again);
    assert_eq!(world.next(&Target::Park), None, "it has a wait of its own");
    assert_eq!(world.settled, 3);
}

#[test]
fn or_the_center_has_it() {
    let mut world = world("owner_absent: {then: center}");
    world.take(1, order(70, 1));
    let parcel = sent(&mut world).remove(0);
    comes_back(&mut world, &parcel);
    assert_eq!(world.settled, 0);
    world.lane.stream_up(&here(), 1 << 20, 100);
    let to_center = world.next(&here()).unwrap();
    assert_eq!((to_center.why, to_center.slot), (Why::Center, parcel.slot));
    assert_eq!(to_center.address, parcel.address);
    // Nothing is bound there either.
    world.answer(&here(), to_center.number, Answer::Returned);
    world.lane.stream_up(&Target::Park, 1 << 20, 100);
    let parked = world.next(&Target::Park).unwrap();
    assert_eq!(reason(&parked), b"unroutable");
    world.answer(&Target::Park, parked.number, Answer::Accepted);
    assert_eq!(world.settled, 1);
}

#[test]
fn what_is_diverted_meanwhile_waits_no_longer_for_that() {
    let mut world = world(ABSENT);
    world.take(1, order(70, 1));
    let parcel = sent(&mut world).remove(0);
    comes_back(&mut world, &parcel);
    world.lane.stream_down(&there(), "the stream ended".into());
    world.pass(Duration::from_secs(30));
    let diversion = Target::Diversion(crate::world::unit("bj-1"));
    assert!(world.opened.contains(&diversion), "it is late");
    world.lane.stream_up(&diversion, 1 << 20, 100);
    let diverted: Vec<_> = std::iter::from_fn(|| world.next(&diversion)).collect();
    for one in &diverted {
        world.answer(&diversion, one.number, Answer::Accepted);
    }
    assert_eq!(world.settled, 1, "the diversion has it");
    world.lane.stream_up(&there(), 1 << 20, 100);
    world.pass(Duration::from_secs(30));
    let unit = crate::world::unit("bj-1");
    assert!(world.drains.contains(&unit));
    let Parcel {
        address,
        properties,
        body,
        ..
    } = diverted[0].clone();
    let message = setgate::model::Message {
        address,
        properties,
        body,
        redelivered: false,
    };
    world.take_diverted(&unit, 1, message);
    let again = world.next(&there()).unwrap();
    comes_back(&mut world, &again);
    world.lane.stream_up(&Target::Park, 1 << 20, 100);
    let parked = world.next(&Target::Park).unwrap();
    assert_eq!(reason(&parked), b"unroutable", "a minute has passed");
}
