//! What a receiver does with a lane's parcels: a pure machine.
//!
//! Parcels, the broker's outcomes and the journal's word in; publishes, records for the journal and answers out. Promises
//! that a parcel is answered *accepted* only when the broker has confirmed it and the journal has it, *duplicate* only when
//! both hold of an equal one; that what may come a second time is published with the mark; that two equal parcels are never
//! under way at once; and, once a stream has to end, that nothing overtakes what must come again. No I/O, no clock.

mod check;
mod record;
mod seen;
#[cfg(test)]
mod tests;
mod window;

pub use check::check;
pub use record::{Entry, Fact, Life, Note, Record};
pub(super) use record::{decode_records, encode_records};
pub use seen::{Heard, IDENTITIES_MAX, Seen};
pub use window::{Known, Window};

use crate::amqp::engine::Outcome;
use crate::model::{Answer, AsItIs, Identities, Identity, LaneId, Parcel, ParcelNumber, Reason};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Parcels taken and not answered at most: 20,000 a second into a classic queue that confirms 400 ms late. Their bytes are
/// bounded by the stream's credit.
const UNANSWERED_MAX: usize = 8_192;

/// What is written into the journal in one go waits for this many others at most: while these are under way the next one
/// grows, so that a journal that is slow gets larger entries, not more of them.
const BATCHES_MAX: usize = 2;

/// How a parcel is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It is there for the first time.
    Clean,
    /// It may have been published before.
    InDoubt,
}

/// A parcel that has come, with what the shell found out about it.
#[derive(Debug)]
pub struct Offer {
    /// As it came.
    pub parcel: Parcel,
    /// By what it is known; none without an id.
    pub identities: Option<Identities>,
    /// What the table, and the broker's exchanges, say against it.
    pub verdict: Result<(), Answer>,
}

/// Something to be written into the journal, and told to [`Receiver::journaled`] when it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Ascending.
    pub ticket: u64,
    /// In order.
    pub records: Vec<Record>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Actions {
    /// To be published, in order, by the parcel's number.
    pub publish: Vec<(Parcel, Mark)>,
    /// To be said to the sender.
    pub answers: Vec<(ParcelNumber, Answer)>,
    /// The stream has to end, for this cause, once the receiver is done.
    pub end: Option<String>,
    /// Parcels that were known and not published again.
    pub duplicates: u64,
    /// Parcels under an id that another message had.
    pub reused: u64,
    /// Parcels published with the mark.
    pub in_doubt: u64,
}

/// One parcel that is being published.
#[derive(Debug)]
struct UnderWay {
    identity: Option<Identity>,
    /// Equal ones that came since: they share its outcome.
    waiting: Vec<ParcelNumber>,
}

/// Published and confirmed, not yet in the journal.
#[derive(Debug)]
struct Confirmed {
    identity: Identity,
    number: ParcelNumber,
    waiting: Vec<ParcelNumber>,
}

/// What becomes of a parcel that the broker refuses because a queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// It is offered again.
    Waits,
    /// It is refused, for this reason.
    Refused(Reason),
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// Nothing is published any more: what is behind a parcel that must come again waits for it at the sender.
    Ending,
}

/// One stream of one lane. See the file's head.
#[derive(Debug)]
pub struct Receiver {
    lane: LaneId,
    full: Full,
    stage: Stage,
    under_way: HashMap<ParcelNumber, UnderWay>,
    by_identity: HashMap<Identity, ParcelNumber, AsItIs>,
    /// How many wait for an equal one, or for the journal.
    waiting: usize,
    /// How many may be unanswered. Whatever closes the channel costs the confirms of all that is, which comes again
    /// marked. So a new stream begins with one parcel and doubles: what goes before a parcel that closes every channel is
    /// repeated once, not each time.
    pace: usize,
    confirmed: Vec<Confirmed>,
    doubtful: Vec<Identity>,
    /// In the journal's hands, oldest first.
    written: VecDeque<(u64, Vec<Confirmed>)>,
    next_ticket: u64,
}

impl Receiver {
    /// A stream that begins: nothing is under way.
    pub fn new(lane: LaneId, full: Full) -> Self {
        Self {
            lane,
            full,
            stage: Stage::Open,
            under_way: HashMap::new(),
            by_identity: HashMap::default(),
            waiting: 0,
            pace: 1,
            confirmed: Vec::new(),
            doubtful: Vec::new(),
            written: VecDeque::new(),
            next_ticket: 0,
        }
    }

