//! What is known of a lane: for how long, from whom, and where it has gaps.

use super::*;
use crate::model::{Slot, SlotSet};
use proptest::prelude::*;

#[test]
fn an_identity_is_known_for_its_window_and_forgotten_after() {
    let mut window = Window::default();
    window.confirm(id(1), minutes(0), WINDOW);
    for minute in 1..=10 {
        assert_eq!(window.look_up(&id(1)), Known::Confirmed, "{minute} min");
        window.confirm(id(100 + u64::from(minute)), minutes(minute), WINDOW);
    }
    for minute in 11..=20 {
        window.confirm(id(100 + u64::from(minute)), minutes(minute), WINDOW);
    }
    assert_eq!(window.look_up(&id(1)), Known::Not);
    assert!(window.len() <= 15, "{} are kept", window.len());
}

#[test]
fn nothing_is_forgotten_while_its_lane_is_away() {
    let mut window = Window::default();
    for number in 1..=4 {
        window.confirm(id(number), minutes(0), WINDOW);
    }
    // An hour of silence; then what was unanswered is sent again, among news.
    for number in 1..=4 {
        assert_eq!(window.look_up(&id(number)), Known::Confirmed);
        window.confirm(id(100 + number), minutes(60), WINDOW);
    }
}

#[test]
fn many_messages_under_one_id_cost_no_more_than_others() {
    let mut window = Window::default();
    for what in 0..1_000 {
        let id = Identity { who: 7, what };
        let before = window.look_up(&id);
        assert_eq!(before, if what == 0 { Known::Not } else { Known::Reused });
        window.confirm(id, minutes(0), WINDOW);
        assert_eq!(window.look_up(&id), Known::Confirmed);
    }
    assert_eq!(window.len(), 1_000);
}

#[test]
fn an_identity_takes_19_to_39_bytes() {
    let mut window = Window::default();
    for number in 0..200_000 {
        window.confirm(id(number), minutes(0), WINDOW);
        if number > 100_000 && number % 1_000 == 0 {
            let each = window.bytes() / window.len();
            assert!((19..=39).contains(&each), "{each} bytes at {number}");
        }
    }
}

#[test]
fn past_the_bound_the_oldest_is_forgotten_and_leaves_a_gap() {
    let mut seen = Seen::new(HERE, 4_000);
    take(&mut seen, HERE, minutes(0));
    for number in 0..20_000 {
        let at = minutes(0) + Duration::from_secs(number / 10);
        seen.confirm(&lane(0), id(number), at);
    }
    assert!(seen.len() < 4_000 + 1_024);
    assert!(seen.forgotten_early() > 10_000);
    assert!(seen.has_gap(&lane(0)));
    let newest = ids(id(19_999));
    assert_eq!(seen.look_up(&lane(0), &newest), Known::Confirmed);
}

#[test]
fn who_follows_the_journal_knows_what_others_have_confirmed() {
    let mut seen = Seen::new(HERE, IDENTITIES_MAX);
    take(&mut seen, THERE, minutes(0));
    let facts = vec![Fact::Confirmed(vec![id(1)]), Fact::Doubtful(vec![id(2)])];
    seen.apply(&entry(THERE, minutes(1), facts), minutes(1));
    let known = |number| seen.look_up(&lane(0), &ids(id(number)));
    assert_eq!(
        [known(1), known(2), known(3)],
        [Known::Confirmed, Known::Doubtful, Known::Not]
    );
    // By another partition of the source, too.
    assert_eq!(seen.look_up(&lane(5), &ids(id(1))), Known::Confirmed);
}

#[test]
fn a_killed_holder_leaves_a_gap_and_one_that_let_go_leaves_none() {
    for (released, gap) in [(true, false), (false, true)] {
        let mut seen = seen();
        seen.apply(&entry(HERE, minutes(31), vec![Fact::Released]), minutes(31));
        take(&mut seen, THERE, minutes(31));
        if released {
            let word = entry(THERE, minutes(32), vec![Fact::Released]);
            seen.apply(&word, minutes(32));
        }
        let heard = take(&mut seen, HERE, minutes(32));
        assert_eq!(heard, [Heard::Mark { token: 7 }]);
        assert_eq!(seen.has_gap(&lane(0)), gap);
    }
}

