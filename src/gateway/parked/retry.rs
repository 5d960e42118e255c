//! Giving parked messages back to the lanes that took them.
//!
//! Promises that a message leaves the park only after the queue of its source has confirmed it; that messages go in the
//! order in which they were parked, at a rate; and that nothing is retried twice by one command, though it be parked
//! again at once. After a refusal (a nack, a return) those that were under way behind it may have overtaken it. A kill in
//! between repeats a message under the same retry number: a duplicate, for as long as ids are remembered.

use super::entry::{BodyAt, Filter, Read};
use super::{Job, Park, ParkError, SILENCE_MAX, Taken};
use crate::gateway::brokers::Vhost;
use crate::gateway::into_queues::{Arrived, Pace, queue_of};
use crate::lane::{Unwrapped, Wrapping, wrap_retry};
use crate::model::{DeliveryTag, SourceName};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use tokio::time::Instant;

/// What is to be retried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryAsk {
    /// Which.
    pub filter: Filter,
    /// Messages per second; absent: as fast as they go.
    pub rate: Option<u32>,
    /// How many are looked at in each virtual host, from the oldest on: what the answer before this one said was left.
    /// Absent: all that lie there now.
    pub left: Option<BTreeMap<String, u64>>,
}

/// What became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    /// How many are back in the queues of their sources.
    pub retried: u64,
    /// How many were meant and stay, by why.
    pub skipped: BTreeMap<String, u64>,
    /// What ended it early; what is not retried lies in the park as before.
    pub failed: Option<String>,
    /// What there was no time for: ask again with this. Empty when it is done.
    pub left: BTreeMap<String, u64>,
}

impl Retried {
    fn skip(&mut self, skipped: BTreeMap<String, u64>) {
        for (why, count) in skipped {
            *self.skipped.entry(why).or_default() += count;
        }
    }
}

pub(super) async fn retry(job: Job, ask: RetryAsk) -> Result<Retried, ParkError> {
    let mut retried = Retried::default();
    let mut pace = Pace::new(ask.rate);
    for vhost in job.vhosts()? {
        let name = vhost.control.vhost().to_owned();
        let due = match &ask.left {
            None => None,
            Some(left) => match left.get(&name) {
                None => continue,
                due => due.copied(),
            },
        };
        let Some(park) = job.open(&vhost).await? else {
            continue;
        };
        let due = due.unwrap_or(park.waiting).min(park.waiting);
        let mut round = Round {
            job: &job,
            vhost: &vhost,
            park,
            filter: &ask.filter,
            queues: HashMap::new(),
            done: 0,
            skipped: BTreeMap::new(),
        };
        let ended = round.run(due, &mut pace).await;
        let Round {
            park,
            done,
            skipped,
            ..
        } = round;
        let closed = park.close().await;
        retried.retried += done;
        match ended {
            Ok(End::Through) => retried.skip(skipped),
            // What was skipped is looked at again, and counted then.
            Ok(End::NoTime) => {
                retried.left.insert(name, due.saturating_sub(done));
            }
            Err(cause) => {
                retried.skip(skipped);
                retried.failed = Some(cause);
            }
        }
        if let Err(error) = closed {
            retried.failed.get_or_insert(error.to_string());
        }
        if retried.failed.is_some() {
            break;
        }
    }
    Ok(retried)
}

enum End {
    /// All that were due have been looked at.
    Through,
    /// Some were not.
    NoTime,
}

/// One park queue being retried.
struct Round<'a> {
    job: &'a Job,
    vhost: &'a Vhost,
    park: Park,
    filter: &'a Filter,
    /// Of the sources met so far: the queue, or why there is no way to it.
    queues: HashMap<SourceName, Result<Bytes, String>>,
    /// Gone from the park.
    done: u64,
    skipped: BTreeMap<String, u64>,
}

