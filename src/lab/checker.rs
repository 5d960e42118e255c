//! The account of what was published and what arrived: lost, doubled, overtaken, astray.
//!
//! Owns what is known of every message of one run, some eight bytes each. Promises that each fault is counted by the
//! definition that `setgate-lab traffic` prints, whatever the order of events. Pure: knows no broker, no clock, and
//! nothing of how gateways decide; whether a unit owns a key is told to it.

use crate::model::Epoch;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;

/// Units that one account can tell apart: a bit of a 16-bit mask each. The largest fabric of the lab has five.
pub const UNITS_MAX: usize = 16;

/// Messages of one account. Eight bytes each and their bookkeeping: 10 million take about 100 MiB.
pub const MESSAGES_MAX: u64 = 10_000_000;

/// Keys of one account. A track per key and publishing unit takes some 100 bytes: 16 units make that 160 MiB at most.
pub const KEYS_MAX: u32 = 100_000;

/// Epochs remembered per key. A key's owner changes a few times in a run; what is older can't be in any queue.
const EPOCHS_PER_KEY_MAX: usize = 8;

/// Latencies are told apart up to an hour; what took longer counts as that. The histogram clamps to its bounds and never
/// grows by itself, so the bound is given from the start; three digits up to an hour take 200 KiB.
const LATENCY_MICROS_MAX: u64 = 3_600_000_000;

/// A unit of the run, by its place in the list of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitIndex(pub u8);

/// A key of the run, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyIndex(pub u32);

/// A message's number among those that one unit publishes under one key, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(pub u32);

/// One message of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag {
    /// The unit in which it was published.
    pub publisher: UnitIndex,
    /// Its key.
    pub key: KeyIndex,
    /// Its number under that key.
    pub number: Number,
}

/// Where a message of the run should arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Once, in one unit: routes `owner`, `center`, `local`, …
    Once,
    /// Once in each of these units: route `shared`.
    OnceIn(Vec<UnitIndex>),
}

/// Whether a delivery carries `x-set-in-doubt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It doesn't: a repetition of it is a fault.
    Clean,
    /// It does: it may be a repetition, and says so.
    InDoubt,
}

/// Whether the application's broker says that it handed this delivery out before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    /// For the first time.
    First,
    /// Again, after a consumer's connection was lost.
    Again,
}

/// What is known of the right of a unit to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It belongs there.
    Right,
    /// Another unit owns it.
    Wrong,
    /// Nothing was there to judge by.
    Unjudged,
}

/// One delivery to an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// What arrived.
    pub tag: Tag,
    /// Where.
    pub unit: UnitIndex,
    /// As marked.
    pub mark: Mark,
    /// As flagged.
    pub handed: Handed,
    /// By the ownership of its key.
    pub place: Place,
    /// Under which its key's owner was looked up; `None` where it didn't go to an owner.
    pub epoch: Option<Epoch>,
    /// From publish to delivery.
    pub latency: Duration,
}

/// Why an account can't be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckerError {
    /// More than a mask holds, or none.
    #[error("an account takes 1 to {UNITS_MAX} units, not {0}")]
    Units(usize),
    /// More than memory is planned for, or none.
    #[error("an account takes 1 to {KEYS_MAX} keys, not {0}")]
    Keys(u32),
    /// The histogram of latencies can't be made.
    #[error("can't make the histogram of latencies: {0}")]
    Histogram(String),
}

