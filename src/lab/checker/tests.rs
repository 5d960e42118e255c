//! Every fault of the account, and what only looks like one.

use super::*;

const HERE: UnitIndex = UnitIndex(0);
const THERE: UnitIndex = UnitIndex(1);
const KEY: KeyIndex = KeyIndex(3);

fn checker(expect: Expect) -> Checker {
    Checker::new(expect, 3, 8).unwrap()
}

fn publish(checker: &mut Checker, count: usize) -> Vec<Tag> {
    (0..count)
        .map(|_| {
            let tag = checker.published(HERE, KEY).unwrap();
            checker.confirmed(tag);
            tag
        })
        .collect()
}

fn arrival(tag: Tag, unit: UnitIndex) -> Delivered {
    Delivered {
        tag,
        unit,
        mark: Mark::Clean,
        handed: Handed::First,
        place: Place::Right,
        epoch: Some(Epoch(1)),
        latency: Duration::from_millis(2),
    }
}

fn marked(tag: Tag, unit: UnitIndex) -> Delivered {
    Delivered {
        mark: Mark::InDoubt,
        ..arrival(tag, unit)
    }
}

#[test]
fn an_undisturbed_run_is_clean() {
    let mut checker = checker(Expect::Once);
    for tag in publish(&mut checker, 100) {
        checker.delivered(arrival(tag, THERE));
    }
    let account = checker.account();
    assert!(account.is_clean(), "{account:?}");
    assert_eq!((account.confirmed, account.delivered), (100, 100));
    assert!((account.p50_ms - 2.0).abs() < 0.1 && account.p99_ms >= account.p50_ms);
    assert_eq!(checker.outstanding(), 0);
}

#[test]
fn a_confirmed_message_that_never_arrives_is_lost() {
    let mut checker = checker(Expect::Once);
    let tags = publish(&mut checker, 3);
    checker.delivered(arrival(tags[0], THERE));
    checker.delivered(arrival(tags[2], THERE));
    assert_eq!(checker.account().lost, 1);
    assert!(!checker.account().is_clean());
}

#[test]
fn a_parked_message_is_not_lost() {
    let mut checker = checker(Expect::Once);
    publish(&mut checker, 2);
    checker.parked(1);
    let account = checker.account();
    assert_eq!((account.lost, account.parked), (1, 1));
}

#[test]
fn an_unconfirmed_message_may_arrive_or_not() {
    let mut checker = checker(Expect::Once);
    let arrives = checker.published(HERE, KEY).unwrap();
    checker.published(HERE, KEY).unwrap();
    checker.delivered(arrival(arrives, THERE));
    let account = checker.account();
    assert!(account.is_clean(), "{account:?}");
    assert_eq!((account.unconfirmed, account.confirmed), (2, 0));
}

#[test]
fn a_confirm_after_the_delivery_finds_nothing_missing() {
    let mut checker = checker(Expect::Once);
    let tag = checker.published(HERE, KEY).unwrap();
    checker.delivered(arrival(tag, THERE));
    checker.confirmed(tag);
    assert_eq!((checker.outstanding(), checker.account().lost), (0, 0));
}

#[test]
fn a_return_takes_the_confirm_back_whichever_comes_first() {
    let mut checker = checker(Expect::Once);
    let tags = publish(&mut checker, 1);
    checker.returned(tags[0]);
    let early = checker.published(HERE, KEY).unwrap();
    checker.returned(early);
    checker.confirmed(early);
    let account = checker.account();
    assert_eq!(
        (account.confirmed, account.returned, account.lost),
        (0, 2, 0)
    );
}

#[test]
fn a_nacked_message_is_neither_confirmed_nor_lost() {
    let mut checker = checker(Expect::Once);
    let tag = checker.published(HERE, KEY).unwrap();
    checker.nacked(tag);
    let account = checker.account();
    assert_eq!(
        (account.nacked, account.lost, account.unconfirmed),
        (1, 0, 0)
    );
}

