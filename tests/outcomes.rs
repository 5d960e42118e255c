//! Each publish gets one outcome, and it is right: by an independent count, through killed connections.
//!
//! Messages for a queue, for no queue and for a full one, a thousand in flight, while the connection is killed again and
//! again: by the broker, by the network, and by the network after it has withheld the confirms for a while. What a
//! killed connection leaves unknown isn't published again: it counts apart, and may or may not be there. Afterwards
//! another client reads the queues, and each message in them is compared with its outcome.
//!
//! `SETGATE_OUTCOMES_MESSAGES` says how many. On the brokers that `make test-lab` has started.

#![allow(clippy::unwrap_used, clippy::panic)] // tests and their helpers panic at what must hold

use bytes::Bytes;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::FieldTable as Table;
use serde_json::json;
use setgate::amqp::{FieldValue, Properties, RawProperties};
use setgate::broker::{Dialer, LanePublisher, Outcome, Publish, PublishId, Settings, Unroutable};
use setgate::lab::http::{HttpClient, encode};
use setgate::lab::proxy::{Gate, Proxy};
use setgate::lab::{LabBroker, LabFile};
use setgate::model::Address;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Enough for a few kills of each kind, and for `make test`.
const MESSAGES: u64 = 60_000;

/// Published and unanswered.
const IN_FLIGHT_MAX: usize = 1_000;

/// A connection is killed after so many messages: 20 times in a million, 4 times at least.
const MESSAGES_PER_KILL: u64 = 50_000;
const KILLS_MIN: u64 = 4;

/// Longer than any pause of a broker on a loaded machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// Without an outcome for so long, while the way back is cut, all that was on its way has come.
const STALLED: Duration = Duration::from_millis(300);

const VHOST: &str = "outcomes";
/// The publisher's, so that its connections can be told from others.
const USER: &str = "outcomes";
const ROUTABLE: &str = "outcomes.in";
const FULL: &str = "outcomes.full";
const NOWHERE: &str = "outcomes.nowhere";

/// More than one frame of 128 KiB.
const LARGE_BODY_BYTES: usize = 300 * 1024;
/// The broker's largest frame has 128 KiB.
const LARGE_HEADER_BYTES: usize = 140 * 1024;

/// What is wished for a message, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    /// There is a queue, with room.
    Routable,
    /// No queue is bound.
    Unroutable,
    /// The queue is full, and rejects.
    Refused,
    /// Its headers fit no frame.
    TooLarge,
    /// Its routing key is too long for AMQP.
    Unencodable,
}

impl Wish {
    /// 2 % unroutable, 2 % refused, 2 ‰ each of what is never sent.
    fn of(number: u64) -> Self {
        match (number % 50, number % 500) {
            (0, _) => Self::Unroutable,
            (25, _) => Self::Refused,
            (_, 7) => Self::TooLarge,
            (_, 8) => Self::Unencodable,
            (_, _) => Self::Routable,
        }
    }

    fn routing_key(self) -> Bytes {
        Bytes::from_static(match self {
            Self::Routable | Self::TooLarge => ROUTABLE.as_bytes(),
            Self::Unroutable => NOWHERE.as_bytes(),
            Self::Refused => FULL.as_bytes(),
            Self::Unencodable => &[b'k'; 256],
        })
    }
}

/// An [`Outcome`] without its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    Confirmed,
    Returned,
    Nacked,
    TooLarge,
    Unencodable,
    Unknown,
    Unsent,
}

impl From<&Outcome> for Known {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Confirmed => Self::Confirmed,
            Outcome::Returned { .. } => Self::Returned,
            Outcome::Nacked => Self::Nacked,
            Outcome::TooLarge { .. } => Self::TooLarge,
            Outcome::Unencodable { .. } => Self::Unencodable,
            Outcome::Unknown { .. } => Self::Unknown,
            Outcome::Unsent { .. } => Self::Unsent,
        }
    }
}

/// How often a message may be in its queue, if its outcome may be this at all.
fn copies_due(wish: Wish, known: Known) -> Option<std::ops::RangeInclusive<u8>> {
    match (wish, known) {
        (Wish::Routable, Known::Confirmed) => Some(1..=1),
        (Wish::Routable, Known::Unknown) => Some(0..=1),
        (Wish::Unroutable, Known::Returned | Known::Unknown)
        | (Wish::Refused, Known::Nacked | Known::Unknown)
        | (Wish::TooLarge, Known::TooLarge)
        | (Wish::Unencodable, Known::Unencodable)
        | (_, Known::Unsent) => Some(0..=0),
        (_, _) => None,
    }
}

