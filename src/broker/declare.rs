//! Declarations of setgate's own queues.
//!
//! Promises to be idempotent, to create nothing but what is named `setgate.…` and its bindings, and to say what it found
//! different. The application's exchanges are never declared. Each step has a channel of its own, since every
//! refusal closes one.

use super::Connection;
use super::convert::{no_delivery_limit, short, table_to_library};
use super::error::BrokerError;
use crate::amqp::{FieldTable, FieldValue};
use bytes::Bytes;
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};

/// The type of a queue that setgate declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueType {
    /// Replicated; the default.
    Quorum,
    /// One node's.
    Classic,
}

impl QueueType {
    /// The value of `x-queue-type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
        }
    }
}

/// What a source's exchange sends into its lane queue.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// The binding key.
    pub routing_key: Bytes,
    /// For headers exchanges.
    pub arguments: FieldTable,
}

/// Why a queue can't be declared or bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeclareError {
    /// There is a queue of this name with other properties.
    #[error(
        "queue {queue:?} is there already and differs: {text}; drain and delete it, or set the source's queue_type to what it is"
    )]
    Different {
        /// The queue.
        queue: String,
        /// The broker's words.
        text: String,
    },
    /// The exchange to bind to doesn't exist. Try again: it is taken up when it appears.
    #[error(
        "exchange {exchange:?} does not exist in vhost {vhost:?}; setgate never declares exchanges: declare it"
    )]
    NoExchange {
        /// The exchange.
        exchange: String,
        /// Where it was looked for.
        vhost: String,
    },
    /// The broker doesn't know the type of an exchange.
    #[error(
        "{doing}: the broker has no consistent-hash exchanges: run `rabbitmq-plugins enable rabbitmq_consistent_hash_exchange` on each of its nodes, or leave `partitions` out"
    )]
    NoPlugin {
        /// What was to be done.
        doing: String,
    },
    /// Another gateway is about it. Try again.
    #[error("another gateway of the unit is just doing the same ({text})")]
    Busy {
        /// The broker's words.
        text: String,
    },
    /// The user may not.
    #[error("{doing}: {text}; {mend}")]
    NotAllowed {
        /// What was to be done.
        doing: String,
        /// The broker's words.
        text: String,
        /// What to grant.
        mend: String,
    },
    /// Anything else. Try again.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Declares a lane queue, held by one consumer at a time and without a delivery limit, and binds it to the source's
/// exchange. It takes what the broker gives it: a lane queue that overflowed would refuse the application's publishes.
/// Bindings that a former version of the source had are left alone.
pub async fn ensure_lane_queue(
    connection: &Connection,
    queue: &str,
    kind: QueueType,
    exchange: &str,
    bindings: &[Binding],
) -> Result<(), DeclareError> {
    let mut arguments = arguments(connection, kind)?;
    arguments.set("x-single-active-consumer", FieldValue::Bool(true));
    ensure(connection, queue, &arguments).await?;
    for binding in bindings {
        bind(connection, queue, exchange, binding).await?;
    }
    Ok(())
}

/// Binds a lane queue to the exchange that fills it.
pub async fn bind_queue(
    connection: &Connection,
    queue: &str,
    exchange: &str,
    binding: &Binding,
) -> Result<(), DeclareError> {
    bind(connection, queue, exchange, binding).await
}

/// Declares a queue of setgate's own (park, diversions, probe): durable, without a delivery limit, and refusing what it
/// has no room for instead of dropping what it has. In front of it, a fanout exchange of its name: the default exchange
/// leads to every queue of the vhost, so a user who may write to it may do more than a gateway's should.
pub async fn ensure_own_queue(
    connection: &Connection,
    queue: &str,
    kind: QueueType,
) -> Result<(), DeclareError> {
    let arguments = own_arguments(connection, kind)?;
    ensure_own(connection, queue, &arguments).await
}

/// Declares the queue of a gateway's probe: an own queue that has room for one message, the newest.
pub async fn ensure_probe_queue(connection: &Connection, queue: &str) -> Result<(), DeclareError> {
    let mut arguments = own_arguments(connection, QueueType::Classic)?;
    arguments.set("x-max-length", FieldValue::I64(1));
    arguments.set("x-overflow", FieldValue::str("drop-head"));
    ensure_own(connection, queue, &arguments).await
}

