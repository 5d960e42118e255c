//! The shell of one lane: its consumer, its outlets' streams, its acknowledgements.
//!
//! Owns the lane's state machine. One loop picks an event, one synchronous call handles it. Answers come before
//! deliveries, so that finishing work goes before taking work. A lane ends with its channel: whatever is unsettled then
//! comes again to whoever consumes next, so nothing is carried over.

use super::lane_open::open;
use super::large::{Finished, Large};
use super::metrics::MemoryKind;
use super::outlets::{OutletEvent, What, keep_stream};
use super::shared::{Rules, Shared};
use super::source_task::Feeding;
use super::status::{LaneFacts, LaneState, TargetLine};
use crate::broker::{Consumer, ConsumerEvent, ConsumerKind};
use crate::lane::{Action, Lane, LaneSettings, Note, Prefetch, Routing, Target, Window};
use crate::model::{Backoff, LaneId, Parcel, Partition, SourceName};
use crate::rules::{Duplicates, QueueType, Take};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// What a lane is made from; a change of it is another lane.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LaneSpec {
    pub(super) source: SourceName,
    pub(super) partition: Partition,
    pub(super) vhost: Option<String>,
    pub(super) take: Take,
    pub(super) feeding: Feeding,
    pub(super) queue_type: QueueType,
    pub(super) duplicates: Duplicates,
}

/// Deliveries in flight per lane at most. 10,000 a second over a link of 100 ms; each may pin a buffer of 64 KiB that it
/// was read into, which together is an eighth of the default memory.
const DELIVERIES_MAX: u16 = 1_024;

/// The broker resets a connection that it couldn't write to for 30 s; a lane that can't go on lets go long before.
const STALL_MAX: Duration = Duration::from_secs(10);

/// The part of the gateway's memory that one lane's deliveries may take: an eighth, so that the usual handful of lanes
/// stays within half of it, with parcels sharing their bodies. Less when there are more lanes.
const MEMORY_SHARE: usize = 8;

/// Events of a lane's targets that wait for it.
const EVENTS_MAX: usize = 256;

/// A consumer that lived this long was a good one: the next attempt comes at once.
const GOOD_CONSUMER: Duration = Duration::from_secs(10);

/// Keeps the lane going until cancelled, then lets it settle what it has.
pub(super) async fn run(shared: Arc<Shared>, spec: LaneSpec, cancel: CancellationToken) {
    let backoff = Backoff::new(fastrand::u64(..));
    let mut attempt = 0;
    let mut prefetch = Prefetch::new(DELIVERIES_MAX, bytes_max(&shared));
    let mut said = None;
    let subject = format!("lane {}/{}", spec.source, spec.partition);
    let show = |facts| shared.status.set_lane(&spec.source, spec.partition, facts);
    loop {
        let began = Instant::now();
        // Until it is known whether the lane can be opened at all, it isn't down.
        let absent = if said.is_none() {
            LaneState::Opening
        } else {
            LaneState::Down
        };
        let opened = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            opened = open(&shared, &spec, prefetch.get(), absent) => opened,
        };
        let cause = match opened {
            Ok((consumer, kind)) => {
                tracing::info!(source = %spec.source, queue = consumer.queue(), "a lane takes");
                shared.status.clear_fault(&subject);
                said = Some(String::new());
                show(LaneFacts::of(LaneState::Waiting, None));
                let mut taking = Taking::new(Arc::clone(&shared), &spec, &mut prefetch);
                taking.run(consumer, kind, &cancel).await
            }
            Err(cause) => cause,
        };
        if cancel.is_cancelled() {
            break;
        }
        let lived = began.elapsed() > GOOD_CONSUMER;
        attempt = if lived { 0 } else { attempt + 1 };
        if said.as_ref() != Some(&cause) {
            tracing::warn!(source = %spec.source, %cause, "a lane is down");
        }
        let mend = "mend what the message names; the lane tries again by itself";
        shared.status.set_fault(&subject, cause.clone(), mend);
        show(LaneFacts::of(LaneState::Down, Some(cause.clone())));
        said = Some(cause);
        tokio::select! {
            () = tokio::time::sleep(backoff.delay(attempt)) => {}
            () = cancel.cancelled() => break,
        }
    }
    shared.status.clear_fault(&subject);
    shared.status.drop_lane(&spec.source, spec.partition);
}