/// What the run came to. The field names are those of `setgate-lab traffic -o json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Account {
    /// Messages that the publishers' own brokers confirmed, those that came back unroutable left out.
    pub confirmed: u64,
    /// First deliveries; of shared messages, one per unit.
    pub delivered: u64,
    /// Confirmed, and neither delivered nor parked.
    pub lost: u64,
    /// Unmarked deliveries behind a first unmarked one.
    pub duplicates: u64,
    /// Deliveries marked `x-set-in-doubt`.
    pub marked_in_doubt: u64,
    /// Deliveries behind a first one, marked or not: what the marks were about. The broker's own left out.
    pub repeated: u64,
    /// First deliveries of one key behind a higher number.
    pub reordered: u64,
    /// Deliveries in a unit that doesn't own the key.
    pub wrong_unit: u64,
    /// Keys delivered in two units under one epoch, once per key and epoch.
    pub two_owner: u64,
    /// Messages that lie in the park queues since the run began.
    pub parked: u64,
    /// Median from publish to delivery.
    pub p50_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
    /// Messages handed to a connection, whatever became of them.
    pub published: u64,
    /// Neither confirmed nor refused when their connection was lost; they may arrive.
    pub unconfirmed: u64,
    /// Nacked by the publisher's broker; they may arrive.
    pub nacked: u64,
    /// Came back unroutable.
    pub returned: u64,
    /// Handed out again by the application's broker after a consumer's connection was lost: no fault of the fabric.
    pub redelivered: u64,
    /// Deliveries of messages that nobody published in this run.
    pub invented: u64,
}

impl Account {
    /// Whether nothing that the fabric promises was broken.
    pub fn is_clean(&self) -> bool {
        self.lost == 0
            && self.duplicates == 0
            && self.reordered == 0
            && self.wrong_unit == 0
            && self.two_owner == 0
            && self.invented == 0
    }
}

/// What became of a message at its publisher's broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Fate {
    /// Nothing heard.
    #[default]
    Open,
    Confirmed,
    Nacked,
    /// Unroutable, and confirmed as such: a return wins over the confirm, whichever is heard first.
    Returned,
}

/// One message. Masks have one bit per unit.
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    seen: u16,
    seen_clean: u16,
    fate: Fate,
}

/// The messages of one publishing unit under one key.
#[derive(Debug, Clone, Default)]
struct Track {
    records: Vec<Record>,
    /// Highest number delivered + 1, 0 before the first: one for all units, or one per unit for shared messages.
    highest: Vec<u32>,
}

/// In which unit a key was delivered under an epoch.
#[derive(Debug, Clone, Copy)]
struct Tenure {
    epoch: Epoch,
    unit: UnitIndex,
    disputed: bool,
}

/// The account while it is open.
#[derive(Debug)]
pub struct Checker {
    expect: Expect,
    /// Mask of `Expect::OnceIn`.
    expected: u16,
    keys: u32,
    /// By publisher, then key.
    tracks: Vec<Track>,
    /// By key.
    tenures: Vec<Vec<Tenure>>,
    latencies: Histogram<u64>,
    /// Deliveries of confirmed messages that are still to come.
    missing: u64,
    parked: u64,
    published: u64,
    confirmed: u64,
    nacked: u64,
    returned: u64,
    delivered: u64,
    duplicates: u64,
    marked: u64,
    repeated: u64,
    reordered: u64,
    wrong_unit: u64,
    two_owner: u64,
    redelivered: u64,
    invented: u64,
}

