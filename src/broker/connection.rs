//! One connection to a cluster, kept up: the supervisor of one vhost, for declarations and inspection.
//!
//! Owns the library's connection. Promises that a dead broker is noticed at once, and that the cause of every state is
//! told. Carries no messages: see [`super::Dialer`].

use super::channel::{ANSWER_TIMEOUT, Channel};
use super::error::{BrokerError, cause_of, reply};
use super::settings::{Endpoint, Settings, Tls};
use super::{ConnectionState, Server, greeting};
use crate::model::Backoff;
use futures_util::StreamExt;
use jiff::Timestamp;
use lapin::tcp::AMQPUriTcpExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

/// TCP, TLS and the greeting.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// The rest of the handshake: RabbitMQ itself gives up after 10 s.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The library tells of a lost connection by an event; this looks again in case one is missed.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// A supervised connection. Clones are the same connection.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    endpoints: Vec<Endpoint>,
    tls: Option<Tls>,
    name: String,
    state: watch::Sender<ConnectionState>,
    live: parking_lot::Mutex<Option<Arc<lapin::Connection>>>,
    backoff: Backoff,
    /// Held while running, so that a second `run` waits for the first.
    running: tokio::sync::Mutex<()>,
    /// The live one is to be closed, and another connected.
    renew: Notify,
}

/// Why a connection is renewed: the client library keeps the error with which the broker closed a channel, for whatever has
/// its number after that, and gives out each number again once all have been used.
const USED_UP: &str = "its channel numbers are used up, so it is renewed";

/// Whether the broker closed a channel with it, and not the connection.
fn is_of_a_channel(error: &lapin::Error) -> bool {
    const SOFT: [u16; 4] = [403, 404, 405, 406];
    reply(error).is_some_and(|(code, _)| SOFT.contains(&code))
}

impl Connection {
    /// Parses the settings for one vhost (or the URIs' own). Connects nothing yet: see [`Connection::run`].
    pub fn new(settings: &Settings, vhost: Option<&str>) -> Result<Self, BrokerError> {
        Ok(Self(Arc::new(Inner {
            endpoints: settings.endpoints(vhost)?,
            tls: settings.tls.clone(),
            name: format!("setgate {}", settings.name),
            state: watch::Sender::new(ConnectionState::Down {
                since: Timestamp::now(),
                cause: "not started yet".to_owned(),
                attempt: 0,
                retry_at: None,
            }),
            live: parking_lot::Mutex::new(None),
            backoff: Backoff::new(fastrand::u64(..)),
            running: tokio::sync::Mutex::new(()),
            renew: Notify::new(),
        })))
    }

    /// The vhost that it is for.
    pub fn vhost(&self) -> &str {
        self.0.endpoints.first().map_or("/", Endpoint::vhost)
    }

    /// The state now.
    pub fn state(&self) -> ConnectionState {
        self.0.state.borrow().clone()
    }

    /// The state and its changes.
    pub fn watch(&self) -> watch::Receiver<ConnectionState> {
        self.0.state.subscribe()
    }

    /// Waits until there is a connection.
    pub async fn up(&self) {
        let mut state = self.watch();
        if state
            .wait_for(|state| state.cause().is_none())
            .await
            .is_err()
        {
            // The sender lives in `self`, so this can't happen; waiting for ever is the honest answer if it does.
            std::future::pending::<()>().await;
        }
    }

    /// Who answered at the other end.
    pub fn server(&self) -> Result<Server, BrokerError> {
        match &*self.0.state.borrow() {
            ConnectionState::Up { server, .. } => Ok(server.clone()),
            ConnectionState::Down { cause, .. } | ConnectionState::Connecting { cause, .. } => {
                Err(BrokerError::Down {
                    doing: "asking for the broker's version".to_owned(),
                    cause: cause.clone(),
                })
            }
        }
    }