/// What one lane's deliveries may take of the gateway's memory.
fn bytes_max(shared: &Shared) -> usize {
    shared.memory_bytes / MEMORY_SHARE.max(shared.lanes_taken())
}

/// A lane while it consumes.
struct Taking<'a> {
    shared: Arc<Shared>,
    spec: LaneSpec,
    lane: Lane,
    prefetch: &'a mut Prefetch,
    large: Large,
    senders: HashMap<Target, mpsc::Sender<Parcel>>,
    events: mpsc::Sender<OutletEvent>,
    from_outlets: mpsc::Receiver<OutletEvent>,
    /// Dropped with this, and with it every stream.
    outlets: JoinSet<()>,
    incarnation: u64,
    received_any: bool,
    /// What this lane has added to the gauge of all lanes' memory.
    counted_bytes: i64,
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.count_memory(0);
    }
}

enum Event {
    Stop,
    Outlet(OutletEvent),
    Consumer(ConsumerEvent),
    Large(Option<Finished>),
    Tick,
}

impl<'a> Taking<'a> {
    fn new(shared: Arc<Shared>, spec: &LaneSpec, prefetch: &'a mut Prefetch) -> Self {
        let settings = LaneSettings {
            here: shared.here.unit.clone(),
            source: spec.source.clone(),
            partition: spec.partition,
            limits: shared.limits,
            window: Window {
                deliveries: usize::from(prefetch.get()),
                bytes: bytes_max(&shared),
            },
            duplicates: spec.duplicates.clone(),
        };
        let (events, from_outlets) = mpsc::channel(EVENTS_MAX);
        Self {
            shared,
            spec: spec.clone(),
            lane: Lane::new(settings),
            prefetch,
            large: Large::new(spec.vhost.clone()),
            senders: HashMap::new(),
            events,
            from_outlets,
            outlets: JoinSet::new(),
            incarnation: fastrand::u64(..),
            received_any: false,
            counted_bytes: 0,
        }
    }

    async fn run(
        &mut self,
        mut consumer: Consumer,
        kind: ConsumerKind,
        cancel: &CancellationToken,
    ) -> String {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop_by: Option<Instant> = None;
        let mut grows = false;
        let cause = loop {
            if stop_by.is_some_and(|by| self.lane.in_flight() == 0 || Instant::now() >= by) {
                break "the gateway goes down".to_owned();
            }
            if grows && self.lane.in_flight() == 0 {
                self.prefetch.grow();
                break format!(
                    "its messages have become small: it takes {} at a time",
                    self.prefetch.get()
                );
            }
            // The pieces of a large message are on their way to the park already, whatever the lane has in hand.
            let takes = self.large.has_room()
                && (self.large.is_open() || (stop_by.is_none() && !grows && self.lane.has_room()));
            let event = tokio::select! {
                biased;
                () = cancel.cancelled(), if stop_by.is_none() => Event::Stop,
                Some(event) = self.from_outlets.recv() => Event::Outlet(event),
                finished = self.large.next() => Event::Large(finished),
                event = next(&mut consumer, takes) => Event::Consumer(event),
                _ = tick.tick() => Event::Tick,
            };
            let handled = match event {
                Event::Stop => {
                    stop_by = Some(Instant::now() + self.shared.drain);
                    Ok(Vec::new())
                }
                Event::Tick => {
                    self.report(kind);
                    grows = self.prefetch.should_grow(Instant::now().into_std());
                    match consumer.stalled_since() {
                        Some(since) if since.elapsed() >= STALL_MAX => Err(self.stalled()),
                        Some(_) | None => Ok(Vec::new()),
                    }
                }
                Event::Outlet(event) => Ok(self.on_outlet(event)),
                Event::Large(finished) => self.on_large(finished),
                Event::Consumer(event) => self.on_consumer(event),
            };
            let applied = handled.and_then(|actions| self.apply(actions, &consumer));
            if let Err(cause) = applied {
                self.prefetch.shrink();
                break cause;
            }
            self.pump();
        };
        // The streams first: what their receivers have not published must not overtake what the queue gives again.
        self.senders.clear();
        self.outlets.shutdown().await;
        if let Err(error) = consumer.close().await {
            tracing::debug!(source = %self.spec.source, %error, "closing a lane's channel");
        }
        cause
    }

