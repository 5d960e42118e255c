//! The receiving end of one lane's stream: parcels in, published under the lane's lock, answers out.
//!
//! The shell of [`Receiver`]: owns the publisher and the lane's lock, and asks table and broker. Promises that a lane's
//! parcels are published in its order, and that two receivers never publish for one lane: a newer stream waits for the end
//! of the older, and between gateways the lock queue decides, which its holder gives up when it is asked.

use super::exchanges::Exchanges;
use super::failpoint::Seam;
use super::fencing::Party;
use super::held::Held;
use super::journal::Write;
use super::last_marks::{Marker, publish};
use super::metrics::MemoryKind;
use super::shared::Shared;
use crate::broker::{Connection, Dialer, LanePublisher, OpenError, Outcome, PublishId};
use crate::link::receiver::{Actions, Batch, Fact, Full, Mark, Offer, Receiver, check};
use crate::link::{Hello, RefusalReason};
use crate::model::{
    Answer, BodyHash, LaneId, Parcel, ParcelNumber, SealKeys, Slot, UnitId, Why, own_queues,
};
use crate::wire::{ReceiverPipe, StreamEvent};
use prometheus::{Histogram, IntCounter};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// How long a receiver waits for a lock that another connection holds. A killed holder's is free at once, one that lives
/// lets go when it is asked, within its broker's confirms; a frozen one's is free after three of its heartbeats of 5 s.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);
const LOCK_RETRY: Duration = Duration::from_millis(100);

/// A holder that has only just taken the lane can't hear what was asked before.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How long a stream waits for the right to deliver; without it, it carries what needs none.
const RIGHT_PATIENCE: Duration = Duration::from_secs(2);

/// How long a stream waits for a journal that hasn't been read at all, before its sender tries another gateway.
const READ_PATIENCE: Duration = Duration::from_secs(1);

/// How long the journal may take to be read up to a lane's mark: 600,000 entries were read in less than ten seconds, and a
/// window's worth is some 100,000.
const TAKE_PATIENCE: Duration = Duration::from_secs(30);

/// How long an ended stream waits for the journal: a broker that is back takes no longer.
const JOURNAL_PATIENCE: Duration = Duration::from_secs(10);

/// More than a receiver has under way in the journal.
const JOURNALED_MAX: usize = 16;

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
    // A stream that began without it would put its first parcels off, and leave in doubt what it had got.
    tokio::select! {
        () = end.cancelled() => return,
        () = shared.rights.wait(RIGHT_PATIENCE) => {}
    }
    // Before the lock: whoever has it knows what was received, and goes on until this gateway does.
    let is_read = tokio::select! {
        () = end.cancelled() => return,
        is_read = shared.journal.is_read(READ_PATIENCE) => is_read,
    };
    if !is_read {
        let cause = format!(
            "{} has not read the journal of {} yet; if it stays so, see the state of its broker",
            shared.here.gateway, shared.here.unit
        );
        return refuse(&pipe.words, RefusalReason::NotReady, cause).await;
    }
    let publisher = tokio::select! {
        () = end.cancelled() => return,
        publisher = open_under_lock(shared, &vhost.dialer, &lane, &lock) => publisher,
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
    // What whoever had the lane before has written comes first: only then is known what is known.
    let taken = tokio::select! {
        () = end.cancelled() => return,
        taken = timeout(TAKE_PATIENCE, shared.journal.take(&lane)) => taken,
    };
    if taken.is_err() {
        let cause = "the unit's journal can't be read and written: see the broker's state";
        return refuse(&pipe.words, RefusalReason::BrokerAway, cause.to_owned()).await;
    }
    let serving = shared.journal.serving(&lane, &end);
    let kind = Kind::Lane(&lane);
    let end = serve(shared, control, pipe, publisher, kind, end).await;
    drop(serving);
    if let End::Broken(cause) = end {
        tracing::warn!(%lane, %cause, "a receiver ended");
    }
}

pub(super) async fn refuse(
    words: &mpsc::Sender<StreamEvent>,
    reason: RefusalReason,
    cause: String,
) {
    // A sender that is gone doesn't need to be told.
    let _ = words.send(StreamEvent::Refused { reason, cause }).await;
}

