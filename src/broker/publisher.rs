//! Confirmed publishes, under a lane's lock, on a connection of their own.
//!
//! Promises one outcome per message, and `Confirmed` only for what the broker has confirmed and not returned. Never
//! retries, never drops: while the broker blocks publishers it waits.

use super::session::{CHANNEL, End, Session, short_name};
use super::{BrokerError, Dialer};
use crate::amqp::RawProperties;
use crate::amqp::engine::{Command, Content, Destination, Done, Event, Outcome, PublishId};
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

/// A publisher of one lane, or of a gateway's own queues. Dropping it closes its connection in the background.
#[derive(Debug)]
pub struct LanePublisher {
    session: Session,
    lock: Option<String>,
    body_bytes_max: u64,
    /// Known without asking the broker.
    early: Vec<(PublishId, Outcome)>,
    unanswered: usize,
}

impl LanePublisher {
    /// A connection with a channel in confirm mode. Where a lock is named, its exclusive queue is declared first, and
    /// lives and dies with the connection. `name` is shown in the broker's list of connections, behind the gateway's.
    pub async fn open(dialer: &Dialer, name: &str, lock: Option<&str>) -> Result<Self, OpenError> {
        let doing = match lock {
            Some(queue) => format!("taking the lock {queue:?}"),
            None => "opening a publisher".to_owned(),
        };
        let queue = lock.map(|queue| short_name(queue, &doing)).transpose()?;
        // Nothing is delivered here.
        let mut session = dialer.dial(&doing, name, 0).await?;
        let failed = |end: End| match (end, lock) {
            (End::Refused { code: 405, .. }, Some(queue)) => OpenError::Locked {
                queue: queue.to_owned(),
            },
            (end, _) => OpenError::Broker(end.error(doing.clone())),
        };
        let channel = CHANNEL;
        let open = session.call(Command::OpenChannel { channel }, Done::ChannelOpened);
        open.await.map_err(failed)?;
        if let Some(queue) = queue {
            let declare = Command::DeclareExclusive { channel, queue };
            let declared = session.call(declare, Done::Declared).await;
            declared.map_err(failed)?;
        }
        let confirm = session.call(Command::ConfirmSelect { channel }, Done::Confirming);
        confirm.await.map_err(failed)?;
        Ok(Self {
            session,
            lock: lock.map(str::to_owned),
            body_bytes_max: dialer.message_bytes_max() as u64,
            early: Vec::new(),
            unanswered: 0,
        })
    }

    /// For the park queue: whatever the broker once took, it takes back, `message_max` or not.
    #[must_use]
    pub fn of_any_size(mut self) -> Self {
        self.body_bytes_max = u64::MAX;
        self
    }

    /// Whether it is of further use. If not, close it and open another.
    pub fn is_open(&self) -> bool {
        self.session.end().is_none()
    }

    /// Why it is of no further use, once it isn't; outcomes that `next` hasn't given yet are still to come.
    pub fn ended(&self) -> Option<String> {
        self.session.end().map(|end| end.cause())
    }

    /// Whether another publish is taken now: not while the broker blocks publishers, nor while too much waits to be
    /// written.
    pub fn has_room(&self) -> bool {
        self.session.has_room()
    }

    /// How many publishes have no outcome yet.
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Queues it; never waits. Its outcome comes out of [`LanePublisher::next`], once, whatever happens.
    pub fn publish(&mut self, mut publish: Publish) {
        let body = std::mem::take(&mut publish.body);
        self.queue(publish, body.len() as u64, Content::Whole(body));
    }

    /// As [`LanePublisher::publish`], with a body of so many bytes, of which `publish.body` is the first piece. Until all
    /// are in there must be no other publish.
    pub fn publish_in_pieces(&mut self, mut publish: Publish, body_bytes: u64) {
        let first = std::mem::take(&mut publish.body);
        self.queue(publish, body_bytes, Content::InPieces(body_bytes));
        self.piece(first);
    }

    /// More of a body; passed over where its publish was refused.
    pub fn piece(&mut self, piece: Bytes) {
        let bytes = piece.len();
        let command = Command::PublishPiece {
            channel: CHANNEL,
            piece,
        };
        // After the end nothing is owed for a piece: its publish has its outcome.
        let _ = self.session.push(command, bytes);
    }

    fn queue(&mut self, publish: Publish, body_bytes: u64, content: Content) {
        let Publish {
            id,
            address,
            properties,
            unroutable,
            body: _,
        } = publish;
        self.unanswered += 1;
        let refused = if body_bytes > self.body_bytes_max {
            Err(Outcome::TooLarge {
                text: format!(
                    "the body has {body_bytes} bytes, message_max is {}",
                    self.body_bytes_max
                ),
            })
        } else {
            let held = match &content {
                Content::Whole(body) => body.len(),
                Content::InPieces(_) => 0,
            };
            let bytes = held + properties.as_bytes().len();
            let command = Command::Publish {
                channel: CHANNEL,
                id,
                to: Destination {
                    exchange: address.exchange,
                    routing_key: address.routing_key,
                    mandatory: unroutable == Unroutable::Return,
                },
                properties,
                content,
            };
            let pushed = self.session.push(command, bytes);
            pushed.map_err(|end| Outcome::Unsent { cause: end.cause() })
        };
        if let Err(outcome) = refused {
            self.early.push((id, outcome));
        }
    }

    /// What has become known since, in order; empty when only [`LanePublisher::has_room`] or
    /// [`LanePublisher::is_open`] may have changed. Given up, it loses nothing.
    pub async fn next(&mut self) -> Vec<(PublishId, Outcome)> {
        let mut known = self.known();
        if known.is_empty() {
            self.session.changed().await;
            known = self.known();
        }
        known
    }

    fn known(&mut self) -> Vec<(PublishId, Outcome)> {
        let mut known = std::mem::take(&mut self.early);
        known.extend(self.session.drain().filter_map(|event| match event {
            Event::Outcome { id, outcome, .. } => Some((id, outcome)),
            // Nothing else was asked for.
            _ => None,
        }));
        self.unanswered = self.unanswered.saturating_sub(known.len());
        known
    }

    /// Closes it in order: the broker has worked off all that was published when this returns, and the lock is free.
    /// Bounded in time; given up, or on a time-out, the broker frees the lock when it sees that the socket is gone.
    pub async fn close(self) -> Result<(), BrokerError> {
        let doing = match &self.lock {
            Some(queue) => format!("freeing the lock {queue:?}"),
            None => "closing a publisher".to_owned(),
        };
        let closed = self.session.close().await;
        closed.map_err(|end| end.error(doing))
    }
}