/// Declares a diversion: an own queue that takes up to `bytes_max` of bodies and is held by one consumer at a time.
pub async fn ensure_divert_queue(
    connection: &Connection,
    queue: &str,
    kind: QueueType,
    bytes_max: u64,
) -> Result<(), DeclareError> {
    let mut arguments = own_arguments(connection, kind)?;
    arguments.set("x-single-active-consumer", FieldValue::Bool(true));
    let bytes_max = i64::try_from(bytes_max).unwrap_or(i64::MAX);
    arguments.set("x-max-length-bytes", FieldValue::I64(bytes_max));
    ensure_own(connection, queue, &arguments).await
}

/// How much of a stream is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    /// By age, in hours.
    pub hours_max: u32,
    /// By size.
    pub bytes_max: u32,
    /// Retention takes whole segments, and looks when one is full.
    pub segment_bytes: u32,
}

/// Declares a stream, with a fanout exchange of its name in front of it. One that is there with other limits is taken as it
/// is: how far it reaches back is seen when it is read.
pub async fn ensure_stream(
    connection: &Connection,
    queue: &str,
    limits: StreamLimits,
) -> Result<(), DeclareError> {
    let mut arguments = FieldTable::new();
    arguments.set("x-queue-type", FieldValue::str("stream"));
    let age = format!("{}h", limits.hours_max);
    arguments.set("x-max-age", FieldValue::str(age));
    let bytes = FieldValue::I64(i64::from(limits.bytes_max));
    arguments.set("x-max-length-bytes", bytes);
    let segment = FieldValue::I64(i64::from(limits.segment_bytes));
    arguments.set("x-stream-max-segment-size-bytes", segment);
    match ensure(connection, queue, &arguments).await {
        Ok(()) => {}
        Err(DeclareError::Different { .. }) => {
            passive(connection, queue).await?;
        }
        Err(error) => return Err(error),
    }
    ensure_exchange(connection, queue, ExchangeKind::Fanout).await?;
    let all = Binding {
        routing_key: Bytes::new(),
        arguments: FieldTable::new(),
    };
    bind(connection, queue, queue, &all).await
}

/// A way into a queue that leads nowhere else: a direct exchange of setgate's own, where the queue's name is the routing
/// key. Not the default exchange, for the reason above.
pub async fn ensure_way(
    connection: &Connection,
    exchange: &str,
    queue: &str,
) -> Result<(), DeclareError> {
    ensure_exchange(connection, exchange, ExchangeKind::Direct).await?;
    let by_name = Binding {
        routing_key: Bytes::copy_from_slice(queue.as_bytes()),
        arguments: FieldTable::new(),
    };
    bind(connection, queue, exchange, &by_name).await
}

