//! The immutable table that messages are routed by.
//!
//! Owns sources, rules, placement and seats, compiled at one revision. Promises that it is total (every slot has a home
//! and a seat) and that nothing in it changes: a newer table takes its place as a whole. Never reads a file or a clock.

use super::key;
use super::source::{Source, compile_source};
use crate::model::{
    CityId, Epoch, Lineage, Moves, Parcel, Revision, Seats, SiteId, Slot, SlotSet, SourceName,
    SpaceId, UnitId, Why, fenced, fenced_sources, leaving, taken,
};
use crate::rules::{
    self, Context, Fault, FaultCode, LinkPolicy, NotYet, Place, Placed, Placement, Topology,
};
use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroU64;

/// What a table is compiled from.
#[derive(Debug, Clone)]
pub struct TableInputs<'a> {
    /// The documents.
    pub files: &'a [rules::DocumentFile],
    /// The live placement, which wins over the one in the documents.
    pub placement: Option<&'a [u8]>,
    /// Who serves what now.
    pub seats: Seats,
    /// What is being moved.
    pub moves: Moves,
    /// The revision at which all of this was read.
    pub revision: Revision,
    /// The space that the gateway works for.
    pub space: &'a SpaceId,
}

/// A compiled table.
#[derive(Debug)]
pub struct Table {
    space: SpaceId,
    revision: Revision,
    seats: Seats,
    moves: Moves,
    /// Nobody may deliver them.
    fenced: SlotSet,
    has_fences: bool,
    /// Units whose seat, or what they serve for another, is being changed.
    leaving: BTreeSet<UnitId>,
    /// Where each slot that ever changed its seat was before, and when: ranges in order, ends included.
    changed: Vec<(u32, u32, Change)>,
    units: Vec<Unit>,
    center: UnitIndex,
    /// By slot.
    homes: Vec<UnitIndex>,
    /// By key, before slots.
    pins: HashMap<Box<[u8]>, UnitIndex>,
    /// By home.
    seat_of_home: Vec<UnitIndex>,
    sources: Vec<Source>,
    links: Vec<LinkPolicy>,
    failover: rules::Failover,
}

/// A change of a slot's seat.
#[derive(Debug, Clone, Copy)]
struct Change {
    from: UnitIndex,
    epoch: Epoch,
}

/// A unit's place in the table. 16 bits, because there is one for every slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnitIndex(u16);

/// A unit of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name.
    pub name: UnitId,
    /// The site that it is at.
    pub site: SiteId,
    /// The city that it is in.
    pub city: CityId,
    /// Who takes over, in this order.
    pub standby: Vec<UnitId>,
    /// Whether messages are taken from it.
    pub produces: bool,
    /// Whether messages are delivered to it.
    pub consumes: bool,
}

/// The name under which faults of the seats are reported; it is their key in etcd.
const SEATS: &str = "seats";

impl Table {
    /// Compiles documents, or says all that is wrong with them.
    pub fn compile(inputs: TableInputs<'_>) -> Result<Self, Vec<Fault>> {
        Self::compile_as(inputs, NotYet::Refuse)
    }

    /// As [`compile`](Self::compile), of documents that may say what this version doesn't enforce: to explain by, not to
    /// route by.
    pub fn draft(inputs: TableInputs<'_>) -> Result<Self, Vec<Fault>> {
        Self::compile_as(inputs, NotYet::Warn)
    }

