//! Each stage waits for what it must, and for nothing else.

use super::*;
use crate::model::{Asked, Epoch, SourceName, Word};

fn unit(name: &str) -> UnitId {
    UnitId::parse(name).unwrap()
}

fn member(name: &str) -> (UnitId, GatewayId) {
    (unit(name), GatewayId::parse("a").unwrap())
}

fn slots(text: &str) -> SlotSet {
    SlotSet::parse(text).unwrap()
}

fn asked(text: &str) -> Move {
    by_person(seats(text))
}

fn seats(text: &str) -> SeatChange {
    SeatChange {
        kind: Kind::Planned,
        slots: slots(text),
        from: unit("one"),
        to: unit("two"),
        key: None,
    }
}

fn by_person(change: SeatChange) -> Move {
    Move::asked(
        Change::Seats(change),
        DecidedBy::Person,
        Asked::default(),
        60,
    )
}

fn world() -> World {
    let view = |text: &str| UnitView {
        slots: slots(text),
        consumes: true,
        up: true,
        standby: vec![unit("two")],
        ..UnitView::default()
    };
    World {
        units: [(unit("one"), view("0-49")), (unit("two"), view("50-99"))].into(),
        members: [member("one"), member("two")]
            .map(|name| (name, Duration::ZERO))
            .into(),
        reports: [member("one"), member("two")]
            .map(|name| (name, Report::default()))
            .into(),
        ..World::default()
    }
}

fn judged(one: Move, seconds: u64, world: &World) -> Verdict {
    let moves = [(MoveId(1), one)].into();
    let in_stage = Duration::from_secs(seconds);
    judge(MoveId(1), &moves, Revision(7), in_stage, world)
}

fn at(stage: Stage) -> Move {
    Move {
        stage,
        ..asked("0-9")
    }
}

fn undone(verdict: Verdict) -> String {
    match verdict {
        Verdict::Undo(cause) => cause,
        other => panic!("{other:?}"),
    }
}

#[test]
fn slots_get_their_new_home_only_when_every_member_has_drained_them() {
    let mut world = world();
    assert_eq!(
        judged(at(Stage::Asked), 0, &world),
        Verdict::Go(Stage::Fenced)
    );
    let drained = Report {
        revision: Revision(7),
        drained: Revision(7),
        ..Report::default()
    };
    world.reports.insert(member("one"), drained);
    let waits = judged(at(Stage::Fenced), 0, &world);
    assert!(matches!(&waits, Verdict::Wait(cause) if cause.contains("two/a")));
    // One that is away may still deliver.
    world.reports.remove(&member("two"));
    let waits = judged(at(Stage::Fenced), 0, &world);
    assert!(matches!(&waits, Verdict::Wait(cause) if cause.contains("retire")));
    world.reports.insert(member("two"), drained);
    assert_eq!(
        judged(at(Stage::Fenced), 0, &world),
        Verdict::Go(Stage::Drained)
    );
}

#[test]
fn slots_get_their_new_home_when_all_there_know_what_the_old_one_has_delivered() {
    let mut world = world();
    let read = Report {
        read: true,
        ..Report::default()
    };
    let also = (unit("two"), GatewayId::parse("b").unwrap());
    world.reports.insert(also.clone(), read);
    let unknown = judged(at(Stage::Drained), 0, &world);
    assert!(matches!(&unknown, Verdict::Wait(cause) if cause.contains("known yet to two/a")));
    let copied = Report {
        copied: Revision(7),
        ..Report::default()
    };
    world.reports.insert(member("two"), copied);
    let late = judged(at(Stage::Drained), 0, &world);
    assert!(matches!(&late, Verdict::Wait(cause) if cause.contains("known yet to two/b")));
    // One that hasn't read its journal receives nothing before it has.
    let placed = Verdict::Go(Stage::Placed);
    world.reports.insert(also.clone(), Report::default());
    assert_eq!(judged(at(Stage::Drained), 0, &world), placed);
    world.reports.insert(also, Report { ..copied });
    assert_eq!(judged(at(Stage::Drained), 0, &world), placed);
    // Nobody can tell them any more.
    world.reports.insert(member("two"), Report::default());
    world.units.get_mut(&unit("one")).unwrap().up = false;
    assert_eq!(judged(at(Stage::Drained), 0, &world), placed);
}