    /// Opens a channel, while there is a connection. Where it would have the number, and so the error, of one that the broker
    /// closed, the connection is renewed.
    pub(super) async fn channel(&self) -> Result<Channel, BrokerError> {
        let doing = || "opening a channel".to_owned();
        let live = self.0.live.lock().clone();
        let Some(live) = live else {
            return Err(BrokerError::Down {
                doing: doing(),
                cause: self
                    .state()
                    .cause()
                    .unwrap_or("it has just ended")
                    .to_owned(),
            });
        };
        match timeout(ANSWER_TIMEOUT, live.create_channel()).await {
            Ok(Ok(channel)) => Ok(Channel::new(channel)),
            Ok(Err(error)) if is_of_a_channel(&error) => {
                let now = self.0.live.lock();
                if now.as_ref().is_some_and(|now| Arc::ptr_eq(now, &live)) {
                    self.0.renew.notify_one();
                }
                Err(BrokerError::Lost {
                    doing: doing(),
                    cause: USED_UP.to_owned(),
                })
            }
            Ok(Err(error)) => Err(BrokerError::of(doing(), &error)),
            Err(_) => Err(BrokerError::TimedOut {
                doing: doing(),
                after: ANSWER_TIMEOUT,
                blocked: None,
            }),
        }
    }

    /// Keeps one connection up until cancelled, then closes it. Returns when it is closed.
    pub async fn run(&self, cancel: CancellationToken) {
        let _alone = self.0.running.lock().await;
        let mut round = 0u32;
        let mut first = 0;
        while !cancel.is_cancelled() {
            match self.connect_to_any(round, &mut first, &cancel).await {
                Some((live, server, uri)) => {
                    let cause = self.serve(live, server, uri, &cancel).await;
                    round = 0;
                    if cancel.is_cancelled() {
                        tracing::info!(connection = %self.0.name, "the broker connection is closed");
                    } else {
                        tracing::warn!(connection = %self.0.name, %cause, "the broker connection ended");
                    }
                    self.wait(0, cause, &cancel).await;
                }
                None if cancel.is_cancelled() => {}
                None => {
                    round = round.saturating_add(1);
                    let cause = self.state().cause().unwrap_or_default().to_owned();
                    self.wait(round, cause, &cancel).await;
                }
            }
        }
        self.0.state.send_modify(|state| {
            *state = ConnectionState::Down {
                since: state.down_since(Timestamp::now()),
                cause: "closed by this gateway".to_owned(),
                attempt: 0,
                retry_at: None,
            };
        });
    }

    async fn wait(&self, round: u32, cause: String, cancel: &CancellationToken) {
        if cancel.is_cancelled() {
            return;
        }
        let delay = self.0.backoff.delay(round);
        let now = Timestamp::now();
        self.0.state.send_modify(|state| {
            *state = ConnectionState::Down {
                since: state.down_since(now),
                cause,
                attempt: round,
                retry_at: now.checked_add(delay).ok(),
            };
        });
        tokio::select! {
            () = cancel.cancelled() => {}
            () = tokio::time::sleep(delay) => {}
        }
    }

