//! Whether the exchange that a parcel is published to is there.
//!
//! Promises that nothing is published to one that isn't. Publishes nothing itself.

use crate::broker::{self, BrokerError, Connection};
use crate::model::{Answer, Reason};
use bytes::Bytes;
use std::collections::HashSet;

/// The exchanges that a stream has found to be there.
pub(super) struct Exchanges<'a> {
    connection: &'a Connection,
    /// As many as the source's rules name at most: others are refused before.
    found: HashSet<Bytes>,
}

impl<'a> Exchanges<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self {
            connection,
            found: HashSet::new(),
        }
    }

    /// An exchange that is missing would end the channel, and with it the answers of all that was published before: that
    /// would be published again at each new attempt.
    pub(super) async fn has(&mut self, exchange: &Bytes) -> Result<(), Answer> {
        if self.found.contains(exchange) {
            return Ok(());
        }
        let cause = match broker::exchange_exists(self.connection, exchange).await {
            Ok(true) => {
                self.found.insert(exchange.clone());
                return Ok(());
            }
            Ok(false) => format!(
                "there is no exchange {:?} in vhost {}: declare it",
                String::from_utf8_lossy(exchange),
                self.connection.vhost()
            ),
            // No rule names such an exchange, but a message of a foreign queue may.
            Err(error @ BrokerError::Unencodable { .. }) => {
                return Err(Answer::Refused {
                    reason: Reason::Malformed,
                    cause: error.to_string(),
                });
            }
            Err(error) => error.to_string(),
        };
        Err(Answer::Later { cause })
    }
}
