//! Diversions: a target that is down or slow holds nobody up, and nothing is lost, settled early or out of order.

use crate::world::{World, here, order, there, unit};
use setgate::lane::{DivertReason, Note, Target};
use setgate::model::{Answer, Message, Parcel};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

pub(crate) fn detour() -> Target {
    Target::Diversion(unit("bj-1"))
}

pub(crate) fn all(world: &mut World, target: &Target) -> Vec<Parcel> {
    std::iter::from_fn(|| world.next(target)).collect()
}

pub(crate) fn accept(world: &mut World, target: &Target) -> Vec<Parcel> {
    let parcels = all(world, target);
    for parcel in &parcels {
        world.answer(target, parcel.number, Answer::Accepted);
    }
    parcels
}

/// A parcel as the queue that it was published into gives it.
pub(crate) fn as_delivered(parcel: Parcel, redelivered: bool) -> Message {
    Message {
        address: parcel.address,
        properties: parcel.properties,
        body: parcel.body,
        redelivered,
    }
}

pub(crate) fn id(parcel: &Parcel) -> u64 {
    let id = parcel.id.as_ref().unwrap();
    std::str::from_utf8(&id.0[1..]).unwrap().parse().unwrap()
}

pub(crate) fn ids(parcels: &[Parcel]) -> Vec<u64> {
    parcels.iter().map(id).collect()
}

const SECOND: Duration = Duration::from_secs(1);

/// A lane holds no longer what it has for a diversion whose end doesn't come.
pub(crate) const HELD_AT_MOST: Duration = Duration::from_secs(3);

#[test]
fn what_a_silent_target_leaves_unanswered_for_two_seconds_goes_into_its_diversion_from_the_oldest_on()
 {
    let mut world = World::new("orders", 100);
    world.take(1, order(70, 1));
    world.take(2, order(71, 2));
    world.lane.stream_up(&there(), 1 << 20, 1);
    assert_eq!(all(&mut world, &there()).len(), 1, "its credit");
    world.pass(SECOND);
    assert!(!world.opened.contains(&detour()), "it has two seconds");
    world.pass(SECOND);
    assert_eq!(
        world.closed,
        [there()],
        "what it has in hand must not come later"
    );
    world.lane.stream_up(&detour(), 1 << 20, 100);
    let diverted = accept(&mut world, &detour());
    assert_eq!(ids(&diverted), [1, 2]);
    assert_eq!(
        &diverted[0].address.exchange[..],
        b"setgate.trade.divert.orders.0.bj-1"
    );
    assert_eq!((world.settled, world.lane.in_flight()), (2, 0));
    assert!(world.notes.iter().any(|note| matches!(
        note,
        Note::Diverting {
            reason: DivertReason::Slow,
            ..
        }
    )));
}

#[test]
fn a_target_that_is_down_holds_no_other_up() {
    let mut world = World::new("orders", 4);
    (1..=4).for_each(|tag| world.take(tag, order(70, tag)));
    assert!(!world.lane.has_room());
    world.pass(2 * SECOND);
    world.lane.stream_up(&detour(), 1 << 20, 100);
    assert_eq!(accept(&mut world, &detour()).len(), 4);
    assert!(world.lane.has_room());
    world.take(5, order(20, 5));
    world.lane.stream_up(&here(), 1 << 20, 100);
    assert_eq!(ids(&accept(&mut world, &here())), [5]);
    assert_eq!(world.settled, 5);
}

#[test]
fn a_target_that_fills_half_of_the_budget_and_falls_silent_has_a_second_where_others_wait() {
    let mut world = World::new("orders", 4);
    world.take(1, order(70, 1));
    world.lane.stream_up(&there(), 1 << 20, 100);
    assert_eq!(accept(&mut world, &there()).len(), 1);
    (2..=3).for_each(|tag| world.take(tag, order(70, tag)));
    assert_eq!(all(&mut world, &there()).len(), 2);
    world.pass(3 * SECOND / 2);
    assert!(!world.opened.contains(&detour()), "nobody waits behind it");
    world.take(4, order(20, 4));
    world.pass(Duration::ZERO);
    assert!(world.opened.contains(&detour()), "now somebody does");
}