#[test]
fn a_gateway_that_takes_its_own_lane_again_knows_everything() {
    let mut seen = seen();
    take(&mut seen, HERE, minutes(31));
    assert!(!seen.has_gap(&lane(0)));
}

#[test]
fn a_gateways_former_life_is_another_holder() {
    let mut seen = seen();
    take(&mut seen, Life(3), minutes(31));
    assert!(seen.has_gap(&lane(0)));
}

#[test]
fn a_gap_ends_with_the_window_that_it_is_in() {
    let mut seen = Seen::new(HERE, IDENTITIES_MAX);
    assert!(seen.has_gap(&lane(0)), "nothing is known of it");
    take(&mut seen, HERE, minutes(0));
    for minute in 0..=10 {
        seen.confirm(&lane(0), id(u64::from(minute)), minutes(minute));
        assert!(seen.has_gap(&lane(0)), "after {minute} min");
    }
    for minute in 11..=20 {
        seen.confirm(&lane(0), id(u64::from(minute)), minutes(minute));
    }
    assert!(!seen.has_gap(&lane(0)));
}

#[test]
fn a_gap_lasts_while_the_lane_is_away() {
    let mut seen = Seen::new(HERE, IDENTITIES_MAX);
    take(&mut seen, HERE, minutes(0));
    take(&mut seen, HERE, minutes(60));
    assert!(seen.has_gap(&lane(0)));
}

#[test]
fn the_word_of_one_whom_another_has_followed_counts_and_leaves_a_gap() {
    let mut seen = seen();
    let late = entry(THERE, minutes(31), vec![Fact::Confirmed(vec![id(1)])]);
    seen.apply(&late, minutes(31));
    assert_eq!(seen.look_up(&lane(0), &ids(id(1))), Known::Confirmed);
    assert!(seen.has_gap(&lane(0)));
    // Nor may its farewell free what another holds.
    seen.apply(
        &entry(THERE, minutes(31), vec![Fact::Released]),
        minutes(31),
    );
    take(&mut seen, THERE, minutes(32));
    assert!(seen.has_gap(&lane(0)));
}

#[test]
fn a_journal_that_begins_in_the_middle_has_a_gap() {
    let mut seen = Seen::new(HERE, IDENTITIES_MAX);
    let middle = entry(THERE, minutes(0), vec![Fact::Confirmed(vec![id(1)])]);
    seen.apply(&middle, minutes(0));
    seen.apply(&entry(THERE, minutes(1), vec![Fact::Released]), minutes(1));
    take(&mut seen, HERE, minutes(1));
    assert!(seen.has_gap(&lane(0)));
}

#[test]
fn of_a_journal_that_was_read_from_its_beginning_everything_is_known() {
    let mut seen = Seen::new(HERE, IDENTITIES_MAX);
    seen.begins();
    take(&mut seen, HERE, minutes(0));
    assert!(!seen.has_gap(&lane(0)), "it was never received before");
    // Too late to say so: something was there before.
    let mut seen = Seen::new(HERE, IDENTITIES_MAX);
    take(&mut seen, HERE, minutes(0));
    seen.begins();
    let other = LaneId {
        partition: Partition(1),
        ..lane(0)
    };
    assert!(seen.has_gap(&other));
}

#[test]
fn a_change_of_seats_leaves_a_gap_in_every_lane() {
    let mut seen = seen();
    seen.epoch(Epoch(1), minutes(31));
    assert!(!seen.has_gap(&lane(0)));
    // A gateway that lags.
    seen.epoch(Epoch(0), minutes(31));
    assert!(!seen.has_gap(&lane(0)));
    seen.epoch(Epoch(2), minutes(31));
    assert!(seen.has_gap(&lane(0)));
}

