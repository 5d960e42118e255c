//! One lane, two gateways that receive it in turn, a broker and a journal, and every fault between two steps.
//!
//! Whatever happens: nothing is lost, nothing is answered that isn't stored, and no second copy comes without its mark.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What happens next; what can't, doesn't.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The sender has another message.
    Send,
    /// The publisher sends one again that it has sent before.
    Resend(u64),
    /// The broker confirms the oldest publish.
    Confirm,
    /// The oldest batch gets into the journal, and is answered.
    Journal,
    /// As much of what was published is stored, then its gateway is killed.
    Kill { stored: usize },
    /// As much of what was published is stored, then the broker's connection breaks.
    Break { stored: usize },
    /// The stream breaks: no answer gets through any more.
    Cut,
    /// The stream begins at one of the gateways, with all that is unanswered.
    Begin { at: usize },
    /// A gateway reads what is in the journal.
    Follow { at: usize },
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Send),
        1 => any::<u64>().prop_map(Step::Resend),
        5 => Just(Step::Confirm),
        4 => Just(Step::Journal),
        1 => (0..6_usize).prop_map(|stored| Step::Kill { stored }),
        1 => (0..6_usize).prop_map(|stored| Step::Break { stored }),
        1 => Just(Step::Cut),
        3 => (0..2_usize).prop_map(|at| Step::Begin { at }),
        1 => (0..2_usize).prop_map(|at| Step::Follow { at }),
    ]
}

struct Gateway {
    seen: Seen,
    /// How far it has read.
    read: usize,
}

impl Gateway {
    /// It reads the journal from its beginning, so that the lane has no gap but those that the faults make.
    fn new(life: u64) -> Self {
        let mut seen = Seen::new(Life(life), IDENTITIES_MAX);
        seen.begins();
        Self { seen, read: 0 }
    }
}

/// The stream that is open, and the connection that holds the lock.
struct Stream {
    at: usize,
    receiver: Receiver,
    /// Published, not confirmed.
    in_broker: VecDeque<(ParcelNumber, u64, Mark)>,
    to_journal: VecDeque<Batch>,
}

struct World {
    now: Duration,
    lives: u64,
    gateways: [Gateway; 2],
    journal: Vec<Entry>,
    stream: Option<Stream>,
    next_message: u64,
    next_number: u64,
    /// At the sender: message, and its number on the stream that is open.
    unanswered: VecDeque<(u64, ParcelNumber)>,
    stored: Vec<(u64, Mark)>,
}

impl World {
    fn new() -> Self {
        Self {
            now: minutes(0),
            lives: 2,
            gateways: [1, 2].map(Gateway::new),
            journal: Vec::new(),
            stream: None,
            next_message: 0,
            next_number: 0,
            unanswered: VecDeque::new(),
            stored: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        self.now += Duration::from_millis(100);
        match step {
            Step::Send => {
                if self.room() {
                    let message = self.next_message;
                    self.next_message += 1;
                    self.send(message, false);
                }
            }
            Step::Resend(any) => {
                if self.room() && self.next_message > 0 {
                    self.send(any % self.next_message, false);
                }
            }
            Step::Confirm => self.confirm(),
            Step::Journal => self.write(),
            Step::Kill { stored } => self.kill(stored),
            Step::Break { stored } => self.break_connection(stored),
            Step::Cut => self.finish(),
            Step::Begin { at } => self.begin(at),
            Step::Follow { at } => self.follow(at),
        }
    }

    fn room(&self) -> bool {
        self.stream
            .as_ref()
            .is_some_and(|stream| stream.receiver.room() > 0)
    }

    fn send(&mut self, message: u64, sent_before: bool) {
        let number = ParcelNumber(self.next_number);
        self.next_number += 1;
        self.unanswered.push_back((message, number));
        let id = Bytes::from(message.to_string());
        let parcel = Parcel {
            number,
            id: Some(MessageId(id.clone())),
            body: id,
            sent_before,
            ..parcel(0, "")
        };
        let Some(stream) = &mut self.stream else {
            return;
        };
        let mut actions = Actions::default();
        let seen = &self.gateways[stream.at].seen;
        stream.receiver.offer(seen, offer(parcel), &mut actions);
        for (parcel, mark) in std::mem::take(&mut actions.publish) {
            stream.in_broker.push_back((parcel.number, message, mark));
        }
        self.answered(&actions);
    }

    fn answered(&mut self, actions: &Actions) {
        for (number, answer) in &actions.answers {
            let at = self.unanswered.iter().position(|(_, one)| one == number);
            let (message, _) = self.unanswered.remove(at.unwrap()).unwrap();
            let stored = self.stored.iter().any(|(one, _)| *one == message);
            assert!(
                stored,
                "{message} is answered {answer:?} and stored nowhere"
            );
        }
    }

    fn outcome(&mut self, number: ParcelNumber, outcome: Outcome) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let mut actions = Actions::default();
        let seen = &mut self.gateways[stream.at].seen;
        stream
            .receiver
            .outcome(seen, number, outcome, self.now, &mut actions);
        stream.to_journal.extend(stream.receiver.to_journal());
        self.answered(&actions);
    }

