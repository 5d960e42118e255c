//! The account of the traffic on real brokers: a plain path is clean, and every fault planted in it is counted.
//!
//! No gateway takes part: a relay of the test's own carries raw messages from one unit to another, and errs as told.

#![allow(clippy::unwrap_used)] // tests and their helpers panic at what must hold

use bytes::Bytes;
use setgate::amqp::{FieldTable, FieldValue, Properties};
use setgate::lab::checker::Account;
use setgate::lab::fabric::test_lab_dir;
use setgate::lab::raw::{RawClient, RawConfirm, RawMessage};
use setgate::lab::traffic::{Plan, UnitPlan, measure, units_of_lab};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Enough for two keys to have many messages each.
const MESSAGES: u64 = 40;

/// The message that faults are planted at; the one two behind it has the same key.
const VICTIM: usize = 10;

/// The brokers that `make test-lab` has started.
fn units() -> Vec<UnitPlan> {
    let units = units_of_lab(&test_lab_dir()).unwrap();
    assert!(units.len() >= 2, "these tests need two units");
    units
}

fn raw(unit: &UnitPlan) -> RawClient {
    RawClient::connect_to(&unit.brokers[0]).unwrap()
}

/// Exchanges and queues of one test, the same in every unit.
struct Names {
    take: String,
    deliver: String,
    relay: String,
    park: String,
}

fn names(test: &str) -> Names {
    let id = format!("{test}-{}", uuid::Uuid::now_v7().simple());
    Names {
        take: format!("take.{id}"),
        deliver: format!("deliver.{id}"),
        relay: format!("relay.{id}"),
        park: format!("setgate.{id}.park"),
    }
}

impl Names {
    fn declare(&self, unit: &UnitPlan) {
        let mut broker = raw(unit);
        for exchange in [&self.take, &self.deliver] {
            broker.declare_exchange(exchange, "topic").unwrap();
        }
        broker.declare_queue(&self.relay).unwrap();
        broker.bind(&self.relay, &self.take, "#").unwrap();
        broker.declare_queue(&self.park).unwrap();
    }
}

/// Where the relay puts a message.
enum To {
    /// The deliver exchange of a unit.
    Unit(usize),
    /// The park queue of the first unit.
    Park,
}

type Puts = Vec<(To, RawMessage)>;

/// Carries every message of the first unit's relay queue as `plant` says, which sees each with its place.
fn relay(
    units: &[UnitPlan],
    names: &Names,
    mut plant: impl FnMut(usize, RawMessage) -> Puts + Send + 'static,
) -> JoinHandle<()> {
    let mut brokers: Vec<RawClient> = units.iter().map(raw).collect();
    let (deliver, queue, park) = (
        names.deliver.clone(),
        names.relay.clone(),
        names.park.clone(),
    );
    tokio::task::spawn_blocking(move || {
        let mut seen = 0;
        while seen < usize::try_from(MESSAGES).unwrap() {
            let Some(message) = brokers[0].get(&queue).unwrap() else {
                continue;
            };
            for (to, message) in plant(seen, message) {
                let (unit, exchange, key) = match to {
                    To::Unit(unit) => (unit, deliver.as_bytes(), message.routing_key.as_ref()),
                    To::Park => (0, &b""[..], park.as_bytes()),
                };
                let confirm =
                    brokers[unit].publish(exchange, key, &message.properties, &message.body);
                assert_eq!(confirm.unwrap(), RawConfirm::Ack);
            }
            seen += 1;
        }
    })
}