    /// One round through all URIs, beginning with the one that answered last.
    async fn connect_to_any(
        &self,
        round: u32,
        first: &mut usize,
        cancel: &CancellationToken,
    ) -> Option<(Arc<lapin::Connection>, Server, String)> {
        let count = self.0.endpoints.len();
        for step in 0..count {
            let at = (*first + step) % count;
            let endpoint = self.0.endpoints.get(at)?;
            let uri = endpoint.shown();
            self.0.state.send_modify(|state| {
                *state = ConnectionState::Connecting {
                    since: state.down_since(Timestamp::now()),
                    uri: uri.clone(),
                    attempt: round,
                    cause: state.cause().unwrap_or("connecting").to_owned(),
                };
            });
            let attempt = tokio::select! {
                () = cancel.cancelled() => return None,
                attempt = self.connect(endpoint) => attempt,
            };
            match attempt {
                Ok((lapin, server)) => {
                    *first = at;
                    return Some((Arc::new(lapin), server, uri));
                }
                Err(why) => {
                    let cause = format!("connecting to {uri}: {why}");
                    if round == 0 {
                        tracing::warn!(connection = %self.0.name, %cause, "can't connect to the broker");
                    }
                    self.0.state.send_modify(|state| {
                        *state = ConnectionState::Connecting {
                            since: state.down_since(Timestamp::now()),
                            uri: uri.clone(),
                            attempt: round,
                            cause,
                        };
                    });
                }
            }
        }
        None
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<(lapin::Connection, Server), String> {
        let runtime = lapin::runtime::default_runtime().map_err(|error| cause_of(&error))?;
        let tls = Tls::for_attempt(self.0.tls.as_ref());
        let uri = endpoint.for_attempt();
        let silent = |after: Duration| format!("no answer within {} s", after.as_secs());
        let server = timeout(GREETING_TIMEOUT, async {
            let mut stream = uri
                .connect_with_config_async(tls.as_ref(), &runtime)
                .await
                .map_err(|error| cause_of(&lapin::Error::from(error)))?;
            greeting::read(&mut stream).await
        })
        .await
        .map_err(|_| silent(GREETING_TIMEOUT))??;
        let properties = lapin::ConnectionProperties::default()
            .with_connection_name(self.0.name.as_str().into())
            .with_client_property("product".into(), "setgate".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        // The time-out is within the library's own connect: one around it would leave its thread behind.
        let connecting = lapin::Connection::connector(
            uri,
            runtime,
            async move |uri, runtime| {
                let stream = uri.connect_with_config_async(tls.as_ref(), &runtime);
                match timeout(GREETING_TIMEOUT, stream).await {
                    Ok(stream) => Ok(stream?),
                    Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
                }
            },
            properties,
        );
        match timeout(HANDSHAKE_TIMEOUT, connecting).await {
            Ok(Ok(lapin)) => Ok((lapin, server)),
            Ok(Err(error)) => Err(cause_of(&error)),
            Err(_) => Err(silent(HANDSHAKE_TIMEOUT)),
        }
    }

    /// While the connection lives. Returns why it doesn't any more.
    async fn serve(
        &self,
        live: Arc<lapin::Connection>,
        server: Server,
        uri: String,
        cancel: &CancellationToken,
    ) -> String {
        // One listener only: the library's listeners take events from each other.
        let mut events = std::pin::pin!(live.events_listener());
        tracing::info!(connection = %self.0.name, %uri, version = %server.version, "connected to the broker");
        // First, so that whoever waited for the state finds the connection.
        *self.0.live.lock() = Some(live.clone());
        self.0.state.send_replace(ConnectionState::Up {
            since: Timestamp::now(),
            uri,
            server,
        });
        let mut look_again = tokio::time::interval(LOOK_AGAIN);
        look_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut cause = None;
        let mut used_up = false;
        while live.status().connected() {
            tokio::select! {
                () = cancel.cancelled() => break,
                () = self.0.renew.notified() => {
                    used_up = true;
                    break;
                }
                event = events.next() => match event {
                    // A channel's error comes here too; the loop's condition tells the two apart.
                    Some(lapin::Event::Error(error)) => cause = Some(cause_of(&error)),
                    Some(_) => {}
                    None => break,
                },
                _ = look_again.tick() => {}
            }
        }
        self.0.live.lock().take();
        if used_up || cancel.is_cancelled() {
            let close = live.close(lapin::protocol::constants::REPLY_SUCCESS, "OK".into());
            let _ = timeout(ANSWER_TIMEOUT / 2, close).await;
            let why = if used_up {
                USED_UP
            } else {
                "closed by this gateway"
            };
            return why.to_owned();
        }
        cause.unwrap_or_else(|| "the connection was closed".to_owned())
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("name", &self.0.name)
            .field("state", &*self.0.state.borrow())
            .finish_non_exhaustive()
    }
}