    fn confirm(&mut self) {
        let front = self
            .stream
            .as_mut()
            .and_then(|stream| stream.in_broker.pop_front());
        if let Some((number, message, mark)) = front {
            self.stored.push((message, mark));
            self.outcome(number, Outcome::Confirmed);
        }
    }

    fn write(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let Some(Batch { ticket, records }) = stream.to_journal.pop_front() else {
            return;
        };
        let life = self.gateways[stream.at].seen.life();
        self.journal.push(Entry {
            records,
            ..entry(life, self.now, Vec::new())
        });
        let mut actions = Actions::default();
        stream.receiver.journaled(ticket, &mut actions);
        stream.to_journal.extend(stream.receiver.to_journal());
        self.answered(&actions);
    }

    fn store(&mut self, stored: usize) -> VecDeque<(ParcelNumber, u64, Mark)> {
        let Some(stream) = &mut self.stream else {
            return VecDeque::new();
        };
        let in_broker = std::mem::take(&mut stream.in_broker);
        let these = in_broker.iter().take(stored);
        self.stored
            .extend(these.map(|(_, message, mark)| (*message, *mark)));
        in_broker
    }

    fn kill(&mut self, stored: usize) {
        self.store(stored);
        if let Some(stream) = self.stream.take() {
            self.lives += 1;
            self.gateways[stream.at] = Gateway::new(self.lives);
        }
    }

    fn break_connection(&mut self, stored: usize) {
        for (number, _, _) in self.store(stored) {
            let cause = "the connection broke".to_owned();
            self.outcome(number, Outcome::Unknown { cause });
        }
        self.finish();
    }

    /// The stream ends in order: everything has its outcome and is in the journal before the lock is free. What would be
    /// answered is, to a sender that may be there or not.
    fn finish(&mut self) {
        loop {
            let Some(stream) = &mut self.stream else {
                return;
            };
            stream.receiver.stop();
            if !stream.in_broker.is_empty() {
                self.confirm();
            } else if !stream.to_journal.is_empty() {
                self.write();
            } else {
                break;
            }
        }
        if let Some(stream) = self.stream.take() {
            assert!(stream.receiver.is_done());
            let life = self.gateways[stream.at].seen.life();
            self.journal
                .push(entry(life, self.now, vec![Fact::Released]));
        }
    }

    fn begin(&mut self, at: usize) {
        if self.stream.is_some() {
            return;
        }
        let life = self.gateways[at].seen.life();
        let token = self.now.subsec_nanos().into();
        self.journal
            .push(entry(life, self.now, vec![Fact::Taken { token }]));
        self.follow(at);
        let mut receiver = Receiver::new(lane(0), Full::Waits);
        receiver.pace = 64;
        self.stream = Some(Stream {
            at,
            receiver,
            in_broker: VecDeque::new(),
            to_journal: VecDeque::new(),
        });
        for (message, _) in std::mem::take(&mut self.unanswered) {
            self.send(message, true);
        }
    }

    fn follow(&mut self, at: usize) {
        let gateway = &mut self.gateways[at];
        for entry in &self.journal[gateway.read..] {
            gateway.seen.apply(entry, self.now);
        }
        gateway.read = self.journal.len();
    }

    /// No more faults: everything is delivered.
    fn end(&mut self) {
        self.finish();
        self.begin(0);
        self.finish();
        assert!(self.unanswered.is_empty());
        let mut copies: BTreeMap<u64, Vec<Mark>> = BTreeMap::new();
        for (message, mark) in &self.stored {
            copies.entry(*message).or_default().push(*mark);
        }
        assert_eq!(copies.len() as u64, self.next_message, "some are lost");
        for (message, marks) in copies {
            let unmarked = marks[1..].contains(&Mark::Clean);
            assert!(
                !unmarked,
                "a second copy of {message} has no mark: {marks:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nothing_is_lost_and_no_second_copy_comes_without_its_mark(
        steps in proptest::collection::vec(a_step(), 1..120)
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.end();
    }
}
