//! All that a gateway knows of what its unit has received: from its own receivers, and from the journal of all.
//!
//! Owns a window for each lane, who received it last, and whether that one has told everything. Promises a bound on all of
//! them together; past it the oldest is forgotten first, counted, and remembered as a gap. Never reads a clock, a broker or
//! a table.

use super::record::{Entry, Fact, Life, Note, Record};
use super::window::{Known, Window};
use crate::model::{
    Epoch, GatewayId, Identities, Identity, LaneId, Partition, Revision, SlotSet, SourceName,
};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How long identities of a source are remembered of which the table says nothing (any more).
const WINDOW_DEFAULT: Duration = Duration::from_mins(10);

/// Identities that a gateway remembers by default: ten minutes at 10,000/s, and the quarter that the open generation adds,
/// are 7.5 million; with the tables half empty, which is the worst, they take 310 MB.
pub const IDENTITIES_MAX: usize = 8_000_000;

/// A journal that begins with a later one belongs to a unit that may have been given what another one had before.
const EPOCH_AT_CREATION: Epoch = Epoch(1);

/// By how many the bound may be passed until it is looked at: a hundredth of a percent of the default.
const UNCHECKED_MAX: usize = 1_024;

/// What an entry of the journal asks of whoever follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// The journal has been read up to a mark of this gateway's own.
    Mark {
        /// The mark's.
        token: u64,
    },
    /// The unit knows what others have delivered of the slots that had drained by a table of this revision.
    Copied {
        /// The table's.
        revision: Revision,
    },
    /// Another gateway of the unit wants this lane.
    LetGo {
        /// Which.
        lane: LaneId,
        /// Who wants it.
        by: GatewayId,
    },
}

/// Who received a lane last, as far as the journal tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// Nothing is known from before.
    Unknown,
    /// Who did has told everything, and let go.
    Nobody,
    /// This life of some gateway: when another one takes the lane, it was killed, or has been cut off.
    Somebody(Life),
}

/// What was before the first thing that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// The stream begins there: what it doesn't name was never received.
    Nothing,
    /// Older entries, which weren't read or are there no more.
    Unknown,
}

#[derive(Debug)]
struct LaneSeen {
    window: Window,
    holder: Holder,
}

/// See the file's head.
#[derive(Debug)]
pub struct Seen {
    life: Life,
    identities_max: usize,
    lanes: BTreeMap<LaneId, LaneSeen>,
    windows: BTreeMap<SourceName, Duration>,
    /// Of lanes that the journal doesn't name.
    before: Before,
    /// The highest that was heard of, once the journal has been looked at.
    epoch: Option<Epoch>,
    /// When seats last changed, as far as is known.
    seats_changed: Option<Duration>,
    forgotten_early: u64,
    /// Identities since the bound was looked at.
    unchecked: usize,
}

impl Seen {
    /// Knows nothing. The life is that of the gateway's process.
    pub fn new(life: Life, identities_max: usize) -> Self {
        Self {
            life,
            identities_max,
            lanes: BTreeMap::new(),
            windows: BTreeMap::new(),
            before: Before::Unknown,
            epoch: None,
            seats_changed: None,
            forgotten_early: 0,
            unchecked: 0,
        }
    }

    /// Of the gateway's process.
    pub fn life(&self) -> Life {
        self.life
    }

    /// How long each source's identities are remembered, by the table in force.
    pub fn set_windows(&mut self, windows: impl Iterator<Item = (SourceName, Duration)>) {
        self.windows = windows.collect();
    }

    /// What is read from now on is the stream from its very beginning.
    pub fn begins(&mut self) {
        if self.lanes.is_empty() {
            self.before = Before::Nothing;
        }
    }

    /// The longest that anything is remembered.
    pub fn longest_window(&self) -> Duration {
        let longest = self.windows.values().max();
        longest.copied().unwrap_or(WINDOW_DEFAULT)
    }

    /// The table in force has this epoch. At a gateway's start it says nothing: that seats have changed since the last word in
    /// the journal shows when the gateway writes its own.
    pub fn epoch(&mut self, epoch: Epoch, at: Duration) {
        if self.epoch.is_some() {
            self.hear_epoch(epoch, at);
        }
    }

