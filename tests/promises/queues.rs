//! Sources side by side: an exchange, a classic queue, a quorum queue with single active consumer; and one without,
//! which is refused.

use crate::broker::{Broker, keyed};
use crate::harness::{BY_OWNER, DEADLINE, ORDERS, World, eventually, world};
use serde_json::json;
use setgate::amqp::Properties;
use setgate::lab::raw::{RawClient, RawError};
use tokio::task::block_in_place;

/// A source that takes from an application's queue `in.<name>` in sh-1, and its rule.
fn queue_source(name: &str) -> String {
    format!(
        "kind: source\nname: {name}\nunits: [sh-1]\ntake: {{queue: in.{name}}}\n\
         deliver: {{exchange: {name}.local}}\nkey: {{from: [{{header: uid}}], map: digits}}\n\
         ---\nkind: rule\nname: {name}-by-owner\nsource: {name}\norder: 100\nroute: owner\n"
    )
}

/// Publishes 20 for either unit, and gets them there in order.
async fn passes(world: &mut World, exchange: &str, key: &str, deliver: &str) {
    let mut publisher = world.app("sh-1");
    for number in 0..20_u32 {
        for uid in [10, 60] {
            publisher.publish(exchange, key, &keyed(uid), format!("{key} {uid} {number}"));
        }
    }
    for (unit, uid) in [("sh-1", 10), ("sh-2", 60)] {
        let mut consumer = world.app(unit);
        for number in 0..20 {
            let got = consumer.get(&format!("app.{deliver}")).await;
            assert_eq!(got.body_text(), format!("{key} {uid} {number}"));
            assert_eq!(got.routing_key, key);
            assert_eq!(got.exchange, deliver);
            assert_eq!(got.text("x-set-to").as_deref(), Some(unit));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queue_and_exchange_sources_work_side_by_side_and_a_shared_quorum_queue_is_refused() {
    let files = [
        ("world.yaml", world(&["sh-1", "sh-2"])),
        ("orders.yaml", format!("{ORDERS}---\n{BY_OWNER}")),
        ("classic.yaml", queue_source("classic")),
        ("single.yaml", queue_source("single")),
        ("many.yaml", queue_source("many")),
    ];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let mut world = World::start("queues", &files).await;
    // The lab has made all three of them classic: lanes find their queues gone, and take them up as they are now.
    let single = json!({"x-queue-type": "quorum", "x-single-active-consumer": true});
    world.queue("sh-1", "in.single", single).await;
    let many = json!({"x-queue-type": "quorum"});
    world.queue("sh-1", "in.many", many).await;

    let refused = async || {
        let status = world.status("sh-1").await;
        let lanes = status["lanes"].as_array().unwrap();
        let lane = lanes.iter().find(|lane| lane["source"] == "many")?;
        let cause = lane["cause"].as_str()?.to_owned();
        (lane["state"] == "down" && cause.contains("quorum")).then_some(cause)
    };
    let (cause, _) = eventually("the quorum queue is refused", DEADLINE, refused).await;
    for part in [
        "in.many",
        "without single active consumer",
        "x-single-active-consumer: true",
    ] {
        assert!(cause.contains(part), "{cause}");
    }
    world
        .app("sh-1")
        .publish("", "in.many", &keyed(10), "nobody's");

    passes(&mut world, "orders", "order.cn", "orders.local").await;
    passes(&mut world, "", "in.classic", "classic.local").await;
    passes(&mut world, "", "in.single", "single.local").await;

    // Nobody has touched the refused one, and it is refused still.
    assert_eq!(world.lane("sh-1", "many", &["down"]).await["in_flight"], 0);
    let mut app = world.app("sh-1");
    assert_eq!(app.get("in.many").await.body_text(), "nobody's");
    for source in ["orders", "classic", "single"] {
        world.lane("sh-1", source, &["taking", "waiting"]).await;
    }

    // Made anew as the mend says, it is taken up.
    let single = json!({"x-queue-type": "quorum", "x-single-active-consumer": true});
    world.queue("sh-1", "in.many", single).await;
    passes(&mut world, "", "in.many", "many.local").await;

    no_more_than_it_needs(&mut world);
    world.end().await;
}

/// All of the above was done by a user who may do little else.
fn no_more_than_it_needs(world: &mut World) {
    let lab = world.fabric.lab();
    let uri = lab.unit("sh-1").unwrap().brokers[0].gateway_uri();
    let denied = |what: &str, act: &dyn Fn(&mut RawClient) -> Result<(), RawError>| {
        // A refusal closes the channel.
        let mut gateway = Broker::connect(&uri);
        match block_in_place(|| act(gateway.raw())) {
            Err(RawError::Closed { code: 403, .. }) => {}
            other => panic!("{what}: {other:?}"),
        }
    };
    let none = Properties::default().encode().unwrap();
    denied("declaring an exchange", &|it| {
        it.declare_exchange("mine", "topic")
    });
    denied("declaring a queue", &|it| it.declare_queue("mine"));
    denied("publishing where applications publish", &|it| {
        it.publish(b"orders", b"order.cn", &none, b"").map(drop)
    });
    denied("taking what was delivered", &|it| {
        it.get("app.orders.local").map(drop)
    });
}