#[test]
fn a_fence_of_an_older_write_proves_nothing() {
    let mut world = world();
    for name in [member("one"), member("two")] {
        let before = Report {
            revision: Revision(9),
            drained: Revision(6),
            ..Report::default()
        };
        world.reports.insert(name, before);
    }
    assert!(matches!(
        judged(at(Stage::Fenced), 0, &world),
        Verdict::Wait(_)
    ));
}

#[test]
fn a_move_past_its_deadline_or_taken_back_is_undone_until_it_is_placed() {
    let mut world = world();
    let cause = undone(judged(at(Stage::Fenced), 60, &world));
    assert!(cause.contains("60 s") && cause.contains("one/a"), "{cause}");
    let undo = Word {
        who: "op@host".to_owned(),
        why: "wrong slots".to_owned(),
    };
    for stage in [Stage::Asked, Stage::Fenced, Stage::Drained] {
        let taken_back = Move {
            undo: Some(undo.clone()),
            ..at(stage)
        };
        assert!(undone(judged(taken_back, 0, &world)).contains("wrong slots"));
    }
    let placed = Move {
        undo: Some(undo),
        ..at(Stage::Placed)
    };
    assert!(matches!(
        judged(placed.clone(), 900, &world),
        Verdict::Wait(_)
    ));
    let newer = Report {
        revision: Revision(7),
        ..Report::default()
    };
    world.reports.insert(member("one"), newer);
    // Whoever is away routes nothing of it until it has heard.
    world.reports.remove(&member("two"));
    assert_eq!(judged(placed, 0, &world), Verdict::Go(Stage::Done));
}

#[test]
fn what_cannot_be_carried_out_is_undone_with_the_reason() {
    let world = world();
    for (bad, says) in [
        (
            SeatChange {
                to: unit("one"),
                ..seats("0-9")
            },
            "from one to one",
        ),
        (
            SeatChange {
                to: unit("six"),
                ..seats("0-9")
            },
            "no unit six",
        ),
        (seats("40-59"), "the home of slots 50-59"),
        (
            SeatChange {
                key: Some("57".to_owned()),
                ..seats("57")
            },
            "the home of key \"57\"",
        ),
    ] {
        let cause = undone(judged(by_person(bad), 0, &world));
        assert!(cause.contains(says), "{cause}");
    }
    let mut down = world.clone();
    down.units.get_mut(&unit("two")).unwrap().up = false;
    assert!(undone(judged(asked("0-9"), 0, &down)).contains("not up"));
    let mut closed = world.clone();
    closed.units.get_mut(&unit("two")).unwrap().consumes = false;
    assert!(undone(judged(asked("0-9"), 0, &closed)).contains("access"));
    let mut stood_in = world;
    stood_in.stand_ins.insert(unit("one"), unit("two"));
    assert!(undone(judged(asked("0-9"), 0, &stood_in)).contains("stands in"));
}

#[test]
fn of_two_moves_that_overlap_the_first_goes_on() {
    let world = world();
    let moves: Moves = [(MoveId(1), asked("0-9")), (MoveId(2), asked("5-14"))].into();
    let verdict = |id| judge(MoveId(id), &moves, Revision(7), Duration::ZERO, &world);
    assert_eq!(verdict(1), Verdict::Go(Stage::Fenced));
    assert!(undone(verdict(2)).contains("move 1 is about slots 0-9"));
}

#[test]
fn placed_slots_have_the_next_epoch_and_the_others_keep_theirs() {
    let before = Seats {
        epoch: Epoch(3),
        ..Seats::default()
    };
    let first = place(&before, &asked("0-9").change);
    let second = place(&first, &asked("5-14").change);
    assert_eq!(second.epoch, Epoch(5));
    let changed: Vec<_> = second
        .changed
        .iter()
        .map(|one| (one.slots.to_string(), one.epoch))
        .collect();
    assert_eq!(
        changed,
        [("0-4".to_owned(), Epoch(4)), ("5-14".to_owned(), Epoch(5))]
    );
}

