//! A unit that may be cut off, two that stand by for it, and the coordinator: leases, leave, the margin, the reports.
//!
//! Time goes in seconds, and every age is bounded, so that the model has no end and its states are few. What isn't done is as
//! good as cut: no wires are modelled, an event that doesn't come is one that a cut has kept back. The owner's clock may fall a
//! second behind.

use crate::{takeover, unit};
use setgate::failover::{
    Granters, Policy, Report, Right, Takeover, UnitView, Verdict, World, judge, plan,
};
use setgate::link::{Granter, LEAVE, Standing};
use setgate::model::{Epoch, GatewayId, Lineage, MoveId, Moves, Revision, SlotSet, Stage, UnitId};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::time::Duration;

/// What a lease lives; etcd counts from when it hears of a renewal, the owner from when it sent it.
const TTL: u8 = 2;

/// A safeguard that is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    Nothing,
    /// The owner goes on without lease and leave.
    Leave,
    /// The coordinator doesn't wait until the owner has been away for so long.
    Margin,
    /// It doesn't wait for a granter's word that its leave has ended.
    Report,
    /// The owner goes on with the leave of one member in place of all.
    All,
}

struct Leaving {
    without: Without,
    /// How many stand by.
    members: usize,
}

/// What a gateway knows of the takeover: its stage, and the revision of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Known {
    stage: Option<Stage>,
    revision: i64,
}

impl Known {
    /// By this table the unit is taken over.
    fn taken(self) -> bool {
        matches!(
            self.stage,
            Some(Stage::Fenced | Stage::Drained | Stage::Placed | Stage::Done)
        )
    }

    fn placed(self) -> bool {
        matches!(self.stage, Some(Stage::Placed | Stage::Done))
    }
}

/// Ages and what is left, in seconds: the same whenever it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// The owner's clock has fallen behind.
    lagged: bool,
    etcd: Known,
    /// In etcd: how long the owner's lease lives on; for how long it has been gone.
    lease: u8,
    away: u8,
    drained: i64,
    ungranted: [i64; 2],
    owner: Known,
    /// By the owner's clock: for how long its lease counts on, and the leave of each member.
    leased: u8,
    leave: [u8; 2],
    granters: [Known; 2],
    /// Since when each member's process runs, and when it last granted leave.
    began: [u8; 2],
    granted: [u8; 2],
}

/// An age that is as good as any higher one.
const LONG: u8 = 7;

/// The time at which all ages are counted back from.
const NOW: u8 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    Tick,
    Lag,
    /// The owner renews its lease, or gets another and reads etcd.
    Renew,
    /// It sees what etcd has.
    OwnerSees,
    /// It says that it has drained.
    OwnerReports,
    /// It asks a member for leave.
    Ask(usize),
    MemberSees(usize),
    MemberReports(usize),
    MemberRestarts(usize),
    /// The coordinator does what is due.
    Lead,
}

const STAND_BY: [&str; 2] = ["two", "three"];

fn member(name: &str) -> (UnitId, GatewayId) {
    (unit(name), GatewayId::parse("a").unwrap())
}

fn seconds(count: u8) -> Duration {
    Duration::from_secs(u64::from(count))
}

fn standing(known: Known) -> Standing {
    let taken = known.taken().then(|| unit("one"));
    Standing {
        lineage: Lineage("l".into()),
        epoch: Epoch(1),
        revision: Revision(known.revision),
        units: ["one", "two", "three"].map(unit).into(),
        taken: taken.into_iter().collect(),
        lanes_elsewhere: 1,
    }
}

impl State {
    fn lease_lives(&self) -> bool {
        self.lease > 0
    }

    /// The owner's right, as it came to be what it is.
    fn right(&self) -> Right {
        let mut right = Right::default();
        right.leased(seconds(NOW + self.leased - TTL), seconds(TTL));
        for (name, left) in STAND_BY.into_iter().zip(self.leave) {
            right.granted(member(name), seconds(NOW + left - 5), LEAVE);
        }
        right
    }

    /// A member's memory of the leave that it granted.
    fn granter(&self, at: usize) -> Granter {
        let mut granter = Granter::new(seconds(NOW - self.began[at]));
        let before = standing(Known {
            stage: None,
            revision: 0,
        });
        let asks = (&before.lineage, Epoch(1));
        granter.grants(
            &unit("one"),
            asks,
            Some(&before),
            seconds(NOW - self.granted[at]),
        );
        granter
    }

