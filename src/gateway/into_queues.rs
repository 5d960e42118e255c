//! Messages on their way into the queues of their sources.
//!
//! Promises that no more are under way than a bound says, and that each is told of when its queue has confirmed it. After a
//! refusal (a nack, a return) those that were under way behind it may have overtaken it.

use super::brokers::Vhost;
use super::shared::{Rules, Shared};
use crate::amqp::{Edit, RawProperties};
use crate::broker::{self, LanePublisher, Outcome, Publish, PublishId, Unroutable};
use crate::model::marks::X_SET_PARCEL;
use crate::model::{Address, Partition, SourceName, SpaceId, own_queues};
use crate::rules::Take;
use bytes::Bytes;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Under way at once. A quorum queue confirms within some 10 ms, so this gives 6,000 a second.
const UNDER_WAY_MAX: usize = 64;
/// And as bytes of bodies; a larger one goes alone.
const UNDER_WAY_BYTES_MAX: usize = 16 << 20;
/// How long confirms are waited for at the end. A queue that is slower keeps what it got, and gets it again.
const LAST_CONFIRMS: Duration = Duration::from_secs(5);

/// The queue of a source in this unit, with a way into it.
pub(super) async fn queue_of(
    shared: &Shared,
    rules: &Rules,
    name: &SourceName,
) -> Result<(Vhost, Bytes), String> {
    let here = &shared.here;
    let taken = rules.table.sources_of(&here.unit);
    let source = taken.into_iter().find(|source| source.name == *name);
    let source = source.ok_or_else(|| format!("source {name} is not taken in this unit"))?;
    let vhost = shared.brokers.vhost(source.vhost.as_deref());
    let vhost = vhost.map_err(|error| error.to_string())?;
    let queue = match &source.take {
        Take::Exchange { .. } => own_queues::lane(&here.space, name, Partition(0)),
        Take::Queue { queue } => queue.clone(),
    };
    let exchange = own_queues::retry(&here.space);
    let way = broker::ensure_way(&vhost.control, &exchange, &queue).await;
    way.map_err(|error| error.to_string())?;
    Ok((vhost, queue.into()))
}

/// What queues have confirmed, by its tickets, and why others aren't in theirs.
pub(super) type Arrived<T> = (Vec<T>, Result<(), String>);

/// See the file's head.
pub(super) struct IntoQueues<T> {
    publisher: LanePublisher,
    exchange: Bytes,
    under_way: HashMap<PublishId, (T, usize)>,
    under_way_bytes: usize,
    numbers: u64,
}

impl<T> IntoQueues<T> {
    pub(super) fn new(publisher: LanePublisher, space: &SpaceId) -> Self {
        Self {
            publisher,
            exchange: own_queues::retry(space).into(),
            under_way: HashMap::new(),
            under_way_bytes: 0,
            numbers: 0,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.publisher.has_room()
            && self.under_way.len() < UNDER_WAY_MAX
            && self.under_way_bytes < UNDER_WAY_BYTES_MAX
    }

    /// Sends one on its way.
    pub(super) fn put(
        &mut self,
        ticket: T,
        queue: Bytes,
        properties: &RawProperties,
        body: Bytes,
    ) -> Result<(), String> {
        self.numbers += 1;
        let id = PublishId(self.numbers);
        let mut edit = Edit::new();
        edit.set_str(X_SET_PARCEL, format!("{:x}", self.numbers));
        let properties = edit.apply(properties).map_err(|error| error.to_string())?;
        self.under_way_bytes += body.len();
        self.under_way.insert(id, (ticket, body.len()));
        self.publisher.publish(Publish {
            id,
            address: Address {
                exchange: self.exchange.clone(),
                routing_key: queue,
            },
            properties,
            body,
            unroutable: Unroutable::Return,
        });
        Ok(())
    }

    /// What has arrived meanwhile. Given up, it loses nothing.
    pub(super) async fn next(&mut self) -> Arrived<T> {
        let outcomes = self.publisher.next().await;
        self.answered(outcomes)
    }

    /// Waits for all that are under way.
    pub(super) async fn rest(&mut self) -> Arrived<T> {
        let deadline = Instant::now() + LAST_CONFIRMS;
        let (mut arrived, mut failed) = (Vec::new(), Ok(()));
        while !self.under_way.is_empty() {
            let outcomes = tokio::time::timeout_at(deadline, self.publisher.next()).await;
            let Ok(outcomes) = outcomes else {
                let late = "the broker has not confirmed all; what it has not is where it was";
                return (arrived, failed.and(Err(late.to_owned())));
            };
            let (more, result) = self.answered(outcomes);
            arrived.extend(more);
            failed = failed.and(result);
        }
        (arrived, failed)
    }

    /// Ends its connection, and gives back what was locked with it.
    pub(super) async fn close(self) -> Result<(), broker::BrokerError> {
        self.publisher.close().await
    }

    fn answered(&mut self, outcomes: Vec<(PublishId, Outcome)>) -> Arrived<T> {
        let (mut arrived, mut failed) = (Vec::new(), Ok(()));
        for (id, outcome) in outcomes {
            let Some((ticket, bytes)) = self.under_way.remove(&id) else {
                continue;
            };
            self.under_way_bytes -= bytes;
            let cause = match outcome {
                Outcome::Confirmed => {
                    arrived.push(ticket);
                    continue;
                }
                Outcome::Nacked => "the source's queue is full (nack)".to_owned(),
                Outcome::Returned { text, .. } => format!("the source's queue is gone: {text}"),
                Outcome::TooLarge { text } | Outcome::Unencodable { text } => text,
                Outcome::Unknown { cause } | Outcome::Unsent { cause } => cause,
            };
            failed = failed.and(Err(cause));
        }
        (arrived, failed)
    }
}

/// When the next one may go.
pub(super) struct Pace {
    every: Duration,
    next: Instant,
}

impl Pace {
    /// So many a second; `None`: as fast as they go.
    pub(super) fn new(rate: Option<u32>) -> Self {
        let every = rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.max(1));
        Self {
            every,
            next: Instant::now(),
        }
    }

    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    pub(super) fn went(&mut self) {
        self.next = self.next.max(Instant::now()) + self.every;
    }
}
