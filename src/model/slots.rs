//! Sets of slots, as ranges: what a move moves, what a unit owns.

use super::Slot;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Slots, as ranges that are sorted and don't touch each other. As text: `0-99,200,300-399`.
#[derive(Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SlotSet(Vec<(u32, u32)>);

/// Ranges of one set: a text of as many is a table of single slots.
const RANGES_MAX: usize = 10_000;

/// A text that is no set of slots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotsError {
    /// Not two numbers, or one.
    #[error(
        "`{0}` is no range of slots; write them like 2000-2999 or 7, several separated by commas"
    )]
    Range(String),
    /// More than any table should have.
    #[error("there are more than {RANGES_MAX} ranges of slots")]
    TooMany,
}

impl SlotSet {
    /// None.
    pub const fn empty() -> Self {
        Self(Vec::new())
    }

    /// From `first` to `last`, both included.
    pub fn range(first: Slot, last: Slot) -> Self {
        Self::of([(first.0, last.0)])
    }

    /// All of these ranges; what is upside down is empty.
    pub fn of(ranges: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut sorted: Vec<(u32, u32)> = ranges
            .into_iter()
            .filter(|(first, last)| first <= last)
            .collect();
        sorted.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last);
                }
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// Reads a text; one without any range is a fault.
    pub fn parse(text: &str) -> Result<Self, SlotsError> {
        let range = |part: &str| {
            let part = part.trim();
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let ends = first.trim().parse().ok().zip(last.trim().parse().ok());
            ends.filter(|(first, last): &(u32, u32)| first <= last)
                .ok_or_else(|| SlotsError::Range(part.to_owned()))
        };
        let ranges: Vec<(u32, u32)> = text.split(',').map(range).collect::<Result<_, _>>()?;
        if ranges.len() > RANGES_MAX {
            return Err(SlotsError::TooMany);
        }
        Ok(Self::of(ranges))
    }

    /// In order, ends included.
    pub fn ranges(&self) -> impl Iterator<Item = (Slot, Slot)> + '_ {
        self.0
            .iter()
            .map(|(first, last)| (Slot(*first), Slot(*last)))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0
            .iter()
            .map(|(first, last)| u64::from(last - first) + 1)
            .sum()
    }

    /// Whether this one is among them.
    pub fn contains(&self, slot: Slot) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < slot.0);
        self.0.get(at).is_some_and(|(first, _)| *first <= slot.0)
    }

    /// Those of both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.without(&self.without(other))
    }

    /// Those of either.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self::of(self.0.iter().chain(&other.0).copied())
    }

    /// Those of this one alone.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for (first, last) in &self.0 {
            let mut next = Some(*first);
            for (begin, end) in other.0.iter().filter(|(_, end)| end >= first) {
                let Some(from) = next else { break };
                if begin > last {
                    break;
                }
                if *begin > from {
                    left.push((from, begin - 1));
                }
                next = end.checked_add(1).filter(|next| next <= last);
            }
            if let Some(from) = next {
                left.push((from, *last));
            }
        }
        Self(left)
    }
}

impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlotSet({self})")
    }
}

impl std::str::FromStr for SlotSet {
    type Err = SlotsError;
    fn from_str(text: &str) -> Result<Self, SlotsError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for SlotSet {
    type Error = SlotsError;
    fn try_from(text: String) -> Result<Self, SlotsError> {
        Self::parse(&text)
    }
}

impl From<SlotSet> for String {
    fn from(slots: SlotSet) -> Self {
        slots.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn of(slots: &BTreeSet<u32>) -> SlotSet {
        SlotSet::of(slots.iter().map(|slot| (*slot, *slot)))
    }

    fn slots() -> impl Strategy<Value = BTreeSet<u32>> {
        proptest::collection::btree_set(0..40u32, 0..30)
    }

    proptest! {
        #[test]
        fn sets_of_ranges_are_sets_of_slots(one in slots(), other in slots()) {
            let (a, b) = (of(&one), of(&other));
            prop_assert_eq!(a.or(&b), of(&one.union(&other).copied().collect()));
            prop_assert_eq!(a.and(&b), of(&one.intersection(&other).copied().collect()));
            prop_assert_eq!(a.without(&b), of(&one.difference(&other).copied().collect()));
            prop_assert_eq!(a.count(), one.len() as u64);
            for slot in 0..41 {
                prop_assert_eq!(a.contains(Slot(slot)), one.contains(&slot));
            }
            if !a.is_empty() {
                prop_assert_eq!(SlotSet::parse(&a.to_string()).unwrap(), a);
            }
        }
    }

    #[test]
    fn a_text_is_read_and_written_as_ranges() {
        let set = SlotSet::parse("200-299, 0-99,100, 7").unwrap();
        assert_eq!(set.to_string(), "0-100,200-299");
        for bad in ["", "a", "9-1", "1-", "1,,2", "-1"] {
            assert!(SlotSet::parse(bad).is_err(), "{bad}");
        }
        let last = SlotSet::of([(u32::MAX, u32::MAX)]);
        assert_eq!(
            last.without(&SlotSet::of([(0, u32::MAX)])),
            SlotSet::empty()
        );
    }
}
