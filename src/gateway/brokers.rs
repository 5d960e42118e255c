//! The unit's own cluster: a consuming and a publishing connection for each virtual host in use.
//!
//! Owns the connections' lives. Consumers and publishers have a connection each, because RabbitMQ leaves
//! acknowledgements unprocessed on a connection that it blocks for publishing.

use super::metrics::Metrics;
use super::status::{BrokerRole, StatusHub};
use crate::broker::{BrokerError, Connection, ConnectionState, Management, Role, Settings};
use parking_lot::Mutex;
use std::collections::HashMap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The connections of one virtual host.
#[derive(Clone)]
pub(super) struct Vhost {
    pub(super) consume: Connection,
    pub(super) publish: Connection,
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

    /// The connections of a virtual host, `None` for the gateway's own; started when they are new.
    pub(super) fn vhost(&self, name: Option<&str>) -> Result<Vhost, BrokerError> {
        let mut vhosts = self.vhosts.lock();
        if let Some(vhost) = vhosts.get(&name.map(str::to_owned)) {
            return Ok(vhost.clone());
        }
        let vhost = Vhost {
            consume: Connection::new(&self.settings, name, Role::Consume)?,
            publish: Connection::new(&self.settings, name, Role::Publish)?,
        };
        for connection in [&vhost.consume, &vhost.publish] {
            let run = connection.clone();
            let cancel = self.cancel.clone();
            self.tracker.spawn(async move { run.run(cancel).await });
            self.tracker.spawn(report(
                connection.clone(),
                self.status.clone(),
                self.metrics.clone(),
                self.cancel.clone(),
            ));
        }
        vhosts.insert(name.map(str::to_owned), vhost.clone());
        Ok(vhost)
    }
}

/// Writes a connection's changes of state to status page and metrics.
async fn report(
    connection: Connection,
    status: StatusHub,
    metrics: Metrics,
    cancel: CancellationToken,
) {
    let role = match connection.role() {
        Role::Consume => BrokerRole::Consume,
        Role::Publish => BrokerRole::Publish,
    };
    let mut states = connection.watch();
    let mut was_blocked = false;
    loop {
        let state = states.borrow_and_update().clone();
        let blocked = state.blocked().is_some();
        match &state {
            ConnectionState::Up { blocked, .. } => {
                status.broker_up(connection.vhost(), role, blocked.clone());
            }
            ConnectionState::Down { cause, .. } | ConnectionState::Connecting { cause, .. } => {
                status.broker_down(connection.vhost(), role, cause.clone());
            }
        }
        if blocked != was_blocked {
            metrics.broker_blocked().add(if blocked { 1 } else { -1 });
            was_blocked = blocked;
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
        }
    }
}
