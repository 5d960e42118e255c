//! A gateway from start to end: everything is opened, run, and ended in order.
//!
//! Promises that a fault of the configuration or a busy port ends it at once with the cause, and that an absent broker,
//! etcd or peer doesn't: it goes on trying, and says so.

use super::brokers::Brokers;
use super::config::{self, Config, EtcdPart, LinkPart, RulesFrom};
use super::feed::{EtcdState, Feed, FeedFrom, FeedHandle, FeedSettings, FeedState};
use super::links::{Links, LinksSettings};
use super::metrics::{Metrics, MetricsError};
use super::shared::{Rules, Shared};
use super::status::{LaneState, StatusFault, StatusHub, TableFacts, UnitFacts, UpDown};
use super::{lanes, receivers};
use crate::broker::{BrokerError, Settings, Tls};
use crate::etcd::{BrokerHealth, EtcdConfig, EtcdCredentials, EtcdTls, GatewayRecord, LaneRecord};
use crate::lane::Limits;
use crate::link::{Here, Standing};
use crate::model::{Epoch, Revision, UnitId};
use crate::routing::Table;
use crate::wire::{
    LinkError, LinkSecurity, LinkServer, RefusedCounts, ServerSettings, TlsFiles, TlsIdentity,
};
use secrecy::SecretString;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections on the link port: two from each gateway of every other unit and as many while they reconnect; fifty
/// units of five gateways make a thousand.
const LINK_CONNECTIONS_MAX: usize = 1_024;

/// Streams that wait to be taken over: they are taken at once, so this is burst room alone.
const INCOMING_MAX: usize = 64;

/// What tasks may take to end once lanes have settled.
const FAREWELL: Duration = Duration::from_secs(3);