fn failover() -> Move {
    let change = SeatChange {
        kind: Kind::Failover,
        ..seats("0-49")
    };
    Move {
        decided_by: DecidedBy::Policy,
        stage: Stage::Fenced,
        ..by_person(change)
    }
}

/// Unit one is lost: its gateway has been without its lease for so long.
fn lost(seconds: u64) -> World {
    let mut world = world();
    world.units.get_mut(&unit("one")).unwrap().up = false;
    world.reports.remove(&member("one"));
    let away = Duration::from_secs(seconds);
    world.members.insert(member("one"), away);
    world
}

fn waits(verdict: Verdict) -> String {
    match verdict {
        Verdict::Wait(cause) => cause,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lost_unit_is_stood_in_for_when_its_margin_is_over_and_one_granter_has_taken_leave_back() {
    let mut world = lost(5);
    assert!(waits(judged(failover(), 0, &world)).contains("less than 6 s"));
    world = lost(6);
    assert!(waits(judged(failover(), 0, &world)).contains("leave of one"));
    let taken_back = Report {
        ungranted: Revision(7),
        ..Report::default()
    };
    world.reports.insert(member("two"), taken_back);
    assert_eq!(judged(failover(), 0, &world), Verdict::Go(Stage::Drained));
}

#[test]
fn a_gateway_of_a_lost_unit_that_holds_its_lease_has_to_drain_like_any_other() {
    let mut world = lost(60);
    world.reports.insert(member("one"), Report::default());
    assert!(waits(judged(failover(), 0, &world)).contains("one/a"));
    let drained = Report {
        drained: Revision(7),
        ..Report::default()
    };
    world.reports.insert(member("one"), drained);
    assert_eq!(judged(failover(), 0, &world), Verdict::Go(Stage::Drained));
}

#[test]
fn a_takeover_by_policy_ends_when_the_unit_is_up_again_and_one_by_a_person_goes_on() {
    let world = world();
    assert!(undone(judged(failover(), 0, &world)).contains("up again"));
    let by_person = Move {
        decided_by: DecidedBy::Person,
        ..failover()
    };
    // Then it is a planned move: every member has to drain.
    assert!(waits(judged(by_person, 0, &world)).contains("two/a"));
}

#[test]
fn a_unit_that_goes_on_when_it_is_cut_off_is_a_persons_word() {
    let mut world = lost(6);
    world.isolated = Isolated::GoesOn;
    let by_person = Move {
        decided_by: DecidedBy::Person,
        ..failover()
    };
    assert_eq!(judged(by_person, 0, &world), Verdict::Go(Stage::Drained));
}

#[test]
fn a_failover_undoes_the_planned_moves_of_its_slots_and_gives_the_seat_back_with_a_failback() {
    let mut world = lost(60);
    world.units.get_mut(&unit("one")).unwrap().up = false;
    let taking = Move {
        stage: Stage::Asked,
        ..failover()
    };
    let planned = Move {
        stage: Stage::Fenced,
        ..asked("0-9")
    };
    let moves: Moves = [(MoveId(1), planned), (MoveId(2), taking)].into();
    let verdict = |id| judge(MoveId(id), &moves, Revision(7), Duration::ZERO, &world);
    assert_eq!(verdict(2), Verdict::Go(Stage::Fenced));
    assert!(undone(verdict(1)).contains("move 2"));
    let seats = place(&Seats::default(), &failover().change);
    assert_eq!(seats.seat_of(&unit("one")), &unit("two"));
    let back = Change::Seats(SeatChange {
        kind: Kind::Failback,
        slots: slots("0-49"),
        from: unit("two"),
        to: unit("one"),
        key: None,
    });
    assert_eq!(place(&seats, &back).seat_of(&unit("one")), &unit("one"));
}

#[test]
fn by_a_persons_word_a_move_waits_for_those_alone_that_run_or_were_there_a_moment_ago() {
    let mut world = world();
    let drained = Report {
        drained: Revision(7),
        ..Report::default()
    };
    world.reports.insert(member("one"), drained);
    world.reports.remove(&member("two"));
    world.members.insert(member("two"), MARGIN);
    let mut forced = at(Stage::Fenced);
    assert!(waits(judged(forced.clone(), 0, &world)).contains("two/a"));
    forced.force = Some(Word {
        who: "op@host".to_owned(),
        why: "its machine is off".to_owned(),
    });
    assert_eq!(
        judged(forced.clone(), 0, &world),
        Verdict::Go(Stage::Drained)
    );
    world.members.insert(member("two"), MARGIN / 2);
    assert!(waits(judged(forced.clone(), 0, &world)).contains("two/a"));
    world.reports.insert(member("two"), Report::default());
    world.members.insert(member("two"), MARGIN);
    assert!(
        waits(judged(forced, 0, &world)).contains("two/a"),
        "it runs"
    );
}

fn rules(documents: &str) -> RuleChange {
    RuleChange {
        sources: [SourceName::parse("orders").unwrap()].into(),
        documents: documents.to_owned(),
    }
}

fn rules_at(stage: Stage) -> Move {
    let change = Change::Rules(rules("wished"));
    Move {
        stage,
        ..Move::asked(change, DecidedBy::Policy, Asked::default(), 60)
    }
}

#[test]
fn rules_come_in_force_when_every_member_has_drained_their_source_and_the_wish_is_still_the_same() {
    let mut world = world();
    world.wish = Some(rules("wished"));
    let go = |stage| Verdict::Go(stage);
    assert_eq!(judged(rules_at(Stage::Asked), 0, &world), go(Stage::Fenced));
    assert!(waits(judged(rules_at(Stage::Fenced), 0, &world)).contains("one/a"));
    let drained = Report {
        revision: Revision(7),
        drained: Revision(7),
        ..Report::default()
    };
    for name in [member("one"), member("two")] {
        world.reports.insert(name, drained);
    }
    assert_eq!(
        judged(rules_at(Stage::Fenced), 0, &world),
        go(Stage::Drained)
    );
    world.wish = Some(rules("others"));
    for stage in [Stage::Asked, Stage::Fenced, Stage::Drained] {
        assert!(undone(judged(rules_at(stage), 0, &world)).contains("others by now"));
    }
    world.wish = None;
    assert_eq!(judged(rules_at(Stage::Placed), 0, &world), go(Stage::Done));
    let seats = place(&Seats::default(), &rules_at(Stage::Drained).change);
    assert_eq!(seats.epoch, Epoch(1));
    assert_eq!(
        seats.sources[&SourceName::parse("orders").unwrap()],
        Epoch(1)
    );
}

#[test]
fn a_key_moves_from_its_pin_whatever_its_slot_and_another_one_from_the_home_of_its_slot() {
    let mut world = world();
    let key = |slot: &str| {
        by_person(SeatChange {
            key: Some("57".to_owned()),
            ..seats(slot)
        })
    };
    assert_eq!(judged(key("7"), 0, &world), Verdict::Go(Stage::Fenced));
    world.pins.insert("57".to_owned(), unit("two"));
    assert!(undone(judged(key("7"), 0, &world)).contains("the home of key"));
    world.pins.insert("57".to_owned(), unit("one"));
    assert_eq!(judged(key("57"), 0, &world), Verdict::Go(Stage::Fenced));
}

#[test]
fn a_move_that_waits_for_consumers_waits_for_the_word_of_the_old_unit() {
    let mut world = world();
    let drained = Report {
        drained: Revision(7),
        ..Report::default()
    };
    for name in [member("one"), member("two")] {
        world.reports.insert(name, drained);
    }
    let mut waiting = at(Stage::Fenced);
    waiting.drain = Drain::Consumed;
    let cause = waits(judged(waiting.clone(), 0, &world));
    assert!(cause.contains("applications of one"), "{cause}");
    let consumed = Report {
        consumed: Revision(7),
        ..drained
    };
    world.reports.insert(member("two"), consumed);
    assert!(waits(judged(waiting.clone(), 0, &world)).contains("applications of one"));
    world.reports.insert(member("one"), consumed);
    assert_eq!(judged(waiting, 0, &world), Verdict::Go(Stage::Drained));
}