    fn moves(&self) -> Moves {
        self.etcd.stage.map_or_else(Moves::new, takeover)
    }
}

impl Leaving {
    fn world(&self, state: &State) -> World {
        let away_for = seconds(state.away);
        let view = |name: &str| UnitView {
            slots: SlotSet::parse(if name == "one" { "0-9" } else { "10-19" }).unwrap(),
            consumes: true,
            up: name != "one" || state.lease_lives(),
            down_for: away_for,
            site: name.to_owned(),
            city: "c".to_owned(),
            standby: STAND_BY[..self.members]
                .iter()
                .map(|one| unit(one))
                .collect(),
        };
        let mut reports: Vec<_> = STAND_BY
            .into_iter()
            .take(self.members)
            .zip(state.ungranted)
            .map(|(name, ungranted)| {
                let ungranted = match self.without {
                    Without::Report => i64::MAX,
                    _ => ungranted,
                };
                let report = Report {
                    ungranted: Revision(ungranted),
                    ..Report::default()
                };
                (member(name), report)
            })
            .collect();
        if state.lease_lives() {
            let report = Report {
                drained: Revision(state.drained),
                ..Report::default()
            };
            reports.push((member("one"), report));
        }
        let away_for = match self.without {
            Without::Margin => Duration::from_hours(1),
            _ => away_for,
        };
        World {
            units: ["one", "two", "three"]
                .map(|name| (unit(name), view(name)))
                .into(),
            members: [
                (member("one"), away_for),
                (member("two"), Duration::ZERO),
                (member("three"), Duration::ZERO),
            ]
            .into(),
            reports: reports.into_iter().collect(),
            ..World::default()
        }
    }

    fn owner_may(&self, state: &State) -> bool {
        if state.owner.taken() {
            return false;
        }
        let right = state.right();
        let until = |granters: &Granters| right.until(granters);
        let by = |names: &[&str]| {
            until(&Granters::All(
                names.iter().map(|one| member(one)).collect(),
            ))
        };
        let until = match self.without {
            Without::Leave => until(&Granters::Nobody),
            Without::All => by(&["two"]).max(by(&["three"])),
            _ => by(&STAND_BY[..self.members]),
        };
        until.is_some_and(|until| seconds(NOW) < until)
    }

    /// Whether its move goes on, one way or the other, when its deadline is over and all that run have heard of its stage.
    fn can_end(&self, state: &State) -> bool {
        if state.etcd.stage.is_none_or(Stage::is_over) {
            return true;
        }
        let written = Revision(state.etcd.revision);
        let mut world = self.world(state);
        for report in world.reports.values_mut() {
            report.revision = written;
        }
        let deadline = Duration::from_mins(1);
        let verdict = judge(MoveId(1), &state.moves(), written, deadline, &world);
        !matches!(verdict, Verdict::Wait(_))
    }

    fn lead(&self, state: &mut State) {
        let world = self.world(state);
        let moves = state.moves();
        let stage = match state.etcd.stage {
            Some(stage) if !stage.is_over() => {
                let written = Revision(state.etcd.revision);
                match judge(MoveId(1), &moves, written, Duration::ZERO, &world) {
                    Verdict::Go(stage) => stage,
                    Verdict::Undo(_) => Stage::Undone,
                    Verdict::Wait(_) => return,
                }
            }
            _ => {
                let policy = Policy {
                    within_city: Takeover::Automatic,
                    across_cities: Takeover::Automatic,
                    // A person may decide at once.
                    grace: Duration::ZERO,
                    hold_down: Duration::ZERO,
                    sites_down_max: 1,
                };
                if plan(&world, &Moves::new(), &policy, 0).is_none() || moves.len() > 1 {
                    return;
                }
                Stage::Asked
            }
        };
        state.etcd = Known {
            stage: Some(stage),
            revision: state.etcd.revision + 1,
        };
    }
}

