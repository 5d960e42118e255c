//! How far a move is, and whether it may go on.
//!
//! Owns the order of the stages and what each of them waits for. Promises that nothing gets its new owner before every
//! member holds it back and nothing of it is under way anywhere, and that each move ends: done, or undone in every stage
//! before *placed*. Never reads a clock, never writes.

use crate::model::{
    Change, DecidedBy, Drain, Frozen, GatewayId, Kind, Move, MoveId, Moves, Revision, RuleChange,
    SeatChange, Seats, SlotSet, Stage, UnitId,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a gateway says that holds its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Of the table that it routes by.
    pub revision: Revision,
    /// The newest table with fences that is on its disk and of whose fenced slots and sources nothing is under way there.
    pub drained: Revision,
    /// It has read its unit's journal.
    pub read: bool,
    /// The newest table with units taken over to which no leave of it counts any more.
    pub ungranted: Revision,
    /// The newest table by which slots that move to its unit had drained, and everything is known there of them.
    pub copied: Revision,
    /// The newest table by which all had drained slots that move away from its unit, and applications have consumed them.
    pub consumed: Revision,
}

/// A unit as moves see it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitView {
    /// What it owns by placement.
    pub slots: SlotSet,
    /// Messages may be delivered to it.
    pub consumes: bool,
    /// Some gateway of it holds its lease and says that its broker takes confirms.
    pub up: bool,
    /// For how long it hasn't been, as the coordinator saw it.
    pub down_for: Duration,
    /// Where it is.
    pub site: String,
    /// Where that is.
    pub city: String,
    /// Who takes over, in this order.
    pub standby: Vec<UnitId>,
}

/// What a unit does that is cut off from etcd and from one of its stand-ins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolated {
    /// It stops delivering within a leave.
    #[default]
    Fences,
    /// It goes on, so only a person can say that it doesn't run.
    GoesOn,
}

/// What moves are judged by: one revision of the space, and how long the coordinator has seen who was away.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct World {
    /// By placement and topology.
    pub units: BTreeMap<UnitId, UnitView>,
    /// Unit → the unit that stands in for it.
    pub stand_ins: BTreeMap<UnitId, UnitId>,
    /// Registered, whether or not they run; for how long they have been without their lease.
    pub members: BTreeMap<(UnitId, GatewayId), Duration>,
    /// Of those that hold their lease.
    pub reports: BTreeMap<(UnitId, GatewayId), Report>,
    /// What a unit does that is cut off.
    pub isolated: Isolated,
    /// Whose seat the coordinator leaves as it is.
    pub frozen: Frozen,
    /// Keys that have a home of their own.
    pub pins: BTreeMap<String, UnitId>,
    /// What the documents ask for that only a move can carry out; `None`: nothing, or they have faults.
    pub wish: Option<RuleChange>,
}

/// A member without its lease, and without one of those that could give it leave, has stopped delivering after so long: a
/// leave of five seconds, and one for clocks that differ.
pub const MARGIN: Duration = Duration::from_secs(6);

/// What is to become of a move now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet, or ever: why.
    Wait(String),
    /// Its next stage.
    Go(Stage),
    /// It is undone: why.
    Undo(String),
}