    /// Why a lane that can't go on gives up its channel.
    fn stalled(&self) -> String {
        let stuck = self.stuck(Instant::now().into_std());
        let why = stuck.as_deref().unwrap_or("its targets are slow");
        format!(
            "it holds {} messages of {} KiB together and has no room for the next one ({why}): it gives the queue up and takes it again with a prefetch that fits",
            self.lane.in_flight(),
            self.lane.cost_bytes() / 1_024,
        )
    }

    fn on_consumer(&mut self, event: ConsumerEvent) -> Result<Vec<Action>, String> {
        self.received_any = true;
        let no_table = || "there is no table any more".to_owned();
        let rules = self.shared.rules().ok_or_else(no_table)?;
        let routing = routing(&rules, &self.spec.source).ok_or_else(no_table)?;
        let at = Shared::moment();
        match event {
            ConsumerEvent::Delivery { tag, message } => {
                self.prefetch.saw(message.body.len());
                Ok(self.lane.take(tag, message, routing, at))
            }
            ConsumerEvent::Large {
                tag,
                message,
                body_bytes,
            } => {
                let (actions, parcel) = self.lane.take_large(tag, message, body_bytes, routing, at);
                self.large.begin(&self.shared, parcel);
                Ok(actions)
            }
            ConsumerEvent::Piece { piece, left } => {
                self.large.piece(piece, left);
                Ok(Vec::new())
            }
            ConsumerEvent::Lost { cause } => Err(cause),
        }
    }

    fn on_large(&mut self, finished: Option<Finished>) -> Result<Vec<Action>, String> {
        let Some(Finished { entry, outcome }) = finished else {
            return Ok(Vec::new());
        };
        match outcome {
            Ok(()) => Ok(self.lane.large_parked(entry)),
            Err(cause) => Err(format!("parking a large message: {cause}")),
        }
    }

    fn on_outlet(&mut self, event: OutletEvent) -> Vec<Action> {
        let OutletEvent { target, what } = event;
        match what {
            What::Up { parcels, credit } => {
                self.senders.insert(target.clone(), parcels);
                self.lane.stream_up(&target, credit.bytes, credit.parcels);
                Vec::new()
            }
            What::Down { cause } => {
                self.senders.remove(&target);
                self.lane.stream_down(&target, cause);
                Vec::new()
            }
            What::Answers(answers) => {
                let Some(rules) = self.shared.rules() else {
                    return Vec::new();
                };
                let Some(routing) = routing(&rules, &self.spec.source) else {
                    return Vec::new();
                };
                let at = Shared::moment();
                self.lane.answered(&target, answers, routing, at)
            }
        }
    }

    fn apply(&mut self, actions: Vec<Action>, consumer: &Consumer) -> Result<(), String> {
        for action in actions {
            match action {
                Action::Acknowledge(settlement) => consumer
                    .acknowledge(&settlement)
                    .map_err(|error| error.to_string())?,
                Action::Open(target) => {
                    self.outlets.spawn(keep_stream(
                        Arc::clone(&self.shared),
                        self.lane_id(),
                        self.spec.vhost.clone(),
                        target,
                        self.events.clone(),
                        self.incarnation,
                    ));
                }
                Action::Close(target) => {
                    self.senders.remove(&target);
                }
                Action::Note(note) => self.note(note),
            }
        }
        Ok(())
    }

    /// Sends what may be sent. The channels have room for a whole credit, so a full one means a stream that is ending.
    fn pump(&mut self) {
        let now = Instant::now().into_std();
        for (target, sender) in &self.senders {
            while let Ok(permit) = sender.try_reserve() {
                match self.lane.next_to_send(target, now) {
                    Some(parcel) => permit.send(parcel),
                    None => break,
                }
            }
        }
    }

