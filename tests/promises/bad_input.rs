//! What applications and operators do that they shouldn't: each has an outcome that docs/bad-input.md states.
//!
//! Poison by the frame is in `poison`, forged marks in `loops` and `parking`, exchanges that are missing in `missing`, a
//! full park in `parked`.

use crate::broker::{Broker, Received, headers, keyed};
use crate::harness::{BY_OWNER, DEADLINE, ORDERS, World, eventually, world};
use bytes::Bytes;
use serde_json::{Value, json};
use setgate::amqp::{FieldValue, Properties};
use setgate::lab::http::Login;
use setgate::lab::raw::RawConfirm;
use std::collections::BTreeMap;
use tokio::task::block_in_place;
use tokio::time::Instant;

/// The applications' queue of either unit.
const QUEUE: &str = "app.orders.local";

/// Owned by sh-2, while most is published in sh-1; and by sh-1.
const ELSEWHERE: u32 = 60;
const HERE: u32 = 10;

async fn start(test: &str, source: &str) -> World {
    let places = world(&["sh-1", "sh-2"]);
    let files = [
        ("world.yaml", places.as_str()),
        ("orders.yaml", source),
        ("rules.yaml", BY_OWNER),
    ];
    World::start(test, &files).await
}

/// A header `event` of this value, under which the source looks for ids.
fn event(value: FieldValue) -> Properties {
    let uid = FieldValue::str(ELSEWHERE.to_string());
    headers([("uid", uid), ("event", value)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_of_any_length_and_bytes_is_known_again_or_its_message_is_parked() {
    let by_header = format!("{ORDERS}duplicates: {{id: {{header: event}}}}\n");
    let mut world = start("ids", &by_header).await;
    let (mut publisher, mut consumer) = (world.app("sh-1"), world.app("sh-2"));
    let text = |bytes: Vec<u8>| FieldValue::Str(Bytes::from(bytes));
    for (name, id, times) in [
        ("10 KB", text(vec![b'i'; 10_000]), 1),
        ("60 KB", text(vec![b'i'; 60_000]), 1),
        ("odd", text(b"\xff\0\xfe\r\n\x1b[31m".to_vec()), 1),
        (
            "bytes",
            FieldValue::Bytes(Bytes::from_static(&[0xff; 300])),
            1,
        ),
        // Those of a client that fills in every property are not all one message.
        ("empty", text(Vec::new()), 2),
    ] {
        for _ in 0..2 {
            publisher.publish("orders", "order.cn", &event(id.clone()), name);
        }
        publisher.publish("orders", "order.cn", &keyed(ELSEWHERE), "next");
        for _ in 0..times {
            let got = consumer.get(QUEUE).await;
            assert_eq!(got.body_text(), name);
            assert_eq!(got.properties.header("event"), Some(&id), "{name}");
        }
        assert_eq!(consumer.get(QUEUE).await.body_text(), "next", "{name}");
    }

    // It is written into a mark, too: there is no room for it twice.
    let park = world.own_queue("park");
    for bytes in [66_000, 126_000] {
        let id = text(vec![b'i'; bytes]);
        publisher.publish("orders", "order.cn", &event(id), "too long");
        publisher.publish("orders", "order.cn", &keyed(ELSEWHERE), "next");
        assert_eq!(consumer.get(QUEUE).await.body_text(), "next", "{bytes}");
        let got = publisher.get(&park).await;
        let reason = got.text("x-set-reason");
        assert_eq!(reason.as_deref(), Some("too_large"), "{bytes}");
        assert!(got.body.ends_with(b"too long"), "{bytes}");
    }
    world.end().await;
}

fn application(name: &'static str, uid: u32) -> Properties {
    Properties {
        message_id: Some(Bytes::from_static(b"1")),
        app_id: Some(Bytes::from_static(name.as_bytes())),
        ..keyed(uid)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_applications_with_one_message_id_are_both_delivered_and_counted() {
    let mut world = start("strangers", ORDERS).await;
    let mut consumer = world.app("sh-2");
    let (mut shop, mut stock) = (world.app("sh-1"), world.app("sh-1"));
    shop.publish(
        "orders",
        "order.cn",
        &application("shop", ELSEWHERE),
        "sold",
    );
    assert_eq!(consumer.get(QUEUE).await.body_text(), "sold");
    stock.publish(
        "orders",
        "order.cn",
        &application("stock", ELSEWHERE),
        "bought",
    );
    assert_eq!(consumer.get(QUEUE).await.body_text(), "bought");
    let reused = world.metric("sh-2", "setgate_id_reused_total").await;
    assert!((reused - 1.0).abs() < f64::EPSILON, "{reused} are counted");

    // Alike in all, they are two when they were published in two units.
    let mut there = world.app("sh-2");
    there.publish(
        "orders",
        "order.cn",
        &application("shop", ELSEWHERE),
        "sold",
    );
    assert_eq!(consumer.get(QUEUE).await.body_text(), "sold");
    let dropped = world.metric("sh-2", "setgate_duplicates_total").await;
    assert!(dropped.abs() < f64::EPSILON, "{dropped} are dropped");
    world.end().await;
}

impl World {
    /// Has an application's queue of a unit dead-letter what is rejected into this exchange.
    async fn dead_letter(&mut self, unit: &str, arguments: Value) {
        self.queue(unit, QUEUE, arguments).await;
        let mut app = self.app(unit);
        block_in_place(|| app.raw().bind(QUEUE, "orders.local", "#")).unwrap();
    }

    /// Rejects what lies in an application's queue, and gives the round that it is in.
    async fn reject(&mut self, unit: &str) -> Option<u64> {
        let (url, user, password) = self.management(unit, "queues", &format!("{QUEUE}/get"));
        let login = Login {
            user: &user,
            password: &password,
        };
        let words = json!({"count": 1, "ackmode": "reject_requeue_false", "encoding": "auto"});
        let got = self.fabric.http().ask(&url, login, &words).await.unwrap();
        got[0]["properties"]["headers"]["x-set-round"].as_u64()
    }

    /// Rejects whatever comes in these units, until something is parked in one of them. Gives the unit and the round of
    /// each that was rejected, and what is parked.
    async fn reject_until_parked(
        &mut self,
        units: &[&'static str],
    ) -> (Vec<(&'static str, u64)>, Received) {
        let park = self.own_queue("park");
        let mut apps: Vec<Broker> = units.iter().map(|unit| self.app(unit)).collect();
        let mut rejected = Vec::new();
        let deadline = Instant::now() + DEADLINE;
        loop {
            for (unit, app) in units.iter().zip(&mut apps) {
                if let Some(round) = self.reject(unit).await {
                    rejected.push((*unit, round));
                }
                match app.try_get(&park) {
                    Ok(Some(parked)) => return (rejected, parked),
                    Ok(None) => {}
                    // It is declared with its first message.
                    Err(_) => *app = self.app(unit),
                }
            }
            assert!(Instant::now() < deadline, "rejected so far: {rejected:?}");
        }
    }

    /// Asserts that it was parked by its rounds, and not one of them was taken for a duplicate.
    async fn assert_ended(&mut self, parked: &Received) {
        assert_eq!(parked.text("x-set-reason").as_deref(), Some("hops"));
        assert_eq!(parked.body_text(), "rejected");
        assert_eq!(
            parked.properties.message_id,
            Some(Bytes::from_static(b"m1"))
        );
        for unit in ["sh-1", "sh-2"] {
            let dropped = self.metric(unit, "setgate_duplicates_total").await;
            assert!(
                dropped.abs() < f64::EPSILON,
                "{dropped} are dropped in {unit}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_its_consumer_dead_letters_into_its_source_is_handled_four_times_then_parked() {
    let mut world = start("cycle", ORDERS).await;
    let mut publisher = world.app("sh-1");
    for (uid, unit) in [(HERE, "sh-1"), (ELSEWHERE, "sh-2")] {
        world
            .dead_letter(unit, json!({"x-dead-letter-exchange": "orders"}))
            .await;
        let message = Properties {
            message_id: Some(Bytes::from_static(b"m1")),
            ..keyed(uid)
        };
        publisher.publish("orders", "order.cn", &message, "rejected");
        let (rejected, parked) = world.reject_until_parked(&[unit]).await;
        assert_eq!(rejected, [1, 2, 3, 4].map(|round| (unit, round)));
        world.assert_ended(&parked).await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_dead_lettered_from_unit_to_unit_is_handled_four_times_then_parked() {
    let by_word = ORDERS.replace("header: uid", "routing_key_word: 2");
    let mut world = start("pingpong", &by_word).await;
    for (unit, other) in [("sh-1", ELSEWHERE), ("sh-2", HERE)] {
        let arguments = json!({
            "x-dead-letter-exchange": "orders",
            "x-dead-letter-routing-key": format!("order.{other}"),
        });
        world.dead_letter(unit, arguments).await;
    }
    let message = Properties {
        message_id: Some(Bytes::from_static(b"m1")),
        ..Properties::default()
    };
    let mut publisher = world.app("sh-1");
    publisher.publish("orders", "order.60", &message, "rejected");
    let (rejected, parked) = world.reject_until_parked(&["sh-1", "sh-2"]).await;
    let due = [("sh-2", 1), ("sh-1", 2), ("sh-2", 3), ("sh-1", 4)];
    assert_eq!(rejected, due);
    world.assert_ended(&parked).await;
    world.end().await;
}

/// Another source, spread over two queues.
const SPREAD: &str = "kind: source
name: parts
take: {exchange: parts, bindings: [{routing_key: \"#\"}]}
deliver: {exchange: parts.local}
key: {from: [{header: uid}], map: digits}
partitions: 2
---
kind: rule
name: parts-by-owner
source: parts
order: 100
route: owner
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_vanishes_is_named_and_bound_again_when_it_is_back() {
    let mut world = start("vanished", &format!("{ORDERS}---\n{SPREAD}")).await;
    let mut publisher = world.app("sh-1");
    for exchange in ["orders", "parts"] {
        world.delete_exchange("sh-1", exchange).await;
        let named = async || {
            let faults = world.status("sh-1").await["faults"].clone();
            let mut faults = faults.as_array().unwrap().iter();
            let wanted = format!("exchange {exchange:?} does not exist");
            faults
                .any(|fault| fault["message"].as_str().unwrap().contains(&wanted))
                .then_some(())
        };
        let ((), after) = eventually("the fault", DEADLINE, named).await;
        println!("{exchange} is missed after {after:?}");
        block_in_place(|| publisher.raw().declare_exchange(exchange, "topic")).unwrap();
        let flows = async || {
            let taken = publisher.try_publish(exchange, "order.cn", &keyed(ELSEWHERE), "again");
            (taken.unwrap() == RawConfirm::Ack).then_some(())
        };
        eventually("its messages are taken in", DEADLINE, flows).await;
        let mut consumer = world.app("sh-2");
        let got = consumer.get(&format!("app.{exchange}.local")).await;
        assert_eq!(got.body_text(), "again");
        let mended = async || (world.status("sh-1").await["faults"] == json!([])).then_some(());
        eventually("the fault is gone", DEADLINE, mended).await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_deleted_or_made_otherwise_is_named_or_made_again() {
    let mut world = start("redeclared", ORDERS).await;
    let (mut publisher, mut consumer) = (world.app("sh-1"), world.app("sh-2"));
    let queue = world.own_queue("lane.orders.0");
    world.delete_queue("sh-1", &queue).await;
    pass(&mut publisher, &mut consumer, "made again").await;

    // One that would drop messages is never fed.
    world
        .queue("sh-1", &queue, json!({"x-max-length": 10}))
        .await;
    let named = async || {
        let lane = world.lane("sh-1", "orders", &["down"]).await;
        let cause = lane["cause"].as_str()?.to_owned();
        cause
            .contains("is there already and differs")
            .then_some(cause)
    };
    let (cause, _) = eventually("the lane says why", DEADLINE, named).await;
    assert!(
        cause.contains("x-max-length") && cause.contains("delete it"),
        "{cause}"
    );
    let taken = publisher.try_publish("orders", "order.cn", &keyed(ELSEWHERE), "refused");
    assert_eq!(taken.unwrap(), RawConfirm::Returned);
    world.delete_queue("sh-1", &queue).await;
    pass(&mut publisher, &mut consumer, "mended").await;

    // The destination's.
    world.delete_queue("sh-2", QUEUE).await;
    publisher.publish("orders", "order.cn", &keyed(ELSEWHERE), "nobody's");
    let park = world.own_queue("park");
    let parked = publisher.get(&park).await;
    assert_eq!(parked.text("x-set-reason").as_deref(), Some("unroutable"));
    assert_eq!(parked.body_text(), "nobody's");
    world.end().await;
}

/// Publishes in sh-1 until it is taken in, and gets it in sh-2.
async fn pass(publisher: &mut Broker, consumer: &mut Broker, body: &str) {
    let taken = async || {
        let taken = publisher.try_publish("orders", "order.cn", &keyed(ELSEWHERE), body);
        (taken.unwrap() == RawConfirm::Ack).then_some(())
    };
    eventually("it is taken in", DEADLINE, taken).await;
    assert_eq!(consumer.get(QUEUE).await.body_text(), body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_applications_put_into_own_queues_is_set_apart_and_counted() {
    const COUNT: usize = 10;
    let mut world = start("copies", ORDERS).await;
    let (mut publisher, mut consumer) = (world.app("sh-1"), world.app("sh-2"));
    let park = world.own_queue("park");
    // The park is declared with its first message.
    publisher.publish("orders", "order.no.rule", &keyed(ELSEWHERE), "no rule");
    assert_eq!(publisher.get(&park).await.body_text(), "no rule");

    let before = world
        .permit("sh-2", |mut rights| {
            rights["write"] = json!("^setgate\\..*$");
            rights
        })
        .await;
    for number in 0..COUNT {
        publisher.publish("orders", "order.cn", &keyed(ELSEWHERE), format!("{number}"));
    }
    let diverted = async || {
        let lane = world.lane("sh-1", "orders", &["taking", "held"]).await;
        let messages = lane["targets"][0]["diversion"]["messages"].as_u64();
        (messages == Some(COUNT as u64)).then_some(())
    };
    eventually("all are diverted", DEADLINE, diverted).await;

    let own = ["divert.orders.0.sh-2", "seen", "lane.orders.0", "park"];
    let own = own.map(|name| world.own_queue(name));
    for header in ["CC", "BCC"] {
        let mut copies = application("shop", ELSEWHERE);
        let names = own.iter().map(FieldValue::str).collect();
        copies.headers_mut().set(header, FieldValue::Array(names));
        publisher.publish("", QUEUE, &copies, header);
    }
    world.permit("sh-2", |_| before.clone()).await;
    for number in 0..COUNT {
        let got = consumer.get(QUEUE).await;
        assert_eq!(got.body_text(), number.to_string());
    }
    assert_eq!(consumer.try_get(QUEUE).unwrap(), None);

    let listed = async || {
        let page = world.page("sh-1", "/v1/parked").await;
        let page: Value = serde_json::from_str(&page).unwrap();
        let listed = page["entries"].as_array()?.clone();
        (listed.len() == 6).then_some(listed)
    };
    let (listed, _) = eventually("six are parked", DEADLINE, listed).await;
    let nobodys = |one: &&Value| one["reason"].is_null();
    assert_eq!(listed.iter().filter(nobodys).count(), 2);
    let mut parked = BTreeMap::new();
    while let Some(got) = publisher.try_get(&park).unwrap() {
        let reason = got.text("x-set-reason");
        *parked.entry((reason, got.body_text())).or_insert(0) += 1;
    }
    let due = ["CC", "BCC"].into_iter().flat_map(|body| {
        // Put there by nobody; not of the lane's exchange; not of the diversion.
        [None, Some("no_rule"), Some("malformed")]
            .map(|reason| ((reason.map(str::to_owned), body.to_owned()), 1))
    });
    assert_eq!(parked, due.collect());
    let foreign = world.metric("sh-1", "setgate_journal_foreign_total").await;
    assert!(
        (foreign - 2.0).abs() < f64::EPSILON,
        "{foreign} are counted"
    );
    world.end().await;
}