async fn open_under_lock(
    shared: &Shared,
    dialer: &Dialer,
    lane: &LaneId,
    lock: &str,
) -> Result<LanePublisher, OpenError> {
    let name = format!("receives {lane}");
    let deadline = Instant::now() + LOCK_PATIENCE;
    let mut ask_at = Instant::now();
    loop {
        match LanePublisher::open(dialer, &name, Some(lock)).await {
            Err(OpenError::Locked { .. }) if Instant::now() < deadline => {
                if Instant::now() >= ask_at {
                    shared.journal.ask(lane).await;
                    ask_at = Instant::now() + ASK_EVERY;
                }
                tokio::time::sleep(LOCK_RETRY).await;
            }
            opened => return opened,
        }
    }
}

/// Where parcels come from, and what is remembered of them.
pub(super) enum Kind<'a> {
    /// A lane of some unit: what it has confirmed is known by its identity, and journaled.
    Lane(&'a LaneId),
    /// This gateway's own lanes, into their park or a diversion: what is in there is whatever its lane says it is.
    Own(Full),
}

pub(super) async fn serve(
    shared: &Shared,
    connection: &Connection,
    mut pipe: ReceiverPipe,
    publisher: LanePublisher,
    kind: Kind<'_>,
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
    let (done, mut journaled) = mpsc::channel(JOURNALED_MAX);
    let mut publishing = Publishing::new(shared, connection, &pipe.hello, publisher, kind, done);
    let mut parcels = Vec::new();
    let mut give_up = None;
    let mut rules = shared.rules.clone();
    let mut rights = shared.rights.watch();
    let is_of_lane = matches!(publishing.kind, Kind::Lane(_));
    // Whatever ends the stream, what is under way gets its answer first: the publisher gives up on the broker by itself,
    // and the journal is waited for so long.
    while ending.is_none() || !publishing.receiver.is_done() {
        let room = publishing.room();
        let event = tokio::select! {
            biased;
            () = end.cancelled(), if ending.is_none() => Event::Superseded,
            outcomes = publishing.publisher.next() => Event::Outcomes(outcomes),
            Some(ticket) = journaled.recv() => Event::Journaled(ticket),
            taken = pipe.parcels.recv_many(&mut parcels, room), if ending.is_none() && room > 0 => {
                Event::Parcels(taken)
            }
            () = until(give_up), if publishing.under_way.is_empty() => break,
            Ok(()) = rules.changed() => Event::NewTable,
            Ok(()) = rights.changed(), if is_of_lane => {
                if !*rights.borrow_and_update() {
                    return fenced(&pipe.words, publishing).await;
                }
                continue;
            }
        };
        let mut actions = Actions::default();
        let ended = match event {
            Event::Superseded => Some(End::Superseded),
            Event::Outcomes(outcomes) => publishing.on_outcomes(outcomes, &mut actions),
            Event::Journaled(ticket) => {
                publishing.on_journaled(ticket, &mut actions);
                None
            }
            Event::NewTable => None,
            Event::Parcels(0) => Some(End::SenderGone),
            Event::Parcels(_) => {
                publishing.on_parcels(parcels.drain(..), &mut actions).await;
                None
            }
        };
        publishing.write().await;
        publishing.say_fenced();
        ending = ending.or(ended).or(actions.end.map(End::Broken));
        let answers = actions.answers;
        if !answers.is_empty() && say(&pipe.words, answers).await.is_err() {
            ending = ending.or(Some(End::SenderGone));
        }
        if ending.is_some() && give_up.is_none() {
            publishing.receiver.stop();
            give_up = Some(Instant::now() + JOURNAL_PATIENCE);
        }
    }
    publishing.end().await;
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

/// The right to deliver has ended: what is under way is given up at once, with its connection, and is in doubt.
async fn fenced(words: &mpsc::Sender<StreamEvent>, publishing: Publishing<'_>) -> End {
    let cause = format!("{} may not deliver any more", publishing.shared.here.unit);
    drop(publishing);
    let _ = words
        .send(StreamEvent::Down {
            cause: cause.clone(),
        })
        .await;
    End::Broken(cause)
}

/// Never, without a time.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

enum Event {
    Superseded,
    Outcomes(Vec<(PublishId, Outcome)>),
    Journaled(u64),
    Parcels(usize),
    NewTable,
}

/// A stream's parcels between their arrival and the last word on them.
struct Publishing<'a> {
    shared: &'a Shared,
    kind: Kind<'a>,
    receiver: Receiver,
    publisher: LanePublisher,
    /// The sender's unit, and the start of its lane.
    from: UnitId,
    incarnation: u64,
    exchanges: Exchanges<'a>,
    /// By the parcel's number, which is also the publish's.
    under_way: HashMap<PublishId, UnderWay>,
    done: mpsc::Sender<u64>,
    counters: Counters,
    memory: Held,
    /// What is under way here of slots that are being moved.
    fenced: Party,
    /// There was something that it had no right to deliver.
    denied: bool,
}

