//! What was shared before, sent again to one unit: out of a queue or stream that applications have kept it in.
//!
//! Promises that messages go through the lanes of their source, in the order in which they lie there, by the rules as they
//! are now, to that unit alone; that one leaves a queue only when the lane's queue has confirmed it; and that what is
//! broken off goes on where it was.

use super::{Job, ParkError};
use crate::broker::{
    self, Consumer, ConsumerEvent, ConsumerKind, LanePublisher, OpenError, StreamFollower,
    StreamFrom, Streamed,
};
use crate::gateway::brokers::Vhost;
use crate::gateway::into_queues::{Arrived, IntoQueues, Pace, queue_of};
use crate::lane::{PROPERTIES_BYTES_MAX, Stored, Wrapping, wrap};
use crate::model::{DeliveryTag, Message, SourceName, UnitId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// Of a queue: handed out and not in the lane's queue yet, or too large and left there.
const PREFETCH: u16 = 256;

/// A queue or stream that has given nothing for so long has no more.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Where the messages lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackfillFrom {
    /// A stream: they stay in it.
    Stream(String),
    /// A queue: they leave it.
    Queue(String),
}

/// What is to be sent again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackfillAsk {
    /// The source whose rules they follow; they lie in its virtual host.
    pub source: SourceName,
    /// Who gets them.
    pub to: UnitId,
    /// Where they lie.
    pub from: BackfillFrom,
    /// Messages per second; absent: as fast as they go.
    pub rate: Option<u32>,
    /// How many are looked at: what the answer before this one said was left. Absent: all that lie there now.
    pub left: Option<u64>,
    /// Of a stream, what was sent before: the offset that the answer before this one said.
    pub behind: Option<u64>,
}

/// What became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfilled {
    /// How many are in the queues of their source.
    pub sent: u64,
    /// How many were too large.
    pub too_large: u64,
    /// What ended it early.
    pub failed: Option<String>,
    /// What there was no time for: ask again with this. 0 when it is done.
    pub left: u64,
    /// Of a stream, up to where it is sent.
    pub behind: Option<u64>,
}

pub(super) async fn backfill(job: Job, ask: BackfillAsk) -> Result<Backfilled, ParkError> {
    let BackfillAsk { source, to, .. } = &ask;
    let refused = |text: String| Err(ParkError::Refused(text));
    let table = &job.rules.table;
    if *to == job.shared.here.unit {
        return refused(format!("{to} has it already: it lies there"));
    }
    if !table.units().iter().any(|unit| unit.name == *to) {
        return refused(format!("there is no unit {to}"));
    }
    let (vhost, queue) = queue_of(&job.shared, &job.rules, source)
        .await
        .map_err(ParkError::Refused)?;
    let down = |error: &dyn std::fmt::Display| ParkError::Broker(error.to_string());
    let name = match &ask.from {
        BackfillFrom::Stream(name) | BackfillFrom::Queue(name) => name,
    };
    let depth = broker::depth(&vhost.control, name)
        .await
        .map_err(|error| down(&error))?;
    let Some(depth) = depth else {
        let at = vhost.control.vhost();
        return refused(format!("there is no queue {name:?} in virtual host {at}"));
    };
    let opened = LanePublisher::open(&vhost.dialer, "backfill", None).await;
    let publisher = match opened {
        Ok(publisher) => publisher.of_any_size(),
        Err(OpenError::Locked { .. }) => return Err(ParkError::Busy),
        Err(OpenError::Broker(error)) => return Err(down(&error)),
    };
    let feed = open(&job, &vhost, &ask)
        .await
        .map_err(|error| down(&error))?;
    let mut round = Backfill {
        job: &job,
        ask: &ask,
        queue,
        feed,
        ways: IntoQueues::new(publisher, &job.shared.here.space),
        under_way: BTreeSet::new(),
        last: ask.behind,
        done: Backfilled::default(),
    };
    let due = ask.left.unwrap_or(u64::from(depth));
    let ended = round.run(due).await;
    let Backfill {
        feed,
        ways,
        mut done,
        under_way,
        last,
        ..
    } = round;
    match ended {
        Ok(left) => done.left = left,
        Err(cause) => done.failed = Some(cause),
    }
    if let Feed::Stream(_) = &feed {
        let first = under_way.first().map(|first| first.saturating_sub(1));
        done.behind = first.or(last);
    }
    let closed = match feed {
        Feed::Stream(_) => Ok(()),
        Feed::Queue(consumer) => consumer.close().await,
    };
    if let Err(error) = closed.and(ways.close().await) {
        done.failed.get_or_insert(error.to_string());
    }
    Ok(done)
}

enum Feed {
    Stream(StreamFollower),
    Queue(Consumer),
}

