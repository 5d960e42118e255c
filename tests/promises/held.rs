//! A lane whose target doesn't go on waits for it: it neither loops, nor repeats what was settled, nor reorders.
//!
//! `SETGATE_HELD_SECONDS` says for how long; `make held` takes five minutes.

use crate::broker::{Broker, keyed};
use crate::harness::{BY_OWNER, DEADLINE, ORDERS, World, eventually, world};
use setgate::lab::Node;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::task::block_in_place;
use tokio::time::{Instant, interval};

/// Longer than the 30 s after which RabbitMQ resets a connection that it can't write to.
const HELD: Duration = Duration::from_secs(45);

/// Delivered and settled before the target stops.
const SETTLED: usize = 100;

/// Waiting while it is stopped: some six times what one lane may hold of the gateway's memory.
const HELD_MESSAGES: usize = 1_500;
const BODY_BYTES: usize = 64 * 1024;

/// The lane gives up what it can't hold once, and may need another size of prefetch; each is a connection of its own.
const CONNECTIONS_MAX: usize = 4;

/// Owned by sh-2.
const UID: u32 = 60;

/// An environment variable's number.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    let said = std::env::vars().find(|(variable, _)| variable == name);
    said.map_or(default, |(_, value)| {
        let parsed = value.parse();
        parsed.unwrap_or_else(|error| panic!("{name}={value}: {error}"))
    })
}

/// A body of so many bytes that says which one it is.
pub(crate) fn numbered(number: usize, bytes: usize) -> Vec<u8> {
    let seed = number as u64 + 1;
    let mut body = (number as u64).to_be_bytes().to_vec();
    body.reserve(bytes);
    for at in 1.. {
        if body.len() >= bytes {
            break;
        }
        // Not compressible, and another in each: links compress.
        let word = seed
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_mul(2 * at + 1);
        body.extend_from_slice(&(word ^ (word >> 29)).to_be_bytes());
    }
    body.truncate(bytes);
    body
}

/// Which one a body is; it must be whole.
pub(crate) fn number_of(body: &[u8]) -> usize {
    let number = u64::from_be_bytes(body[..8].try_into().unwrap());
    let number = usize::try_from(number).unwrap();
    assert!(
        body == numbered(number, body.len()),
        "{number} has another body"
    );
    number
}