#[test]
fn a_gateway_that_begins_finds_in_the_journal_that_seats_have_changed() {
    let mut seen = Seen::new(HERE, IDENTITIES_MAX);
    seen.epoch(Epoch(2), minutes(40));
    seen.begins();
    let of = |epoch, facts| Entry {
        epoch: Epoch(epoch),
        ..entry(HERE, minutes(31), facts)
    };
    let before = of(1, vec![Fact::Released]);
    seen.apply(&before, minutes(31));
    assert!(!seen.has_gap(&lane(0)), "nobody has said anything since");
    let own = of(2, vec![Fact::Taken { token: 1 }]);
    seen.apply(&own, minutes(40));
    assert!(seen.has_gap(&lane(0)));
}

#[test]
fn a_lane_that_first_comes_after_seats_have_changed_has_a_gap() {
    let mut seen = Seen::new(HERE, IDENTITIES_MAX);
    seen.begins();
    for (epoch, has_gap) in [(1, false), (2, true)] {
        let taken = Record {
            lane: lane(u16::try_from(epoch).unwrap()),
            fact: Fact::Taken { token: 1 },
        };
        let entry = Entry {
            epoch: Epoch(epoch),
            records: vec![taken.clone()],
            ..entry(HERE, minutes(31), Vec::new())
        };
        seen.apply(&entry, minutes(31));
        assert_eq!(seen.has_gap(&taken.lane), has_gap, "epoch {epoch}");
    }
}

#[test]
fn a_wish_for_a_lane_is_heard_by_all_but_who_has_it() {
    let mut seen = seen();
    let wish = entry(THERE, minutes(31), vec![Fact::LetGo]);
    let heard = seen.apply(&wish, minutes(31));
    let by = gateway(THERE);
    assert_eq!(heard, [Heard::LetGo { lane: lane(0), by }]);
    let own = entry(HERE, minutes(31), vec![Fact::LetGo]);
    assert!(seen.apply(&own, minutes(31)).is_empty());
}

fn a_fact() -> impl Strategy<Value = Fact> {
    let identities = || {
        let one = (any::<u64>(), any::<u64>()).prop_map(|(who, what)| Identity { who, what });
        proptest::collection::vec(one, 0..5)
    };
    prop_oneof![
        identities().prop_map(Fact::Confirmed),
        identities().prop_map(Fact::Doubtful),
        any::<u64>().prop_map(|token| Fact::Taken { token }),
        Just(Fact::Released),
        Just(Fact::LetGo),
    ]
}

proptest! {
    #[test]
    fn an_entry_is_read_as_it_was_written(facts in proptest::collection::vec(a_fact(), 0..5), life: u64) {
        let entry = entry(Life(life), minutes(3), facts);
        prop_assert_eq!(Entry::decode(entry.encode()).unwrap(), entry);
    }

    #[test]
    fn whatever_lies_in_the_stream_nothing_panics(bytes: Vec<u8>) {
        let _ = Entry::decode(bytes.into());
    }
}

#[test]
fn what_another_unit_has_delivered_of_moved_slots_is_a_duplicate_here() {
    let of = |number: u64, slot: u32| id(number).in_slot(Some(Slot(slot)));
    let mut old = seen();
    for number in 0..100 {
        old.confirm(
            &lane(0),
            of(number, 1 + u32::from(number >= 50)),
            minutes(31),
        );
    }
    // In pieces, and of the slots that move alone.
    let told = old.confirmed_of(&SlotSet::parse("1").unwrap(), 20);
    let sizes: Vec<usize> = told.iter().map(|record| record.fact.count()).collect();
    assert_eq!(sizes, [20, 20, 10]);

    let mut new = Seen::new(THERE, IDENTITIES_MAX);
    let mut written = entry(HERE, minutes(32), Vec::new());
    written.records = told;
    let copied = Revision(7);
    written.notes = vec![Note::Mark { token: 3 }, Note::Copied { revision: copied }];
    // It travels by the journal, and a mark is for its writer alone.
    let written = Entry::decode(written.encode()).unwrap();
    let heard = new.apply(&written, minutes(32));
    assert_eq!(heard, [Heard::Copied { revision: copied }]);
    for number in 0..100 {
        let known = new.look_up(&lane(0), &ids(of(number, 1 + u32::from(number >= 50))));
        let expected = if number < 50 {
            Known::Confirmed
        } else {
            Known::Not
        };
        assert_eq!(known, expected, "of {number}");
    }
}