async fn open(job: &Job, vhost: &Vhost, ask: &BackfillAsk) -> Result<Feed, broker::BrokerError> {
    const NAME: &str = "backfill";
    let bytes_max = job.shared.limits.body_bytes_max + PROPERTIES_BYTES_MAX;
    let dialer = &vhost.dialer;
    match &ask.from {
        BackfillFrom::Stream(stream) => {
            let from = ask.behind.map_or(StreamFrom::First, StreamFrom::Behind);
            let opened = StreamFollower::open_for(dialer, NAME, stream, from, bytes_max);
            opened.await.map(Feed::Stream)
        }
        BackfillFrom::Queue(queue) => {
            let kind = ConsumerKind::SingleActive;
            let opened = Consumer::open(dialer, NAME, queue, kind, PREFETCH, bytes_max);
            opened.await.map(Feed::Queue)
        }
    }
}

/// One out of the queue or stream, by its delivery tag or its offset; none of a message that is too large.
type Fed = (u64, Option<Message>);

impl Feed {
    /// The next one; `None` for a piece of one that is too large. Given up, it loses nothing.
    async fn next(&mut self) -> Result<Option<Fed>, String> {
        match self {
            Self::Stream(follower) => match follower.next_message().await {
                Ok(Streamed { offset, message }) => Ok(Some((offset, message))),
                Err(end) => Err(end.to_string()),
            },
            Self::Queue(consumer) => match consumer.next().await {
                ConsumerEvent::Delivery { tag, message } => Ok(Some((tag.0, Some(message)))),
                ConsumerEvent::Large { tag, .. } => Ok(Some((tag.0, None))),
                ConsumerEvent::Piece { .. } => Ok(None),
                ConsumerEvent::Lost { cause } => Err(cause),
            },
        }
    }
}

struct Backfill<'a> {
    job: &'a Job,
    ask: &'a BackfillAsk,
    /// Of the source.
    queue: Bytes,
    feed: Feed,
    ways: IntoQueues<u64>,
    /// Not confirmed yet.
    under_way: BTreeSet<u64>,
    /// The newest that was looked at.
    last: Option<u64>,
    done: Backfilled,
}

impl Backfill<'_> {
    /// How many are left that there was no time for.
    async fn run(&mut self, due: u64) -> Result<u64, String> {
        let mut pace = Pace::new(self.ask.rate);
        let mut left = due;
        let ended = loop {
            if left == 0 {
                break Ok(0);
            }
            let (deadline, silence) = (self.job.deadline, Instant::now() + SILENCE_MAX);
            let room = self.ways.has_room();
            let takes = room && Instant::now() >= pace.next();
            tokio::select! {
                biased;
                () = self.job.cancel.cancelled() => break Err("this gateway is ending".to_owned()),
                () = tokio::time::sleep_until(deadline) => break Ok(left),
                arrived = self.ways.next() => if let Err(cause) = self.arrived(arrived) {
                    break Err(cause);
                },
                () = tokio::time::sleep_until(pace.next()), if room && !takes => {}
                // Somebody else has taken the rest, or it has expired.
                () = tokio::time::sleep_until(silence), if takes => break Ok(0),
                fed = self.feed.next(), if takes => match fed {
                    Err(cause) => break Err(cause),
                    Ok(None) => {}
                    Ok(Some(fed)) => {
                        left -= 1;
                        if let Err(cause) = self.send(fed) {
                            break Err(cause);
                        }
                        pace.went();
                    }
                },
            }
        };
        let rest = self.ways.rest().await;
        let arrived = self.arrived(rest);
        ended.and_then(|left| arrived.map(|()| left))
    }

    fn send(&mut self, (place, message): Fed) -> Result<(), String> {
        self.last = Some(place);
        let max = self.job.shared.limits.body_bytes_max;
        let Some(message) = message.filter(|message| message.body.len() <= max) else {
            self.done.too_large += 1;
            return Ok(());
        };
        let stored = Stored::replayed(message, self.ask.to.clone());
        let wrapping = Wrapping {
            keys: &self.job.rules.keys,
            from: &self.job.shared.here.unit,
            source: &self.ask.source,
            at: u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0),
        };
        let (properties, body) = wrap(&stored, wrapping);
        self.under_way.insert(place);
        let queue = self.queue.clone();
        self.ways.put(place, queue, &properties, body)
    }

    fn arrived(&mut self, (arrived, failed): Arrived<u64>) -> Result<(), String> {
        let mut failed = failed;
        for place in arrived {
            self.under_way.remove(&place);
            self.done.sent += 1;
            if let Feed::Queue(consumer) = &mut self.feed
                && let Err(error) = consumer.acknowledge_alone(DeliveryTag(place))
            {
                failed = failed.and(Err(error.to_string()));
            }
        }
        failed
    }
}
