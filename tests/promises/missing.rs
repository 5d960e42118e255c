//! What is for an exchange that is missing at the target, or that may not be written to, waits in a diversion, with the cause,
//! and costs nothing: what was published before is not published again at each attempt.

use crate::broker::keyed;
use crate::harness::{DEADLINE, ORDERS, World, eventually, world};
use serde_json::{Value, json};
use tokio::task::block_in_place;

const RULES: &str = "kind: rule
name: good
source: orders
order: 100
when: {routing_key: order.good}
route: owner
---
kind: rule
name: late
source: orders
order: 200
when: {routing_key: order.late}
route: owner
deliver: {exchange: orders.late}
";

/// Owned by sh-2, while all is published in sh-1.
const UID: u32 = 60;

async fn start(test: &str) -> World {
    let rules = format!("{ORDERS}---\n{RULES}");
    let files = [
        ("world.yaml", world(&["sh-1", "sh-2"])),
        ("orders.yaml", rules),
    ];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    World::start(test, &files).await
}

/// Publishes ten of either kind in turn, and waits until the lane says this of why they wait.
async fn publish_until_it_waits(world: &mut World, says: &str) {
    let mut publisher = world.app("sh-1");
    for number in 0..10_u32 {
        for kind in ["good", "late"] {
            let body = format!("{kind} {number}");
            publisher.publish("orders", &format!("order.{kind}"), &keyed(UID), body);
        }
    }
    let waits = async || {
        let lane = world.lane("sh-1", "orders", &["taking", "held"]).await;
        let cause = lane["cause"].as_str()?.to_owned();
        cause.contains(says).then_some(cause)
    };
    eventually(&format!("the cause says {says:?}"), DEADLINE, waits).await;
}

/// All of them are there, once and in order.
async fn arrive(world: &mut World) {
    let mut consumer = world.app("sh-2");
    for (kind, queue) in [("good", "app.orders.local"), ("late", "app.orders.late")] {
        for number in 0..10_u32 {
            let got = consumer.get(queue).await;
            assert_eq!(got.body_text(), format!("{kind} {number}"));
        }
        let more = consumer.try_get(queue).unwrap();
        assert!(more.is_none(), "{queue} has more");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_for_a_missing_exchange_waits_and_repeats_nothing_until_it_is_there() {
    let mut world = start("missing").await;
    world.delete_exchange("sh-2", "orders.late").await;
    publish_until_it_waits(&mut world, "there is no exchange \"orders.late\"").await;
    let mut application = world.app("sh-2");
    block_in_place(|| {
        let raw = application.raw();
        raw.declare_exchange("orders.late", "topic").unwrap();
        raw.bind("app.orders.late", "orders.late", "#").unwrap();
    });
    arrive(&mut world).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_for_an_exchange_that_may_not_be_written_to_waits_and_repeats_nothing() {
    let mut world = start("forbidden").await;
    let without_late = |mut rights: Value| {
        rights["write"] = json!("^(setgate\\..*|orders\\.local)$");
        rights
    };
    let before = world.permit("sh-2", without_late).await;
    publish_until_it_waits(&mut world, "403").await;
    world.permit("sh-2", |_| before.clone()).await;
    arrive(&mut world).await;
    world.end().await;
}