    fn compile_as(inputs: TableInputs<'_>, not_yet: NotYet) -> Result<Self, Vec<Fault>> {
        let context = Context {
            space: Some(inputs.space),
            live_placement: inputs.placement,
            in_force: None,
            not_yet,
        };
        let examined = rules::examine(inputs.files, &context);
        let mut faults = examined.validation.faults;
        // That is asked of a change which brings it to etcd: several may have brought this one.
        faults.retain(|fault| fault.code != FaultCode::TransactionTooLarge);
        let (Some(topology), Some(placement)) = (&examined.documents.topology, &examined.placement)
        else {
            return Err(faults);
        };
        check_seats(&inputs.seats, topology, &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        let units = units(topology).map_err(|fault| vec![fault])?;
        let index: HashMap<UnitId, UnitIndex> = units
            .iter()
            .zip(0..)
            .map(|(unit, n)| (unit.name.clone(), UnitIndex(n)))
            .collect();
        // Validation has found every name; should one be missing all the same, the whole falls back on the first unit
        // rather than on a panic.
        let find = |unit: &UnitId| index.get(unit).copied().unwrap_or(UnitIndex(0));
        let fenced_sources = fenced_sources(&inputs.moves);
        let documents = &examined.documents;
        let sources = documents.sources.iter().map(|source| {
            let name = &source.name.value;
            Source {
                fenced: fenced_sources.contains(name),
                changed_at: inputs.seats.sources.get(name).copied().unwrap_or_default(),
                ..compile_source(source, &documents.rules, &units, &find)
            }
        });
        let sources = sources.collect();
        Ok(Self {
            space: inputs.space.clone(),
            revision: inputs.revision,
            center: topology.center().map_or(UnitIndex(0), &find),
            homes: homes(placement, find),
            pins: placement
                .pins
                .iter()
                .map(|pin| (pin.key.as_bytes().into(), find(&pin.unit)))
                .collect(),
            seat_of_home: units
                .iter()
                .map(|unit| find(inputs.seats.seat_of(&unit.name)))
                .collect(),
            has_fences: inputs.moves.values().any(|one| one.stage.fences()),
            fenced: fenced(&inputs.moves),
            leaving: leaving(&inputs.moves),
            moves: inputs.moves,
            changed: changed(&inputs.seats, find),
            seats: inputs.seats,
            units,
            sources,
            links: topology.links.clone(),
            failover: topology.failover.clone(),
        })
    }

    /// The space.
    pub fn space(&self) -> &SpaceId {
        &self.space
    }

    /// Which life of the space.
    pub fn lineage(&self) -> &Lineage {
        &self.seats.lineage
    }

    /// Grows with every change of a seat.
    pub fn epoch(&self) -> Epoch {
        self.seats.epoch
    }

    /// The revision at which the documents were read.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Who serves what now.
    pub fn seats(&self) -> &Seats {
        &self.seats
    }

    /// Moves that are not over, and those that ended lately.
    pub fn moves(&self) -> &Moves {
        &self.moves
    }

    /// Who decides about a takeover, and when.
    pub fn failover(&self) -> &rules::Failover {
        &self.failover
    }

    /// The units that another one stands in for, or is about to.
    pub fn taken(&self) -> BTreeSet<UnitId> {
        taken(&self.seats, &self.moves)
    }

    /// The slots that nobody may deliver now.
    pub fn fenced(&self) -> &SlotSet {
        &self.fenced
    }

    /// Whether nobody may deliver a parcel now that goes to this unit: its slot is being moved; or its key has that unit for
    /// another cause than its slot, and the unit is changing its seat.
    pub fn is_fenced(&self, slot: Option<Slot>, why: Why, to: &UnitId) -> bool {
        let by_slot = || slot.is_some_and(|slot| self.fenced.contains(slot));
        match why {
            Why::Owner | Why::Standby => by_slot(),
            Why::Center | Why::Gray | Why::Pin => by_slot() || self.leaving.contains(to),
            Why::Shared | Why::Units | Why::Local => false,
        }
    }

    /// Whether any slot, seat or source is fenced.
    pub fn has_fences(&self) -> bool {
        self.has_fences
    }

    /// Whether nothing of a source may be taken now: its rules are being changed.
    pub fn is_source_fenced(&self, source: &SourceName) -> bool {
        self.source(source).is_some_and(|source| source.fenced)
    }

    /// The slots that a key lies in, by the maps of all sources.
    pub fn slots_of_key(&self, key: &str) -> SlotSet {
        let maps = self.sources.iter().map(|source| source.key.map);
        let slots = maps.filter_map(|map| key::slot(key.as_bytes(), map, self.slots()));
        SlotSet::of(slots.map(|slot| (slot.0, slot.0)))
    }

    /// Whether a parcel was routed before its slot last changed its seat, be it to and fro: a receiver takes it no more.
    pub fn is_from_before(&self, parcel: &Parcel) -> bool {
        let slot = parcel.slot.filter(|_| match parcel.why {
            Why::Owner | Why::Standby | Why::Gray | Why::Pin => true,
            Why::Center | Why::Shared | Why::Local | Why::Units => false,
        });
        let change = slot.and_then(|slot| self.change_of(slot));
        change.is_some_and(|change| parcel.epoch < change.epoch)
    }

    /// Who served a slot before it last changed its seat; `None` when it never did.
    pub fn seat_before(&self, slot: Slot) -> Option<&UnitId> {
        self.change_of(slot).map(|change| self.name(change.from))
    }

    fn change_of(&self, slot: Slot) -> Option<Change> {
        let at = self.changed.partition_point(|(_, last, _)| *last < slot.0);
        let (first, _, change) = self.changed.get(at)?;
        (*first <= slot.0).then_some(*change)
    }

    /// All units, in the order of the topology.
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// One unit.
    pub fn unit(&self, name: &UnitId) -> Option<&Unit> {
        self.units.iter().find(|unit| unit.name == *name)
    }

    /// The unit that is the center by the topology.
    pub fn center(&self) -> &UnitId {
        self.name(self.center)
    }

    /// The unit that serves as the center now.
    pub fn center_seat(&self) -> &UnitId {
        self.name(self.seat_index(self.center))
    }

    /// How many slots there are.
    pub fn slots(&self) -> u32 {
        u32::try_from(self.homes.len()).unwrap_or(u32::MAX)
    }

    /// The unit that owns a slot; `None` beyond the last slot.
    pub fn home_of(&self, slot: Slot) -> Option<&UnitId> {
        self.home_index(slot).map(|home| self.name(home))
    }

    /// The unit that serves a slot now; `None` beyond the last slot.
    pub fn seat_of(&self, slot: Slot) -> Option<&UnitId> {
        self.home_index(slot)
            .map(|home| self.name(self.seat_index(home)))
    }

    /// The slot ranges that a unit owns, ends included.
    pub fn ranges_of(&self, unit: &UnitId) -> Vec<(Slot, Slot)> {
        let mut ranges: Vec<(Slot, Slot)> = Vec::new();
        for (slot, home) in (0..).zip(&self.homes) {
            if self.name(*home) != unit {
                continue;
            }
            match ranges.last_mut() {
                Some((_, last)) if last.0 + 1 == slot => last.0 = slot,
                _ => ranges.push((Slot(slot), Slot(slot))),
            }
        }
        ranges
    }

    /// All sources, in the order of the documents.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// One source.
    pub fn source(&self, name: &SourceName) -> Option<&Source> {
        self.sources.iter().find(|source| source.name == *name)
    }

    /// The sources that are taken in a unit.
    pub fn sources_of<'a>(&'a self, unit: &'a UnitId) -> impl Iterator<Item = &'a Source> + 'a {
        self.sources.iter().filter(|source| source.taken_in(unit))
    }

