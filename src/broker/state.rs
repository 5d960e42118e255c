//! What is known of one broker connection, for status pages and for those who wait.
//!
//! A value; [`super::Connection`] alone makes new ones. Never holds a password.

use super::Server;
use jiff::Timestamp;

/// Which of a supervisor's successive connections: tags, confirms and locks of an older one are void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ConnectionEpoch(pub u64);

/// A connection's state. `Down → Connecting → Up → Down → …`; `Down` for good once its supervisor has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionState {
    /// Waiting for the next attempt.
    Down {
        /// Since when there is no connection.
        since: Timestamp,
        /// Why.
        cause: String,
        /// Rounds through all URIs that failed since there was one; 0 before the first.
        attempt: u32,
        /// When the next round begins; absent when the supervisor has ended.
        retry_at: Option<Timestamp>,
    },
    /// Trying one URI.
    Connecting {
        /// Since when there is no connection.
        since: Timestamp,
        /// Without the password.
        uri: String,
        /// As in `Down`.
        attempt: u32,
        /// Why there is no connection yet.
        cause: String,
    },
    /// Connected.
    Up {
        /// Since when.
        since: Timestamp,
        /// Without the password.
        uri: String,
        /// Who answered.
        server: Server,
        /// Which connection.
        epoch: ConnectionEpoch,
        /// Why the broker takes no publishes (memory, disk), while it doesn't.
        blocked: Option<String>,
    },
}

impl ConnectionState {
    /// Why there is no connection, or nothing while there is one.
    pub fn cause(&self) -> Option<&str> {
        match self {
            Self::Down { cause, .. } | Self::Connecting { cause, .. } => Some(cause),
            Self::Up { .. } => None,
        }
    }

    /// The connection's epoch, while there is one.
    pub fn epoch(&self) -> Option<ConnectionEpoch> {
        match self {
            Self::Up { epoch, .. } => Some(*epoch),
            Self::Down { .. } | Self::Connecting { .. } => None,
        }
    }

    /// The broker's reason for taking no publishes, while it takes none.
    pub fn blocked(&self) -> Option<&str> {
        match self {
            Self::Up { blocked, .. } => blocked.as_deref(),
            Self::Down { .. } | Self::Connecting { .. } => None,
        }
    }

    /// Since when there has been no connection; `now` when there is one.
    pub(super) fn down_since(&self, now: Timestamp) -> Timestamp {
        match self {
            Self::Down { since, .. } | Self::Connecting { since, .. } => *since,
            Self::Up { .. } => now,
        }
    }
}
