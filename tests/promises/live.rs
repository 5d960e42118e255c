//! Rules change while messages flow: an edited document moves them within a second, garbage moves nothing.

use crate::broker::keyed;
use crate::harness::{BY_OWNER, DEADLINE, ORDERS, World, eventually, world};
use serde_json::Value;
use std::time::Duration;

/// It gives no key another owner, so a plain edit is enough.
const DROP_TESTS: &str = "kind: rule
name: no-tests
source: orders
order: 1
when: {headers: {env: test}}
route: drop
";

const UNITS: [&str; 2] = ["sh-1", "sh-2"];

/// From the end of the change until every gateway routes by the new document.
const SWITCH_MAX: Duration = Duration::from_secs(1);

/// Where each gateway's table sends what is published under this key.
async fn route(world: &mut World) -> Vec<Value> {
    let mut routes = Vec::new();
    for unit in UNITS {
        let page = "/v1/explain?source=orders&routing_key=order.cn&header=uid=10";
        let explained: Value = serde_json::from_str(&world.page(unit, page).await).unwrap();
        routes.push(explained["targets"].clone());
    }
    routes
}

async fn revisions(world: &mut World) -> Vec<i64> {
    let mut revisions = Vec::new();
    for unit in UNITS {
        let status = world.status(unit).await;
        revisions.push(status["table"]["revision"].as_i64().unwrap());
    }
    revisions
}

async fn switched(world: &mut World, to: &str) -> Duration {
    let what = format!("every gateway routes to {to}");
    let look = async || {
        let routes = route(world).await;
        routes
            .iter()
            .all(|targets| *targets == serde_json::json!([to]))
            .then_some(())
    };
    eventually(&what, DEADLINE, look).await.1
}

/// Publishes in both units; all of it arrives in `to`.
async fn goes_to(world: &mut World, to: &str, why: &str) {
    let mut consumer = world.app(to);
    for unit in UNITS {
        let mut publisher = world.app(unit);
        for number in 0..10 {
            publisher.publish("orders", "order.cn", &keyed(10), format!("{unit} {number}"));
        }
        for number in 0..10 {
            let got = consumer.get("app.orders.local").await;
            assert_eq!(got.body_text(), format!("{unit} {number}"));
            assert_eq!(got.text("x-set-why").as_deref(), Some(why));
        }
    }
}

fn pids(world: &mut World) -> Vec<Option<u32>> {
    UNITS
        .iter()
        .map(|unit| world.fabric.gateway(&format!("{unit}-a")).unwrap().pid)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_document_moves_traffic_within_a_second_and_garbage_moves_nothing() {
    let places = world(&UNITS);
    let files = [
        ("world.yaml", places.as_str()),
        ("orders.yaml", ORDERS),
        ("rules.yaml", BY_OWNER),
    ];
    let mut world = World::start("live", &files).await;
    let before = pids(&mut world);
    goes_to(&mut world, "sh-1", "owner").await;

    let revision = revisions(&mut world).await;
    let elsewhere = BY_OWNER.replace("route: owner", "route: {units: [sh-2]}");
    world.put("rules.yaml", &elsewhere);
    // Keys get another owner by it, so it is carried out as a move.
    switched(&mut world, "sh-2").await;
    for (rule, unit) in [(BY_OWNER, "sh-1"), (elsewhere.as_str(), "sh-2")] {
        world.apply("rules.yaml", rule).await;
        let took = switched(&mut world, unit).await;
        assert!(took <= SWITCH_MAX, "it took {took:?}");
    }
    // A page that is read while the table changes shows one before the other.
    let look = async || {
        let edited = revisions(&mut world).await;
        let newer = revision.iter().zip(&edited).all(|(old, new)| old < new);
        newer.then_some(edited)
    };
    let (edited, _) = eventually("the pages show the new table", DEADLINE, look).await;
    goes_to(&mut world, "sh-2", "units").await;

    for garbage in [
        "}{ this is: [no YAML",
        "kind: rule\nname: half\nroute: nowhere\n",
    ] {
        world.put("rules.yaml", garbage);
        for unit in UNITS {
            let rejected = async || {
                let metric = world.metric(unit, "setgate_table_rejected").await;
                let status = world.status(unit).await;
                let faults = status["faults"].as_array().unwrap().clone();
                let named = faults.iter().any(|fault| {
                    let subject = fault["subject"].as_str().unwrap();
                    let mend = fault["mend"].as_str().unwrap();
                    subject.contains("rules.yaml") && !mend.is_empty()
                });
                ((metric - 1.0).abs() < f64::EPSILON && named).then_some(())
            };
            eventually("the garbage is refused and named", DEADLINE, rejected).await;
        }
        assert_eq!(revisions(&mut world).await, edited);
        goes_to(&mut world, "sh-2", "units").await;
    }

    let with_drop = format!("{elsewhere}---\n{DROP_TESTS}");
    world.put("rules.yaml", &with_drop);
    let what = "every gateway drops tests, as the edited document says";
    let page = "/v1/explain?source=orders&routing_key=order.cn&header=uid=10&header=env=test";
    let look = async || {
        let mut dropped = true;
        for unit in UNITS {
            let explained: Value = serde_json::from_str(&world.page(unit, page).await).unwrap();
            dropped &= explained["why"] == "drop";
        }
        dropped.then_some(())
    };
    let ((), took) = eventually(what, DEADLINE, look).await;
    assert!(took <= SWITCH_MAX, "it took {took:?}");
    for unit in UNITS {
        let clean = async || {
            let metric = world.metric(unit, "setgate_table_rejected").await;
            let status = world.status(unit).await;
            let clean = metric.abs() < f64::EPSILON && status["faults"] == serde_json::json!([]);
            clean.then_some(())
        };
        eventually("nothing is refused any more", DEADLINE, clean).await;
    }
    goes_to(&mut world, "sh-2", "units").await;
    world.apply("rules.yaml", BY_OWNER).await;
    switched(&mut world, "sh-1").await;
    goes_to(&mut world, "sh-1", "owner").await;
    assert_eq!(pids(&mut world), before, "no gateway was restarted");
    world.end().await;
}
