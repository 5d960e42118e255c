//! The exchanges that spread a source over several lane queues, one step each.
//!
//! Promises that each step may be taken again with the same outcome, and that nothing outside `setgate.…` comes to be or
//! goes. Never decides which step comes next. An unknown type of exchange ends the whole connection: take the steps on one
//! of their own.

use super::Connection;
use super::channel::Channel;
use super::convert::{short, table_to_library};
use super::declare::{Binding, DeclareError, encodable, refused};
use super::error::BrokerError;
use crate::amqp::{FieldTable, FieldValue};
use lapin::ExchangeKind;
use lapin::options::{
    ExchangeBindOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, ExchangeUnbindOptions,
    QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::ShortString;

/// By what a consistent-hash exchange spreads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashOn {
    /// The whole routing key.
    RoutingKey,
    /// A header's value. Messages without it all go to one queue.
    Header(String),
}

/// What a queue is about to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLook {
    /// Messages that nobody holds.
    pub ready: u32,
    /// Consumers, of all gateways.
    pub consumers: u32,
}

/// A consistent-hash exchange into which nobody can publish directly.
pub async fn ensure_hash_exchange(
    connection: &Connection,
    exchange: &str,
    on: &HashOn,
) -> Result<(), DeclareError> {
    let mut arguments = FieldTable::new();
    match on {
        HashOn::RoutingKey => {}
        HashOn::Header(name) => arguments.set("hash-header", FieldValue::str(name.as_str())),
    }
    let kind = ExchangeKind::Custom("x-consistent-hash".into());
    match declare(connection, exchange, kind, &arguments).await {
        Err(DeclareError::Broker(BrokerError::Refused {
            code: 503, doing, ..
        })) => Err(DeclareError::NoPlugin { doing }),
        other => other,
    }
}

/// An exchange whose messages go to what is bound to it, and all of them to `otherwise` while nothing is: one binding
/// decides, so that no message goes both ways or neither.
pub async fn ensure_switch(
    connection: &Connection,
    exchange: &str,
    otherwise: &str,
) -> Result<(), DeclareError> {
    let mut arguments = FieldTable::new();
    arguments.set("alternate-exchange", FieldValue::str(otherwise));
    declare(connection, exchange, ExchangeKind::Fanout, &arguments).await
}

/// An exchange that only says, by being there, how far a change has come.
pub async fn ensure_mark(connection: &Connection, exchange: &str) -> Result<(), DeclareError> {
    declare(
        connection,
        exchange,
        ExchangeKind::Fanout,
        &FieldTable::new(),
    )
    .await
}

async fn declare(
    connection: &Connection,
    exchange: &str,
    kind: ExchangeKind,
    arguments: &FieldTable,
) -> Result<(), DeclareError> {
    let doing = || format!("declaring exchange {exchange:?}");
    let name = encodable(short(exchange.as_bytes(), "the exchange's name"), doing)?;
    let arguments = encodable(table_to_library(arguments), doing)?;
    let options = ExchangeDeclareOptions {
        durable: true,
        internal: true,
        ..ExchangeDeclareOptions::default()
    };
    let channel = connection.channel().await?;
    let declare = channel
        .lapin
        .exchange_declare(name, kind, options, arguments);
    let declared = channel.call(doing, declare).await;
    declared.map_err(|error| refused(exchange, error))
}

/// What flows from one exchange into another by a binding.
struct Flow {
    into: ShortString,
    from: ShortString,
    key: ShortString,
    arguments: lapin::types::FieldTable,
    channel: Channel,
}

impl Flow {
    async fn of(
        connection: &Connection,
        into: &str,
        from: &str,
        binding: &Binding,
        doing: impl Fn() -> String,
    ) -> Result<Self, BrokerError> {
        Ok(Self {
            into: encodable(short(into.as_bytes(), "the exchange's name"), &doing)?,
            from: encodable(short(from.as_bytes(), "the exchange's name"), &doing)?,
            key: encodable(short(&binding.routing_key, "the binding key"), &doing)?,
            arguments: encodable(table_to_library(&binding.arguments), &doing)?,
            channel: connection.channel().await?,
        })
    }
}