    /// How many parcels may be offered now.
    pub fn room(&self) -> usize {
        match self.stage {
            Stage::Open => self.pace.saturating_sub(self.unanswered()),
            Stage::Ending => 0,
        }
    }

    /// Parcels that were taken and have no answer.
    pub fn unanswered(&self) -> usize {
        self.under_way.len() + self.waiting
    }

    /// Whether everything has its outcome, and the journal has all of it. A stream that isn't ending may be offered more.
    pub fn is_done(&self) -> bool {
        self.under_way.is_empty()
            && self.confirmed.is_empty()
            && self.doubtful.is_empty()
            && self.written.is_empty()
    }

    /// A parcel has come. One that is behind another that must come again is passed over: it will come again behind it.
    pub fn offer(&mut self, seen: &Seen, offer: Offer, actions: &mut Actions) {
        match self.stage {
            Stage::Open => {}
            Stage::Ending => return,
        }
        let Offer {
            parcel,
            identities,
            verdict,
        } = offer;
        let number = parcel.number;
        let known = identities.as_ref().map(|ids| seen.look_up(&self.lane, ids));
        // Before the table's word: what was delivered here is delivered, whoever owns it now.
        if known == Some(Known::Confirmed) {
            actions.duplicates += 1;
            actions.answers.push((number, Answer::Duplicate));
            return;
        }
        let identity = identities.map(|ids| ids.current);
        if let Some(first) = identity.and_then(|id| self.by_identity.get(&id)) {
            if let Some(under_way) = self.under_way.get_mut(first) {
                under_way.waiting.push(number);
                self.waiting += 1;
                return;
            }
            debug_assert!(false, "nothing under way has this identity");
        }
        if let Err(answer) = verdict {
            return self.answer(number, answer, actions);
        }
        let may_have_come = match known {
            Some(Known::Doubtful) => true,
            // Its sender doesn't know what became of it, and what was published here may not all be known.
            Some(Known::Not | Known::Reused | Known::Confirmed) => {
                parcel.sent_before && seen.has_gap(&self.lane)
            }
            // Without an id nothing is ever known of it.
            None => parcel.sent_before,
        };
        let mark = if may_have_come {
            actions.in_doubt += 1;
            Mark::InDoubt
        } else {
            Mark::Clean
        };
        if known == Some(Known::Reused) {
            actions.reused += 1;
        }
        if let Some(id) = identity {
            self.by_identity.insert(id, number);
        }
        let under_way = UnderWay {
            identity,
            waiting: Vec::new(),
        };
        let before = self.under_way.insert(number, under_way);
        debug_assert!(before.is_none(), "parcel {number} came twice");
        actions.publish.push((parcel, mark));
        self.check_invariants();
    }

    /// What has become of a publish: once for each.
    pub fn outcome(
        &mut self,
        seen: &mut Seen,
        number: ParcelNumber,
        outcome: Outcome,
        at: Duration,
        actions: &mut Actions,
    ) {
        let Some(UnderWay { identity, waiting }) = self.under_way.remove(&number) else {
            debug_assert!(false, "an outcome of nothing: {number}");
            return;
        };
        if let Some(id) = identity {
            self.by_identity.remove(&id);
        }
        self.pace = (self.pace + 1).min(UNANSWERED_MAX);
        let answer = match outcome {
            Outcome::Confirmed => {
                let Some(identity) = identity else {
                    return self.answer(number, Answer::Accepted, actions);
                };
                seen.confirm(&self.lane, identity, at);
                self.waiting += 1;
                self.confirmed.push(Confirmed {
                    identity,
                    number,
                    waiting,
                });
                return self.check_invariants();
            }
            Outcome::Returned { .. } => Answer::Returned,
            // A queue beside the one that refuses may have taken it.
            Outcome::Nacked => {
                self.doubt(seen, identity, at);
                let cause = "the broker refused it (nack): a queue that is full rejects publishes";
                let cause = cause.to_owned();
                match self.full {
                    Full::Waits => Answer::Later { cause },
                    Full::Refused(reason) => Answer::Refused { reason, cause },
                }
            }
            Outcome::TooLarge { text } => Answer::Refused {
                reason: Reason::TooLarge,
                cause: text,
            },
            Outcome::Unencodable { text } => Answer::Refused {
                reason: Reason::Malformed,
                cause: text,
            },
            // No answer: the sender sends it again on its next stream.
            Outcome::Unknown { cause } => {
                self.doubt(seen, identity, at);
                self.waiting -= waiting.len();
                return self.end(cause, actions);
            }
            Outcome::Unsent { cause } => {
                self.waiting -= waiting.len();
                return self.end(cause, actions);
            }
        };
        for equal in waiting {
            self.waiting -= 1;
            self.answer(equal, answer.clone(), actions);
        }
        self.answer(number, answer, actions);
    }

