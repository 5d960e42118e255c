//! One test for each thing that may become of a parcel.

use super::*;

struct Stream {
    receiver: Receiver,
    seen: Seen,
    now: Duration,
}

impl Stream {
    fn new(seen: Seen) -> Self {
        Self {
            receiver: Receiver::new(lane(0), Full::Waits),
            seen,
            now: minutes(31),
        }
    }

    fn offer(&mut self, offer: Offer) -> Actions {
        let mut actions = Actions::default();
        self.receiver.offer(&self.seen, offer, &mut actions);
        actions
    }

    fn outcome(&mut self, number: u64, outcome: Outcome) -> Actions {
        let mut actions = Actions::default();
        let (seen, number) = (&mut self.seen, ParcelNumber(number));
        self.receiver
            .outcome(seen, number, outcome, self.now, &mut actions);
        actions
    }

    /// All that is written into the journal, at once confirmed.
    fn journal(&mut self) -> Actions {
        let mut actions = Actions::default();
        while let Some(batch) = self.receiver.to_journal() {
            self.receiver.journaled(batch.ticket, &mut actions);
        }
        actions
    }

    /// Delivers one, all the way.
    fn deliver(&mut self, parcel: Parcel) {
        let number = parcel.number.0;
        assert_eq!(self.offer(offer(parcel)).publish.len(), 1);
        self.outcome(number, Outcome::Confirmed);
        assert_eq!(self.journal().answers.len(), 1);
    }

    /// A new stream of the lane to the same gateway.
    fn begin_anew(&mut self) {
        self.receiver = Receiver::new(lane(0), Full::Waits);
    }
}

fn marks(actions: &Actions) -> Vec<(u64, Mark)> {
    let publishes = actions.publish.iter();
    publishes
        .map(|(parcel, mark)| (parcel.number.0, *mark))
        .collect()
}

fn answers(actions: &Actions) -> Vec<(u64, &Answer)> {
    let answers = actions.answers.iter();
    answers.map(|(number, answer)| (number.0, answer)).collect()
}

fn unknown() -> Outcome {
    Outcome::Unknown {
        cause: "the connection is gone".to_owned(),
    }
}

#[test]
fn a_parcel_is_accepted_when_the_broker_and_the_journal_have_it() {
    let mut stream = Stream::new(seen());
    let taken = stream.offer(offer(parcel(1, "a")));
    assert_eq!(marks(&taken), [(1, Mark::Clean)]);
    let confirmed = stream.outcome(1, Outcome::Confirmed);
    assert!(confirmed.answers.is_empty(), "the journal hasn't it yet");
    assert!(!stream.receiver.is_done());
    let batch = stream.receiver.to_journal().unwrap();
    assert_eq!(batch.records.len(), 1);
    assert!(!stream.receiver.is_done(), "it is only on its way there");
    let mut actions = Actions::default();
    stream.receiver.journaled(batch.ticket, &mut actions);
    assert_eq!(answers(&actions), [(1, &Answer::Accepted)]);
    assert!(stream.receiver.is_done());
}

#[test]
fn what_was_confirmed_is_a_duplicate_sent_again_or_published_again() {
    let mut stream = Stream::new(seen());
    stream.deliver(parcel(1, "a"));
    // The same from its publisher, which sends it to be sure; and from its sender, which has no answer.
    for second in [parcel(2, "a"), again(3, "a")] {
        let number = second.number.0;
        let actions = stream.offer(offer(second));
        assert_eq!(answers(&actions), [(number, &Answer::Duplicate)]);
        assert_eq!((actions.publish.len(), actions.duplicates), (0, 1));
    }
}

#[test]
fn what_was_delivered_here_is_a_duplicate_whoever_owns_it_now() {
    let mut stream = Stream::new(seen());
    stream.deliver(parcel(1, "a"));
    let moved = Offer {
        verdict: Err(Answer::Moved),
        ..offer(again(2, "a"))
    };
    let actions = stream.offer(moved);
    assert_eq!(answers(&actions), [(2, &Answer::Duplicate)]);
}

#[test]
fn one_id_under_another_address_body_round_or_retry_is_another_message() {
    let mut stream = Stream::new(seen());
    stream.deliver(parcel(1, "a"));
    let mut address = parcel(2, "a");
    address.address.routing_key = Bytes::from_static(b"order.de");
    let mut body = parcel(3, "a");
    body.body = Bytes::from_static(b"another");
    let mut round = parcel(4, "a");
    round.round = Round(2);
    let mut retry = parcel(5, "a");
    retry.retry = Retry(1);
    for (other, reused) in [(address, 1), (body, 1), (round, 0), (retry, 0)] {
        let number = other.number.0;
        let actions = stream.offer(offer(other));
        assert_eq!(marks(&actions), [(number, Mark::Clean)]);
        assert_eq!(actions.reused, reused, "of {number}");
    }
}