struct UnderWay {
    since: Instant,
    bytes: i64,
    slot: Option<Slot>,
    why: Why,
}

struct Counters {
    duplicates: IntCounter,
    reused: IntCounter,
    in_doubt: IntCounter,
    confirm_seconds: Histogram,
}

impl<'a> Publishing<'a> {
    fn new(
        shared: &'a Shared,
        connection: &'a Connection,
        hello: &Hello,
        publisher: LanePublisher,
        kind: Kind<'a>,
        done: mpsc::Sender<u64>,
    ) -> Self {
        let metrics = &shared.metrics;
        let lane = LaneId {
            unit: hello.from.clone(),
            source: hello.source.clone(),
            partition: hello.partition,
        };
        let full = match &kind {
            Kind::Lane(_) => Full::Waits,
            Kind::Own(full) => *full,
        };
        Self {
            shared,
            kind,
            receiver: Receiver::new(lane, full),
            publisher,
            from: hello.from.clone(),
            incarnation: hello.incarnation.0,
            exchanges: Exchanges::new(connection),
            under_way: HashMap::new(),
            done,
            counters: Counters {
                duplicates: metrics.duplicates(&hello.source, &hello.from),
                reused: metrics.id_reused(&hello.source),
                in_doubt: metrics.in_doubt(&hello.source, &shared.here.unit),
                confirm_seconds: metrics.confirm_seconds(),
            },
            memory: Held::of(metrics.memory_bytes(MemoryKind::Receivers)),
            fenced: shared.fencing.join(),
            denied: false,
        }
    }

    /// How many parcels may be taken now.
    fn room(&self) -> usize {
        if self.publisher.has_room() {
            self.receiver.room()
        } else {
            0
        }
    }

    /// Publishes what may be published.
    async fn on_parcels(&mut self, parcels: impl Iterator<Item = Parcel>, actions: &mut Actions) {
        let received = Instant::now();
        let rules = self.shared.rules();
        let (journal, here) = (&self.shared.journal, &self.shared.here.unit);
        for parcel in parcels {
            let mut hashed = None;
            let (identities, verdict) = match (&self.kind, &rules) {
                (Kind::Own(_), _) => (None, Ok(())),
                (Kind::Lane(_), None) => {
                    let cause = "no table".to_owned();
                    (None, Err(Answer::Later { cause }))
                }
                (Kind::Lane(lane), Some(rules)) => {
                    let (lane, keys) = (*lane, &*rules.keys);
                    // First whether it belongs here at all: what has another seat is to go there, right or no right.
                    let checked = check(&rules.table, here, &parcel, lane);
                    let (_, body) = hashed.insert((keys, keys.body(&parcel.body)));
                    (
                        keys.identities(lane, &parcel, body),
                        checked.and_then(|()| self.may(&parcel)),
                    )
                }
            };
            let verdict = match verdict {
                Ok(()) => self.exchanges.has(&parcel.address.exchange).await,
                refused => refused,
            };
            let offer = Offer {
                parcel,
                identities,
                verdict,
            };
            self.receiver.offer(&journal.seen().lock(), offer, actions);
            // The one that was offered, or none.
            for (parcel, mark) in std::mem::take(&mut actions.publish) {
                let keys = hashed.as_ref().map(|(keys, body)| (*keys, body));
                self.publish(parcel, mark, keys, received, actions);
            }
        }
        let Counters {
            duplicates,
            reused,
            in_doubt,
            confirm_seconds: _,
        } = &self.counters;
        duplicates.inc_by(actions.duplicates);
        reused.inc_by(actions.reused);
        in_doubt.inc_by(actions.in_doubt);
    }

    /// Whether this gateway may deliver what goes to whoever serves it. Once it may not, it doesn't on this stream any more:
    /// what comes later must not be in front of what was put off.
    fn may(&mut self, parcel: &Parcel) -> Result<(), Answer> {
        let by_seat = match parcel.why {
            Why::Owner | Why::Center | Why::Standby | Why::Gray | Why::Pin => true,
            Why::Shared | Why::Units | Why::Local => false,
        };
        if by_seat && (self.denied || !self.shared.rights.holds()) {
            self.denied = true;
            let unit = &self.shared.here.unit;
            let cause = format!("{unit} may not deliver now: see its status");
            return Err(Answer::Later { cause });
        }
        Ok(())
    }