/// How often this gateway's record for etcd and the slow metrics are looked at.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// Why a gateway can't run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A metric that can't be registered: a fault of setgate.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The broker's settings.
    #[error("broker: {0}")]
    Broker(#[from] BrokerError),
    /// Certificates, or a busy port.
    #[error("link: {0}")]
    Link(#[from] LinkError),
    /// The state folder, or the folder of documents.
    #[error(transparent)]
    Feed(#[from] super::feed::FeedError),
}

/// A gateway that has its ports and its state, and isn't running yet.
pub struct Gateway {
    config: Config,
    shared: Arc<Shared>,
    incoming: mpsc::Receiver<crate::wire::ReceiverPipe>,
    server: LinkServer,
    feed: Feed,
    handle: FeedHandle,
    rules: watch::Sender<Option<Arc<Rules>>>,
    standing: watch::Sender<Option<Arc<Standing>>>,
    own: watch::Sender<GatewayRecord>,
    connections: CancellationToken,
}

impl Gateway {
    /// Reads certificates, binds the link port, and takes up what the disk knows.
    pub async fn open(config: Config) -> Result<Self, RunError> {
        let metrics = Metrics::new()?;
        let here = Here {
            space: config.space.clone(),
            unit: config.unit.clone(),
            gateway: config.gateway.clone(),
        };
        let status = StatusHub::new(here.space.clone(), here.unit.clone(), here.gateway.clone());
        let tracker = TaskTracker::new();
        let connections = CancellationToken::new();
        let brokers = Brokers::new(
            broker_settings(&config, &here)?,
            config.broker.management.clone(),
            status.clone(),
            metrics.clone(),
            tracker.clone(),
            connections.clone(),
        )?;
        let security = security(&config.link, &here)?;
        let message_max = bytes(config.limits.message_max);
        let (standing, standing_seen) = watch::channel(None);
        let server_settings = ServerSettings {
            here: here.clone(),
            security: security.clone(),
            message_max,
            standing: standing_seen.clone(),
            connections_max: LINK_CONNECTIONS_MAX,
        };
        let server = LinkServer::bind(&config.link.listen.to_string(), server_settings).await?;
        let links = Links::new(
            LinksSettings {
                here: here.clone(),
                security,
                message_max,
                standing: standing_seen,
                via: config.link.via.clone(),
            },
            status.clone(),
            metrics.clone(),
            tracker.clone(),
        );
        let own = watch::Sender::new(GatewayRecord {
            link: config.link.advertise.to_string(),
            admin: config.admin_address(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: Revision(0),
            epoch: Epoch(0),
            broker: BrokerHealth::Down,
            lanes: Vec::new(),
        });
        let (feed, handle) = Feed::open(feed_settings(&config), own.subscribe())?;
        let (rules, rules_seen) = watch::channel(None);
        let (to_receivers, incoming) = mpsc::channel(INCOMING_MAX);
        let shared = Arc::new(Shared {
            here,
            limits: Limits {
                body_bytes_max: message_max,
                rounds_max: config.limits.hops_max,
            },
            memory_bytes: bytes(config.limits.memory),
            drain: config.drain,
            rules: rules_seen,
            brokers,
            links,
            incoming: to_receivers,
            status,
            metrics,
            tracker,
        });
        Ok(Self {
            config,
            shared,
            incoming,
            server,
            feed,
            handle,
            rules,
            standing,
            own,
            connections,
        })
    }

    /// What the admin endpoint shows.
    pub fn status(&self) -> StatusHub {
        self.shared.status.clone()
    }

    /// What the admin endpoint counts.
    pub fn metrics(&self) -> Metrics {
        self.shared.metrics.clone()
    }

    /// What the admin endpoint explains by.
    pub fn table(&self) -> FeedHandle {
        self.handle.clone()
    }

    /// Where the admin endpoint listens.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Runs until cancelled. Then lanes stop taking and settle what they have, within `drain:`; then all else ends.
    pub async fn run(self, cancel: CancellationToken) {
        let Self {
            shared,
            incoming,
            server,
            feed,
            handle,
            rules,
            standing,
            own,
            connections,
            ..
        } = self;
        let tracker = shared.tracker.clone();
        // Lanes end first, then what they stand on.
        let under_lanes = CancellationToken::new();
        let refused = server.refused();
        tracker.spawn(feed.run(under_lanes.clone()));
        tracker.spawn(server.run(
            shared.incoming.clone(),
            tracker.clone(),
            under_lanes.clone(),
        ));
        tracker.spawn(follow(
            Arc::clone(&shared),
            handle,
            rules,
            standing,
            under_lanes.clone(),
        ));
        tracker.spawn(report(
            Arc::clone(&shared),
            own,
            refused,
            under_lanes.clone(),
        ));
        let receivers = tracker.spawn(receivers::run(
            Arc::clone(&shared),
            incoming,
            under_lanes.clone(),
        ));
        lanes::run(Arc::clone(&shared), cancel).await;
        under_lanes.cancel();
        // A receiver that fails to end holds only what its sender will send again.
        let _ = timeout(FAREWELL, receivers).await;
        connections.cancel();
        tracker.close();
        if timeout(FAREWELL, tracker.wait()).await.is_err() {
            tracing::warn!(left = tracker.len(), "some tasks did not end in time");
        }
    }
}

/// Takes each new table of the feed into force: routing rules, what links say of it, links, status, metrics.
async fn follow(
    shared: Arc<Shared>,
    handle: FeedHandle,
    rules: watch::Sender<Option<Arc<Rules>>>,
    standing: watch::Sender<Option<Arc<Standing>>>,
    cancel: CancellationToken,
) {
    let mut states = handle.watch();
    loop {
        let state = states.borrow_and_update().clone();
        if let (Some(table), Some(keys)) = (&state.table, &state.seal) {
            let fresh = rules
                .borrow()
                .as_ref()
                .is_none_or(|old| !Arc::ptr_eq(&old.table, table));
            if fresh {
                standing.send_replace(Some(Arc::new(standing_of(table))));
                shared.status.set_table(facts(table));
                shared
                    .metrics
                    .table_in_force(table.revision(), table.epoch());
                let in_force = Rules {
                    table: Arc::clone(table),
                    keys: Arc::clone(keys),
                };
                rules.send_replace(Some(Arc::new(in_force)));
            }
        }
        show(&shared, &state);
        let known = |unit: &UnitId| {
            state
                .table
                .as_ref()
                .is_some_and(|table| table.unit(unit).is_some())
        };
        let mut peers = (*state.peers).clone();
        peers.retain(|unit, _| known(unit));
        shared.links.reconcile(&peers, &cancel);
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
        }
    }
}

fn show(shared: &Shared, state: &FeedState) {
    match &state.etcd {
        EtcdState::Unused | EtcdState::Up { .. } => shared.status.etcd_up(),
        EtcdState::Connecting => shared.status.etcd_down("not reached yet"),
        EtcdState::Down { cause, .. } => shared.status.etcd_down(cause.clone()),
    }
    let faults = state.faults.iter().map(|fault| StatusFault {
        subject: format!("{}:{}", fault.file, fault.line),
        message: fault.message.clone(),
        mend: fault.mend.clone(),
    });
    let trouble = state.trouble.iter().map(|trouble| StatusFault {
        subject: "etcd".to_owned(),
        message: trouble.to_string(),
        mend: "see docs/install.md, \"etcd\"".to_owned(),
    });
    shared
        .status
        .set_faults("documents", faults.chain(trouble).collect());
    let rejected = state.rejected.is_some() || state.trouble.is_some();
    shared.metrics.table_rejected().set(i64::from(rejected));
    let current = matches!(state.etcd, EtcdState::Up { .. } | EtcdState::Unused) && !rejected;
    shared.metrics.table_is_current(current, Instant::now());
}

/// Keeps what this gateway says of itself in etcd, and metrics that nobody else moves, up to date.
async fn report(
    shared: Arc<Shared>,
    own: watch::Sender<GatewayRecord>,
    refused: Arc<RefusedCounts>,
    cancel: CancellationToken,
) {
    let mut tick = tokio::time::interval(REPORT_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = tick.tick() => {}
        }
        for (reason, count) in refused.snapshot() {
            let counter = shared.metrics.link_refused(reason.as_str());
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        let now = shared.status.snapshot();
        let broker = if now.brokers.iter().any(|line| line.blocked.is_some()) {
            BrokerHealth::Blocked
        } else if !now.brokers.is_empty() && now.brokers.iter().all(|line| line.state == UpDown::Up)
        {
            BrokerHealth::Up
        } else {
            BrokerHealth::Down
        };
        let holds = |state| matches!(state, LaneState::Taking | LaneState::Held);
        let lanes: Vec<_> = now
            .lanes
            .iter()
            .filter(|lane| holds(lane.facts.state))
            .map(|lane| LaneRecord {
                source: lane.source.clone(),
                partition: lane.partition,
            })
            .collect();
        own.send_if_modified(|record| {
            let changed = record.broker != broker || record.lanes != lanes;
            record.broker = broker;
            record.lanes = lanes;
            changed
        });
    }
}

fn standing_of(table: &Table) -> Standing {
    Standing {
        lineage: table.lineage().clone(),
        epoch: table.epoch(),
        revision: table.revision(),
        units: table.units().iter().map(|unit| unit.name.clone()).collect(),
    }
}

fn facts(table: &Table) -> TableFacts {
    let seats = table.seats();
    let units = table.units();
    let seat_of = |unit: &UnitId| -> Vec<UnitId> {
        let homes = units.iter().map(|home| &home.name);
        homes
            .filter(|home| seats.seat_of(home) == unit)
            .cloned()
            .collect()
    };
    TableFacts {
        lineage: table.lineage().clone(),
        epoch: table.epoch(),
        revision: table.revision(),
        units: units
            .iter()
            .map(|unit| UnitFacts {
                unit: unit.name.clone(),
                site: unit.site.clone(),
                seat_of: seat_of(&unit.name),
            })
            .collect(),
    }
}

/// The broker's part of the configuration, as the broker's shell wants it.
pub fn broker_settings(config: &Config, here: &Here) -> Result<Settings, BrokerError> {
    let tls = match &config.broker.tls {
        None => None,
        Some(paths) => {
            let identity = paths.identity.as_ref();
            Some(Tls::load(
                Some(&paths.ca),
                identity.map(|(cert, _)| cert.as_path()),
                identity.map(|(_, key)| key.as_path()),
            )?)
        }
    };
    Ok(Settings {
        uris: config
            .broker
            .uris
            .iter()
            .map(|uri| SecretString::from(uri.expose()))
            .collect(),
        password: config.broker.password.clone(),
        tls,
        heartbeat: Settings::HEARTBEAT,
        message_bytes_max: bytes(config.limits.message_max),
        name: format!("{}/{}/{}", here.space, here.unit, here.gateway),
    })
}

/// The link's certificates, read and checked.
pub fn security(link: &LinkPart, here: &Here) -> Result<LinkSecurity, LinkError> {
    match &link.security {
        config::LinkSecurity::Insecure => Ok(LinkSecurity::Insecure),
        config::LinkSecurity::Tls(paths) => {
            let (cert, key) = paths.identity.clone().unwrap_or_default();
            let files = TlsFiles {
                ca: paths.ca.clone(),
                cert,
                key,
            };
            Ok(LinkSecurity::Mutual(Arc::new(TlsIdentity::load(
                files,
                here.clone(),
            )?)))
        }
    }
}

fn feed_settings(config: &Config) -> FeedSettings {
    FeedSettings {
        space: config.space.clone(),
        unit: config.unit.clone(),
        gateway: config.gateway.clone(),
        from: match &config.rules {
            RulesFrom::Etcd(part) => FeedFrom::Etcd(etcd_config(part)),
            RulesFrom::Dir(folder) => FeedFrom::Folder(folder.clone()),
        },
        state_dir: config.state_dir.clone(),
    }
}

/// The etcd part of the configuration, as etcd's shell wants it.
pub fn etcd_config(part: &EtcdPart) -> EtcdConfig {
    EtcdConfig {
        endpoints: part.endpoints.clone(),
        credentials: part.username.as_ref().map(|username| EtcdCredentials {
            username: username.clone(),
            password: part
                .password
                .clone()
                .unwrap_or_else(|| SecretString::from("")),
        }),
        tls: part.tls.as_ref().map(|tls| EtcdTls {
            ca: tls.ca.clone(),
            identity: tls.identity.clone(),
        }),
    }
}

fn bytes(size: config::ByteSize) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}
