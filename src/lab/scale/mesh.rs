//! What one real gateway takes at so many peers: links to all of them, and links from all of them.
//!
//! The peers are link ports and link clients of this process, registered in etcd as gateways of their own units, with
//! certificates of the lab's authority. They carry canaries and nothing else, as most links of a large mesh do.

use super::ScaleError;
use super::documents::{FIRST, Owners, documents, write};
use super::fanout::record;
use super::size::Size;
use crate::etcd::{EtcdConfig, GatewayRecord, Key, Lease, SpaceView, Store, Transaction};
use crate::lab::ca::Validity;
use crate::lab::usage::{descriptors, processor_time, resident_bytes};
use crate::lab::{Fabric, LabError, LabGateway, Node, Reporter};
use crate::link::{Granter, Here, Standing};
use crate::model::{GatewayId, Revision, Seats, SpaceId, UnitId};
use crate::wire::{
    ClientSettings, LinkCap, LinkClient, LinkSecurity, LinkServer, LinkTarget, ReceiverPipe,
    ServerSettings, TlsFiles, TlsIdentity, boottime,
};
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// As a gateway's default is.
const MESSAGE_MAX: usize = 128 * 1024 * 1024;
/// A thousand TLS handshakes on two cores, with a peer's patience between attempts.
const LINKS_MAX: Duration = Duration::from_mins(2);
/// How long a gateway is watched.
const QUIET: Duration = Duration::from_secs(10);
/// How long after its links are up, or its peers have registered anew.
const SETTLE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(250);
const TTL: Duration = Duration::from_mins(1);
const RENEW_EVERY: Duration = Duration::from_secs(15);

/// What was found at so many peers.
#[derive(Debug, Clone, Serialize)]
pub(super) struct MeshPoint {
    #[serde(flatten)]
    pub(super) size: Size,
    /// Gateways of other units.
    pub(super) peers: usize,
    /// Until all links were up, those that came newly.
    pub(super) links_up_ms: f64,
    pub(super) resident_mib: f64,
    /// Without traffic, in percent of a core.
    pub(super) cpu_percent: f64,
    pub(super) descriptors: usize,
    /// Of `/v1/status`.
    pub(super) status_bytes: usize,
    /// The gateway's processor time for one change of the rules, after which all peers registered anew.
    pub(super) change_cpu_ms: f64,
}

/// The gateway that is measured, and its peers.
pub(super) struct Mesh<'a> {
    fabric: &'a mut Fabric,
    folder: PathBuf,
    space: SpaceId,
    gateway: LabGateway,
    store: Store,
    lease: Lease,
    renewed: Instant,
    standing: watch::Sender<Option<Arc<Standing>>>,
    peers: Vec<Peer>,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

struct Peer {
    here: Here,
    record: GatewayRecord,
    client: Arc<LinkClient>,
    /// Streams that nobody reads: no message is sent.
    _incoming: mpsc::Receiver<ReceiverPipe>,
}

impl<'a> Mesh<'a> {
    /// No peers yet.
    pub(super) async fn new(
        fabric: &'a mut Fabric,
        etcd: &EtcdConfig,
        folder: &Path,
    ) -> Result<Self, ScaleError> {
        let lab = fabric.lab();
        let gateway = lab.units.iter().flat_map(|unit| &unit.gateways).next();
        let gateway = gateway.cloned().ok_or(ScaleError::NoGateway)?;
        let store = Store::connect(etcd, &lab.space).await?;
        let lease = store.grant(TTL).await?;
        Ok(Self {
            fabric,
            folder: folder.to_owned(),
            space: lab.space,
            gateway,
            store,
            lease,
            renewed: Instant::now(),
            standing: watch::Sender::new(None),
            peers: Vec::new(),
            tracker: TaskTracker::new(),
            cancel: CancellationToken::new(),
        })
    }

