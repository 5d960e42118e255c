//! Bodies that are written piece by piece, and small helpers that both ends of a connection use.

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use std::convert::Infallible;
use std::error::Error;
use std::fmt::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pieces between a stream's task and HTTP/2. Two, each at most a frame: one being sent, one ready.
const PIECES_CAPACITY: usize = 2;

/// A body whose pieces come from a channel; it ends when the channel is closed.
#[derive(Debug)]
pub(super) struct ChannelBody {
    pieces: mpsc::Receiver<Bytes>,
}

impl ChannelBody {
    /// The body and what feeds it.
    pub(super) fn new() -> (mpsc::Sender<Bytes>, Self) {
        let (sender, pieces) = mpsc::channel(PIECES_CAPACITY);
        (sender, Self { pieces })
    }
}

impl Body for ChannelBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.pieces
            .poll_recv(cx)
            .map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// The next piece of a body that comes in; trailers are skipped. May be dropped between polls.
pub(super) async fn next_piece(body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
    use http_body_util::BodyExt as _;
    loop {
        match body.frame().await? {
            Ok(frame) => {
                if let Ok(bytes) = frame.into_data() {
                    return Some(Ok(bytes));
                }
            }
            Err(error) => return Some(Err(error)),
        }
    }
}

/// Lets HTTP/2 put its tasks where the gateway waits for them, and ends them with their connection's life: a client's
/// connection is such a task, and would go on for its streams' sake when everybody else has given it up.
#[derive(Debug, Clone)]
pub(super) struct TrackedExecutor {
    pub(super) tracker: TaskTracker,
    pub(super) life: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for TrackedExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let life = self.life.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                _ = future => {}
                () = life.cancelled() => {}
            }
        });
    }
}

/// An error and its sources in one line, for people.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        // Some libraries repeat their source.
        if !text.contains(&inner_text) {
            let _ = write!(text, ": {inner_text}");
        }
        source = inner.source();
    }
    text
}