#[test]
fn one_id_from_another_unit_is_another_message() {
    let other = LaneId {
        unit: "sh-9".parse().unwrap(),
        ..lane(0)
    };
    let one = parcel(1, "a");
    let keys = keys();
    assert_ne!(
        keys.identities(&lane(0), &one, &keys.body(&one.body)),
        keys.identities(&other, &one, &keys.body(&one.body))
    );
    // A partition isn't part of it: their number may change.
    assert_eq!(
        keys.identities(&lane(0), &one, &keys.body(&one.body)),
        keys.identities(&lane(3), &one, &keys.body(&one.body))
    );
}

#[test]
fn an_equal_one_waits_for_the_one_that_is_being_published() {
    let mut stream = Stream::new(seen());
    stream.receiver.pace = 8;
    stream.offer(offer(parcel(1, "a")));
    let second = stream.offer(offer(parcel(2, "a")));
    assert!(second.publish.is_empty() && second.answers.is_empty());
    assert_eq!(stream.receiver.unanswered(), 2);
    stream.outcome(1, Outcome::Confirmed);
    let actions = stream.journal();
    assert_eq!(
        answers(&actions),
        [(1, &Answer::Accepted), (2, &Answer::Duplicate)]
    );
    assert!(stream.receiver.is_done());
}

#[test]
fn an_equal_one_shares_a_return() {
    let mut stream = Stream::new(seen());
    stream.receiver.pace = 8;
    stream.offer(offer(parcel(1, "a")));
    stream.offer(offer(parcel(2, "a")));
    let returned = Outcome::Returned {
        code: 312,
        text: "NO_ROUTE".to_owned(),
    };
    let actions = stream.outcome(1, returned);
    assert_eq!(
        answers(&actions),
        [(2, &Answer::Returned), (1, &Answer::Returned)]
    );
    // It is nowhere: the same message may be delivered later.
    assert_eq!(stream.offer(offer(parcel(3, "a"))).publish.len(), 1);
}

#[test]
fn what_was_sent_before_is_marked_while_another_may_have_published_it() {
    let mut known = seen();
    take(&mut known, THERE, minutes(31));
    take(&mut known, HERE, minutes(31));
    let mut stream = Stream::new(known);
    let actions = stream.offer(offer(again(1, "a")));
    assert_eq!(marks(&actions), [(1, Mark::InDoubt)]);
    assert_eq!(actions.in_doubt, 1);
    // What is sent for the first time is not in doubt.
    let actions = stream.offer(offer(parcel(2, "b")));
    assert_eq!(marks(&actions), [(2, Mark::Clean)]);
}

#[test]
fn what_was_sent_before_is_clean_where_nobody_else_can_have_published_it() {
    let mut stream = Stream::new(seen());
    let actions = stream.offer(offer(again(1, "a")));
    assert_eq!(marks(&actions), [(1, Mark::Clean)]);
    assert_eq!(actions.in_doubt, 0);
}

#[test]
fn without_an_id_all_that_was_sent_before_is_marked() {
    let mut stream = Stream::new(seen());
    stream.receiver.pace = 8;
    let mut nameless = again(1, "a");
    nameless.id = None;
    let actions = stream.offer(offer(nameless.clone()));
    assert_eq!(marks(&actions), [(1, Mark::InDoubt)]);
    let actions = stream.outcome(1, Outcome::Confirmed);
    assert_eq!(answers(&actions), [(1, &Answer::Accepted)]);
    nameless.number = ParcelNumber(2);
    nameless.sent_before = false;
    let actions = stream.offer(offer(nameless));
    assert_eq!(marks(&actions), [(2, Mark::Clean)], "no duplicate");
}

#[test]
fn what_has_an_unknown_outcome_comes_again_marked_and_nothing_else_does() {
    let mut stream = Stream::new(seen());
    stream.receiver.pace = 8;
    stream.offer(offer(parcel(1, "a")));
    stream.offer(offer(parcel(2, "b")));
    assert!(stream.outcome(1, unknown()).end.is_some());
    let unsent = Outcome::Unsent {
        cause: "it wasn't written".to_owned(),
    };
    assert!(stream.outcome(2, unsent).answers.is_empty());
    let batch = stream.receiver.to_journal().unwrap();
    assert!(matches!(&batch.records[0].fact, Fact::Doubtful(ids) if ids.len() == 1));
    stream.begin_anew();
    stream.receiver.pace = 8;
    let first = stream.offer(offer(again(1, "a")));
    assert_eq!(marks(&first), [(1, Mark::InDoubt)]);
    let second = stream.offer(offer(again(2, "b")));
    assert_eq!(marks(&second), [(2, Mark::Clean)]);
    // Confirmed now, it is in doubt no more.
    stream.outcome(1, Outcome::Confirmed);
    let third = stream.offer(offer(parcel(3, "a")));
    assert_eq!(answers(&third), [(3, &Answer::Duplicate)]);
}

