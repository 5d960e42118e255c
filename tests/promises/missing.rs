//! An exchange that is missing at the target holds its lane, with the cause, and costs nothing: what was published before
//! it is not published again.

use crate::broker::keyed;
use crate::harness::{ORDERS, World, world};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_exchange_holds_its_lane_and_repeats_nothing_until_it_is_there() {
    let rules = format!("{ORDERS}---\n{RULES}");
    let files = [
        ("world.yaml", world(&["sh-1", "sh-2"])),
        ("orders.yaml", rules),
    ];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let mut world = World::start("missing", &files).await;
    world.delete_exchange("sh-2", "orders.late").await;
    let mut publisher = world.app("sh-1");
    for number in 0..10_u32 {
        for kind in ["good", "late"] {
            let body = format!("{kind} {number}");
            publisher.publish("orders", &format!("order.{kind}"), &keyed(UID), body);
        }
    }
    let held = world.lane("sh-1", "orders", &["held"]).await;
    let cause = held["cause"].as_str().unwrap();
    assert!(
        cause.contains("there is no exchange \"orders.late\""),
        "{cause}"
    );
    let mut consumer = world.app("sh-2");
    block_in_place(|| {
        let raw = consumer.raw();
        raw.declare_exchange("orders.late", "topic").unwrap();
        raw.bind("app.orders.late", "orders.late", "#").unwrap();
    });
    for kind in ["good", "late"] {
        let queue = match kind {
            "good" => "app.orders.local",
            _ => "app.orders.late",
        };
        for number in 0..10_u32 {
            let got = consumer.get(queue).await;
            assert_eq!(got.body_text(), format!("{kind} {number}"));
        }
        assert!(
            consumer.try_get(queue).unwrap().is_none(),
            "{queue} has more"
        );
    }
    world.end().await;
}
