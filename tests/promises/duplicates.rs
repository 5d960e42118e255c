//! Nothing is delivered twice: what is known is dropped, by whichever gateway receives it; what may have come before is
//! marked.

use crate::broker::{Broker, Received, headers};
use crate::harness::{BY_OWNER, DEADLINE, ORDERS, World, eventually, world};
use bytes::Bytes;
use setgate::amqp::{FieldValue, Properties};
use setgate::lab::http::encode;
use setgate::lab::traffic::{Plan, measure, units_of_lab};
use setgate::lab::{Await, FabricSpec, Node};
use setgate::link::receiver::{Entry, Fact, Life, Record};
use setgate::model::{Epoch, LaneId, Partition};
use std::path::PathBuf;
use std::time::Duration;

/// The same, of the units of a slot each.
const QUEUE: &str = "app.orders.local";

/// Owned by sh-1, where it is published, and by sh-2.
const UIDS: [u32; 2] = [10, 60];

async fn start(test: &str) -> World {
    let places = world(&["sh-1", "sh-2"]);
    let files = [
        ("world.yaml", places.as_str()),
        ("orders.yaml", ORDERS),
        ("rules.yaml", BY_OWNER),
    ];
    let rules = crate::harness::folder(&files);
    World::of(test, FabricSpec::folder(rules.path())).await
}

fn with_id(uid: u32, id: &str) -> Properties {
    Properties {
        message_id: Some(Bytes::copy_from_slice(id.as_bytes())),
        ..headers([("uid", FieldValue::str(uid.to_string()))])
    }
}

fn publish(publisher: &mut Broker, uid: u32, number: usize) {
    let id = format!("m{number}");
    publisher.publish("orders", "order.cn", &with_id(uid, &id), id.as_bytes());
}

fn in_doubt(got: &Received) -> bool {
    got.properties.header("x-set-in-doubt").is_some()
}

/// By what the gateways of the other units have had answered.
async fn delivered_to_sh_2(world: &mut World) -> f64 {
    let mut sum = 0.0;
    for name in ["sh-1-a", "sh-1-b", "bj-1-a", "bj-1-b"] {
        let admin = world.fabric.gateway(name).unwrap().admin;
        let url = format!("http://{admin}/metrics");
        let (_, body) = world.fabric.http().get(&url, None).await.unwrap();
        let text = String::from_utf8(body.to_vec()).unwrap();
        let wanted = "setgate_delivered_total{source=\"orders\",to=\"sh-2\"} ";
        let mut counts = text.lines().filter_map(|line| line.strip_prefix(wanted));
        sum += counts.next().map_or(0.0, |count| count.parse().unwrap());
    }
    sum
}

