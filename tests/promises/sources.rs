//! What may be taken: a source in another virtual host, a headers exchange, and one exchange by several sources.

use crate::broker::{Broker, headers, keyed};
use crate::harness::{BY_OWNER, DEADLINE, ORDERS, World, eventually, world};
use setgate::amqp::FieldValue;
use setgate::lab::http::Login;
use setgate::lab::raw::RawConfirm;
use setgate::lab::{Place, Ways};
use std::process::Stdio;

const UNITS: [&str; 2] = ["sh-1", "sh-2"];

/// From the exchange that orders are taken from.
const REFUNDS: &str = "kind: source
name: refunds
take: {exchange: orders, bindings: [{routing_key: \"refund.#\"}]}
deliver: {exchange: refunds.local}
---
kind: rule
name: refunds-to-sh-2
source: refunds
order: 1
route: {units: [sh-2]}
";

const LABELS: &str = "kind: source
name: labels
take: {exchange: labels, bindings: [{arguments: {x-match: all, region: cn, priority: 7}}]}
deliver: {exchange: labels.local}
---
kind: rule
name: labels-to-sh-2
source: labels
order: 1
route: {units: [sh-2]}
";

const TENANTS: &str = "kind: source
name: tenants
vhost: sources.tenants
take: {exchange: orders, bindings: [{routing_key: \"order.#\"}]}
deliver: {exchange: orders.local}
---
kind: rule
name: tenants-to-sh-2
source: tenants
order: 1
route: {units: [sh-2]}
";

/// To a queue by its name.
const DIRECT: &str = "kind: source
name: direct
take: {exchange: direct, bindings: [{routing_key: \"#\"}]}
deliver: {exchange: \"\", routing_key: app.labels.local}
---
kind: rule
name: direct-to-sh-2
source: direct
order: 1
route: {units: [sh-2]}
";

/// An application in the tenants' vhost of a unit's broker.
fn tenant(world: &mut World, unit: &str) -> Broker {
    let broker = world.fabric.lab().unit(unit).unwrap().brokers[0].clone();
    let uri = broker.app_uri();
    let (before, _) = uri.rsplit_once('/').unwrap();
    Broker::connect(&format!("{before}/sources.tenants"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_vhosts_headers_exchanges_the_default_one_and_several_sources_of_one_are_served() {
    let places = world(&UNITS);
    let mut world = World::start(
        "sources",
        &[
            ("world.yaml", places.as_str()),
            ("orders.yaml", ORDERS),
            ("rules.yaml", BY_OWNER),
            ("refunds.yaml", REFUNDS),
            ("labels.yaml", LABELS),
            ("tenants.yaml", TENANTS),
            ("direct.yaml", DIRECT),
        ],
    )
    .await;
    let mut here = world.app("sh-1");
    let mut there = world.app("sh-2");
    let labelled = |region: &str, priority: i32| {
        headers([
            ("region", FieldValue::str(region)),
            ("priority", FieldValue::I32(priority)),
        ])
    };
    here.publish("orders", "refund.asked", &keyed(99), "a refund");
    here.publish("orders", "order.cn", &keyed(99), "an order");
    here.publish("labels", "x", &labelled("cn", 7), "both labels");
    let other = here.try_publish("labels", "x", &labelled("cn", 8), "another priority");
    assert_eq!(
        other.unwrap(),
        RawConfirm::Returned,
        "nobody is bound for it"
    );
    tenant(&mut world, "sh-1").publish("orders", "order.cn", &keyed(1), "a tenant's order");

    for (queue, body, key) in [
        ("app.refunds.local", "a refund", "refund.asked"),
        ("app.orders.local", "an order", "order.cn"),
        ("app.labels.local", "both labels", "x"),
    ] {
        let got = there.get(queue).await;
        assert_eq!(got.body_text(), body);
        assert_eq!(got.routing_key, key);
        assert_eq!(there.try_get(queue).unwrap(), None, "once in {queue}");
    }
    here.publish("direct", "any", &keyed(1), "to a queue by its name");
    let got = there.get("app.labels.local").await;
    assert_eq!(got.body_text(), "to a queue by its name");
    let got = tenant(&mut world, "sh-2").get("app.orders.local").await;
    assert_eq!(got.body_text(), "a tenant's order");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retired_source_is_carried_to_its_last_message_and_its_queues_and_documents_go() {
    let places = world(&UNITS);
    let everything = format!("{ORDERS}---\n{BY_OWNER}");
    let files = [
        ("world.yaml", places.as_str()),
        ("orders.yaml", everything.as_str()),
        ("labels.yaml", LABELS),
    ];
    let mut world = World::start("retired", &files).await;
    let (near, far): (Place, Place) = ("sh-1".parse().unwrap(), "sh-2".parse().unwrap());
    world.fabric.cut(&near, &far, Ways::Both).unwrap();
    let mut here = world.app("sh-1");
    let mut published = 0;
    let mut publish = |here: &mut Broker| {
        let body = format!("{published}");
        let confirm = here.try_publish("orders", "order.cn", &keyed(99), body);
        let taken = confirm.unwrap() == RawConfirm::Ack;
        published += u32::from(taken);
        taken
    };
    for _ in 0..20 {
        assert!(publish(&mut here));
    }
    let look = async || {
        let status = world.status("sh-1").await;
        let lanes = status["lanes"].to_string();
        lanes.contains("sh-2 is diverted").then_some(())
    };
    eventually("what is for sh-2 is diverted", DEADLINE, look).await;

    let lab = world.fabric.lab();
    let mut retire = tokio::process::Command::new(world.fabric.binary());
    retire.args(["sources", "retire", "orders", "-m", "no more orders"]);
    retire.args(["--etcd", &lab.etcd.join(","), "--space", lab.space.as_str()]);
    let retire = retire
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let look = async || (!publish(&mut here)).then_some(());
    eventually("nothing more is taken", DEADLINE, look).await;
    world.fabric.heal(&near, &far, Ways::Both).unwrap();
    let output = retire.wait_with_output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("source orders is gone"), "{said}");

    let mut there = world.app("sh-2");
    for number in 0..published {
        let got = there.get("app.orders.local").await;
        assert_eq!(got.body_text(), number.to_string());
    }
    for unit in UNITS {
        for queue in ["lane.orders.0", "divert.orders.0.sh-2"] {
            let name = world.own_queue(queue);
            let (url, user, password) = world.management(unit, "queues", &name);
            let (user, password) = (&user, &password);
            let http = world.fabric.http();
            let (code, _) = http
                .get(&url, Some(Login { user, password }))
                .await
                .unwrap();
            assert_eq!(code, 404, "{name} of {unit}");
        }
        let look = async || {
            let lanes = world.status(unit).await["lanes"].to_string();
            (lanes.contains("labels") && !lanes.contains("orders")).then_some(())
        };
        eventually("its lanes are gone", DEADLINE, look).await;
    }
    world.end().await;
}