#[test]
fn a_drain_has_no_more_in_hand_than_its_unit_answers_in_a_second() {
    let mut world = World::new("orders", 6_000);
    (1..=5_000).for_each(|tag| world.take(tag, order(70, tag)));
    world.pass(2 * SECOND);
    world.lane.stream_up(&detour(), 1 << 23, 6_000);
    world.lane.stream_up(&there(), 1 << 23, 6_000);
    let mut comes = (1..).zip(accept(&mut world, &detour()));
    world.pass(SECOND);
    let bj = unit("bj-1");
    let mut under_way = VecDeque::new();
    for per_beat in [10, 10, 40, 10] {
        for _ in 0..60 {
            while world.lane.drain_has_room(&bj, world.now) {
                let (tag, parcel) = comes.next().unwrap();
                world.take_diverted(&bj, tag, as_delivered(parcel, false));
            }
            under_way.extend(all(&mut world, &there()));
            let answered = under_way.len().min(per_beat);
            for parcel in under_way.drain(..answered) {
                world.answer(&there(), parcel.number, Answer::Accepted);
            }
            world.pass(SECOND / 10);
        }
        // 128 at least, and no more than a second's.
        let bound = 128.max(per_beat * 10);
        let in_hand = world.lane.drains_in_flight();
        assert!(in_hand <= bound, "{in_hand} at {per_beat} a beat");
        assert!(in_hand * 2 >= bound, "{in_hand} at {per_beat} a beat");
    }
}

/// bj-1 is diverted, and the first of what went in comes out.
fn gives_back_the_first(world: &mut World) {
    world.pass(2 * SECOND);
    world.lane.stream_up(&detour(), 1 << 20, 100);
    world.lane.stream_up(&there(), 1 << 20, 100);
    let diverted = accept(world, &detour());
    world.pass(SECOND);
    world.take_diverted(&unit("bj-1"), 1, as_delivered(diverted[0].clone(), false));
}

/// A lane of so many deliveries, whose two targets have answered.
fn with_both_well(deliveries: usize) -> World {
    let mut world = World::new("orders", deliveries);
    world.take(1, order(20, 1));
    world.take(2, order(70, 2));
    world.lane.stream_up(&here(), 1 << 20, 100);
    world.lane.stream_up(&there(), 1 << 20, 100);
    assert_eq!(accept(&mut world, &here()).len(), 1);
    assert_eq!(accept(&mut world, &there()).len(), 1);
    world
}

#[test]
fn a_target_that_falls_silent_is_not_diverted_before_a_second_has_gone_by() {
    let mut world = with_both_well(4);
    (3..=4).for_each(|tag| world.take(tag, order(70, tag)));
    assert_eq!(all(&mut world, &there()).len(), 2);
    world.pass(SECOND / 2);
    assert!(!world.opened.contains(&detour()), "it may be far away");
    world.pass(SECOND / 2);
    assert!(world.opened.contains(&detour()));
}

#[test]
fn a_lane_that_is_given_less_for_being_full_is_no_less_patient() {
    let mut world = with_both_well(40);
    world.lane.set_deliveries(10);
    (3..=12).for_each(|tag| world.take(tag, order(70, tag)));
    assert!(!world.lane.has_room());
    assert_eq!(all(&mut world, &there()).len(), 10);
    world.pass(3 * SECOND / 2);
    assert!(!world.opened.contains(&detour()), "all here is slow");
    world.pass(SECOND / 2);
    assert!(world.opened.contains(&detour()), "it is silent for two");
}

