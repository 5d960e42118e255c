//! Slots that are being moved wait in the diversion of their old seat, those alone, and go on to the new one in order.

use crate::diversions::{HELD_AT_MOST, accept, all, as_delivered, detour, ids};
use crate::world::{World, here, order, there, unit};
use setgate::lane::{DivertReason, Note, Target};
use setgate::model::{Answer, Parcel, Stage};
use std::collections::BTreeSet;
use std::time::Duration;

const BEAT: Duration = Duration::from_millis(100);

/// Both units and the diversion of bj-1 answer.
fn world() -> World {
    let mut world = World::new("orders", 100);
    for target in [here(), there(), detour()] {
        world.lane.stream_up(&target, 1 << 20, 100);
    }
    world
}

/// Streams to whatever it has opened since.
fn open(world: &mut World) {
    let opened: Vec<Target> = world.opened.iter().cloned().collect();
    for target in opened {
        world.lane.stream_up(&target, 1 << 20, 100);
    }
}

fn give_back(world: &mut World, diverted: Vec<Parcel>) {
    give_back_of(world, "bj-1", diverted);
}

fn give_back_of(world: &mut World, of: &str, diverted: Vec<Parcel>) {
    let of = unit(of);
    let from = world.drained.get(&of).copied().unwrap_or(0) + 1;
    for (tag, parcel) in (from..).zip(diverted) {
        assert!(world.lane.drain_has_room(&of, world.now));
        world.take_diverted(&of, tag, as_delivered(parcel, false));
    }
}

#[test]
fn fenced_slots_wait_in_the_diversion_of_their_seat_and_their_neighbours_go_on() {
    let mut world = world();
    world.moves(Stage::Fenced);
    world.take(1, order(70, 1));
    world.take(2, order(60, 2));
    world.take(3, order(20, 3));
    open(&mut world);
    assert_eq!(ids(&accept(&mut world, &detour())), [1]);
    assert_eq!(ids(&accept(&mut world, &there())), [2]);
    assert_eq!(ids(&accept(&mut world, &here())), [3]);
    assert_eq!(world.settled, 3, "what is diverted is durable");
    let fenced = |note: &Note| matches!(note, Note::Diverting { reason, .. } if *reason == DivertReason::Fenced);
    assert!(world.notes.iter().any(fenced));
}

#[test]
fn what_is_under_way_when_the_fence_comes_is_counted_until_it_is_answered() {
    let mut world = world();
    world.take(1, order(70, 1));
    world.take(2, order(60, 2));
    open(&mut world);
    let under_way = all(&mut world, &there());
    assert_eq!(world.lane.fenced_in_flight(&world.table), 0, "no fence");
    world.moves(Stage::Fenced);
    world.take(3, order(70, 3));
    assert_eq!(world.lane.fenced_in_flight(&world.table), 1);
    world.answer(&there(), under_way[0].number, Answer::Accepted);
    assert_eq!(world.lane.fenced_in_flight(&world.table), 0);
    world.pass(BEAT);
    open(&mut world);
    assert_eq!(ids(&accept(&mut world, &detour())), [3], "behind it");
}

#[test]
fn placed_slots_go_to_their_new_home_in_order_and_what_is_new_behind_them() {
    let mut world = world();
    world.take(1, order(60, 9));
    open(&mut world);
    assert_eq!(ids(&accept(&mut world, &there())), [9], "the way is open");
    world.moves(Stage::Fenced);
    world.take(2, order(70, 1));
    world.take(3, order(71, 2));
    open(&mut world);
    let diverted = accept(&mut world, &detour());
    world.pass(BEAT);
    give_back(&mut world, diverted[..1].to_vec());
    assert_eq!(all(&mut world, &there()), [], "the fence stands");
    assert!(
        !world.lane.drain_has_room(&unit("bj-1"), world.now),
        "nothing overtakes it"
    );
    world.moves(Stage::Placed);
    world.take(4, order(70, 3));
    assert_eq!(all(&mut world, &here()), [], "it follows");
    world.pass(BEAT);
    open(&mut world);
    assert_eq!(ids(&accept(&mut world, &here())), [1]);
    world.pass(2 * BEAT);
    give_back(&mut world, diverted[1..].to_vec());
    assert_eq!(ids(&accept(&mut world, &here())), [2]);
    let late = accept(&mut world, &detour());
    let held = accept(&mut world, &here());
    give_back(&mut world, late);
    let came = [ids(&held), ids(&accept(&mut world, &here()))].concat();
    assert_eq!(came, [3]);
    world.take(5, order(70, 4));
    assert_eq!(ids(&accept(&mut world, &here())), [4], "the way is direct");
    assert_eq!(all(&mut world, &there()), [], "bj-1 serves it no more");
    assert_eq!(world.settled, 5);
}

