//! The ownership protocol, every order of events: one owner at a time, whatever is cut off, frozen or started again.
//!
//! The models drive the functions that gateways and coordinator run, not a copy of them. Each safeguard is taken away once,
//! and its absence must be found.

#![allow(clippy::unwrap_used)] // tests and their helpers panic at what must hold

mod lead;
mod leave;

use setgate::model::{DecidedBy, Kind, Move, MoveId, Moves, SlotSet, Stage, UnitId};

pub(crate) fn unit(name: &str) -> UnitId {
    UnitId::parse(name).unwrap()
}

/// Unit two takes over from unit one, by the policy.
pub(crate) fn takeover(stage: Stage) -> Moves {
    let one = Move {
        stage,
        kind: Kind::Failover,
        decided_by: DecidedBy::Policy,
        slots: SlotSet::parse("0-9").unwrap(),
        from: unit("one"),
        to: unit("two"),
        who: String::new(),
        why: String::new(),
        at: String::new(),
        deadline_seconds: 60,
        undo: None,
        ended_at_ms: None,
        fenced_at_ms: None,
        pause_ms: None,
        cause: None,
    };
    [(MoveId(1), one)].into()
}
