//! Confirmed publishes, under a lane's lock, on a connection of their own.
//!
//! Promises one outcome per message, and `Confirmed` only for what the broker has confirmed and not returned. Never
//! retries, never drops: while the broker blocks publishers it waits.

use super::{BrokerError, Dialer};
use crate::amqp::RawProperties;
use crate::amqp::engine::{Outcome, PublishId};
use crate::model::Address;
use bytes::Bytes;

/// What to do with a message that no queue is bound for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unroutable {
    /// The broker returns it (`mandatory`).
    Return,
    /// The broker drops it, confirmed.
    Drop,
}

/// One message to publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Publish {
    /// Given back with its outcome. Unique among the publisher's unanswered ones.
    pub id: PublishId,
    /// Where.
    pub address: Address,
    /// With the header `x-set-parcel`, which pairs a return with it.
    pub properties: RawProperties,
    /// As it came.
    pub body: Bytes,
    /// Without a queue.
    pub unroutable: Unroutable,
}

/// Why a publisher can't be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another connection has the lock. Try again when it is done.
    #[error("another receiver holds the lock {queue:?}")]
    Locked {
        /// The lock's queue.
        queue: String,
    },
    /// The broker.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// A publisher of one lane, or of a gateway's own queues.
#[derive(Debug)]
pub struct LanePublisher {}

impl LanePublisher {
    /// A connection with a channel in confirm mode. Where a lock is named, its exclusive queue is declared first, and
    /// lives and dies with the connection. `name` is shown in the broker's list of connections, behind the gateway's.
    pub async fn open(
        _dialer: &Dialer,
        _name: &str,
        _lock: Option<&str>,
    ) -> Result<Self, OpenError> {
        todo!()
    }

    /// For the park queue: whatever the broker once took, it takes back, `message_max` or not.
    #[must_use]
    pub fn of_any_size(self) -> Self {
        todo!()
    }

    /// Whether it is of further use. If not, close it and open another.
    pub fn is_open(&self) -> bool {
        todo!()
    }

    /// Whether another publish is taken now: not while the broker blocks publishers, nor while too much waits to be
    /// written.
    pub fn has_room(&self) -> bool {
        todo!()
    }

    /// How many publishes have no outcome yet.
    pub fn unanswered(&self) -> usize {
        todo!()
    }

    /// Queues it; never waits. Its outcome comes out of [`LanePublisher::next`], once, whatever happens.
    pub fn publish(&mut self, _publish: Publish) {
        todo!()
    }

    /// As [`LanePublisher::publish`], with a body of so many bytes, of which `publish.body` is the first piece. Until all
    /// are in there must be no other publish.
    pub fn publish_in_pieces(&mut self, _publish: Publish, _body_bytes: u64) {
        todo!()
    }

    /// More of a body.
    pub fn piece(&mut self, _piece: Bytes) {
        todo!()
    }

    /// What has become known since, in order; empty when only [`LanePublisher::has_room`] or
    /// [`LanePublisher::is_open`] may have changed. Given up, it loses nothing.
    pub async fn next(&mut self) -> Vec<(PublishId, Outcome)> {
        todo!()
    }

    /// Closes it in order: the broker has worked off all that was published when this returns, and the lock is free.
    /// Bounded in time.
    pub async fn close(self) -> Result<(), BrokerError> {
        todo!()
    }
}
