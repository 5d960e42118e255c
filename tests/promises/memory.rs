//! A gateway's memory stays within its budget, whatever sizes wait for it.
//!
//! Messages of 64 KiB and of 60 MiB lie in the lane's queue before the gateway starts, with a prefetch that was made for
//! 1 KiB. `SETGATE_MEMORY_MESSAGES` and `SETGATE_MEMORY_LARGE` say how many of each; `make held` takes 10,000 and 100.

use crate::broker::{Broker, keyed};
use crate::harness::{BY_OWNER, ORDERS, World, eventually, folder, world};
use crate::held::{number, number_of, numbered};
use setgate::amqp::{FieldValue, Properties};
use setgate::lab::{Await, FabricSpec, Node};
use std::time::Duration;
use tokio::task::block_in_place;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

const SMALL_BYTES: u64 = 64 * KIB;
const LARGE_BYTES: u64 = 60 * MIB;

/// Owned by sh-2.
const UID: u32 = 60;

/// Between two messages, with 60 MiB of the next one on its way through two brokers.
const PATIENCE: Duration = Duration::from_mins(2);

/// A field of what the kernel says of a process's memory, in bytes.
fn memory_of(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = status.lines();
    let line = lines.find(|line| line.starts_with(field)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * KIB
}

/// What it has now, and the most that it has had.
const NOW: &str = "VmRSS";
const AT_MOST: &str = "VmHWM";

/// Where the large ones end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Large {
    Carried,
    Parked,
}

/// Has the messages wait, starts the gateway, and looks at the most memory that either end has had once all are where they
/// belong.
async fn stays_within(test: &str, memory: u64, message_max: u64, due: Large) {
    let small = number("SETGATE_MEMORY_MESSAGES", 1_500);
    let large = number("SETGATE_MEMORY_LARGE", 3);
    let rules = folder(&[
        ("world.yaml", &world(&["sh-1", "sh-2"])),
        ("orders.yaml", &format!("{ORDERS}---\n{BY_OWNER}")),
    ]);
    let spec = FabricSpec::folder(rules.path())
        .setting("memory", &format!("{}MiB", memory / MIB))
        .setting("message_max", &format!("{}MiB", message_max / MIB));
    let mut world = World::of(test, spec).await;
    let taker: Node = "gateway/sh-1-a".parse().unwrap();
    let pid = |world: &mut World, name: &str| world.fabric.gateway(name).unwrap().pid.unwrap();

    // Each in its idle state: lanes open, links up, nothing carried yet.
    let taker_pid = pid(&mut world, "sh-1-a");
    let receiver_pid = pid(&mut world, "sh-2-a");
    let idle = [taker_pid, receiver_pid].map(|pid| memory_of(pid, NOW));
    world.fabric.stop(&taker).await.unwrap();

    let mut publisher = world.app("sh-1");
    for number in 0..small + large {
        let bytes = if number < small {
            SMALL_BYTES
        } else {
            LARGE_BYTES
        };
        publish(&mut publisher, number, bytes);
    }
    world.fabric.start(&taker, Await::Nothing).await.unwrap();
    let taker_pid = pid(&mut world, "sh-1-a");

    let mut consumer = world.app("sh-2");
    let mut parked_at = world.app("sh-1");
    let park = world.own_queue("park");
    let mut repeated = 0;
    for number in 0..small + large {
        let (bytes, from, queue) = match (number < small, due) {
            (true, _) => (SMALL_BYTES, &mut consumer, "app.orders.local"),
            (false, Large::Carried) => (LARGE_BYTES, &mut consumer, "app.orders.local"),
            (false, Large::Parked) => (LARGE_BYTES, &mut parked_at, park.as_str()),
        };
        // A broker that chokes on gigabytes loses its connections: what had no answer then comes again.
        let mut got = next(from, queue).await;
        while got.0 < number {
            repeated += 1;
            got = next(from, queue).await;
        }
        assert_eq!(got, (number, bytes));
    }
    world.lane_queue_is_empty().await;
    let mut over = Vec::new();
    let both = [("taker", taker_pid), ("receiver", receiver_pid)];
    for ((name, pid), idle) in both.into_iter().zip(idle) {
        let peak = memory_of(pid, AT_MOST);
        let used = peak.saturating_sub(idle);
        let said = format!(
            "{test}: the {name} had {} MiB at most, {} MiB idle: {} MiB for a budget of {} MiB",
            peak / MIB,
            idle / MIB,
            used / MIB,
            memory / MIB
        );
        println!("{said}");
        if used > memory {
            over.push(said);
        }
    }
    println!("{test}: {small} of 64 KiB carried, {large} of 60 MiB {due:?}, {repeated} twice");
    assert!(over.is_empty(), "{over:#?}");
    world.end().await;
}

fn publish(publisher: &mut Broker, number: u64, bytes: u64) {
    let body = numbered(
        usize::try_from(number).unwrap(),
        usize::try_from(bytes).unwrap(),
    );
    let mut properties: Properties = keyed(UID);
    // They outlive the memory of the broker.
    properties.delivery_mode = Some(2);
    properties
        .headers_mut()
        .set("bytes", FieldValue::I64(i64::try_from(bytes).unwrap()));
    publisher.publish("orders", "order.cn", &properties, body);
}

/// The next message of a queue: which, and how large.
async fn next(broker: &mut Broker, queue: &str) -> (u64, u64) {
    let look = async || block_in_place(|| broker.raw().get(queue)).unwrap();
    let what = format!("a message in {queue}");
    let got = eventually(&what, PATIENCE, look).await.0;
    (number_of(&got.body) as u64, got.body.len() as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_within_its_budget_while_large_messages_are_parked() {
    stays_within("memory-parked", 128 * MIB, 16 * MIB, Large::Parked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_within_its_budget_while_large_messages_are_carried() {
    stays_within("memory-carried", 256 * MIB, 64 * MIB, Large::Carried).await;
}