#[test]
fn slots_of_a_move_that_is_undone_go_to_their_old_home_in_order() {
    let mut world = world();
    world.moves(Stage::Fenced);
    world.take(1, order(70, 1));
    open(&mut world);
    let diverted = accept(&mut world, &detour());
    world.moves(Stage::Undone);
    world.take(2, order(70, 2));
    assert_eq!(all(&mut world, &there()), [], "it follows");
    world.pass(BEAT);
    assert_eq!(world.drains, BTreeSet::from([unit("bj-1")]));
    give_back(&mut world, diverted);
    open(&mut world);
    assert_eq!(ids(&accept(&mut world, &there())), [1]);
}

#[test]
fn a_lane_that_begins_after_a_move_follows_into_what_a_former_holder_left_at_the_old_seat() {
    let mut world = world();
    world.moves(Stage::Fenced);
    world.take(1, order(70, 1));
    open(&mut world);
    let before = accept(&mut world, &detour());
    world.moves(Stage::Placed);
    world.restart(100, 2);
    let bj = unit("bj-1");
    world.ask(|lane, routing, at| (lane.diversion_found(&bj, routing, at), ()));
    world.take(1, order(70, 2));
    world.take(2, order(20, 3));
    open(&mut world);
    assert_eq!(ids(&accept(&mut world, &here())), [3], "it never moved");
    let marker_and_new = all(&mut world, &detour());
    for parcel in &marker_and_new {
        world.answer(&detour(), parcel.number, Answer::Accepted);
    }
    world.pass(BEAT);
    give_back(&mut world, before);
    open(&mut world);
    assert_eq!(ids(&accept(&mut world, &here())), [1]);
    give_back(&mut world, marker_and_new);
    assert_eq!(ids(&accept(&mut world, &here())), [2]);
}

#[test]
fn what_was_under_way_when_the_fence_came_goes_into_the_diversion_before_what_is_new() {
    let mut world = world();
    world.take(1, order(70, 1));
    open(&mut world);
    assert_eq!(all(&mut world, &there()).len(), 1, "no answer comes");
    world.moves(Stage::Fenced);
    world.take(2, order(70, 2));
    open(&mut world);
    assert_eq!(all(&mut world, &detour()), [], "it is held behind it");
    world.pass(Duration::from_secs(3));
    open(&mut world);
    assert_eq!(ids(&accept(&mut world, &detour())), [1, 2]);
    assert_eq!(world.lane.fenced_in_flight(&world.table), 0);
}

#[test]
fn what_a_lost_seat_has_not_answered_goes_to_the_new_one_before_what_is_new() {
    let mut world = world();
    world.take(1, order(70, 1));
    world.take(2, order(60, 2));
    open(&mut world);
    assert_eq!(all(&mut world, &there()).len(), 2, "no answer comes");
    world.moves(Stage::Placed);
    world.take(3, order(70, 3));
    open(&mut world);
    assert_eq!(ids(&accept(&mut world, &here())), [1, 3]);
    assert_eq!(world.closed, [there()], "it may be published there no more");
}

#[test]
fn what_is_held_for_the_end_of_a_diversion_goes_where_its_slot_has_its_seat_by_then() {
    let mut world = world();
    world.moves(Stage::Fenced);
    world.take(1, order(70, 1));
    open(&mut world);
    let diverted = accept(&mut world, &detour());
    world.moves(Stage::Placed);
    world.pass(BEAT);
    give_back(&mut world, diverted);
    world.pass(BEAT);
    world.take(2, order(70, 2));
    open(&mut world);
    assert_eq!(all(&mut world, &detour()), [], "it is held");
    assert_eq!(ids(&all(&mut world, &here())), [1]);
    // Back again, and the diversion ends.
    world.moves(Stage::Undone);
    world.pass(BEAT);
    open(&mut world);
    let came = ids(&accept(&mut world, &there()));
    assert_eq!([came, ids(&accept(&mut world, &there()))].concat(), [1, 2]);
    assert_eq!(all(&mut world, &here()), []);
}

