//! What etcd does for a change of the rules: every gateway watches, and every gateway then writes what it applies.
//!
//! The gateways are connections of this process, each with a watch and a lease of its own, as a real one has them; etcd is
//! real. So the times are those of etcd and of this machine, not of a hundred machines.

use super::ScaleError;
use super::documents::{Owners, documents};
use super::size::Size;
use crate::etcd::{BrokerHealth, EtcdConfig, GatewayRecord, Key, Lease, Store, Transaction, Watch};
use crate::lab::usage::processor_time;
use crate::model::{Epoch, GatewayId, Revision, SpaceId, UnitId};
use serde::Serialize;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Longest wait for a storm to end: half a million events on two cores.
const STORM_MAX: Duration = Duration::from_mins(2);
/// How long leases are renewed while etcd is watched.
const QUIET: Duration = Duration::from_secs(10);
/// As a gateway's registrar has it: a third of a lease of ten seconds.
const RENEW_EVERY: Duration = Duration::from_millis(3_333);
const TTL: Duration = Duration::from_secs(30);
/// At so many keys a transaction is refused by etcd: 128.
const KEYS_OF_ONE: usize = 100;

/// What was found at one size.
#[derive(Debug, Clone, Serialize)]
pub(super) struct FanoutPoint {
    #[serde(flatten)]
    pub(super) size: Size,
    /// From the commit's begin until a gateway has the new rules: half of them, and 99 of 100.
    pub(super) seen_p50_ms: f64,
    pub(super) seen_p99_ms: f64,
    /// Until every gateway has seen that every gateway applies them.
    pub(super) told_ms: f64,
    /// Processor time of all etcd members for that.
    pub(super) etcd_cpu_ms: f64,
    /// Bytes of values that went to watchers for that.
    pub(super) watched_bytes: u64,
    /// Processor time of all etcd members while nothing but leases is renewed, in percent of a core.
    pub(super) leases_percent: f64,
}

/// A gateway as etcd sees it.
struct Watcher {
    unit: UnitId,
    gateway: GatewayId,
    store: Store,
    watch: Watch,
    lease: Lease,
}

/// What a watcher has to tell.
enum Told {
    /// It has the new rules, so long after they were sent.
    Rules(Duration),
    /// It has seen all registrations, so many bytes of them.
    All(u64),
}

/// Lets the gateways of one size watch a change of the rules.
pub(super) async fn measure(
    size: Size,
    etcd: &EtcdConfig,
    pids: &[u32],
) -> Result<FanoutPoint, ScaleError> {
    let space = format!("fanout-{}", size.all());
    let space = SpaceId::parse(&space).map_err(ScaleError::documents)?;
    let store = Store::connect(etcd, &space).await?;
    put_rules(&store, size).await?;
    let (began, begin) = watch::channel(None::<Instant>);
    // Each gateway tells two things.
    let (tell, mut told) = mpsc::channel(2 * size.all());
    let mut tasks = JoinSet::new();
    for unit in 1..=size.units {
        for gateway in 1..=size.gateways {
            let watcher = Watcher::new(etcd, &space, unit, gateway).await?;
            tasks.spawn(watcher.run(size.all(), begin.clone(), tell.clone()));
        }
    }
    let before = cpu(pids);
    sleep(QUIET).await;
    let leases_percent =
        cpu(pids).saturating_sub(before).as_secs_f64() / QUIET.as_secs_f64() * 100.0;

    let before = cpu(pids);
    let begun = Instant::now();
    began.send_replace(Some(begun));
    let files = documents(size.units, size.rules, Owners::Everybody);
    let Some((name, text)) = files.first_key_value() else {
        return Err(ScaleError::documents("there are none"));
    };
    let change = Transaction::new().put(&Key::InForce(name), format!("{text}# changed\n"));
    store.commit(&change).await?;
    let (mut seen, mut bytes, mut done) = (Vec::new(), 0, 0);
    while done < size.all() {
        let next = tokio::select! {
            next = told.recv() => next,
            Some(ended) = tasks.join_next() => {
                ended.map_err(ScaleError::broken)??;
                continue;
            }
            () = sleep(STORM_MAX) => None,
        };
        match next {
            Some(Told::Rules(after)) => seen.push(after),
            Some(Told::All(of_one)) => {
                bytes += of_one;
                done += 1;
            }
            None => return Err(ScaleError::Silent(size.all() - done)),
        }
    }
    let told_ms = millis(begun.elapsed());
    let etcd_cpu = cpu(pids).saturating_sub(before);
    tasks.shutdown().await;
    seen.sort();
    let at = |percent: usize| {
        seen.get((seen.len() * percent / 100).min(seen.len() - 1))
            .map_or(0.0, |time| millis(*time))
    };
    Ok(FanoutPoint {
        size,
        seen_p50_ms: at(50),
        seen_p99_ms: at(99),
        told_ms,
        etcd_cpu_ms: millis(etcd_cpu),
        watched_bytes: bytes,
        leases_percent,
    })
}

