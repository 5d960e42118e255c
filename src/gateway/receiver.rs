//! The receiving end of one lane's stream: parcels in, published under the lane's lock, answers out.
//!
//! Promises that a parcel is answered *accepted* only after the broker has confirmed it, that a lane's parcels are
//! published in its order, and that two receivers never publish for one lane: a newer stream waits for the end of the
//! older, and between gateways the lock queue decides.

use super::brokers::Vhost;
use super::metrics::MemoryKind;
use super::shared::Shared;
use crate::amqp::{CodecError, Edit, FieldValue, RawValue, TextProperty};
use crate::broker::{
    self, BrokerError, Connection, Dialer, LanePublisher, OpenError, Outcome, Publish, PublishId,
    Unroutable,
};
use crate::lane::remaining;
use crate::link::RefusalReason;
use crate::model::marks::{X_SET_IN_DOUBT, X_SET_PARCEL};
use crate::model::{Answer, LaneId, Parcel, ParcelNumber, Reason, own_queues};
use crate::routing::Table;
use crate::wire::{ReceiverPipe, StreamEvent};
use bytes::Bytes;
use prometheus::{Histogram, IntCounter, IntGauge};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// Parcels published and not confirmed at most: 20,000 a second into a classic queue that confirms 200 ms late. Their
/// bytes are bounded by the stream's credit.
const UNCONFIRMED_MAX: usize = 4_096;

/// How long a receiver waits for a lock that another connection holds. A killed holder's is free at once; one that
/// lives is asked by its own gateway's newer stream, so the sender had better try that one.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(100);

/// How long a receiver whose own connection is open waits for the one to ask by: its longest pause between attempts, and
/// the attempt. After a restart of the broker either may be the first; a stream that ended for it would cost the sender
/// a pause of its own.
const CONTROL_PATIENCE: Duration = Duration::from_secs(11);

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
    let vhost = match shared.brokers.vhost(vhost.as_deref()) {
        Ok(vhost) => vhost,
        Err(error) => {
            return refuse(&pipe.words, RefusalReason::BrokerAway, error.to_string()).await;
        }
    };
    let publisher = tokio::select! {
        () = end.cancelled() => return,
        publisher = open_under_lock(&vhost.dialer, &lane, &lock) => publisher,
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
    let control = &vhost.control;
    let up = tokio::select! {
        () = end.cancelled() => return,
        up = timeout(CONTROL_PATIENCE, control.up()) => up,
    };
    if up.is_err() {
        let cause = control.state().cause().unwrap_or_default().to_owned();
        return refuse(&pipe.words, RefusalReason::BrokerAway, cause).await;
    }
    let check = |parcel: &Parcel| match shared.rules() {
        None => Err(Answer::Later {
            cause: "no table".to_owned(),
        }),
        Some(rules) => check(&rules.table, shared, parcel, &lane),
    };
    let end = serve(shared, control, pipe, publisher, check, Full::Waits, end).await;
    if let End::Broken(cause) = end {
        tracing::warn!(%lane, %cause, "a receiver ended");
    }
}

/// Serves the stream of parked messages, which go to this unit's own queue and need no lock.
pub(super) async fn park(
    shared: &Shared,
    vhost: &Vhost,
    pipe: ReceiverPipe,
    end: CancellationToken,
) {
    let publisher = match open_park(shared, vhost).await {
        Ok(publisher) => publisher,
        Err(cause) => return refuse(&pipe.words, RefusalReason::BrokerAway, cause).await,
    };
    let end = serve(
        shared,
        &vhost.control,
        pipe,
        publisher,
        |_| Ok(()),
        Full::Waits,
        end,
    )
    .await;
    if let End::Broken(cause) = end {
        tracing::warn!(%cause, "parking was interrupted");
    }
}

/// Serves the stream into one of the lane's diversions, which is there already and needs no lock either.
pub(super) async fn divert(
    shared: &Shared,
    vhost: &Vhost,
    full: Full,
    pipe: ReceiverPipe,
    end: CancellationToken,
) {
    let publisher = match LanePublisher::open(&vhost.dialer, "divert", None).await {
        Ok(publisher) => publisher.of_any_size(),
        Err(error) => {
            return refuse(&pipe.words, RefusalReason::BrokerAway, error.to_string()).await;
        }
    };
    let check = |_: &Parcel| Ok(());
    let end = serve(shared, &vhost.control, pipe, publisher, check, full, end).await;
    if let End::Broken(cause) = end {
        tracing::warn!(%cause, "diverting was interrupted");
    }
}

/// What becomes of a parcel that the broker refuses, because a queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// It is offered again.
    Waits,
    /// It is refused, for this reason.
    Refused(Reason),
}

