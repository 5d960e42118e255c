//! A message as a queue gives it, and where one goes.

use super::marks;
use crate::amqp::{RawProperties, RawValue};
use bytes::Bytes;

/// Where a message is published: an exchange (empty: the default one) and a routing key. Bytes, as AMQP has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Address {
    /// Exchange name, up to 255 bytes.
    pub exchange: Bytes,
    /// Routing key, up to 255 bytes.
    pub routing_key: Bytes,
}

/// The application's id of a message, by `duplicates.id` of its source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MessageId(pub Bytes);

/// A message taken from a queue, before anything is believed of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Message {
    /// Where its publisher sent it.
    pub address: Address,
    /// As they came.
    pub properties: RawProperties,
    /// As it came.
    pub body: Bytes,
    /// The broker has handed it out before.
    pub redelivered: bool,
}

impl Message {
    /// The first header of this name, as keys and rules see it: without what stays behind.
    pub fn header(&self, name: &str) -> Option<RawValue<'_>> {
        if (self.stays_behind())(name.as_bytes()) {
            return None;
        }
        self.properties.header(name)
    }

    /// Which of its headers go nowhere from here: marks, which new ones replace, and how often the source's quorum queue
    /// has handed it out: that queue's word, not its publisher's, and false elsewhere.
    pub fn stays_behind(&self) -> fn(&[u8]) -> bool {
        if self.redelivered {
            marks::is_mark_or_count
        } else {
            marks::is_mark
        }
    }
}
