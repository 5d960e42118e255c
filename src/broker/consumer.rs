//! Deliveries from one queue, on a connection of their own.
//!
//! Promises events in the order of the queue, one `Lost` at the end, and that giving the queue up closes the channel:
//! never `basic.cancel`, after which the next consumer would be ahead of what is requeued. Decides nothing about a
//! message, settles nothing by itself.

use super::{BrokerError, Dialer};
use crate::lane::Settlement;
use crate::model::{DeliveryTag, Message};
use bytes::Bytes;
use tokio::time::Instant;

/// How a queue is kept to one consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerKind {
    /// The queue has `x-single-active-consumer`: a second consumer waits for the first one's end.
    SingleActive,
    /// The consumer is exclusive: a second one is refused. Classic queues only, the others ignore it.
    Exclusive,
}

/// What happens on a consumed queue.
#[derive(Debug)]
pub enum ConsumerEvent {
    /// A message.
    Delivery {
        /// For [`Consumer::acknowledge`].
        tag: DeliveryTag,
        /// As it came.
        message: Message,
    },
    /// A message with a body above `body_bytes_max`: its body follows in pieces, and is held whole nowhere.
    Large {
        /// For [`Consumer::acknowledge`].
        tag: DeliveryTag,
        /// With an empty body.
        message: Message,
        /// How large its body is.
        body_bytes: u64,
    },
    /// The next bytes of a large message.
    Piece {
        /// The bytes.
        piece: Bytes,
        /// How many are still to come; 0 ends it.
        left: u64,
    },
    /// The end: every tag not yet acknowledged is void, and its message comes again to whoever consumes next.
    Lost {
        /// Why.
        cause: String,
    },
}

/// A consumer.
#[derive(Debug)]
pub struct Consumer {}

impl Consumer {
    /// Consumes a queue, with at most `prefetch` deliveries unacknowledged. Both kinds may be open and get nothing for a
    /// while: a single active consumer waits behind another gateway's. `name` is shown in the broker's list of
    /// connections, behind the gateway's.
    pub async fn open(
        _dialer: &Dialer,
        _name: &str,
        _queue: &str,
        _kind: ConsumerKind,
        _prefetch: u16,
        _body_bytes_max: usize,
    ) -> Result<Self, BrokerError> {
        todo!()
    }

    /// The queue.
    pub fn queue(&self) -> &str {
        todo!()
    }

    /// The next event. Given up, it loses nothing. After `Lost` it says `Lost` again.
    pub async fn next(&mut self) -> ConsumerEvent {
        todo!()
    }

    /// Returns, with the cause, once the consumer has ended, for whoever takes no deliveries for a while: its messages
    /// are somebody else's from then on. Given up, it loses nothing.
    pub async fn ended(&mut self) -> String {
        todo!()
    }

    /// Acknowledges what a ledger has settled: its tag and all before it. Not waited for: an acknowledgement that is lost
    /// with the connection only means that the message comes again. Fails when the consumer has ended, and the tag with it.
    pub fn acknowledge(&self, _settlement: &Settlement) -> Result<(), BrokerError> {
        todo!()
    }

    /// Since when the socket isn't read because what was read isn't taken.
    pub fn stalled_since(&self) -> Option<Instant> {
        todo!()
    }

    /// Gives the queue up: what is not acknowledged is back in it, in order, when this returns. Bounded in time.
    pub async fn close(self) -> Result<(), BrokerError> {
        todo!()
    }
}
