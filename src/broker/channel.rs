//! One AMQP channel, closed whatever happens to its owner.
//!
//! Owns the library's channel. Promises that dropping it sends `channel.close`, and sends it before any consumer on it
//! could send `basic.cancel`, which would break a lane's order. Never recovers: a channel that failed stays failed.

use super::error::BrokerError;
use super::{Connection, ConnectionEpoch};
use futures_util::FutureExt;
use lapin::protocol::constants::REPLY_SUCCESS;
use std::time::Duration;

/// How long the broker may take for one answer. A quorum queue's declaration in a cluster takes up to a few seconds
/// while a member is down.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// One channel of one connection.
pub struct Channel {
    pub(super) lapin: lapin::Channel,
    connection: Connection,
    epoch: ConnectionEpoch,
}

impl Channel {
    pub(super) fn new(
        lapin: lapin::Channel,
        connection: Connection,
        epoch: ConnectionEpoch,
    ) -> Self {
        Self {
            lapin,
            connection,
            epoch,
        }
    }

    /// Which of its supervisor's connections it belongs to.
    pub fn epoch(&self) -> ConnectionEpoch {
        self.epoch
    }

    /// Whether calls have a chance.
    pub fn is_open(&self) -> bool {
        self.lapin.status().connected()
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Awaits one call, for a bounded time, and says what it was for when it fails.
    pub(super) async fn call<T>(
        &self,
        doing: impl FnOnce() -> String,
        call: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        match tokio::time::timeout(ANSWER_TIMEOUT, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(BrokerError::of(doing(), &error)),
            Err(_) => Err(BrokerError::TimedOut {
                doing: doing(),
                after: ANSWER_TIMEOUT,
                blocked: self.connection.state().blocked().map(str::to_owned),
            }),
        }
    }

    /// Closes it and waits until the broker has done all that was asked before.
    pub async fn close(self) -> Result<(), BrokerError> {
        if !self.is_open() {
            return Ok(());
        }
        self.call(
            || "closing a channel".to_owned(),
            self.lapin.close(REPLY_SUCCESS, "OK".into()),
        )
        .await
    }

    /// Sends the close without waiting. The library writes the frame, and marks the channel's consumers as ended, before
    /// its future first waits.
    pub(super) fn close_now(&self) {
        if self.is_open() {
            let _ = self.lapin.close(REPLY_SUCCESS, "OK".into()).now_or_never();
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.close_now();
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("id", &self.lapin.id())
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}
