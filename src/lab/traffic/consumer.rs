//! One application queue's consumer: accounts for each delivery, then acknowledges it.

use super::TrafficError;
use super::client::{Connected, PAUSE_MAX, PAUSE_MIN, connect};
use super::publisher::short;
use super::run::Shared;
use crate::lab::checker::{Handed, Mark, UnitIndex};
use crate::model::{Epoch, Why};
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer as Deliveries, ExchangeKind};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Unacknowledged deliveries per consumer; 500 bodies of 16 MiB would be a mistake of whoever asks for them.
const PREFETCH: u16 = 500;

/// Deliveries acknowledged at a time. An acknowledgement costs as much as five deliveries, one for 64 next to nothing.
const BATCH_MAX: usize = 64;

/// What the marks of a delivery say of its way.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub(super) to: Option<String>,
    pub(super) why: Option<Why>,
    pub(super) epoch: Option<Epoch>,
    pub(super) in_doubt: Option<bool>,
}

/// One queue's consumer.
pub(super) struct Consumer {
    pub(super) unit: UnitIndex,
    /// The exchange that the queue is bound to; the queue is `app.<exchange>`.
    pub(super) exchange: String,
    pub(super) shared: Arc<Shared>,
}

impl Consumer {
    /// Declares the queue and consumes, on the caller's first connection.
    pub(super) async fn start(&self, at: &Connected) -> Result<Deliveries, TrafficError> {
        let failed = at.failed("consuming from an application queue");
        let channel = at.connection.create_channel().await.map_err(&failed)?;
        let channel = self.declare(at, channel).await?;
        channel
            .basic_qos(PREFETCH, BasicQosOptions::default())
            .await
            .map_err(&failed)?;
        channel
            .basic_consume(
                short(&self.queue()),
                short(""),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(&failed)
    }

    /// Consumes until told to stop; connects anew whenever the connection is lost.
    pub(super) async fn run(self, at: Connected, first: Deliveries, stop: CancellationToken) {
        let mut live = Some((at, first));
        let mut pause = PAUSE_MIN;
        while !stop.is_cancelled() {
            let fresh = match live.take() {
                Some(live) => Ok(live),
                None => self.reconnect().await,
            };
            match fresh {
                Ok((at, deliveries)) => {
                    pause = PAUSE_MIN;
                    let ended = stop
                        .run_until_cancelled(self.consume(&at, deliveries))
                        .await;
                    match ended {
                        None => at.close().await,
                        Some(Ok(())) => tracing::debug!("a consumer's channel ended"),
                        Some(Err(error)) => tracing::debug!(%error, "a consumer connects anew"),
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "a consumer's broker is away");
                    stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    fn queue(&self) -> String {
        format!("app.{}", self.exchange)
    }

    async fn reconnect(&self) -> Result<(Connected, Deliveries), TrafficError> {
        let at = connect(
            &self.shared.plan.units[usize::from(self.unit.0)],
            "consumer",
        )
        .await?;
        let deliveries = self.start(&at).await?;
        Ok((at, deliveries))
    }

    /// The queue as the application made it, whatever its type; made here where there is none.
    async fn declare(&self, at: &Connected, channel: Channel) -> Result<Channel, TrafficError> {
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let found = channel
            .queue_declare(short(&self.queue()), passive, FieldTable::default())
            .await;
        if found.is_ok() {
            return Ok(channel);
        }
        // The broker's 404 has closed that channel.
        let failed = at.failed("declaring an application queue");
        let channel = at.connection.create_channel().await.map_err(&failed)?;
        // Before the queue: one that is left without its binding would be found, and believed, by the next run.
        let there = ExchangeDeclareOptions {
            passive: true,
            ..ExchangeDeclareOptions::default()
        };
        channel
            .exchange_declare(
                short(&self.exchange),
                ExchangeKind::Topic,
                there,
                FieldTable::default(),
            )
            .await
            .map_err(&failed)?;
        channel
            .queue_declare(
                short(&self.queue()),
                QueueDeclareOptions::durable(),
                FieldTable::default(),
            )
            .await
            .map_err(&failed)?;
        channel
            .queue_bind(
                short(&self.queue()),
                short(&self.exchange),
                short("#"),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(&failed)?;
        Ok(channel)
    }

    async fn consume(&self, at: &Connected, deliveries: Deliveries) -> Result<(), TrafficError> {
        let failed = at.failed("consuming");
        let mut batches = deliveries.ready_chunks(BATCH_MAX);
        while let Some(batch) = batches.next().await {
            let mut last: Option<Delivery> = None;
            let mut broken = None;
            for delivery in batch {
                match delivery {
                    Ok(delivery) => {
                        self.account(&delivery);
                        last = Some(delivery);
                    }
                    Err(error) => broken = Some(error),
                }
            }
            if let Some(error) = broken {
                return Err(failed(error));
            }
            if let Some(delivery) = last {
                let all = BasicAckOptions { multiple: true };
                delivery.acker.ack(all).await.map_err(&failed)?;
            }
        }
        Ok(())
    }

    fn account(&self, delivery: &Delivery) {
        let marks = delivery
            .properties
            .headers()
            .as_ref()
            .map_or_else(Marks::default, read_marks);
        let handed = if delivery.redelivered {
            Handed::Again
        } else {
            Handed::First
        };
        self.shared
            .delivered(self.unit, &delivery.data, &marks, handed);
    }
}

impl Marks {
    pub(super) fn mark(&self) -> Mark {
        match self.in_doubt {
            Some(true) => Mark::InDoubt,
            Some(false) | None => Mark::Clean,
        }
    }
}

fn read_marks(headers: &FieldTable) -> Marks {
    let mut marks = Marks::default();
    for (name, value) in headers {
        match (name.as_str(), value) {
            ("x-set-to", AMQPValue::LongString(to)) => {
                marks.to = Some(String::from_utf8_lossy(to.as_bytes()).into_owned());
            }
            ("x-set-why", AMQPValue::LongString(why)) => {
                marks.why = Why::from_word(why.as_bytes());
            }
            ("x-set-epoch", AMQPValue::LongLongInt(epoch)) => {
                marks.epoch = u64::try_from(*epoch).ok().map(Epoch);
            }
            ("x-set-in-doubt", AMQPValue::Boolean(in_doubt)) => marks.in_doubt = Some(*in_doubt),
            _ => {}
        }
    }
    marks
}