/// Judges one of a space's moves, which has been in its stage for so long and was last written at that revision.
pub fn judge(
    id: MoveId,
    moves: &Moves,
    written: Revision,
    in_stage: Duration,
    world: &World,
) -> Verdict {
    let Some(one) = moves.get(&id) else {
        return Verdict::Wait("there is no such move".to_owned());
    };
    if one.stage.is_over() {
        return Verdict::Wait("it is over".to_owned());
    }
    if one.stage.can_be_undone() {
        if let Some(undo) = &one.undo {
            return Verdict::Undo(format!("{} asked for it: {}", undo.who, undo.why));
        }
        // Whatever it was accepted by may have changed since.
        if let Some(cause) = refusal(id, one, moves, world) {
            return Verdict::Undo(cause);
        }
    }
    let verdict = match one.stage {
        Stage::Asked => match in_front(id, one, moves) {
            None => Verdict::Go(Stage::Fenced),
            Some(cause) => Verdict::Wait(cause),
        },
        Stage::Fenced => match unsafe_yet(one, written, world) {
            None => Verdict::Go(Stage::Drained),
            Some(cause) => Verdict::Wait(cause),
        },
        Stage::Drained => match unknown_yet(one, written, world) {
            None => Verdict::Go(Stage::Placed),
            Some(cause) => Verdict::Wait(cause),
        },
        // Those without a lease have drained: they route nothing of it until they have heard of this.
        Stage::Placed => match behind(world, written) {
            None => Verdict::Go(Stage::Done),
            Some(behind) => Verdict::Wait(format!("not routed by yet: {behind}")),
        },
        Stage::Done | Stage::Undone => Verdict::Wait("it is over".to_owned()),
    };
    match verdict {
        Verdict::Wait(cause) if one.stage.can_be_undone() && is_past(one, in_stage) => {
            Verdict::Undo(format!(
                "it took longer than {} s: {cause}",
                one.deadline_seconds
            ))
        }
        verdict => verdict,
    }
}

/// The seats when a move is placed: of the next epoch.
pub fn place(seats: &Seats, change: &Change) -> Seats {
    let change = match change {
        Change::Seats(change) => change,
        Change::Rules(rules) => return seats.with_rules_of(&rules.sources),
    };
    let SeatChange {
        kind,
        slots,
        from,
        to,
        ..
    } = change;
    let mut seats = seats.with_changed(slots, from);
    match kind {
        Kind::Planned => {}
        Kind::Failover => {
            seats.stand_ins.insert(from.clone(), to.clone());
        }
        Kind::Failback => {
            seats.stand_ins.remove(to);
        }
    }
    seats
}

/// Why what moves might still be delivered to who owned it; `None` when it can't be.
fn unsafe_yet(one: &Move, written: Revision, world: &World) -> Option<String> {
    let drained = |report: &Report| report.drained >= written;
    let lost = one.seats().map(|change| &change.from).filter(|from| {
        let takes_over = one.seats().map(|change| change.kind) == Some(Kind::Failover);
        takes_over && world.units.get(*from).is_some_and(|unit| !unit.up)
    });
    let Some(lost) = lost else {
        let members = world.members.iter();
        // By a person's word those run no more that have been without their lease for longer than any leave.
        let counts = |member: &(UnitId, GatewayId), away: Duration| {
            one.force.is_none() || away < MARGIN || world.reports.contains_key(member)
        };
        let members = members.filter(|(member, away)| counts(member, **away));
        let late = late(members.map(|(member, _)| member), world, drained);
        let late = late.map(|late| format!("not drained yet: {late}"));
        return late.or_else(|| unconsumed_yet(one, written, world));
    };
    let of_unit = || world.members.keys().filter(|(unit, _)| unit == lost);
    let (running, away): (Vec<_>, Vec<_>) =
        of_unit().partition(|member| world.reports.contains_key(*member));
    if let Some(late) = late(running.into_iter(), world, drained) {
        return Some(format!("not drained yet: {late}"));
    }
    let recent = |member: &&&(UnitId, GatewayId)| world.members[**member] < MARGIN;
    if let Some((unit, gateway)) = away.iter().find(recent) {
        return Some(format!(
            "{unit}/{gateway} has been without its lease for less than {} s",
            MARGIN.as_secs()
        ));
    }
    let standby = world.units.get(lost).map(|unit| &unit.standby);
    let granters = standby.is_some_and(|standby| !standby.is_empty());
    if away.is_empty() || !granters || world.isolated == Isolated::GoesOn {
        // Then a person has decided, who knows that it doesn't run; the policy never does.
        return None;
    }
    let mut reports = world.reports.iter().filter(|((unit, _), _)| {
        standby.is_some_and(|standby| standby.contains(unit)) && !world.stand_ins.contains_key(unit)
    });
    let taken_back = reports.any(|(_, report)| report.ungranted >= written);
    (!taken_back).then(|| format!("leave of {lost} hasn't ended yet"))
}

