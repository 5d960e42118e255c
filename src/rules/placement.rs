//! The document `placement`: which unit owns which slots.
//!
//! Owns its shape, how it is read, and that the ranges are total and disjoint. In the documents it creates a space; from
//! then on the live one, under a key of its own, counts.

use super::fault::{Fault, FaultCode, Place, Placed};
use super::fields::{self, Fields};
use super::tree::{Node, Value};
use crate::model::{Slot, SlotSet, UnitId};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

/// Most slots. A table keeps one small number for each, and more than a million would be a table of single keys.
pub const SLOTS_MAX: u32 = 1 << 20;

/// Most pins: what a file of documents has room for is less.
pub const PINS_MAX: usize = 100_000;

/// Which unit owns which slots.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// Where the document begins; no part of what it says.
    pub place: Placed<()>,
    /// How many slots the space has, for its whole life.
    pub slots: Placed<u32>,
    /// As written, but for those that can't be read: total and disjoint in a document without faults.
    pub ranges: Vec<Range>,
    /// Single keys, before ranges; each once in a document without faults.
    pub pins: Vec<Pin>,
}

impl Placement {
    /// What each unit owns; pins aside.
    pub fn homes(&self) -> BTreeMap<UnitId, SlotSet> {
        let mut ranges: BTreeMap<UnitId, Vec<(u32, u32)>> = BTreeMap::new();
        for range in &self.ranges {
            let of_unit = ranges.entry(range.unit.value.clone()).or_default();
            of_unit.push((range.first.0, range.last.0));
        }
        ranges
            .into_iter()
            .map(|(unit, ranges)| (unit, SlotSet::of(ranges)))
            .collect()
    }

    /// The document with this key, which lies in these slots, at another home: by a pin, unless that is the slots' home.
    pub fn with_pinned(&self, key: &str, slots: &SlotSet, to: &UnitId) -> String {
        let homes = self.homes();
        let mut pins = self.pinned();
        if homes
            .get(to)
            .is_some_and(|home| slots.without(home).is_empty())
        {
            pins.remove(key);
        } else {
            pins.insert(key, to);
        }
        self.text(&homes, &pins)
    }

    /// The document with these slots at another home; pins stay where they are.
    pub fn with_moved(&self, slots: &SlotSet, to: &UnitId) -> String {
        let mut homes = self.homes();
        for owned in homes.values_mut() {
            *owned = owned.without(slots);
        }
        let home = homes.entry(to.clone()).or_default();
        *home = home.or(slots);
        self.text(&homes, &self.pinned())
    }

    /// The home of each key that has one of its own.
    pub fn pinned(&self) -> BTreeMap<&str, &UnitId> {
        let pins = self.pins.iter();
        pins.map(|pin| (pin.key.value.as_str(), &pin.unit.value))
            .collect()
    }

    fn text(&self, homes: &BTreeMap<UnitId, SlotSet>, pins: &BTreeMap<&str, &UnitId>) -> String {
        let mut ranges: Vec<_> = homes
            .iter()
            .flat_map(|(unit, owned)| owned.ranges().map(move |range| (range, unit)))
            .collect();
        ranges.sort_unstable();
        let mut text = format!("kind: placement\nslots: {}\nranges:\n", self.slots.value);
        for ((first, last), unit) in ranges {
            // Writing into a text doesn't fail.
            let _ = writeln!(text, "  - {{slots: {first}-{last}, unit: {unit}}}");
        }
        if !pins.is_empty() {
            text.push_str("pins:\n");
        }
        for (key, unit) in pins {
            let key = serde_json::Value::from(*key);
            let _ = writeln!(text, "  - {{key: {key}, unit: {unit}}}");
        }
        text
    }
}

/// One key and the unit that owns it, whatever its slot.
#[derive(Debug, Clone, PartialEq)]
pub struct Pin {
    /// Compared by its bytes.
    pub key: Placed<String>,
    /// Its home.
    pub unit: Placed<UnitId>,
}

/// Slots and the unit that owns them, ends included.
#[derive(Debug, Clone, PartialEq)]
pub struct Range {
    /// The first.
    pub first: Slot,
    /// The last.
    pub last: Slot,
    /// Their home.
    pub unit: Placed<UnitId>,
    /// Where the slots are written.
    pub place: Placed<()>,
}

pub(super) fn read(mut fields: Fields, faults: &mut Vec<Fault>) -> Option<Placement> {
    let place = fields.place().clone();
    let slots = fields.must("slots", faults, |node, faults| {
        let read = fields::whole(node, "`slots`", (1, i64::from(SLOTS_MAX)), faults)?;
        Some(read.map(|slots| u32::try_from(slots).unwrap_or(SLOTS_MAX)))
    });
    let ranges = fields.must("ranges", faults, |node, faults| {
        let place = node.place.clone();
        let items = fields::list(node, "`ranges`", faults)?;
        let written = items.len();
        let read = items.into_iter();
        let read: Vec<Range> = read.filter_map(|item| read_range(item, faults)).collect();
        Some((read, written, place))
    });
    let pins = match fields.optional("pins") {
        Some(node) => read_pins(node, faults).unwrap_or_default(),
        None => Vec::new(),
    };
    fields.end(faults);
    let (slots, (ranges, written, ranges_place)) = (slots?, ranges?);
    // What one that couldn't be read covers is not missing.
    if ranges.len() == written {
        check_cover(slots.value, &ranges, &ranges_place, faults);
    }
    Some(Placement {
        place: Placed { value: (), place },
        slots,
        ranges,
        pins,
    })
}