#[test]
fn an_unmarked_repetition_is_a_duplicate() {
    let mut checker = checker(Expect::Once);
    let tags = publish(&mut checker, 1);
    checker.delivered(arrival(tags[0], THERE));
    checker.delivered(arrival(tags[0], THERE));
    let account = checker.account();
    assert_eq!((account.duplicates, account.delivered), (1, 1));
    assert!(!account.is_clean());
}

#[test]
fn a_marked_repetition_is_counted_and_no_fault_whichever_comes_first() {
    let mut checker = checker(Expect::Once);
    let tags = publish(&mut checker, 2);
    checker.delivered(arrival(tags[0], THERE));
    checker.delivered(marked(tags[0], THERE));
    checker.delivered(marked(tags[1], THERE));
    checker.delivered(arrival(tags[1], THERE));
    let account = checker.account();
    assert!(account.is_clean(), "{account:?}");
    assert_eq!(account.marked_in_doubt, 2);
}

#[test]
fn what_the_applications_broker_hands_out_again_is_no_duplicate() {
    let mut checker = checker(Expect::Once);
    let tags = publish(&mut checker, 1);
    checker.delivered(arrival(tags[0], THERE));
    checker.delivered(Delivered {
        handed: Handed::Again,
        ..arrival(tags[0], THERE)
    });
    let account = checker.account();
    assert_eq!((account.duplicates, account.redelivered), (0, 1));
}

#[test]
fn a_flagged_delivery_in_a_second_unit_is_a_duplicate_all_the_same() {
    let mut checker = checker(Expect::Once);
    let tags = publish(&mut checker, 1);
    checker.delivered(arrival(tags[0], HERE));
    checker.delivered(Delivered {
        handed: Handed::Again,
        ..arrival(tags[0], THERE)
    });
    assert_eq!(checker.account().duplicates, 1);
}

#[test]
fn a_first_delivery_behind_a_higher_number_is_reordered() {
    let mut checker = checker(Expect::Once);
    let tags = publish(&mut checker, 4);
    for at in [0, 2, 1, 3] {
        checker.delivered(arrival(tags[at], THERE));
    }
    assert_eq!(checker.account().reordered, 1);
}

#[test]
fn a_gap_and_a_marked_repetition_are_not_reordered() {
    let mut checker = checker(Expect::Once);
    let tags = publish(&mut checker, 4);
    checker.delivered(arrival(tags[0], THERE));
    checker.delivered(arrival(tags[3], THERE));
    checker.delivered(marked(tags[0], THERE));
    assert_eq!(checker.account().reordered, 0);
}

#[test]
fn order_is_judged_per_key_and_publishing_unit() {
    let mut checker = checker(Expect::Once);
    let tags = publish(&mut checker, 2);
    let other_key = checker.published(HERE, KeyIndex(0)).unwrap();
    let other_unit = checker.published(THERE, KEY).unwrap();
    checker.delivered(arrival(tags[0], THERE));
    checker.delivered(arrival(tags[1], THERE));
    checker.delivered(arrival(other_key, THERE));
    checker.delivered(arrival(other_unit, THERE));
    assert_eq!(checker.account().reordered, 0);
}

#[test]
fn a_delivery_in_a_unit_without_the_key_is_in_a_wrong_unit() {
    let mut checker = checker(Expect::Once);
    let tags = publish(&mut checker, 2);
    checker.delivered(Delivered {
        place: Place::Wrong,
        ..arrival(tags[0], THERE)
    });
    checker.delivered(Delivered {
        place: Place::Unjudged,
        ..arrival(tags[1], THERE)
    });
    checker.judged_late(Place::Wrong);
    checker.judged_late(Place::Right);
    assert_eq!(checker.account().wrong_unit, 2);
}

#[test]
fn a_key_in_two_units_under_one_epoch_has_two_owners_once() {
    let mut checker = checker(Expect::Once);
    let tags = publish(&mut checker, 4);
    checker.delivered(arrival(tags[0], HERE));
    for tag in &tags[1..] {
        checker.delivered(arrival(*tag, THERE));
    }
    assert_eq!(checker.account().two_owner, 1);
}

