//! The local RabbitMQ cluster: connections, consumers, publishers, declarations.
//!
//! The only folder that names lapin (the lab's traffic clients apart). Promises that a delivery's tag and a publish's
//! confirm never outlive the connection that they belong to, that every outcome of a publish is reported once, and that
//! no secret appears in any state, error or log. Spawns no tasks: [`Connection::run`] is a future for the gateway.
//! Knows nothing of lanes, rules or units.

mod channel;
mod connection;
mod consumer;
mod convert;
mod declare;
mod dial;
mod error;
mod foreign;
mod greeting;
mod management;
mod publisher;
mod pump;
mod session;
mod settings;
mod state;
mod stream;

pub use crate::amqp::engine::{Outcome, PublishId};
pub use connection::Connection;
pub use consumer::{Consumer, ConsumerEvent, ConsumerKind};
pub use declare::{
    Binding, DeclareError, QueueType, depth, ensure_lane_queue, ensure_own_queue, exchange_exists,
};
pub use dial::Dialer;
pub use error::BrokerError;
pub use foreign::{ForeignKind, ForeignQueue, InspectError, Refused, hold, inspect_foreign_queue};
pub use greeting::Server;
pub use management::Management;
pub use publisher::{LanePublisher, OpenError, Publish, Unroutable};
pub use settings::{Settings, Tls};
pub use state::ConnectionState;
