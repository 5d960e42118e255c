//! What the coordinator begins of its own accord: takeovers by the topology's policy, and changes of rules that were wished.
//!
//! Owns the damping: grace, hold-down, sites that may be down at once. Promises that it never decides where a person is to,
//! and that the same space leads to the same plan, whoever plans. Never reads a clock.

use super::moves::{Isolated, UnitView, World};
use crate::model::{Kind, Move, Moves, RuleChange, Stage, UnitId};
use std::collections::BTreeSet;
use std::time::Duration;

/// Who starts a takeover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takeover {
    /// The coordinator.
    Automatic,
    /// A person.
    Manual,
}

/// The topology's `failover`, as far as it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// To a stand-in in the same city.
    pub within_city: Takeover,
    /// To one in another.
    pub across_cities: Takeover,
    /// A unit is down that hasn't been up for so long.
    pub grace: Duration,
    /// A unit's seat changes at most so often of its own accord.
    pub hold_down: Duration,
    /// More sites down at once are for a person.
    pub sites_down_max: u32,
}

/// A unit that is to be stood in for, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// It is lost.
    pub unit: UnitId,
    /// It stands in.
    pub by: UnitId,
}

/// The first takeover that is due. `now_ms`: since 1970, by which the damping is counted.
pub fn plan(world: &World, moves: &Moves, policy: &Policy, now_ms: u64) -> Option<Plan> {
    if world.isolated == Isolated::GoesOn {
        return None;
    }
    let is_down = |unit: &UnitView| !unit.up && unit.down_for >= policy.grace;
    let up_at: BTreeSet<&str> = of_sites(world, |unit| !is_down(unit));
    let down_at = of_sites(world, is_down);
    let down = down_at.difference(&up_at).count();
    if down > usize::try_from(policy.sites_down_max).unwrap_or(usize::MAX) {
        return None;
    }
    let mut lost = world.units.iter().filter(|(name, unit)| {
        is_down(unit)
            && !world.stand_ins.contains_key(*name)
            && world.frozen.of(name).is_none()
            // It stands in itself: whose seat that is, is for a person.
            && !world.stand_ins.values().any(|seat| seat == *name)
            // One that has never run has nothing to be lost.
            && world.members.keys().any(|(of, _)| of == *name)
            && !is_held_down(name, moves, policy, now_ms)
    });
    lost.find_map(|(name, unit)| {
        let by = unit
            .standby
            .iter()
            .find(|by| may(world, unit, by, policy))?;
        Some(Plan {
            unit: name.clone(),
            by: by.clone(),
        })
    })
}

/// The wished change of rules that is due: when nothing else moves. One that was undone waits for a person.
pub fn wished<'a>(world: &'a World, moves: &Moves) -> Option<&'a RuleChange> {
    let wish = world.wish.as_ref()?;
    let going_on = moves.values().any(|one| !one.stage.is_over());
    let mut of_rules = moves.values().rev().filter_map(|one| {
        let rules = one.rules()?;
        (rules.documents == wish.documents).then_some(one.stage)
    });
    (!going_on && of_rules.next() != Some(Stage::Undone)).then_some(wish)
}

fn of_sites(world: &World, like: impl Fn(&UnitView) -> bool) -> BTreeSet<&str> {
    let units = world.units.values().filter(|unit| like(unit));
    units.map(|unit| unit.site.as_str()).collect()
}

/// Whether a unit may take over for another of the coordinator's own accord.
fn may(world: &World, unit: &UnitView, by: &UnitId, policy: &Policy) -> bool {
    let Some(stand_in) = world.units.get(by) else {
        return false;
    };
    let decides = if stand_in.city == unit.city {
        policy.within_city
    } else {
        policy.across_cities
    };
    decides == Takeover::Automatic
        && stand_in.up
        && stand_in.consumes
        && !world.stand_ins.contains_key(by)
}

