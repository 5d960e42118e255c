//! Links on the loopback: a throw-away authority, gateways' ends, receivers that answer, a proxy that can be cut.

use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};
use setgate::amqp::RawProperties;
use setgate::link::{Credit, CreditWindow, Hello, Here, Incarnation, PROTOCOL, Standing};
use setgate::model::{
    Address, Answer, Epoch, Lineage, Marking, Parcel, ParcelNumber, Partition, Retry, Revision,
    Round, Way, Why,
};
use setgate::wire::{
    ClientSettings, LinkCap, LinkClient, LinkSecurity, LinkServer, LinkTarget, ReceiverPipe,
    RefusedCounts, SenderPipe, ServerSettings, StreamEvent, TlsFiles, TlsIdentity,
};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) const MESSAGE_MAX: usize = 1024 * 1024;
/// What all links of a port may bring.
pub(crate) const BYTES_MAX: usize = 32 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for something that must come.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let Ok(value) = tokio::time::timeout(PATIENCE, future).await else {
        panic!("{what} didn't happen within {PATIENCE:?}");
    };
    value
}

/// A certificate authority with a folder for what it issues.
pub(crate) struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// Dates of a certificate.
#[derive(Clone, Copy)]
pub(crate) enum Dates {
    Current,
    Past,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        // Authorities of one name would differ by their signatures alone.
        let name = folder.path().display().to_string();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        write(&folder.path().join("ca.pem"), &pem);
        Self {
            folder,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Certificate and key for a name, as PEM.
    pub(crate) fn issue(&self, uri: &str, dates: Dates) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        if let Dates::Past = dates {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// The same in files named after the unit.
    pub(crate) fn files(&self, space: &str, unit: &str, dates: Dates) -> TlsFiles {
        let (cert, key) = self.issue(&format!("spiffe://setgate/{space}/{unit}"), dates);
        let files = TlsFiles {
            ca: self.path("ca.pem"),
            cert: self.path(&format!("{unit}.pem")),
            key: self.path(&format!("{unit}.key")),
        };
        write(&files.cert, &cert);
        write(&files.key, &key);
        files
    }

    pub(crate) fn security(&self, unit: &str) -> LinkSecurity {
        let files = self.files("trade", unit, Dates::Current);
        LinkSecurity::Mutual(Arc::new(TlsIdentity::load(files, here(unit)).unwrap()))
    }
}

pub(crate) fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

pub(crate) fn here(unit: &str) -> Here {
    Here {
        space: "trade".parse().unwrap(),
        unit: unit.parse().unwrap(),
        gateway: format!("{unit}-a").parse().unwrap(),
    }
}

pub(crate) fn standing() -> watch::Receiver<Option<Arc<Standing>>> {
    let (sender, receiver) = watch::channel(Some(Arc::new(Standing {
        lineage: Lineage("one".into()),
        epoch: Epoch(3),
        revision: Revision(9),
        units: ["sh-1", "sh-2", "bj-1"]
            .map(|unit| unit.parse().unwrap())
            .into(),
        taken: std::collections::BTreeSet::new(),
        lanes_elsewhere: 4,
    })));
    // The receiver keeps the last value without its sender.
    drop(sender);
    receiver
}

pub(crate) fn hello(from: &str, to: &str) -> Hello {
    Hello {
        protocol: PROTOCOL,
        space: "trade".parse().unwrap(),
        lineage: Lineage("one".into()),
        epoch: Epoch(3),
        revision: Revision(9),
        from: from.parse().unwrap(),
        gateway: format!("{from}-a").parse().unwrap(),
        to: to.parse().unwrap(),
        source: "orders".parse().unwrap(),
        partition: Partition(0),
        incarnation: Incarnation(1),
    }
}

pub(crate) fn parcel(number: u64, body_bytes: usize) -> Parcel {
    // Noise: what a link compresses would count for less than its length.
    let mut body = vec![0; body_bytes.max(8)];
    fastrand::Rng::with_seed(number).fill(&mut body);
    body[..8].copy_from_slice(&number.to_be_bytes());
    Parcel {
        number: ParcelNumber(number),
        lineage: Lineage("one".into()),
        epoch: Epoch(3),
        revision: Revision(9),
        id: None,
        round: Round(1),
        retry: Retry(0),
        slot: None,
        why: Why::Owner,
        to: "bj-1".parse().unwrap(),
        address: Address {
            exchange: Bytes::from_static(b"orders.local"),
            routing_key: Bytes::from_static(b"order.cn.created"),
        },
        properties: RawProperties::default(),
        body: Bytes::from(body),
        sent_before: false,
        marking: Marking::AtReceiver(Way::default()),
    }
}

/// A gateway's link port.
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    pub(crate) refused: Arc<RefusedCounts>,
    pub(crate) incoming: mpsc::Receiver<ReceiverPipe>,
    cancel: CancellationToken,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Port {
    pub(crate) async fn open(unit: &str, security: LinkSecurity) -> Self {
        Self::open_with(unit, security, 64).await
    }

    pub(crate) async fn open_with(
        unit: &str,
        security: LinkSecurity,
        connections_max: usize,
    ) -> Self {
        let settings = ServerSettings {
            here: here(unit),
            security,
            message_max: MESSAGE_MAX,
            bytes_max: BYTES_MAX,
            standing: standing(),
            connections_max,
            granter: Arc::new(parking_lot::Mutex::new(setgate::link::Granter::new(
                Duration::ZERO,
            ))),
        };
        let server = LinkServer::bind("127.0.0.1:0", settings).await.unwrap();
        let (address, refused) = (server.local_addr().unwrap(), server.refused());
        let (sender, incoming) = mpsc::channel(16);
        let cancel = CancellationToken::new();
        let tracker = TaskTracker::new();
        let (asks, _) = tokio::sync::mpsc::channel(1);
        tracker.spawn(server.run(sender, asks, tracker.clone(), cancel.clone()));
        Self {
            address,
            refused,
            incoming,
            cancel,
        }
    }

    pub(crate) async fn stream(&mut self) -> ReceiverPipe {
        within("a stream", self.incoming.recv()).await.unwrap()
    }
}

/// A link to a port.
pub(crate) struct Client {
    pub(crate) link: Arc<LinkClient>,
    pub(crate) cap: Arc<LinkCap>,
    cancel: CancellationToken,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Client {
    pub(crate) fn start(unit: &str, to: &str, address: SocketAddr, security: LinkSecurity) -> Self {
        let settings = ClientSettings {
            here: here(unit),
            target: LinkTarget {
                unit: to.parse().unwrap(),
                gateway: format!("{to}-a").parse().unwrap(),
                address: address.to_string(),
            },
            security,
            message_max: MESSAGE_MAX,
            standing: standing(),
            cap: Arc::default(),
            seed: 7,
        };
        let cap = Arc::clone(&settings.cap);
        let tracker = TaskTracker::new();
        let link = Arc::new(LinkClient::new(settings, tracker.clone()));
        let cancel = CancellationToken::new();
        let (runner, until) = (Arc::clone(&link), cancel.clone());
        tracker.spawn(async move { runner.run(until).await });
        Self { link, cap, cancel }
    }

    pub(crate) async fn up(&self) {
        let mut status = self.link.status();
        within(
            "the link's coming up",
            status.wait_for(|status| status.state.is_up()),
        )
        .await
        .unwrap();
    }

    /// The cause of a failed attempt that contains a text.
    pub(crate) async fn down_because(&self, text: &str) {
        let mut status = self.link.status();
        let down = status.wait_for(|status| {
            status
                .state
                .cause()
                .is_some_and(|cause| cause.contains(text))
        });
        within(&format!("a failure for {text:?}"), down)
            .await
            .unwrap();
    }

    pub(crate) async fn open(&self, hello: Hello) -> SenderPipe {
        self.link.open_stream(hello).await.unwrap()
    }
}

/// Welcomes, accepts everything, and gives the numbers in the order in which they came, when the sender is gone.
pub(crate) async fn accept_all(mut pipe: ReceiverPipe) -> Vec<u64> {
    welcome(&pipe).await;
    let mut seen = Vec::new();
    let mut parcels = Vec::new();
    while pipe.parcels.recv_many(&mut parcels, 256).await > 0 {
        seen.extend(parcels.iter().map(|parcel| parcel.number.0));
        let answers = parcels
            .drain(..)
            .map(|parcel| (parcel.number, Answer::Accepted))
            .collect();
        if pipe
            .words
            .send(StreamEvent::Answers(answers))
            .await
            .is_err()
        {
            break;
        }
    }
    seen
}

pub(crate) async fn welcome(pipe: &ReceiverPipe) {
    let up = StreamEvent::Up {
        receiver: "bj-1-a".parse().unwrap(),
        credit: pipe.credit,
    };
    pipe.words.send(up).await.unwrap();
}

pub(crate) async fn event(pipe: &mut SenderPipe) -> Option<StreamEvent> {
    within("an event", pipe.events.recv()).await
}

pub(crate) async fn credit(pipe: &mut SenderPipe) -> Credit {
    match event(pipe).await {
        Some(StreamEvent::Up { credit, .. }) => credit,
        other => panic!("not welcomed: {other:?}"),
    }
}

/// Sends parcels within the credit until all are answered; panics unless each is accepted once.
pub(crate) async fn send_all(pipe: &mut SenderPipe, count: u64, body_bytes: usize) {
    send_all_of(pipe, count, |number| parcel(number, body_bytes)).await;
}

/// The same with other parcels.
pub(crate) async fn send_all_of(pipe: &mut SenderPipe, count: u64, make: impl Fn(u64) -> Parcel) {
    let mut window = CreditWindow::new(credit(pipe).await);
    let mut next = 1;
    let mut answered = 0;
    while answered < count {
        let parcel = make(next);
        let cost = parcel.cost_bytes();
        if next <= count && window.has_room(cost) {
            window.take(parcel.number, cost).unwrap();
            within("room for a parcel", pipe.parcels.send(parcel))
                .await
                .unwrap();
            next += 1;
            continue;
        }
        match event(pipe).await {
            Some(StreamEvent::Answers(answers)) => {
                for (number, answer) in answers {
                    assert_eq!(answer, Answer::Accepted);
                    assert!(window.release(number), "{number} was answered twice");
                    answered += 1;
                }
            }
            other => panic!("after {answered} answers: {other:?}"),
        }
    }
}

/// Forwards connections; while cut, it takes them and passes nothing on, as a lost path does.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    flow: watch::Sender<bool>,
    cancel: CancellationToken,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Proxy {
    pub(crate) async fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (flow, flowing) = watch::channel(true);
        let cancel = CancellationToken::new();
        let tracker = TaskTracker::new();
        let until = cancel.clone();
        tracker
            .clone()
            .spawn(until.run_until_cancelled_owned(async move {
                while let Ok((near, _)) = listener.accept().await {
                    let flowing = flowing.clone();
                    tracker.spawn(async move {
                        if let Ok(far) = TcpStream::connect(target).await {
                            let (near_in, near_out) = near.into_split();
                            let (far_in, far_out) = far.into_split();
                            tokio::join!(
                                pump(near_in, far_out, flowing.clone()),
                                pump(far_in, near_out, flowing),
                            );
                        }
                    });
                }
            }));
        Self {
            address,
            flow,
            cancel,
        }
    }

    pub(crate) fn cut(&self) {
        self.flow.send_replace(false);
    }

    pub(crate) fn heal(&self) {
        self.flow.send_replace(true);
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut flowing: watch::Receiver<bool>,
) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read) = from.read(&mut buffer).await {
        if flowing.wait_for(|flowing| *flowing).await.is_err() || read == 0 {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