/// Why the old owner's applications may still have something of it, where the move waits for that.
fn unconsumed_yet(one: &Move, written: Revision, world: &World) -> Option<String> {
    let change = one.seats().filter(|_| one.drain == Drain::Consumed)?;
    let mut of_old = world
        .reports
        .iter()
        .filter(|((unit, _), _)| *unit == change.from);
    let consumed = of_old.any(|(_, report)| report.consumed >= written);
    let says = format!(
        "applications of {} have to consume what was delivered to them, and their queues to be empty for 15 s",
        change.from
    );
    (!consumed).then_some(says)
}

/// Who of the new owner doesn't know yet what the old one has delivered; `None` when all do, or nobody can tell them. Then
/// what may be repeated is marked.
fn unknown_yet(one: &Move, written: Revision, world: &World) -> Option<String> {
    let change = one.seats()?;
    let is_up = |unit: &UnitId| world.units.get(unit).is_some_and(|unit| unit.up);
    if !is_up(&change.from) {
        return None;
    }
    let of_new = world.reports.iter();
    let of_new: Vec<_> = of_new.filter(|((unit, _), _)| *unit == change.to).collect();
    let knows = |report: &Report| report.copied >= written;
    let anybody = of_new.iter().any(|(_, report)| knows(report));
    // One that doesn't know its journal receives nothing before it does, and that is in it once anybody knows it.
    let late = of_new
        .iter()
        .filter(|(_, report)| !knows(report) && (report.read || !anybody));
    let names = late.map(|((unit, gateway), _)| format!("{unit}/{gateway}"));
    let late = some(&names.collect::<Vec<_>>())?;
    Some(format!(
        "what {} has delivered isn't known yet to {late}",
        change.from
    ))
}

/// Another move of the same that has to end first.
fn in_front(id: MoveId, one: &Move, moves: &Moves) -> Option<String> {
    let mut others = moves.iter();
    others
        .find(|(other, with)| {
            **other != id && overlap(one, with) && !yields(id, one, **other, with)
        })
        .map(|(other, _)| format!("move {other} has to end first"))
}

/// Whether two moves that go on have slots or a seat in common. Documents are one, so two changes of them do.
fn overlap(one: &Move, other: &Move) -> bool {
    let same = match (&one.change, &other.change) {
        (Change::Seats(one), Change::Seats(other)) => {
            let seats = one.kind != Kind::Planned && other.kind != Kind::Planned;
            !one.slots.and(&other.slots).is_empty() || (seats && one.home() == other.home())
        }
        (Change::Rules(_), Change::Rules(_)) => true,
        (Change::Seats(_), Change::Rules(_)) | (Change::Rules(_), Change::Seats(_)) => false,
    };
    same && !other.stage.is_over()
}

/// Whether the second of two moves that overlap is undone for the first: what was asked for first goes on, but a lost unit
/// waits for nobody that can still be undone.
fn yields(id: MoveId, one: &Move, other_id: MoveId, other: &Move) -> bool {
    if !other.stage.can_be_undone() {
        return false;
    }
    let takes_over = |one: &Move| one.seats().map(|change| change.kind) == Some(Kind::Failover);
    match (takes_over(one), takes_over(other)) {
        (true, false) => true,
        (false, true) => false,
        (_, _) => id < other_id,
    }
}

fn is_past(one: &Move, in_stage: Duration) -> bool {
    in_stage >= Duration::from_secs(u64::from(one.deadline_seconds))
}

