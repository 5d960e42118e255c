//! The local RabbitMQ cluster: consumers and publishers, declarations and inspection.
//!
//! Two ways to the broker, for two purposes. What carries messages runs on [`crate::amqp::engine`], a connection for each
//! consumer and each publisher, opened by a [`Dialer`]. What declares and inspects runs on lapin, which no other folder
//! names (the lab's traffic clients apart), over one supervised [`Connection`] per vhost. Promises that a delivery's tag
//! and a publish's outcome never outlive the connection that they belong to, that every outcome is reported once, and
//! that no secret appears in any state, error or log. Starts tasks on the tracker that a dialer is given, and no others.
//! Knows nothing of lanes, rules or units.

mod channel;
mod connection;
mod consumer;
mod consumption;
mod convert;
mod declare;
mod dial;
mod error;
mod follower;
mod foreign;
mod greeting;
mod management;
mod policies;
mod publisher;
mod pump;
mod session;
mod settings;
pub mod spread;
mod state;
mod stream;

pub use crate::amqp::engine::{Outcome, PublishId, Server};
pub use connection::Connection;
pub use consumer::{Consumer, ConsumerEvent, ConsumerKind};
pub use declare::{
    Binding, DeclareError, QueueType, StreamLimits, bind_queue, depth, ensure_divert_queue,
    ensure_lane_queue, ensure_own_queue, ensure_probe_queue, ensure_stream, ensure_way,
    exchange_exists,
};
pub use dial::Dialer;
pub use error::BrokerError;
pub use follower::{FollowEnd, Followed, StreamFollower, StreamFrom, Streamed};
pub use foreign::{ForeignKind, ForeignQueue, InspectError, Refused, hold, inspect_foreign_queue};
pub use management::Management;
pub use policies::Endangered;
pub use publisher::{LanePublisher, OpenError, Publish, Unroutable};
pub use settings::{Settings, Tls};
pub use state::ConnectionState;
