//! Confirmed publishes, a batch at a time, under a lane's lock.
//!
//! Owns one channel in confirm mode and perhaps a lock. Promises one outcome per message, and `Confirmed` only for what
//! the broker has confirmed and not returned. Batch by batch, because of how the client library pairs returns (see
//! `confirms`). Never retries, never drops: while the broker blocks publishers it waits.

use super::channel::Channel;
use super::confirms::{Reply, Return, Sent, judge};
use super::convert::{short, to_library};
use super::error::{BrokerError, cause_of};
use super::lock::Lock;
use super::{Connection, ConnectionEpoch};
use crate::amqp::{FieldValue, Properties};
use crate::model::Address;
use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, poll};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Confirmation};
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// The header whose value names a message within its batch.
const TOKEN_HEADER: &str = "x-set-parcel";
/// Without any confirm for so long, and not blocked, the channel is given up. A loaded classic queue confirms some 200
/// ms late, a quorum queue that elects a leader some 10 s.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// After the connection's end the library still hands out what it had read.
const LAST_CONFIRMS_TIMEOUT: Duration = Duration::from_secs(1);
/// Frame header and end octet; class, weight and body size in front of the properties.
const HEADER_FRAME_OVERHEAD_BYTES: usize = 8 + 12;

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
    /// Where.
    pub address: Address,
    /// With `token` in the header `x-set-parcel`.
    pub properties: Properties,
    /// As it came.
    pub body: Bytes,
    /// Without a queue.
    pub unroutable: Unroutable,
    /// Names it within its batch.
    pub token: String,
}

/// What became of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Durable, as far as the queue is.
    Confirmed,
    /// No queue is bound; none has it.
    Returned {
        /// 312.
        code: u16,
        /// The broker's words.
        text: String,
    },
    /// The broker refused it, though one of several queues may have taken it.
    Nacked,
    /// Not sent: body or properties are larger than the broker takes.
    TooLarge {
        /// How large, and what is allowed.
        text: String,
    },
    /// Not sent: this client can't write it.
    Unencodable {
        /// What.
        text: String,
    },
    /// Sent, perhaps stored, unanswered.
    Unknown {
        /// Why.
        cause: String,
    },
    /// Not sent: there is no channel any more.
    Unsent {
        /// Why.
        cause: String,
    },
}

/// Why a publisher can't be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another connection, or another publisher of this one, has the lock. Try again when it is done.
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
pub struct LanePublisher {
    /// Absent only on the way out.
    channel: Option<Channel>,
    lock: Option<Lock>,
    frame_bytes_max: usize,
    body_bytes_max: usize,
    /// Set when an outcome may be missing: the channel's order and its confirms can't be relied on any more.
    broken: Option<String>,
}

impl LanePublisher {
    /// Opens a channel in confirm mode, under this lock if one is named.
    pub async fn open(connection: &Connection, lock: Option<&str>) -> Result<Self, OpenError> {
        let doing = || "opening a publisher".to_owned();
        let lock = match lock {
            Some(name) => Some(Lock::acquire(connection, name).await?),
            None => None,
        };
        let channel = connection.channel().await?;
        let gone = || BrokerError::Down {
            doing: doing(),
            cause: connection
                .state()
                .cause()
                .unwrap_or("it has just ended")
                .to_owned(),
        };
        // The lock must be of the connection that publishes.
        if lock
            .as_ref()
            .is_some_and(|lock| lock.epoch() != Some(channel.epoch()))
        {
            return Err(gone().into());
        }
        let (frame_bytes_max, body_bytes_max) = connection.limits().ok_or_else(gone)?;
        let confirm = channel
            .lapin
            .confirm_select(ConfirmSelectOptions::default());
        channel.call(doing, confirm).await?;
        Ok(Self {
            channel: Some(channel),
            lock,
            frame_bytes_max,
            body_bytes_max,
            broken: None,
        })
    }

    /// For the park queue: whatever the broker once took, it takes back, `message_max` or not.
    #[must_use]
    pub fn of_any_size(mut self) -> Self {
        self.body_bytes_max = usize::MAX;
        self
    }

    /// The connection that it publishes on.
    pub fn epoch(&self) -> Option<ConnectionEpoch> {
        self.channel.as_ref().map(Channel::epoch)
    }