#[test]
fn a_lane_that_is_given_less_for_being_full_still_waits_for_the_end_of_a_detour() {
    let mut world = World::new("orders", 40);
    world.take(1, order(20, 1));
    world.take(2, order(70, 2));
    gives_back_the_first(&mut world);
    world.lane.set_deliveries(10);
    world.pass(SECOND / 10);
    (3..=8).for_each(|tag| world.take(tag, order(70, tag)));
    world.pass(SECOND / 10);
    assert_eq!(all(&mut world, &detour()), [], "the end is near");
    assert_eq!(ids(&accept(&mut world, &there())), [2]);
    assert_eq!(ids(&accept(&mut world, &there())), [3, 4, 5, 6, 7, 8]);
}

#[test]
fn a_stream_that_has_only_just_begun_has_two_seconds() {
    let mut world = World::new("orders", 4);
    (1..=2).for_each(|tag| world.take(tag, order(70, tag)));
    world.take(3, order(20, 3));
    world.lane.stream_up(&there(), 1 << 20, 100);
    assert_eq!(all(&mut world, &there()).len(), 2);
    world.pass(3 * SECOND / 2);
    assert!(
        !world.opened.contains(&detour()),
        "its receiver takes a lock"
    );
    world.pass(SECOND / 2);
    assert!(world.opened.contains(&detour()));
}

#[test]
fn a_target_that_answers_late_keeps_a_lane_without_any_other_direct() {
    let mut world = World::new("orders", 4);
    (1..=4).for_each(|tag| world.take(tag, order(70, tag)));
    world.lane.stream_up(&there(), 1 << 20, 100);
    let under_way = all(&mut world, &there());
    for (tag, parcel) in (5..).zip(&under_way) {
        world.pass(3 * SECOND / 4);
        world.answer(&there(), parcel.number, Answer::Accepted);
        world.take(tag, order(70, tag));
    }
    assert!(!world.opened.contains(&detour()), "nobody waits behind it");
    world.take(9, order(20, 9));
    world.pass(Duration::ZERO);
    assert!(world.opened.contains(&detour()), "now somebody does");
}

#[test]
fn a_target_that_answers_late_is_diverted_once_it_fills_half_of_the_budget() {
    let mut world = World::new("orders", 20);
    world.take(1, order(20, 1));
    (2..=10).for_each(|tag| world.take(tag, order(70, tag)));
    world.lane.stream_up(&there(), 1 << 20, 100);
    world.lane.stream_up(&here(), 1 << 20, 100);
    assert_eq!(accept(&mut world, &here()).len(), 1);
    let under_way = all(&mut world, &there());
    for parcel in &under_way[..8] {
        world.pass(2 * SECOND / 5);
        world.answer(&there(), parcel.number, Answer::Accepted);
    }
    world.pass(2 * SECOND / 5);
    assert!(
        !world.opened.contains(&detour()),
        "it leaves room for others"
    );
    (11..=19).for_each(|tag| world.take(tag, order(70, tag)));
    world.pass(Duration::ZERO);
    assert!(world.opened.contains(&detour()));
}

#[test]
fn what_comes_later_follows_into_the_diversion_until_all_in_it_is_answered() {
    let mut world = World::new("orders", 100);
    world.take(1, order(70, 1));
    world.pass(2 * SECOND);
    world.lane.stream_up(&detour(), 1 << 20, 100);
    world.lane.stream_up(&there(), 1 << 20, 100);
    world.take(2, order(71, 2));
    let diverted = accept(&mut world, &detour());
    assert_eq!(ids(&diverted), [1, 2]);
    assert_eq!(all(&mut world, &there()), []);
    world.pass(SECOND);
    assert_eq!(world.drains, BTreeSet::from([unit("bj-1")]));
    for (tag, parcel) in (1..).zip(diverted) {
        world.take_diverted(&unit("bj-1"), tag, as_delivered(parcel, false));
    }
    // The end is near: what is new is held for a moment.
    world.pass(SECOND / 10);
    world.take(3, order(70, 3));
    assert_eq!(all(&mut world, &detour()), []);
    assert_eq!(ids(&accept(&mut world, &there())), [1, 2]);
    assert_eq!(world.drained[&unit("bj-1")], 2);
    assert_eq!(
        ids(&accept(&mut world, &there())),
        [3],
        "the way is direct again"
    );
    assert_eq!(world.lane.diversions().count(), 0);
    assert_eq!(world.settled, 3);
}

