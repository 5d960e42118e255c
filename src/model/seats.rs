//! Who serves the slots now: the key `seats`, as every gateway reads it.

use super::{Epoch, Lineage, UnitId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The live seats of a space, JSON in etcd. Written at space creation, then by the coordinator alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seats {
    /// Which life of the space this is.
    pub lineage: Lineage,
    /// Grows with every change of a seat; 1 at creation.
    pub epoch: Epoch,
    /// Unit → the unit that stands in for it.
    #[serde(default)]
    pub stand_ins: BTreeMap<UnitId, UnitId>,
}

impl Seats {
    /// The seat of what `home` owns.
    pub fn seat_of<'a>(&'a self, home: &'a UnitId) -> &'a UnitId {
        self.stand_ins.get(home).unwrap_or(home)
    }
}