/// Publishes in the first unit under two keys, through a relay that errs as `plant` says; consumes in two units.
async fn account_of(
    test: &str,
    change: impl FnOnce(Plan) -> Plan,
    plant: impl FnMut(usize, RawMessage) -> Puts + Send + 'static,
) -> Account {
    let units = units()[..2].to_vec();
    let names = names(test);
    for unit in &units {
        names.declare(unit);
    }
    let mut plan = Plan::new(units.clone(), &names.take, &[&names.deliver])
        .publish_in(&[units[0].name.clone()])
        .unwrap();
    plan.messages = MESSAGES;
    plan.keys = 2;
    plan.park = Some(names.park.clone());
    plan.settle = Duration::from_secs(3);
    let relay = relay(&units, &names, plant);
    let account = measure(change(plan)).await.unwrap();
    relay.await.unwrap();
    account
}

/// The message with one more header.
fn with(message: &RawMessage, name: &str, value: FieldValue) -> RawMessage {
    let mut properties = Properties::decode(message.properties.clone()).unwrap();
    properties.headers_mut().set(name, value);
    RawMessage {
        properties: properties.encode().unwrap(),
        ..message.clone()
    }
}

fn on(message: RawMessage) -> Puts {
    vec![(To::Unit(1), message)]
}

#[tokio::test]
async fn a_plain_path_has_a_clean_account() {
    let units = units();
    let names = names("plain");
    for unit in &units {
        names.declare(unit);
    }
    let mut plan = Plan::new(units, &names.take, &[&names.take]);
    plan.messages = 1_000;
    let account = measure(plan).await.unwrap();
    assert!(account.is_clean(), "{account:?}");
    assert_eq!((account.confirmed, account.delivered), (1_000, 1_000));
    assert!(account.p99_ms > 0.0, "{account:?}");
}

#[tokio::test]
async fn a_relay_that_errs_in_nothing_has_a_clean_account() {
    let account = account_of("faithful", |plan| plan, |_, message| on(message)).await;
    assert!(account.is_clean(), "{account:?}");
    assert_eq!((account.confirmed, account.delivered), (MESSAGES, MESSAGES));
}

#[tokio::test]
async fn a_dropped_message_is_counted_as_lost() {
    let drop_one = |at, message| match at {
        VICTIM => Vec::new(),
        _ => on(message),
    };
    let account = account_of("lost", |plan| plan, drop_one).await;
    assert_eq!((account.lost, account.delivered), (1, MESSAGES - 1));
}

#[tokio::test]
async fn a_parked_message_is_counted_as_parked_and_not_as_lost() {
    let park_one = |at, message| match at {
        VICTIM => vec![(To::Park, message)],
        _ => on(message),
    };
    let account = account_of("parked", |plan| plan, park_one).await;
    assert_eq!((account.parked, account.lost), (1, 0));
    assert!(account.is_clean(), "{account:?}");
}

#[tokio::test]
async fn a_repeated_message_is_counted_as_duplicate_unless_it_is_marked() {
    let repeat = |at, message: RawMessage| match at {
        VICTIM => vec![(To::Unit(1), message.clone()), (To::Unit(1), message)],
        20 => {
            let marked = with(&message, "x-set-in-doubt", FieldValue::Bool(true));
            vec![(To::Unit(1), message), (To::Unit(1), marked)]
        }
        _ => on(message),
    };
    let account = account_of("repeated", |plan| plan, repeat).await;
    assert_eq!((account.duplicates, account.marked_in_doubt), (1, 1));
    assert_eq!((account.lost, account.reordered), (0, 0));
}

#[tokio::test]
async fn a_message_behind_a_later_one_of_its_key_is_counted_as_reordered() {
    let mut held = None;
    let overtake = move |at, message| match at {
        VICTIM => {
            held = Some(message);
            Vec::new()
        }
        12 => held.take().into_iter().fold(on(message), |mut puts, late| {
            puts.push((To::Unit(1), late));
            puts
        }),
        _ => on(message),
    };
    let account = account_of("reordered", |plan| plan, overtake).await;
    assert_eq!((account.reordered, account.lost), (1, 0));
}