    /// What is to be written into the journal next, if anything is and it may be.
    pub fn to_journal(&mut self) -> Option<Batch> {
        if self.written.len() >= BATCHES_MAX {
            return None;
        }
        if self.confirmed.is_empty() && self.doubtful.is_empty() {
            return None;
        }
        let confirmed = std::mem::take(&mut self.confirmed);
        let ids: Vec<_> = confirmed.iter().map(|one| one.identity).collect();
        let facts = [
            (!ids.is_empty()).then_some(Fact::Confirmed(ids)),
            (!self.doubtful.is_empty()).then(|| Fact::Doubtful(std::mem::take(&mut self.doubtful))),
        ];
        let records = facts.into_iter().flatten().map(|fact| Record {
            lane: self.lane.clone(),
            fact,
        });
        let batch = Batch {
            ticket: self.next_ticket,
            records: records.collect(),
        };
        self.next_ticket += 1;
        self.written.push_back((batch.ticket, confirmed));
        Some(batch)
    }

    /// The journal has this batch, and all before it.
    pub fn journaled(&mut self, ticket: u64, actions: &mut Actions) {
        while let Some((oldest, _)) = self.written.front() {
            if *oldest > ticket {
                break;
            }
            let Some((_, confirmed)) = self.written.pop_front() else {
                break;
            };
            for Confirmed {
                number, waiting, ..
            } in confirmed
            {
                self.waiting -= 1 + waiting.len();
                actions.answers.push((number, Answer::Accepted));
                actions.duplicates += waiting.len() as u64;
                let equal = waiting
                    .into_iter()
                    .map(|number| (number, Answer::Duplicate));
                actions.answers.extend(equal);
            }
        }
        self.check_invariants();
    }

    /// Whatever the cause, no more parcels are taken; what is under way is still waited for.
    pub fn stop(&mut self) {
        self.stage = Stage::Ending;
    }

    fn doubt(&mut self, seen: &mut Seen, identity: Option<Identity>, at: Duration) {
        if let Some(id) = identity {
            seen.doubt(&self.lane, id, at);
            self.doubtful.push(id);
        }
    }

    /// Says it; one that must come again ends the stream.
    fn answer(&mut self, number: ParcelNumber, answer: Answer, actions: &mut Actions) {
        match &answer {
            Answer::Later { cause } => self.end(cause.clone(), actions),
            Answer::Moved => {
                let cause = "a slot has another seat by the table here, which is newer";
                self.end(cause.to_owned(), actions);
            }
            Answer::Accepted | Answer::Duplicate | Answer::Returned | Answer::Refused { .. } => {}
        }
        actions.answers.push((number, answer));
        self.check_invariants();
    }

    fn end(&mut self, cause: String, actions: &mut Actions) {
        self.stop();
        actions.end.get_or_insert(cause);
    }

    fn check_invariants(&self) {
        debug_assert!(self.by_identity.len() <= self.under_way.len());
        debug_assert!(self.written.len() <= BATCHES_MAX);
        // A walk over all that is unanswered, for each parcel: too much but for the machine's own tests.
        if cfg!(test) {
            let confirmed = self
                .written
                .iter()
                .flat_map(|(_, confirmed)| confirmed)
                .chain(&self.confirmed)
                .map(|one| 1 + one.waiting.len());
            let equal = self.under_way.values().map(|one| one.waiting.len());
            debug_assert_eq!(self.waiting, confirmed.chain(equal).sum::<usize>());
        }
    }
}
