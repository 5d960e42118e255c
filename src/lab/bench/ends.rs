//! Both ends of what is measured: applications that publish at one broker and consume at the other, by lapin.

use super::BenchError;
use super::body::{Body, body};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hdrhistogram::Histogram;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
    QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use std::sync::LazyLock;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// Unconfirmed messages of a publisher.
const UNCONFIRMED_MAX: usize = 1_000;
/// Distinct bodies: made before the clock runs, then sent in turn.
const BODIES: usize = 512;
/// Bytes of all distinct bodies together.
const BODIES_BYTES: usize = 64 * 1024 * 1024;
/// A message that was published at a rate and hasn't come by then stays away.
const STRAGGLERS: Duration = Duration::from_secs(5);
/// The header with the time of a publish, in microseconds by [`micros`].
const SENT: &str = "sent-us";

/// Where messages are published to.
#[derive(Debug, Clone)]
pub(super) struct Address {
    pub(super) exchange: String,
    pub(super) routing_key: String,
}

/// An application's connection to one broker.
pub(super) struct End {
    connection: Connection,
    channel: Channel,
}

/// What is published.
pub(super) struct Load {
    bodies: Vec<Vec<u8>>,
}

impl Load {
    /// Bodies of a kind, the same in each run.
    pub(super) fn new(kind: Body, bytes: usize) -> Self {
        let mut rng = fastrand::Rng::with_seed(5);
        let count = (BODIES_BYTES / bytes.max(1)).clamp(8, BODIES);
        let bodies = (0..count).map(|_| body(kind, bytes, &mut rng)).collect();
        Self { bodies }
    }

    fn body(&self, number: u64) -> &[u8] {
        let index = usize::try_from(number).unwrap_or(0) % self.bodies.len();
        &self.bodies[index]
    }
}