/// Why a move can't be carried out as things are.
fn refusal(id: MoveId, one: &Move, moves: &Moves, world: &World) -> Option<String> {
    match &one.change {
        Change::Seats(change) => refused(change, one.decided_by, world),
        Change::Rules(rules) if world.wish.as_ref() != Some(rules) => {
            Some("the documents in etcd are others by now".to_owned())
        }
        Change::Rules(_) => None,
    }
    .or_else(|| {
        let yields =
            |other: MoveId, with: &Move| overlap(one, with) && yields(other, with, id, one);
        let (other, with) = moves
            .iter()
            .find(|(other, with)| **other != id && yields(**other, with))?;
        Some(format!("move {other} is about {} too", with.change))
    })
}

/// Why seats can't be changed like this.
fn refused(change: &SeatChange, decided_by: DecidedBy, world: &World) -> Option<String> {
    let SeatChange {
        kind,
        slots,
        from,
        to,
        key,
    } = change;
    if from == to {
        return Some(format!("it leads from {from} to {from}"));
    }
    for unit in [from, to] {
        if !world.units.contains_key(unit) {
            return Some(format!("there is no unit {unit}"));
        }
    }
    let home = &world.units[change.home()].slots;
    let elsewhere = slots.without(home);
    if let Some(key) = key {
        let pinned = world.pins.get(key);
        if pinned.map_or(!elsewhere.is_empty(), |unit| unit != from) {
            return Some(format!("{from} isn't the home of key {key:?}"));
        }
    } else if !elsewhere.is_empty() {
        let home = change.home();
        return Some(format!("{home} isn't the home of slots {elsewhere}"));
    }
    if slots.is_empty() && *kind == Kind::Planned {
        return Some(format!("{from} isn't the home of no slots"));
    }
    let stand_in = |unit: &UnitId| world.stand_ins.get(unit);
    match kind {
        Kind::Planned | Kind::Failover => {
            for unit in [from, to] {
                if let Some(seat) = stand_in(unit) {
                    return Some(format!("{seat} stands in for {unit}: give that back first"));
                }
            }
        }
        Kind::Failback if stand_in(to) != Some(from) => {
            return Some(format!("{from} doesn't stand in for {to}"));
        }
        Kind::Failback => {}
    }
    let served = world.stand_ins.iter().find(|(_, seat)| *seat == from);
    if let (Kind::Failover, Some((served, _))) = (kind, served) {
        return Some(format!(
            "{from} stands in for {served}: give that back first"
        ));
    }
    let (target, source) = (&world.units[to], &world.units[from]);
    if !target.consumes {
        return Some(format!("the access of {to} allows no delivery"));
    }
    if !target.up {
        return Some(format!("{to} is not up"));
    }
    (decided_by == DecidedBy::Policy && source.up).then(|| format!("{from} is up again"))
}

/// Those of these members that don't hold their lease or don't say so, in words.
fn late<'a>(
    members: impl Iterator<Item = &'a (UnitId, GatewayId)>,
    world: &World,
    says: impl Fn(&Report) -> bool,
) -> Option<String> {
    let late = members.filter_map(|member| {
        let (unit, gateway) = member;
        match world.reports.get(member) {
            Some(report) if says(report) => None,
            Some(_) => Some(format!("{unit}/{gateway}")),
            None => Some(format!(
                "{unit}/{gateway} (without its lease in etcd: start it, or retire it)"
            )),
        }
    });
    some(&late.collect::<Vec<_>>())
}

/// The gateways that run and route by an older table.
fn behind(world: &World, written: Revision) -> Option<String> {
    let behind = world.reports.iter();
    let behind = behind.filter(|(_, report)| report.revision < written);
    let names = behind.map(|((unit, gateway), _)| format!("{unit}/{gateway}"));
    some(&names.collect::<Vec<_>>())
}

fn some(names: &[String]) -> Option<String> {
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(test)]
mod tests;