#[test]
fn what_followed_into_a_seat_of_long_ago_waits_for_what_a_former_holder_left_at_the_seat_before() {
    let mut world = world();
    world.moves(Stage::Fenced);
    world.take(1, order(70, 1));
    open(&mut world);
    let former = accept(&mut world, &detour());
    // Its next holder finds both diversions, when sh-1 is the seat before.
    world.moved_before();
    world.restart(100, 2);
    for of in ["bj-1", "sh-1"] {
        let of = unit(of);
        world.ask(|lane, routing, at| (lane.diversion_found(&of, routing, at), ()));
    }
    world.take(1, order(70, 2));
    world.pass(HELD_AT_MOST);
    open(&mut world);
    let marker = accept(&mut world, &detour());
    let marker_and_new = accept(&mut world, &Target::Diversion(unit("sh-1")));
    assert_eq!((marker.len(), marker_and_new.len()), (1, 2));
    // And comes to sh-1 again.
    world.moves(Stage::Placed);
    world.pass(BEAT);
    open(&mut world);
    give_back_of(&mut world, "sh-1", marker_and_new);
    assert_eq!(all(&mut world, &here()), [], "it waits");
    give_back(&mut world, former);
    assert_eq!(ids(&accept(&mut world, &here())), [1]);
    give_back(&mut world, marker);
    world.pass(BEAT);
    assert_eq!(ids(&accept(&mut world, &here())), [2]);
}

#[test]
fn what_two_former_holders_left_at_two_seats_goes_on_in_the_order_in_which_they_took_it() {
    for newer_first in [false, true] {
        let mut world = world();
        // The first holder leaves one at bj-1, whose slots are being moved.
        world.moves(Stage::Fenced);
        world.take(1, order(70, 1));
        open(&mut world);
        let first = accept(&mut world, &detour());
        // The second one finds that, and leaves one at sh-1, the seat by then.
        world.moved_before();
        world.restart(100, 2);
        let [sh, bj] = ["sh-1", "bj-1"].map(unit);
        let at_sh = Target::Diversion(sh.clone());
        for of in [&sh, &bj] {
            world.ask(|lane, routing, at| (lane.diversion_found(of, routing, at), ()));
        }
        world.take(1, order(70, 2));
        world.pass(HELD_AT_MOST);
        open(&mut world);
        let _its_marker = accept(&mut world, &detour());
        let second = accept(&mut world, &at_sh).split_off(1);
        assert_eq!(ids(&second), [2]);
        // The third one finds both.
        world.restart(100, 3);
        for of in [&sh, &bj] {
            world.ask(|lane, routing, at| (lane.diversion_found(of, routing, at), ()));
        }
        open(&mut world);
        let [end_of_bj, end_of_sh] = [detour(), at_sh].map(|at| accept(&mut world, &at));
        world.pass(BEAT);
        open(&mut world);
        let mut came = Vec::new();
        let mut left = [("bj-1", first), ("sh-1", second)];
        if newer_first {
            left.reverse();
        }
        for (of, left) in left {
            give_back_of(&mut world, of, left);
            came.extend(ids(&accept(&mut world, &there())));
        }
        for (of, end) in [("bj-1", end_of_bj), ("sh-1", end_of_sh)] {
            world.pass(BEAT);
            came.extend(ids(&accept(&mut world, &there())));
            give_back_of(&mut world, of, end);
        }
        assert_eq!(came, [1, 2], "newer first: {newer_first}");
    }
}

