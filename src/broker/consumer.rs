//! Deliveries from one queue, on a connection of their own.
//!
//! Promises events in the order of the queue, one `Lost` at the end, and that giving the queue up closes the channel:
//! never `basic.cancel`, after which the next consumer would be ahead of what is requeued. Decides nothing about a
//! message, settles nothing by itself.

use super::session::{CHANNEL, Session, short_name};
use super::{BrokerError, Dialer};
use crate::amqp::FieldTable;
use crate::amqp::engine::{Command, Delivered, Done, Event};
use crate::lane::Settlement;
use crate::model::{Address, DeliveryTag, Message};
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

/// A consumer. Dropping it closes its connection in the background.
#[derive(Debug)]
pub struct Consumer {
    session: Session,
    queue: String,
}

impl Consumer {
    /// Consumes a queue, with at most `prefetch` deliveries unacknowledged. Both kinds may be open and get nothing for a
    /// while: a single active consumer waits behind another gateway's. `name` is shown in the broker's list of
    /// connections, behind the gateway's.
    pub async fn open(
        dialer: &Dialer,
        name: &str,
        queue: &str,
        kind: ConsumerKind,
        prefetch: u16,
        body_bytes_max: usize,
    ) -> Result<Self, BrokerError> {
        let doing = format!("consuming from queue {queue:?}");
        let queue_name = short_name(queue, &doing)?;
        let mut session = dialer.dial(&doing, name, body_bytes_max).await?;
        let steps = [
            (
                Command::OpenChannel { channel: CHANNEL },
                Done::ChannelOpened,
            ),
            (
                Command::Qos {
                    channel: CHANNEL,
                    prefetch: prefetch.max(1),
                },
                Done::QosSet,
            ),
            (
                Command::Consume {
                    channel: CHANNEL,
                    queue: queue_name,
                    exclusive: kind == ConsumerKind::Exclusive,
                    arguments: FieldTable::new(),
                },
                Done::Consuming,
            ),
        ];
        for (command, answer) in steps {
            if let Err(end) = session.call(command, answer).await {
                return Err(end.error(doing));
            }
        }
        Ok(Self {
            session,
            queue: queue.to_owned(),
        })
    }

    /// Bounds what is read and not yet taken, from now on; 1 MiB unless it is said.
    pub fn hold_at_most(&self, bytes: usize) {
        self.session.hold_at_most(bytes);
    }

    /// The queue.
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// The next event. Given up, it loses nothing. After `Lost` it says `Lost` again.
    pub async fn next(&mut self) -> ConsumerEvent {
        loop {
            match self.session.next().await {
                Ok(Event::Delivered {
                    delivered, body, ..
                }) => return delivery(delivered, body),
                Ok(Event::Piece { piece, left, .. }) => {
                    return ConsumerEvent::Piece { piece, left };
                }
                // Nothing else was asked for.
                Ok(_) => {}
                Err(end) => return ConsumerEvent::Lost { cause: end.cause() },
            }
        }
    }

    /// Returns, with the cause, once the consumer has ended, for whoever takes no deliveries for a while: its messages
    /// are somebody else's from then on. Given up, it loses nothing. While the socket isn't read (see
    /// [`Consumer::stalled_since`]) it notices an end only by what it can't write: within two heartbeats.
    pub async fn ended(&mut self) -> String {
        loop {
            if let Some(end) = self.session.end() {
                return end.cause();
            }
            self.session.changed().await;
        }
    }

    /// Acknowledges what a ledger has settled: its tag and all before it. Not waited for: an acknowledgement that is lost
    /// with the connection only means that the message comes again. Fails when the consumer has ended, and the tag with it.
    pub fn acknowledge(&self, settlement: &Settlement) -> Result<(), BrokerError> {
        let tag = settlement.tag().0;
        // Tag 0 would mean every delivery; the broker gives none.
        if tag == 0 {
            return Ok(());
        }
        self.session
            .acknowledge(tag)
            .map_err(|end| BrokerError::Lost {
                doing: format!("acknowledging a delivery of queue {:?}", self.queue),
                cause: end.cause(),
            })
    }

    /// Acknowledges one delivery and none before it: for whoever takes single messages out of a queue of setgate's own. A
    /// lane settles by its ledger.
    pub fn acknowledge_alone(&self, tag: DeliveryTag) -> Result<(), BrokerError> {
        let acknowledge = Command::Acknowledge {
            channel: CHANNEL,
            tag: tag.0,
            multiple: false,
        };
        self.session
            .push(acknowledge, 0)
            .map_err(|end| BrokerError::Lost {
                doing: format!("acknowledging a delivery of queue {:?}", self.queue),
                cause: end.cause(),
            })
    }

    /// Since when the socket isn't read because what was read isn't taken.
    pub fn stalled_since(&self) -> Option<Instant> {
        self.session.stalled_since()
    }

    /// Gives the queue up: what is not acknowledged is back in it, in order, when this returns. Deliveries that still come
    /// are read and dropped. Bounded in time; given up, it goes on in the background.
    pub async fn close(self) -> Result<(), BrokerError> {
        let closed = self.session.close().await;
        closed.map_err(|end| end.error(format!("giving up queue {:?}", self.queue)))
    }
}

fn delivery(delivered: Delivered, body: Option<Bytes>) -> ConsumerEvent {
    let tag = DeliveryTag(delivered.tag);
    let message = |body| Message {
        address: Address {
            exchange: delivered.exchange,
            routing_key: delivered.routing_key,
        },
        properties: delivered.properties,
        body,
        redelivered: delivered.redelivered,
    };
    match body {
        Some(body) => ConsumerEvent::Delivery {
            tag,
            message: message(body),
        },
        None => ConsumerEvent::Large {
            tag,
            message: message(Bytes::new()),
            body_bytes: delivered.body_bytes,
        },
    }
}