/// The next message of a queue, and whether it is marked as perhaps delivered before.
async fn next(consumer: &mut Broker, queue: &str) -> (usize, bool) {
    let look = async || block_in_place(|| consumer.raw().get(queue)).unwrap();
    let what = format!("a message in {queue}");
    let got = eventually(&what, DEADLINE * 2, look).await.0;
    let doubt = b"x-set-in-doubt";
    let doubted = got
        .properties
        .windows(doubt.len())
        .any(|part| part == doubt);
    assert_eq!(got.body.len(), BODY_BYTES);
    (number_of(&got.body), doubted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_whose_target_is_stopped_waits_and_goes_on_in_order() {
    let held = number("SETGATE_HELD_SECONDS", HELD.as_secs());
    let held = Duration::from_secs(held);
    let files = [
        ("world.yaml", world(&["sh-1", "sh-2"])),
        ("orders.yaml", format!("{ORDERS}---\n{BY_OWNER}")),
    ];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let mut world = World::start("held", &files).await;
    let mut publisher = world.app("sh-1");
    let mut consumer = world.app("sh-2");
    let publish = |publisher: &mut Broker, number| {
        publisher.publish(
            "orders",
            "order.cn",
            &keyed(UID),
            numbered(number, BODY_BYTES),
        );
    };
    for number in 0..SETTLED {
        publish(&mut publisher, number);
    }
    let mut settled = BTreeSet::new();
    while settled.len() < SETTLED {
        settled.insert(next(&mut consumer, "app.orders.local").await.0);
    }
    world.lane_queue_is_empty().await;

    // Publishing takes its time, and the lane may be another connection's by then.
    let mut connections = world.connections("sh-1").await;
    let target: Node = "gateway/sh-2-a".parse().unwrap();
    world.fabric.pause(&target).unwrap();
    let begun = Instant::now();
    for number in SETTLED..SETTLED + HELD_MESSAGES {
        publish(&mut publisher, number);
    }
    let mut states: BTreeMap<(String, String), u32> = BTreeMap::new();
    let mut ticks = interval(Duration::from_millis(500));
    while begun.elapsed() < held {
        ticks.tick().await;
        for (name, of) in world.connections("sh-1").await {
            connections.insert(name, of);
        }
        let lane = world.lane("sh-1", "orders", ALL_STATES).await;
        let text = |field: &str| lane[field].as_str().unwrap_or_default().to_owned();
        *states.entry((text("state"), text("cause"))).or_default() += 1;
    }
    world.fabric.resume(&target).unwrap();
    println!("stopped for {:.0} s", begun.elapsed().as_secs_f64());
    for ((state, cause), ticks) in &states {
        println!("{:.0} s {state} {cause}", f64::from(*ticks) / 2.0);
    }
    for (name, of) in &connections {
        println!("connection {name} {of}");
    }
    let of_lane = |of: &&String| of.contains("lane orders");
    let lanes = connections.values().filter(of_lane).count();
    assert!(
        (1..=CONNECTIONS_MAX).contains(&lanes),
        "{lanes} connections of one lane: it loops"
    );

    // Whatever was on its way when the target stopped may come twice; what was settled may not, nor out of order.
    let resumed = Instant::now();
    let mut last = None;
    let mut repeated = 0;
    let mut doubted = 0;
    let end = SETTLED + HELD_MESSAGES - 1;
    while last != Some(end) {
        let (number, in_doubt) = next(&mut consumer, "app.orders.local").await;
        assert!(
            !settled.contains(&number),
            "{number} was settled, and comes again"
        );
        doubted += usize::from(in_doubt);
        match last.map_or(SETTLED, |last| last + 1) {
            due if number == due => last = Some(number),
            due if number > due => panic!("{number} comes before {due}"),
            _ => repeated += 1,
        }
    }
    world.lane_queue_is_empty().await;
    println!(
        "{HELD_MESSAGES} of {BODY_BYTES} bytes arrived in order {:.1} s later; {repeated} came twice, {doubted} marked as \
         in doubt; {lanes} connections of the lane",
        resumed.elapsed().as_secs_f64(),
    );
    let more = block_in_place(|| consumer.raw().get("app.orders.local")).unwrap();
    assert!(more.is_none(), "one more came");
    world.end().await;
}

const ALL_STATES: &[&str] = &["opening", "down", "waiting", "taking", "held", "draining"];

impl World {
    /// The gateway's connections to a unit's broker, by their names, with what they say they are.
    async fn connections(&mut self, unit: &str) -> BTreeMap<String, String> {
        let broker = self.fabric.lab().unit(unit).unwrap().brokers[0].clone();
        let vhost = broker.vhost_encoded();
        let url = format!("{}/api/vhosts/{vhost}/connections", broker.management);
        let login = broker.operator();
        let listed = self
            .fabric
            .http()
            .get_json(&url, Some(login))
            .await
            .unwrap();
        let listed = listed.as_array().unwrap().iter();
        listed
            .filter(|one| one["user"] == broker.user.as_str())
            .filter_map(|one| {
                let said = one["client_properties"]["connection_name"].as_str()?;
                Some((one["name"].as_str()?.to_owned(), said.to_owned()))
            })
            .collect()
    }

    /// Waits until the lane's queue in sh-1 has neither ready nor unacknowledged messages.
    pub(crate) async fn lane_queue_is_empty(&mut self) {
        let queue = self.own_queue("lane.orders.0");
        let broker = self.fabric.lab().unit("sh-1").unwrap().brokers[0].clone();
        let vhost = broker.vhost_encoded();
        let url = format!("{}/api/queues/{vhost}/{queue}", broker.management);
        let login = broker.operator();
        let begun = Instant::now();
        // The management API lags by some seconds, and says 0 for a queue that it has no figures of yet.
        let lag = Duration::from_secs(7);
        let look = async || {
            let queue = self
                .fabric
                .http()
                .get_json(&url, Some(login))
                .await
                .unwrap();
            (queue["messages"] == 0 && begun.elapsed() > lag).then_some(())
        };
        eventually(&format!("{queue} is empty"), DEADLINE * 2, look).await;
    }
}
