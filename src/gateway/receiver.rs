//! The receiving end of one lane's stream: parcels in, published under the lane's lock, answers out.
//!
//! Promises that a parcel is answered *accepted* only after the broker has confirmed it, that a lane's parcels are
//! published in its order, and that two receivers never publish for one lane: a newer stream waits for the end of the
//! older, and between gateways the lock queue decides.

use super::metrics::MemoryKind;
use super::shared::Shared;
use crate::amqp::{FieldValue, RawValue};
use crate::broker::{self, Connection, LanePublisher, OpenError, Outcome, Publish, Unroutable};
use crate::lane::remaining;
use crate::link::RefusalReason;
use crate::model::marks::{X_SET_IN_DOUBT, X_SET_PARCEL};
use crate::model::{Answer, LaneId, Parcel, ParcelNumber, Reason, own_queues};
use crate::routing::Table;
use crate::wire::{ReceiverPipe, StreamEvent};
use bytes::Bytes;
use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Parcels published before their confirms are awaited. The library pairs returns with the wrong confirm, so a batch is
/// judged as a whole; above some hundreds its bookkeeping gets slower.
const BATCH_PARCELS: usize = 256;

/// How long a receiver waits for a lock that another connection holds. A killed holder's is free at once; one that
/// lives is asked by its own gateway's newer stream, so the sender had better try that one.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(100);

/// How a stream ended.
pub(super) enum End {
    /// The sender has nothing more to say.
    SenderGone,
    /// A newer stream of the same lane takes over, or the gateway goes down.
    Superseded,
    /// This end gave it up.
    Broken(String),
}

/// Serves one stream of a lane until it ends. `end` is a newer stream's word.
pub(super) async fn receive(shared: &Shared, pipe: ReceiverPipe, end: CancellationToken) {
    let lane = LaneId {
        unit: pipe.hello.from.clone(),
        source: pipe.hello.source.clone(),
        partition: pipe.hello.partition,
    };
    let lock = own_queues::lock(&shared.here.space, &lane);
    let vhost = shared.rules().and_then(|rules| {
        rules
            .table
            .source(&lane.source)
            .map(|source| source.vhost.clone())
    });
    let Some(vhost) = vhost else {
        let cause = format!("the table here has no source {} yet", lane.source);
        return refuse(&pipe.words, RefusalReason::NotReady, cause).await;
    };
    let connection = match shared.brokers.vhost(vhost.as_deref()) {
        Ok(vhost) => vhost.publish,
        Err(error) => {
            return refuse(&pipe.words, RefusalReason::BrokerAway, error.to_string()).await;
        }
    };
    let publisher = tokio::select! {
        () = end.cancelled() => return,
        publisher = open_under_lock(&connection, &lock) => publisher,
    };
    let publisher = match publisher {
        Ok(publisher) => publisher,
        Err(OpenError::Locked { queue }) => {
            let cause = format!("another gateway of {} holds {queue}", shared.here.unit);
            return refuse(&pipe.words, RefusalReason::LaneBusy, cause).await;
        }
        Err(OpenError::Broker(error)) => {
            return refuse(&pipe.words, RefusalReason::BrokerAway, error.to_string()).await;
        }
    };
    let check = |parcel: &Parcel| match shared.rules() {
        None => Err(Answer::Later {
            cause: "no table".to_owned(),
        }),
        Some(rules) => check(&rules.table, shared, parcel, &lane),
    };
    let end = serve(shared, &connection, pipe, publisher, check, end).await;
    if let End::Broken(cause) = end {
        tracing::warn!(%lane, %cause, "a receiver ended");
    }
}

/// Serves the stream of parked messages, which go to this unit's own queue and need no lock.
pub(super) async fn park(
    shared: &Shared,
    connection: &Connection,
    pipe: ReceiverPipe,
    end: CancellationToken,
) {
    let queue = own_queues::park(&shared.here.space);
    let made =
        crate::broker::ensure_own_queue(connection, &queue, crate::broker::QueueType::Quorum).await;
    if let Err(error) = made {
        let cause = format!("declaring {queue}: {error}");
        return refuse(&pipe.words, RefusalReason::BrokerAway, cause).await;
    }
    let publisher = match LanePublisher::open(connection, None).await {
        Ok(publisher) => publisher.of_any_size(),
        Err(error) => {
            return refuse(&pipe.words, RefusalReason::BrokerAway, error.to_string()).await;
        }
    };
    if let End::Broken(cause) = serve(shared, connection, pipe, publisher, |_| Ok(()), end).await {
        tracing::warn!(%queue, %cause, "parking was interrupted");
    }
}

