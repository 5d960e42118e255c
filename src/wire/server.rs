//! The link port: who may come in.
//!
//! Owns the listening socket and every connection on it. Promises that what isn't a gateway of this space is refused
//! and counted, in bounded time and memory, and disturbs nobody else.

use super::LinkError;
use super::body::{ChannelBody, TrackedExecutor, chain};
use super::counts::RefusedCounts;
use super::pipe::{KnownPipe, ReceiverPipe};
use super::preface::{BadPreface, greet};
use super::server_known::serve_known;
use super::server_stream::{serve_control, serve_lane};
use super::tls::{LinkSecurity, identity, refusal_reason};
use crate::link::{
    CONNECTION_WINDOW_BYTES, CreditBudget, CreditPool, Granter, Here, Peer, Refusal, RefusalReason,
    STREAMS_MAX, Standing,
};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Path of lanes' streams.
pub(super) const LANE_PATH: &str = "/v1/lane";
/// Path of questions for what is known.
pub(super) const KNOWN_PATH: &str = "/v1/known";
/// Path of control streams.
pub(super) const CONTROL_PATH: &str = "/v1/control";

/// How often an HTTP/2 ping is sent, and how long its answer may take: a cut is noticed within their sum.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How long TLS and the preface may take together with the network: five round trips of a second each.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// Half of the connection's window, so that one stream can't fill it with one oversized parcel.
const STREAM_WINDOW_BYTES: u32 = CONNECTION_WINDOW_BYTES / 2;

/// Header lists of a stream. Ours have five short fields.
const HEADERS_BYTES_MAX: u32 = 16 * 1_024;

/// How long streams may go on after the port was told to close.
const CLOSING_MAX: Duration = Duration::from_secs(5);

/// A pause after the system had no socket for a connection that waits; without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a link port needs to know.
#[derive(Debug)]
pub struct ServerSettings {
    /// Who we are.
    pub here: Here,
    /// How links are secured.
    pub security: LinkSecurity,
    /// The largest body.
    pub message_max: usize,
    /// What all links together may bring at a time.
    pub bytes_max: usize,
    /// What our table says; none until there is one.
    pub standing: watch::Receiver<Option<Arc<Standing>>>,
    /// Two for each gateway of every other unit, and as many again while they reconnect.
    pub connections_max: usize,
    /// Who has leave of this gateway.
    pub granter: Arc<Mutex<Granter>>,
}

/// A bound link port.
#[derive(Debug)]
pub struct LinkServer {
    listener: TcpListener,
    settings: ServerSettings,
    refused: Arc<RefusedCounts>,
}

/// What connections share.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) here: Here,
    pub(super) message_max: usize,
    budget: CreditBudget,
    pub(super) standing: watch::Receiver<Option<Arc<Standing>>>,
    pub(super) incoming: mpsc::Sender<ReceiverPipe>,
    pub(super) asked: mpsc::Sender<KnownPipe>,
    pub(super) granter: Arc<Mutex<Granter>>,
    security: LinkSecurity,
    refused: Arc<RefusedCounts>,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Port {
    /// Counts a refusal, and logs the first, second, fourth, eighth, … of its reason: a stranger who knocks all day
    /// can't fill the log.
    pub(super) fn refuse(&self, refusal: &Refusal) {
        let count = self.refused.add(refusal.reason);
        if count.is_power_of_two() {
            tracing::warn!(
                reason = refusal.reason.as_str(),
                cause = %refusal.cause,
                count,
                "refused on the link port"
            );
        }
    }
}

