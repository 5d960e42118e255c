//! Parcels of one lane for one target, until the target has answered them.
//!
//! Promises that parcels leave in the order in which they were offered, within the target's credit, that after a stream
//! was lost all that is unanswered leaves again, in order, marked as perhaps sent before, and that after a *later* they
//! leave singly until the one that was put off is answered. Holds no more than its lane's ledgers let in.

use super::diversion::Detour;
use super::envelope::Admitted;
use super::expiration::remaining;
use super::ledger::EntryId;
use crate::amqp::{Edit, TextProperty};
use crate::model::{Answer, Parcel, ParcelNumber, RuleName, UnitId};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A body of 16 MiB may take 4 s longer than a small one.
const MIB_ON_A_SLOW_WIRE: Duration = Duration::from_millis(250);

/// Where a lane's deliveries come from; each has a channel of its own, and a ledger.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feed {
    /// The queue that the lane takes.
    Source,
    /// The diversion of a unit.
    Diversion(UnitId),
}

/// The delivery that a parcel is owed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) feed: Feed,
    pub(super) entry: EntryId,
}

/// Where a parcel came from, for the case that it has to go elsewhere.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) admitted: Arc<Admitted>,
    pub(super) rule: Option<RuleName>,
    /// How often a receiver has said that it belongs elsewhere.
    pub(super) moves: u32,
}

#[derive(Debug)]
pub(super) struct Offered {
    /// Absent on a diversion's end marker.
    pub(super) claim: Option<Claim>,
    /// On its way into a diversion.
    pub(super) detour: Option<Detour>,
    pub(super) parcel: Parcel,
    /// When its delivery was taken.
    pub(super) taken: Instant,
    /// When it was offered here.
    pub(super) since: Instant,
    /// Absent on what goes to the park, and on a diversion's end marker.
    pub(super) origin: Option<Origin>,
}

impl Offered {
    fn waited(&self, since: Instant, now: Instant) -> Duration {
        let mib = u32::try_from(self.parcel.body.len() >> 20).unwrap_or(u32::MAX);
        let may_take = MIB_ON_A_SLOW_WIRE * mib;
        now.saturating_duration_since(since)
            .saturating_sub(may_take)
    }

    fn is_from(&self, feed: &Feed) -> bool {
        self.claim.as_ref().is_some_and(|claim| claim.feed == *feed)
    }
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
    /// The target said *later*, or is diverted: nothing more is sent until a new stream.
    Closing {
        cause: String,
    },
}

/// What of an outlet's unanswered parcels comes from the lane's own queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FromSource {
    pub(super) parcels: usize,
    pub(super) bytes: usize,
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
    from_source: FromSource,
    /// When the target last said anything.
    heard: Option<Instant>,
    /// It has said something on this stream.
    answers: bool,
    /// When it was last given something of the lane's own queue.
    offered: Option<Instant>,
    /// Put off by the target: until it is answered, nothing else is under way beside what is being sent.
    put_off: Option<ParcelNumber>,
}