#[test]
fn two_diversions_that_take_turns_are_drained_without_a_pause() {
    let mut world = world();
    world.moved_before();
    let [sh, bj] = ["sh-1", "bj-1"].map(unit);
    let at_sh = Target::Diversion(sh.clone());
    let find = |world: &mut World| {
        for of in [&sh, &bj] {
            world.ask(|lane, routing, at| (lane.diversion_found(of, routing, at), ()));
        }
    };
    // Slot 70 has come from sh-1 to bj-1, and follows what may lie at sh-1; slot 20 is sh-1's, slot 60 bj-1's own.
    find(&mut world);
    world.pass(HELD_AT_MOST);
    let uids = [70, 60, 70, 60, 70, 60];
    for (tag, uid) in (1..).zip(uids) {
        world.take(tag, order(uid, tag));
    }
    open(&mut world);
    let left_at_bj = accept(&mut world, &detour()).split_off(1);
    let left_at_sh = accept(&mut world, &at_sh).split_off(1);
    assert_eq!(
        (ids(&left_at_sh), ids(&left_at_bj)),
        (vec![1, 3, 5], vec![2, 4, 6])
    );
    world.restart(100, 2);
    find(&mut world);
    open(&mut world);
    let ends = [at_sh, detour()].map(|at| accept(&mut world, &at));
    world.pass(BEAT);
    open(&mut world);
    // Their brokers hand them out as they may; no time passes, and nothing is answered.
    let mut left =
        [("sh-1", left_at_sh), ("bj-1", left_at_bj)].map(|(of, left)| (of, left.into_iter()));
    let mut came = Vec::new();
    for _ in 0..uids.len() {
        for (of, left) in &mut left {
            if world.lane.drain_has_room(&unit(of), world.now)
                && let Some(next) = left.next()
            {
                let tag = 1 + came.len() as u64 + 100;
                world.take_diverted(&unit(of), tag, as_delivered(next, false));
                came.extend(ids(&all(&mut world, &there())));
            }
        }
    }
    for (of, end) in ["sh-1", "bj-1"].into_iter().zip(ends) {
        for (tag, parcel) in (200..).zip(end) {
            world.take_diverted(&unit(of), tag, as_delivered(parcel, false));
        }
        came.extend(ids(&all(&mut world, &there())));
    }
    let (of_70, of_60): (Vec<u64>, Vec<u64>) = came.iter().partition(|id| *id % 2 == 1);
    assert_eq!((of_70, of_60), (vec![1, 3, 5], vec![2, 4, 6]), "{came:?}");
}

#[test]
fn what_was_routed_by_other_rules_and_is_unanswered_is_routed_anew_at_once() {
    let mut world = world();
    (1..=3).for_each(|tag| world.take(tag, order(70, tag)));
    open(&mut world);
    assert_eq!(all(&mut world, &there()).len(), 3, "no answer comes");
    world.rules_changed();
    world.pass(BEAT);
    assert_eq!(world.closed, [there()], "its receiver takes none of them");
    world.lane.stream_down(&there(), "the stream ended".into());
    world.lane.stream_up(&there(), 1 << 20, 100);
    let again = all(&mut world, &there());
    assert_eq!(ids(&again), [1, 2, 3]);
    let epoch = world.table.epoch();
    assert!(
        again
            .iter()
            .all(|parcel| parcel.epoch == epoch && parcel.sent_before)
    );
}

#[test]
fn what_a_lost_drain_had_of_slots_that_left_a_unit_that_is_away_comes_again() {
    let mut world = World::new("orders", 100);
    let bj = unit("bj-1");
    world.moves(Stage::Fenced);
    world.take(1, order(70, 1));
    open(&mut world);
    world.lane.stream_down(&there(), "it is away".to_owned());
    let diverted = accept(&mut world, &detour());
    world.pass(BEAT);
    assert!(!world.drains.contains(&bj), "there is no way");
    world.moves(Stage::Placed);
    world.pass(BEAT);
    assert!(world.drains.contains(&bj), "the table is new");
    world.ask(|lane, routing, at| (lane.drain_lost(&bj, routing, at), ()));
    assert!(!world.drains.contains(&bj));
    world.pass(11 * BEAT);
    assert!(world.drains.contains(&bj), "it is begun again");
    give_back(&mut world, diverted);
    open(&mut world);
    assert_eq!(ids(&accept(&mut world, &here())), [1]);
}
