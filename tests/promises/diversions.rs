//! A unit that is lost holds nobody else up, and what was meant for it comes in order when it is back.

use crate::broker::{Broker, keyed};
use crate::harness::{BY_OWNER, DEADLINE, ORDERS, World, eventually, world};
use setgate::lab::{Await, Node};
use std::collections::BTreeSet;

/// Owned by sh-1 and sh-2.
const NEAR: u32 = 10;
const FAR: u32 = 60;
/// More than a lane may have in flight.
const FAR_MESSAGES: usize = 3_000;
const NEAR_MESSAGES: usize = 200;
const LATER: usize = 500;

async fn start(test: &str) -> World {
    let files = [
        ("world.yaml", world(&["sh-1", "sh-2"])),
        ("orders.yaml", format!("{ORDERS}---\n{BY_OWNER}")),
    ];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    World::start(test, &files).await
}

fn publish(publisher: &mut Broker, uid: u32, numbers: std::ops::Range<usize>) {
    for number in numbers {
        publisher.publish("orders", "order.cn", &keyed(uid), format!("{number}"));
    }
}

/// All of them arrive, the first of each in order; those that come again are marked. How many those were.
async fn arrive(consumer: &mut Broker, messages: usize) -> usize {
    let mut seen = BTreeSet::new();
    let mut again = 0;
    while seen.len() < messages {
        let got = consumer.get("app.orders.local").await;
        let number: usize = got.body_text().parse().unwrap();
        if seen.insert(number) {
            assert_eq!(number, seen.len() - 1, "out of order");
        } else {
            assert!(
                got.properties.header("x-set-in-doubt").is_some(),
                "{number} came twice, unmarked"
            );
            again += 1;
        }
    }
    again
}

/// What `sh-1` says of its diversion for `sh-2`.
async fn diversion(world: &mut World) -> serde_json::Value {
    let status = world.status("sh-1").await;
    let lane = &status["lanes"][0];
    let targets = lane["targets"].as_array().unwrap();
    let target = targets.iter().find(|target| target["to"] == "sh-2");
    target.map_or(serde_json::Value::Null, |target| {
        target["diversion"].clone()
    })
}

async fn direct(world: &mut World) {
    let look = async || diversion(world).await.is_null().then_some(());
    eventually("the way to sh-2 is direct", DEADLINE, look).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_that_is_lost_holds_nobody_up_and_gets_its_own_in_order_when_it_is_back() {
    let mut world = start("diverted").await;
    let mut publisher = world.app("sh-1");
    let mut near = world.app("sh-1");
    let mut far = world.app("sh-2");
    publish(&mut publisher, FAR, 0..1);
    arrive(&mut far, 1).await;
    world.lane_queue_is_empty().await;
    let lost: Node = "gateway/sh-2-a".parse().unwrap();
    world.fabric.pause(&lost).unwrap();
    publish(&mut publisher, FAR, 0..FAR_MESSAGES);
    publish(&mut publisher, NEAR, 0..NEAR_MESSAGES);
    arrive(&mut near, NEAR_MESSAGES).await;
    world.lane_queue_is_empty().await;
    let held = diversion(&mut world).await;
    assert_eq!(held["messages"], FAR_MESSAGES);
    assert!(
        ["slow", "down"].contains(&held["reason"].as_str().unwrap()),
        "{held}"
    );
    let said = world.metric("sh-1", "setgate_diverted").await;
    assert!((said - FAR_MESSAGES as f64).abs() < 0.5, "{said}");

    world.fabric.resume(&lost).unwrap();
    publish(&mut publisher, FAR, FAR_MESSAGES..FAR_MESSAGES + LATER);
    let again = arrive(&mut far, FAR_MESSAGES + LATER).await;
    println!("{again} came again, marked");
    direct(&mut world).await;
    world.lane_queue_is_empty().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_that_is_restarted_drains_what_its_former_life_has_diverted_first() {
    let mut world = start("found").await;
    let mut publisher = world.app("sh-1");
    let mut far = world.app("sh-2");
    let lost: Node = "gateway/sh-2-a".parse().unwrap();
    world.fabric.pause(&lost).unwrap();
    publish(&mut publisher, FAR, 0..LATER);
    world.lane_queue_is_empty().await;
    assert_eq!(diversion(&mut world).await["messages"], LATER);
    let own: Node = "gateway/sh-1-a".parse().unwrap();
    world.fabric.kill(&own).await.unwrap();
    world.fabric.start(&own, Await::Ready).await.unwrap();
    // Nothing comes to it, and it finds what it has left all the same.
    let look = async || {
        let found = diversion(&mut world).await;
        (found["reason"] == "found" && found["found"] == true).then_some(())
    };
    eventually("the lane has found its diversion", DEADLINE, look).await;
    publish(&mut publisher, FAR, LATER..2 * LATER);
    world.lane_queue_is_empty().await;
    world.fabric.resume(&lost).unwrap();
    arrive(&mut far, 2 * LATER).await;
    direct(&mut world).await;
    world.end().await;
}