async fn put_rules(store: &Store, size: Size) -> Result<(), ScaleError> {
    let files = documents(size.units, size.rules, Owners::Everybody);
    let files: Vec<_> = files.iter().collect();
    for chunk in files.chunks(KEYS_OF_ONE) {
        let mut transaction = Transaction::new();
        for (name, text) in chunk {
            transaction = transaction.put(&Key::InForce(name), text.as_bytes());
        }
        store.commit(&transaction).await?;
    }
    Ok(())
}

impl Watcher {
    async fn new(
        etcd: &EtcdConfig,
        space: &SpaceId,
        unit: usize,
        gateway: usize,
    ) -> Result<Self, ScaleError> {
        let unit = UnitId::parse(&format!("u{unit}")).map_err(ScaleError::documents)?;
        let gateway = format!("{unit}-g{gateway}");
        let gateway = GatewayId::parse(&gateway).map_err(ScaleError::documents)?;
        // Two connections, as a gateway has them: for what it watches, and for its lease.
        let watching = Store::connect(etcd, space).await?;
        let seen = watching.newest().await?.mod_revision;
        let watch = watching.watch(seen).await?;
        let store = Store::connect(etcd, space).await?;
        let lease = store.grant(TTL).await?;
        Ok(Self {
            unit,
            gateway,
            store,
            watch,
            lease,
        })
    }

    /// Registers at each change of the rules, and watches until all others have.
    async fn run(
        mut self,
        all: usize,
        begin: watch::Receiver<Option<Instant>>,
        tell: mpsc::Sender<Told>,
    ) -> Result<(), ScaleError> {
        let (mut registered, mut bytes) = (0, 0);
        let mut renew = tokio::time::interval(RENEW_EVERY);
        loop {
            let changes = tokio::select! {
                changes = self.watch.next() => changes.map_err(ScaleError::broken)?,
                _ = renew.tick() => {
                    self.lease.renew().await?;
                    continue;
                }
            };
            let begun = *begin.borrow();
            for (key, entry) in &changes.changes {
                bytes += entry.as_ref().map_or(0, |entry| entry.value.len() as u64);
                if key.starts_with("gateways/") {
                    registered += 1;
                } else if let Some(begun) = begun {
                    // Whoever has gone away meanwhile has measured enough.
                    let _ = tell.send(Told::Rules(begun.elapsed())).await;
                    let key = Key::Gateway(&self.unit, &self.gateway);
                    let text = serde_json::to_vec(&record(changes.revision)).unwrap_or_default();
                    let put = Transaction::new().put(&key, text).under(&self.lease);
                    timeout(STORM_MAX, self.store.commit(&put))
                        .await
                        .map_err(ScaleError::broken)??;
                }
            }
            if registered == all {
                let _ = tell.send(Told::All(bytes)).await;
                registered = 0;
            }
        }
    }
}

/// What a gateway says of itself: its usual length.
pub(super) fn record(revision: Revision) -> GatewayRecord {
    GatewayRecord {
        copied: Revision(0),
        read: true,
        consumed: Revision(0),
        link: "gateway-1.unit-1.example.net:7001".to_owned(),
        admin: "gateway-1.unit-1.example.net:9001".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision,
        epoch: Epoch(1),
        drained: Revision(0),
        ungranted: Revision(0),
        broker: BrokerHealth::Up,
        lanes: Vec::new(),
    }
}

fn cpu(pids: &[u32]) -> Duration {
    pids.iter().map(|pid| processor_time(*pid)).sum()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