/// What ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kill {
    /// The broker closes it (320).
    ByBroker,
    /// Its packets stop and its sockets end: what was on its way is lost, either way.
    ByNetwork,
    /// The same, after the way back was cut: what was published is stored, and nobody knows.
    Withheld,
}

impl Kill {
    fn of(number: u64) -> Self {
        match number % 4 {
            0 | 2 => Self::ByBroker,
            1 => Self::ByNetwork,
            _ => Self::Withheld,
        }
    }
}

fn message(number: u64) -> Publish {
    let wish = Wish::of(number);
    let id = number.to_string();
    let mut properties = Properties {
        delivery_mode: Some(2),
        message_id: Some(Bytes::from(id.clone())),
        ..Properties::default()
    };
    let headers = properties.headers_mut();
    headers.set("x-set-parcel", FieldValue::str(&id));
    if wish == Wish::TooLarge {
        let pad = Bytes::from(vec![0; LARGE_HEADER_BYTES]);
        headers.set("pad", FieldValue::Bytes(pad));
    }
    // A large one of each wish now and then: returns and deliveries of several frames.
    let bytes = match number % 5_000 {
        0 | 1 | 25 => LARGE_BODY_BYTES,
        2 => 0,
        _ => 100,
    };
    let mut body = id.into_bytes();
    body.resize(bytes, b'.');
    Publish {
        id: PublishId(number),
        address: Address {
            exchange: Bytes::new(),
            routing_key: wish.routing_key(),
        },
        properties: RawProperties::from_wire(properties.encode().unwrap()),
        body: body.into(),
        unroutable: Unroutable::Return,
    }
}

/// A vhost of this test's own on one of the shared brokers.
struct Place {
    http: HttpClient,
    broker: LabBroker,
    target: SocketAddr,
}

impl Place {
    async fn make() -> Self {
        let lab = LabFile::read(&setgate::lab::fabric::test_lab_dir())
            .unwrap_or_else(|error| panic!("{error}; `make test-lab` starts the brokers"));
        let mut broker = lab.units.last().unwrap().brokers[0].clone();
        let http = HttpClient::new();
        setgate::lab::broker::delete_vhost(&http, &broker, VHOST)
            .await
            .unwrap();
        let end = broker.uri.rfind('/').unwrap();
        broker.uri.replace_range(end + 1.., VHOST);
        let target = broker.uri["amqp://".len()..end].parse().unwrap();
        let place = Self {
            http,
            broker,
            target,
        };
        place.put("vhosts/outcomes", json!({})).await;
        let all = json!({"configure": ".*", "write": ".*", "read": ".*"});
        let user = json!({"password": USER, "tags": ""});
        place.put(&format!("users/{USER}"), user).await;
        for user in [USER, &place.broker.app_user] {
            let path = format!("permissions/{VHOST}/{}", encode(user));
            place.put(&path, all.clone()).await;
        }
        let queue = |arguments| json!({"durable": true, "arguments": arguments});
        place
            .put(&format!("queues/{VHOST}/{ROUTABLE}"), queue(json!({})))
            .await;
        let full = json!({"x-max-length": 1, "x-overflow": "reject-publish"});
        place
            .put(&format!("queues/{VHOST}/{FULL}"), queue(full))
            .await;
        place
    }

    async fn remove(self) {
        let url = format!("{}/api/users/{USER}", self.broker.management);
        self.http
            .delete(&url, self.broker.operator())
            .await
            .unwrap();
        setgate::lab::broker::delete_vhost(&self.http, &self.broker, VHOST)
            .await
            .unwrap();
    }

    async fn put(&self, path: &str, body: serde_json::Value) {
        let url = format!("{}/api/{path}", self.broker.management);
        self.http
            .put(&url, self.broker.operator(), &body)
            .await
            .unwrap();
    }

    /// Has the broker close the publisher's connection, until told that it has.
    async fn close_connections(&self, closed: CancellationToken) {
        let mut ticks = interval(Duration::from_millis(50));
        while !closed.is_cancelled() {
            ticks.tick().await;
            setgate::lab::broker::close_connections(&self.http, &self.broker, USER)
                .await
                .unwrap();
        }
    }

    /// Another client's channel.
    async fn reader(&self) -> lapin::Channel {
        let properties = lapin::ConnectionProperties::default();
        let connection = lapin::Connection::connect(&self.broker.app_uri(), properties).await;
        connection.unwrap().create_channel().await.unwrap()
    }

