//! The keys of a space, below `/setgate/<space>/`.

use crate::model::{GatewayId, MoveId, SpaceId, UnitId};

/// A key below the space's prefix, spelled in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key<'a> {
    /// A file of routing documents, as written: a wish.
    Document(&'a str),
    /// A file that gateways compile.
    InForce(&'a str),
    /// The live placement.
    Placement,
    /// Lineage, epoch and stand-ins.
    Seats,
    /// The keys of the marks' seal.
    Seal,
    /// A gateway's registration, which outlives its lease.
    Member(&'a UnitId, &'a GatewayId),
    /// A gateway's own account of itself, under its lease.
    Gateway(&'a UnitId, &'a GatewayId),
    /// A move of slots.
    Move(MoveId),
    /// The gateway that advances moves, under its lease.
    Coordinator,
    /// Units whose seat the coordinator leaves as it is.
    Frozen,
    /// Who changed what and why.
    History(&'a str),
}

pub(super) const DOCUMENTS: &str = "documents/";
pub(super) const IN_FORCE: &str = "in-force/";
pub(super) const MEMBERS: &str = "members/";
pub(super) const GATEWAYS: &str = "gateways/";
pub(super) const MOVES: &str = "moves/";
pub(super) const COORDINATOR: &str = "coordinator";
pub(super) const FROZEN: &str = "frozen";
pub(super) const HISTORY: &str = "history/";
/// The first key after all of `history/`: `0` follows `/` in ASCII.
pub(super) const AFTER_HISTORY: &str = "history0";

impl Key<'_> {
    /// Below the prefix.
    pub fn text(&self) -> String {
        match self {
            Key::Document(file) => format!("{DOCUMENTS}{file}"),
            Key::InForce(file) => format!("{IN_FORCE}{file}"),
            Key::Placement => "placement".to_owned(),
            Key::Seats => "seats".to_owned(),
            Key::Seal => "seal".to_owned(),
            Key::Member(unit, gateway) => format!("{MEMBERS}{unit}/{gateway}"),
            Key::Gateway(unit, gateway) => format!("{GATEWAYS}{unit}/{gateway}"),
            Key::Move(id) => format!("{MOVES}{id}"),
            Key::Coordinator => COORDINATOR.to_owned(),
            Key::Frozen => FROZEN.to_owned(),
            Key::History(id) => format!("{HISTORY}{id}"),
        }
    }
}

/// `/setgate/<space>/`
pub(super) fn prefix(space: &SpaceId) -> String {
    format!("/setgate/{space}/")
}