    fn note(&self, note: Note) {
        let metrics = &self.shared.metrics;
        let source = &self.spec.source;
        match note {
            Note::Received => metrics.received(source).inc(),
            Note::Delivered { to, transit } => {
                metrics.delivered(source, &to).inc();
                metrics.transit_seconds().observe(transit.as_secs_f64());
            }
            Note::Duplicate { to } => metrics.duplicates(source, &to).inc(),
            Note::Parked { reason } => metrics.parked(source, reason).inc(),
            Note::Dropped { reason } => metrics.dropped(source, reason).inc(),
            Note::SealRefused => metrics.seal_refused().inc(),
            // One line per message is meant: each of them needs a person.
            Note::Parking { reason, cause } => {
                tracing::info!(%source, %reason, %cause, "a message is parked");
            }
        }
    }

    fn count_memory(&mut self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let gauge = self.shared.metrics.memory_bytes(MemoryKind::Lanes);
        gauge.add(bytes - self.counted_bytes);
        self.counted_bytes = bytes;
    }

    fn report(&mut self, kind: ConsumerKind) {
        self.count_memory(self.lane.cost_bytes());
        let now = Instant::now().into_std();
        let stuck = self.stuck(now);
        let mut targets = Vec::new();
        for (target, view) in self.lane.views() {
            let lag_ms = age_ms(now, view.oldest);
            let Target::Unit(to) = target else { continue };
            let metrics = &self.shared.metrics;
            let in_flight = view.unanswered as u64;
            metrics
                .in_flight(&self.spec.source, to)
                .set(i64::try_from(in_flight).unwrap_or(i64::MAX));
            metrics
                .lag(&self.spec.source, to)
                .set(lag_ms as f64 / 1_000.0);
            targets.push(TargetLine {
                to: to.clone(),
                in_flight,
                lag_ms,
                cause: view.cause,
            });
        }
        let state = match (&stuck, self.received_any, kind) {
            (Some(_), _, _) => LaneState::Held,
            (None, true, _) | (None, false, ConsumerKind::Exclusive) => LaneState::Taking,
            (None, false, ConsumerKind::SingleActive) => LaneState::Waiting,
        };
        let facts = LaneFacts {
            state,
            in_flight: self.lane.in_flight() as u64,
            cause: stuck,
            targets,
        };
        self.shared
            .status
            .set_lane(&self.spec.source, self.spec.partition, facts);
    }

    /// The first target that hasn't answered for two seconds, and why.
    fn stuck(&self, now: std::time::Instant) -> Option<String> {
        self.lane.views().find_map(|(target, view)| {
            if view.unanswered == 0 || age_ms(now, view.oldest) <= STUCK_MS {
                return None;
            }
            let cause = view.cause.as_deref().unwrap_or("it does not answer");
            Some(match target {
                Target::Unit(unit) => format!("{unit}: {cause}"),
                Target::Park => format!("the park: {cause}"),
            })
        })
    }

    fn lane_id(&self) -> LaneId {
        LaneId {
            unit: self.shared.here.unit.clone(),
            source: self.spec.source.clone(),
            partition: self.spec.partition,
        }
    }
}

/// A target that leaves a parcel unanswered for longer is said to hold its lane.
const STUCK_MS: u64 = 2_000;

fn age_ms(now: std::time::Instant, since: Option<std::time::Instant>) -> u64 {
    since.map_or(0, |since| {
        u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX)
    })
}

/// The consumer's next event; its end alone, while the lane takes nothing.
async fn next(consumer: &mut Consumer, takes: bool) -> ConsumerEvent {
    if takes {
        consumer.next().await
    } else {
        ConsumerEvent::Lost {
            cause: consumer.ended().await,
        }
    }
}

fn routing<'a>(rules: &'a Rules, source: &SourceName) -> Option<Routing<'a>> {
    Some(Routing {
        table: &rules.table,
        source: rules.table.source(source)?,
        keys: &rules.keys,
    })
}
