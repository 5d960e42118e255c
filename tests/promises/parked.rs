//! What lies in the park can be listed, shown, given back in order, and dropped only as counted.

use crate::broker::{Broker, headers, keyed};
use crate::harness::{DEADLINE, ORDERS, World, eventually, world};
use bytes::Bytes;
use serde_json::{Value, json};
use setgate::amqp::{FieldValue, Properties};
use setgate::lab::http::Login;
use std::process::Stdio;

/// Owned by sh-2, while all is published in sh-1.
const UID: u32 = 60;

const HELD: &str = "kind: rule
name: hold
source: orders
order: 100
when: {routing_key: order.held}
route: park
";

const MENDED: &str = "kind: rule
name: mended
source: orders
order: 100
when: {routing_key: order.held}
route: owner
";

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Value {
        let last = self.out.lines().last();
        let last = last.unwrap_or_else(|| panic!("it said {}", self.err));
        serde_json::from_str(last).unwrap()
    }
}

/// `setgate parked …` as an operator beside the gateway of sh-1 calls it.
async fn parked(world: &mut World, words: &[&str]) -> Said {
    let config = world.fabric.gateway("sh-1-a").unwrap().config;
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_setgate"))
        .arg("parked")
        .args(words)
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

async fn listed(world: &mut World, words: &[&str]) -> Vec<Value> {
    let said = parked(world, &[&["list", "-o", "json"], words].concat()).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    said.json().as_array().unwrap().clone()
}

/// Waits until so many are listed.
async fn lie_there(world: &mut World, count: usize, words: &[&str]) -> Vec<Value> {
    let look = async || {
        let list = listed(world, words).await;
        (list.len() == count).then_some(list)
    };
    eventually(&format!("{count} are parked"), DEADLINE, look)
        .await
        .0
}

fn order(id: usize) -> Properties {
    let mut properties = keyed(UID);
    properties.message_id = Some(format!("order-{id}").into());
    let copies = FieldValue::Array(vec![FieldValue::str("elsewhere.copy")]);
    properties.headers_mut().set("CC", copies);
    properties.expiration = Some(Bytes::from_static(b"600000"));
    properties.delivery_mode = Some(1);
    properties
}

fn ids(list: &[Value]) -> Vec<String> {
    let id = |entry: &Value| entry["id"].as_str().unwrap_or_default().to_owned();
    list.iter().map(id).collect()
}

async fn start(test: &str) -> (World, Broker) {
    let mut world = World::start(
        test,
        &[
            ("world.yaml", &world(&["sh-1", "sh-2"])),
            ("orders.yaml", ORDERS),
            ("rules.yaml", HELD),
        ],
    )
    .await;
    let app = world.app("sh-1");
    (world, app)
}

async fn mend(world: &mut World) {
    world.put("rules.yaml", MENDED);
    let page = "/v1/explain?source=orders&routing_key=order.held&header=uid%3D60";
    let look = async || {
        let answer: Value = serde_json::from_str(&world.page("sh-1", page).await).unwrap();
        (answer["rule"] == "mended").then_some(())
    };
    eventually("the rule is mended", DEADLINE, look).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_parked_is_retried_in_order_once_its_rule_is_mended() {
    const COUNT: usize = 30;
    let (mut world, mut app) = start("retried").await;
    for id in 0..COUNT {
        app.publish("orders", "order.held", &order(id), format!("order {id}"));
    }
    app.publish("orders", "order.other", &headers([]), "no rule");

    let list = lie_there(&mut world, COUNT + 1, &[]).await;
    let by_rule = listed(&mut world, &["--rule", "hold"]).await;
    let due: Vec<String> = (0..COUNT).map(|id| format!("order-{id}")).collect();
    assert_eq!(ids(&by_rule), due, "oldest first");
    assert_eq!(list.len(), COUNT + 1);
    let first = &by_rule[0];
    for (field, due) in [
        ("source", json!("orders")),
        ("rule", json!("hold")),
        ("reason", json!("rule")),
        ("origin", json!("sh-1")),
        ("unit", json!("sh-1")),
        ("bytes", json!("order 0".len())),
        ("retry", json!(0)),
    ] {
        assert_eq!(first[field], due, "{field}");
    }
    let stranger = listed(&mut world, &["--reason", "no_rule"]).await;
    assert_eq!(stranger.len(), 1);
    assert_eq!(stranger[0]["id"], Value::Null);
    assert_eq!(listed(&mut world, &["--unit", "sh-2"]).await.len(), 0);
    assert_eq!(
        listed(&mut world, &["--since", "1h"]).await.len(),
        COUNT + 1
    );
    let text = parked(&mut world, &["list", "--limit", "3"]).await;
    assert_eq!(text.code, Some(0));
    assert!(text.out.contains("order-2") && !text.out.contains("order-3"));
    assert!(text.err.contains("28 more match"), "{}", text.err);

    let shown = parked(&mut world, &["show", "order-7", "-o", "json"]).await;
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    let shown = shown.json();
    assert_eq!(shown["exchange"], "orders");
    assert_eq!(shown["routing_key"], "order.held");
    assert_eq!(shown["body"], "order 7");
    assert_eq!(shown["properties"]["expiration"], "600000");
    assert_eq!(shown["properties"]["headers"]["uid"], "60");
    let handle = stranger[0]["handle"].as_str().unwrap();
    let text = parked(&mut world, &["show", handle]).await;
    assert!(text.out.contains("no_rule"), "{}", text.out);
    let nobody = parked(&mut world, &["show", "nobody"]).await;
    assert_eq!(nobody.code, Some(1));

    // Retried too early it is parked again, behind the others, and says so.
    let early = parked(&mut world, &["retry", "--id", "order-3", "-o", "json"]).await;
    assert_eq!(
        (early.code, &early.json()["retried"]),
        (Some(0), &json!(1)),
        "{}",
        early.err
    );
    let list = lie_there(&mut world, COUNT, &["--rule", "hold"]).await;
    let last = list.last().unwrap();
    assert_eq!(
        (&last["id"], &last["retry"]),
        (&json!("order-3"), &json!(1))
    );

    mend(&mut world).await;
    let retried = parked(
        &mut world,
        &["retry", "--rule", "hold", "--rate", "100/s", "-o", "json"],
    )
    .await;
    assert_eq!(retried.code, Some(0), "{}", retried.err);
    assert_eq!(retried.json()["retried"], json!(COUNT));
    let mut consumer = world.app("sh-2");
    for id in (0..COUNT).filter(|id| *id != 3).chain([3]) {
        let got = consumer.get("app.orders.local").await;
        assert_eq!(got.body_text(), format!("order {id}"));
        let sent = order(id);
        assert_eq!(got.properties.message_id, sent.message_id);
        assert_eq!(got.properties.delivery_mode, Some(1));
        assert_eq!(got.routing_key, "order.held");
        assert_eq!(got.properties.header("CC"), sent.header("CC"));
        assert_eq!(got.path(), ["sh-1", "sh-2"]);
        let retry = got.properties.header("x-set-retry");
        let due = if id == 3 { 2 } else { 1 };
        assert_eq!(retry, Some(&FieldValue::I32(due)));
        assert_eq!(
            got.properties.header("x-set-round"),
            Some(&FieldValue::I32(1))
        );
        assert_eq!(got.properties.header("x-set-source"), None);
    }
    assert_eq!(consumer.try_get("app.orders.local").unwrap(), None);
    lie_there(&mut world, 1, &[]).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drop_takes_exactly_what_was_counted() {
    let (mut world, mut app) = start("dropped").await;
    for id in 0..5 {
        app.publish("orders", "order.held", &order(id), format!("order {id}"));
        app.publish("orders", "order.other", &keyed(UID), format!("other {id}"));
    }
    lie_there(&mut world, 10, &[]).await;
    for wrong in ["4", "6", "10", "0"] {
        let words = ["drop", "--rule", "hold", "--count", wrong];
        let refused = parked(&mut world, &words).await;
        assert_eq!(refused.code, Some(1));
        assert!(refused.err.contains("5 match"), "{}", refused.err);
    }
    assert_eq!(
        parked(&mut world, &["drop"]).await.code,
        Some(2),
        "no count"
    );
    assert_eq!(listed(&mut world, &[]).await.len(), 10);
    let no_token = world.fabric.gateway("sh-1-a").unwrap().admin;
    let url = format!("http://{no_token}/v1/parked/show?id=order-1");
    let (status, _) = world.fabric.http().get(&url, None).await.unwrap();
    assert_eq!(status.as_u16(), 401);

    let words = ["drop", "--rule", "hold", "--count", "5", "-o", "json"];
    let dropped = parked(&mut world, &words).await;
    assert_eq!(dropped.code, Some(0), "{}", dropped.err);
    assert_eq!(dropped.json(), json!({"dropped": 5}));
    let left = lie_there(&mut world, 5, &[]).await;
    assert!(left.iter().all(|entry| entry["reason"] == "no_rule"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_park_is_seen_and_loses_nothing() {
    let (mut world, mut app) = start("full").await;
    // The park is declared with its first message.
    app.publish("orders", "order.held", &order(0), "order 0");
    lie_there(&mut world, 1, &[]).await;
    let park = world.own_queue("park");
    let (url, user, password) = world.management("sh-1", "policies", "small");
    let login = || Login {
        user: &user,
        password: &password,
    };
    let policy = json!({
        "pattern": format!("^{}$", park.replace('.', "\\.")),
        "definition": {"max-length": 2},
        "apply-to": "queues",
    });
    world
        .fabric
        .http()
        .put(&url, login(), &policy)
        .await
        .unwrap();
    for id in 1..12 {
        app.publish("orders", "order.held", &order(id), format!("order {id}"));
    }
    let held = async || {
        let status = world.status("sh-1").await;
        let lane = status["lanes"][0].clone();
        let cause = lane["cause"].as_str().unwrap_or_default().to_owned();
        cause.contains("full").then_some(cause)
    };
    eventually("the lane says why it is held", DEADLINE, held).await;
    world.fabric.http().delete(&url, login()).await.unwrap();
    let list = lie_there(&mut world, 12, &[]).await;
    let due: Vec<String> = (0..12).map(|id| format!("order-{id}")).collect();
    assert_eq!(ids(&list), due);
    world.end().await;
}