impl Round<'_> {
    async fn run(&mut self, due: u64, pace: &mut Pace) -> Result<End, String> {
        let mut left = due;
        let ended = loop {
            if left == 0 {
                break Ok(End::Through);
            }
            let (deadline, silence) = (self.job.deadline, Instant::now() + SILENCE_MAX);
            let room = self.park.ways.has_room();
            let takes = room && Instant::now() >= pace.next();
            tokio::select! {
                biased;
                () = self.job.cancel.cancelled() => break Err("this gateway is ending".to_owned()),
                () = tokio::time::sleep_until(deadline) => break Ok(End::NoTime),
                arrived = self.park.ways.next() => {
                    if let Err(cause) = self.arrived(arrived) {
                        break Err(cause);
                    }
                }
                () = tokio::time::sleep_until(pace.next()), if room && !takes => {}
                () = tokio::time::sleep_until(silence), if takes => break Ok(End::NoTime),
                taken = self.park.reader.next(), if takes => match taken {
                    Err(error) => break Err(error.to_string()),
                    Ok(None) => {}
                    Ok(Some(taken)) => {
                        left -= 1;
                        match self.take(taken).await {
                            Ok(Went::On) => pace.went(),
                            Ok(Went::Nowhere) => {}
                            Err(cause) => break Err(cause),
                        }
                    }
                },
            }
        };
        let rest = self.park.ways.rest().await;
        let confirmed = self.arrived(rest);
        match (ended, confirmed) {
            (Err(cause), _) | (Ok(_), Err(cause)) => Err(cause),
            (Ok(end), Ok(())) => Ok(end),
        }
    }

    async fn take(&mut self, taken: Taken) -> Result<Went, String> {
        let Taken {
            tag, message, body, ..
        } = taken;
        let read = self.job.read(&message, body, &self.park.vhost);
        if !read.is_meant(self.filter) {
            return Ok(Went::Nowhere);
        }
        match self.way(read, body).await {
            Ok((unwrapped, source, queue)) => {
                self.publish(tag, unwrapped, &source, queue)?;
                Ok(Went::On)
            }
            Err(why) => {
                *self.skipped.entry(why).or_default() += 1;
                Ok(Went::Nowhere)
            }
        }
    }

    /// Where a message is to go, or why it stays.
    async fn way(
        &mut self,
        read: Read,
        body: BodyAt,
    ) -> Result<(Unwrapped, SourceName, Bytes), String> {
        let unwrapped = read.wrapped.map_err(|error| error.to_string())?;
        let max = self.job.shared.limits.body_bytes_max;
        let bytes = match body {
            BodyAt::Hand => unwrapped.message.body.len() as u64,
            BodyAt::Pieces(bytes) => bytes,
        };
        if bytes > max as u64 {
            return Err(format!(
                "a body above message_max ({max} bytes) would be parked again: raise it first"
            ));
        }
        let source = unwrapped.source.clone();
        if !self.queues.contains_key(&source) {
            let queue = self.queue_of(&source).await;
            self.queues.insert(source.clone(), queue);
        }
        match self.queues.get(&source) {
            Some(Ok(queue)) => Ok((unwrapped, source, queue.clone())),
            Some(Err(why)) => Err(why.clone()),
            None => Err(format!("source {source} is unknown")),
        }
    }

    /// The queue of a source, with a way into it.
    async fn queue_of(&self, name: &SourceName) -> Result<Bytes, String> {
        let Job { shared, rules, .. } = self.job;
        let (vhost, queue) = queue_of(shared, rules, name).await?;
        let now = vhost.control.vhost();
        if now != self.vhost.control.vhost() {
            return Err(format!("source {name} is taken in virtual host {now} now"));
        }
        Ok(queue)
    }

    fn publish(
        &mut self,
        tag: DeliveryTag,
        unwrapped: Unwrapped,
        source: &SourceName,
        queue: Bytes,
    ) -> Result<(), String> {
        let Job { shared, rules, .. } = self.job;
        let at = unwrapped.at;
        let wrapping = Wrapping {
            keys: &rules.keys,
            from: &shared.here.unit,
            source,
            at,
        };
        let (properties, body) = wrap_retry(unwrapped, wrapping);
        self.park.ways.put(tag, queue, &properties, body)
    }

    fn arrived(&mut self, (arrived, failed): Arrived<DeliveryTag>) -> Result<(), String> {
        let mut failed = failed;
        for tag in arrived {
            match self.park.reader.consumer.acknowledge_alone(tag) {
                Ok(()) => self.done += 1,
                Err(error) => failed = failed.and(Err(error.to_string())),
            }
        }
        failed
    }
}

/// What became of one that was looked at.
enum Went {
    /// It is under way.
    On,
    /// It stays.
    Nowhere,
}