#[test]
fn a_key_that_moves_with_a_new_epoch_has_one_owner() {
    let mut checker = checker(Expect::Once);
    let tags = publish(&mut checker, 2);
    checker.delivered(arrival(tags[0], HERE));
    checker.delivered(Delivered {
        epoch: Some(Epoch(2)),
        ..arrival(tags[1], THERE)
    });
    assert_eq!(checker.account().two_owner, 0);
}

#[test]
fn what_did_not_go_to_an_owner_has_no_second_one() {
    let mut checker = checker(Expect::Once);
    let tags = publish(&mut checker, 2);
    for (tag, unit) in [(tags[0], HERE), (tags[1], THERE)] {
        checker.delivered(Delivered {
            epoch: None,
            ..arrival(tag, unit)
        });
    }
    assert_eq!(checker.account().two_owner, 0);
}

#[test]
fn a_shared_message_is_due_once_in_each_unit() {
    let mut checker = checker(Expect::OnceIn(vec![HERE, THERE]));
    let tags = publish(&mut checker, 2);
    for tag in &tags {
        checker.delivered(arrival(*tag, THERE));
    }
    assert_eq!(checker.account().lost, 2);
    checker.delivered(arrival(tags[0], HERE));
    checker.delivered(arrival(tags[1], HERE));
    let account = checker.account();
    assert!(account.is_clean(), "{account:?}");
    assert_eq!((account.confirmed, account.delivered), (2, 4));
}

#[test]
fn a_shared_message_twice_in_one_unit_or_in_a_unit_without_a_share_is_a_fault() {
    let mut checker = checker(Expect::OnceIn(vec![HERE, THERE]));
    let tags = publish(&mut checker, 1);
    checker.delivered(arrival(tags[0], HERE));
    checker.delivered(arrival(tags[0], THERE));
    checker.delivered(arrival(tags[0], THERE));
    checker.delivered(arrival(tags[0], UnitIndex(2)));
    let account = checker.account();
    assert_eq!((account.duplicates, account.wrong_unit), (1, 1));
}

#[test]
fn a_delivery_that_nobody_published_is_invented() {
    let mut checker = checker(Expect::Once);
    let tags = publish(&mut checker, 1);
    let strangers = [
        Tag {
            number: Number(1),
            ..tags[0]
        },
        Tag {
            key: KeyIndex(99),
            ..tags[0]
        },
        Tag {
            publisher: UnitIndex(200),
            ..tags[0]
        },
    ];
    for tag in strangers {
        checker.delivered(arrival(tag, HERE));
    }
    checker.delivered(arrival(tags[0], UnitIndex(99)));
    let account = checker.account();
    assert_eq!(account.invented, 4);
    assert!(!account.is_clean());
}

#[test]
fn an_account_refuses_what_it_has_no_room_for() {
    assert_eq!(
        Checker::new(Expect::Once, 17, 1).unwrap_err(),
        CheckerError::Units(17)
    );
    assert_eq!(
        Checker::new(Expect::Once, 1, 0).unwrap_err(),
        CheckerError::Keys(0)
    );
    assert_eq!(checker(Expect::Once).published(HERE, KeyIndex(8)), None);
}

#[test]
fn latencies_from_a_millisecond_to_minutes_are_told_apart() {
    let mut checker = checker(Expect::Once);
    for (at, tag) in publish(&mut checker, 100).into_iter().enumerate() {
        let latency = match at {
            0..98 => Duration::from_millis(40),
            _ => Duration::from_secs(90),
        };
        checker.delivered(Delivered {
            latency,
            ..arrival(tag, THERE)
        });
    }
    let account = checker.account();
    assert!((account.p50_ms - 40.0).abs() < 0.5, "{account:?}");
    assert!((account.p99_ms - 90_000.0).abs() < 100.0, "{account:?}");
}
