//! The ownership protocol, every order of events: one owner at a time, whatever is cut off, frozen or started again.
//!
//! The models drive the functions that gateways and coordinator run, not a copy of them. Each safeguard is taken away once,
//! and its absence must be found.

#![allow(clippy::unwrap_used)] // tests and their helpers panic at what must hold

mod lead;
mod leave;

use setgate::model::{
    Asked, Change, DecidedBy, Kind, Move, MoveId, Moves, SeatChange, SlotSet, Stage, UnitId,
};

pub(crate) fn unit(name: &str) -> UnitId {
    UnitId::parse(name).unwrap()
}

/// Unit two takes over from unit one, by the policy.
pub(crate) fn takeover(stage: Stage) -> Moves {
    let change = Change::Seats(SeatChange {
        kind: Kind::Failover,
        slots: SlotSet::parse("0-9").unwrap(),
        from: unit("one"),
        to: unit("two"),
        key: None,
    });
    let one = Move {
        stage,
        ..Move::asked(change, DecidedBy::Policy, Asked::default(), 60)
    };
    [(MoveId(1), one)].into()
}
