//! A gateway from start to end: everything is opened, run, and ended in order.
//!
//! Promises that a fault of the configuration or a busy port ends it at once with the cause, and that an absent broker,
//! etcd or peer doesn't: it goes on trying, and says so.

use super::brokers::Brokers;
use super::config::{self, Config, LinkPart, RulesFrom};
use super::coordinator::Coordinator;
use super::failpoint::Failpoint;
use super::feed::{Feed, FeedFrom, FeedHandle, FeedSettings};
use super::fencing::Fencing;
use super::journal::{self, Journal};
use super::links::{Links, LinksSettings};
use super::metrics::{MemoryKind, Metrics, MetricsError};
use super::parked::ParkDesk;
use super::probe::{self, Probe};
use super::right::{self, Rights};
use super::shared::{Rules, Shared};
use super::status::StatusHub;
use super::{consumed, follow, hooks, known, lanes, policies, receivers, report};
use crate::broker::{BrokerError, Settings, Tls};
use crate::etcd::{BrokerHealth, EtcdConfig, GatewayRecord};
use crate::lane::Limits;
use crate::link::{Here, Standing};
use crate::model::{Epoch, Revision};
use crate::wire::{LinkError, LinkSecurity, LinkServer, ServerSettings, TlsFiles, TlsIdentity};
use rustix::process::{Resource, getrlimit, setrlimit};
use secrecy::SecretString;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections on the link port: two from each gateway of every other unit and as many while they reconnect; fifty
/// units of ten gateways make 1,960.
const LINK_CONNECTIONS_MAX: usize = 2_048;

/// What links bring may take a quarter of the gateway's memory, half of what its own lanes may.
const LINKS_SHARE: usize = 4;

/// Streams that wait to be taken over: they are taken at once, so this is burst room alone.
const INCOMING_MAX: usize = 64;

/// Questions of other units that wait: one is asked for each move to them.
const ASKED_MAX: usize = 16;

