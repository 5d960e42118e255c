//! The message path's own connections to one vhost: one for each consumer, one for each publisher.
//!
//! Owns where the broker is and which of its addresses answered last. Promises that a failure names every address that
//! was tried, and why it was of no use. Keeps nothing up: who lost a connection dials again.

use super::Settings;
use super::error::BrokerError;
use super::session::{ANSWER_TIMEOUT, Session};
use super::settings::Endpoint;
use super::stream::{Stream, tls_config};
use crate::amqp::engine::EngineSettings;
use crate::amqp::{FieldTable, FieldValue};
use crate::model::marks::X_SET_PARCEL;
use parking_lot::Mutex;
use rustls::ClientConfig;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Opens connections. Clones are the same.
#[derive(Clone)]
pub struct Dialer(Arc<Inner>);

struct Inner {
    endpoints: Vec<Endpoint>,
    /// When an endpoint is `amqps`.
    tls: Option<Arc<ClientConfig>>,
    name: String,
    message_bytes_max: usize,
    tasks: TaskTracker,
    /// The endpoint that answered last.
    first: AtomicUsize,
    alarm: Arc<Alarm>,
}

impl Dialer {
    /// Parses the settings for one vhost (or the URIs' own). Each connection's task is spawned on the tracker.
    pub fn new(
        settings: &Settings,
        vhost: Option<&str>,
        tasks: &TaskTracker,
    ) -> Result<Self, BrokerError> {
        let endpoints = settings.endpoints(vhost)?;
        let tls = endpoints
            .iter()
            .any(Endpoint::is_encrypted)
            .then(|| tls_config(settings.tls.as_ref()))
            .transpose()?;
        Ok(Self(Arc::new(Inner {
            endpoints,
            tls,
            name: settings.name.clone(),
            message_bytes_max: settings.message_bytes_max,
            tasks: tasks.clone(),
            first: AtomicUsize::new(0),
            alarm: Arc::new(Alarm {
                name: settings.name.clone(),
                connections: Mutex::new(0),
                reason: watch::Sender::new(None),
            }),
        })))
    }

    /// Why the broker takes no publishes from some connection of this dialer (`connection.blocked`), while it doesn't.
    pub fn blocked(&self) -> watch::Receiver<Option<String>> {
        self.0.alarm.reason.subscribe()
    }

    /// Largest body that the configuration allows.
    pub(super) fn message_bytes_max(&self) -> usize {
        self.0.message_bytes_max
    }

    /// A connection, of the first address that gives one. `name` is for the broker's list of connections; deliveries
    /// above `body_bytes_max` come in pieces.
    pub(super) async fn dial(
        &self,
        doing: &str,
        name: &str,
        body_bytes_max: usize,
    ) -> Result<Session, BrokerError> {
        let count = self.0.endpoints.len();
        let first = self.0.first.load(Ordering::Relaxed);
        let mut causes = Vec::new();
        for at in (first..count).chain(0..first) {
            let Some(endpoint) = self.0.endpoints.get(at) else {
                continue;
            };
            match self.connect(endpoint, name, body_bytes_max).await {
                Ok(session) => {
                    self.0.first.store(at, Ordering::Relaxed);
                    return Ok(session);
                }
                Err(cause) => {
                    causes.push(format!("connecting to {}: {cause}", endpoint.shown()));
                }
            }
        }
        Err(BrokerError::Down {
            doing: doing.to_owned(),
            cause: causes.join("; "),
        })
    }

    async fn connect(
        &self,
        endpoint: &Endpoint,
        name: &str,
        body_bytes_max: usize,
    ) -> Result<Session, String> {
        let tls = self.0.tls.as_ref().filter(|_| endpoint.is_encrypted());
        let stream = Stream::connect(endpoint.host(), endpoint.port(), tls).await?;
        let mut client_properties = FieldTable::new();
        for (key, value) in [
            ("product", "setgate"),
            ("version", env!("CARGO_PKG_VERSION")),
            (
                "connection_name",
                &format!("setgate {} {name}", self.0.name),
            ),
        ] {
            client_properties.set(key, FieldValue::str(value));
        }
        let settings = EngineSettings {
            credentials: endpoint.sasl(),
            vhost: endpoint.vhost().to_owned(),
            heartbeat: endpoint.heartbeat(),
            frame_bytes_max: endpoint.frame_bytes_max(),
            client_properties,
            answer_timeout: ANSWER_TIMEOUT,
            body_bytes_max,
            token_header: X_SET_PARCEL,
        };
        Session::begin(stream, settings, &self.0.alarm, &self.0.tasks)
            .await
            .map_err(|end| end.cause())
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer")
            .field("name", &self.0.name)
            .finish_non_exhaustive()
    }
}

/// How many connections of a dialer the broker blocks, and why.
pub(super) struct Alarm {
    name: String,
    connections: Mutex<usize>,
    reason: watch::Sender<Option<String>>,
}

/// One of them, until it is dropped.
pub(super) struct Raised(Arc<Alarm>);

impl Alarm {
    pub(super) fn raise(self: &Arc<Self>, reason: &str) -> Raised {
        let mut connections = self.connections.lock();
        if *connections == 0 {
            tracing::warn!(connection = %self.name, %reason, "the broker blocks publishers");
        }
        *connections += 1;
        self.reason.send_replace(Some(reason.to_owned()));
        Raised(Arc::clone(self))
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        let mut connections = self.0.connections.lock();
        *connections -= 1;
        if *connections == 0 {
            tracing::info!(connection = %self.0.name, "the broker takes publishes again");
            self.0.reason.send_replace(None);
        }
    }
}