async fn refuse(words: &mpsc::Sender<StreamEvent>, reason: RefusalReason, cause: String) {
    // A sender that is gone doesn't need to be told.
    let _ = words.send(StreamEvent::Refused { reason, cause }).await;
}

async fn open_under_lock(connection: &Connection, lock: &str) -> Result<LanePublisher, OpenError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match LanePublisher::open(connection, Some(lock)).await {
            Err(OpenError::Locked { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(LOCK_RETRY).await;
            }
            opened => return opened,
        }
    }
}

/// What this unit's table says of a parcel before it is published here.
fn check(table: &Table, shared: &Shared, parcel: &Parcel, lane: &LaneId) -> Result<(), Answer> {
    let here = &shared.here.unit;
    let refused = |reason, cause: String| Err(Answer::Refused { reason, cause });
    if parcel.to != *here {
        return refused(
            Reason::Malformed,
            format!("it is for unit {}, this is {here}", parcel.to),
        );
    }
    if parcel.lineage != *table.lineage() {
        return Err(Answer::Later {
            cause: "its table is of another lineage".to_owned(),
        });
    }
    let visits = path_visits(parcel, here);
    if visits != Some(1) {
        return refused(
            Reason::Hops,
            format!("its path doesn't lead to {here} once, at its end"),
        );
    }
    if table.may_deliver(&lane.source, &parcel.address.exchange) {
        return Ok(());
    }
    let exchange = String::from_utf8_lossy(&parcel.address.exchange).into_owned();
    let cause = format!(
        "no rule of source {} delivers to exchange {exchange:?} here",
        lane.source
    );
    if table.revision() < parcel.revision {
        Err(Answer::Later { cause })
    } else {
        refused(Reason::Rule, cause)
    }
}

/// How often `here` occurs in the parcel's path, which has to end with it.
fn path_visits(parcel: &Parcel, here: &crate::model::UnitId) -> Option<usize> {
    let path = parcel.properties.header(crate::model::marks::X_SET_PATH)?;
    let units: Vec<_> = path.as_array()?.collect::<Result<_, _>>().ok()?;
    let is_here = |value: &&RawValue<'_>| value.as_bytes() == Some(here.as_str().as_bytes());
    units.last().filter(is_here)?;
    Some(units.iter().filter(is_here).count())
}

/// The exchanges that a stream has found to be there.
struct Exchanges<'a> {
    connection: &'a Connection,
    /// As many as the source's rules name at most: others are refused before.
    found: HashSet<Bytes>,
}

impl Exchanges<'_> {
    /// An exchange that is missing would end the channel, and with it the answers of all that was published before: that
    /// would be published again at each new attempt.
    async fn has(&mut self, exchange: &Bytes) -> Result<(), Answer> {
        if self.found.contains(exchange) {
            return Ok(());
        }
        let cause = match broker::exchange_exists(self.connection, exchange).await {
            Ok(true) => {
                self.found.insert(exchange.clone());
                return Ok(());
            }
            Ok(false) => format!(
                "there is no exchange {:?} in vhost {}: declare it",
                String::from_utf8_lossy(exchange),
                self.connection.vhost()
            ),
            Err(error) => error.to_string(),
        };
        Err(Answer::Later { cause })
    }
}

