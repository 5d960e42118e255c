//! Several units in one seeded world: whatever breaks, nothing is lost, nothing comes twice unmarked, nothing out of order.
//!
//! The real core (lanes, links, receivers, routing) under shells that do what the gateway's do, with brokers, wires and a
//! clock that are simulated. `SETGATE_SEED=n` replays one seed, `SETGATE_SEEDS=n` says how many there are; of one
//! that fails the last 120 events are shown, or `SETGATE_EVENTS=n`.

#![allow(clippy::unwrap_used)] // tests and their helpers panic at what must hold

mod account;
mod broker;
mod facts;
mod gateway;
mod journal;
mod receiving;
#[path = "../shared/seeds.rs"]
mod seeds;
mod sim;
mod taking;
mod wire;

use crate::account::Tells;
use crate::seeds::{number, seeds};
use crate::sim::World;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};

#[test]
fn whatever_breaks_in_a_world_of_units_nothing_is_lost_or_out_of_order_or_twice_without_a_mark() {
    let seeds = seeds();
    let last = number("SETGATE_EVENTS").map_or(120, |last| usize::try_from(last).unwrap());
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            if catch_unwind(|| World::new(seed, Tells::Nothing).run()).is_err() {
                // Once more, to tell what came before.
                next.store(seeds.end, Ordering::Relaxed);
                World::new(seed, Tells::Events { last }).run();
                panic!("seed {seed} fails, and then it doesn't");
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}
