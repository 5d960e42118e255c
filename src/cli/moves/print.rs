//! What `setgate move` prints: a line for each news, or JSON.

use crate::failover::{Verdict, World, judge};
use crate::model::{Kind, Move, MoveId, Moves, Revision, Stage};
use anstream::println;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// How far a move is. Its fields are those of the JSON.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Shown {
    pub(super) id: MoveId,
    pub(super) stage: Stage,
    kind: Kind,
    slots: String,
    from: String,
    to: String,
    /// Members that divert its slots and have nothing of them under way.
    drained: usize,
    /// Members.
    members: usize,
    /// From the fence until every gateway routed by the new home.
    pause_ms: Option<u64>,
    /// Seconds that a stage may take.
    deadline: u32,
    /// What it waits for, or why it was undone.
    cause: Option<String>,
    who: String,
    why: String,
    at: String,
}

impl Shown {
    pub(super) fn of(
        id: MoveId,
        one: &Move,
        moves: &Moves,
        written: Revision,
        world: &World,
    ) -> Self {
        let drained = match one.stage {
            Stage::Asked | Stage::Undone => 0,
            Stage::Fenced => {
                let reports = world
                    .members
                    .keys()
                    .filter_map(|one| world.reports.get(one));
                reports.filter(|report| report.drained >= written).count()
            }
            Stage::Drained | Stage::Placed | Stage::Done => world.members.len(),
        };
        let waits = match judge(id, moves, written, Duration::ZERO, world) {
            Verdict::Wait(cause) if !one.stage.is_over() => Some(cause),
            Verdict::Wait(_) | Verdict::Go(_) | Verdict::Undo(_) => None,
        };
        Self {
            id,
            stage: one.stage,
            kind: one.kind,
            slots: one.slots.to_string(),
            from: one.from.to_string(),
            to: one.to.to_string(),
            drained,
            members: world.members.len(),
            pause_ms: one.pause_ms,
            deadline: one.deadline_seconds,
            cause: one.cause.clone().or(waits),
            who: one.who.clone(),
            why: one.why.clone(),
            at: one.at.clone(),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            stage,
            slots,
            from,
            to,
            ..
        } = self;
        write!(
            f,
            "move {id}  {stage:<8}  slots {slots} from {from} to {to}"
        )?;
        if *stage == Stage::Fenced {
            write!(f, ", {} of {} gateways drained", self.drained, self.members)?;
        }
        if let Some(ms) = self.pause_ms {
            write!(f, ", pause {ms} ms")?;
        }
        if let Some(cause) = &self.cause {
            write!(f, " ({cause})")?;
        }
        Ok(())
    }
}

/// The first of them, with all of them in it.
pub(super) fn json(shown: &[Shown]) -> String {
    let mut value = shown
        .first()
        .and_then(|first| serde_json::to_value(first).ok())
        .unwrap_or_else(|| serde_json::json!({}));
    value["moves"] = serde_json::to_value(shown).unwrap_or_default();
    value.to_string()
}

/// What a move would do.
pub(super) fn plan(asked: &[(MoveId, Move)], world: &World, deadline: u32) {
    let all: u64 = world.units.values().map(|unit| unit.slots.count()).sum();
    for (_, one) in asked {
        let Move {
            slots, from, to, ..
        } = one;
        let count = slots.count();
        println!(
            "slots {slots} ({count} of {all}, {:.1} %) would move from {from} to {to}",
            count as f64 * 100.0 / all as f64
        );
    }
    let running = world.members.keys();
    let running = running.filter(|member| world.reports.contains_key(*member));
    println!(
        "{} of {} registered gateways run; each of them has to divert these slots and to work off what it has under way",
        running.count(),
        world.members.len()
    );
    for (unit, gateway) in world.members.keys() {
        if !world.reports.contains_key(&(unit.clone(), gateway.clone())) {
            println!(
                "  {unit}/{gateway} doesn't run: the move would wait for it, and be undone after {deadline} s; start it, or `setgate members retire {unit}/{gateway}`"
            );
        }
    }
    println!("publishers are not refused: what they publish meanwhile waits in a diversion");
}