    /// Whether it is of further use. If not, close it and open another.
    pub fn is_open(&self) -> bool {
        self.broken.is_none() && self.channel.as_ref().is_some_and(Channel::is_open)
    }

    /// Publishes a batch in order, and returns what became of each message, in the same order. Keep batches to a few
    /// hundred messages: the library's bookkeeping grows with them. Given up half-way, the publisher is of no further use.
    pub async fn publish(&mut self, batch: Vec<Publish>) -> Vec<Outcome> {
        let channel = match (&self.channel, &self.broken) {
            (Some(channel), None) if channel.is_open() => channel,
            (_, Some(cause)) => return unsent(batch.len(), cause),
            (_, None) => return unsent(batch.len(), "the channel was closed"),
        };
        if let Err(cause) = unblocked(channel).await {
            self.broken = Some(cause.clone());
            return unsent(batch.len(), &cause);
        }
        self.broken = Some("a batch was given up".to_owned());
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut ready = Vec::with_capacity(batch.len());
        for publish in batch {
            match self.prepare(publish) {
                Ok(prepared) => {
                    ready.push(prepared);
                    outcomes.push(None);
                }
                Err(outcome) => outcomes.push(Some(outcome)),
            }
        }
        let (replies, cause) = send(channel, &ready).await;
        self.broken = cause;
        let sent: Vec<_> = ready.into_iter().map(|ready| ready.sent).collect();
        let mut judged = judge(&sent, replies).into_iter();
        outcomes
            .into_iter()
            .map(|outcome| {
                outcome
                    .or_else(|| judged.next())
                    .unwrap_or(Outcome::Unknown {
                        cause: "no reply".to_owned(),
                    })
            })
            .collect()
    }

    fn prepare(&self, publish: Publish) -> Result<Prepared, Outcome> {
        let unencodable = |text| Outcome::Unencodable { text };
        if publish.body.len() > self.body_bytes_max {
            return Err(Outcome::TooLarge {
                text: format!(
                    "the body has {} bytes, message_max is {}",
                    publish.body.len(),
                    self.body_bytes_max
                ),
            });
        }
        let encoded = publish
            .properties
            .encode()
            .map_err(|error| unencodable(error.to_string()))?;
        let frame = encoded.len() + HEADER_FRAME_OVERHEAD_BYTES;
        if frame > self.frame_bytes_max {
            return Err(Outcome::TooLarge {
                text: format!(
                    "properties and headers need a frame of {frame} bytes, the broker takes {}",
                    self.frame_bytes_max
                ),
            });
        }
        let mandatory = publish.unroutable == Unroutable::Return;
        Ok(Prepared {
            exchange: short(&publish.address.exchange, "the exchange").map_err(unencodable)?,
            routing_key: short(&publish.address.routing_key, "the routing key")
                .map_err(unencodable)?,
            properties: to_library(&publish.properties).map_err(unencodable)?,
            body: publish.body,
            sent: Sent {
                token: publish.token,
                mandatory,
            },
        })
    }

    /// Closes the channel, and frees the lock once the broker has worked off all that was published under it. On a
    /// time-out the lock is still held; it is freed in the background, or with the connection.
    pub async fn close(mut self) -> Result<(), BrokerError> {
        match (self.channel.take(), self.lock.take()) {
            (Some(channel), Some(lock)) => lock.release(channel).await,
            (Some(channel), None) => channel.close().await,
            (None, _) => Ok(()),
        }
    }
}

impl Drop for LanePublisher {
    fn drop(&mut self) {
        if let (Some(channel), Some(lock)) = (self.channel.take(), self.lock.take()) {
            lock.release_later(channel);
        }
    }
}

impl std::fmt::Debug for LanePublisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LanePublisher")
            .field("channel", &self.channel)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// A message in the library's form.
struct Prepared {
    exchange: ShortString,
    routing_key: ShortString,
    properties: BasicProperties,
    body: Bytes,
    sent: Sent,
}

fn unsent(count: usize, cause: &str) -> Vec<Outcome> {
    (0..count)
        .map(|_| Outcome::Unsent {
            cause: cause.to_owned(),
        })
        .collect()
}

