//! The document `source`: what is taken from the local broker, where it goes, and what its key is.
//!
//! Owns its shape and its defaults; how it is read is the next file's affair.

use super::fault::Placed;
use super::json_pointer::JsonPointer;
use crate::amqp::FieldTable;
use crate::model::{SourceName, UnitId};
use std::time::Duration;

/// What is taken from the local broker.
#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    /// Its name.
    pub name: Placed<SourceName>,
    /// Where it is taken; `None` for every unit.
    pub units: Option<Vec<Placed<UnitId>>>,
    /// `None` for the gateway's own.
    pub vhost: Option<String>,
    /// From what.
    pub take: Placed<Take>,
    /// Where its messages go, unless their rule says otherwise.
    pub deliver: Option<Placed<Deliver>>,
    /// The exchange where publishers get back what can't be routed, instead of the park.
    pub returns: Option<Placed<String>>,
    /// Over how many lanes it is spread, from 1 to [`PARTITIONS_MAX`].
    pub partitions: Placed<u16>,
    /// The type of the queues that are declared for it.
    pub queue_type: QueueType,
    /// What decides the owner.
    pub key: Key,
    /// Where `key` is written, else where the source is.
    pub key_place: Placed<()>,
    /// What makes two messages the same.
    pub duplicates: Duplicates,
    /// The limit of its diversions.
    pub divert: Divert,
    /// Nothing more is taken; what is in its queues is carried, and then they go.
    pub retired: bool,
}

/// Most lanes of one source. Each is a queue, a connection and a part of the gateways' memory; one carries some
/// 10,000 messages a second, so a source of more than a million would be several.
pub const PARTITIONS_MAX: u16 = 100;

/// What is taken.
#[derive(Debug, Clone, PartialEq)]
pub enum Take {
    /// An exchange, through a queue of our own that these bindings fill.
    Exchange {
        /// Its name.
        exchange: String,
        /// At least one.
        bindings: Vec<Binding>,
    },
    /// A queue that exists.
    Queue {
        /// Its name.
        queue: String,
    },
}

/// One binding of a lane queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// The binding key; what it means is the exchange's affair.
    pub routing_key: String,
    /// For headers exchanges and the like.
    pub arguments: FieldTable,
}

/// Where messages are published at their target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deliver {
    /// The exchange; empty for the default one.
    pub exchange: String,
    /// `None` keeps the message's own (`keep`).
    pub routing_key: Option<String>,
}

/// The type of a declared queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueType {
    /// Replicated.
    Quorum,
    /// On one node.
    Classic,
}

impl QueueType {
    /// The word in documents, and in `x-queue-type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
        }
    }
}

/// Where a message's key comes from and how it becomes a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The first that is present counts.
    pub from: Vec<KeyFrom>,
    /// From key to slot.
    pub map: KeyMap,
}

/// One place where a key may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyFrom {
    /// A header.
    Header(String),
    /// A word of the routing key, from 1.
    RoutingKeyWord(u8),
    /// The whole routing key.
    RoutingKey,
    /// A value in the body, which is JSON.
    Json(JsonPointer),
}

impl std::fmt::Display for KeyFrom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            Self::RoutingKeyWord(word) => write!(f, "routing-key word {word}"),
            Self::RoutingKey => f.write_str("the routing key"),
            Self::Json(pointer) => write!(f, "JSON {pointer}"),
        }
    }
}

/// From key to slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyMap {
    /// xxh3-64, seed 0.
    Hash,
    /// CRC-32/ISO-HDLC.
    Crc32,
    /// The whole key is a number.
    Digits,
    /// The last digits of the key, at most so many.
    LastDigits(u8),
}

impl std::fmt::Display for KeyMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hash => f.write_str("hash"),
            Self::Crc32 => f.write_str("crc32"),
            Self::Digits => f.write_str("digits"),
            Self::LastDigits(n) => write!(f, "last_digits: {n}"),
        }
    }
}

/// What makes two messages the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Duplicates {
    /// Nothing: no ids.
    Off,
    /// An id within a window.
    ById {
        /// Where the id is.
        id: IdFrom,
        /// How long it is remembered.
        window: Duration,
    },
}

/// Where a message's id is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdFrom {
    /// The property `message-id`.
    MessageId,
    /// A header.
    Header(String),
}

/// The limit of a source's diversions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divert {
    /// Bytes per diversion queue.
    pub bytes_max: u64,
    /// What happens then.
    pub full: DivertFull,
}

/// What happens when a diversion is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DivertFull {
    /// The lane stops taking.
    Stop,
    /// Messages are parked.
    Park,
}

impl Default for Key {
    fn default() -> Self {
        Self {
            from: vec![KeyFrom::Header("x-set-key".to_owned())],
            map: KeyMap::Hash,
        }
    }
}

impl Default for Duplicates {
    fn default() -> Self {
        Self::ById {
            id: IdFrom::MessageId,
            window: Duration::from_mins(10),
        }
    }
}

impl Default for Divert {
    fn default() -> Self {
        Self {
            bytes_max: 10 << 30,
            full: DivertFull::Stop,
        }
    }
}
