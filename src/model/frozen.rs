//! Units whose seat the coordinator leaves as it is, by a person's word: the key `frozen`.

use super::UnitId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is frozen. A person's own moves go on all the same.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frozen {
    /// Every unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<Freeze>,
    /// These.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub units: BTreeMap<UnitId, Freeze>,
}

/// Who has frozen something, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Freeze {
    /// `user@host`.
    pub who: String,
    /// In their words.
    pub why: String,
    /// RFC 3339.
    pub at: String,
}

impl Frozen {
    /// Why a unit is frozen, if it is.
    pub fn of(&self, unit: &UnitId) -> Option<&Freeze> {
        self.all.as_ref().or_else(|| self.units.get(unit))
    }
}
