//! A source over several lanes: nothing is lost, and no key is reordered, whatever gateways and partitions come and go.

use crate::broker::{Broker, headers, keyed};
use crate::harness::{BY_OWNER, DEADLINE, ORDERS, World, eventually, folder, world};
use serde_json::Value;
use setgate::amqp::{FieldTable, FieldValue, Properties};
use setgate::lab::{Await, FabricSpec, Node};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

const UNIT: &str = "sh-1";
const GATEWAYS: [&str; 2] = ["sh-1-a", "sh-1-b"];
const KEYS: u32 = 24;

/// The source `orders` over so many partitions.
fn orders(partitions: u16) -> String {
    format!("{ORDERS}partitions: {partitions}\n")
}

/// An application that publishes one message per key, in turn, until it is told to stop.
struct Publisher {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u32>,
}

impl Publisher {
    fn start(world: &mut World) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let uri = world.fabric.lab().unit(UNIT).unwrap().brokers[0].app_uri();
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut client = setgate::lab::raw::RawClient::connect(&uri.into()).unwrap();
            let mut round = 0;
            while !seen.load(Ordering::Relaxed) {
                for key in 0..KEYS {
                    let body = format!("{key} {round}");
                    // Without an id, what is diverted after it was sent comes twice, on a machine that is slow enough.
                    let mut properties = keyed(key);
                    properties.message_id = Some(body.clone().into());
                    let properties = properties.encode().unwrap();
                    let confirm =
                        client.publish(b"orders", b"order.cn", &properties, body.as_bytes());
                    assert_eq!(confirm.unwrap(), setgate::lab::raw::RawConfirm::Ack);
                }
                round += 1;
            }
            round
        });
        Self { stop, thread }
    }

    /// How many messages each key has got.
    fn stop(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// What an application has got, by key.
#[derive(Default)]
struct Got {
    next: BTreeMap<u32, u32>,
    marked: u32,
}

impl Got {
    /// Takes what is there. A message comes in its place, or once more, marked.
    fn take(&mut self, consumer: &mut Broker) {
        while let Some(message) = consumer.try_get("app.orders.local").unwrap() {
            let text = message.body_text();
            let (key, number) = text.split_once(' ').unwrap();
            let (key, number): (u32, u32) = (key.parse().unwrap(), number.parse().unwrap());
            let next = self.next.entry(key).or_default();
            if number < *next {
                let again = message.properties.header("x-set-in-doubt");
                assert!(again.is_some(), "{text} comes again, unmarked");
                self.marked += 1;
            } else {
                assert_eq!(number, *next, "key {key} is out of order or has a gap");
                *next += 1;
            }
        }
    }

    async fn all(&mut self, consumer: &mut Broker, rounds: u32) {
        eventually("every message arrives", DEADLINE, async || {
            self.take(consumer);
            let complete = (0..KEYS).all(|key| self.next.get(&key) == Some(&rounds));
            complete.then_some(())
        })
        .await;
    }
}

/// The partitions that a gateway shows, by state.
async fn lanes(world: &mut World, gateway: &str, states: &[&str]) -> BTreeSet<u64> {
    let gateway = world.fabric.gateway(gateway).unwrap();
    let url = format!("http://{}/v1/status", gateway.admin);
    let (_, body) = world.fabric.http().get(&url, None).await.unwrap();
    let status: Value = serde_json::from_slice(&body).unwrap();
    let lanes = status["lanes"].as_array().unwrap();
    lanes
        .iter()
        .filter(|lane| states.contains(&lane["state"].as_str().unwrap()))
        .map(|lane| lane["partition"].as_u64().unwrap())
        .collect()
}

/// Waits until these gateways take these partitions between them, each a share, while messages flow.
async fn shared(world: &mut World, consumer: &mut Broker, got: &mut Got, wanted: &[u64]) {
    let wanted: BTreeSet<u64> = wanted.iter().copied().collect();
    let what = format!("the gateways share {wanted:?}");
    eventually(&what, DEADLINE, async || {
        got.take(consumer);
        let mut of_each = Vec::new();
        for gateway in GATEWAYS {
            of_each.push(lanes(world, gateway, &["taking", "held"]).await);
        }
        let all: BTreeSet<u64> = of_each.iter().flatten().copied().collect();
        let once = of_each.iter().map(BTreeSet::len).sum::<usize>() == all.len();
        (all == wanted && once && of_each.iter().all(|one| !one.is_empty())).then_some(())
    })
    .await;
}

async fn start(test: &str, partitions: u16) -> World {
    let places = world(&[UNIT]);
    let source = orders(partitions);
    let rules = folder(&[
        ("world.yaml", places.as_str()),
        ("orders.yaml", source.as_str()),
        ("rules.yaml", BY_OWNER),
    ]);
    World::of(test, FabricSpec::folder(rules.path()).gateways(2)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateways_partitions_go_on_elsewhere_and_come_back_in_order() {
    let mut world = start("partitions", 5).await;
    let mut consumer = world.app(UNIT);
    let mut got = Got::default();
    let publisher = Publisher::start(&mut world);
    let all = [0, 1, 2, 3, 4];
    shared(&mut world, &mut consumer, &mut got, &all).await;

    let second = Node::Gateway(GATEWAYS[1].parse().unwrap());
    world.fabric.kill(&second).await.unwrap();
    let everything: BTreeSet<u64> = all.into_iter().collect();
    eventually("the other gateway takes all", DEADLINE, async || {
        got.take(&mut consumer);
        let taken = lanes(&mut world, GATEWAYS[0], &["taking", "held"]).await;
        (taken == everything).then_some(())
    })
    .await;

    world.fabric.start(&second, Await::Ready).await.unwrap();
    shared(&mut world, &mut consumer, &mut got, &all).await;
    let rounds = publisher.stop();
    got.all(&mut consumer, rounds).await;
    assert!(rounds > 10, "{rounds}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_number_of_partitions_loses_nothing_and_reorders_no_key() {
    let mut world = start("repartition", 1).await;
    let mut consumer = world.app(UNIT);
    let mut got = Got::default();
    let publisher = Publisher::start(&mut world);
    eventually("one gateway takes the one lane", DEADLINE, async || {
        got.take(&mut consumer);
        let mut taken = 0;
        for gateway in GATEWAYS {
            taken += lanes(&mut world, gateway, &["taking"]).await.len();
        }
        (taken == 1).then_some(())
    })
    .await;
    for (partitions, wanted) in [
        (4, vec![1000, 1001, 1002, 1003]),
        (6, vec![0, 1, 2, 3, 4, 5]),
    ] {
        world.put("orders.yaml", &orders(partitions));
        shared(&mut world, &mut consumer, &mut got, &wanted).await;
    }
    world.put("orders.yaml", &orders(1));
    eventually("one lane is left", DEADLINE, async || {
        got.take(&mut consumer);
        let mut taken = Vec::new();
        for gateway in GATEWAYS {
            taken.extend(lanes(&mut world, gateway, &["taking"]).await);
        }
        (taken == [1000]).then_some(())
    })
    .await;
    let rounds = publisher.stop();
    got.all(&mut consumer, rounds).await;
    assert_eq!(got.marked, 0, "nobody was killed");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_without_a_key_or_with_an_odd_one_is_not_lost() {
    let mut world = start("odd-keys", 3).await;
    let odd = [
        Properties::default(),
        headers([("uid", FieldValue::str(""))]),
        headers([("uid", FieldValue::Bool(true))]),
        headers([("uid", FieldValue::F64(1.5))]),
        headers([("uid", FieldValue::Table(FieldTable::new()))]),
        headers([("uid", FieldValue::Void)]),
    ];
    let mut publisher = world.app(UNIT);
    for properties in &odd {
        publisher.publish("orders", "order.cn", properties, "odd");
    }
    publisher.publish("orders", "order.cn", &keyed(1), "plain");
    publisher.publish(
        "orders",
        "order.cn",
        &headers([("uid", FieldValue::I32(1))]),
        "number",
    );
    let mut delivered = BTreeSet::new();
    for _ in 0..2 {
        delivered.insert(publisher.get("app.orders.local").await.body_text());
    }
    assert!(delivered.contains("plain") && delivered.contains("number"));
    let park = world.own_queue("park");
    for _ in &odd {
        let parked = publisher.get(&park).await;
        assert_eq!(parked.body_text(), "odd");
    }
    world.end().await;
}