impl End {
    /// Connects as an application.
    pub(super) async fn open(uri: &str) -> Result<Self, BenchError> {
        let connection = Connection::connect(uri, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok(Self {
            connection,
            channel,
        })
    }

    /// Messages that are ready in these queues, together.
    pub(super) async fn ready(&self, queues: &[String]) -> Result<u64, BenchError> {
        let mut sum = 0;
        for queue in queues {
            let passive = QueueDeclareOptions {
                passive: true,
                ..QueueDeclareOptions::default()
            };
            let declared = self
                .channel
                .queue_declare(short(queue), passive, FieldTable::default())
                .await?;
            sum += u64::from(declared.message_count());
        }
        Ok(sum)
    }

    /// Declares a quorum queue, the type that lanes have.
    pub(super) async fn declare_quorum(&self, queue: &str) -> Result<(), BenchError> {
        let mut arguments = FieldTable::default();
        let kind = AMQPValue::LongString("quorum".into());
        arguments.insert(short("x-queue-type"), kind);
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        self.channel
            .queue_declare(short(queue), durable, arguments)
            .await?;
        Ok(())
    }

    /// Empties queues.
    pub(super) async fn purge(&self, queues: &[String]) -> Result<(), BenchError> {
        for queue in queues {
            self.channel
                .queue_purge(short(queue), QueuePurgeOptions::default())
                .await?;
        }
        Ok(())
    }

    /// Publishes so many messages in turn to the addresses, as fast as they are confirmed.
    pub(super) async fn publish(
        &self,
        to: &[Address],
        load: &Load,
        messages: u64,
    ) -> Result<(), BenchError> {
        let channel = self.connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let mut open = FuturesUnordered::new();
        for (number, address) in (0..messages).zip(to.iter().cycle()) {
            while open.len() >= UNCONFIRMED_MAX {
                confirmed(open.next().await)?;
            }
            open.push(publish_one(&channel, address, load.body(number), micros()).await?);
        }
        while !open.is_empty() {
            confirmed(open.next().await)?;
        }
        channel.close(200, "done".into()).await?;
        Ok(())
    }

    /// Publishes at a rate, each message with the time at which it was due: what waits for a slow publisher counts too.
    /// Those of the warm-up have none.
    pub(super) async fn publish_at_rate(
        &self,
        to: &[Address],
        load: &Load,
        interval: Duration,
        warm_up: Duration,
        time: Duration,
    ) -> Result<u64, BenchError> {
        let channel = self.connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        let messages = u32::try_from((warm_up + time).as_nanos() / interval.as_nanos().max(1))
            .unwrap_or(u32::MAX);
        let (begun, begun_micros) = (Instant::now(), micros());
        let mut open = FuturesUnordered::new();
        for (number, address) in (0..messages).zip(to.iter().cycle()) {
            let after = interval * number;
            let due = begun + after;
            let due_micros = if after < warm_up {
                0
            } else {
                begun_micros + u64::try_from(after.as_micros()).unwrap_or(0)
            };
            loop {
                tokio::select! {
                    biased;
                    () = sleep_until(due), if open.len() < UNCONFIRMED_MAX => break,
                    Some(answer) = open.next() => confirmed(Some(answer))?,
                }
            }
            let body = load.body(number.into());
            open.push(publish_one(&channel, address, body, due_micros).await?);
        }
        while !open.is_empty() {
            confirmed(open.next().await)?;
        }
        channel.close(200, "done".into()).await?;
        Ok(messages.into())
    }

    /// Consumes so many messages from the queues and notes how long each took from its publish, in microseconds, where it
    /// says when that was. Gives how many came too; ends early when nothing comes any more.
    pub(super) async fn latencies(
        uri: String,
        queues: Vec<String>,
        mut messages: tokio::sync::watch::Receiver<Option<u64>>,
    ) -> Result<(Histogram<u64>, u64), BenchError> {
        let end = Self::open(&uri).await?;
        let mut streams = Vec::new();
        for queue in &queues {
            let unacknowledged = BasicConsumeOptions {
                no_ack: true,
                ..BasicConsumeOptions::default()
            };
            let consumer = end
                .channel
                .basic_consume(
                    short(queue),
                    short(""),
                    unacknowledged,
                    FieldTable::default(),
                )
                .await?;
            streams.push(consumer);
        }
        let mut all = futures_util::stream::select_all(streams);
        let mut came = 0;
        let mut histogram = Histogram::new(3).map_err(BenchError::histogram)?;
        loop {
            let expected = *messages.borrow_and_update();
            if expected.is_some_and(|expected| came >= expected) {
                break;
            }
            tokio::select! {
                next = timeout(STRAGGLERS, all.next()) => match next {
                    Ok(Some(delivery)) => {
                        came += 1;
                        if let Some(took) = latency(&delivery?.properties) {
                            histogram.record(took.max(1)).map_err(BenchError::histogram)?;
                        }
                    }
                    Ok(None) => break,
                    Err(_) if expected.is_some() => break,
                    Err(_) => {}
                },
                Ok(()) = messages.changed() => {}
            }
        }
        Ok((histogram, came))
    }
}

async fn publish_one(
    channel: &Channel,
    address: &Address,
    body: &[u8],
    sent: u64,
) -> Result<lapin::PublisherConfirm, BenchError> {
    let mut headers = FieldTable::default();
    let user = fastrand::u32(..1_000_000).to_string();
    headers.insert(short("uid"), AMQPValue::LongString(user.into()));
    let sent = i64::try_from(sent).unwrap_or(0);
    headers.insert(short(SENT), AMQPValue::LongLongInt(sent));
    let properties = BasicProperties::default()
        .with_content_type(short("application/json"))
        .with_delivery_mode(2)
        .with_message_id(short(&uuid::Uuid::now_v7().to_string()))
        .with_headers(headers);
    let publish = channel.basic_publish(
        short(&address.exchange),
        short(&address.routing_key),
        BasicPublishOptions::default(),
        body,
        properties,
    );
    Ok(publish.await?)
}

fn confirmed(answer: Option<lapin::Result<lapin::Confirmation>>) -> Result<(), BenchError> {
    match answer {
        Some(Ok(confirmation)) if confirmation.is_ack() => Ok(()),
        Some(Ok(_)) => Err(BenchError::Nacked),
        Some(Err(error)) => Err(error.into()),
        None => Ok(()),
    }
}

/// None of a message of the warm-up.
fn latency(properties: &BasicProperties) -> Option<u64> {
    let sent = properties
        .headers()
        .as_ref()
        .and_then(|headers| headers.inner().get(SENT))
        .and_then(AMQPValue::as_long_long_int)
        .and_then(|sent| u64::try_from(sent).ok());
    let sent = sent.filter(|&sent| sent > 0)?;
    Some(micros().saturating_sub(sent))
}

/// Microseconds since the first call: publishers and consumers are of one process, so one clock times both.
fn micros() -> u64 {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGUN.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn short(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap_or_default()
}
