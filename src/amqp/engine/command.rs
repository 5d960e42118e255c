//! What the engine is asked to do.

use super::ChannelId;
use crate::amqp::{FieldTable, RawProperties};
use bytes::Bytes;
use secrecy::SecretString;
use std::time::Duration;

/// What a connection is opened with.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Who we are.
    pub credentials: Credentials,
    /// Up to 255 bytes.
    pub vhost: String,
    /// Asked for: sent at half of it, and a peer that is silent for three of them is gone.
    pub heartbeat: Duration,
    /// The largest frame that we take and send; the smaller one of ours and the peer's counts.
    pub frame_bytes_max: u32,
    /// For `connection.start-ok`: product, version, `connection_name`. The engine adds its `capabilities`.
    pub client_properties: FieldTable,
    /// How long the peer may take for the handshake, and for each synchronous answer.
    pub answer_timeout: Duration,
    /// A delivery with a larger body comes in pieces, and is never held whole.
    pub body_bytes_max: usize,
    /// The header whose value names a publish: a return is paired with the publish that carries the same.
    pub token_header: &'static str,
}

/// SASL.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// PLAIN.
    Plain {
        /// The user.
        user: String,
        /// Never shown.
        password: SecretString,
    },
    /// EXTERNAL: by the certificate of the TLS connection.
    External,
}

/// The caller's own number of a publish, given back with its outcome. Unique among the unanswered ones of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishId(pub u64);

/// Where a message is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Up to 255 bytes.
    pub exchange: Bytes,
    /// Up to 255 bytes.
    pub routing_key: Bytes,
    /// The broker returns it when no queue is bound.
    pub mandatory: bool,
}

/// The body of a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// At once.
    Whole(Bytes),
    /// So many bytes, which follow in [`Command::PublishPiece`]s; no other command on this channel until all are in. It
    /// counts as sent when the last one is: until then the broker can't have it, and an end leaves it unsent.
    InPieces(u64),
}

/// A command. Those of a channel may follow each other without waiting for answers. A queue's name above 255 bytes ends
/// its channel; a channel that isn't open passes over all but a publish.
#[derive(Debug)]
pub enum Command {
    /// → [`super::Done::ChannelOpened`]
    OpenChannel {
        /// A number that isn't in use.
        channel: ChannelId,
    },
    /// → [`super::Event::ChannelEnded`], when the broker has done all that was asked on it before.
    ///
    /// Whatever else still comes on it is dropped, confirms too: what is unanswered then is unknown. Within the body of
    /// a publish AMQP lets nobody close a channel: there it does as [`Command::Close`].
    CloseChannel {
        /// Which.
        channel: ChannelId,
    },
    /// → [`super::Done::QosSet`]
    Qos {
        /// Which.
        channel: ChannelId,
        /// Deliveries unacknowledged at most, per consumer to come; 0: without a bound.
        prefetch: u16,
    },
    /// → [`super::Done::Consuming`], and deliveries.
    Consume {
        /// Which.
        channel: ChannelId,
        /// From which queue.
        queue: Bytes,
        /// Nobody else may.
        exclusive: bool,
        /// As a stream wants them (`x-stream-offset`). What can't be written ends the channel.
        arguments: FieldTable,
    },
    /// → [`super::Done::Confirming`]
    ConfirmSelect {
        /// Which.
        channel: ChannelId,
    },
    /// → [`super::Done::Declared`]: an exclusive queue, neither durable nor deleted before its connection ends.
    DeclareExclusive {
        /// Which.
        channel: ChannelId,
        /// Its name.
        queue: Bytes,
    },
    /// → [`super::Event::Outcome`], once. The channel must be in confirm mode ([`Command::ConfirmSelect`] asked for, not
    /// necessarily answered).
    Publish {
        /// Which.
        channel: ChannelId,
        /// Given back.
        id: PublishId,
        /// Where.
        to: Destination,
        /// As they are sent. A mandatory one has the token header, or it is [`super::Outcome::Unencodable`]: its return
        /// could not be told from another's.
        properties: RawProperties,
        /// The body.
        content: Content,
    },
    /// More of a body. Passed over when its publish has had its outcome. More than was announced is the caller's fault,
    /// and ends the connection: AMQP has no other way to take a body back.
    PublishPiece {
        /// Which.
        channel: ChannelId,
        /// The next bytes.
        piece: Bytes,
    },
    /// No answer.
    Acknowledge {
        /// Which.
        channel: ChannelId,
        /// The delivery.
        tag: u64,
        /// And all before it.
        multiple: bool,
    },
    /// No answer. Put back into the queue, or dropped.
    Reject {
        /// Which.
        channel: ChannelId,
        /// The delivery.
        tag: u64,
        /// And all before it.
        multiple: bool,
        /// Not dropped (or dead-lettered).
        requeue: bool,
    },
    /// → [`super::Event::Ended`], when the broker has agreed.
    Close,
}