/// A publisher into the park queue, which is there when this returns.
pub(super) async fn open_park(shared: &Shared, vhost: &Vhost) -> Result<LanePublisher, String> {
    let queue = own_queues::park(&shared.here.space);
    broker::ensure_own_queue(&vhost.control, &queue, broker::QueueType::Quorum)
        .await
        .map_err(|error| format!("declaring {queue}: {error}"))?;
    let publisher = LanePublisher::open(&vhost.dialer, "park", None)
        .await
        .map_err(|error| error.to_string())?;
    Ok(publisher.of_any_size())
}

async fn refuse(words: &mpsc::Sender<StreamEvent>, reason: RefusalReason, cause: String) {
    // A sender that is gone doesn't need to be told.
    let _ = words.send(StreamEvent::Refused { reason, cause }).await;
}

async fn open_under_lock(
    dialer: &Dialer,
    lane: &LaneId,
    lock: &str,
) -> Result<LanePublisher, OpenError> {
    let name = format!("receives {lane}");
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match LanePublisher::open(dialer, &name, Some(lock)).await {
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
            // No rule names such an exchange, but a message of a foreign queue may.
            Err(error @ BrokerError::Unencodable { .. }) => {
                return Err(Answer::Refused {
                    reason: Reason::Malformed,
                    cause: error.to_string(),
                });
            }
            Err(error) => error.to_string(),
        };
        Err(Answer::Later { cause })
    }
}

async fn serve(
    shared: &Shared,
    connection: &Connection,
    mut pipe: ReceiverPipe,
    publisher: LanePublisher,
    check: impl Fn(&Parcel) -> Result<(), Answer>,
    full: Full,
    end: CancellationToken,
) -> End {
    let up = StreamEvent::Up {
        receiver: shared.here.gateway.clone(),
        credit: pipe.credit,
    };
    let mut ending = match pipe.words.send(up).await {
        Ok(()) => None,
        Err(_) => Some(End::SenderGone),
    };
    let metrics = &shared.metrics;
    let mut publishing = Publishing {
        publisher,
        incarnation: pipe.hello.incarnation.0,
        exchanges: Exchanges {
            connection,
            found: HashSet::new(),
        },
        under_way: HashMap::new(),
        full,
        window: 1,
        in_doubt: metrics.in_doubt(&pipe.hello.source, &shared.here.unit),
        confirm_seconds: metrics.confirm_seconds(),
        memory: Held {
            gauge: metrics.memory_bytes(MemoryKind::Receivers),
            bytes: 0,
        },
    };
    let mut parcels = Vec::new();
    // Whatever ends the stream, what is under way gets its answer first: the publisher gives up on the broker by itself.
    while ending.is_none() || !publishing.under_way.is_empty() {
        let room = publishing.room();
        let event = tokio::select! {
            biased;
            () = end.cancelled(), if ending.is_none() => Event::Superseded,
            outcomes = publishing.publisher.next() => Event::Outcomes(outcomes),
            taken = pipe.parcels.recv_many(&mut parcels, room), if ending.is_none() && room > 0 => {
                Event::Parcels(taken)
            }
        };
        let mut answers = Vec::new();
        let ended = match event {
            Event::Superseded => Some(End::Superseded),
            Event::Outcomes(outcomes) => publishing.on_outcomes(outcomes, &mut answers),
            Event::Parcels(0) => Some(End::SenderGone),
            Event::Parcels(_) => {
                publishing
                    .on_parcels(parcels.drain(..), &check, &mut answers)
                    .await
            }
        };
        ending = ending.or(ended);
        if !answers.is_empty() && say(&pipe.words, answers).await.is_err() {
            ending = ending.or(Some(End::SenderGone));
        }
    }
    // The lock goes with the publisher, after all that was published under it: only then may a newer stream begin.
    if let Err(error) = publishing.publisher.close().await {
        tracing::debug!(%error, "closing a publisher");
    }
    let ending = ending.unwrap_or(End::SenderGone);
    let cause = match &ending {
        End::SenderGone => return ending,
        End::Superseded => "a newer stream of this lane took over, or the gateway goes down",
        End::Broken(cause) => cause,
    };
    let _ = pipe
        .words
        .send(StreamEvent::Down {
            cause: cause.to_owned(),
        })
        .await;
    ending
}

enum Event {
    Superseded,
    Outcomes(Vec<(PublishId, Outcome)>),
    Parcels(usize),
}

/// A stream's parcels between their arrival and the broker's word on them.
struct Publishing<'a> {
    publisher: LanePublisher,
    incarnation: u64,
    exchanges: Exchanges<'a>,
    /// By the parcel's number, which is also the publish's.
    under_way: HashMap<PublishId, UnderWay>,
    /// How many may be under way. Whatever closes the channel costs the confirms of all that is, which comes again
    /// marked. So a new stream begins with one parcel and doubles: what goes before a parcel that closes every channel is
    /// repeated once, not each time.
    window: usize,
    full: Full,
    in_doubt: IntCounter,
    confirm_seconds: Histogram,
    memory: Held,
}

