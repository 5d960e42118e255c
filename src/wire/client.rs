//! A link to one gateway of another unit.
//!
//! Owns two HTTP/2 connections to it, one for lanes and a small one for canaries, so that data never delays those.
//! Promises to keep both up for ever, with a visible cause while it can't, and to notice within five seconds that
//! nothing comes back.

use super::LinkError;
use super::body::{ChannelBody, TrackedExecutor, chain, next_piece};
use super::cap::LinkCap;
use super::client_known::KnownAnswer;
use super::client_stream::ClientStream;
use super::clock::boottime;
use super::pipe::{PARCELS_CAPACITY, SenderPipe, WORDS_CAPACITY};
use super::server::{CONTROL_PATH, KEEP_ALIVE, KNOWN_PATH, LANE_PATH};
use super::tls::{LinkSecurity, client_cause};
use crate::link::{
    Ask, Canary, Decoder, Distance, Frame, Hello, Here, LinkEvent, LinkState, STREAMS_MAX, Standing,
};
use crate::model::{Backoff, Epoch, GatewayId, Lineage, UnitId};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long TCP, TLS and HTTP/2 may take, each connection, and a stream's head.
const OPENING_MAX: Duration = Duration::from_secs(5);

/// How often a canary is sent.
const CANARY_EVERY: Duration = Duration::from_secs(1);

/// A connection on which no canary came back for this long is dead.
const CANARY_LOST_AFTER: Duration = Duration::from_secs(5);

/// What a peer may send ahead of our reading: answers, which are small. Twice the bound of a frame of them.
const ANSWERS_WINDOW_BYTES: u32 = 1_024 * 1_024;

/// Whom a link goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkTarget {
    /// Its unit; its certificate must say so.
    pub unit: UnitId,
    /// Its name.
    pub gateway: GatewayId,
    /// Host and port, as advertised or by `link.via`.
    pub address: String,
}

/// What a link needs to know.
#[derive(Debug)]
pub struct ClientSettings {
    /// Who we are.
    pub here: Here,
    /// Whom to reach.
    pub target: LinkTarget,
    /// How links are secured.
    pub security: LinkSecurity,
    /// The largest body.
    pub message_max: usize,
    /// What our table says; none until there is one.
    pub standing: watch::Receiver<Option<Arc<Standing>>>,
    /// What may leave for the target's unit.
    pub cap: Arc<LinkCap>,
    /// For the jitter of waits: differs between gateways.
    pub seed: u64,
}

/// By which table a peer works, by its last canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStanding {
    /// Empty while it has no table.
    pub lineage: Lineage,
    /// Of its table.
    pub epoch: Epoch,
}

/// How a link does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// Where it stands, since when, and why.
    pub state: LinkState,
    /// By the last canary that came back.
    pub round_trip: Option<Duration>,
    /// By the last of them.
    pub distance: Distance,
    /// Frames' bytes that came, ever.
    pub bytes_in: u64,
    /// Frames' bytes that went, ever.
    pub bytes_out: u64,
    /// The cap, in bytes a second, while it holds frames back.
    pub capped: Option<NonZeroU64>,
    /// By its last canary.
    pub peer: Option<PeerStanding>,
    /// When what it last granted leave to was sent, since the machine started.
    pub leave: Option<Duration>,
}

/// Frames' bytes, counted where they pass.
#[derive(Debug, Default)]
pub(super) struct LinkBytes {
    incoming: AtomicU64,
    outgoing: AtomicU64,
}