#[test]
fn a_drain_that_is_lost_gives_up_the_stream_that_has_what_it_brought() {
    let mut world = World::new("orders", 100);
    world.take(1, order(70, 1));
    world.pass(2 * SECOND);
    world.lane.stream_up(&detour(), 1 << 20, 100);
    world.lane.stream_up(&there(), 1 << 20, 1);
    let diverted = accept(&mut world, &detour());
    world.pass(SECOND);
    let bj = unit("bj-1");
    world.take_diverted(&bj, 1, as_delivered(diverted[0].clone(), false));
    assert_eq!(ids(&all(&mut world, &there())), [1]);
    world.ask(|lane, routing, at| (lane.drain_lost(&bj, routing, at), ()));
    // The receiver has it still: another parcel would be beyond what it allows.
    assert_eq!(world.closed, [there()]);
    world.take(2, order(70, 2));
    assert_eq!(all(&mut world, &there()), []);
}

#[test]
fn an_end_marker_that_a_former_holder_has_taken_is_put_again() {
    let mut world = World::new("orders", 100);
    let bj = unit("bj-1");
    world.ask(|lane, routing, at| (lane.diversion_found(&bj, routing, at), ()));
    world.lane.stream_up(&detour(), 1 << 20, 100);
    world.lane.stream_up(&there(), 1 << 20, 100);
    accept(&mut world, &detour());
    world.pass(SECOND);
    assert_eq!(world.drains, BTreeSet::from([bj.clone()]));
    world.pass(9 * SECOND);
    assert_eq!(accept(&mut world, &detour()), []);
    world.pass(SECOND);
    let again = accept(&mut world, &detour()).remove(0);
    world.take_diverted(&bj, 1, as_delivered(again, false));
    assert_eq!(world.lane.diversions().count(), 0);
}

#[test]
fn what_is_held_goes_into_the_diversion_when_the_end_does_not_come() {
    let mut world = World::new("orders", 100);
    world.take(1, order(70, 1));
    gives_back_the_first(&mut world);
    world.pass(SECOND / 10);
    world.take(2, order(70, 2));
    assert_eq!(all(&mut world, &detour()), []);
    world.pass(3 * SECOND);
    assert_eq!(ids(&accept(&mut world, &detour())), [2]);
    assert_eq!(world.settled, 2);
}

#[test]
fn what_a_diversion_does_not_take_goes_directly_once_its_unit_is_back_behind_what_is_in_there() {
    let mut world = World::new("orders", 100);
    world.take(1, order(70, 1));
    world.pass(2 * SECOND);
    world.lane.stream_up(&detour(), 1 << 20, 100);
    let inside = accept(&mut world, &detour()).remove(0);
    world.take(2, order(70, 2));
    world.take(3, order(71, 3));
    let under_way = all(&mut world, &detour());
    assert_eq!(ids(&under_way), [2, 3]);
    // The lane's own broker has an alarm and takes nothing; what it has it gives.
    world.lane.stream_up(&there(), 1 << 20, 100);
    world.pass(2 * SECOND);
    assert_eq!(world.closed, [detour()]);
    world
        .lane
        .stream_down(&detour(), "the broker takes nothing".to_owned());
    assert_eq!(
        all(&mut world, &there()),
        [],
        "past what is in the diversion"
    );
    world.take_diverted(&unit("bj-1"), 1, as_delivered(inside, false));
    assert_eq!(ids(&accept(&mut world, &there())), [1]);
    let direct = accept(&mut world, &there());
    assert_eq!(ids(&direct), [2, 3]);
    assert!(
        direct.iter().all(|parcel| parcel.sent_before),
        "the diversion may have them"
    );
    assert_eq!((world.settled, world.lane.in_flight()), (3, 0));
}

