//! The unit's own cluster: for each virtual host in use, a connection to ask and declare by, and a dialer.
//!
//! Owns their lives. Consumers and publishers have connections of their own, opened by the dialer: one that isn't read,
//! is blocked, or is slowed down by a slow queue holds nobody else up.

use super::metrics::Metrics;
use super::status::StatusHub;
use crate::broker::{BrokerError, Connection, ConnectionState, Dialer, Management, Settings};
use parking_lot::Mutex;
use std::collections::HashMap;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The connections of one virtual host.
#[derive(Clone)]
pub(super) struct Vhost {
    /// For declarations and questions.
    pub(super) control: Connection,
    /// For consumers and publishers.
    pub(super) dialer: Dialer,
}

/// See the file's head.
pub(super) struct Brokers {
    settings: Settings,
    management: Option<Management>,
    vhosts: Mutex<HashMap<Option<String>, Vhost>>,
    status: StatusHub,
    metrics: Metrics,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Brokers {
    /// No connection yet: the first one is opened for whoever asks first.
    pub(super) fn new(
        settings: Settings,
        management_urls: Vec<String>,
        status: StatusHub,
        metrics: Metrics,
        tracker: TaskTracker,
        cancel: CancellationToken,
    ) -> Result<Self, BrokerError> {
        let management = if management_urls.is_empty() {
            None
        } else {
            Some(Management::new(management_urls, &settings)?)
        };
        let vhosts = Mutex::default();
        Ok(Self {
            settings,
            management,
            vhosts,
            status,
            metrics,
            tracker,
            cancel,
        })
    }

    pub(super) fn management(&self) -> Option<&Management> {
        self.management.as_ref()
    }

    /// A connection to a virtual host that is used once.
    pub(super) fn errand(&self, vhost: Option<&str>) -> Result<Errand, BrokerError> {
        let connection = Connection::new(&self.settings, vhost)?;
        let end = self.cancel.child_token();
        let (run, cancel) = (connection.clone(), end.clone());
        self.tracker.spawn(async move { run.run(cancel).await });
        Ok(Errand {
            connection,
            _end: end.drop_guard(),
        })
    }

    /// The virtual hosts in use.
    pub(super) fn vhosts(&self) -> Vec<String> {
        let vhosts = self.vhosts.lock();
        let mut names: Vec<_> = vhosts
            .values()
            .map(|vhost| vhost.control.vhost().to_owned())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The connections of a virtual host, `None` for the gateway's own; started when they are new.
    pub(super) fn vhost(&self, name: Option<&str>) -> Result<Vhost, BrokerError> {
        let mut vhosts = self.vhosts.lock();
        if let Some(vhost) = vhosts.get(&name.map(str::to_owned)) {
            return Ok(vhost.clone());
        }
        let vhost = Vhost {
            control: Connection::new(&self.settings, name)?,
            dialer: Dialer::new(&self.settings, name, &self.tracker)?,
        };
        let run = vhost.control.clone();
        let cancel = self.cancel.clone();
        self.tracker.spawn(async move { run.run(cancel).await });
        self.tracker.spawn(report(
            vhost.clone(),
            self.status.clone(),
            self.metrics.clone(),
            self.cancel.clone(),
        ));
        vhosts.insert(name.map(str::to_owned), vhost.clone());
        Ok(vhost)
    }
}

/// A connection of its own for what may cost it, and for locks that must go with it. Dropped, it is closed in the
/// background.
pub(super) struct Errand {
    connection: Connection,
    _end: DropGuard,
}

impl Errand {
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// Writes changes of the broker's state to status page and metrics.
async fn report(vhost: Vhost, status: StatusHub, metrics: Metrics, cancel: CancellationToken) {
    let Vhost { control, dialer } = vhost;
    let mut states = control.watch();
    let mut blocks = dialer.blocked();
    let mut was_blocked = false;
    loop {
        let state = states.borrow_and_update().clone();
        let blocked = blocks.borrow_and_update().clone();
        let is_blocked = blocked.is_some();
        match state {
            ConnectionState::Up { .. } => status.broker_up(control.vhost(), blocked),
            ConnectionState::Down { cause, .. } | ConnectionState::Connecting { cause, .. } => {
                status.broker_down(control.vhost(), cause);
            }
        }
        if is_blocked != was_blocked {
            metrics
                .broker_blocked()
                .add(if is_blocked { 1 } else { -1 });
            was_blocked = is_blocked;
        }
        let changed = tokio::select! {
            () = cancel.cancelled() => return,
            changed = states.changed() => changed,
            changed = blocks.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}