    /// The engine's publisher, by a proxy.
    async fn publisher(&self, by: &Proxy, tasks: &TaskTracker) -> LanePublisher {
        let uri = format!("amqp://{USER}:{USER}@{}/{VHOST}", by.address());
        let settings = Settings {
            uris: vec![uri.into()],
            password: None,
            tls: None,
            heartbeat: Settings::HEARTBEAT,
            message_bytes_max: 1 << 20,
            name: "outcomes".to_owned(),
        };
        let dialer = Dialer::new(&settings, None, tasks).unwrap();
        let opened = timeout(DEADLINE, LanePublisher::open(&dialer, "publisher", None)).await;
        opened.expect("opened in time").unwrap()
    }
}

/// What is known, by number.
struct Account {
    known: Vec<Option<Known>>,
    answered: u64,
    /// The words for what ended connections, and how often.
    causes: BTreeMap<String, u64>,
}

impl Account {
    fn note(&mut self, PublishId(number): PublishId, outcome: &Outcome) {
        let at = usize::try_from(number).unwrap();
        let before = self.known[at].replace(Known::from(outcome));
        assert!(before.is_none(), "{number} is {before:?}, then {outcome:?}");
        self.answered += 1;
        if let Outcome::Unknown { cause } | Outcome::Unsent { cause } = outcome {
            *self.causes.entry(cause.clone()).or_default() += 1;
        }
    }
}

/// Publishes all of them, and kills the connection so many times meanwhile.
async fn publish(place: &Place, messages: u64, kills: u64) -> Account {
    let tasks = TaskTracker::new();
    let mut proxy = Proxy::start(place.target, Duration::ZERO, &tasks)
        .await
        .unwrap();
    let mut publisher = place.publisher(&proxy, &tasks).await;
    let mut account = Account {
        known: vec![None; usize::try_from(messages).unwrap()],
        answered: 0,
        causes: BTreeMap::new(),
    };
    let mut next = 0;
    let mut killed = 0;
    let mut cut_at = Instant::now();
    // The broker closes what it lists while these run.
    let mut killing: Option<Kill> = None;
    let mut gone = CancellationToken::new();
    let mut closer = Box::pin(place.close_connections(gone.clone()));
    while account.answered < messages {
        if !publisher.is_open() && publisher.unanswered() == 0 {
            assert!(
                killing.is_some(),
                "it ended by itself: {:?}",
                account.causes
            );
            gone.cancel();
            if killing == Some(Kill::ByBroker) {
                closer.as_mut().await;
            }
            killing = None;
            killed += 1;
            proxy = Proxy::start(place.target, Duration::ZERO, &tasks)
                .await
                .unwrap();
            publisher = place.publisher(&proxy, &tasks).await;
        }
        while next < messages
            && publisher.is_open()
            && publisher.has_room()
            && publisher.unanswered() < IN_FLIGHT_MAX
        {
            publisher.publish(message(next));
            next += 1;
        }
        if killing.is_none() && killed < kills && next > (killed + 1) * messages / (kills + 1) {
            killing = Some(Kill::of(killed));
            match Kill::of(killed) {
                Kill::ByBroker => {
                    gone = CancellationToken::new();
                    closer = Box::pin(place.close_connections(gone.clone()));
                }
                Kill::ByNetwork => {
                    // The old proxy ends with its connections.
                    proxy = Proxy::start(place.target, Duration::ZERO, &tasks)
                        .await
                        .unwrap();
                }
                Kill::Withheld => {
                    proxy.set_backward(Gate::Cut);
                    cut_at = Instant::now();
                }
            }
        }
        let known = match killing {
            Some(Kill::ByBroker) => {
                let either = async {
                    tokio::select! {
                        biased;
                        known = publisher.next() => known,
                        () = closer.as_mut() => panic!("it goes on until it is told to end"),
                    }
                };
                timeout(DEADLINE, either).await.expect("an outcome in time")
            }
            Some(Kill::Withheld) => {
                if let Ok(known) = timeout(STALLED, publisher.next()).await {
                    known
                } else {
                    assert!(cut_at.elapsed() < DEADLINE, "too little is in flight");
                    // A broker that is slow to read may not have let in a full window yet.
                    if next == messages || publisher.unanswered() >= IN_FLIGHT_MAX {
                        proxy = Proxy::start(place.target, Duration::ZERO, &tasks)
                            .await
                            .unwrap();
                    }
                    continue;
                }
            }
            Some(Kill::ByNetwork) | None => timeout(DEADLINE, publisher.next())
                .await
                .expect("an outcome in time"),
        };
        for (id, outcome) in known {
            account.note(id, &outcome);
        }
    }
    assert_eq!(killed, kills, "kills");
    publisher.close().await.unwrap();
    drop(proxy);
    tasks.close();
    timeout(DEADLINE, tasks.wait()).await.expect("tasks end");
    account
}