    /// Where seats have changed, what another unit delivered until then is not known here, so for a window's length what was
    /// perhaps sent before is in doubt. An older epoch is that of a gateway that lags.
    fn hear_epoch(&mut self, epoch: Epoch, at: Duration) {
        let known = self.epoch.unwrap_or(EPOCH_AT_CREATION);
        self.epoch = Some(known.max(epoch));
        if epoch > known {
            self.seats_changed = Some(at);
            for (lane, seen) in &mut self.lanes {
                let window = window_of(&self.windows, lane);
                seen.window.gap(at, window);
            }
        }
    }

    /// Takes in what some gateway of the unit wrote, in the journal's order. Of its own only the marks are news.
    pub fn apply(&mut self, entry: &Entry, at: Duration) -> Vec<Heard> {
        let mut heard = Vec::new();
        self.hear_epoch(entry.epoch, at);
        let is_own = entry.life == self.life;
        for note in &entry.notes {
            match note {
                Note::Mark { token } if is_own => heard.push(Heard::Mark { token: *token }),
                Note::Mark { .. } => {}
                Note::Copied { revision } => heard.push(Heard::Copied {
                    revision: *revision,
                }),
            }
        }
        for record in &entry.records {
            let lane = &record.lane;
            match &record.fact {
                Fact::Confirmed(_) | Fact::Doubtful(_) | Fact::LetGo if is_own => {}
                Fact::Confirmed(ids) => {
                    self.late_word(lane, entry.life, at);
                    for id in ids {
                        self.confirm(lane, *id, at);
                    }
                }
                // Of another unit, which has nothing to do with who holds the lane here.
                Fact::Known(ids) => ids.iter().for_each(|id| self.confirm(lane, *id, at)),
                Fact::Doubtful(ids) => {
                    self.late_word(lane, entry.life, at);
                    for id in ids {
                        self.doubt(lane, *id, at);
                    }
                }
                Fact::Taken { token } => {
                    self.taken(lane, entry.life, at);
                    if is_own {
                        heard.push(Heard::Mark { token: *token });
                    }
                }
                Fact::Released => self.released(lane, entry.life),
                Fact::LetGo => heard.push(Heard::LetGo {
                    lane: lane.clone(),
                    by: entry.gateway.clone(),
                }),
            }
        }
        heard
    }

    /// What is known of a parcel of this lane. Other partitions of its source count: their number may have changed.
    pub fn look_up(&self, lane: &LaneId, ids: &Identities) -> Known {
        let mut best = Known::Not;
        for (_, seen) in self.lanes.range(partitions(lane)) {
            for id in ids.iter() {
                best = match (seen.window.look_up(id), best) {
                    (Known::Confirmed, _) => return Known::Confirmed,
                    (Known::Doubtful, _) | (_, Known::Doubtful) => Known::Doubtful,
                    (Known::Reused, _) | (_, Known::Reused) => Known::Reused,
                    (Known::Not, Known::Not | Known::Confirmed) => Known::Not,
                };
            }
        }
        best
    }

    /// What was confirmed of these slots, by lane, in pieces of so many.
    pub fn confirmed_of(&self, slots: &SlotSet, at_once: usize) -> Vec<Record> {
        let mut records = Vec::new();
        for (lane, seen) in &self.lanes {
            let ids: Vec<Identity> = seen.window.confirmed_of(slots).collect();
            let pieces = ids.chunks(at_once.max(1)).map(|piece| Record {
                lane: lane.clone(),
                fact: Fact::Known(piece.to_vec()),
            });
            records.extend(pieces);
        }
        records
    }

    /// Whether the unit may have received something of this lane, within its window, that isn't known here.
    pub fn has_gap(&self, lane: &LaneId) -> bool {
        // Of a lane that was never taken here nothing is known.
        self.lanes
            .get(lane)
            .is_none_or(|seen| seen.holder == Holder::Unknown || seen.window.has_gap())
    }

