//! What one lane's target remembers: an exact set of identities that ages by generations.
//!
//! Promises that an identity is known for its window at least from when it was confirmed, and that nothing ages while the
//! lane is away: a generation is closed only by something new, so what a lane sends again after an hour of silence is
//! still known. Never reads a clock, knows no lanes.
//!
//! An entry has 16 bytes, a table slot 17, and tables grow by doubling: 19 to 39 bytes for an identity, 28 on average. Ten
//! minutes at 10,000/s are 6 million of them, and with the generation that is open 7.5 million: some 210 MB.

use crate::model::{AsItIs, Identity, SlotSet};
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

/// Closed generations that make up a window. More of them cost a look each, fewer memory: with four it is a quarter more
/// than the window's.
const GENERATIONS: u32 = 4;

/// What a table slot takes: an entry, and a byte of the table's own.
const SLOT_BYTES: usize = 17;

/// What is known of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// The broker has confirmed it.
    Confirmed,
    /// It was published, and nobody knows how that ended.
    Doubtful,
    /// Another message was confirmed under this id.
    Reused,
    /// Nothing.
    Not,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Window {
    /// The newest, which is open, at the back.
    generations: VecDeque<Generation>,
}

/// What became known within a part of the window.
#[derive(Debug)]
struct Generation {
    opened: Duration,
    /// By `who`: `what` of the first message under it.
    first: HashMap<u64, u64, AsItIs>,
    /// Others under a `who` that is in `first`.
    others: HashSet<Identity, AsItIs>,
    doubtful: HashSet<Identity, AsItIs>,
    gap: Gap,
}

/// Whether something may have been confirmed that this window wasn't told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    None,
    Possible,
}

impl Window {
    /// What is known of an identity.
    pub fn look_up(&self, id: &Identity) -> Known {
        let mut known = Known::Not;
        for generation in self.generations.iter().rev() {
            match generation.first.get(&id.who) {
                Some(what) if *what == id.what => return Known::Confirmed,
                Some(_) if generation.others.contains(id) => return Known::Confirmed,
                Some(_) if known == Known::Not => known = Known::Reused,
                Some(_) | None => {}
            }
            if generation.doubtful.contains(id) {
                known = Known::Doubtful;
            }
        }
        known
    }

    /// Remembers that the broker has confirmed it.
    pub fn confirm(&mut self, id: Identity, at: Duration, window: Duration) {
        for generation in &mut self.generations {
            if !generation.doubtful.is_empty() {
                generation.doubtful.remove(&id);
            }
        }
        let open = self.open(at, window);
        match open.first.get(&id.who) {
            None => {
                open.first.insert(id.who, id.what);
            }
            Some(what) if *what == id.what => {}
            Some(_) => {
                open.others.insert(id);
            }
        }
    }

    /// Remembers that nobody knows whether the broker has it. What it has confirmed before stays confirmed.
    pub fn doubt(&mut self, id: Identity, at: Duration, window: Duration) {
        self.open(at, window).doubtful.insert(id);
    }

    /// Something may have been confirmed that will never be told here.
    pub fn gap(&mut self, at: Duration, window: Duration) {
        self.open(at, window).gap = Gap::Possible;
    }

    /// Whether, within the window, something may have been confirmed that isn't known.
    pub fn has_gap(&self) -> bool {
        self.generations
            .iter()
            .any(|generation| generation.gap == Gap::Possible)
    }

    /// What the broker has confirmed of these slots.
    pub fn confirmed_of<'a>(&'a self, slots: &'a SlotSet) -> impl Iterator<Item = Identity> + 'a {
        let all = self.generations.iter().flat_map(|generation| {
            let first = generation.first.iter();
            let first = first.map(|(who, what)| Identity {
                who: *who,
                what: *what,
            });
            first.chain(generation.others.iter().copied())
        });
        all.filter(|id| id.slot().is_some_and(|slot| slots.contains(slot)))
    }

    /// How many identities it holds.
    pub fn len(&self) -> usize {
        self.generations.iter().map(Generation::len).sum()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What its tables take, used or not.
    pub fn bytes(&self) -> usize {
        self.generations
            .iter()
            .map(|generation| {
                let entries = generation.first.capacity()
                    + generation.others.capacity()
                    + generation.doubtful.capacity();
                // Seven of eight slots are used at most.
                entries * SLOT_BYTES * 8 / 7
            })
            .sum()
    }

    /// Since when the oldest of it has been known; none when it holds nothing.
    pub fn oldest(&self) -> Option<Duration> {
        self.generations
            .iter()
            .find(|generation| generation.len() > 0)
            .map(|generation| generation.opened)
    }

    /// Forgets its oldest generation before its time, and says how many identities that were: from now on there is a gap.
    pub fn forget_oldest(&mut self) -> usize {
        let mut forgotten = 0;
        while forgotten == 0 && !self.is_empty() {
            let Some(oldest) = self.generations.pop_front() else {
                break;
            };
            forgotten = oldest.len();
            if self.generations.is_empty() {
                self.generations
                    .push_back(Generation::new(oldest.opened, 0));
            }
            if let Some(open) = self.generations.back_mut() {
                open.gap = Gap::Possible;
            }
        }
        forgotten
    }

    /// The open generation, which is a new one when the last is a quarter of the window old. One at a time: after a silence
    /// the old ones go as slowly as they came.
    fn open(&mut self, at: Duration, window: Duration) -> &mut Generation {
        let full = match self.generations.back() {
            None => Some(0),
            Some(open) if at.saturating_sub(open.opened) >= window / GENERATIONS => {
                Some(open.first.len())
            }
            Some(_) => None,
        };
        if let Some(expected) = full {
            self.generations.push_back(Generation::new(at, expected));
            while self.generations.len() > GENERATIONS as usize + 1 {
                self.generations.pop_front();
            }
        }
        let last = self.generations.len() - 1;
        &mut self.generations[last]
    }
}

impl Generation {
    fn new(opened: Duration, expected: usize) -> Self {
        Self {
            opened,
            first: HashMap::with_capacity_and_hasher(expected, AsItIs::default()),
            others: HashSet::default(),
            doubtful: HashSet::default(),
            gap: Gap::None,
        }
    }

    fn len(&self) -> usize {
        self.first.len() + self.others.len() + self.doubtful.len()
    }
}