impl LinkServer {
    /// Takes the port.
    pub async fn bind(address: &str, settings: ServerSettings) -> Result<Self, LinkError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| LinkError::Bind {
                address: address.to_owned(),
                source,
            })?;
        Ok(Self {
            listener,
            settings,
            refused: Arc::default(),
        })
    }

    /// Where it listens, with the port that the system chose for `:0`.
    pub fn local_addr(&self) -> Result<SocketAddr, LinkError> {
        self.listener
            .local_addr()
            .map_err(|source| LinkError::Bind {
                address: "the bound address".to_owned(),
                source,
            })
    }

    /// How many were refused, by reason.
    pub fn refused(&self) -> Arc<RefusedCounts> {
        Arc::clone(&self.refused)
    }

    /// Takes connections and hands over their streams and questions until cancelled. Streams then have some seconds to end.
    pub async fn run(
        self,
        incoming: mpsc::Sender<ReceiverPipe>,
        asked: mpsc::Sender<KnownPipe>,
        tracker: TaskTracker,
        cancel: CancellationToken,
    ) {
        let places = Arc::new(Semaphore::new(self.settings.connections_max));
        let port = Arc::new(Port {
            here: self.settings.here,
            message_max: self.settings.message_max,
            budget: CreditBudget::new(self.settings.bytes_max),
            standing: self.settings.standing,
            incoming,
            asked,
            granter: self.settings.granter,
            security: self.settings.security,
            refused: self.refused,
            tracker: tracker.clone(),
            cancel: cancel.clone(),
        });
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = cancel.cancelled() => return,
            };
            match accepted {
                Ok((stream, from)) => match Arc::clone(&places).try_acquire_owned() {
                    Ok(place) => {
                        tracker.spawn(serve_connection(Arc::clone(&port), stream, from, place));
                    }
                    Err(_) => port.refuse(&Refusal::new(
                        RefusalReason::TooManyConnections,
                        format!(
                            "{from} found no place among {}",
                            self.settings.connections_max
                        ),
                    )),
                },
                Err(error) => {
                    tracing::warn!(%error, "can't accept a link connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve_connection(
    port: Arc<Port>,
    stream: TcpStream,
    from: SocketAddr,
    _place: OwnedSemaphorePermit,
) {
    // Frames are small and must leave at once; a socket that can't do that still works.
    let _ = stream.set_nodelay(true);
    match port.security.clone() {
        LinkSecurity::Insecure => serve_http(&port, stream, from, Peer::Unproven).await,
        LinkSecurity::Mutual(tls) => {
            let acceptor = TlsAcceptor::from(tls.server_config());
            let stream = match timeout(GREETING_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    return port.refuse(&Refusal::new(
                        refusal_reason(&error),
                        format!("{from}: {error}"),
                    ));
                }
                Err(_) => {
                    return port.refuse(&Refusal::new(
                        RefusalReason::HandshakeTimeout,
                        format!("{from}: no TLS greeting within {GREETING_TIMEOUT:?}"),
                    ));
                }
            };
            let shown = stream.get_ref().1.peer_certificates();
            match certified(&port, shown.and_then(<[_]>::first)) {
                Ok(peer) => serve_http(&port, stream, from, peer).await,
                Err(refusal) => port.refuse(&refusal),
            }
        }
    }
}

/// Whom a connection is from. The table may not be there yet: then each stream is refused as not ready.
fn certified(
    port: &Port,
    certificate: Option<&rustls::pki_types::CertificateDer<'_>>,
) -> Result<Peer, Refusal> {
    let Some(certificate) = certificate else {
        return Err(Refusal::new(
            RefusalReason::NoCertificate,
            "the peer showed no certificate",
        ));
    };
    let named = identity(certificate).map_err(|problem| {
        Refusal::new(
            RefusalReason::BadCertificate,
            format!("the peer's certificate {problem}"),
        )
    })?;
    if named.space != port.here.space {
        return Err(Refusal::new(
            RefusalReason::WrongSpace,
            format!(
                "the peer's certificate is for {named}, this is space {}",
                port.here.space
            ),
        ));
    }
    let standing = port.standing.borrow();
    if standing
        .as_deref()
        .is_some_and(|standing| !standing.units.contains(&named.unit))
    {
        return Err(Refusal::new(
            RefusalReason::UnknownUnit,
            format!("space {} has no unit {}", named.space, named.unit),
        ));
    }
    Ok(Peer::Certified {
        space: named.space,
        unit: named.unit,
    })
}

async fn serve_http<S>(port: &Arc<Port>, stream: S, from: SocketAddr, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = match timeout(GREETING_TIMEOUT, greet(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(BadPreface::Garbage)) => {
            return port.refuse(&Refusal::new(
                RefusalReason::Garbage,
                format!("{from} doesn't speak HTTP/2"),
            ));
        }
        // Somebody who connects and leaves: a port check of a balancer.
        Ok(Err(BadPreface::Ended(error))) => {
            return tracing::debug!(%from, %error, "a link connection ended before it began");
        }
        Err(_) => {
            return port.refuse(&Refusal::new(
                RefusalReason::HandshakeTimeout,
                format!("{from}: no HTTP/2 preface within {GREETING_TIMEOUT:?}"),
            ));
        }
    };
    let life = CancellationToken::new();
    let _ends_with_this_connection = life.clone().drop_guard();
    let pool = port.budget.connection();
    let service = service_fn(|request| {
        let response = respond(port, &peer, &pool, request);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TrackedExecutor {
        tracker: port.tracker.clone(),
        life: life.clone(),
    });
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = port.cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(CLOSING_MAX, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        if is_garbage(&error) {
            port.refuse(&Refusal::new(
                RefusalReason::Garbage,
                format!("{from}: {}", chain(&error)),
            ));
        } else {
            tracing::debug!(%from, error = %chain(&error), "a link connection ended");
        }
    }
}

/// Whether HTTP/2 itself found fault with what came, in contrast to a connection that was lost.
fn is_garbage(error: &hyper::Error) -> bool {
    if error.is_timeout() || error.is_canceled() || error.is_closed() {
        return false;
    }
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.is::<std::io::Error>() {
            return false;
        }
        source = inner.source();
    }
    !chain(error).contains("broken pipe") && !chain(error).contains("connection reset")
}

fn respond(
    port: &Arc<Port>,
    peer: &Peer,
    pool: &CreditPool,
    request: Request<Incoming>,
) -> Response<ChannelBody> {
    let (out, body) = ChannelBody::new();
    let mut response = Response::new(body);
    let (port, peer, pool) = (Arc::clone(port), peer.clone(), pool.clone());
    let tracker = port.tracker.clone();
    match (request.method(), request.uri().path()) {
        (&Method::POST, LANE_PATH) => {
            let body = request.into_body();
            tracker.spawn(async move { serve_lane(&port, peer, pool, body, out).await });
        }
        (&Method::POST, CONTROL_PATH) => {
            let body = request.into_body();
            tracker.spawn(async move { serve_control(&port, peer, body, out).await });
        }
        (&Method::POST, KNOWN_PATH) => {
            let body = request.into_body();
            tracker.spawn(async move { serve_known(&port, body, out).await });
        }
        (_, path) => {
            port.refuse(&Refusal::new(
                RefusalReason::Garbage,
                format!(
                    "nothing is at {:?} on the link port",
                    path.chars().take(64).collect::<String>()
                ),
            ));
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
    }
    response
}
