//! What `setgate move` prints: a line for each news, or JSON.

use crate::failover::{Verdict, World, judge};
use crate::model::{Change, Move, MoveId, Moves, Revision, SourceName, Stage, UnitId};
use anstream::println;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// How far a move is. Its fields are those of the JSON.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Shown {
    pub(super) id: MoveId,
    pub(super) stage: Stage,
    kind: &'static str,
    /// Of a change of seats.
    slots: String,
    from: Option<UnitId>,
    to: Option<UnitId>,
    key: Option<String>,
    /// Of a change of rules.
    sources: BTreeSet<SourceName>,
    #[serde(skip)]
    change: Change,
    /// Members that keep to the fence and have nothing of it under way.
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
        let seats = one.seats();
        Self {
            id,
            stage: one.stage,
            kind: one.kind(),
            slots: seats.map_or_else(String::new, |seats| seats.slots.to_string()),
            from: seats.map(|seats| seats.from.clone()),
            to: seats.map(|seats| seats.to.clone()),
            key: seats.and_then(|seats| seats.key.clone()),
            sources: one
                .rules()
                .map_or_else(BTreeSet::new, |rules| rules.sources.clone()),
            change: one.change.clone(),
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
            id, stage, change, ..
        } = self;
        write!(f, "move {id}  {stage:<8}  {change}")?;
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
        let change = &one.change;
        match change {
            Change::Seats(seats) if seats.key.is_none() => {
                let count = seats.slots.count();
                println!(
                    "{change}: {count} of {all}, {:.1} %",
                    count as f64 * 100.0 / all as f64
                );
            }
            Change::Seats(_) => println!("{change}"),
            Change::Rules(_) => println!(
                "{change} would come in force as they are in etcd; `setgate rules diff` says what they change"
            ),
        }
    }
    let running = world.members.keys();
    let running = running.filter(|member| world.reports.contains_key(*member));
    println!(
        "{} of {} registered gateways run; each of them has to hold back what moves, and to work off what it has under way",
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
    println!("publishers are not refused: what they publish meanwhile waits in queues");
}