async fn serve(
    shared: &Shared,
    connection: &Connection,
    mut pipe: ReceiverPipe,
    mut publisher: LanePublisher,
    check: impl Fn(&Parcel) -> Result<(), Answer>,
    end: CancellationToken,
) -> End {
    let up = StreamEvent::Up {
        receiver: shared.here.gateway.clone(),
        credit: pipe.credit,
    };
    let mut outcome = match pipe.words.send(up).await {
        Ok(()) => None,
        Err(_) => Some(End::SenderGone),
    };
    let in_doubt = shared
        .metrics
        .in_doubt(&pipe.hello.source, &shared.here.unit);
    let confirm_seconds = shared.metrics.confirm_seconds();
    let memory = shared.metrics.memory_bytes(MemoryKind::Receivers);
    let mut exchanges = Exchanges {
        connection,
        found: HashSet::new(),
    };
    let mut parcels = Vec::with_capacity(BATCH_PARCELS);
    // Whatever closes the channel costs the confirms of its batch, which come again marked. A new stream begins with one
    // parcel and doubles, so that what goes before a parcel that closes every channel is repeated once, not each time.
    let mut batch_parcels = 1;
    while outcome.is_none() {
        let taken = tokio::select! {
            biased;
            () = end.cancelled() => {
                outcome = Some(End::Superseded);
                break;
            }
            taken = pipe.parcels.recv_many(&mut parcels, batch_parcels) => taken,
        };
        if taken == 0 {
            outcome = Some(End::SenderGone);
            break;
        }
        batch_parcels = (batch_parcels * 2).min(BATCH_PARCELS);
        let received = Instant::now();
        let mut answers = Vec::with_capacity(taken);
        let mut numbers = Vec::with_capacity(taken);
        let mut batch = Vec::with_capacity(taken);
        let held: usize = parcels.iter().map(Parcel::cost_bytes).sum();
        let held_bytes = i64::try_from(held).unwrap_or(i64::MAX);
        for parcel in parcels.drain(..) {
            let verdict = match check(&parcel) {
                Ok(()) => exchanges.has(&parcel.address.exchange).await,
                refused => refused,
            };
            match verdict {
                Ok(()) => {
                    numbers.push(parcel.number);
                    if parcel.sent_before {
                        in_doubt.inc();
                    }
                    batch.push(publish(
                        parcel,
                        pipe.hello.incarnation.0,
                        received.elapsed(),
                    ));
                }
                Err(later @ Answer::Later { .. }) => {
                    // What is behind it must not overtake it.
                    outcome = Some(End::Broken(cause_of(&later)));
                    answers.push((parcel.number, later));
                    break;
                }
                Err(answer) => answers.push((parcel.number, answer)),
            }
        }
        let published = Instant::now();
        memory.add(held_bytes);
        let outcomes = publisher.publish(batch).await;
        memory.sub(held_bytes);
        confirm_seconds.observe(published.elapsed().as_secs_f64());
        for (number, judged) in numbers.into_iter().zip(outcomes) {
            match answer(judged) {
                Ok(answer) => {
                    if let Answer::Later { .. } = answer {
                        outcome = Some(End::Broken(cause_of(&answer)));
                    }
                    answers.push((number, answer));
                }
                Err(cause) => outcome = Some(End::Broken(cause)),
            }
        }
        if !answers.is_empty() && say(&pipe.words, answers).await.is_err() {
            outcome = Some(End::SenderGone);
        }
    }
    // The lock goes with the publisher, after all that was published under it: only then may a newer stream begin.
    if let Err(error) = publisher.close().await {
        tracing::debug!(%error, "closing a publisher");
    }
    let outcome = outcome.unwrap_or(End::SenderGone);
    let cause = match &outcome {
        End::SenderGone => return outcome,
        End::Superseded => "a newer stream of this lane took over, or the gateway goes down",
        End::Broken(cause) => cause,
    };
    let _ = pipe
        .words
        .send(StreamEvent::Down {
            cause: cause.to_owned(),
        })
        .await;
    outcome
}

async fn say(
    words: &mpsc::Sender<StreamEvent>,
    answers: Vec<(ParcelNumber, Answer)>,
) -> Result<(), mpsc::error::SendError<StreamEvent>> {
    words.send(StreamEvent::Answers(answers)).await
}

fn cause_of(answer: &Answer) -> String {
    match answer {
        Answer::Later { cause } | Answer::Refused { cause, .. } => cause.clone(),
        Answer::Accepted | Answer::Duplicate | Answer::Moved | Answer::Returned => String::new(),
    }
}

/// The marks that only the publishing end knows are put on last; neither is under the seal.
fn publish(parcel: Parcel, incarnation: u64, held: Duration) -> Publish {
    let Parcel {
        number,
        address,
        properties,
        body,
        sent_before,
        ..
    } = parcel;
    let token = format!("{incarnation:x}-{number}");
    // The library takes no bytes. What it can't decode would come from a peer alone: no broker hands such headers out.
    let mut properties = properties.decode().unwrap_or_default();
    let headers = properties.headers_mut();
    headers.set(X_SET_PARCEL, FieldValue::str(&token));
    if sent_before {
        headers.set(X_SET_IN_DOUBT, FieldValue::Bool(true));
    }
    if let Some(expiration) = &properties.expiration {
        properties.expiration = Some(remaining(expiration, held).into_owned().into());
    }
    Publish {
        address,
        properties,
        body,
        unroutable: Unroutable::Return,
        token,
    }
}

/// The answer that an outcome is; an unknown outcome has none, and ends the stream.
fn answer(outcome: Outcome) -> Result<Answer, String> {
    match outcome {
        Outcome::Confirmed => Ok(Answer::Accepted),
        Outcome::Returned { .. } => Ok(Answer::Returned),
        Outcome::Nacked => Ok(Answer::Later {
            cause: "the broker refused it (nack): a queue that is full rejects publishes"
                .to_owned(),
        }),
        Outcome::TooLarge { text } => Ok(Answer::Refused {
            reason: Reason::TooLarge,
            cause: text,
        }),
        Outcome::Unencodable { text } => Ok(Answer::Refused {
            reason: Reason::Malformed,
            cause: text,
        }),
        Outcome::Unknown { cause } | Outcome::Unsent { cause } => Err(cause),
    }
}