    /// Grows to a size and measures there.
    pub(super) async fn measure(
        &mut self,
        size: Size,
        report: Reporter,
    ) -> Result<MeshPoint, ScaleError> {
        self.apply(size, "grow").await?;
        self.stand().await?;
        for unit in 2..=size.units {
            for number in 1..=size.gateways {
                self.add(unit, number).await?;
            }
        }
        report.say(format!("{} peers are registered", self.peers.len()));
        self.register().await?;
        let links_up_ms = self.links_up().await?;
        let pid = self.pid()?;
        self.wait(SETTLE).await?;
        let before = processor_time(pid);
        self.wait(QUIET).await?;
        let idle = processor_time(pid).saturating_sub(before).as_secs_f64() / QUIET.as_secs_f64();
        let status_bytes = self.status().await?.to_string().len();
        let resident = resident_bytes(pid).unwrap_or(0);

        let before = processor_time(pid);
        let begun = Instant::now();
        self.apply(size, "change").await?;
        self.stand().await?;
        self.register().await?;
        self.wait(SETTLE).await?;
        let change = processor_time(pid).saturating_sub(before).as_secs_f64()
            - idle * begun.elapsed().as_secs_f64();
        Ok(MeshPoint {
            size,
            peers: self.peers.len(),
            links_up_ms,
            resident_mib: resident as f64 / f64::from(1 << 20),
            cpu_percent: idle * 100.0,
            descriptors: descriptors(pid),
            status_bytes,
            change_cpu_ms: change.max(0.0) * 1_000.0,
        })
    }

