//! The message path's own connections to one vhost: one for each consumer, one for each publisher.

use super::{BrokerError, Settings};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Opens connections. Clones are the same.
#[derive(Debug, Clone)]
pub struct Dialer {}

impl Dialer {
    /// Parses the settings for one vhost (or the URIs' own). Each connection's task is spawned on the tracker.
    pub fn new(
        _settings: &Settings,
        _vhost: Option<&str>,
        _tasks: &TaskTracker,
    ) -> Result<Self, BrokerError> {
        todo!()
    }

    /// Why the broker takes no publishes from some connection of this dialer (`connection.blocked`), while it doesn't.
    pub fn blocked(&self) -> watch::Receiver<Option<String>> {
        todo!()
    }
}
