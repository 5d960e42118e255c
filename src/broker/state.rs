//! What is known of one broker connection, for status pages and for those who wait.
//!
//! A value; [`super::Connection`] alone makes new ones. Never holds a password.

use super::Server;
use jiff::Timestamp;

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

    /// Since when there has been no connection; `now` when there is one.
    pub(super) fn down_since(&self, now: Timestamp) -> Timestamp {
        match self {
            Self::Down { since, .. } | Self::Connecting { since, .. } => *since,
            Self::Up { .. } => now,
        }
    }
}