struct UnderWay {
    since: Instant,
    bytes: i64,
}

impl Publishing<'_> {
    /// How many parcels may be taken now.
    fn room(&self) -> usize {
        if self.publisher.has_room() {
            self.window.saturating_sub(self.under_way.len())
        } else {
            0
        }
    }

    /// Publishes what may be published. Says why the stream ends, where it does: what is behind a parcel that has to come
    /// later must not overtake it.
    async fn on_parcels(
        &mut self,
        parcels: impl Iterator<Item = Parcel>,
        check: impl Fn(&Parcel) -> Result<(), Answer>,
        answers: &mut Vec<(ParcelNumber, Answer)>,
    ) -> Option<End> {
        let received = Instant::now();
        for parcel in parcels {
            let number = parcel.number;
            let verdict = match check(&parcel) {
                Ok(()) => self.exchanges.has(&parcel.address.exchange).await,
                refused => refused,
            };
            let bytes = i64::try_from(parcel.cost_bytes()).unwrap_or(i64::MAX);
            let in_doubt = parcel.sent_before;
            let publish = verdict.and_then(|()| {
                publish(parcel, self.incarnation, received.elapsed()).map_err(|error| {
                    Answer::Refused {
                        reason: Reason::Malformed,
                        cause: error.to_string(),
                    }
                })
            });
            match publish {
                Ok(publish) => {
                    if in_doubt {
                        self.in_doubt.inc();
                    }
                    self.memory.add(bytes);
                    let since = Instant::now();
                    self.under_way.insert(publish.id, UnderWay { since, bytes });
                    self.publisher.publish(publish);
                }
                Err(later @ Answer::Later { .. }) => {
                    let end = End::Broken(cause_of(&later));
                    answers.push((number, later));
                    return Some(end);
                }
                Err(answer) => answers.push((number, answer)),
            }
        }
        None
    }

    fn on_outcomes(
        &mut self,
        outcomes: Vec<(PublishId, Outcome)>,
        answers: &mut Vec<(ParcelNumber, Answer)>,
    ) -> Option<End> {
        let mut end = None;
        for (id, outcome) in outcomes {
            let Some(under_way) = self.under_way.remove(&id) else {
                debug_assert!(false, "an outcome of nothing: {id:?}");
                continue;
            };
            self.memory.sub(under_way.bytes);
            self.confirm_seconds
                .observe(under_way.since.elapsed().as_secs_f64());
            match answer(outcome, self.full) {
                Ok(answer) => {
                    if let Answer::Later { .. } = answer {
                        end.get_or_insert_with(|| End::Broken(cause_of(&answer)));
                    }
                    self.window = (self.window + 1).min(UNCONFIRMED_MAX);
                    answers.push((ParcelNumber(id.0), answer));
                }
                Err(cause) => {
                    end.get_or_insert(End::Broken(cause));
                }
            }
        }
        match (end, self.publisher.ended()) {
            (None, Some(cause)) => Some(End::Broken(cause)),
            (end, _) => end,
        }
    }
}

/// What one stream has added to the gauge of all receivers' memory.
struct Held {
    gauge: IntGauge,
    bytes: i64,
}

impl Held {
    fn add(&mut self, bytes: i64) {
        self.gauge.add(bytes);
        self.bytes += bytes;
    }

    fn sub(&mut self, bytes: i64) {
        self.add(-bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.sub(self.bytes);
    }
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
fn publish(parcel: Parcel, incarnation: u64, held: Duration) -> Result<Publish, CodecError> {
    let Parcel {
        number,
        address,
        properties,
        body,
        sent_before,
        ..
    } = parcel;
    let token = format!("{incarnation:x}-{number}");
    let left = properties
        .text(TextProperty::Expiration)
        .map(|expiration| remaining(expiration, held));
    let mut edit = Edit::new();
    edit.set_str(X_SET_PARCEL, &token);
    if sent_before {
        edit.set(X_SET_IN_DOUBT, &FieldValue::Bool(true));
    }
    if let Some(left) = &left {
        edit.set_text(TextProperty::Expiration, left.as_ref());
    }
    Ok(Publish {
        id: PublishId(number.0),
        address,
        properties: edit.apply(&properties)?,
        body,
        unroutable: Unroutable::Return,
    })
}

/// The answer that an outcome is; an unknown outcome has none, and ends the stream.
fn answer(outcome: Outcome, full: Full) -> Result<Answer, String> {
    match outcome {
        Outcome::Confirmed => Ok(Answer::Accepted),
        Outcome::Returned { .. } => Ok(Answer::Returned),
        Outcome::Nacked => {
            let cause = "the broker refused it (nack): a queue that is full rejects publishes";
            let cause = cause.to_owned();
            Ok(match full {
                Full::Waits => Answer::Later { cause },
                Full::Refused(reason) => Answer::Refused { reason, cause },
            })
        }
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
