//! Deliveries from one queue, on a channel of their own.
//!
//! Promises events in the order of the queue, one `Lost` at the end, and that giving the queue up closes the channel:
//! never `basic.cancel`, after which the next consumer would be ahead of what is requeued. Decides nothing about a
//! message, settles nothing by itself.

use super::channel::Channel;
use super::convert::{from_library, short};
use super::error::{BrokerError, cause_of};
use super::{Connection, ConnectionEpoch};
use crate::amqp::RawProperties;
use crate::lane::Settlement;
use crate::model::{Address, DeliveryTag, Message};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use std::time::Duration;

/// The library tells nobody that a channel has ended but whoever reads from it, so one that doesn't looks this often.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

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
    /// The end: every tag not yet acknowledged is void, and its message comes again to whoever consumes next.
    Lost {
        /// Why.
        cause: String,
    },
}

/// A consumer.
pub struct Consumer {
    // Before `deliveries`: fields are dropped in this order, and the library's consumer would send `basic.cancel` on a
    // channel that is still open.
    channel: Channel,
    deliveries: lapin::Consumer,
    queue: String,
    lost: Option<String>,
}

impl Consumer {
    /// Consumes a queue, with at most `prefetch` deliveries unacknowledged. Both kinds may be open and get nothing for a
    /// while: a single active consumer waits behind another gateway's.
    pub async fn open(
        connection: &Connection,
        queue: &str,
        kind: ConsumerKind,
        prefetch: u16,
    ) -> Result<Self, BrokerError> {
        let doing = || format!("consuming from queue {queue:?}");
        let name = short(queue.as_bytes(), "the queue's name").map_err(|why| {
            BrokerError::Unencodable {
                doing: doing(),
                why,
            }
        })?;
        let channel = connection.channel().await?;
        let qos = channel
            .lapin
            .basic_qos(prefetch.max(1), BasicQosOptions::default());
        channel.call(doing, qos).await?;
        let options = BasicConsumeOptions {
            exclusive: kind == ConsumerKind::Exclusive,
            ..BasicConsumeOptions::default()
        };
        let consume = channel
            .lapin
            .basic_consume(name, "".into(), options, FieldTable::default());
        let deliveries = channel.call(doing, consume).await?;
        Ok(Self {
            channel,
            deliveries,
            queue: queue.to_owned(),
            lost: None,
        })
    }

    /// The queue.
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// The connection that its tags belong to.
    pub fn epoch(&self) -> ConnectionEpoch {
        self.channel.epoch()
    }

    /// The next event. Given up, it loses nothing. After `Lost` it says `Lost` again.
    pub async fn next(&mut self) -> ConsumerEvent {
        if let Some(cause) = &self.lost {
            return ConsumerEvent::Lost {
                cause: cause.clone(),
            };
        }
        let cause = match self.deliveries.next().await {
            Some(Ok(delivery)) => return event(delivery),
            Some(Err(error)) => cause_of(&error),
            None if self.channel.is_open() => {
                "the broker cancelled the consumer: the queue was deleted, or its node is gone"
                    .to_owned()
            }
            None => "the channel was closed".to_owned(),
        };
        self.lost = Some(cause.clone());
        ConsumerEvent::Lost { cause }
    }

    /// Returns, with the cause, once the channel has ended, for whoever reads no deliveries for a while: its messages are
    /// somebody else's from then on.
    pub async fn ended(&self) -> String {
        while self.channel.is_open() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        "the channel was closed, by the broker or with its connection".to_owned()
    }

    /// Acknowledges what a ledger has settled: its tag and all before it. Written by the connection, not waited for: an acknowledgement that is lost with the connection only
    /// means that the message comes again. Fails when the channel has ended, and the tag with it.
    pub fn acknowledge(&self, settlement: &Settlement) -> Result<(), BrokerError> {
        let tag = settlement.tag();
        let options = BasicAckOptions { multiple: true };
        // Tag 0 would mean every delivery; the broker gives none.
        let acknowledged = if tag.0 == 0 {
            None
        } else {
            // The library queues the frame before its future first waits.
            self.channel.lapin.basic_ack(tag.0, options).now_or_never()
        };
        match acknowledged {
            Some(Err(error)) => Err(BrokerError::of(
                format!("acknowledging a delivery of queue {:?}", self.queue),
                &error,
            )),
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// Gives the queue up: what is not acknowledged is back in it, in order, when this returns.
    pub async fn close(self) -> Result<(), BrokerError> {
        let Self {
            channel,
            deliveries,
            ..
        } = self;
        let closed = channel.close().await;
        drop(deliveries);
        closed
    }
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer")
            .field("queue", &self.queue)
            .field("channel", &self.channel)
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

fn event(delivery: lapin::message::Delivery) -> ConsumerEvent {
    let (properties, fault) = from_library(&delivery.properties);
    // What the library can't hand over is damaged to whoever looks at it: no bytes are not even flags.
    let properties = match (RawProperties::of(&properties), fault) {
        (Ok(properties), None) => properties,
        (Ok(_), Some(_)) | (Err(_), _) => RawProperties::from_wire(Bytes::new()),
    };
    let tag = DeliveryTag(delivery.delivery_tag);
    let message = Message {
        address: Address {
            exchange: Bytes::from(String::from(delivery.exchange)),
            routing_key: Bytes::from(String::from(delivery.routing_key)),
        },
        properties,
        body: Bytes::from(delivery.data),
        redelivered: delivery.redelivered,
    };
    ConsumerEvent::Delivery { tag, message }
}
