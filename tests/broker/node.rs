//! A RabbitMQ node of a test's own, and what tests do with it.

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use setgate::amqp::{FieldValue, Properties, RawProperties};
use setgate::broker::{
    Connection, ConnectionState, Consumer, ConsumerEvent, ConsumerKind, Dialer, LanePublisher,
    Outcome, Publish, PublishId, Settings, Unroutable,
};
use setgate::lane::{Ledger, Settlement};
use setgate::model::{Address, DeliveryTag, Message};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const BIN: &str = "/usr/lib/rabbitmq/bin";
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// One RabbitMQ node and its epmd.
pub(crate) struct Node {
    dir: TempDir,
    pub(crate) amqp: u16,
    pub(crate) amqps: u16,
    pub(crate) ca: String,
    pub(crate) management: u16,
    dist: u16,
    epmd_port: u16,
    epmd: Child,
    server: Option<Child>,
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Node {
    pub(crate) fn start() -> Self {
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

    pub(crate) fn command(&self, name: &str) -> Command {
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

    pub(crate) fn boot(&mut self) {
        let mut command = self.command("rabbitmq-server");
        self.server = Some(command.process_group(0).spawn().unwrap());
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(server) = &self.server {
            let group = Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
            let _ = kill_process_group(group, signal);
        }
    }

    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut server) = self.server.take() {
            let _ = server.wait();
        }
    }

    pub(crate) fn ctl(&self, arguments: &[&str]) {
        let status = self
            .command("rabbitmqctl")
            .args(arguments)
            .status()
            .unwrap();
        assert!(status.success(), "rabbitmqctl {arguments:?}");
    }

    pub(crate) fn settings(&self, user: &str) -> Settings {
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
    pub(crate) async fn connect(&self) -> Connection {
        self.connect_as("guest").await
    }

    pub(crate) async fn connect_as(&self, user: &str) -> Connection {
        supervise(&self.settings(user)).await
    }

    pub(crate) fn dialer(&self) -> Dialer {
        dialer(&self.settings("guest"))
    }

    /// Why these settings don't connect.
    pub(crate) async fn refusal(&self, change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = self.settings("guest");
        change(&mut settings);
        let connection = Connection::new(&settings, None).unwrap();
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
        within(Box::pin(async { tokio::join!(run, down) })).await.1
    }

    /// What an application would declare.
    pub(crate) async fn application(&self) -> lapin::Channel {
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

pub(crate) async fn supervise(settings: &Settings) -> Connection {
    let connection = Connection::new(settings, None).unwrap();
    let supervised = connection.clone();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { supervised.run(CancellationToken::new()).await });
    tasks.detach_all();
    within(connection.up()).await;
    connection
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("in time")
}

pub(crate) fn dialer(settings: &Settings) -> Dialer {
    Dialer::new(settings, None, &TaskTracker::new()).unwrap()
}

/// A single active consumer that takes bodies of up to 1 MiB whole.
pub(crate) async fn consume(dialer: &Dialer, queue: &str, prefetch: u16) -> Consumer {
    let kind = ConsumerKind::SingleActive;
    let open = Consumer::open(dialer, "lane t/0", queue, kind, prefetch, 1 << 20);
    within(open).await.unwrap()
}

pub(crate) async fn publisher(dialer: &Dialer, lock: Option<&str>) -> LanePublisher {
    let open = LanePublisher::open(dialer, "receiver t/0", lock);
    within(open).await.unwrap()
}

pub(crate) fn to_queue(queue: &str, number: usize) -> Publish {
    let mut properties = Properties {
        delivery_mode: Some(2),
        ..Properties::default()
    };
    properties
        .headers_mut()
        .set("x-set-parcel", FieldValue::str(number.to_string()));
    Publish {
        id: PublishId(number as u64),
        address: Address {
            exchange: Bytes::new(),
            routing_key: Bytes::copy_from_slice(queue.as_bytes()),
        },
        properties: raw(&properties),
        body: Bytes::from(format!("message {number}")),
        unroutable: Unroutable::Return,
    }
}

pub(crate) fn raw(properties: &Properties) -> RawProperties {
    RawProperties::of(properties).unwrap()
}

/// Publishes all, and returns what became of each, in the same order.
pub(crate) async fn publish(publisher: &mut LanePublisher, batch: Vec<Publish>) -> Vec<Outcome> {
    let ids: Vec<_> = batch.iter().map(|publish| publish.id).collect();
    for publish in batch {
        publisher.publish(publish);
    }
    let mut outcomes = outcomes(publisher).await;
    assert_eq!(outcomes.len(), ids.len());
    ids.iter().map(|id| outcomes.remove(id).unwrap()).collect()
}

/// Of all that is unanswered: each once.
pub(crate) async fn outcomes(publisher: &mut LanePublisher) -> BTreeMap<PublishId, Outcome> {
    let mut outcomes = BTreeMap::new();
    while publisher.unanswered() > 0 {
        for (id, outcome) in within(publisher.next()).await {
            assert_eq!(outcomes.insert(id, outcome), None, "{id:?} twice");
        }
    }
    outcomes
}

pub(crate) async fn delivery(consumer: &mut Consumer) -> (DeliveryTag, Message) {
    match within(consumer.next()).await {
        ConsumerEvent::Delivery { tag, message } => (tag, message),
        other => panic!("{other:?}"),
    }
}

/// What a ledger makes of a delivery that is done with.
pub(crate) fn settlement(tag: DeliveryTag) -> Settlement {
    let mut ledger = Ledger::default();
    let entry = ledger.open(tag, 0, tokio::time::Instant::now().into_std());
    ledger.close(entry);
    ledger.settle().unwrap()
}

pub(crate) async fn lost(consumer: &mut Consumer) -> String {
    loop {
        if let ConsumerEvent::Lost { cause } = within(consumer.next()).await {
            return cause;
        }
    }
}
