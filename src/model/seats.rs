//! Who serves the slots now: the key `seats`, as every gateway reads it.

use super::{Epoch, Lineage, SlotSet, SourceName, UnitId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The live seats of a space, JSON in etcd. Written at space creation, then by the coordinator alone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seats {
    /// Which life of the space this is.
    pub lineage: Lineage,
    /// Grows with every change of a seat; 1 at creation.
    pub epoch: Epoch,
    /// Unit → the unit that stands in for it.
    #[serde(default)]
    pub stand_ins: BTreeMap<UnitId, UnitId>,
    /// When slots last changed their seat; those that nothing is said of never did. No slot is in two of them.
    #[serde(default)]
    pub changed: Vec<Changed>,
    /// When the rules of sources last gave keys other owners; those that nothing is said of never did.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<SourceName, Epoch>,
}

/// Slots and the epoch in which they last changed their seat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changed {
    /// Which.
    pub slots: SlotSet,
    /// Who served them before: what a lane has diverted of them may lie in the diversion of that unit.
    pub from: UnitId,
    /// When.
    pub epoch: Epoch,
}

impl Seats {
    /// The seat of what `home` owns.
    pub fn seat_of<'a>(&'a self, home: &'a UnitId) -> &'a UnitId {
        self.stand_ins.get(home).unwrap_or(home)
    }

    /// The seats after the rules of these sources have changed: of the next epoch.
    #[must_use]
    pub fn with_rules_of(&self, sources: &BTreeSet<SourceName>) -> Self {
        let epoch = Epoch(self.epoch.0 + 1);
        let mut seats = Self {
            epoch,
            ..self.clone()
        };
        let changed = sources.iter().map(|source| (source.clone(), epoch));
        seats.sources.extend(changed);
        seats
    }

    /// The seats after these slots have changed theirs from that unit: of the next epoch.
    #[must_use]
    pub fn with_changed(&self, slots: &SlotSet, from: &UnitId) -> Self {
        let epoch = Epoch(self.epoch.0 + 1);
        let others = self.changed.iter().map(|one| Changed {
            slots: one.slots.without(slots),
            ..one.clone()
        });
        let mut changed: Vec<Changed> = others.filter(|one| !one.slots.is_empty()).collect();
        changed.push(Changed {
            slots: slots.clone(),
            from: from.clone(),
            epoch,
        });
        Self {
            epoch,
            changed,
            ..self.clone()
        }
    }
}