fn read_range(node: Node, faults: &mut Vec<Fault>) -> Option<Range> {
    let mut fields = Fields::of(node, "a range", faults)?;
    let slots = fields.must("slots", faults, read_slots);
    let unit = fields.must("unit", faults, |node, faults| {
        fields::name(node, "the unit", UnitId::parse, faults)
    });
    fields.end(faults);
    let (first, last, place) = slots?;
    Some(Range {
        first,
        last,
        unit: unit?,
        place: Placed { value: (), place },
    })
}

/// `0-3999`, or one slot.
fn read_slots(node: Node, faults: &mut Vec<Fault>) -> Option<(Slot, Slot, Place)> {
    let ends = match &node.value {
        Value::Int(one) => u32::try_from(*one).ok().map(|one| (one, one)),
        Value::Text(text) => match text.split_once('-') {
            Some((first, last)) => first.trim().parse().ok().zip(last.trim().parse().ok()),
            None => text.trim().parse().ok().map(|one| (one, one)),
        },
        _ => None,
    };
    match ends {
        Some((first, last)) if first <= last => Some((Slot(first), Slot(last), node.place)),
        Some((first, last)) => {
            faults.push(Fault::at(
                &node.place,
                FaultCode::RangeBounds,
                format!("the range begins with {first} and ends with {last}"),
                format!("write it as {last}-{first}"),
            ));
            None
        }
        None => {
            faults.push(fields::bad_value(
                &node.place,
                "a range's `slots` are two numbers, ends included",
                "write them like 0-3999",
            ));
            None
        }
    }
}

fn read_pins(node: Node, faults: &mut Vec<Fault>) -> Option<Vec<Pin>> {
    let place = node.place.clone();
    let items = fields::list(node, "`pins`", faults)?;
    if items.len() > PINS_MAX {
        faults.push(fields::bad_value(
            &place,
            format!(
                "there are {} pins, and a space has at most {PINS_MAX}",
                items.len()
            ),
            "give the keys a range of their own: a pin is for a single one",
        ));
        return None;
    }
    let mut first: HashMap<String, Place> = HashMap::new();
    let mut pins = Vec::with_capacity(items.len());
    for item in items {
        let Some(pin) = read_pin(item, faults) else {
            continue;
        };
        match first.entry(pin.key.value.clone()) {
            Entry::Occupied(before) => faults.push(Fault::at(
                &pin.key.place,
                FaultCode::RepeatedPin,
                format!(
                    "the key {:?} is pinned twice, first at {}",
                    pin.key.value,
                    before.get()
                ),
                "keep one of the pins",
            )),
            Entry::Vacant(free) => {
                free.insert(pin.key.place.clone());
            }
        }
        pins.push(pin);
    }
    Some(pins)
}

fn read_pin(node: Node, faults: &mut Vec<Fault>) -> Option<Pin> {
    let mut fields = Fields::of(node, "a pin", faults)?;
    let key = fields.must("key", faults, |node, faults| {
        let key = fields::text(node, "a pin's key", faults)?;
        if key.value.is_empty() {
            faults.push(fields::bad_value(
                &key.place,
                "a pin's key is empty, and an empty key is none",
                "write the key, or delete the pin",
            ));
            return None;
        }
        Some(key)
    });
    let unit = fields.must("unit", faults, |node, faults| {
        fields::name(node, "the unit", UnitId::parse, faults)
    });
    fields.end(faults);
    Some(Pin {
        key: key?,
        unit: unit?,
    })
}

/// Every slot in exactly one range.
fn check_cover(slots: u32, ranges: &[Range], list: &Place, faults: &mut Vec<Fault>) {
    let mut sorted: Vec<&Range> = ranges.iter().collect();
    sorted.sort_by_key(|range| range.first);
    let several = |first: u32, last: u32| {
        if first == last {
            format!("slot {first}")
        } else {
            format!("slots {first}-{last}")
        }
    };
    let gap = |first: u32, last: u32| {
        Fault::at(
            list,
            FaultCode::RangeGap,
            format!("no range covers {}", several(first, last)),
            "give them to a unit: ranges cover every slot once",
        )
    };
    // The first slot that nothing before it covers.
    let mut next = 0;
    for range in sorted {
        if range.last.0 >= slots {
            faults.push(Fault::at(
                &range.place.place,
                FaultCode::RangeBounds,
                format!(
                    "the range {}-{} goes beyond the last slot, {}",
                    range.first,
                    range.last,
                    slots - 1
                ),
                format!("end it at {}; slots are counted from 0", slots - 1),
            ));
        }
        if range.first.0 > next && next < slots {
            faults.push(gap(next, (range.first.0 - 1).min(slots - 1)));
        }
        if range.first.0 < next {
            faults.push(Fault::at(
                &range.place.place,
                FaultCode::RangeOverlap,
                format!(
                    "another range covers {} too",
                    several(range.first.0, range.last.0.min(next - 1))
                ),
                "leave each slot in one range",
            ));
        }
        next = next.max(range.last.0.saturating_add(1));
    }
    if next < slots {
        faults.push(gap(next, slots - 1));
    }
}
