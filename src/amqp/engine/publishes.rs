//! What was published on a channel and is not yet answered.
//!
//! Owns the numbering of publishes from `confirm.select` on, and the pairing of confirms and returns with them. Promises
//! one outcome for each publish: a confirm settles a number once, a return waits for the confirm of its own publish.
//! Sources: RabbitMQ's publisher confirms (numbers count from 1 per channel, `multiple` covers all up to a number) and
//! its `rabbit_channel`, which sends the return of a publish before its confirm.

use super::command::PublishId;
use super::event::Outcome;
use super::fault::{Code, Fault};
use crate::amqp::RawProperties;
use bytes::Bytes;
use std::collections::VecDeque;

/// How many slots are kept before settled ones between unanswered ones are taken out.
const SLOTS_KEPT: usize = 64;

/// See the file's head.
#[derive(Debug, Default)]
pub(super) struct Publishes {
    /// The number of the last publish; 0 before the first.
    last: u64,
    /// By number, ascending. The first one is unanswered, or there is none.
    slots: VecDeque<Slot>,
    /// How many of them are.
    unanswered: usize,
}

#[derive(Debug)]
struct Slot {
    number: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Sent {
        id: PublishId,
        token: Option<Token>,
    },
    Returned {
        id: PublishId,
        code: u16,
        text: String,
    },
    Settled,
}

/// A token with some of its bytes at hand, so that a look through many publishes reads no memory of each.
#[derive(Debug)]
pub(super) struct Token {
    glance: u64,
    kind: u8,
    bytes: Bytes,
}

impl Token {
    /// The value of the header of this name.
    pub(super) fn of(properties: &RawProperties, name: &str) -> Option<Self> {
        let value = properties.header(name)?;
        // The last bytes are the most different ones: ids end in what is random or counts.
        let glance = match value.bytes.last_chunk::<8>() {
            Some(last) => u64::from_be_bytes(*last),
            None => value
                .bytes
                .iter()
                .fold(0, |sum, octet| sum << 8 | u64::from(*octet)),
        };
        Some(Self {
            glance,
            kind: value.kind,
            bytes: properties.share(value.bytes),
        })
    }

    fn is(&self, other: &Self) -> bool {
        self.glance == other.glance && self.kind == other.kind && self.bytes == other.bytes
    }
}

/// What a confirm says.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict {
    Ack,
    Nack,
}

impl Publishes {
    /// A publish has been sent. `token`: of a mandatory one.
    pub(super) fn sent(&mut self, id: PublishId, token: Option<Token>) {
        self.last += 1;
        self.unanswered += 1;
        self.slots.push_back(Slot {
            number: self.last,
            state: State::Sent { id, token },
        });
    }

    /// The content of a return has come with this token: it belongs to the oldest one that carries the same and hasn't
    /// been returned.
    pub(super) fn returned(&mut self, token: &Token, code: u16, text: String) -> Result<(), Fault> {
        for slot in &mut self.slots {
            match &slot.state {
                State::Sent {
                    id,
                    token: Some(sent),
                } if sent.is(token) => {
                    let id = *id;
                    slot.state = State::Returned { id, code, text };
                    return Ok(());
                }
                State::Sent { .. } | State::Returned { .. } | State::Settled => {}
            }
        }
        Err(Fault::new(
            Code::CommandInvalid,
            format!(
                "a basic.return ({code} {text}) that belongs to no unanswered mandatory publish"
            ),
        ))
    }

    /// A confirm of one number.
    ///
    /// A number that is settled already is passed over: the first answer has been told, and confirms may overlap (a
    /// `multiple` covers numbers that were answered one by one before).
    pub(super) fn confirm_one(
        &mut self,
        number: u64,
        verdict: Verdict,
        mut tell: impl FnMut(PublishId, Outcome),
    ) -> Result<(), Fault> {
        if number == 0 || number > self.last {
            return Err(self.never_sent(number));
        }
        if let Some(at) = self.find(number) {
            if let Some((id, outcome)) = self.slots[at].settle(verdict) {
                self.unanswered -= 1;
                tell(id, outcome);
            }
            self.tidy();
        }
        Ok(())
    }