#[test]
fn what_was_nacked_comes_again_marked_and_ends_the_stream() {
    let mut stream = Stream::new(seen());
    stream.offer(offer(parcel(1, "a")));
    let actions = stream.outcome(1, Outcome::Nacked);
    assert!(matches!(actions.answers[..], [(_, Answer::Later { .. })]));
    assert!(actions.end.is_some());
    stream.begin_anew();
    let actions = stream.offer(offer(again(1, "a")));
    assert_eq!(marks(&actions), [(1, Mark::InDoubt)]);
}

#[test]
fn nothing_overtakes_what_must_come_again() {
    for verdict in [
        Answer::Moved,
        Answer::Later {
            cause: "no table".to_owned(),
        },
    ] {
        let mut stream = Stream::new(seen());
        stream.receiver.pace = 8;
        let refused = Offer {
            verdict: Err(verdict.clone()),
            ..offer(parcel(1, "a"))
        };
        let actions = stream.offer(refused);
        assert_eq!(answers(&actions), [(1, &verdict)]);
        assert!(actions.end.is_some());
        assert_eq!(stream.receiver.room(), 0);
        let behind = stream.offer(offer(parcel(2, "b")));
        assert!(behind.publish.is_empty() && behind.answers.is_empty());
    }
}

#[test]
fn what_is_refused_for_good_lets_the_others_by() {
    let mut stream = Stream::new(seen());
    stream.receiver.pace = 8;
    stream.offer(offer(parcel(1, "a")));
    let too_large = Outcome::TooLarge {
        text: "17 MiB".to_owned(),
    };
    let actions = stream.outcome(1, too_large);
    assert!(matches!(actions.answers[..], [(_, Answer::Refused { .. })]));
    assert!(actions.end.is_none());
    assert_eq!(stream.offer(offer(parcel(2, "b"))).publish.len(), 1);
}

#[test]
fn a_slow_journal_gets_larger_batches_and_not_more() {
    let mut stream = Stream::new(seen());
    stream.receiver.pace = 8;
    for (number, message) in (1..).zip(["a", "b", "c", "d"]) {
        stream.offer(offer(parcel(number, message)));
    }
    let mut batches = Vec::new();
    for number in 1..=4 {
        stream.outcome(number, Outcome::Confirmed);
        batches.extend(stream.receiver.to_journal());
    }
    assert_eq!(batches.len(), BATCHES_MAX);
    // Two are waiting in one batch, and answers come with theirs.
    let mut actions = Actions::default();
    stream.receiver.journaled(batches[1].ticket, &mut actions);
    assert_eq!(actions.answers.len(), 2);
    let next = stream.receiver.to_journal().unwrap();
    assert!(matches!(&next.records[0].fact, Fact::Confirmed(ids) if ids.len() == 2));
}

#[test]
fn what_is_unanswered_is_bounded_and_grows_with_the_answers() {
    let mut stream = Stream::new(seen());
    assert_eq!(stream.receiver.room(), 1);
    stream.offer(offer(parcel(1, "a")));
    assert_eq!(stream.receiver.room(), 0);
    stream.outcome(1, Outcome::Confirmed);
    assert_eq!(stream.receiver.room(), 1, "one waits for the journal");
    stream.journal();
    assert_eq!(stream.receiver.room(), 2);
    stream.receiver.pace = UNANSWERED_MAX;
    assert_eq!(stream.receiver.room(), UNANSWERED_MAX);
}

#[test]
fn what_was_known_under_a_former_key_is_known() {
    let mut stream = Stream::new(seen());
    stream.deliver(parcel(1, "a"));
    let rotated = SealKeys::parse(
        br#"{"seal": "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", "verify": ["000102030405060708090a0b0c0d0e0f"]}"#,
    )
    .unwrap();
    let second = parcel(2, "a");
    let offer = Offer {
        identities: rotated.identities(&lane(0), &second, &rotated.body(&second.body)),
        parcel: second,
        verdict: Ok(()),
    };
    assert_eq!(answers(&stream.offer(offer)), [(2, &Answer::Duplicate)]);
}