    /// Ends the peers.
    pub(super) async fn end(self) {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Puts documents of that size in force, which differ by their reason.
    async fn apply(&self, size: Size, why: &str) -> Result<(), ScaleError> {
        let mut files = documents(size.units, size.rules, Owners::First);
        for text in files.values_mut() {
            text.push_str("# ");
            text.push_str(why);
            text.push('\n');
        }
        write(&files, &self.folder)?;
        self.fabric.apply(&self.folder, why).await?;
        Ok(())
    }

    /// Has the peers stand where the gateway does.
    async fn stand(&self) -> Result<(), ScaleError> {
        let snapshot = self.store.read_all().await?;
        let view = SpaceView::of(&snapshot);
        let seats = view.seats().ok_or(ScaleError::NoGateway)?;
        let seats: Seats = serde_json::from_slice(seats).map_err(ScaleError::documents)?;
        let units = self.peers.iter().map(|peer| peer.here.unit.clone());
        let first = UnitId::parse(FIRST).map_err(ScaleError::documents)?;
        self.standing.send_replace(Some(Arc::new(Standing {
            lineage: seats.lineage,
            epoch: seats.epoch,
            revision: view.rules_revision(),
            units: units.chain([first]).collect(),
            taken: std::collections::BTreeSet::new(),
            lanes_elsewhere: 1,
        })));
        Ok(())
    }

    async fn add(&mut self, unit: usize, number: usize) -> Result<(), ScaleError> {
        let unit = UnitId::parse(&format!("u{unit}")).map_err(ScaleError::documents)?;
        let gateway = format!("{unit}-g{number}");
        let here = Here {
            space: self.space.clone(),
            gateway: GatewayId::parse(&gateway).map_err(ScaleError::documents)?,
            unit,
        };
        if self.peers.iter().any(|peer| peer.here == here) {
            return Ok(());
        }
        let security = self.security(&here)?;
        let settings = ServerSettings {
            here: here.clone(),
            security: security.clone(),
            message_max: MESSAGE_MAX,
            bytes_max: MESSAGE_MAX,
            standing: self.standing.subscribe(),
            connections_max: 64,
            granter: Arc::new(parking_lot::Mutex::new(Granter::new(boottime()))),
        };
        let server = LinkServer::bind("127.0.0.1:0", settings).await?;
        let record = GatewayRecord {
            link: server.local_addr()?.to_string(),
            ..record(Revision(0))
        };
        let (streams, incoming) = mpsc::channel(64);
        let (tracker, cancel) = (self.tracker.clone(), self.cancel.clone());
        // Nothing moves here.
        let (asks, _) = mpsc::channel(1);
        self.tracker
            .spawn(server.run(streams, asks, tracker, cancel));
        let client = Arc::new(LinkClient::new(
            ClientSettings {
                here: here.clone(),
                target: LinkTarget {
                    unit: UnitId::parse(FIRST).map_err(ScaleError::documents)?,
                    gateway: self.gateway.name.clone(),
                    address: self.gateway.link.clone(),
                },
                security,
                message_max: MESSAGE_MAX,
                standing: self.standing.subscribe(),
                cap: Arc::new(LinkCap::default()),
                seed: self.peers.len() as u64,
            },
            self.tracker.clone(),
        ));
        let (run, cancel) = (Arc::clone(&client), self.cancel.clone());
        self.tracker.spawn(async move { run.run(cancel).await });
        self.peers.push(Peer {
            here,
            record,
            client,
            _incoming: incoming,
        });
        Ok(())
    }

    fn security(&self, here: &Here) -> Result<LinkSecurity, ScaleError> {
        let folder = self.folder.with_file_name("peers");
        std::fs::create_dir_all(&folder).map_err(LabError::file("create", &folder))?;
        let authority = self.fabric.authority().ok_or(ScaleError::NoGateway)?;
        let ca = authority.write(&folder)?;
        let identity = authority.issue(&here.space, &here.unit, Validity::Good)?;
        let (cert, key) = identity.write(&folder, here.unit.as_str())?;
        let files = TlsFiles { ca, cert, key };
        Ok(LinkSecurity::Mutual(Arc::new(TlsIdentity::load(
            files,
            here.clone(),
        )?)))
    }

    /// Has every peer write that it applies what the space holds now, each in a transaction of its own.
    async fn register(&mut self) -> Result<(), ScaleError> {
        self.renew().await?;
        let standing = self.standing.borrow().clone();
        let revision = standing.map_or(Revision(0), |standing| standing.revision);
        for peer in &mut self.peers {
            peer.record.revision = revision;
        }
        let writes = self.peers.iter().map(|peer| async {
            let key = Key::Gateway(&peer.here.unit, &peer.here.gateway);
            let text = serde_json::to_vec(&peer.record).unwrap_or_default();
            let put = Transaction::new().put(&key, text).under(&self.lease);
            self.store.commit(&put).await
        });
        futures_util::future::try_join_all(writes).await?;
        Ok(())
    }

    async fn links_up(&mut self) -> Result<f64, ScaleError> {
        let begun = Instant::now();
        loop {
            let status = self.status().await?;
            let links = status["links"].as_array().into_iter().flatten();
            let out = links.filter(|link| link["state"] == "up").count();
            let clients = self.peers.iter();
            let up = |peer: &&Peer| peer.client.status().borrow().state.is_up();
            let back = clients.filter(up).count();
            if out == self.peers.len() && back == self.peers.len() {
                return Ok(begun.elapsed().as_secs_f64() * 1_000.0);
            }
            if begun.elapsed() >= LINKS_MAX {
                return Err(ScaleError::Links {
                    peers: self.peers.len(),
                    out,
                    back,
                });
            }
            self.wait(LOOK).await?;
        }
    }

    async fn status(&self) -> Result<Value, ScaleError> {
        let page = format!("http://{}/v1/status", self.gateway.admin);
        Ok(self.fabric.http().get_json(&page, None).await?)
    }

    fn pid(&mut self) -> Result<u32, ScaleError> {
        let node = Node::Gateway(self.gateway.name.clone());
        self.fabric.pid(&node).ok_or(ScaleError::NoGateway)
    }

    /// Lets time pass, and keeps the peers' lease.
    async fn wait(&mut self, time: Duration) -> Result<(), ScaleError> {
        let until = Instant::now() + time;
        loop {
            self.renew().await?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            sleep(left.min(RENEW_EVERY)).await;
        }
    }

    async fn renew(&mut self) -> Result<(), ScaleError> {
        if self.renewed.elapsed() >= RENEW_EVERY {
            self.lease.renew().await?;
            self.renewed = Instant::now();
        }
        Ok(())
    }
}