impl LinkBytes {
    pub(super) fn add_in(&self, bytes: usize) {
        self.incoming.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn add_out(&self, bytes: usize) {
        self.outgoing.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A link to one gateway.
#[derive(Debug)]
pub struct LinkClient {
    settings: ClientSettings,
    tracker: TaskTracker,
    backoff: Backoff,
    status: watch::Sender<LinkStatus>,
    data: Mutex<Option<SendRequest<ChannelBody>>>,
    bytes: Arc<LinkBytes>,
}

/// One connection, and what will be known when it has ended.
struct Connected {
    requests: SendRequest<ChannelBody>,
    ended: oneshot::Receiver<String>,
}

impl LinkClient {
    /// A link that isn't tried before [`LinkClient::run`]. Its tasks run on `tracker`.
    pub fn new(settings: ClientSettings, tracker: TaskTracker) -> Self {
        let born = Instant::now();
        let (status, _) = watch::channel(LinkStatus {
            state: LinkState::new(born.into_std()),
            round_trip: None,
            distance: Distance::default(),
            bytes_in: 0,
            bytes_out: 0,
            capped: None,
            peer: None,
            leave: None,
        });
        Self {
            backoff: Backoff::new(settings.seed),
            settings,
            tracker,
            status,
            data: Mutex::new(None),
            bytes: Arc::default(),
        }
    }

    /// Whom it goes to.
    pub fn target(&self) -> &LinkTarget {
        &self.settings.target
    }

    /// How it does, at each change and each canary.
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.status.subscribe()
    }

    /// Keeps the link up until cancelled; then its streams end.
    pub async fn run(&self, cancel: CancellationToken) {
        loop {
            let retry_at = match &self.status.borrow().state {
                LinkState::Down { retry_at, .. } => Instant::from_std(*retry_at),
                LinkState::Opening { .. } | LinkState::Up { .. } | LinkState::Draining { .. } => {
                    Instant::now()
                }
            };
            tokio::select! {
                () = sleep_until(retry_at) => {}
                () = cancel.cancelled() => return,
            }
            self.change(LinkEvent::Try);
            let lost = tokio::select! {
                lost = self.attempt() => Some(lost),
                () = cancel.cancelled() => None,
            };
            *self.data.lock() = None;
            let Some(cause) = lost else {
                self.change(LinkEvent::Drain);
                return self.change(LinkEvent::Lost {
                    cause: "this gateway is going down".to_owned(),
                });
            };
            self.change(LinkEvent::Lost { cause });
        }
    }

    fn change(&self, event: LinkEvent) {
        let now = Instant::now().into_std();
        self.status.send_modify(|status| {
            let before = status.state.as_str();
            status.state = status.state.clone().after(event, now, &self.backoff);
            status.bytes_in = self.bytes.incoming.load(Ordering::Relaxed);
            status.bytes_out = self.bytes.outgoing.load(Ordering::Relaxed);
            let up = status.state.is_up();
            // Attempts that fail one after the other are one state to a person: only the first is told.
            let told = up
                || matches!(status.state, LinkState::Down { attempt: 1, .. })
                    && before != status.state.as_str();
            if told {
                tracing::info!(
                    unit = %self.settings.target.unit,
                    gateway = %self.settings.target.gateway,
                    address = %self.settings.target.address,
                    state = status.state.as_str(),
                    cause = status.state.cause().unwrap_or_default(),
                    "link changed"
                );
            }
        });
    }

    /// Connects, and stays until something ends the link: the cause.
    async fn attempt(&self) -> String {
        match self.connect_and_watch().await {
            Ok(cause) => cause,
            Err(error) => chain(&error),
        }
    }

    async fn connect_and_watch(&self) -> Result<String, LinkError> {
        let life = CancellationToken::new();
        let _ends_with_this_attempt = life.clone().drop_guard();
        let mut control = self.connect(&life).await?;
        let mut data = self.connect(&life).await?;
        let (canaries, mut echoes) = self
            .open(&mut control.requests, CONTROL_PATH, self.canary()?)
            .await?;
        let mut decoder = Decoder::new(0);
        let mut ticks = interval(CANARY_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let mut last_echo = Instant::now();
        let mut requests = Some(data.requests);
        loop {
            tokio::select! {
                piece = next_piece(&mut echoes) => match piece {
                    Some(Ok(piece)) => {
                        decoder.push(&piece);
                        while let Some(echo) = self.echo(&mut decoder)? {
                            last_echo = Instant::now();
                            self.heard(echo, last_echo);
                            // The first one shows that the peer is who it should be.
                            if let Some(requests) = requests.take() {
                                *self.data.lock() = Some(requests);
                                self.change(LinkEvent::Opened);
                            }
                        }
                    }
                    Some(Err(error)) => return Ok(chain(&error)),
                    None => return Ok("the peer ended the control stream".to_owned()),
                },
                _ = ticks.tick() => {
                    // One that finds no room is skipped: the ones before it are still on their way.
                    let _ = canaries.try_send(self.canary()?);
                }
                () = sleep_until(last_echo + CANARY_LOST_AFTER) => {
                    return Ok(format!("no canary came back for {CANARY_LOST_AFTER:?}"));
                }
                cause = &mut data.ended => return Ok(ended(cause)),
                cause = &mut control.ended => return Ok(ended(cause)),
            }
        }
    }

    fn canary(&self) -> Result<Bytes, LinkError> {
        let standing = self.settings.standing.borrow();
        let (lineage, epoch) = match standing.as_deref() {
            Some(standing) => (standing.lineage.clone(), standing.epoch),
            None => (Lineage::default(), Epoch::default()),
        };
        let nanos = u64::try_from(boottime().as_nanos()).unwrap_or(u64::MAX);
        Frame::Canary(Canary {
            sent_nanos: nanos,
            lineage,
            epoch,
            unit: self.settings.here.unit.clone(),
            gateway: self.settings.here.gateway.clone(),
            leave: false,
        })
        .encode()
        .map_err(|error| self.stream_error(chain(&error)))
    }

    fn echo(&self, decoder: &mut Decoder) -> Result<Option<Canary>, LinkError> {
        let target = &self.settings.target;
        match decoder.frame() {
            Ok(None) => Ok(None),
            Ok(Some(Frame::CanaryEcho(echo))) if echo.unit == target.unit => Ok(Some(echo)),
            Ok(Some(Frame::CanaryEcho(echo))) => Err(self.connect_error(format!(
                "unit {} answers there: see its link.advertise and this gateway's link.via",
                echo.unit
            ))),
            Ok(Some(Frame::Refusal(refusal))) => Err(self.connect_error(refusal.to_string())),
            Ok(Some(_)) => Err(self.connect_error("a frame that has no place there".to_owned())),
            Err(error) => Err(self.connect_error(format!("garbage: {}", chain(&error)))),
        }
    }

    fn heard(&self, echo: Canary, now: Instant) {
        let sent = Duration::from_nanos(echo.sent_nanos);
        self.status.send_modify(|status| {
            let round_trip = boottime().saturating_sub(sent);
            if echo.leave {
                status.leave = Some(sent);
            }
            status.round_trip = Some(round_trip);
            status.distance.measured(round_trip);
            status.peer = Some(PeerStanding {
                lineage: echo.lineage,
                epoch: echo.epoch,
            });
            status.bytes_in = self.bytes.incoming.load(Ordering::Relaxed);
            status.bytes_out = self.bytes.outgoing.load(Ordering::Relaxed);
            status.capped = self.settings.cap.holding(now.into_std());
        });
    }

    fn connect_error(&self, cause: String) -> LinkError {
        let target = &self.settings.target;
        LinkError::Connect {
            unit: target.unit.to_string(),
            gateway: target.gateway.to_string(),
            address: target.address.clone(),
            cause,
        }
    }

    fn stream_error(&self, cause: String) -> LinkError {
        let target = &self.settings.target;
        LinkError::Stream {
            unit: target.unit.to_string(),
            gateway: target.gateway.to_string(),
            cause,
        }
    }

    /// One connection, alive as long as `life`.
    async fn connect(&self, life: &CancellationToken) -> Result<Connected, LinkError> {
        timeout(OPENING_MAX, self.connect_untimed(life))
            .await
            .unwrap_or_else(
                |_| Err(self.connect_error(format!("no answer within {OPENING_MAX:?}"))),
            )
    }

    async fn connect_untimed(&self, life: &CancellationToken) -> Result<Connected, LinkError> {
        let stream = TcpStream::connect(&self.settings.target.address)
            .await
            .map_err(|error| self.connect_error(error.to_string()))?;
        // Frames are small and must leave at once; a socket that can't do that still works.
        let _ = stream.set_nodelay(true);
        match &self.settings.security {
            LinkSecurity::Insecure => self.handshake(stream, life).await,
            LinkSecurity::Mutual(tls) => {
                let config = tls.client_config(&self.settings.target.unit)?;
                // Peers are known by the unit in their certificate; the host name is never looked at.
                let name = ServerName::try_from("setgate")
                    .map_err(|error| self.connect_error(error.to_string()))?;
                let stream = TlsConnector::from(Arc::new(config))
                    .connect(name, stream)
                    .await
                    .map_err(|error| self.connect_error(client_cause(&error)))?;
                self.handshake(stream, life).await
            }
        }
    }

    async fn handshake<S>(
        &self,
        stream: S,
        life: &CancellationToken,
    ) -> Result<Connected, LinkError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (requests, connection) = Builder::new(TrackedExecutor {
            tracker: self.tracker.clone(),
            life: life.clone(),
        })
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .initial_connection_window_size(ANSWERS_WINDOW_BYTES)
        .initial_stream_window_size(ANSWERS_WINDOW_BYTES)
        .initial_max_send_streams(STREAMS_MAX as usize)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| self.connect_error(chain(&error)))?;
        let (end, ended) = oneshot::channel();
        let life = life.clone();
        self.tracker.spawn(async move {
            let cause = tokio::select! {
                result = connection => match result {
                    Ok(()) => "the peer closed the connection".to_owned(),
                    Err(error) => chain(&error),
                },
                () = life.cancelled() => return,
            };
            // Nobody listens any more when the attempt has ended for another cause.
            let _ = end.send(cause);
        });
        Ok(Connected { requests, ended })
    }

    /// One stream, its first frame sent.
    async fn open(
        &self,
        requests: &mut SendRequest<ChannelBody>,
        path: &str,
        first: Bytes,
    ) -> Result<(mpsc::Sender<Bytes>, Incoming), LinkError> {
        let (out, body) = ChannelBody::new();
        self.bytes.add_out(first.len());
        // There is room: nothing has been sent yet.
        let _ = out.try_send(first);
        let request = Request::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(format!("http://setgate{path}"))
            .body(body)
            .map_err(|error| self.stream_error(chain(&error)))?;
        let answer = async {
            requests.ready().await?;
            requests.send_request(request).await
        };
        let response = timeout(OPENING_MAX, answer)
            .await
            .map_err(|_| self.stream_error(format!("no answer within {OPENING_MAX:?}")))?
            .map_err(|error| self.stream_error(chain(&error)))?;
        if response.status() != StatusCode::OK {
            return Err(self.stream_error(format!("the peer answers {}", response.status())));
        }
        Ok((out, response.into_body()))
    }

    /// Asks what the unit has delivered of slots.
    pub async fn ask_known(&self, ask: Ask) -> Result<KnownAnswer, LinkError> {
        let mut requests = self.requests()?;
        let first = Frame::Ask(ask)
            .encode()
            .map_err(|error| self.stream_error(chain(&error)))?;
        let (question, body) = self.open(&mut requests, KNOWN_PATH, first).await?;
        Ok(KnownAnswer::new(question, body, Arc::clone(&self.bytes)))
    }

    fn requests(&self) -> Result<SendRequest<ChannelBody>, LinkError> {
        self.data.lock().clone().ok_or_else(|| {
            let status = self.status.borrow();
            LinkError::NotUp {
                unit: self.settings.target.unit.to_string(),
                gateway: self.settings.target.gateway.to_string(),
                state: status.state.as_str(),
                cause: status.state.cause().unwrap_or("in a moment").to_owned(),
            }
        })
    }

    /// Opens a lane's stream. Whether the receiver takes it is the stream's first event.
    pub async fn open_stream(&self, hello: Hello) -> Result<SenderPipe, LinkError> {
        let mut requests = self.requests()?;
        let first = Frame::Hello(hello)
            .encode()
            .map_err(|error| self.stream_error(chain(&error)))?;
        let (out, body) = self.open(&mut requests, LANE_PATH, first).await?;
        let (parcels_in, parcels) = mpsc::channel(PARCELS_CAPACITY);
        let (events, events_out) = mpsc::channel(WORDS_CAPACITY);
        let stream = ClientStream {
            parcels,
            events,
            out,
            body,
            message_max: self.settings.message_max,
            bytes: Arc::clone(&self.bytes),
            cap: Arc::clone(&self.settings.cap),
            status: self.status.subscribe(),
        };
        self.tracker.spawn(stream.run());
        Ok(SenderPipe {
            parcels: parcels_in,
            events: events_out,
        })
    }
}

fn ended(cause: Result<String, oneshot::error::RecvError>) -> String {
    cause.unwrap_or_else(|_| "the connection's task ended".to_owned())
}