    fn publish(
        &mut self,
        parcel: Parcel,
        mark: Mark,
        keys: Option<(&SealKeys, &BodyHash)>,
        received: Instant,
        actions: &mut Actions,
    ) {
        let number = parcel.number;
        let under_way = UnderWay {
            since: Instant::now(),
            bytes: i64::try_from(parcel.cost_bytes()).unwrap_or(i64::MAX),
            slot: parcel.slot,
            why: parcel.why,
        };
        let by = Marker {
            from: &self.from,
            incarnation: self.incarnation,
            keys,
        };
        match publish(parcel, mark, by, received.elapsed()) {
            Ok(publish) => {
                self.memory.add(under_way.bytes);
                self.under_way.insert(publish.id, under_way);
                self.publisher.publish(publish);
            }
            Err(error) => {
                let text = error.to_string();
                self.outcome(number, Outcome::Unencodable { text }, actions);
            }
        }
    }

    fn outcome(&mut self, number: ParcelNumber, outcome: Outcome, actions: &mut Actions) {
        let journal = &self.shared.journal;
        let mut seen = journal.seen().lock();
        self.receiver
            .outcome(&mut seen, number, outcome, journal.now(), actions);
    }

    fn on_outcomes(
        &mut self,
        outcomes: Vec<(PublishId, Outcome)>,
        actions: &mut Actions,
    ) -> Option<End> {
        for (id, outcome) in outcomes {
            let Some(under_way) = self.under_way.remove(&id) else {
                debug_assert!(false, "an outcome of nothing: {id:?}");
                continue;
            };
            self.memory.sub(under_way.bytes);
            self.counters
                .confirm_seconds
                .observe(under_way.since.elapsed().as_secs_f64());
            self.outcome(ParcelNumber(id.0), outcome, actions);
        }
        self.publisher.ended().map(End::Broken)
    }

    fn on_journaled(&mut self, ticket: u64, actions: &mut Actions) {
        self.receiver.journaled(ticket, actions);
        self.counters.duplicates.inc_by(actions.duplicates);
        let seam = Seam::Journaled;
        self.shared.failpoint.pass(seam, actions.answers.len());
    }

    /// During a move: what of it is published and not confirmed here.
    fn say_fenced(&self) {
        let rules = self.shared.rules();
        let Some(rules) = rules.filter(|rules| rules.table.has_fences()) else {
            return;
        };
        let table = &rules.table;
        let here = &self.shared.here.unit;
        let fenced = |one: &&UnderWay| table.is_fenced(one.slot, one.why, here);
        let in_flight = match &self.kind {
            Kind::Lane(lane) if table.is_source_fenced(&lane.source) => self.under_way.len(),
            Kind::Lane(_) => self.under_way.values().filter(fenced).count(),
            // On its way into a diversion or the park: it is delivered nowhere.
            Kind::Own(_) => 0,
        };
        self.fenced.says(table, in_flight);
    }

    /// Hands over to the journal what it is to have.
    async fn write(&mut self) {
        while let Some(Batch { ticket, records }) = self.receiver.to_journal() {
            let confirmed = records.iter().map(|record| match &record.fact {
                Fact::Confirmed(ids) => ids.len(),
                _ => 0,
            });
            self.shared.failpoint.pass(Seam::Confirmed, confirmed.sum());
            let write = Write {
                ticket,
                records,
                note: None,
                done: self.done.clone(),
            };
            self.shared.journal.write(write).await;
        }
    }

    /// The lock goes with the publisher, after all that was published under it is confirmed and journaled: only then may
    /// another stream begin. One that can't say so leaves what its sender sends again in doubt.
    async fn end(self) {
        match &self.kind {
            Kind::Lane(lane) if self.receiver.is_done() => {
                let released = timeout(JOURNAL_PATIENCE, self.shared.journal.release(lane)).await;
                if released.is_err() {
                    tracing::warn!(%lane, "a lane is let go without the journal's word");
                }
            }
            Kind::Lane(lane) => {
                tracing::warn!(%lane, "a lane is let go with something not in the journal");
            }
            Kind::Own(_) => {}
        }
        if let Err(error) = self.publisher.close().await {
            tracing::debug!(%error, "closing a publisher");
        }
    }
}

async fn say(
    words: &mpsc::Sender<StreamEvent>,
    answers: Vec<(ParcelNumber, Answer)>,
) -> Result<(), mpsc::error::SendError<StreamEvent>> {
    words.send(StreamEvent::Answers(answers)).await
}
