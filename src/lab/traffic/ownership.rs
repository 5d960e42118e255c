//! Which unit owns a key, by arithmetic of the checker's own.
//!
//! Owns the placements seen during the run, each under its epoch. Never uses the gateways' routing. A delivery under
//! an epoch that isn't known yet is put off until the placement has been read again.

use super::documents::{KeyMap, Placed};
use super::message::key_text;
use super::plan::UnitPlan;
use crate::lab::checker::{KeyIndex, Place, UnitIndex};
use crate::model::Epoch;
use xxhash_rust::xxh3::xxh3_64;

/// Placements remembered. A run sees one, a run with moves a handful.
const VIEWS_MAX: usize = 64;

/// Deliveries put off. They are judged again each second, so this is a second's worth at 60,000 messages a second.
const PUT_OFF_MAX: usize = 65_536;

/// One placement under one epoch: the owner of every key of the run.
#[derive(Debug, PartialEq, Eq)]
struct View {
    epoch: Option<u64>,
    owners: Vec<Option<UnitIndex>>,
}

/// What is known of owners.
#[derive(Debug, Default)]
pub(super) struct Owners {
    views: Vec<View>,
    put_off: Vec<(KeyIndex, Epoch, UnitIndex)>,
}

impl Owners {
    /// Takes in a placement. The same one again changes nothing.
    pub(super) fn learn(&mut self, placed: &Placed, map: KeyMap, units: &[UnitPlan], keys: u32) {
        let owners = (0..keys)
            .map(|key| {
                let owner = owner_of(placed, map, &key_text(KeyIndex(key)))?;
                let at = units.iter().position(|unit| unit.name == owner)?;
                u8::try_from(at).ok().map(UnitIndex)
            })
            .collect();
        let view = View {
            epoch: placed.epoch,
            owners,
        };
        if !self.views.contains(&view) {
            if self.views.len() == VIEWS_MAX {
                self.views.remove(0);
            }
            self.views.push(view);
        }
    }

    /// Judges a delivery to an owner, or puts it off while its epoch isn't known.
    pub(super) fn judge(&mut self, key: KeyIndex, epoch: Option<Epoch>, unit: UnitIndex) -> Place {
        let known = epoch.is_none_or(|epoch| self.knows(epoch));
        match (known, epoch) {
            (false, Some(epoch)) if self.put_off.len() < PUT_OFF_MAX && !self.views.is_empty() => {
                self.put_off.push((key, epoch, unit));
                Place::Unjudged
            }
            _ => self.place(key, epoch, unit),
        }
    }

    /// Judges what was put off: those whose epoch is known by now, or all where the run is over.
    pub(super) fn judge_put_off(&mut self, all: Rest) -> Vec<Place> {
        let put_off = std::mem::take(&mut self.put_off);
        let (due, rest) = put_off
            .into_iter()
            .partition(|(_, epoch, _)| all == Rest::JudgeToo || self.knows(*epoch));
        self.put_off = rest;
        let due: Vec<(KeyIndex, Epoch, UnitIndex)> = due;
        due.into_iter()
            .map(|(key, epoch, unit)| self.place(key, Some(epoch), unit))
            .collect()
    }

    fn knows(&self, epoch: Epoch) -> bool {
        self.views.iter().any(|view| view.epoch == Some(epoch.0))
    }

    /// Right where a placement of that epoch says so. An epoch that came and went between two readings is judged by
    /// all that are known: a key's owner before and after is what it may have been.
    fn place(&self, key: KeyIndex, epoch: Option<Epoch>, unit: UnitIndex) -> Place {
        let epoch = epoch
            .filter(|epoch| self.knows(*epoch))
            .map(|epoch| epoch.0);
        let mut place = Place::Unjudged;
        for view in &self.views {
            let applies = epoch.is_none() || view.epoch == epoch;
            match view.owners.get(key.0 as usize) {
                Some(owner) if applies && *owner == Some(unit) => return Place::Right,
                Some(_) if applies => place = Place::Wrong,
                Some(_) | None => {}
            }
        }
        place
    }
}

/// What to do with deliveries whose epoch is still unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// The placement will be read again.
    Keep,
    /// The run is over.
    JudgeToo,
}

/// The seat of a key: pins before ranges, a stand-in for its home.
fn owner_of<'a>(placed: &'a Placed, map: KeyMap, key: &str) -> Option<&'a str> {
    let home = if let Some(unit) = placed.pins.get(key) {
        unit
    } else {
        let slot = slot_of(map, key, placed.slots)?;
        let range = placed
            .ranges
            .iter()
            .find(|(first, last, _)| (*first..=*last).contains(&slot))?;
        &range.2
    };
    Some(placed.stand_ins.get(home).unwrap_or(home))
}

