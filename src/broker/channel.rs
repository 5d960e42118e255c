//! One AMQP channel of the library's, for declarations.
//!
//! Promises that every call is bounded in time and says what it was for, and that dropping it sends `channel.close`.
//! Never recovers: a channel that failed stays failed.

use super::error::BrokerError;
use futures_util::FutureExt;
use lapin::protocol::constants::REPLY_SUCCESS;
use std::time::Duration;

/// How long the broker may take for one answer. A quorum queue's declaration in a cluster takes up to a few seconds
/// while a member is down.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// One channel of one connection.
pub(super) struct Channel {
    pub(super) lapin: lapin::Channel,
}

impl Channel {
    pub(super) fn new(lapin: lapin::Channel) -> Self {
        Self { lapin }
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
                blocked: None,
            }),
        }
    }
}

impl Drop for Channel {
    /// Sends the close without waiting: the library writes the frame before its future first waits.
    fn drop(&mut self) {
        if self.lapin.status().connected() {
            let _ = self.lapin.close(REPLY_SUCCESS, "OK".into()).now_or_never();
        }
    }
}