    /// How many lanes a unit has: one for each partition of what is taken in it.
    pub fn lanes_of(&self, unit: &UnitId) -> usize {
        let sources = self.sources_of(unit);
        sources.map(|source| usize::from(source.partitions)).sum()
    }

    /// What a gateway of one unit may send to another unit, by the first policy that is about them; none: no limit.
    pub fn link_bytes_per_second(&self, from: &UnitId, to: &UnitId) -> Option<NonZeroU64> {
        let covers = |end: &Option<Placed<UnitId>>, unit: &UnitId| {
            end.as_ref().is_none_or(|named| named.value == *unit)
        };
        self.links
            .iter()
            .find(|link| covers(&link.from, from) && covers(&link.to, to))?
            .bytes_per_second
    }

    /// Whether parcels of this source may be delivered to this exchange: what a receiver checks.
    pub fn may_deliver(&self, source: &SourceName, exchange: &[u8]) -> bool {
        self.source(source)
            .is_some_and(|source| source.exchanges().any(|one| one == exchange))
    }

    /// The unit that a single key is pinned to.
    pub(super) fn pinned(&self, key: &[u8]) -> Option<UnitIndex> {
        self.pins.get(key).copied()
    }

    pub(super) fn home_index(&self, slot: Slot) -> Option<UnitIndex> {
        let at = usize::try_from(slot.0).ok()?;
        self.homes.get(at).copied()
    }

