//! Conservation and order, whatever targets and links do.

use crate::world::{World, here, order, there};
use proptest::prelude::*;
use setgate::lane::Target;
use setgate::model::{Answer, Parcel};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Debug, Clone)]
enum Step {
    Take { uid: i32 },
    Send { there: bool },
    Answer { there: bool, how: u8 },
    Cut { there: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..100i32).prop_map(|uid| Step::Take { uid }),
        4 => any::<bool>().prop_map(|there| Step::Send { there }),
        4 => (any::<bool>(), any::<u8>()).prop_map(|(there, how)| Step::Answer { there, how }),
        1 => any::<bool>().prop_map(|there| Step::Cut { there }),
    ];
    prop::collection::vec(step, 1..300)
}

/// One target as the test keeps it: what is under way, and what has arrived.
#[derive(Default)]
struct Side {
    up: bool,
    under_way: VecDeque<Parcel>,
    arrived: Vec<(u64, bool)>,
}

fn id(parcel: &Parcel) -> u64 {
    let id = parcel.id.as_ref().unwrap();
    std::str::from_utf8(&id.0[1..]).unwrap().parse().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_targets_and_links_do_nothing_is_lost_or_settled_early_and_order_holds(
        steps in steps()
    ) {
        let mut world = World::new("orders", 64);
        let mut sides: BTreeMap<Target, Side> = BTreeMap::new();
        let mut taken = 0u64;
        let mut owner: BTreeMap<u64, Target> = BTreeMap::new();
        let side_of = |there_side: bool| if there_side { there() } else { here() };
        let finish = |sides: &mut BTreeMap<Target, Side>, world: &mut World| {
            for target in [here(), there()] {
                let side = sides.entry(target.clone()).or_default();
                world.lane.stream_down(&target, "end".into());
                side.under_way.clear();
                world.lane.stream_up(&target, 1 << 20, 100);
                while let Some(parcel) = world.next(&target) {
                    side.arrived.push((id(&parcel), parcel.sent_before));
                    world.answer(&target, parcel.number, Answer::Accepted);
                }
            }
        };
        for step in steps {
            match step {
                Step::Take { uid } if world.lane.has_room() => {
                    taken += 1;
                    owner.insert(taken, side_of(uid >= 50));
                    world.take(taken, order(uid, taken));
                }
                Step::Take { .. } => {}
                Step::Send { there } => {
                    let target = side_of(there);
                    let side = sides.entry(target.clone()).or_default();
                    if !side.up {
                        world.lane.stream_up(&target, 1 << 20, 10);
                        side.up = true;
                    }
                    side.under_way.extend(world.next(&target));
                }
                Step::Answer { there, how } => {
                    let target = side_of(there);
                    let side = sides.entry(target.clone()).or_default();
                    let Some(parcel) = side.under_way.pop_front() else { continue };
                    if how < 200 {
                        side.arrived.push((id(&parcel), parcel.sent_before));
                        world.answer(&target, parcel.number, Answer::Accepted);
                    } else {
                        world.answer(&target, parcel.number, Answer::Later { cause: "full".into() });
                        side.under_way.clear();
                        side.up = false;
                        world.lane.stream_down(&target, "ended".into());
                    }
                }
                Step::Cut { there } => {
                    let target = side_of(there);
                    let side = sides.entry(target.clone()).or_default();
                    // The first of what was under way arrived; its answer didn't.
                    if let Some(parcel) = side.under_way.pop_front() {
                        side.arrived.push((id(&parcel), parcel.sent_before));
                    }
                    side.under_way.clear();
                    side.up = false;
                    world.lane.stream_down(&target, "cut".into());
                }
            }
            // Nothing is settled that has not arrived.
            for settled in 1..=world.settled {
                let arrived = &sides[&owner[&settled]].arrived;
                prop_assert!(arrived.iter().any(|(id, _)| *id == settled));
            }
        }
        finish(&mut sides, &mut world);
        prop_assert_eq!(world.settled_count as u64, taken);
        for (target, side) in &sides {
            let mut seen = BTreeSet::new();
            let mut highest = 0;
            for (id, sent_before) in &side.arrived {
                prop_assert_eq!(&owner[id], target);
                if seen.insert(*id) {
                    prop_assert!(*id > highest, "first arrivals are in order");
                    highest = *id;
                } else {
                    prop_assert!(*sent_before, "what comes twice is marked");
                }
            }
        }
        let arrived: usize = sides.values().map(|side| {
            side.arrived.iter().map(|(id, _)| id).collect::<BTreeSet<_>>().len()
        }).sum();
        prop_assert_eq!(arrived as u64, taken, "everything arrived");
    }
}