impl Model for Leaving {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let known = Known {
            stage: None,
            revision: 1,
        };
        vec![State {
            lagged: false,
            etcd: known,
            lease: TTL,
            away: 0,
            drained: 0,
            ungranted: [0; 2],
            owner: known,
            leased: TTL,
            leave: [0; 2],
            granters: [known; 2],
            began: [LONG; 2],
            granted: [LONG; 2],
        }]
    }

    fn actions(&self, _: &State, actions: &mut Vec<Action>) {
        actions.extend([
            Action::Tick,
            Action::Renew,
            Action::OwnerSees,
            Action::OwnerReports,
            Action::Lead,
        ]);
        for at in 0..self.members {
            actions.extend([
                Action::Ask(at),
                Action::MemberSees(at),
                Action::MemberReports(at),
            ]);
        }
        // Two members have many more states: there neither is needed to find what is sought.
        if self.members == 1 {
            actions.extend([Action::Lag, Action::MemberRestarts(0)]);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => {
                let older = |age: u8| (age + 1).min(LONG);
                state.lease = state.lease.saturating_sub(1);
                state.away = if state.lease == 0 {
                    older(state.away)
                } else {
                    0
                };
                state.leased = state.leased.saturating_sub(1);
                state.leave = state.leave.map(|left| left.saturating_sub(1));
                state.began = state.began.map(older);
                state.granted = state.granted.map(older);
            }
            // A second has passed that the owner's clock hasn't counted.
            Action::Lag if !state.lagged => {
                let more = |left: u8| if left > 0 { left + 1 } else { 0 };
                state.lagged = true;
                state.leased = more(state.leased);
                state.leave = state.leave.map(more);
            }
            Action::Lag => return None,
            Action::Renew => {
                if !state.lease_lives() {
                    state.owner = state.etcd;
                }
                (state.lease, state.away) = (TTL, 0);
                state.leased = state.leased.max(TTL);
            }
            Action::OwnerSees => state.owner = state.etcd,
            Action::OwnerReports => {
                if state.owner.taken() && state.lease_lives() {
                    state.drained = state.owner.revision;
                }
            }
            Action::Ask(at) => {
                let standing = standing(state.granters[at]);
                let lineage = standing.lineage.clone();
                let asks = (&lineage, Epoch(1));
                let mut granter = state.granter(at);
                if granter.grants(&unit("one"), asks, Some(&standing), seconds(NOW)) {
                    state.granted[at] = 0;
                    state.leave[at] = state.leave[at].max(5);
                }
            }
            Action::MemberSees(at) => state.granters[at] = state.etcd,
            Action::MemberReports(at) => {
                let standing = standing(state.granters[at]);
                let ended = state.granter(at).ended(&standing, seconds(NOW));
                if let (true, Some(revision)) = (state.granters[at].taken(), ended) {
                    state.ungranted[at] = revision.0;
                }
            }
            Action::MemberRestarts(at) => {
                state.began[at] = 0;
                // It has forgotten what it granted.
                state.granted[at] = LONG;
            }
            Action::Lead => self.lead(&mut state),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one owner", |model: &Self, state: &State| {
                !(model.owner_may(state) && state.granters[0].placed())
            }),
            Property::always("every move can end", |model: &Self, state: &State| {
                model.can_end(state)
            }),
            Property::sometimes("taken over", |_, state: &State| state.granters[0].placed()),
            Property::sometimes("goes on by leave alone", |model: &Self, state: &State| {
                model.owner_may(state) && state.away > 3
            }),
        ]
    }

    /// What is said of an older revision, and asked for after the takeover, leads nowhere new.
    fn within_boundary(&self, state: &State) -> bool {
        state.etcd.revision <= 6
    }
}

fn found(without: Without, members: usize) -> bool {
    let checker = Leaving { without, members }.checker().threads(2);
    let checker = checker.finish_when(HasDiscoveries::AnyFailures);
    checker.spawn_bfs().join().discovery("one owner").is_some()
}

#[test]
fn whoever_is_cut_off_from_whom_a_slot_has_one_owner() {
    let model = Leaving {
        without: Without::Nothing,
        members: 1,
    };
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn without_leave_a_slot_has_two_owners() {
    assert!(found(Without::Leave, 1));
}

#[test]
fn without_the_margin_a_slot_has_two_owners() {
    assert!(found(Without::Margin, 1));
}

#[test]
fn without_the_granters_report_a_slot_has_two_owners() {
    assert!(found(Without::Report, 1));
}

#[test]
fn with_leave_of_one_member_in_place_of_all_a_slot_has_two_owners() {
    assert!(found(Without::All, 2));
}
