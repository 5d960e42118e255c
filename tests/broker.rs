//! The broker's shell against a real RabbitMQ: outcomes, locks, declarations, and what happens when the broker dies.
//!
//! Each test starts a node of its own, on free ports, in a folder of its own, and ends it.

// The fixture's helpers are tests too, which clippy's own exception doesn't see.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable as LapinTable};
use rustix::process::{Pid, Signal, kill_process_group};
use setgate::amqp::{FieldTable, FieldValue, Properties};
use setgate::broker::{
    Binding, BrokerError, Connection, ConnectionState, Consumer, ConsumerEvent, ConsumerKind,
    DeclareError, ForeignKind, InspectError, LanePublisher, Management, OpenError, Outcome,
    Publish, QueueType, Role, Settings, Span, Tls, Unroutable, depth, ensure_lane_queue,
    ensure_own_queue, hold, inspect_foreign_queue,
};
use setgate::model::{Address, DeliveryTag, Message};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const BIN: &str = "/usr/lib/rabbitmq/bin";
const DEADLINE: Duration = Duration::from_mins(1);

/// One RabbitMQ node and its epmd.
struct Node {
    dir: TempDir,
    amqp: u16,
    amqps: u16,
    ca: String,
    management: u16,
    dist: u16,
    epmd_port: u16,
    epmd: Child,
    server: Option<Child>,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Node {
    fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let (amqp, amqps, management) = (free_port(), free_port(), free_port());
        let (dist, epmd_port) = (free_port(), free_port());
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let ca = certificate.cert.pem();
        let path = dir.path().display();
        std::fs::write(dir.path().join("cert.pem"), &ca).unwrap();
        std::fs::write(
            dir.path().join("key.pem"),
            certificate.signing_key.serialize_pem(),
        )
        .unwrap();
        std::fs::write(
            dir.path().join("rabbitmq.conf"),
            format!(
                "listeners.tcp.1 = 127.0.0.1:{amqp}\nmanagement.tcp.ip = 127.0.0.1\n\
                 management.tcp.port = {management}\nlog.console = false\n\
                 listeners.ssl.1 = 127.0.0.1:{amqps}\nssl_options.cacertfile = {path}/cert.pem\n\
                 ssl_options.certfile = {path}/cert.pem\nssl_options.keyfile = {path}/key.pem\n"
            ),
        )
        .unwrap();
        std::fs::write(dir.path().join("plugins"), "[rabbitmq_management].\n").unwrap();
        let epmd = Command::new("epmd")
            .args(["-address", "127.0.0.1", "-port", &epmd_port.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut node = Self {
            dir,
            amqp,
            amqps,
            ca,
            management,
            dist,
            epmd_port,
            epmd,
            server: None,
        };
        node.boot();
        node
    }

    fn command(&self, name: &str) -> Command {
        let dir = self.dir.path();
        let mut command = Command::new(Path::new(BIN).join(name));
        command
            .env("HOME", dir)
            .env("RABBITMQ_NODENAME", format!("t{}@localhost", self.amqp))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq.conf"))
            .env("RABBITMQ_MNESIA_BASE", dir.join("data"))
            .env("RABBITMQ_LOG_BASE", dir.join("log"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("plugins"))
            .env("RABBITMQ_DIST_PORT", self.dist.to_string())
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn boot(&mut self) {
        let mut command = self.command("rabbitmq-server");
        self.server = Some(command.process_group(0).spawn().unwrap());
    }

    fn signal(&self, signal: Signal) {
        if let Some(server) = &self.server {
            let group = Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
            let _ = kill_process_group(group, signal);
        }
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut server) = self.server.take() {
            let _ = server.wait();
        }
    }

    fn ctl(&self, arguments: &[&str]) {
        let status = self
            .command("rabbitmqctl")
            .args(arguments)
            .status()
            .unwrap();
        assert!(status.success(), "rabbitmqctl {arguments:?}");
    }

    fn settings(&self, user: &str) -> Settings {
        // The first URI is nobody's: each is tried in turn.
        Settings {
            uris: vec![
                format!("amqp://{user}:wrong@127.0.0.1:1/%2f").into(),
                format!("amqp://{user}:wrong@127.0.0.1:{}/%2f", self.amqp).into(),
            ],
            password: Some(user.to_owned().into()),
            tls: None,
            heartbeat: Settings::HEARTBEAT,
            message_bytes_max: 1 << 20,
            name: "trade/sh-1/sh-1-a".to_owned(),
        }
    }

    /// A supervised connection, up.
    async fn connect(&self, role: Role) -> Connection {
        self.connect_as("guest", role).await
    }

    async fn connect_as(&self, user: &str, role: Role) -> Connection {
        supervise(&self.settings(user), role).await
    }

    /// Why these settings don't connect.
    async fn refusal(&self, change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = self.settings("guest");
        change(&mut settings);
        let connection = Connection::new(&settings, None, Role::Publish).unwrap();
        let cancel = CancellationToken::new();
        let run = connection.run(cancel.clone());
        let mut state = connection.watch();
        let down = async {
            let failed = |state: &ConnectionState| {
                matches!(state, ConnectionState::Down { attempt: 1.., .. })
            };
            let cause = state
                .wait_for(failed)
                .await
                .unwrap()
                .cause()
                .unwrap()
                .to_owned();
            cancel.cancel();
            cause
        };
        within(async { tokio::join!(run, down) }).await.1
    }

    /// What an application would declare.
    async fn application(&self) -> lapin::Channel {
        let uri = format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.amqp);
        let connection = lapin::Connection::connect(&uri, lapin::ConnectionProperties::default())
            .await
            .unwrap();
        connection.create_channel().await.unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        let _ = self.epmd.kill();
        let _ = self.epmd.wait();
    }
}

async fn supervise(settings: &Settings, role: Role) -> Connection {
    let connection = Connection::new(settings, None, role).unwrap();
    let supervised = connection.clone();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { supervised.run(CancellationToken::new()).await });
    tasks.detach_all();
    within(connection.up()).await;
    connection
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("in time")
}

fn to_queue(queue: &str, number: usize) -> Publish {
    let token = number.to_string();
    let mut properties = Properties {
        delivery_mode: Some(2),
        ..Properties::default()
    };
    properties
        .headers_mut()
        .set("x-set-parcel", FieldValue::str(&token));
    Publish {
        address: Address {
            exchange: Bytes::new(),
            routing_key: Bytes::copy_from_slice(queue.as_bytes()),
        },
        properties,
        body: Bytes::from(format!("message {number}")),
        unroutable: Unroutable::Return,
        token,
    }
}

async fn delivery(consumer: &mut Consumer) -> (DeliveryTag, Message) {
    match within(consumer.next()).await {
        ConsumerEvent::Delivery { tag, message } => (tag, message),
        other => panic!("{other:?}"),
    }
}

async fn lost(consumer: &mut Consumer) -> String {
    loop {
        if let ConsumerEvent::Lost { cause } = within(consumer.next()).await {
            return cause;
        }
    }
}

fn every_property() -> Properties {
    let every_type = [
        ("a-bool", FieldValue::Bool(true)),
        ("b-i8", FieldValue::I8(-8)),
        ("c-u8", FieldValue::U8(200)),
        ("d-i16", FieldValue::I16(-1_600)),
        ("e-u16", FieldValue::U16(60_000)),
        ("f-i32", FieldValue::I32(-320_000)),
        ("g-u32", FieldValue::U32(4_000_000_000)),
        ("h-i64", FieldValue::I64(i64::MIN)),
        ("i-f32", FieldValue::F32(1.5)),
        ("j-f64", FieldValue::F64(-2.25)),
        (
            "k-decimal",
            FieldValue::Decimal {
                scale: 2,
                value: 1_999,
            },
        ),
        ("l-str", FieldValue::str("ünï")),
        ("m-not-utf-8", FieldValue::str([0xff, 0x00])),
        ("n-time", FieldValue::Timestamp(1_700_000_000)),
        ("o-void", FieldValue::Void),
        (
            "p-bytes",
            FieldValue::Bytes(Bytes::from_static(&[0, 1, 255])),
        ),
    ];
    let flat: FieldTable = every_type
        .iter()
        .map(|(name, value)| (Bytes::from_static(name.as_bytes()), value.clone()))
        .collect();
    let mut headers = flat.clone();
    let values = every_type.iter().map(|(_, value)| value.clone());
    headers.set(
        "q-array",
        FieldValue::Array(values.chain([FieldValue::Array(vec![])]).collect()),
    );
    let mut inner = FieldTable::new();
    inner.set("deep", FieldValue::Table(flat));
    inner.set("empty", FieldValue::Table(FieldTable::new()));
    headers.set("r-table", FieldValue::Table(inner));
    headers.set("x-set-parcel", FieldValue::str("all"));
    let text = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
    Properties {
        content_type: text("application/json"),
        content_encoding: text("gzip"),
        headers: Some(headers),
        delivery_mode: Some(2),
        priority: Some(7),
        correlation_id: text("correlation"),
        reply_to: text("replies"),
        expiration: text("600000"),
        message_id: text("m-1"),
        timestamp: Some(1_700_000_001),
        kind: text("order.created"),
        user_id: text("guest"),
        app_id: text("shop"),
        cluster_id: text("old"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_cross_unchanged_and_every_outcome_is_true() {
    let node = Node::start();
    let publishing = node.connect(Role::Publish).await;
    let consuming = node.connect(Role::Consume).await;
    let application = node.application().await;
    ensure_lane_queue(&publishing, "setgate.t.lane", QueueType::Quorum, "", &[])
        .await
        .unwrap();
    let mut publisher = LanePublisher::open(&publishing, None).await.unwrap();

    // Every property and field type.
    let mut all = to_queue("setgate.t.lane", 0);
    all.properties = every_property();
    all.token = "all".to_owned();
    assert_eq!(
        within(publisher.publish(vec![all])).await,
        [Outcome::Confirmed]
    );
    let mut consumer = Consumer::open(&consuming, "setgate.t.lane", ConsumerKind::SingleActive, 10)
        .await
        .unwrap();
    let (tag, message) = delivery(&mut consumer).await;
    assert_eq!(message.properties, every_property());
    assert_eq!(message.body, Bytes::from_static(b"message 0"));
    assert!(!message.redelivered);
    consumer.acknowledge(tag, Span::One).unwrap();

    // Returns, among 200 in flight: every 7th has no queue.
    for _ in 0..5 {
        let batch = (0..200)
            .map(|n| {
                to_queue(
                    if n % 7 == 0 {
                        "nowhere"
                    } else {
                        "setgate.t.lane"
                    },
                    n,
                )
            })
            .collect();
        for (n, outcome) in within(publisher.publish(batch))
            .await
            .into_iter()
            .enumerate()
        {
            if n % 7 == 0 {
                assert!(
                    matches!(outcome, Outcome::Returned { code: 312, .. }),
                    "{n}: {outcome:?}"
                );
            } else {
                assert_eq!(outcome, Outcome::Confirmed, "{n}");
            }
        }
        for n in (0..200).filter(|n| n % 7 != 0) {
            let (tag, message) = delivery(&mut consumer).await;
            assert_eq!(message.body, format!("message {n}"));
            consumer.acknowledge(tag, Span::UpTo).unwrap();
        }
    }

    // A queue that is full.
    let mut full = LapinTable::default();
    full.insert("x-max-length".into(), AMQPValue::LongInt(1));
    full.insert(
        "x-overflow".into(),
        AMQPValue::LongString("reject-publish".into()),
    );
    application
        .queue_declare("full".into(), QueueDeclareOptions::durable(), full)
        .await
        .unwrap();
    let outcomes = within(publisher.publish((0..3).map(|n| to_queue("full", n)).collect())).await;
    assert_eq!(
        outcomes,
        [Outcome::Confirmed, Outcome::Nacked, Outcome::Nacked]
    );

    // What would cost the connection is held back, and the rest of the batch goes its way.
    let mut headers = to_queue("setgate.t.lane", 1);
    headers
        .properties
        .headers_mut()
        .set("big", FieldValue::str("x".repeat(131_072)));
    let mut body = to_queue("setgate.t.lane", 2);
    body.body = Bytes::from(vec![0; (1 << 20) + 1]);
    let mut name = to_queue("setgate.t.lane", 3);
    name.properties.message_id = Some(Bytes::from_static(b"\xff"));
    let outcomes =
        within(publisher.publish(vec![headers, to_queue("setgate.t.lane", 0), body, name])).await;
    assert!(
        matches!(&outcomes[0], Outcome::TooLarge { .. }),
        "{outcomes:?}"
    );
    assert_eq!(outcomes[1], Outcome::Confirmed);
    assert!(
        matches!(&outcomes[2], Outcome::TooLarge { .. }),
        "{outcomes:?}"
    );
    assert!(
        matches!(&outcomes[3], Outcome::Unencodable { .. }),
        "{outcomes:?}"
    );

    // The largest that fits: 20 bytes around the properties, which have 17 + 21 more than the value here.
    let mut edge = to_queue("setgate.t.lane", 4);
    let value = 131_072 - 20 - edge.properties.encode().unwrap().len() - "big".len() - 6;
    edge.properties
        .headers_mut()
        .set("big", FieldValue::str("x".repeat(value)));
    assert_eq!(edge.properties.encode().unwrap().len() + 20, 131_072);
    assert_eq!(
        within(publisher.publish(vec![edge])).await,
        [Outcome::Confirmed]
    );

    // An exchange that isn't there closes the channel: unknown, and of no further use.
    let mut astray = to_queue("x", 5);
    astray.address.exchange = Bytes::from_static(b"no-such-exchange");
    let outcomes = within(publisher.publish(vec![astray])).await;
    assert!(
        matches!(&outcomes[0], Outcome::Unknown { cause } if cause.contains("no-such-exchange")),
        "{outcomes:?}"
    );
    let outcomes = within(publisher.publish(vec![to_queue("setgate.t.lane", 6)])).await;
    assert!(
        matches!(&outcomes[0], Outcome::Unsent { .. }),
        "{outcomes:?}"
    );

    // A consumer that is dropped, or closed, gives its messages back in order, and ends with its queue.
    for kind in [QueueType::Quorum, QueueType::Classic] {
        let queue = format!("setgate.t.order.{}", kind.as_str());
        ensure_lane_queue(&publishing, &queue, kind, "", &[])
            .await
            .unwrap();
        let mut publisher = LanePublisher::open(&publishing, None).await.unwrap();
        within(publisher.publish((0..20).map(|n| to_queue(&queue, n)).collect())).await;
        publisher.close().await.unwrap();
        for close in [true, false] {
            let open = Consumer::open(&consuming, &queue, ConsumerKind::SingleActive, 7);
            let mut consumer = open.await.unwrap();
            for n in 0..5 {
                let (_, message) = delivery(&mut consumer).await;
                assert_eq!(message.body, format!("message {n}"), "{kind:?} {close}");
            }
            if close {
                consumer.close().await.unwrap();
            }
        }
        let open = Consumer::open(&consuming, &queue, ConsumerKind::SingleActive, 7);
        let mut consumer = open.await.unwrap();
        let (_, message) = delivery(&mut consumer).await;
        assert_eq!(message.body, "message 0");
        assert!(message.redelivered);
        application
            .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
            .await
            .unwrap();
        assert!(lost(&mut consumer).await.contains("queue was deleted"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_declared_judged_and_locked() {
    let node = Node::start();
    let one = node.connect(Role::Publish).await;
    let two = node.connect(Role::Publish).await;
    let application = node.application().await;
    let bindings = [Binding {
        routing_key: Bytes::from_static(b"order.#"),
        arguments: FieldTable::new(),
    }];

    // Declarations: idempotent, and clear about what is different or missing.
    let missing = ensure_lane_queue(
        &one,
        "setgate.t.lane",
        QueueType::Quorum,
        "orders",
        &bindings,
    )
    .await;
    assert!(
        matches!(&missing, Err(DeclareError::NoExchange { exchange, .. }) if exchange == "orders"),
        "{missing:?}"
    );
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    };
    application
        .exchange_declare(
            "orders".into(),
            lapin::ExchangeKind::Topic,
            durable,
            LapinTable::default(),
        )
        .await
        .unwrap();
    for _ in 0..2 {
        ensure_lane_queue(
            &one,
            "setgate.t.lane",
            QueueType::Quorum,
            "orders",
            &bindings,
        )
        .await
        .unwrap();
        ensure_own_queue(&one, "setgate.t.park", QueueType::Quorum)
            .await
            .unwrap();
    }
    let other = ensure_lane_queue(
        &one,
        "setgate.t.lane",
        QueueType::Classic,
        "orders",
        &bindings,
    )
    .await;
    assert!(
        matches!(&other, Err(DeclareError::Different { text, .. }) if text.contains("x-queue-type")),
        "{other:?}"
    );
    assert_eq!(depth(&one, "setgate.t.park").await, Ok(Some(0)));
    assert_eq!(depth(&one, "setgate.t.absent").await, Ok(None));

    // Foreign queues of all kinds, by the broker's refusals and by the management API.
    let quorum = ("x-queue-type", AMQPValue::LongString("quorum".into()));
    let stream = ("x-queue-type", AMQPValue::LongString("stream".into()));
    let single = ("x-single-active-consumer", AMQPValue::Boolean(true));
    let priority = ("x-max-priority", AMQPValue::ShortShortUInt(5));
    let ttl = ("x-message-ttl", AMQPValue::LongLongInt(600_000));
    let expected = [
        ("classic", true, vec![], ForeignKind::Classic, false, true),
        (
            "transient",
            false,
            vec![ttl.clone()],
            ForeignKind::Classic,
            false,
            true,
        ),
        (
            "classic-single",
            true,
            vec![single.clone(), priority, ttl],
            ForeignKind::Classic,
            true,
            true,
        ),
        (
            "quorum",
            true,
            vec![quorum.clone()],
            ForeignKind::Quorum,
            false,
            false,
        ),
        (
            "quorum-single",
            true,
            vec![quorum, single],
            ForeignKind::Quorum,
            true,
            true,
        ),
        (
            "stream",
            true,
            vec![stream],
            ForeignKind::Stream,
            false,
            false,
        ),
    ];
    let url = format!("http://127.0.0.1:{}", node.management);
    let management = Management::new(
        vec!["http://127.0.0.1:1".to_owned(), url],
        &node.settings("guest"),
    )
    .unwrap();
    for (name, durable, arguments, kind, single, held) in expected {
        let mut table = LapinTable::default();
        for (key, value) in arguments {
            table.insert(key.into(), value);
        }
        let options = QueueDeclareOptions {
            durable,
            ..Default::default()
        };
        application
            .queue_declare(name.into(), options, table)
            .await
            .unwrap();
        for asked in [None, Some(&management)] {
            let queue = within(inspect_foreign_queue(&one, asked, name))
                .await
                .unwrap();
            assert_eq!(
                (queue.kind, queue.single_active_consumer, queue.durable),
                (kind, single, durable),
                "{name}"
            );
            assert_eq!(hold(&queue).is_ok(), held, "{name}");
        }
    }
    let absent = inspect_foreign_queue(&one, None, "absent").await;
    assert!(
        matches!(absent, Err(InspectError::NotFound { .. })),
        "{absent:?}"
    );
    assert_eq!(
        depth(&one, "absent").await,
        Ok(None),
        "looking creates nothing"
    );

    // A second exclusive consumer is refused.
    let mut first = Consumer::open(&one, "classic", ConsumerKind::Exclusive, 5)
        .await
        .unwrap();
    let second = Consumer::open(&two, "classic", ConsumerKind::Exclusive, 5).await;
    assert!(
        matches!(&second, Err(BrokerError::Refused { code: 403, .. })),
        "{second:?}"
    );
    first.close().await.unwrap();
    first = Consumer::open(&two, "classic", ConsumerKind::Exclusive, 5)
        .await
        .unwrap();
    first.close().await.unwrap();

    // With the least permissions, a foreign queue is told apart by the management API alone.
    node.ctl(&[
        "eval",
        r#"
        ok = rabbit_auth_backend_internal:add_user(<<"least">>, <<"least">>, <<"test">>),
        ok = rabbit_auth_backend_internal:set_tags(<<"least">>, [management], <<"test">>),
        ok = rabbit_auth_backend_internal:set_permissions(<<"least">>, <<"/">>, <<"^setgate\\.">>,
            <<"^setgate\\.">>, <<"^(setgate\\.|classic$|orders$)">>, <<"test">>)."#,
    ]);
    let least = node.connect_as("least", Role::Publish).await;
    ensure_lane_queue(
        &least,
        "setgate.t.lane",
        QueueType::Quorum,
        "orders",
        &bindings,
    )
    .await
    .unwrap();
    let refused = inspect_foreign_queue(&least, None, "classic").await;
    assert!(
        matches!(refused, Err(InspectError::NotAllowed { .. })),
        "{refused:?}"
    );
    let settings = node.settings("least");
    let url = format!("http://127.0.0.1:{}/", node.management);
    let management = Management::new(vec![url], &settings).unwrap();
    inspect_foreign_queue(&least, Some(&management), "classic")
        .await
        .unwrap();
    let mut taken = Consumer::open(&least, "classic", ConsumerKind::Exclusive, 5)
        .await
        .unwrap();
    let refused = ensure_own_queue(&least, "elsewhere", QueueType::Classic).await;
    assert!(
        matches!(refused, Err(DeclareError::NotAllowed { .. })),
        "{refused:?}"
    );
    application
        .queue_delete("classic".into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    lost(&mut taken).await;

    // Who can't get in is told why; over TLS only with the right authority.
    let cause = node
        .refusal(|settings| settings.password = Some("hush".to_owned().into()))
        .await;
    assert!(
        cause.contains("check user and password") && !cause.contains("hush"),
        "{cause}"
    );
    let elsewhere = format!("amqp://guest:guest@127.0.0.1:{}/absent", node.amqp);
    let cause = node
        .refusal(|settings| settings.uris = vec![elsewhere.into()])
        .await;
    assert!(cause.contains("create the vhost"), "{cause}");
    let amqps = format!("amqps://guest:guest@localhost:{}/%2f", node.amqps);
    let cause = node
        .refusal(|settings| settings.uris = vec![amqps.clone().into()])
        .await;
    assert!(cause.contains("certificate"), "{cause}");
    let mut settings = node.settings("guest");
    settings.uris = vec![amqps.into()];
    settings.tls = Some(Tls {
        ca: Some(node.ca.clone()),
        identity: None,
    });
    let encrypted = supervise(&settings, Role::Publish).await;
    assert!(
        matches!(encrypted.state(), ConnectionState::Up { uri, .. } if uri.starts_with("amqps://guest@localhost"))
    );
    assert_eq!(depth(&encrypted, "setgate.t.park").await, Ok(Some(0)));

    // Locks: one holder, among connections and within one; free after its close, and after its drop.
    let lock = "setgate.t.lock";
    let holder = LanePublisher::open(&one, Some(lock)).await.unwrap();
    for connection in [&one, &two] {
        let refused = LanePublisher::open(connection, Some(lock)).await;
        assert!(
            matches!(refused, Err(OpenError::Locked { .. })),
            "{refused:?}"
        );
    }
    holder.close().await.unwrap();
    let holder = LanePublisher::open(&two, Some(lock)).await.unwrap();
    drop(holder);
    let holder = within(async {
        loop {
            match LanePublisher::open(&one, Some(lock)).await {
                Ok(holder) => break holder,
                Err(OpenError::Locked { .. }) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        }
    })
    .await;
    holder.close().await.unwrap();
    let again = LanePublisher::open(&one, Some(lock)).await.unwrap();
    again.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_or_blocks_costs_no_message_and_is_told() {
    let mut node = Node::start();
    let publishing = node.connect(Role::Publish).await;
    let consuming = node.connect(Role::Consume).await;
    let lane = "setgate.t.lane";
    ensure_lane_queue(&publishing, lane, QueueType::Quorum, "", &[])
        .await
        .unwrap();
    let mut publisher = LanePublisher::open(&publishing, Some("setgate.t.lock"))
        .await
        .unwrap();
    assert_eq!(
        within(publisher.publish(vec![to_queue(lane, 0)])).await,
        [Outcome::Confirmed]
    );

    // More returns to the queue than RabbitMQ's own limit of 20.
    for round in 0..25 {
        let mut consumer = Consumer::open(&consuming, lane, ConsumerKind::SingleActive, 5)
            .await
            .unwrap();
        let (_, message) = delivery(&mut consumer).await;
        assert_eq!(
            (message.body, message.redelivered),
            (Bytes::from_static(b"message 0"), round > 0)
        );
    }

    // Blocked: nothing is dropped, nothing is answered, and the state says so.
    node.ctl(&["set_vm_memory_high_watermark", "0"]);
    let mut publish = Box::pin(publisher.publish((1..4).map(|n| to_queue(lane, n)).collect()));
    let mut state = publishing.watch();
    let blocked = within(async {
        tokio::select! {
            outcomes = &mut publish => panic!("answered while blocked: {outcomes:?}"),
            state = state.wait_for(|state| state.blocked().is_some()) => state.unwrap().clone(),
        }
    })
    .await;
    assert!(
        matches!(&blocked, ConnectionState::Up { blocked: Some(reason), .. } if reason.contains("memory"))
    );
    let pending = tokio::time::timeout(Duration::from_secs(2), &mut publish).await;
    assert!(pending.is_err(), "{pending:?}");
    node.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    assert_eq!(within(publish).await, vec![Outcome::Confirmed; 3]);
    assert!(publishing.state().blocked().is_none());

    // Frozen, then killed, with a batch in flight: each is unknown, once; the consumer ends.
    let mut consumer = Consumer::open(&consuming, lane, ConsumerKind::SingleActive, 100)
        .await
        .unwrap();
    let (tag, _) = delivery(&mut consumer).await;
    node.signal(Signal::STOP);
    let mut publish = Box::pin(publisher.publish((4..304).map(|n| to_queue(lane, n)).collect()));
    let pending = tokio::time::timeout(Duration::from_millis(300), &mut publish).await;
    assert!(pending.is_err(), "{pending:?}");
    node.kill();
    let killed = Instant::now();
    let outcomes = within(publish).await;
    assert!(
        killed.elapsed() < Duration::from_secs(3),
        "{:?}",
        killed.elapsed()
    );
    assert_eq!(outcomes.len(), 300);
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, Outcome::Unknown { .. })),
        "{outcomes:?}"
    );
    lost(&mut consumer).await;
    assert!(consumer.acknowledge(tag, Span::One).is_err());
    let mut state = publishing.watch();
    let down = within(
        state.wait_for(|state| state.cause().is_some_and(|cause| cause.contains("refused"))),
    )
    .await
    .unwrap()
    .clone();
    assert!(!format!("{down:?}").contains("guest:"), "{down:?}");

    // Back by itself; what was confirmed is there, what was unknown is there at most once.
    node.boot();
    within(publishing.up()).await;
    within(consuming.up()).await;
    assert!(!publisher.is_open());
    drop(publisher);
    let mut publisher = within(LanePublisher::open(&publishing, Some("setgate.t.lock")))
        .await
        .unwrap();
    assert_eq!(
        within(publisher.publish(vec![to_queue(lane, 1_000)])).await,
        [Outcome::Confirmed]
    );
    let mut consumer = Consumer::open(&consuming, lane, ConsumerKind::SingleActive, 100)
        .await
        .unwrap();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|last| *last != 1_000) {
        let (tag, message) = delivery(&mut consumer).await;
        let text = String::from_utf8(message.body.to_vec()).unwrap();
        seen.push(
            text.trim_start_matches("message ")
                .parse::<usize>()
                .unwrap(),
        );
        consumer.acknowledge(tag, Span::UpTo).unwrap();
    }
    assert_eq!(seen[..4], [0, 1, 2, 3]);
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
}