/// Whether its seat is changing, or has changed lately.
fn is_held_down(unit: &UnitId, moves: &Moves, policy: &Policy, now_ms: u64) -> bool {
    let hold_down = u64::try_from(policy.hold_down.as_millis()).unwrap_or(u64::MAX);
    let is_of_unit = |one: &&Move| {
        let change = one.seats();
        change.is_some_and(|change| change.kind != Kind::Planned && change.home() == unit)
    };
    let mut of_unit = moves.values().filter(is_of_unit);
    of_unit.any(|one| match one.ended_at_ms {
        None => !one.stage.is_over(),
        // A clock that was set back holds nothing down.
        Some(ended) => ended <= now_ms && now_ms - ended < hold_down,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Asked, Change, DecidedBy, Freeze, Frozen, GatewayId, MoveId};
    use serde_json::json;

    fn unit(name: &str) -> UnitId {
        UnitId::parse(name).unwrap()
    }

    const GRACE: Duration = Duration::from_secs(15);

    fn policy() -> Policy {
        Policy {
            within_city: Takeover::Automatic,
            across_cities: Takeover::Manual,
            grace: GRACE,
            hold_down: Duration::from_mins(10),
            sites_down_max: 1,
        }
    }

    /// Two units in one city, one in another; all stand by for each other.
    fn world() -> World {
        let view = |name: &str, city: &str, standby: &[&str]| {
            let view = UnitView {
                consumes: true,
                up: true,
                site: format!("site-of-{name}"),
                city: city.to_owned(),
                standby: standby.iter().map(|one| unit(one)).collect(),
                ..UnitView::default()
            };
            (unit(name), view)
        };
        let gateway = GatewayId::parse("a").unwrap();
        World {
            units: [
                view("sh-1", "shanghai", &["sh-2", "bj-1"]),
                view("sh-2", "shanghai", &["sh-1", "bj-1"]),
                view("bj-1", "beijing", &["sh-1"]),
            ]
            .into(),
            members: ["sh-1", "sh-2", "bj-1"]
                .map(|name| ((unit(name), gateway.clone()), Duration::ZERO))
                .into(),
            ..World::default()
        }
    }

    fn lose(world: &mut World, name: &str, down_for: Duration) {
        let lost = world.units.get_mut(&unit(name)).unwrap();
        (lost.up, lost.down_for) = (false, down_for);
    }

    fn planned(world: &World) -> Option<(String, String)> {
        let plan = plan(world, &Moves::new(), &policy(), 0)?;
        Some((plan.unit.to_string(), plan.by.to_string()))
    }

    #[test]
    fn a_unit_that_is_down_longer_than_the_grace_is_stood_in_for_in_its_own_city() {
        let mut world = world();
        assert_eq!(planned(&world), None);
        lose(&mut world, "sh-1", Duration::from_secs(14));
        assert_eq!(planned(&world), None, "it is doubtful");
        lose(&mut world, "sh-1", GRACE);
        let expected = Some(("sh-1".to_owned(), "sh-2".to_owned()));
        assert_eq!(planned(&world), expected);
        world.stand_ins.insert(unit("sh-1"), unit("sh-2"));
        assert_eq!(planned(&world), None, "it is stood in for");
    }

    #[test]
    fn across_cities_and_beyond_the_sites_that_may_be_down_a_person_decides() {
        let mut world = world();
        lose(&mut world, "bj-1", GRACE);
        assert_eq!(planned(&world), None, "another city");
        lose(&mut world, "sh-1", GRACE);
        assert_eq!(planned(&world), None, "two sites");
    }

    #[test]
    fn a_unit_that_never_ran_or_goes_on_when_cut_off_is_never_stood_in_for() {
        let mut world = world();
        lose(&mut world, "sh-1", GRACE);
        let mut goes_on = world.clone();
        goes_on.isolated = Isolated::GoesOn;
        assert_eq!(planned(&goes_on), None);
        world.members.retain(|(of, _), _| *of != unit("sh-1"));
        assert_eq!(planned(&world), None);
    }

    #[test]
    fn a_unit_that_is_frozen_alone_or_with_all_others_keeps_its_seat() {
        let freeze = || Freeze {
            who: "op".to_owned(),
            why: "disks".to_owned(),
            at: String::new(),
        };
        let mut world = world();
        lose(&mut world, "sh-1", GRACE);
        world.frozen.units.insert(unit("sh-1"), freeze());
        assert_eq!(planned(&world), None);
        world.frozen = Frozen::default();
        world.frozen.units.insert(unit("sh-2"), freeze());
        assert!(planned(&world).is_some());
        world.frozen.all = Some(freeze());
        assert_eq!(planned(&world), None);
    }

    #[test]
    fn a_wish_waits_for_other_moves_and_one_that_was_undone_for_a_person() {
        let mut world = world();
        let wish = |documents: &str| RuleChange {
            sources: [crate::model::SourceName::parse("orders").unwrap()].into(),
            documents: documents.to_owned(),
        };
        assert_eq!(wished(&world, &Moves::new()), None);
        world.wish = Some(wish("a"));
        assert_eq!(wished(&world, &Moves::new()), Some(&wish("a")));
        let with = |documents: &str, stage: Stage| -> Moves {
            let change = Change::Rules(wish(documents));
            let mut one = Move::asked(change, DecidedBy::Policy, Asked::default(), 60);
            one.stage = stage;
            [(MoveId(1), one)].into()
        };
        for stage in [Stage::Asked, Stage::Fenced, Stage::Placed, Stage::Undone] {
            assert_eq!(wished(&world, &with("a", stage)), None, "{stage}");
        }
        assert!(wished(&world, &with("b", Stage::Undone)).is_some());
        assert!(wished(&world, &with("a", Stage::Done)).is_some(), "again");
    }

    #[test]
    fn a_seat_that_has_changed_lately_is_held_down() {
        let mut world = world();
        lose(&mut world, "sh-1", GRACE);
        let failback = json!({
            "stage": Stage::Done,
            "change": {"seats": {"kind": Kind::Failback, "slots": "0", "from": "sh-2", "to": "sh-1"}},
            "who": "op", "why": "", "at": "", "deadline_seconds": 60, "ended_at_ms": 1_000,
        });
        let moves: Moves = [(MoveId(1), serde_json::from_value(failback).unwrap())].into();
        let at = |now_ms| plan(&world, &moves, &policy(), now_ms);
        assert_eq!(at(1_000 + 599_999), None);
        assert!(at(1_000 + 600_000).is_some());
        assert!(at(0).is_some(), "a clock that was set back");
    }
}