async fn duplicates(world: &mut World, unit: &str, due: u32) {
    let look = async || {
        let counted = world.metric(unit, "setgate_duplicates_total").await;
        ((counted - f64::from(due)).abs() < f64::EPSILON).then_some(())
    };
    eventually(&format!("{due} duplicates in {unit}"), DEADLINE, look).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publishers_resend_is_dropped_and_counted() {
    let mut world = start("resend").await;
    let mut publisher = world.app("sh-1");
    for (uid, unit) in UIDS.into_iter().zip(["sh-1", "sh-2"]) {
        let mut consumer = world.app(unit);
        for number in [1, 1, 2, 1, 2, 3] {
            publish(&mut publisher, uid, number);
        }
        for number in 1..=3 {
            let got = consumer.get(QUEUE).await;
            assert_eq!(got.body_text(), format!("m{number}"));
            assert!(!in_doubt(&got));
        }
        duplicates(&mut world, unit, 3).await;
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publishers_resend_after_a_move_is_known_to_the_new_owner_of_its_slot() {
    let mut world = start("resend-moved").await;
    let mut publisher = world.app("sh-1");
    let (mut before, mut after) = (world.app("sh-1"), world.app("sh-2"));
    for number in 0..20 {
        publish(&mut publisher, 10, number);
        assert_eq!(before.get(QUEUE).await.body_text(), format!("m{number}"));
    }
    let lab = world.fabric.lab();
    let (etcd, space) = (lab.etcd.join(","), lab.space.to_string());
    let more = ["--etcd", &etcd, "--space", &space, "-o", "json"];
    let start = [
        "move", "start", "--slots", "10", "--to", "sh-2", "-m", "a test",
    ];
    let start = [&start[..], &more].concat();
    let ask = async || world.fabric.setgate(&start).await.ok();
    eventually("its new owner is up", DEADLINE, ask).await;
    let watch = [&["move", "status", "--watch"][..], &more].concat();
    world.fabric.setgate(&watch).await.unwrap();
    for number in 0..=20 {
        publish(&mut publisher, 10, number);
    }
    assert_eq!(after.get(QUEUE).await.body_text(), "m20");
    duplicates(&mut world, "sh-2", 20).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_id_under_two_routing_keys_or_two_bodies_is_two_messages_and_counted() {
    let mut world = start("reused").await;
    let (mut publisher, mut consumer) = (world.app("sh-1"), world.app("sh-2"));
    let properties = with_id(60, "m1");
    for (key, body) in [
        ("order.cn", "one"),
        ("order.de", "one"),
        ("order.cn", "two"),
    ] {
        publisher.publish("orders", key, &properties, body);
        let got = consumer.get(QUEUE).await;
        let key = Bytes::copy_from_slice(key.as_bytes());
        assert_eq!((got.routing_key, &got.body[..]), (key, body.as_bytes()));
    }
    let reused = world.metric("sh-2", "setgate_id_reused_total").await;
    assert!((reused - 2.0).abs() < f64::EPSILON, "{reused} are counted");
    duplicates(&mut world, "sh-2", 0).await;
    world.end().await;
}

/// The state folder of a unit's gateway.
fn state(world: &World, unit: &str) -> PathBuf {
    let dir = world.fabric.dir().join("units").join(unit);
    dir.join(format!("{unit}-a")).join("state")
}

/// Kills the receiver after fifty messages, changes what it has on disk, and sends those again and one more: the one must
/// come, and nothing else. Whether it then began with its copy of the journal.
async fn restarted(test: &str, change: impl FnOnce(&World)) -> bool {
    let mut world = start(test).await;
    let (mut publisher, mut consumer) = (world.app("sh-1"), world.app("sh-2"));
    publish(&mut publisher, 10, 0);
    assert_eq!(world.app("sh-1").get(QUEUE).await.body_text(), "m0");
    for number in 0..50 {
        publish(&mut publisher, 60, number);
        assert_eq!(consumer.get(QUEUE).await.body_text(), format!("m{number}"));
    }
    for unit in ["sh-1", "sh-2"] {
        let copy = state(&world, unit).join("journal.newer");
        let copied = async || {
            let bytes = std::fs::metadata(&copy).ok()?.len();
            (bytes > 0).then_some(())
        };
        eventually("the journal is copied", DEADLINE, copied).await;
    }
    // One that isn't answered is sent again, and is a duplicate more.
    let answered = async || {
        let count = world.metric("sh-1", "setgate_delivered_total").await;
        (count > 50.5).then_some(())
    };
    eventually("all are answered", DEADLINE, answered).await;
    let receiver: Node = "gateway/sh-2-a".parse().unwrap();
    world.fabric.kill(&receiver).await.unwrap();
    change(&world);
    world.fabric.start(&receiver, Await::Ready).await.unwrap();
    for number in 0..=50 {
        publish(&mut publisher, 60, number);
    }
    assert_eq!(consumer.get(QUEUE).await.body_text(), "m50");
    duplicates(&mut world, "sh-2", 50).await;
    let log = world.fabric.dir().join("units/sh-2/sh-2-a/gateway.log");
    let log = std::fs::read_to_string(&log).unwrap();
    world.end().await;
    log.contains("read the journal from its copy")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_receiver_knows_from_its_disk_what_was_delivered() {
    assert!(restarted("journal_copy", |_| ()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_without_its_disk_knows_from_the_journal_what_was_delivered() {
    let lose = |world: &World| {
        std::fs::remove_file(state(world, "sh-2").join("journal.newer")).unwrap();
    };
    assert!(!restarted("journal", lose).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_another_journal_is_not_believed() {
    let change = |world: &World| {
        let [from, to] = ["sh-1", "sh-2"].map(|unit| state(world, unit).join("journal.newer"));
        std::fs::copy(from, to).unwrap();
    };
    assert!(!restarted("journal_foreign", change).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_receivers_killed_under_traffic_nothing_is_lost_and_every_second_copy_is_marked() {
    let spec = FabricSpec::profile("two-sites-three-centers").gateways(2);
    let mut world = World::of("receiver_killed", spec).await;
    let units = units_of_lab(world.fabric.dir()).unwrap();
    let mut plan = Plan::new(units, "orders", &["orders.local"]);
    plan.messages = 9_000;
    plan.keys = 500;
    plan.rate = 600;
    plan.settle = Duration::from_secs(40);
    let traffic = measure(plan);
    let kills = async {
        for name in ["sh-2-a", "sh-2-b", "sh-2-a", "sh-2-b"] {
            let before = delivered_to_sh_2(&mut world).await;
            let more = async || {
                let now = delivered_to_sh_2(&mut world).await;
                (now > before + 50.0).then_some(())
            };
            eventually("sh-2 gets more", DEADLINE, more).await;
            let node: Node = format!("gateway/{name}").parse().unwrap();
            world.fabric.kill(&node).await.unwrap();
            world.fabric.start(&node, Await::Ready).await.unwrap();
        }
    };
    let (account, ()) = tokio::join!(traffic, kills);
    let account = account.unwrap();
    println!("{account:?}");
    assert!(account.is_clean(), "{account:?}");
    assert_eq!(account.delivered, 9_000, "{account:?}");
    world.end().await;
}

/// How often whoever follows the journal of a unit has acknowledged, as its broker's management says.
async fn acknowledged(world: &mut World, unit: &str) -> Option<u64> {
    let journal = world.own_queue("seen");
    let broker = world.fabric.lab().unit(unit).unwrap().brokers[0].clone();
    let login = broker.operator();
    let (at, vhost) = (&broker.management, broker.vhost_encoded());
    let http = world.fabric.http();
    let url = format!("{at}/api/consumers/{vhost}");
    let consumers = http.get_json(&url, Some(login)).await.unwrap();
    let mut consumers = consumers.as_array()?.iter();
    let follower = consumers.find(|one| one["queue"]["name"] == journal.as_str())?;
    let channel = encode(follower["channel_details"]["name"].as_str()?);
    let url = format!("{at}/api/channels/{channel}");
    let channel = http.get_json(&url, Some(login)).await.ok()?;
    channel["message_stats"]["ack"].as_u64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_little_that_is_read_of_a_journal_is_acknowledged_before_the_broker_takes_it_for_held()
{
    let mut world = start("follower").await;
    let (mut publisher, mut consumer) = (world.app("sh-1"), world.app("sh-2"));
    publish(&mut publisher, 60, 1);
    assert_eq!(consumer.get(QUEUE).await.body_text(), "m1");
    let look = async || {
        acknowledged(&mut world, "sh-2")
            .await
            .filter(|count| *count > 0)
    };
    eventually("the journal is acknowledged", DEADLINE, look).await;
    world.end().await;
}

/// As another gateway of sh-2 would.
fn ask_for_the_lane(world: &mut World) {
    let lane = LaneId {
        unit: "sh-1".parse().unwrap(),
        source: "orders".parse().unwrap(),
        partition: Partition(0),
    };
    let entry = Entry {
        notes: Vec::new(),
        gateway: "sh-2-x".parse().unwrap(),
        life: Life(1),
        at: Duration::from_secs(1_700_000_000),
        epoch: Epoch(0),
        records: vec![Record {
            lane,
            fact: Fact::LetGo,
        }],
    };
    let journal = world.own_queue("seen");
    let mut gateway = world.app("sh-2");
    gateway.publish(&journal, "", &Properties::default(), entry.encode());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_is_asked_for_its_lane_lets_go_and_nothing_comes_twice_or_marked() {
    let mut world = start("let_go").await;
    let (mut publisher, mut consumer) = (world.app("sh-1"), world.app("sh-2"));
    // Only a stream that is up can be asked to end.
    publish(&mut publisher, 60, 0);
    assert_eq!(consumer.get(QUEUE).await.body_text(), "m0");
    let mut next = 1;
    for round in 0..3 {
        for number in next..next + 100 {
            publish(&mut publisher, 60, number);
            if number == next + 50 {
                ask_for_the_lane(&mut world);
            }
        }
        for number in next..next + 100 {
            let got = consumer.get(QUEUE).await;
            assert_eq!(got.body_text(), format!("m{number}"), "in round {round}");
            assert!(!in_doubt(&got), "m{number} is marked in round {round}");
        }
        next += 100;
    }
    let log = world.fabric.dir().join("units/sh-2/sh-2-a/gateway.log");
    let log = std::fs::read_to_string(&log).unwrap();
    let said = log
        .matches("another gateway of the unit takes a lane")
        .count();
    assert_eq!(said, 3, "the lane was let go {said} times");
    world.end().await;
}