#[test]
fn a_lane_that_finds_an_empty_diversion_holds_what_comes_and_sends_nothing_through_it() {
    let mut world = World::new("orders", 100);
    let bj = unit("bj-1");
    world.ask(|lane, routing, at| (lane.diversion_found(&bj, routing, at), ()));
    world.take(1, order(70, 1));
    world.lane.stream_up(&there(), 1 << 20, 100);
    world.lane.stream_up(&detour(), 1 << 20, 100);
    let into = accept(&mut world, &detour());
    assert_eq!((into.len(), &into[0].id), (1, &None), "the marker alone");
    world.pass(SECOND);
    assert_eq!(all(&mut world, &there()), [], "past what may lie there");
    world.take_diverted(&bj, 1, as_delivered(into[0].clone(), false));
    world.take(2, order(70, 2));
    assert_eq!(ids(&accept(&mut world, &there())), [1, 2]);
    assert_eq!(all(&mut world, &detour()), []);
}

#[test]
fn a_lane_that_finds_a_diversion_follows_into_it_until_its_own_end_marker_comes_out() {
    let mut world = World::new("orders", 100);
    world.take(1, order(70, 1));
    world.pass(2 * SECOND);
    world.lane.stream_up(&detour(), 1 << 20, 100);
    let left = accept(&mut world, &detour()).remove(0);
    world.restart(100, 2);
    world.ask(|lane, routing, at| (lane.diversion_found(&unit("bj-1"), routing, at), ()));
    world.take(1, order(70, 2));
    world.pass(HELD_AT_MOST);
    world.lane.stream_up(&there(), 1 << 20, 100);
    world.lane.stream_up(&detour(), 1 << 20, 100);
    assert_eq!(
        all(&mut world, &there()),
        [],
        "past what a former holder left"
    );
    let into = accept(&mut world, &detour());
    assert_eq!(
        (into.len(), &into[0].id),
        (2, &None),
        "the marker goes first"
    );
    world.pass(SECOND);
    for (tag, parcel) in (1..).zip([left].into_iter().chain(into)) {
        world.take_diverted(&unit("bj-1"), tag, as_delivered(parcel, false));
    }
    let came = accept(&mut world, &there());
    assert_eq!(ids(&came), [1, 2]);
    assert_eq!(world.drained[&unit("bj-1")], 3, "the marker too");
    world.take(2, order(70, 3));
    assert_eq!(ids(&accept(&mut world, &there())), [3]);
}

#[test]
fn a_lane_with_nothing_for_other_units_waits_for_the_end_of_its_detour_however_far_it_is() {
    let mut world = World::new("orders", 2_000);
    world.ask(|lane, routing, at| (lane.diversion_found(&unit("bj-1"), routing, at), ()));
    (1..=600).for_each(|number| world.take(number, order(70, number)));
    world.pass(HELD_AT_MOST);
    world.lane.stream_up(&there(), 8 << 20, 4_000);
    world.lane.stream_up(&detour(), 8 << 20, 4_000);
    let mut into = accept(&mut world, &detour());
    assert_eq!(into.len(), 601, "the marker and what followed");
    world.pass(SECOND);
    let rest = into.split_off(1);
    let marker = as_delivered(into.remove(0), false);
    world.take_diverted(&unit("bj-1"), 1, marker);
    world.pass(SECOND);
    world.take(601, order(70, 601));
    assert!(accept(&mut world, &detour()).is_empty(), "it waits");
    for (tag, parcel) in (2..).zip(rest) {
        world.take_diverted(&unit("bj-1"), tag, as_delivered(parcel, false));
    }
    let mut came = Vec::new();
    while came.len() < 601 {
        let more = ids(&accept(&mut world, &there()));
        assert!(!more.is_empty(), "{} came", came.len());
        came.extend(more);
    }
    assert!((1..=601).eq(came), "in order");
    assert_eq!((world.settled, world.lane.in_flight()), (601, 0));
}