    pub(super) fn center_index(&self) -> UnitIndex {
        self.center
    }

    pub(super) fn seat_index(&self, home: UnitIndex) -> UnitIndex {
        self.seat_of_home[usize::from(home.0)]
    }

    pub(super) fn name(&self, unit: UnitIndex) -> &UnitId {
        &self.units[usize::from(unit.0)].name
    }
}

fn changed(seats: &Seats, find: impl Fn(&UnitId) -> UnitIndex) -> Vec<(u32, u32, Change)> {
    let ranges = seats.changed.iter().flat_map(|changed| {
        let change = Change {
            from: find(&changed.from),
            epoch: changed.epoch,
        };
        let ranges = changed.slots.ranges();
        ranges.map(move |(first, last)| (first.0, last.0, change))
    });
    let mut ranges: Vec<_> = ranges.collect();
    ranges.sort_unstable_by_key(|(first, ..)| *first);
    ranges
}

fn check_seats(seats: &Seats, topology: &Topology, faults: &mut Vec<Fault>) {
    let exists = |unit: &UnitId| topology.units.iter().any(|one| one.name.value == *unit);
    for unit in seats.stand_ins.iter().flat_map(|(home, seat)| [home, seat]) {
        if !exists(unit) {
            faults.push(Fault::at(
                &Place::whole(SEATS),
                FaultCode::UnknownUnit,
                format!("the live seats name an unknown unit, {unit}"),
                "keep the unit in the topology until a failback has given its slots back",
            ));
        }
    }
}

fn units(topology: &Topology) -> Result<Vec<Unit>, Fault> {
    if topology.units.len() > usize::from(u16::MAX) {
        return Err(Fault::at(
            &topology.space.place,
            FaultCode::BadValue,
            format!("a space has at most {} units", u16::MAX),
            "make two spaces of it",
        ));
    }
    let mut units = Vec::with_capacity(topology.units.len());
    for unit in &topology.units {
        let site = topology
            .sites
            .iter()
            .find(|site| site.name.value == unit.site.value);
        // Validation has found every site.
        let Some(site) = site else { continue };
        units.push(Unit {
            name: unit.name.value.clone(),
            site: site.name.value.clone(),
            city: site.city.value.clone(),
            standby: unit.standby.iter().map(|one| one.value.clone()).collect(),
            produces: unit.access.value.produces(),
            consumes: unit.access.value.consumes(),
        });
    }
    Ok(units)
}

fn homes(placement: &Placement, find: impl Fn(&UnitId) -> UnitIndex) -> Vec<UnitIndex> {
    let mut homes = vec![UnitIndex(0); usize::try_from(placement.slots.value).unwrap_or(0)];
    for range in &placement.ranges {
        let home = find(&range.unit);
        for slot in range.first.0..=range.last.0 {
            if let Some(entry) = usize::try_from(slot).ok().and_then(|at| homes.get_mut(at)) {
                *entry = home;
            }
        }
    }
    homes
}

#[cfg(test)]
mod tests {
    use super::super::tests::table_of;
    use super::*;

    const DOCUMENTS: &str = "
kind: topology
space: trade
cities: {one: {}}
sites: {here: {city: one}}
units: {u1: {site: here}, u2: {site: here}}
---
kind: placement
slots: 2
ranges: [{slots: 0-1, unit: u1}]
---
kind: source
name: orders
units: [u1]
take: {exchange: orders, bindings: [{routing_key: \"#\"}]}
deliver: {exchange: orders.local}
key: {from: [{routing_key: whole}], map: digits}
partitions: 3
---
kind: rule
name: all
source: orders
order: 1
route: owner
---
kind: source
name: catalog
take: {exchange: catalog, bindings: [{routing_key: \"#\"}]}
---
kind: rule
name: catalog-to-all
source: catalog
order: 2
route: shared
";

    #[test]
    fn a_unit_has_a_lane_for_each_partition_of_what_is_taken_in_it() {
        let table = table_of(DOCUMENTS);
        let lanes = |unit: &str| table.lanes_of(&UnitId::parse(unit).unwrap());
        assert_eq!((lanes("u1"), lanes("u2"), lanes("u3")), (4, 1, 0));
    }
}