#[tokio::test]
async fn a_message_addressed_to_another_unit_is_counted_in_a_wrong_one() {
    let names: Vec<_> = units().iter().map(|unit| unit.name.clone()).collect();
    let astray = move |at, message: RawMessage| {
        let to = names[usize::from(at != VICTIM)].as_str();
        on(with(&message, "x-set-to", FieldValue::str(to)))
    };
    let account = account_of("astray", |plan| plan, astray).await;
    assert_eq!((account.wrong_unit, account.lost), (1, 0));
}

#[tokio::test]
async fn a_key_delivered_in_two_units_under_one_epoch_is_counted_as_owned_twice() {
    let split = |at, message: RawMessage| {
        let message = with(&message, "x-set-epoch", FieldValue::I64(7));
        vec![(To::Unit(usize::from(at != VICTIM)), message)]
    };
    let account = account_of("split", |plan| plan, split).await;
    assert_eq!((account.two_owner, account.lost), (1, 0));
}

#[tokio::test]
async fn a_shared_message_is_due_once_in_every_unit() {
    let copies = |at, message: RawMessage| match at {
        VICTIM => on(message),
        20 => vec![
            (To::Unit(0), message.clone()),
            (To::Unit(1), message.clone()),
            (To::Unit(1), message),
        ],
        _ => vec![(To::Unit(0), message.clone()), (To::Unit(1), message)],
    };
    let account = account_of("shared", Plan::shared, copies).await;
    assert_eq!((account.lost, account.duplicates), (1, 1));
    assert_eq!(account.delivered, 2 * MESSAGES - 1);
}

#[tokio::test]
async fn a_message_that_nothing_is_bound_for_counts_as_returned_and_not_as_confirmed() {
    let units = units()[..1].to_vec();
    let names = names("returned");
    names.declare(&units[0]);
    let mut plan = Plan::new(units, &names.deliver, &[&names.take]);
    plan.messages = 100;
    plan.settle = Duration::from_secs(2);
    let account = measure(plan).await.unwrap();
    assert_eq!((account.returned, account.confirmed), (100, 0));
    assert!(account.is_clean(), "{account:?}");
}

#[test]
fn a_raw_message_comes_out_of_a_queue_as_it_went_in() {
    let unit = &units()[0];
    let names = names("raw");
    names.declare(unit);
    let odd: Bytes = Bytes::from_static(b"\xff\xfe not text");
    let inner: FieldTable = [
        (odd.clone(), FieldValue::Decimal { scale: 3, value: 9 }),
        (odd.clone(), FieldValue::U32(u32::MAX)),
    ]
    .into_iter()
    .collect();
    let properties = Properties {
        message_id: Some(odd.clone()),
        headers: Some(
            [(odd.clone(), FieldValue::Table(inner))]
                .into_iter()
                .collect(),
        ),
        cluster_id: Some(Bytes::from_static(b"c")),
        ..Properties::default()
    };
    let properties = properties.encode().unwrap();
    let body = vec![7u8; 300_000];
    let mut broker = raw(unit);
    let confirm = broker.publish(names.take.as_bytes(), b"a.\xff", &properties, &body);
    assert_eq!(confirm.unwrap(), RawConfirm::Ack);
    let message = broker.get(&names.relay).unwrap().unwrap();
    assert_eq!(message.properties, properties);
    assert_eq!(message.body, body);
    assert_eq!(message.routing_key.as_ref(), b"a.\xff");
    assert_eq!(message.exchange, names.take.as_bytes());
    assert!(!message.redelivered);
    assert_eq!(broker.get(&names.relay).unwrap(), None);
    let nowhere = broker.publish(names.deliver.as_bytes(), b"a", &properties, b"");
    assert_eq!(nowhere.unwrap(), RawConfirm::Returned);
}

#[test]
fn a_raw_client_says_why_the_broker_closed() {
    let mut broker = raw(&units()[0]);
    let error = broker.get("no.such.queue").unwrap_err();
    assert!(error.to_string().contains("404 NOT_FOUND"), "{error}");
}