/// How often each message is in the queue, by another client, and how many there are.
async fn count(channel: &lapin::Channel, messages: u64) -> (Vec<u8>, u64) {
    let depth = async || {
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let declared = channel.queue_declare(ROUTABLE.into(), passive, Table::default());
        u64::from(declared.await.unwrap().message_count())
    };
    let due = depth().await;
    let qos = channel.basic_qos(1_000, BasicQosOptions::default());
    qos.await.unwrap();
    let options = BasicConsumeOptions::default();
    let consume = channel.basic_consume(ROUTABLE.into(), "".into(), options, Table::default());
    let mut deliveries = consume.await.unwrap();
    let mut copies = vec![0u8; usize::try_from(messages).unwrap()];
    for number in 1..=due {
        let next = futures_util::StreamExt::next(&mut deliveries);
        let delivery = timeout(DEADLINE, next).await.unwrap().unwrap().unwrap();
        let id = delivery.properties.message_id().as_ref().unwrap().as_str();
        let at: usize = id.parse().unwrap();
        copies[at] += 1;
        let sent = message(at as u64);
        assert!(sent.body == delivery.data, "the body of {at} is another");
        if number % 500 == 0 || number == due {
            let all = BasicAckOptions { multiple: true };
            channel.basic_ack(delivery.delivery_tag, all).await.unwrap();
        }
    }
    assert_eq!(depth().await, 0, "more came while it was read");
    (copies, due)
}

/// Fills the queue that rejects.
async fn fill(channel: &lapin::Channel) {
    let published = channel.basic_publish(
        "".into(),
        FULL.into(),
        lapin::options::BasicPublishOptions::default(),
        b"filler",
        lapin::BasicProperties::default().with_delivery_mode(2),
    );
    published.await.unwrap();
}

/// The bodies in the queue that rejects.
async fn rejecting(channel: &lapin::Channel) -> Vec<String> {
    let mut bodies = Vec::new();
    let options = lapin::options::BasicGetOptions { no_ack: true };
    while let Some(got) = channel.basic_get(FULL.into(), options).await.unwrap() {
        bodies.push(String::from_utf8_lossy(&got.delivery.data).into_owned());
    }
    bodies
}

fn messages() -> u64 {
    let said = std::env::vars().find(|(name, _)| name == "SETGATE_OUTCOMES_MESSAGES");
    said.map_or(MESSAGES, |(name, value)| {
        let parsed = value.parse();
        parsed.unwrap_or_else(|error| panic!("{name}={value}: {error}"))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_publish_has_one_outcome_and_it_is_right() {
    let messages = messages();
    let kills = (messages / MESSAGES_PER_KILL).max(KILLS_MIN);
    let place = Place::make().await;
    fill(&place.reader().await).await;
    let begun = Instant::now();
    let account = publish(&place, messages, kills).await;
    let took = begun.elapsed();

    let reader = place.reader().await;
    let (copies, stored) = count(&reader, messages).await;
    let mut table: BTreeMap<(Wish, Known), (u64, u64)> = BTreeMap::new();
    let mut faults = Vec::new();
    for number in 0..messages {
        let at = usize::try_from(number).unwrap();
        let (wish, copies) = (Wish::of(number), copies[at]);
        let known = account.known[at].expect("each has an outcome");
        let line = table.entry((wish, known)).or_default();
        line.0 += 1;
        line.1 += u64::from(copies);
        let right = copies_due(wish, known).is_some_and(|due| due.contains(&copies));
        if !right {
            faults.push(format!(
                "{number}: {wish:?}, {known:?}, {copies} in the queue"
            ));
        }
    }
    println!(
        "{messages} publishes in {:.1} s ({:.0}/s), {IN_FLIGHT_MAX} in flight, {kills} kills; {stored} in the queue",
        took.as_secs_f64(),
        messages as f64 / took.as_secs_f64(),
    );
    for ((wish, known), (count, stored)) in &table {
        println!("{wish:?} → {known:?}: {count}, of which {stored} in the queue");
    }
    for (cause, count) in &account.causes {
        println!("{count} × {cause}");
    }
    let shown = &faults[..faults.len().min(20)];
    assert!(faults.is_empty(), "{} are wrong: {shown:#?}", faults.len());
    let outcomes: u64 = table.values().map(|(count, _)| count).sum();
    assert_eq!(outcomes, messages);
    assert!(
        table.contains_key(&(Wish::Routable, Known::Unknown)),
        "no kill hit anything"
    );
    assert_eq!(rejecting(&reader).await, ["filler"]);
    place.remove().await;
}
