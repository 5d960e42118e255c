//! Reads a stream from some point on, for ever, on a connection of its own.
//!
//! Promises what lies in it in its order, each with its offset, from which a later reader goes on. Interprets nothing.

use super::session::{CHANNEL, Session, short_name};
use super::{BrokerError, Dialer};
use crate::amqp::engine::{Command, Done, Event};
use crate::amqp::{FieldTable, FieldValue};
use crate::model::{Address, Message};
use bytes::Bytes;
use std::time::Duration;
use tokio::time::Instant;

/// Handed out and not acknowledged, by which the broker gives more: streams demand a limit. Of the largest entries, of some
/// 100 KB, these are 26 MB.
const PREFETCH: u16 = 256;
const ACKNOWLEDGED_AT_ONCE: u32 = 64;

/// How long a message stays unacknowledged at most: a broker closes the channel of whoever takes longer than its
/// `consumer_timeout`, of half an hour by default, and less than [`ACKNOWLEDGED_AT_ONCE`] may come in that time.
const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(1);

/// A larger one isn't ours, and is passed over.
const BODY_BYTES_MAX: usize = 4 << 20;

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFrom {
    /// With the oldest that is there.
    First,
    /// With the piece that was being written then, so with something older; since 1970.
    Since(Duration),
    /// With this offset, or with the next that is there.
    At(u64),
    /// Behind this offset.
    Behind(u64),
}

/// One message of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// Ascending, with holes.
    pub offset: u64,
    /// As it was published.
    pub body: Bytes,
}

/// One message of a stream with all that it was published with.
#[derive(Debug, Clone, PartialEq)]
pub struct Streamed {
    /// Ascending, with holes.
    pub offset: u64,
    /// `None`: its body is above the limit, and was passed over.
    pub message: Option<Message>,
}

/// Why there is no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FollowEnd {
    /// The stream was deleted: another one of its name begins with offset 0.
    #[error("the stream was deleted")]
    Deleted,
    /// Channel or connection ended.
    #[error("{cause}")]
    Lost {
        /// How.
        cause: String,
    },
}

/// See the file's head. Dropping it closes its connection in the background.
#[derive(Debug)]
pub struct StreamFollower {
    session: Session,
    unacknowledged: Unacknowledged,
}

#[derive(Debug)]
enum Unacknowledged {
    Nothing,
    Some {
        /// So many,
        count: u32,
        /// up to this one.
        last: u64,
        by: Instant,
    },
}

impl StreamFollower {
    /// Begins to read messages of up to [`BODY_BYTES_MAX`]. `name` is shown in the broker's list of connections.
    pub async fn open(
        dialer: &Dialer,
        name: &str,
        stream: &str,
        from: StreamFrom,
    ) -> Result<Self, BrokerError> {
        Self::open_for(dialer, name, stream, from, BODY_BYTES_MAX).await
    }

    /// As [`StreamFollower::open`], for bodies of up to so many bytes.
    pub async fn open_for(
        dialer: &Dialer,
        name: &str,
        stream: &str,
        from: StreamFrom,
        body_bytes_max: usize,
    ) -> Result<Self, BrokerError> {
        let doing = format!("reading stream {stream:?}");
        let queue = short_name(stream, &doing)?;
        let offset = match from {
            StreamFrom::First => FieldValue::str("first"),
            StreamFrom::Since(since) => FieldValue::Timestamp(since.as_secs()),
            StreamFrom::At(offset) => position(offset),
            StreamFrom::Behind(offset) => position(offset.saturating_add(1)),
        };
        let mut arguments = FieldTable::new();
        arguments.set("x-stream-offset", offset);
        let channel = CHANNEL;
        let mut session = dialer.dial(&doing, name, body_bytes_max).await?;
        let steps = [
            (Command::OpenChannel { channel }, Done::ChannelOpened),
            (
                Command::Qos {
                    channel,
                    prefetch: PREFETCH,
                },
                Done::QosSet,
            ),
            (
                Command::Consume {
                    channel,
                    queue,
                    exclusive: false,
                    arguments,
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
            unacknowledged: Unacknowledged::Nothing,
        })
    }

    /// The body of the next message. Given up, it loses nothing.
    pub async fn next(&mut self) -> Result<Followed, FollowEnd> {
        loop {
            let Streamed { offset, message } = self.next_message().await?;
            if let Some(Message { body, .. }) = message {
                return Ok(Followed { offset, body });
            }
        }
    }

    /// The next message. Given up, it loses nothing.
    pub async fn next_message(&mut self) -> Result<Streamed, FollowEnd> {
        loop {
            let due = match self.unacknowledged {
                Unacknowledged::Nothing => None,
                Unacknowledged::Some { by, .. } => Some(by),
            };
            let event = tokio::select! {
                event = self.session.next() => event,
                () = until(due) => {
                    self.acknowledge();
                    continue;
                }
            };
            let event = match event {
                Ok(event) => event,
                Err(end) => return Err(FollowEnd::Lost { cause: end.cause() }),
            };
            match event {
                Event::Delivered {
                    delivered, body, ..
                } => {
                    self.took(delivered.tag);
                    let offset = delivered
                        .properties
                        .header("x-stream-offset")
                        .and_then(|offset| u64::try_from(offset.as_integer()?).ok());
                    if let Some(offset) = offset {
                        let message = body.map(|body| Message {
                            address: Address {
                                exchange: delivered.exchange,
                                routing_key: delivered.routing_key,
                            },
                            properties: delivered.properties,
                            body,
                            redelivered: false,
                        });
                        return Ok(Streamed { offset, message });
                    }
                }
                Event::ConsumerCancelled { .. } => return Err(FollowEnd::Deleted),
                // Nothing else was asked for.
                _ => {}
            }
        }
    }

    fn took(&mut self, tag: u64) {
        let (count, by) = match self.unacknowledged {
            Unacknowledged::Nothing => (1, Instant::now() + ACKNOWLEDGED_WITHIN),
            Unacknowledged::Some { count, by, .. } => (count + 1, by),
        };
        self.unacknowledged = Unacknowledged::Some {
            count,
            last: tag,
            by,
        };
        if count >= ACKNOWLEDGED_AT_ONCE {
            self.acknowledge();
        }
    }

    fn acknowledge(&mut self) {
        match std::mem::replace(&mut self.unacknowledged, Unacknowledged::Nothing) {
            Unacknowledged::Nothing => {}
            Unacknowledged::Some { last, .. } => {
                // An end is seen with the next event.
                let _ = self.session.acknowledge(last);
            }
        }
    }
}

fn position(offset: u64) -> FieldValue {
    FieldValue::I64(i64::try_from(offset).unwrap_or(i64::MAX))
}

/// Never, without a time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