/// Lets messages of one exchange flow into another.
pub async fn bind_exchange(
    connection: &Connection,
    into: &str,
    from: &str,
    binding: &Binding,
) -> Result<(), DeclareError> {
    let doing = || format!("binding exchange {into:?} to exchange {from:?}");
    let flow = Flow::of(connection, into, from, binding, doing).await?;
    let bind = flow.channel.lapin.exchange_bind(
        flow.into,
        flow.from,
        flow.key,
        ExchangeBindOptions::default(),
        flow.arguments,
    );
    match flow.channel.call(doing, bind).await {
        Err(BrokerError::Refused { code: 404, .. }) => Err(DeclareError::NoExchange {
            exchange: from.to_owned(),
            vhost: connection.vhost().to_owned(),
        }),
        Err(error) => Err(refused(from, error)),
        Ok(()) => Ok(()),
    }
}

/// Ends what [`bind_exchange`] began.
pub async fn unbind_exchange(
    connection: &Connection,
    into: &str,
    from: &str,
    binding: &Binding,
) -> Result<(), DeclareError> {
    let doing = || format!("unbinding exchange {into:?} from exchange {from:?}");
    let flow = Flow::of(connection, into, from, binding, doing).await?;
    let unbind = flow.channel.lapin.exchange_unbind(
        flow.into,
        flow.from,
        flow.key,
        ExchangeUnbindOptions::default(),
        flow.arguments,
    );
    let unbound = flow.channel.call(doing, unbind).await;
    unbound.map_err(|error| refused(from, error))
}

/// Ends a queue's binding to an exchange.
pub async fn unbind_queue(
    connection: &Connection,
    queue: &str,
    from: &str,
    binding: &Binding,
) -> Result<(), DeclareError> {
    let doing = || format!("unbinding queue {queue:?} from exchange {from:?}");
    let flow = Flow::of(connection, queue, from, binding, doing).await?;
    let unbind = flow
        .channel
        .lapin
        .queue_unbind(flow.into, flow.from, flow.key, flow.arguments);
    let unbound = flow.channel.call(doing, unbind).await;
    unbound.map_err(|error| refused(from, error))
}

/// Deletes an exchange of setgate's own, if it is there.
pub async fn delete_exchange(connection: &Connection, exchange: &str) -> Result<(), DeclareError> {
    let doing = || format!("deleting exchange {exchange:?}");
    let name = encodable(short(exchange.as_bytes(), "the exchange's name"), doing)?;
    let channel = connection.channel().await?;
    let delete = channel
        .lapin
        .exchange_delete(name, ExchangeDeleteOptions::default());
    let deleted = channel.call(doing, delete).await;
    deleted.map_err(|error| refused(exchange, error))
}

/// Deletes a queue of setgate's own, if it is there, with all that is in it: quorum queues know no deletion of empty ones
/// alone. Whoever calls has made sure.
pub async fn delete_queue(connection: &Connection, queue: &str) -> Result<(), DeclareError> {
    let doing = || format!("deleting queue {queue:?}");
    let name = encodable(short(queue.as_bytes(), "the queue's name"), doing)?;
    let channel = connection.channel().await?;
    let delete = channel
        .lapin
        .queue_delete(name, QueueDeleteOptions::default());
    match channel.call(doing, delete).await {
        Ok(_messages) => Ok(()),
        Err(error) => Err(refused(queue, error)),
    }
}

/// Takes a lock that lasts as long as the connection. [`DeclareError::Busy`] while another has it.
pub async fn lock(connection: &Connection, queue: &str) -> Result<(), DeclareError> {
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    match super::declare::declare(connection, queue, options, &FieldTable::new()).await {
        Ok(()) => Ok(()),
        Err(BrokerError::Refused {
            code: 405, text, ..
        }) => Err(DeclareError::Busy { text }),
        Err(error) => Err(refused(queue, error)),
    }
}

/// What a queue holds and who holds it; none: it isn't there.
pub async fn look(connection: &Connection, queue: &str) -> Result<Option<QueueLook>, BrokerError> {
    let doing = || format!("asking for queue {queue:?}");
    let name = encodable(short(queue.as_bytes(), "the queue's name"), doing)?;
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let channel = connection.channel().await?;
    let none = lapin::types::FieldTable::default();
    let declare = channel.lapin.queue_declare(name, options, none);
    match channel.call(doing, declare).await {
        Ok(found) => Ok(Some(QueueLook {
            ready: found.message_count(),
            consumers: found.consumer_count(),
        })),
        Err(BrokerError::Refused { code: 404, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