#[test]
fn a_lane_waits_for_the_end_of_a_detour_that_ends_in_three_seconds_as_fast_as_it_is_drained() {
    let mut world = World::new("orders", 2_000);
    let bj = unit("bj-1");
    world.take(1, order(20, 1));
    world.lane.stream_up(&here(), 8 << 20, 4_000);
    assert_eq!(accept(&mut world, &here()).len(), 1);
    (2..=1_201).for_each(|tag| world.take(tag, order(70, tag)));
    world.pass(2 * SECOND);
    world.lane.stream_up(&detour(), 8 << 20, 4_000);
    world.lane.stream_up(&there(), 8 << 20, 4_000);
    let mut into = accept(&mut world, &detour());
    world.pass(SECOND);
    for tag in 1..=300 {
        world.take_diverted(&bj, tag, as_delivered(into.remove(0), false));
    }
    assert_eq!(accept(&mut world, &there()).len(), 300);
    world.pass(SECOND);
    // 900 are left, and 300 a second come out. What is new is more than a quarter of the budget.
    (1_202..=1_801).for_each(|tag| world.take(tag, order(70, tag)));
    world.pass(SECOND / 10);
    // It takes longer in the end, and goes on.
    let tagged: Vec<_> = (301..).zip(into).collect();
    for some in tagged.chunks(225) {
        for (tag, parcel) in some {
            world.take_diverted(&bj, *tag, as_delivered(parcel.clone(), false));
        }
        assert_eq!(accept(&mut world, &there()).len(), some.len());
        world.pass(SECOND);
        let follows = all(&mut world, &detour());
        assert!(follows.is_empty(), "it waits for the end");
    }
    assert_eq!(world.lane.diversions().count(), 0);
    assert_eq!(accept(&mut world, &there()).len(), 600, "directly");
    assert_eq!(world.lane.in_flight(), 0);
}

#[test]
fn what_a_full_diversion_refuses_is_parked() {
    let mut world = World::new("orders", 100);
    world.take(1, order(70, 1));
    world.pass(2 * SECOND);
    world.lane.stream_up(&detour(), 1 << 20, 100);
    let parcel = world.next(&detour()).unwrap();
    let refused = Answer::Refused {
        reason: setgate::model::Reason::DivertFull,
        cause: "full".to_owned(),
    };
    world.answer(&detour(), parcel.number, refused);
    assert_eq!(world.settled, 0);
    world.lane.stream_up(&Target::Park, 1 << 20, 100);
    let parked = accept(&mut world, &Target::Park).remove(0);
    assert_eq!(crate::world::reason(&parked), b"divert_full");
    assert_eq!(world.settled, 1);
    assert_eq!(world.lane.diversions().count(), 0, "nothing is in it");
}

#[test]
fn time_in_a_diversion_counts_on_an_expiration() {
    let mut world = World::new("orders", 100);
    let mut message = order(70, 1);
    let mut edit = setgate::amqp::Edit::new();
    edit.set_text(setgate::amqp::TextProperty::Expiration, b"60000");
    message.properties = edit.apply(&message.properties).unwrap();
    world.take(1, message);
    world.pass(2 * SECOND);
    world.lane.stream_up(&detour(), 1 << 20, 100);
    let diverted = accept(&mut world, &detour()).remove(0);
    world.pass(10 * SECOND);
    world.lane.stream_up(&there(), 1 << 20, 100);
    world.pass(SECOND);
    world.take_diverted(&unit("bj-1"), 1, as_delivered(diverted, false));
    let came = accept(&mut world, &there()).remove(0);
    let left = came
        .properties
        .text(setgate::amqp::TextProperty::Expiration);
    assert_eq!(left, Some(&b"47000"[..]));
}