    /// The broker has confirmed it.
    pub fn confirm(&mut self, lane: &LaneId, id: Identity, at: Duration) {
        let window = window_of(&self.windows, lane);
        self.lane(lane).window.confirm(id, at, window);
        self.keep_bound();
    }

    /// Nobody knows how its publish ended.
    pub fn doubt(&mut self, lane: &LaneId, id: Identity, at: Duration) {
        let window = window_of(&self.windows, lane);
        self.lane(lane).window.doubt(id, at, window);
        self.keep_bound();
    }

    /// How many identities are remembered.
    pub fn len(&self) -> usize {
        self.lanes.values().map(|seen| seen.window.len()).sum()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What all windows take.
    pub fn bytes(&self) -> usize {
        self.lanes.values().map(|seen| seen.window.bytes()).sum()
    }

    /// Identities that were forgotten before their time, for lack of room.
    pub fn forgotten_early(&self) -> u64 {
        self.forgotten_early
    }

    fn lane(&mut self, lane: &LaneId) -> &mut LaneSeen {
        let holder = match self.before {
            Before::Nothing => Holder::Nobody,
            Before::Unknown => Holder::Unknown,
        };
        let (changed, windows) = (self.seats_changed, &self.windows);
        self.lanes.entry(lane.clone()).or_insert_with(|| {
            let mut window = Window::default();
            if let Some(at) = changed {
                window.gap(at, window_of(windows, lane));
            }
            LaneSeen { window, holder }
        })
    }

    fn taken(&mut self, lane: &LaneId, life: Life, at: Duration) {
        let window = window_of(&self.windows, lane);
        let seen = self.lane(lane);
        match seen.holder {
            Holder::Nobody => {}
            Holder::Somebody(holder) if holder == life => {}
            // Who held it before didn't say that it has told everything: it was killed, or the journal doesn't reach back
            // so far.
            Holder::Somebody(_) | Holder::Unknown => seen.window.gap(at, window),
        }
        seen.holder = Holder::Somebody(life);
    }

    fn released(&mut self, lane: &LaneId, life: Life) {
        let seen = self.lane(lane);
        match seen.holder {
            Holder::Somebody(holder) if holder == life => seen.holder = Holder::Nobody,
            // Written late, by one whom another has followed; or the beginning isn't in the journal any more, and the
            // gap of what was before stays.
            Holder::Somebody(_) | Holder::Nobody | Holder::Unknown => {}
        }
    }

    /// What somebody writes of a lane that another has taken since: two have received it at a time, and there may be more
    /// that isn't told yet.
    fn late_word(&mut self, lane: &LaneId, life: Life, at: Duration) {
        let window = window_of(&self.windows, lane);
        let seen = self.lane(lane);
        match seen.holder {
            Holder::Somebody(holder) if holder == life => {}
            Holder::Somebody(_) | Holder::Nobody => seen.window.gap(at, window),
            // The journal begins in the middle: it has a gap until it is taken, and then.
            Holder::Unknown => {
                seen.window.gap(at, window);
                seen.holder = Holder::Somebody(life);
            }
        }
    }

    /// Now and then: to sum up is a walk over all lanes' generations.
    fn keep_bound(&mut self) {
        self.unchecked += 1;
        if self.unchecked < UNCHECKED_MAX {
            return;
        }
        self.unchecked = 0;
        while self.len() > self.identities_max {
            let oldest = self
                .lanes
                .values_mut()
                .filter_map(|seen| Some((seen.window.oldest()?, seen)))
                .min_by_key(|(since, _)| *since);
            let Some((_, seen)) = oldest else { return };
            let forgotten = seen.window.forget_oldest();
            self.forgotten_early += forgotten as u64;
        }
    }
}

fn window_of(windows: &BTreeMap<SourceName, Duration>, lane: &LaneId) -> Duration {
    windows.get(&lane.source).copied().unwrap_or(WINDOW_DEFAULT)
}

/// All lanes of this one's source in its unit.
fn partitions(lane: &LaneId) -> RangeInclusive<LaneId> {
    let at = |partition| LaneId {
        partition: Partition(partition),
        ..lane.clone()
    };
    at(0)..=at(u16::MAX)
}