/// Waits while the broker blocks publishers. Fails when the connection ends.
async fn unblocked(channel: &Channel) -> Result<(), String> {
    let mut state = channel.connection().watch();
    loop {
        {
            let now = state.borrow_and_update();
            if now.epoch() != Some(channel.epoch()) {
                return Err(now
                    .cause()
                    .unwrap_or("another connection took over")
                    .to_owned());
            }
            if now.blocked().is_none() {
                return Ok(());
            }
        }
        if state.changed().await.is_err() {
            return Err("the connection's supervisor has ended".to_owned());
        }
    }
}

/// Writes a batch and collects the replies, until all are in or there is no hope for more; then also says why.
async fn send(channel: &Channel, batch: &[Prepared]) -> (Vec<Reply>, Option<String>) {
    let mut waiting = FuturesUnordered::new();
    for (at, prepared) in batch.iter().enumerate() {
        let options = BasicPublishOptions {
            mandatory: prepared.sent.mandatory,
            immediate: false,
        };
        let mut publish = Box::pin(channel.lapin.basic_publish(
            prepared.exchange.clone(),
            prepared.routing_key.clone(),
            options,
            &prepared.body,
            prepared.properties.clone(),
        ));
        // The first poll queues the frames, in this order, and takes the publish's number.
        let first = poll!(&mut publish);
        waiting.push(async move {
            let confirm = match first {
                Poll::Ready(confirm) => confirm,
                Poll::Pending => publish.await,
            };
            let reply = match confirm {
                Ok(confirm) => confirm.await,
                Err(error) => Err(error),
            };
            (at, reply)
        });
    }
    let mut replies: Vec<Option<Reply>> = batch.iter().map(|_| None).collect();
    let mut state = channel.connection().watch();
    let mut cause = None;
    let mut patience = std::pin::pin!(tokio::time::sleep(CONFIRM_TIMEOUT));
    loop {
        tokio::select! {
            biased;
            next = waiting.next() => {
                let Some((at, reply)) = next else { break };
                let reply = read(reply);
                if let Reply::Missing { cause: why } = &reply {
                    cause.get_or_insert_with(|| why.clone());
                } else if cause.is_none() {
                    patience.as_mut().reset(Instant::now() + CONFIRM_TIMEOUT);
                }
                if let Some(place) = replies.get_mut(at) {
                    *place = Some(reply);
                }
            }
            Ok(()) = state.changed() => {
                let now = state.borrow_and_update();
                if now.epoch() == Some(channel.epoch()) {
                    patience.as_mut().reset(Instant::now() + CONFIRM_TIMEOUT);
                } else if cause.is_none() {
                    cause = Some(now.cause().unwrap_or("the connection ended").to_owned());
                    patience.as_mut().reset(Instant::now() + LAST_CONFIRMS_TIMEOUT);
                }
            }
            () = patience.as_mut() => {
                if cause.is_none() && channel.connection().state().blocked().is_some() {
                    patience.as_mut().reset(Instant::now() + CONFIRM_TIMEOUT);
                    continue;
                }
                cause.get_or_insert_with(|| {
                    format!("no confirm within {} s", CONFIRM_TIMEOUT.as_secs())
                });
                break;
            }
        }
    }
    let missing = cause.clone().unwrap_or_else(|| "no confirm".to_owned());
    let replies = replies
        .into_iter()
        .map(|reply| {
            reply.unwrap_or_else(|| Reply::Missing {
                cause: missing.clone(),
            })
        })
        .collect();
    (replies, cause)
}

fn read(reply: lapin::Result<Confirmation>) -> Reply {
    let (ack, message) = match reply {
        Ok(Confirmation::Ack(message)) => (true, message),
        Ok(Confirmation::Nack(message)) => (false, message),
        Ok(Confirmation::NotRequested) => {
            return Reply::Missing {
                cause: "the channel is not in confirm mode".to_owned(),
            };
        }
        Err(error) => {
            return Reply::Missing {
                cause: cause_of(&error),
            };
        }
    };
    Reply::Answered {
        ack,
        returned: message.map(|message| {
            let (properties, _) = super::convert::from_library(&message.delivery.properties);
            let token = match properties.header(TOKEN_HEADER) {
                Some(FieldValue::Str(token)) => Some(String::from_utf8_lossy(token).into_owned()),
                _ => None,
            };
            Return {
                token,
                code: message.reply_code,
                text: message.reply_text.to_string(),
            }
        }),
    }
}
