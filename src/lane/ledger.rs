//! Deliveries taken from one queue and not yet settled.
//!
//! Owns what each delivery still waits for. Promises that a delivery is released once, and only after every target has
//! answered; releases in the order of the tags, as a contiguous mark, so that one acknowledgement settles many. Never
//! talks to a broker, never reads a clock.

use crate::model::DeliveryTag;
use std::collections::VecDeque;
use std::time::Instant;

/// One delivery's place in its ledger. Ascends by one; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(u64);

/// Deliveries up to this tag, on the channel they came from, are done with. Only a ledger makes one, and only one of
/// these can be acknowledged.
#[derive(Debug, PartialEq, Eq)]
pub struct Settlement {
    tag: DeliveryTag,
    count: usize,
}

impl Settlement {
    /// The highest tag that is done with; all below it are as well.
    pub fn tag(&self) -> DeliveryTag {
        self.tag
    }

    /// How many deliveries it settles.
    pub fn count(&self) -> usize {
        self.count
    }
}

#[derive(Debug)]
struct Entry {
    tag: DeliveryTag,
    /// Targets that have not answered.
    waiting: u32,
    /// Routing is through: no more targets will be added.
    closed: bool,
    cost_bytes: usize,
    taken: Instant,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: VecDeque<Entry>,
    /// The id of the first entry.
    first: u64,
    cost_bytes: usize,
}

impl Ledger {
    /// Deliveries that were settled, ever.
    pub fn settled(&self) -> u64 {
        self.first
    }

    /// Takes a delivery in. It stays open, and so unsettled, until [`Ledger::close`].
    pub fn open(&mut self, tag: DeliveryTag, cost_bytes: usize, now: Instant) -> EntryId {
        debug_assert!(
            self.entries.back().is_none_or(|last| last.tag < tag),
            "tags ascend"
        );
        self.entries.push_back(Entry {
            tag,
            waiting: 0,
            closed: false,
            cost_bytes,
            taken: now,
        });
        self.cost_bytes += cost_bytes;
        EntryId(self.first + self.entries.len() as u64 - 1)
    }

    /// One more target whose answer this delivery waits for.
    pub fn wait_for(&mut self, id: EntryId) {
        if let Some(entry) = self.entry(id) {
            entry.waiting += 1;
        }
    }

    /// How many unsettled ones are in front of it.
    pub fn in_front_of(&self, id: EntryId) -> Option<usize> {
        usize::try_from(id.0.checked_sub(self.first)?).ok()
    }

    /// No further targets: it settles when those that it waits for have answered.
    pub fn close(&mut self, id: EntryId) {
        if let Some(entry) = self.entry(id) {
            entry.closed = true;
        }
    }

    /// One target has answered for good. Returns when the delivery was taken.
    pub fn answered(&mut self, id: EntryId) -> Option<Instant> {
        let entry = self.entry(id)?;
        debug_assert!(entry.waiting > 0, "an answer that nobody waits for");
        entry.waiting = entry.waiting.saturating_sub(1);
        Some(entry.taken)
    }

    /// Releases the contiguous run of done deliveries at the front, if there is one.
    pub fn settle(&mut self) -> Option<Settlement> {
        let mut settlement = None;
        let mut count = 0;
        while let Some(entry) = self.entries.front().filter(|e| e.closed && e.waiting == 0) {
            count += 1;
            settlement = Some(Settlement {
                tag: entry.tag,
                count,
            });
            self.cost_bytes -= entry.cost_bytes;
            self.entries.pop_front();
            self.first += 1;
        }
        settlement
    }

    /// Forgets everything: the channel is gone, and with it every tag.
    pub fn clear(&mut self) {
        self.first += self.entries.len() as u64;
        self.entries.clear();
        self.cost_bytes = 0;
    }

    /// Deliveries that are not settled.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether all are settled.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the unsettled ones count for in the lane's budget.
    pub fn cost_bytes(&self) -> usize {
        self.cost_bytes
    }

    /// Answers that all of them still wait for.
    pub fn waiting(&self) -> usize {
        self.entries
            .iter()
            .map(|entry| entry.waiting as usize)
            .sum()
    }

    /// When the oldest unsettled one was taken.
    pub fn oldest(&self) -> Option<Instant> {
        self.entries.front().map(|entry| entry.taken)
    }

    fn entry(&mut self, id: EntryId) -> Option<&mut Entry> {
        let index = usize::try_from(id.0.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[test]
    fn a_delivery_is_settled_only_after_every_target_has_answered() {
        let mut ledger = Ledger::default();
        let id = ledger.open(DeliveryTag(1), 10, now());
        ledger.wait_for(id);
        ledger.wait_for(id);
        ledger.answered(id);
        assert_eq!(ledger.settle(), None, "still open");
        ledger.close(id);
        assert_eq!(ledger.settle(), None, "one target is missing");
        ledger.answered(id);
        assert_eq!(
            ledger.settle(),
            Some(Settlement {
                tag: DeliveryTag(1),
                count: 1
            })
        );
        assert_eq!((ledger.len(), ledger.cost_bytes()), (0, 0));
    }

    #[test]
    fn answers_of_a_channel_that_is_gone_settle_nothing() {
        let mut ledger = Ledger::default();
        let old = ledger.open(DeliveryTag(1), 10, now());
        ledger.wait_for(old);
        ledger.clear();
        let new = ledger.open(DeliveryTag(1), 10, now());
        ledger.wait_for(new);
        ledger.close(new);
        assert_eq!(ledger.answered(old), None);
        assert_eq!(ledger.settle(), None);
    }

    proptest! {
        #[test]
        fn whatever_the_order_of_answers_each_tag_is_settled_once_and_in_order(
            order in Just((0u64..40).collect::<Vec<_>>()).prop_shuffle()
        ) {
            let mut ledger = Ledger::default();
            let ids: Vec<_> = (0..40)
                .map(|n| {
                    let id = ledger.open(DeliveryTag(n + 1), 1, now());
                    ledger.wait_for(id);
                    ledger.close(id);
                    id
                })
                .collect();
            let mut answered = std::collections::BTreeSet::new();
            let (mut mark, mut settled) = (0, 0);
            for n in order {
                ledger.answered(ids[usize::try_from(n).unwrap()]);
                answered.insert(n);
                while let Some(settlement) = ledger.settle() {
                    prop_assert!(settlement.tag().0 > mark);
                    mark = settlement.tag().0;
                    settled += settlement.count();
                }
                let contiguous = (0..40).take_while(|n| answered.contains(n)).count() as u64;
                prop_assert_eq!(mark, contiguous);
            }
            prop_assert_eq!(settled, 40);
        }
    }
}