    /// A confirm of all up to a number; of all when it is 0 (specification, `delivery-tag` of `basic.ack`).
    pub(super) fn confirm_up_to(
        &mut self,
        number: u64,
        verdict: Verdict,
        mut tell: impl FnMut(PublishId, Outcome),
    ) -> Result<(), Fault> {
        if number > self.last {
            return Err(self.never_sent(number));
        }
        let up_to = if number == 0 { self.last } else { number };
        while let Some(slot) = self.slots.front_mut() {
            if slot.number > up_to {
                break;
            }
            if let Some((id, outcome)) = slot.settle(verdict) {
                self.unanswered -= 1;
                tell(id, outcome);
            }
            self.slots.pop_front();
        }
        self.tidy();
        Ok(())
    }

    /// The channel is no more: what was returned is known to be so, of the rest nothing is known.
    pub(super) fn end(&mut self, cause: &str, mut tell: impl FnMut(PublishId, Outcome)) {
        for slot in self.slots.drain(..) {
            match slot.state {
                State::Sent { id, .. } => tell(
                    id,
                    Outcome::Unknown {
                        cause: cause.to_owned(),
                    },
                ),
                State::Returned { id, code, text } => tell(id, Outcome::Returned { code, text }),
                State::Settled => {}
            }
        }
        self.unanswered = 0;
    }

    /// Where a number is. As long as no slot was taken out between others, it lies as far behind the first one as its
    /// number does; else somewhere before that.
    fn find(&self, number: u64) -> Option<usize> {
        let first = self.slots.front()?.number;
        let behind = usize::try_from(number.checked_sub(first)?).ok()?;
        match self.slots.get(behind) {
            Some(slot) if slot.number == number => Some(behind),
            Some(_) | None => self
                .slots
                .binary_search_by_key(&number, |slot| slot.number)
                .ok(),
        }
    }

    /// Settled slots go when they are in front; between unanswered ones when they are most of all. So one publish that
    /// stays unanswered while millions come and go keeps nothing else, and each slot is moved a bounded number of times.
    fn tidy(&mut self) {
        while let Some(Slot {
            state: State::Settled,
            ..
        }) = self.slots.front()
        {
            self.slots.pop_front();
        }
        if self.slots.len() > SLOTS_KEPT && self.slots.len() / 4 > self.unanswered {
            self.slots.retain(|slot| match slot.state {
                State::Sent { .. } | State::Returned { .. } => true,
                State::Settled => false,
            });
        }
    }

    fn never_sent(&self, number: u64) -> Fault {
        Fault::new(
            Code::CommandInvalid,
            format!(
                "a confirm of publish {number}, where {} have been sent",
                self.last
            ),
        )
    }

    pub(super) fn check_invariants(&self) {
        debug_assert!(
            !self
                .slots
                .front()
                .is_some_and(|slot| matches!(slot.state, State::Settled)),
            "a settled publish in front"
        );
        debug_assert!(self.unanswered <= self.slots.len());
        debug_assert!(
            self.slots.len() <= SLOTS_KEPT + 4 * self.unanswered + 3,
            "{} slots for {} unanswered publishes",
            self.slots.len(),
            self.unanswered
        );
    }
}

impl Slot {
    /// Takes the outcome out, unless it has been.
    fn settle(&mut self, verdict: Verdict) -> Option<(PublishId, Outcome)> {
        match std::mem::replace(&mut self.state, State::Settled) {
            State::Sent { id, .. } => {
                let outcome = match verdict {
                    Verdict::Ack => Outcome::Confirmed,
                    Verdict::Nack => Outcome::Nacked,
                };
                Some((id, outcome))
            }
            State::Returned { id, code, text } => Some((id, Outcome::Returned { code, text })),
            State::Settled => None,
        }
    }
}