/// What a status page says of an outlet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutletView {
    /// Parcels offered and not answered.
    pub unanswered: usize,
    /// When the oldest of them was taken.
    pub oldest: Option<Instant>,
    /// When the oldest of those that the lane's own queue gave was offered.
    pub waits_since: Option<Instant>,
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
            from_source: FromSource::default(),
            heard: None,
            answers: false,
            offered: None,
            put_off: None,
        }
    }

    /// Takes a parcel in, and numbers it.
    pub(super) fn offer(&mut self, mut offered: Offered) {
        offered.parcel.number = ParcelNumber(self.first + self.parcels.len() as u64);
        if offered.is_from(&Feed::Source) {
            self.offered = Some(offered.since);
            self.from_source.parcels += 1;
            self.from_source.bytes += offered.parcel.cost_bytes();
        }
        self.parcels.push_back(Some(offered));
        self.unanswered += 1;
    }

    /// There is a stream: everything unanswered is to be sent on it.
    pub(super) fn up(&mut self, credit_bytes: usize, credit_parcels: usize) {
        self.rewind();
        self.answers = false;
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

    /// Gives the stream up. True when there was one that is not being given up already.
    pub(super) fn close(&mut self, cause: &str) -> bool {
        let open = matches!(self.stream, Stream::Up { .. });
        if open {
            self.stream = Stream::Closing {
                cause: cause.to_owned(),
            };
        }
        open
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
        let credit_parcels = match self.put_off {
            Some(_) => 1,
            None => credit_parcels,
        };
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
        self.parcels.get(index)?.as_ref()?;
        match answer {
            Answer::Later { cause } => {
                // One behind another that was put off is behind it still.
                self.put_off = Some(self.put_off.map_or(number, |first| first.min(number)));
                self.stream = Stream::Closing {
                    cause: cause.clone(),
                };
                return None;
            }
            Answer::Accepted
            | Answer::Duplicate
            | Answer::Moved
            | Answer::Returned
            | Answer::Refused { .. } => {}
        }
        if self.put_off == Some(number) {
            self.put_off = None;
        }
        self.remove(index)
    }

    /// Takes one out, wherever it is.
    fn remove(&mut self, index: usize) -> Option<Offered> {
        let offered = self.parcels.get_mut(index)?.take()?;
        self.unanswered -= 1;
        if index < self.sent {
            self.sent_unanswered -= 1;
            self.sent_bytes -= offered.parcel.cost_bytes();
        }
        if offered.is_from(&Feed::Source) {
            self.from_source.parcels -= 1;
            self.from_source.bytes -= offered.parcel.cost_bytes();
        }
        while matches!(self.parcels.front(), Some(None)) {
            self.parcels.pop_front();
            self.first += 1;
            self.sent = self.sent.saturating_sub(1);
        }
        Some(offered)
    }

    /// Takes out all that was fed by `feed`, in order. What this stream was given is marked as perhaps sent.
    pub(super) fn take_out(&mut self, feed: &Feed) -> Vec<Offered> {
        self.take_out_where(|one| one.is_from(feed))
    }

    /// As [`take_out`](Self::take_out), all that is like this.
    pub(super) fn take_out_where(&mut self, like: impl Fn(&Offered) -> bool) -> Vec<Offered> {
        let numbers: Vec<_> = (self.first..)
            .zip(&self.parcels)
            .filter(|(_, place)| place.as_ref().is_some_and(&like))
            .map(|(number, _)| number)
            .collect();
        let mut out = Vec::with_capacity(numbers.len());
        for number in numbers {
            let index = usize::try_from(number - self.first).unwrap_or(usize::MAX);
            let was_sent = index < self.sent;
            if self.put_off == Some(ParcelNumber(number)) {
                self.put_off = None;
            }
            if let Some(mut offered) = self.remove(index) {
                offered.parcel.sent_before |= was_sent;
                out.push(offered);
            }
        }
        out
    }

    /// What of it comes from the lane's own queue.
    pub(super) fn of_source(&self) -> FromSource {
        self.from_source
    }

    /// Whether the lane's own queue has given something for it within this time.
    pub(super) fn is_wanted(&self, within: Duration, now: Instant) -> bool {
        let recent = |offered| now.saturating_duration_since(offered) < within;
        self.offered.is_some_and(recent)
    }

    /// When the oldest of those was offered.
    pub(super) fn oldest_from_source(&self) -> Option<Instant> {
        self.oldest_of_source().map(|one| one.since)
    }

    /// The target says something.
    pub(super) fn hears(&mut self, now: Instant) {
        self.heard = Some(now);
        self.answers = true;
    }

    /// How long the target has said nothing while that waited, beyond what a body of its size may take on a slow wire.
    pub(super) fn silent(&self, now: Instant) -> Option<Duration> {
        let oldest = self.oldest_of_source()?;
        let since = self
            .heard
            .map_or(oldest.since, |heard| heard.max(oldest.since));
        Some(oldest.waited(since, now))
    }

    /// How long that has waited, beyond the same.
    pub(super) fn overdue(&self, now: Instant) -> Option<Duration> {
        let oldest = self.oldest_of_source()?;
        Some(oldest.waited(oldest.since, now))
    }

    fn oldest_of_source(&self) -> Option<&Offered> {
        if self.from_source.parcels == 0 {
            return None;
        }
        let mut offered = self.parcels.iter().flatten();
        offered.find(|one| one.is_from(&Feed::Source))
    }

    /// An unanswered parcel.
    pub(super) fn get(&self, number: ParcelNumber) -> Option<&Offered> {
        let index = usize::try_from(number.0.checked_sub(self.first)?).ok()?;
        self.parcels.get(index)?.as_ref()
    }

    /// Whether all that was offered is answered.
    pub(super) fn is_empty(&self) -> bool {
        self.unanswered == 0
    }

    /// How many unanswered parcels are like this.
    pub(super) fn count(&self, like: impl Fn(&Parcel) -> bool) -> usize {
        let offered = self.parcels.iter().flatten();
        offered.filter(|one| like(&one.parcel)).count()
    }

    /// How many of those that the lane's own queue gave are.
    pub(super) fn count_of_source(&self, like: impl Fn(&Parcel) -> bool) -> usize {
        let offered = self.parcels.iter().flatten();
        offered
            .filter(|one| one.is_from(&Feed::Source) && like(&one.parcel))
            .count()
    }

    /// How many are owed to deliveries.
    pub(super) fn claimed(&self) -> usize {
        let offered = self.parcels.iter().flatten();
        offered.filter(|one| one.claim.is_some()).count()
    }

    /// Whether there is a stream on which it has answered. One that has only just begun opens a channel and takes a lock first.
    pub(super) fn answers(&self) -> bool {
        self.is_up() && self.answers
    }

    /// Whether there is a stream that is not being given up.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.stream, Stream::Up { .. })
    }

    /// Whether the stream has to be given up.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self.stream, Stream::Closing { .. })
    }

    /// Why there is no stream.
    pub(super) fn cause(&self) -> Option<&str> {
        match &self.stream {
            Stream::Down { cause } | Stream::Closing { cause } => Some(cause),
            Stream::Up { .. } => None,
        }
    }

    /// For the status page.
    pub fn view(&self) -> OutletView {
        OutletView {
            unanswered: self.unanswered,
            oldest: self
                .parcels
                .iter()
                .flatten()
                .map(|offered| offered.taken)
                .next(),
            waits_since: self.oldest_from_source(),
            cause: self.cause().map(str::to_owned),
        }
    }

    pub(super) fn check_invariants(&self) {
        let there = || self.parcels.iter().flatten();
        debug_assert_eq!(self.unanswered, there().count());
        debug_assert!(self.sent <= self.parcels.len());
        debug_assert_eq!(
            self.sent_unanswered,
            self.parcels.iter().take(self.sent).flatten().count()
        );
        debug_assert_eq!(
            self.from_source.parcels,
            there().filter(|one| one.is_from(&Feed::Source)).count()
        );
    }
}
