//! Two gateways that both think that they lead, one of them with what etcd had some time ago.

use crate::{takeover, unit};
use setgate::failover::{Report, UnitView, Verdict, World, judge};
use setgate::model::{GatewayId, MoveId, Revision, SlotSet, Stage};
use stateright::{Checker, Model, Property};
use std::time::Duration;

/// Whether each write is compared with the key that made the writer the leader, and with what it was judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compared {
    Yes,
    No,
}

struct Leading {
    compared: Compared,
}

/// What etcd has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Etcd {
    stage: Stage,
    revision: u8,
    leader: usize,
    /// The lost unit holds its lease.
    leased: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    etcd: Etcd,
    /// What each gateway that leads, or did, has read.
    read: [Etcd; 2],
    /// The stages that owner and stand-in know of.
    owner: Stage,
    stand_in: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    Read(usize),
    Elect(usize),
    Write(usize),
    /// The owner gets a lease: it has read etcd since.
    Lease,
    Expire,
    OwnerSees,
    StandInSees,
}

fn taken(stage: Stage) -> bool {
    stage.fences() || placed(stage)
}

fn placed(stage: Stage) -> bool {
    matches!(stage, Stage::Placed | Stage::Done)
}

/// The lost unit has been away for long enough, and leave has ended: all but the lead.
fn world(etcd: Etcd) -> World {
    let view = |slots: &str, up| UnitView {
        slots: SlotSet::parse(slots).unwrap(),
        consumes: true,
        up,
        standby: vec![unit("two")],
        ..UnitView::default()
    };
    let gateway = GatewayId::parse("a").unwrap();
    let report = Report {
        revision: Revision(i64::MAX),
        ungranted: Revision(i64::MAX),
        ..Report::default()
    };
    let away = Duration::from_hours(1);
    World {
        units: [
            (unit("one"), view("0-9", etcd.leased)),
            (unit("two"), view("10-19", true)),
        ]
        .into(),
        members: [
            ((unit("one"), gateway.clone()), away),
            ((unit("two"), gateway.clone()), Duration::ZERO),
        ]
        .into(),
        reports: [((unit("two"), gateway), report)].into(),
        ..World::default()
    }
}

fn judged(etcd: Etcd) -> Option<Stage> {
    let moves = takeover(etcd.stage);
    let written = Revision(i64::from(etcd.revision));
    match judge(MoveId(1), &moves, written, Duration::ZERO, &world(etcd)) {
        Verdict::Go(stage) => Some(stage),
        Verdict::Undo(_) => Some(Stage::Undone),
        Verdict::Wait(_) => None,
    }
}

impl Model for Leading {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let etcd = Etcd {
            stage: Stage::Asked,
            revision: 1,
            leader: 0,
            leased: false,
        };
        vec![State {
            etcd,
            read: [etcd; 2],
            owner: Stage::Asked,
            stand_in: Stage::Asked,
        }]
    }

    fn actions(&self, _: &State, actions: &mut Vec<Action>) {
        actions.extend([
            Action::Lease,
            Action::Expire,
            Action::OwnerSees,
            Action::StandInSees,
        ]);
        for at in 0..2 {
            actions.extend([Action::Read(at), Action::Elect(at), Action::Write(at)]);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Read(at) => state.read[at] = state.etcd,
            Action::Elect(at) => state.etcd.leader = at,
            Action::Write(at) => {
                let read = state.read[at];
                let same = state.etcd.leader == at && state.etcd.revision == read.revision;
                if self.compared == Compared::Yes && !same {
                    return None;
                }
                state.etcd.stage = judged(read)?;
                state.etcd.revision += 1;
            }
            Action::Lease => {
                state.etcd.leased = true;
                state.owner = state.etcd.stage;
            }
            // Then it has no right any more: leave has ended in this world.
            Action::Expire => state.etcd.leased = false,
            Action::OwnerSees => state.owner = state.etcd.stage,
            Action::StandInSees => state.stand_in = state.etcd.stage,
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one owner", |_, state: &State| {
                let owner_may = state.etcd.leased && !taken(state.owner);
                !(owner_may && placed(state.stand_in) && placed(state.etcd.stage))
            }),
            Property::sometimes("taken over", |_, state: &State| placed(state.stand_in)),
            Property::sometimes("undone", |_, state: &State| {
                state.etcd.stage == Stage::Undone
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.etcd.revision <= 8
    }
}

#[test]
fn whoever_thinks_that_it_leads_a_slot_has_one_owner() {
    let model = Leading {
        compared: Compared::Yes,
    };
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

#[test]
fn without_the_comparison_a_former_leader_makes_two_owners() {
    let model = Leading {
        compared: Compared::No,
    };
    let checker = model.checker().threads(2).spawn_bfs().join();
    assert!(checker.discovery("one owner").is_some());
}