/// Messages that are ready in a queue: neither handed out nor acknowledged. Absent queue: `None`.
pub async fn depth(connection: &Connection, queue: &str) -> Result<Option<u32>, BrokerError> {
    match passive(connection, queue).await {
        Ok(ready) => Ok(Some(ready)),
        Err(BrokerError::Refused { code: 404, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an exchange is there. A publish to one that isn't costs the channel and the confirms of what went before, so
/// this is asked first. The default one always is, and nobody may ask for it.
pub async fn exchange_exists(
    connection: &Connection,
    exchange: &[u8],
) -> Result<bool, BrokerError> {
    if exchange.is_empty() {
        return Ok(true);
    }
    let doing = || {
        format!(
            "asking for exchange {:?}",
            String::from_utf8_lossy(exchange)
        )
    };
    let name = encodable(short(exchange, "the exchange's name"), doing)?;
    let channel = connection.channel().await?;
    let options = ExchangeDeclareOptions {
        passive: true,
        ..ExchangeDeclareOptions::default()
    };
    // Asked passively, neither type nor arguments matter.
    let none = lapin::types::FieldTable::default();
    let declare = channel
        .lapin
        .exchange_declare(name, ExchangeKind::Topic, options, none);
    match channel.call(doing, declare).await {
        Ok(()) => Ok(true),
        Err(BrokerError::Refused { code: 404, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Asks for a queue without creating it, and returns how many messages are ready.
pub(super) async fn passive(connection: &Connection, queue: &str) -> Result<u32, BrokerError> {
    let doing = || format!("asking for queue {queue:?}");
    let name = encodable(short(queue.as_bytes(), "the queue's name"), doing)?;
    let channel = connection.channel().await?;
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let declare = channel
        .lapin
        .queue_declare(name, options, lapin::types::FieldTable::default());
    let found = channel.call(doing, declare).await?;
    Ok(found.message_count())
}

/// One declaration as it is.
pub(super) async fn declare(
    connection: &Connection,
    queue: &str,
    options: QueueDeclareOptions,
    arguments: &FieldTable,
) -> Result<(), BrokerError> {
    let doing = || format!("declaring queue {queue:?}");
    let name = encodable(short(queue.as_bytes(), "the queue's name"), doing)?;
    let arguments = encodable(table_to_library(arguments), doing)?;
    let channel = connection.channel().await?;
    let declare = channel.lapin.queue_declare(name, options, arguments);
    channel.call(doing, declare).await?;
    Ok(())
}

fn arguments(connection: &Connection, kind: QueueType) -> Result<FieldTable, BrokerError> {
    let mut arguments = FieldTable::new();
    arguments.set("x-queue-type", FieldValue::str(kind.as_str()));
    match kind {
        QueueType::Quorum => {
            if let Some(limit) = no_delivery_limit(&connection.server()?) {
                arguments.set("x-delivery-limit", limit);
            }
        }
        QueueType::Classic => {}
    }
    Ok(arguments)
}

fn own_arguments(connection: &Connection, kind: QueueType) -> Result<FieldTable, DeclareError> {
    let mut arguments = arguments(connection, kind)?;
    arguments.set("x-overflow", FieldValue::str("reject-publish"));
    Ok(arguments)
}

/// A queue and the exchange in front of it.
async fn ensure_own(
    connection: &Connection,
    queue: &str,
    arguments: &FieldTable,
) -> Result<(), DeclareError> {
    ensure(connection, queue, arguments).await?;
    ensure_exchange(connection, queue, ExchangeKind::Fanout).await?;
    let all = Binding {
        routing_key: Bytes::new(),
        arguments: FieldTable::new(),
    };
    bind(connection, queue, queue, &all).await
}

async fn ensure(
    connection: &Connection,
    queue: &str,
    arguments: &FieldTable,
) -> Result<(), DeclareError> {
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let declared = declare(connection, queue, options, arguments).await;
    declared.map_err(|error| refused(queue, error))
}

async fn ensure_exchange(
    connection: &Connection,
    exchange: &str,
    kind: ExchangeKind,
) -> Result<(), DeclareError> {
    let doing = || format!("declaring exchange {exchange:?}");
    let name = encodable(short(exchange.as_bytes(), "the exchange's name"), doing)?;
    let channel = connection.channel().await?;
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let none = lapin::types::FieldTable::default();
    let declare = channel.lapin.exchange_declare(name, kind, options, none);
    let declared = channel.call(doing, declare).await;
    declared.map_err(|error| refused(exchange, error))?;
    Ok(())
}

pub(super) fn refused(name: &str, error: BrokerError) -> DeclareError {
    match error {
        BrokerError::Refused {
            code: 405 | 406,
            text,
            ..
        } => DeclareError::Different {
            queue: name.to_owned(),
            text,
        },
        BrokerError::Refused {
            code: 403,
            text,
            doing,
        } => DeclareError::NotAllowed {
            doing,
            text,
            mend: "grant the gateway's user configure, write and read on ^setgate\\.".to_owned(),
        },
        error => error.into(),
    }
}

async fn bind(
    connection: &Connection,
    queue: &str,
    exchange: &str,
    binding: &Binding,
) -> Result<(), DeclareError> {
    let doing = || format!("binding queue {queue:?} to exchange {exchange:?}");
    let name = encodable(short(queue.as_bytes(), "the queue's name"), doing)?;
    let source = encodable(short(exchange.as_bytes(), "the exchange's name"), doing)?;
    let key = encodable(short(&binding.routing_key, "the binding key"), doing)?;
    let arguments = encodable(table_to_library(&binding.arguments), doing)?;
    let channel = connection.channel().await?;
    let bind = channel
        .lapin
        .queue_bind(name, source, key, QueueBindOptions::default(), arguments);
    match channel.call(doing, bind).await {
        Ok(()) => Ok(()),
        Err(BrokerError::Refused {
            code: 404, text, ..
        }) if text.contains("exchange") => Err(DeclareError::NoExchange {
            exchange: exchange.to_owned(),
            vhost: connection.vhost().to_owned(),
        }),
        Err(BrokerError::Refused {
            code: 403,
            text,
            doing,
        }) => Err(DeclareError::NotAllowed {
            doing,
            text,
            mend: format!(
                "grant the gateway's user read on the exchange {exchange:?} and write on ^setgate\\."
            ),
        }),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn encodable<T>(
    written: Result<T, String>,
    doing: impl FnOnce() -> String,
) -> Result<T, BrokerError> {
    written.map_err(|why| BrokerError::Unencodable {
        doing: doing(),
        why,
    })
}
