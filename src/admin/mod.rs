//! The admin endpoint: metrics, health, status, explanations, parked messages. HTTP/1.1.
//!
//! Owns its port and the connections on it. Promises that whatever comes in, its work is bounded: connections, header
//! and body sizes, and the time that each request may take; and that nothing is changed without the token.

mod pages;
mod parked;
mod question;

pub use parked::{DropAsk, LISTED, LISTED_MAX};
pub use question::{Header, Question, QuestionError, answer};

use crate::gateway::metrics::Metrics;
use crate::gateway::parked::ParkDesk;
use crate::gateway::status::StatusHub;
use crate::model::UnitId;
use crate::routing::Table;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use secrecy::SecretString;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// A scraper, a few dashboards and some people: each keeps a connection or two. More have to wait in the socket's own
/// backlog.
const CONNECTIONS_MAX: usize = 64;
/// A request's head is some 200 bytes; who takes longer than this to send one is no client.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Everything answered here is in memory.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed accept (no file descriptor left): long enough not to spin, short enough not to be missed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Requests that are being answered when the gateway ends.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the admin endpoint can't start.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The port is taken, or isn't this host's.
    #[error("can't listen on admin.listen {address}: {}; {}", .source, mend(.source))]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

fn mend(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "stop the other process (`ss -ltnp` names it), or choose another port"
        }
        std::io::ErrorKind::AddrNotAvailable => "use an address of this host, or 0.0.0.0 for all",
        std::io::ErrorKind::PermissionDenied => "use a port above 1023",
        _ => "check admin.listen",
    }
}

/// The table in force now, whoever holds it.
pub type TableNow = Arc<dyn Fn() -> Option<Arc<Table>> + Send + Sync>;

/// What the pages are made of.
#[derive(Clone)]
pub struct AdminState {
    /// The unit that a question is asked for when it names none.
    pub unit: UnitId,
    /// What the gateway knows of itself.
    pub status: StatusHub,
    /// What it counted.
    pub metrics: Metrics,
    /// For explanations.
    pub table: TableNow,
    /// For what lies in the park.
    pub parked: ParkDesk,
    /// What changes need; without one they are refused.
    pub token: Option<SecretString>,
}

/// Takes the port.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| AdminError::Bind { address, source })
}

/// Answers until cancelled. All connections are polled here, in one task: they are few and short.
pub async fn serve(listener: TcpListener, state: AdminState, cancel: CancellationToken) {
    let service = TowerToHyperService::new(pages::router(state, REQUEST_TIMEOUT));
    let mut open = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            Some(()) = open.next() => {}
            accepted = listener.accept(), if open.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => open.push(connection(stream, service.clone(), cancel.clone())),
                Err(error) => {
                    tracing::warn!(%error, "the admin endpoint could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    // Whoever doesn't end in time is cut off.
    let _ = tokio::time::timeout(
        END_TIMEOUT,
        poll_fn(|cx| {
            loop {
                match std::task::ready!(open.poll_next_unpin(cx)) {
                    Some(()) => {}
                    None => return std::task::Poll::Ready(()),
                }
            }
        }),
    )
    .await;
}

async fn connection(
    stream: TcpStream,
    service: TowerToHyperService<axum::Router>,
    cancel: CancellationToken,
) {
    let http = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut http = std::pin::pin!(http);
    // What goes wrong on one connection is its client's affair.
    let ended = tokio::select! {
        ended = http.as_mut() => ended,
        () = cancel.cancelled() => {
            http.as_mut().graceful_shutdown();
            http.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the admin endpoint ended early");
    }
}