impl Checker {
    /// An empty account for so many units and keys.
    pub fn new(expect: Expect, units: usize, keys: u32) -> Result<Self, CheckerError> {
        if units == 0 || units > UNITS_MAX {
            return Err(CheckerError::Units(units));
        }
        if keys == 0 || keys > KEYS_MAX {
            return Err(CheckerError::Keys(keys));
        }
        let expected = match &expect {
            Expect::Once => 0,
            Expect::OnceIn(units) => units.iter().fold(0, |mask, unit| mask | bit(*unit)),
        };
        let highs = match &expect {
            Expect::Once => 1,
            Expect::OnceIn(_) => units,
        };
        let track = Track {
            records: Vec::new(),
            highest: vec![0; highs],
        };
        Ok(Self {
            expect,
            expected,
            keys,
            tracks: vec![track; units * keys as usize],
            tenures: vec![Vec::new(); keys as usize],
            latencies: Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3)
                .map_err(|error| CheckerError::Histogram(error.to_string()))?,
            missing: 0,
            parked: 0,
            published: 0,
            confirmed: 0,
            nacked: 0,
            returned: 0,
            delivered: 0,
            duplicates: 0,
            marked: 0,
            repeated: 0,
            reordered: 0,
            wrong_unit: 0,
            two_owner: 0,
            redelivered: 0,
            invented: 0,
        })
    }

    /// Enters a message that is about to be published, and gives it its number. `None`: no such publisher or key, or
    /// the account is full.
    pub fn published(&mut self, publisher: UnitIndex, key: KeyIndex) -> Option<Tag> {
        if self.published >= MESSAGES_MAX {
            return None;
        }
        let track = self.track_mut(publisher, key)?;
        let number = Number(u32::try_from(track.records.len()).ok()?);
        track.records.push(Record::default());
        self.published += 1;
        Some(Tag {
            publisher,
            key,
            number,
        })
    }

    /// The publisher's broker has taken it.
    pub fn confirmed(&mut self, tag: Tag) {
        self.settle(tag, Fate::Confirmed);
    }

    /// The publisher's broker has refused it; one of several queues may have it all the same.
    pub fn nacked(&mut self, tag: Tag) {
        self.settle(tag, Fate::Nacked);
    }

    /// Nothing was bound for it.
    pub fn returned(&mut self, tag: Tag) {
        self.settle(tag, Fate::Returned);
    }

    /// How many messages lie in the park queues since the run began, by the latest count.
    pub fn parked(&mut self, count: u64) {
        self.parked = count;
    }

    /// A place that could be judged only after its delivery was entered.
    pub fn judged_late(&mut self, place: Place) {
        match place {
            Place::Wrong => self.wrong_unit += 1,
            Place::Right | Place::Unjudged => {}
        }
    }

    /// Enters a delivery.
    pub fn delivered(&mut self, delivery: Delivered) {
        let Delivered { tag, unit, .. } = delivery;
        let here = bit(unit);
        let Some(record) = self.record(tag).filter(|_| here != 0) else {
            self.invented += 1;
            return;
        };
        // A broker hands out again what a lost connection had not acknowledged; what was seen in this unit has then
        // been accounted for already, its place included.
        if delivery.handed == Handed::Again && record.seen & here != 0 {
            self.redelivered += 1;
            return;
        }
        let (scope, shared) = match &self.expect {
            Expect::Once => (u16::MAX, false),
            Expect::OnceIn(_) => (here, true),
        };
        let first = record.seen & scope == 0;
        match delivery.mark {
            Mark::InDoubt => self.marked += 1,
            Mark::Clean if record.seen_clean & scope != 0 => self.duplicates += 1,
            Mark::Clean => {}
        }
        let stray = shared && self.expected & here == 0;
        if delivery.place == Place::Wrong || stray {
            self.wrong_unit += 1;
        }
        self.change(tag, |record| {
            record.seen |= here;
            if delivery.mark == Mark::Clean {
                record.seen_clean |= here;
            }
        });
        if first {
            self.delivered += 1;
            let micros = u64::try_from(delivery.latency.as_micros()).unwrap_or(u64::MAX);
            self.latencies.saturating_record(micros);
            self.check_order(tag, unit);
        } else {
            self.repeated += 1;
        }
        if let Some(epoch) = delivery.epoch
            && !shared
        {
            self.check_tenure(tag.key, epoch, unit);
        }
    }

    /// How many deliveries of confirmed messages have yet to come, the parked ones left out.
    pub fn outstanding(&self) -> u64 {
        self.missing.saturating_sub(self.parked)
    }

    /// How many first deliveries came behind a higher number so far.
    pub const fn reordered(&self) -> u64 {
        self.reordered
    }

    /// How many messages the publishers have entered, and how many first deliveries came, for a progress bar.
    pub fn progress(&self) -> (u64, u64) {
        (self.published, self.delivered)
    }

    /// The account as it stands.
    pub fn account(&self) -> Account {
        let quantile = |q: f64| {
            // Tenths of a millisecond: finer than a consumer's wake-up is no knowledge. 0 of an empty histogram is 0.
            (self.latencies.value_at_quantile(q) as f64 / 100.0).round() / 10.0
        };
        Account {
            confirmed: self.confirmed,
            delivered: self.delivered,
            lost: self.outstanding(),
            duplicates: self.duplicates,
            marked_in_doubt: self.marked,
            repeated: self.repeated,
            reordered: self.reordered,
            wrong_unit: self.wrong_unit,
            two_owner: self.two_owner,
            parked: self.parked,
            p50_ms: quantile(0.50),
            p99_ms: quantile(0.99),
            published: self.published,
            unconfirmed: self.published - self.confirmed - self.nacked - self.returned,
            nacked: self.nacked,
            returned: self.returned,
            redelivered: self.redelivered,
            invented: self.invented,
        }
    }

    fn settle(&mut self, tag: Tag, fate: Fate) {
        let Some(before) = self.record(tag).map(|record| record.fate) else {
            return;
        };
        let after = match (before, fate) {
            (Fate::Returned, _) => Fate::Returned,
            (Fate::Open | Fate::Confirmed | Fate::Nacked, fate) => fate,
        };
        if let Some(count) = self.count_of(before) {
            *count -= 1;
        }
        if let Some(count) = self.count_of(after) {
            *count += 1;
        }
        self.change(tag, |record| record.fate = after);
    }

    fn count_of(&mut self, fate: Fate) -> Option<&mut u64> {
        match fate {
            Fate::Open => None,
            Fate::Confirmed => Some(&mut self.confirmed),
            Fate::Nacked => Some(&mut self.nacked),
            Fate::Returned => Some(&mut self.returned),
        }
    }

    fn check_order(&mut self, tag: Tag, unit: UnitIndex) {
        let at = match &self.expect {
            Expect::Once => 0,
            Expect::OnceIn(_) => usize::from(unit.0),
        };
        let Some(track) = self.track_mut(tag.publisher, tag.key) else {
            return;
        };
        let Some(highest) = track.highest.get_mut(at) else {
            return;
        };
        let behind = tag.number.0 < *highest;
        *highest = (*highest).max(tag.number.0.saturating_add(1));
        if behind {
            self.reordered += 1;
        }
    }

    fn check_tenure(&mut self, key: KeyIndex, epoch: Epoch, unit: UnitIndex) {
        let Some(tenures) = self.tenures.get_mut(key.0 as usize) else {
            return;
        };
        match tenures.iter_mut().find(|tenure| tenure.epoch == epoch) {
            Some(tenure) if tenure.unit != unit && !tenure.disputed => {
                tenure.disputed = true;
                self.two_owner += 1;
            }
            Some(_) => {}
            None => {
                if tenures.len() == EPOCHS_PER_KEY_MAX {
                    tenures.remove(0);
                }
                tenures.push(Tenure {
                    epoch,
                    unit,
                    disputed: false,
                });
            }
        }
    }

    /// Changes a record, and keeps `missing` in step with it.
    fn change(&mut self, tag: Tag, change: impl FnOnce(&mut Record)) {
        let Some(mut record) = self.record(tag) else {
            return;
        };
        let before = self.missing_of(record);
        change(&mut record);
        let after = self.missing_of(record);
        self.missing = self.missing + u64::from(after) - u64::from(before);
        if let Some(track) = self.track_mut(tag.publisher, tag.key)
            && let Some(slot) = track.records.get_mut(tag.number.0 as usize)
        {
            *slot = record;
        }
    }

    fn missing_of(&self, record: Record) -> u32 {
        match (record.fate, &self.expect) {
            (Fate::Open | Fate::Nacked | Fate::Returned, _) => 0,
            (Fate::Confirmed, Expect::Once) => u32::from(record.seen == 0),
            (Fate::Confirmed, Expect::OnceIn(_)) => (self.expected & !record.seen).count_ones(),
        }
    }

    fn record(&self, tag: Tag) -> Option<Record> {
        let track = self.tracks.get(self.track_at(tag.publisher, tag.key)?)?;
        track.records.get(tag.number.0 as usize).copied()
    }

    fn track_mut(&mut self, publisher: UnitIndex, key: KeyIndex) -> Option<&mut Track> {
        let at = self.track_at(publisher, key)?;
        self.tracks.get_mut(at)
    }

    fn track_at(&self, publisher: UnitIndex, key: KeyIndex) -> Option<usize> {
        (key.0 < self.keys).then(|| usize::from(publisher.0) * self.keys as usize + key.0 as usize)
    }
}

/// A unit's bit; no bit beyond the last unit that a mask has.
fn bit(unit: UnitIndex) -> u16 {
    1u16.checked_shl(u32::from(unit.0)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
