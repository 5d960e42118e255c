//! Parcels of one lane for one target, until the target has answered them.
//!
//! Promises that parcels leave in the order in which they were offered, within the target's credit, and that after a
//! stream was lost all that is unanswered leaves again, in order, marked as perhaps sent before. Holds no more than its
//! lane's ledger lets in. Diversion will stand between this and the lane.

use super::envelope::Admitted;
use super::expiration::remaining;
use super::ledger::EntryId;
use crate::amqp::{Edit, TextProperty};
use crate::model::{Answer, Parcel, ParcelNumber, RuleName};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Where a parcel came from, for the case that it can't be delivered.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) admitted: Arc<Admitted>,
    pub(super) rule: Option<RuleName>,
}

#[derive(Debug)]
pub(super) struct Offered {
    pub(super) entry: EntryId,
    pub(super) parcel: Parcel,
    pub(super) taken: Instant,
    /// Absent on what goes to the park.
    pub(super) origin: Option<Origin>,
}

/// Whether there is a stream to the target.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stream {
    Down {
        cause: String,
    },
    Up {
        credit_bytes: usize,
        credit_parcels: usize,
    },
    /// The target said *later*: nothing more is sent until a new stream.
    Closing {
        cause: String,
    },
}

/// See the file's head.
#[derive(Debug)]
pub struct Outlet {
    stream: Stream,
    /// By number, from `first` on; answered ones in the middle are `None`.
    parcels: VecDeque<Option<Offered>>,
    first: u64,
    /// How many of `parcels`, from the front, this stream has been given.
    sent: usize,
    unanswered: usize,
    /// Of those, sent on this stream.
    sent_unanswered: usize,
    sent_bytes: usize,
}

/// What a status page says of an outlet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutletView {
    /// Parcels offered and not answered.
    pub unanswered: usize,
    /// When the oldest of them was taken.
    pub oldest: Option<Instant>,
    /// Why nothing moves, if nothing does.
    pub cause: Option<String>,
}

impl Outlet {
    /// Without a stream yet.
    pub(super) fn new() -> Self {
        Self {
            stream: Stream::Down {
                cause: "opening".to_owned(),
            },
            parcels: VecDeque::new(),
            first: 1,
            sent: 0,
            unanswered: 0,
            sent_unanswered: 0,
            sent_bytes: 0,
        }
    }

    /// The number that the next parcel will have.
    pub(super) fn next_number(&self) -> ParcelNumber {
        ParcelNumber(self.first + self.parcels.len() as u64)
    }

    pub(super) fn offer(&mut self, offered: Offered) {
        debug_assert_eq!(offered.parcel.number, self.next_number());
        self.parcels.push_back(Some(offered));
        self.unanswered += 1;
    }

    /// There is a stream: everything unanswered is to be sent on it.
    pub(super) fn up(&mut self, credit_bytes: usize, credit_parcels: usize) {
        self.rewind();
        self.stream = Stream::Up {
            credit_bytes,
            credit_parcels,
        };
    }

    /// There is none any more.
    pub(super) fn down(&mut self, cause: String) {
        self.rewind();
        // The cause of a *later* says more than the end of the stream that it brought about.
        let cause = match std::mem::replace(
            &mut self.stream,
            Stream::Down {
                cause: String::new(),
            },
        ) {
            Stream::Closing { cause } => cause,
            Stream::Down { .. } | Stream::Up { .. } => cause,
        };
        self.stream = Stream::Down { cause };
    }

    fn rewind(&mut self) {
        for offered in self.parcels.iter_mut().take(self.sent).flatten() {
            offered.parcel.sent_before = true;
        }
        self.sent = 0;
        self.sent_unanswered = 0;
        self.sent_bytes = 0;
    }

    /// The next parcel that may be sent now, its expiration counted down to now.
    pub(super) fn next_to_send(&mut self, now: Instant) -> Option<Parcel> {
        let Stream::Up {
            credit_bytes,
            credit_parcels,
        } = self.stream
        else {
            return None;
        };
        while matches!(self.parcels.get(self.sent), Some(None)) {
            self.sent += 1;
        }
        let offered = self.parcels.get(self.sent)?.as_ref()?;
        let cost = offered.parcel.cost_bytes();
        let room = self.sent_unanswered == 0
            || (self.sent_unanswered < credit_parcels && self.sent_bytes + cost <= credit_bytes);
        if !room {
            return None;
        }
        let mut parcel = offered.parcel.clone();
        if let Some(expiration) = offered.parcel.properties.text(TextProperty::Expiration) {
            let held = now.saturating_duration_since(offered.taken);
            let left = remaining(expiration, held);
            let mut edit = Edit::new();
            edit.set_text(TextProperty::Expiration, &left);
            // What has been stamped can be edited: it stays as it is for the compiler alone.
            if let Ok(properties) = edit.apply(&offered.parcel.properties) {
                parcel.properties = properties;
            }
        }
        self.sent += 1;
        self.sent_unanswered += 1;
        self.sent_bytes += cost;
        Some(parcel)
    }

    /// Takes the target's word on one parcel. Gives the parcel back when that word is final; *later* leaves it where it
    /// is and closes the stream. Words on unknown or unsent numbers count for nothing.
    pub(super) fn answer(&mut self, number: ParcelNumber, answer: &Answer) -> Option<Offered> {
        let index = usize::try_from(number.0.checked_sub(self.first)?).ok()?;
        if index >= self.sent {
            return None;
        }
        let place = self.parcels.get_mut(index)?;
        place.as_ref()?;
        match answer {
            // A moved one is routed anew once seats can move; until then the receiver only has another table.
            Answer::Later { .. } | Answer::Moved => {
                let cause = match answer {
                    Answer::Later { cause } => cause.clone(),
                    _ => "the target's table gives the slot to another unit".to_owned(),
                };
                self.stream = Stream::Closing { cause };
                return None;
            }
            Answer::Accepted | Answer::Duplicate | Answer::Returned | Answer::Refused { .. } => {}
        }
        let offered = place.take()?;
        self.unanswered -= 1;
        self.sent_unanswered -= 1;
        self.sent_bytes -= offered.parcel.cost_bytes();
        while matches!(self.parcels.front(), Some(None)) {
            self.parcels.pop_front();
            self.first += 1;
            self.sent -= 1;
        }
        Some(offered)
    }

    /// Whether the stream has to be given up.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self.stream, Stream::Closing { .. })
    }

    /// Parcels offered and not answered.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// For the status page.
    pub fn view(&self) -> OutletView {
        let cause = match &self.stream {
            Stream::Down { cause } | Stream::Closing { cause } => Some(cause.clone()),
            Stream::Up { .. } => None,
        };
        OutletView {
            unanswered: self.unanswered,
            oldest: self
                .parcels
                .iter()
                .flatten()
                .map(|offered| offered.taken)
                .next(),
            cause,
        }
    }

    pub(super) fn check_invariants(&self) {
        debug_assert_eq!(self.unanswered, self.parcels.iter().flatten().count());
        debug_assert!(self.sent <= self.parcels.len());
        debug_assert_eq!(
            self.sent_unanswered,
            self.parcels.iter().take(self.sent).flatten().count()
        );
    }
}
