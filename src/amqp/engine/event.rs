//! What the engine has to tell.

use super::{ChannelId, PublishId};
use crate::amqp::RawProperties;
use bytes::Bytes;

/// What a broker says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `RabbitMQ`.
    pub product: String,
    /// `3.10.8`.
    pub version: String,
}

/// An event.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The handshake is through.
    Opened {
        /// With whom.
        server: Server,
    },
    /// A synchronous command has been answered; answers of a channel come in the order of its commands.
    Done {
        /// Which.
        channel: ChannelId,
        /// What.
        done: Done,
    },
    /// A message.
    Delivered {
        /// Which.
        channel: ChannelId,
        /// The message without its body.
        delivered: Delivered,
        /// Absent when it is larger than `body_bytes_max`: then it comes in [`Event::Piece`]s.
        body: Option<Bytes>,
    },
    /// A piece of a large body. The channel's next delivery comes after the last piece.
    Piece {
        /// Which.
        channel: ChannelId,
        /// The bytes.
        piece: Bytes,
        /// How many bytes are still to come.
        left: u64,
    },
    /// What became of a publish: once for each, in the order in which it became known.
    Outcome {
        /// Which.
        channel: ChannelId,
        /// Which publish.
        id: PublishId,
        /// What.
        outcome: Outcome,
    },
    /// The broker ended the channel's consumer: its queue was deleted, or its node is gone.
    ConsumerCancelled {
        /// Which.
        channel: ChannelId,
    },
    /// The channel is no more; what it had unanswered has had its outcomes before.
    ChannelEnded {
        /// Which.
        channel: ChannelId,
        /// Why.
        end: ChannelEnd,
    },
    /// The broker takes no publishes for now (`connection.blocked`).
    Blocked {
        /// Its words.
        reason: String,
    },
    /// It does again.
    Unblocked,
    /// The connection is no more; its channels have ended before. Comes once, last.
    Ended(Ended),
}

/// An answered command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// `channel.open-ok`
    ChannelOpened,
    /// `basic.qos-ok`
    QosSet,
    /// `basic.consume-ok`
    Consuming,
    /// `confirm.select-ok`
    Confirming,
    /// `queue.declare-ok`
    Declared,
}

/// A delivery without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// Of this channel.
    pub tag: u64,
    /// Handed out before.
    pub redelivered: bool,
    /// It was published to.
    pub exchange: Bytes,
    /// With.
    pub routing_key: Bytes,
    /// As they came.
    pub properties: RawProperties,
    /// How large its body is.
    pub body_bytes: u64,
}

/// What became of a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// `basic.ack` and not returned.
    Confirmed,
    /// No queue is bound; none has it.
    Returned {
        /// 312.
        code: u16,
        /// The broker's words.
        text: String,
    },
    /// `basic.nack`: refused, though one of several queues may have taken it.
    Nacked,
    /// Not sent: the header frame is larger than the negotiated frame.
    TooLarge {
        /// How large, and what is allowed.
        text: String,
    },
    /// Not sent: a name is longer than 255 bytes, or the channel is in no state for it.
    Unencodable {
        /// What.
        text: String,
    },
    /// Sent, perhaps stored, unanswered.
    Unknown {
        /// Why.
        cause: String,
    },
    /// Not sent: the channel or connection had ended.
    Unsent {
        /// Why.
        cause: String,
    },
}

/// Why a channel is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelEnd {
    /// [`super::Command::CloseChannel`] is done.
    Closed,
    /// The broker closed it.
    Refused {
        /// AMQP reply code: 404, 405, 406, …
        code: u16,
        /// The broker's words.
        text: String,
    },
    /// With its connection.
    Lost {
        /// Why.
        cause: String,
    },
}

/// Why a connection is no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// [`super::Command::Close`] is done.
    #[error("closed by this gateway")]
    Closed,
    /// The broker closed it.
    #[error("{code} {text}")]
    Refused {
        /// AMQP reply code: 320, 403, 501, 530, …
        code: u16,
        /// Its words.
        text: String,
    },
    /// The socket ended.
    #[error("{cause}")]
    Lost {
        /// Why.
        cause: String,
    },
    /// The peer doesn't speak AMQP 0-9-1 as it should.
    #[error("the peer broke the protocol: {what}")]
    Protocol {
        /// What it did.
        what: String,
    },
    /// Nothing came for too long.
    #[error("{what}")]
    Silent {
        /// What was waited for, and how long.
        what: String,
    },
}
