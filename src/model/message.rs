//! A message as a queue gives it, and where one goes.

use crate::amqp::Properties;
use bytes::Bytes;

/// Where a message is published: an exchange (empty: the default one) and a routing key. Bytes, as AMQP has them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Where its publisher sent it.
    pub address: Address,
    /// As they came.
    pub properties: Properties,
    /// As it came.
    pub body: Bytes,
    /// The broker has handed it out before.
    pub redelivered: bool,
}