fn slot_of(map: KeyMap, key: &str, slots: u64) -> Option<u64> {
    let number = match map {
        KeyMap::Hash => xxh3_64(key.as_bytes()),
        KeyMap::Crc32 => u64::from(crc32fast::hash(key.as_bytes())),
        KeyMap::Digits => key.parse().ok()?,
        KeyMap::LastDigits(count) => key.get(key.len().saturating_sub(count)..)?.parse().ok()?,
    };
    number.checked_rem(slots)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: UnitIndex = UnitIndex(0);
    const B: UnitIndex = UnitIndex(1);

    fn units() -> Vec<UnitPlan> {
        ["a", "b"]
            .map(|name| UnitPlan {
                name: name.to_owned(),
                brokers: Vec::new(),
            })
            .to_vec()
    }

    /// Keys 0 and 1 are 10000 and 10001, by digits the slots 0 and 1.
    fn placed(epoch: u64, first: &str, second: &str) -> Placed {
        Placed {
            epoch: Some(epoch),
            slots: 2,
            ranges: vec![(0, 0, first.to_owned()), (1, 1, second.to_owned())],
            pins: [].into(),
            stand_ins: [].into(),
        }
    }

    fn owners(placed: &[Placed]) -> Owners {
        let mut owners = Owners::default();
        for one in placed {
            owners.learn(one, KeyMap::Digits, &units(), 2);
        }
        owners
    }

    #[test]
    fn a_delivery_is_right_in_the_unit_of_its_slot_alone() {
        let mut owners = owners(&[placed(1, "a", "b")]);
        assert_eq!(owners.judge(KeyIndex(0), Some(Epoch(1)), A), Place::Right);
        assert_eq!(owners.judge(KeyIndex(0), Some(Epoch(1)), B), Place::Wrong);
        assert_eq!(owners.judge(KeyIndex(1), None, B), Place::Right);
    }

    #[test]
    fn a_moved_key_is_judged_by_the_epoch_of_its_delivery() {
        let mut owners = owners(&[placed(1, "a", "b"), placed(2, "b", "b")]);
        assert_eq!(owners.judge(KeyIndex(0), Some(Epoch(1)), A), Place::Right);
        assert_eq!(owners.judge(KeyIndex(0), Some(Epoch(2)), A), Place::Wrong);
        assert_eq!(owners.judge(KeyIndex(0), Some(Epoch(2)), B), Place::Right);
    }

    #[test]
    fn a_delivery_under_an_unknown_epoch_waits_for_its_placement() {
        let mut owners = owners(&[placed(1, "a", "b")]);
        assert_eq!(
            owners.judge(KeyIndex(0), Some(Epoch(2)), A),
            Place::Unjudged
        );
        assert_eq!(owners.judge_put_off(Rest::Keep), []);
        owners.learn(&placed(2, "b", "b"), KeyMap::Digits, &units(), 2);
        assert_eq!(owners.judge_put_off(Rest::Keep), [Place::Wrong]);
        assert_eq!(
            owners.judge(KeyIndex(0), Some(Epoch(3)), B),
            Place::Unjudged
        );
        assert_eq!(owners.judge_put_off(Rest::JudgeToo), [Place::Right]);
    }

    #[test]
    fn nothing_is_judged_without_a_placement() {
        let mut owners = Owners::default();
        assert_eq!(
            owners.judge(KeyIndex(0), Some(Epoch(1)), A),
            Place::Unjudged
        );
        assert_eq!(owners.judge_put_off(Rest::JudgeToo), []);
    }

    #[test]
    fn a_stand_in_and_a_pin_own_what_they_are_given() {
        let mut with_stand_in = placed(1, "a", "b");
        with_stand_in
            .stand_ins
            .insert("a".to_owned(), "b".to_owned());
        assert_eq!(owner_of(&with_stand_in, KeyMap::Digits, "10000"), Some("b"));
        let mut pinned = placed(1, "a", "b");
        pinned.pins.insert("10000".to_owned(), "b".to_owned());
        assert_eq!(owner_of(&pinned, KeyMap::Digits, "10000"), Some("b"));
    }

    #[test]
    fn keys_become_slots_as_published() {
        // xxh3-64 of nothing and CRC-32 of "123456789" are their algorithms' published values.
        assert_eq!(xxh3_64(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(
            slot_of(KeyMap::Crc32, "123456789", 1 << 32),
            Some(0xcbf4_3926)
        );
        assert_eq!(slot_of(KeyMap::Digits, "10086", 10_000), Some(86));
        assert_eq!(
            slot_of(KeyMap::LastDigits(4), "1234567", 10_000),
            Some(4567)
        );
        assert_eq!(slot_of(KeyMap::Hash, "10086", 0), None);
    }
}