/// What tasks may take to end once lanes have settled.
const FAREWELL: Duration = Duration::from_secs(3);

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
    to_journal: mpsc::Receiver<journal::Write>,
    server: LinkServer,
    feed: Feed,
    handle: FeedHandle,
    rules: watch::Sender<Option<Arc<Rules>>>,
    standing: watch::Sender<Option<Arc<Standing>>>,
    own: watch::Sender<GatewayRecord>,
    security: LinkSecurity,
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
        let rights = Rights::new();
        let server_settings = ServerSettings {
            here: here.clone(),
            security: security.clone(),
            message_max,
            bytes_max: bytes(config.limits.memory) / LINKS_SHARE,
            standing: standing_seen.clone(),
            connections_max: LINK_CONNECTIONS_MAX,
            granter: Arc::clone(&rights.granter),
        };
        let server = LinkServer::bind(&config.link.listen.to_string(), server_settings).await?;
        let links = Links::new(
            LinksSettings {
                here: here.clone(),
                security: security.clone(),
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
            drained: Revision(0),
            ungranted: Revision(0),
            copied: Revision(0),
            read: false,
            consumed: Revision(0),
            broker: BrokerHealth::Down,
            lanes: Vec::new(),
        });
        let (feed, handle) = Feed::open(feed_settings(&config), own.subscribe())?;
        let (rules, rules_seen) = watch::channel(None);
        let budget = i64::try_from(config.limits.memory.0).unwrap_or(i64::MAX);
        metrics.memory_bytes(MemoryKind::Budget).set(budget);
        let (to_receivers, incoming) = mpsc::channel(INCOMING_MAX);
        let (journal, to_journal) = Journal::new();
        let shared = Arc::new(Shared {
            here,
            limits: Limits {
                body_bytes_max: message_max,
                rounds_max: config.limits.hops_max,
            },
            memory_bytes: bytes(config.limits.memory),
            drain: config.drain,
            fencing: Fencing::new(rules_seen.clone()),
            probe: Probe::default(),
            rights,
            rules: rules_seen,
            brokers,
            links,
            incoming: to_receivers,
            journal,
            failpoint: Failpoint::from_environment(),
            status,
            metrics,
            tracker,
        });
        Ok(Self {
            config,
            shared,
            incoming,
            to_journal,
            server,
            feed,
            handle,
            rules,
            standing,
            own,
            security,
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

    /// What the admin endpoint does with parked messages.
    pub fn parked(&self) -> ParkDesk {
        ParkDesk::new(Arc::clone(&self.shared), self.connections.clone())
    }

    /// Where the admin endpoint listens.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Runs until cancelled. Then lanes stop taking and settle what they have, within `drain:`; then all else ends.
    pub async fn run(self, cancel: CancellationToken) {
        let Self {
            config,
            shared,
            incoming,
            to_journal,
            server,
            feed,
            handle,
            rules,
            standing,
            own,
            security,
            connections,
        } = self;
        let tracker = shared.tracker.clone();
        let states = handle.watch();
        let leased = handle.leased();
        let standing_seen = standing.subscribe();
        // Lanes end first, then what they stand on.
        let under_lanes = CancellationToken::new();
        let refused = server.refused();
        if let FeedFrom::Etcd(etcd) = feed_settings(&config).from {
            let coordinator = Coordinator {
                here: shared.here.clone(),
                etcd,
                feed: handle.clone(),
                metrics: shared.metrics.clone(),
            };
            tracker.spawn(coordinator.run(under_lanes.clone()));
        }
        tracker.spawn(feed.run(under_lanes.clone()));
        let (asks, asked) = mpsc::channel(ASKED_MAX);
        tracker.spawn(known::tell(Arc::clone(&shared), asked, under_lanes.clone()));
        let copy = known::copy(Arc::clone(&shared), handle.watch(), under_lanes.clone());
        tracker.spawn(copy);
        let consumed = watch::Sender::new(Revision::default());
        let consumed_seen = consumed.subscribe();
        let consumption = consumed::watch(
            Arc::clone(&shared),
            handle.watch(),
            consumed,
            under_lanes.clone(),
        );
        tracker.spawn(consumption);
        tracker.spawn(server.run(
            shared.incoming.clone(),
            asks,
            tracker.clone(),
            under_lanes.clone(),
        ));
        tracker.spawn(follow::follow(
            Arc::clone(&shared),
            handle,
            rules,
            standing,
            under_lanes.clone(),
        ));
        tracker.spawn(probe::keep(Arc::clone(&shared), connections.clone()));
        tracker.spawn(hooks::run(
            Arc::clone(&shared),
            config.hooks.clone(),
            under_lanes.clone(),
        ));
        tracker.spawn(right::keep(
            Arc::clone(&shared),
            leased,
            under_lanes.clone(),
        ));
        tracker.spawn(report::report(
            Arc::clone(&shared),
            own,
            standing_seen,
            consumed_seen,
            refused,
            under_lanes.clone(),
        ));
        tracker.spawn(policies::watch(Arc::clone(&shared), under_lanes.clone()));
        tracker.spawn(report::renew(
            security,
            shared.status.clone(),
            under_lanes.clone(),
        ));
        // Receivers end by writing into it.
        tracker.spawn(journal::follow(
            Arc::clone(&shared),
            config.state_dir,
            connections.clone(),
        ));
        tracker.spawn(journal::write(
            Arc::clone(&shared),
            to_journal,
            connections.clone(),
        ));
        let receivers = tracker.spawn(receivers::run(
            Arc::clone(&shared),
            incoming,
            under_lanes.clone(),
        ));
        lanes::run(Arc::clone(&shared), states, cancel).await;
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

/// Raises this process's limit of open files to what it may have: a gateway has four sockets for each gateway of another
/// unit, and the usual soft limit is 1,024. The limit that holds then.
pub fn raise_descriptor_limit() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let before = limit.current;
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files stays as it is");
            return before;
        }
    }
    limit.current
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
            RulesFrom::Etcd(part) => FeedFrom::Etcd(EtcdConfig::from(part)),
            RulesFrom::Dir(folder) => FeedFrom::Folder(folder.clone()),
        },
        state_dir: config.state_dir.clone(),
    }
}

fn bytes(size: config::ByteSize) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_may_open_as_many_files_as_the_system_allows_it() {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = Some(512);
        setrlimit(Resource::Nofile, limit).unwrap();
        assert_eq!(raise_descriptor_limit(), limit.maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, limit.maximum);
    }
}
