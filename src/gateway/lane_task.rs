//! The shell of one lane: its consumer, its outlets' streams, its acknowledgements.
//!
//! Owns the lane's state machine. One loop picks an event, one synchronous call handles it. Answers come before
//! deliveries, so that finishing work goes before taking work; what was diverted comes before what is new. A lane ends
//! with its channel: whatever is unsettled then comes again to whoever consumes next, so nothing is carried over.

use super::drains::{Drained, Drains};
use super::fencing::Party;
use super::knock::{KNOCK_AFTER, KNOCK_EVERY, knock};
use super::lane_open::{found_diversions, new_incarnation, open};
use super::large::{Finished, Large};
use super::outlets::{OutletEvent, What, keep_stream};
use super::shared::Shared;
use super::source_task::Feeding;
use super::status::{LaneFacts, LaneState};
use crate::broker::{self, Consumer, ConsumerEvent, ConsumerKind};
use crate::lane::{
    Action, Done, Feed, Lane, LaneSettings, Prefetch, Reach, Ready, Routing, Silence, Target,
    Window,
};
use crate::model::{Backoff, Parcel, Partition, SourceName};
use crate::rules::{Divert, Duplicates, QueueType, Take};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
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
    pub(super) divert: Divert,
}

/// Deliveries that a lane asks for: 16,000 a second over a round trip of 200 ms into a queue that confirms 300 ms late. How
/// many it has in flight is for its rate and distance to say ([`Reach`]), and for its memory; the others wait in the
/// connection, unread.
const DELIVERIES_MAX: u16 = 8_192;

/// Deliveries of all lanes may take half of the gateway's memory: the other half is for what connections hold, for frames
/// under way, and for receivers. Parcels share their bodies.
const LANES_SHARE: usize = 2;

/// So many lanes share that, even where there are fewer.
const LANES_LEAST: usize = 4;

/// How often a lane looks at its targets and diversions.
const BEAT: Duration = Duration::from_millis(100);

/// How often it says how it fares.
const BEATS_PER_REPORT: u32 = 10;

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
pub(super) fn bytes_max(shared: &Shared) -> usize {
    shared.memory_bytes / LANES_SHARE / LANES_LEAST.max(shared.lanes_taken())
}

/// A lane while it consumes.
pub(super) struct Taking<'a> {
    pub(super) shared: Arc<Shared>,
    pub(super) spec: LaneSpec,
    pub(super) lane: Lane,
    pub(super) prefetch: &'a mut Prefetch,
    reach: Reach,
    large: Large,
    senders: HashMap<Target, mpsc::Sender<Parcel>>,
    events: mpsc::Sender<OutletEvent>,
    from_outlets: mpsc::Receiver<OutletEvent>,
    /// Dropped with this, and with it every stream.
    outlets: JoinSet<()>,
    drains: Drains,
    incarnation: u64,
    pub(super) received_any: bool,
    /// Since it last listened.
    heard: bool,
    silence: Silence,
    /// How many messages its queue has ready; one look at a time.
    looks: JoinSet<Ready>,
    /// What is under way here of slots that are being moved; from when it takes on.
    fenced: Option<Party>,
    /// What this lane has added to the gauge of all lanes' memory.
    pub(super) counted_bytes: i64,
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        self.count_memory(0);
    }
}

enum Event {
    Stop,
    Outlet(OutletEvent),
    Drained(Drained),
    Consumer(ConsumerEvent),
    Large(Option<Finished>),
    Looked(Ready),
    Beat,
}

impl<'a> Taking<'a> {
    fn new(shared: Arc<Shared>, spec: &LaneSpec, prefetch: &'a mut Prefetch) -> Self {
        let incarnation = new_incarnation();
        let reach = Reach::default();
        let settings = LaneSettings {
            here: shared.here.unit.clone(),
            source: spec.source.clone(),
            partition: spec.partition,
            limits: shared.limits,
            window: Window {
                deliveries: reach.deliveries(usize::from(prefetch.get())),
                bytes: bytes_max(&shared),
            },
            duplicates: spec.duplicates.clone(),
            incarnation,
        };
        let (events, from_outlets) = mpsc::channel(EVENTS_MAX);
        Self {
            drains: Drains::new(Arc::clone(&shared), spec.clone()),
            shared,
            spec: spec.clone(),
            lane: Lane::new(settings),
            prefetch,
            reach,
            large: Large::new(spec.vhost.clone()),
            senders: HashMap::new(),
            events,
            from_outlets,
            outlets: JoinSet::new(),
            incarnation,
            received_any: false,
            heard: false,
            silence: Silence::default(),
            looks: JoinSet::new(),
            fenced: None,
            counted_bytes: 0,
        }
    }

    async fn run(
        &mut self,
        mut consumer: Consumer,
        kind: ConsumerKind,
        cancel: &CancellationToken,
    ) -> String {
        let cause = match self.begin(&mut consumer, kind, cancel).await {
            Ok(first) => self.go_on(&mut consumer, kind, first, cancel).await,
            Err(cause) => cause,
        };
        // The streams first: what their receivers have not published must not overtake what the queues give again.
        self.senders.clear();
        self.outlets.shutdown().await;
        self.drains.close().await;
        self.fenced = None;
        if let Err(error) = consumer.close().await {
            tracing::debug!(source = %self.spec.source, %error, "closing a lane's channel");
        }
        cause
    }

    /// Waits until the queue is this lane's: its diversions are too, from then on. Gives what was handed over first.
    async fn begin(
        &mut self,
        consumer: &mut Consumer,
        kind: ConsumerKind,
        cancel: &CancellationToken,
    ) -> Result<Option<ConsumerEvent>, String> {
        let stopped = || GOES_DOWN.to_owned();
        let first = match kind {
            ConsumerKind::Exclusive => None,
            ConsumerKind::SingleActive => Some(tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(stopped()),
                event = self.first(consumer) => event,
            }),
        };
        let found = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(stopped()),
            found = found_diversions(&self.shared, &self.spec) => found?,
        };
        for (unit, _) in found {
            let at = Shared::moment();
            let actions = self.routed(|lane, routing| lane.diversion_found(&unit, routing, at))?;
            self.apply(actions, consumer)?;
        }
        Ok(first)
    }

    /// What is handed over first, after knocking where nothing is. `mut`, since drains that open aren't `Sync`.
    async fn first(&mut self, consumer: &mut Consumer) -> ConsumerEvent {
        let mut knocks = interval_at(Instant::now() + KNOCK_AFTER, KNOCK_EVERY);
        knocks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = tokio::select! {
                biased;
                event = consumer.next() => return event,
                _ = knocks.tick() => knock(&self.shared, &self.spec),
            };
            // It is given up when something comes: then there is no need for it.
            let knocked = tokio::select! {
                event = consumer.next() => return event,
                knocked = due => knocked,
            };
            if let Err(cause) = knocked {
                tracing::debug!(source = %self.spec.source, %cause, "knocking at a lane's queue");
            }
        }
    }

    async fn go_on(
        &mut self,
        consumer: &mut Consumer,
        kind: ConsumerKind,
        mut first: Option<ConsumerEvent>,
        cancel: &CancellationToken,
    ) -> String {
        self.fenced = Some(self.shared.fencing.join());
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = 0u32;
        let mut stop_by: Option<Instant> = None;
        let mut grows = false;
        loop {
            let in_flight = self.lane.in_flight();
            let works_off = self.prefetch.works_off();
            let done = in_flight == 0 && self.lane.drains_in_flight() == 0 && !works_off;
            if stop_by.is_some_and(|by| done || Instant::now() >= by) {
                return GOES_DOWN.to_owned();
            }
            if grows && in_flight == 0 {
                self.prefetch.grow();
                return format!(
                    "its messages have become small: it takes {} at a time",
                    self.prefetch.get()
                );
            }
            // The pieces of a large message are on their way to the park already, whatever the lane has in hand.
            // While its source is fenced, it works off what it has and what is diverted, by the rules that are in force yet.
            let takes = self.large.has_room()
                && (self.large.is_open()
                    || ((stop_by.is_none() || works_off)
                        && !grows
                        && self.lane.has_room()
                        && !self.is_fenced()));
            let (lane, now) = (&self.lane, Instant::now().into_std());
            let event = tokio::select! {
                biased;
                () = cancel.cancelled(), if stop_by.is_none() => Event::Stop,
                // Before what may always be there.
                _ = beat.tick() => Event::Beat,
                Some(event) = self.from_outlets.recv() => Event::Outlet(event),
                Some(ready) = self.looks.join_next() => Event::Looked(ready.unwrap_or(Ready::Unjudged)),
                finished = self.large.next() => Event::Large(finished),
                drained = self.drains.next(|unit| lane.drain_has_room(unit, now)) => {
                    Event::Drained(drained)
                }
                event = next(consumer, &mut first, takes) => Event::Consumer(event),
            };
            let handled = match event {
                Event::Stop => {
                    stop_by = Some(Instant::now() + self.shared.drain);
                    let at = Shared::moment();
                    self.routed(|lane, routing| lane.stop(routing, at))
                }
                Event::Beat => {
                    beats = beats.wrapping_add(1);
                    self.measure();
                    if beats % BEATS_PER_REPORT == 1 {
                        self.report(kind);
                        grows = self.prefetch.should_grow(Instant::now().into_std());
                        self.listen(takes && in_flight == 0, consumer.queue());
                    }
                    self.hold(consumer).and_then(|()| {
                        let at = Shared::moment();
                        let due = self.routed(|lane, routing| lane.tick(routing, at));
                        self.say_fenced();
                        due
                    })
                }
                Event::Looked(ready) => {
                    let verdict = self.silence.tick(ready, Instant::now().into_std());
                    verdict.cause().map_or(Ok(Vec::new()), Err)
                }
                Event::Outlet(event) => Ok(self.on_outlet(event)),
                Event::Large(finished) => self.on_large(finished),
                Event::Drained(drained) => self.on_drained(drained),
                // The fence came with it: it waits for the end of that, as what the queue has still.
                Event::Consumer(
                    event @ (ConsumerEvent::Delivery { .. } | ConsumerEvent::Large { .. }),
                ) if self.is_fenced() => {
                    first = Some(event);
                    Ok(Vec::new())
                }
                Event::Consumer(event) => self.on_consumer(event),
            };
            let applied = handled.and_then(|actions| self.apply(actions, consumer));
            if let Err(cause) = applied {
                self.prefetch.shrink();
                return cause;
            }
            self.pump();
        }
    }

    /// Several times a second, while slots are being moved: what of them is under way.
    fn say_fenced(&self) {
        if let (Some(party), Some(rules)) = (&self.fenced, self.shared.rules())
            && rules.table.has_fences()
        {
            let table = &rules.table;
            party.says(table, self.lane.fenced_in_flight(table));
        }
    }

    /// With each beat: as many in flight as its rate needs.
    fn measure(&mut self) {
        let units = self.senders.keys().filter_map(|target| match target {
            Target::Unit(unit) => self.shared.links.distance(unit),
            Target::Diversion(_) | Target::Park => None,
        });
        let distance = units.max().unwrap_or_default();
        let now = Instant::now().into_std();
        let done = Done {
            settled: self.lane.settled(),
            in_flight: self.lane.in_flight(),
        };
        self.reach.measure(done, distance, now);
        let max = usize::from(self.prefetch.get());
        self.lane.set_deliveries(self.reach.deliveries(max));
    }

    /// Once a second: a lane that hears nothing looks whether its queue has something for it.
    fn listen(&mut self, is_idle: bool, queue: &str) {
        let heard = std::mem::take(&mut self.heard);
        if heard || !is_idle || !self.received_any {
            return self.silence.delivered();
        }
        let vhost = self.shared.brokers.vhost(self.spec.vhost.as_deref());
        let (Ok(vhost), true) = (vhost, self.looks.is_empty()) else {
            return;
        };
        let queue = queue.to_owned();
        self.looks.spawn(async move {
            match broker::depth(&vhost.control, &queue).await {
                Ok(Some(ready)) => Ready::Messages(u64::from(ready)),
                Ok(None) | Err(_) => Ready::Unjudged,
            }
        });
    }

    /// Asks the lane something that it needs the rules for.
    fn routed(
        &mut self,
        ask: impl FnOnce(&mut Lane, Routing<'_>) -> Vec<Action>,
    ) -> Result<Vec<Action>, String> {
        let no_table = || "there is no table any more".to_owned();
        let rules = self.shared.rules().ok_or_else(no_table)?;
        let source = rules.table.source(&self.spec.source);
        let routing = Routing {
            table: &rules.table,
            source: source.ok_or_else(no_table)?,
            keys: &rules.keys,
        };
        Ok(ask(&mut self.lane, routing))
    }

    fn is_fenced(&self) -> bool {
        let rules = self.shared.rules.borrow();
        let table = rules.as_ref().map(|rules| &rules.table);
        table.is_some_and(|table| table.has_fences() && table.is_source_fenced(&self.spec.source))
    }

    fn on_consumer(&mut self, event: ConsumerEvent) -> Result<Vec<Action>, String> {
        self.received_any = true;
        self.heard = true;
        let at = Shared::moment();
        if let ConsumerEvent::Delivery { message, .. } | ConsumerEvent::Large { message, .. } =
            &event
            && !message.redelivered
        {
            self.prefetch.saw_new();
        }
        match event {
            ConsumerEvent::Delivery { tag, message } => {
                self.prefetch.saw(message.body.len());
                self.routed(|lane, routing| lane.take(tag, message, routing, at))
            }
            ConsumerEvent::Large {
                tag,
                message,
                body_bytes,
            } => {
                let mut large = None;
                let actions = self.routed(|lane, routing| {
                    let (actions, parcel) = lane.take_large(tag, message, body_bytes, routing, at);
                    large = Some(parcel);
                    actions
                })?;
                if let Some(parcel) = large {
                    self.large.begin(&self.shared, parcel);
                }
                Ok(actions)
            }
            ConsumerEvent::Piece { piece, left } => {
                self.large.piece(piece, left);
                Ok(Vec::new())
            }
            ConsumerEvent::Lost { cause } => Err(cause),
        }
    }

    fn on_drained(&mut self, drained: Drained) -> Result<Vec<Action>, String> {
        let Drained { unit, event } = drained;
        let at = Shared::moment();
        match event {
            ConsumerEvent::Delivery { tag, message } => {
                self.routed(|lane, routing| lane.take_diverted(&unit, tag, message, routing, at))
            }
            ConsumerEvent::Lost { cause } => {
                tracing::warn!(source = %self.spec.source, %unit, %cause, "a drain was interrupted");
                self.routed(|lane, routing| lane.drain_lost(&unit, routing, at))
            }
            // A lane puts nothing in that is so large, so nobody knows what it is: it stays where it is.
            ConsumerEvent::Large { body_bytes, .. } => Err(format!(
                "the diversion of {unit} has a message of {body_bytes} bytes that no lane can have put there: take it out"
            )),
            ConsumerEvent::Piece { .. } => Ok(Vec::new()),
        }
    }

    fn on_large(&mut self, finished: Option<Finished>) -> Result<Vec<Action>, String> {
        let Some(Finished { entry, outcome }) = finished else {
            return Ok(Vec::new());
        };
        let at = Shared::moment();
        match outcome {
            Ok(()) => self.routed(|lane, routing| lane.large_parked(entry, routing, at)),
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
                let at = Shared::moment();
                let answered =
                    self.routed(|lane, routing| lane.answered(&target, answers, routing, at));
                // Without a table nothing is settled; the lane ends by its next delivery.
                answered.unwrap_or_default()
            }
        }
    }

    fn apply(&mut self, actions: Vec<Action>, consumer: &Consumer) -> Result<(), String> {
        for action in actions {
            match action {
                Action::Acknowledge(Feed::Source, settlement) => consumer
                    .acknowledge(&settlement)
                    .map_err(|error| error.to_string())?,
                Action::Acknowledge(Feed::Diversion(unit), settlement) => {
                    self.drains.acknowledge(&unit, &settlement);
                }
                Action::Drain(unit) => self.drains.begin(unit),
                Action::Undrain(unit) => self.drains.end(&unit),
                Action::Open(target) => {
                    self.outlets.spawn(keep_stream(
                        Arc::clone(&self.shared),
                        self.spec.clone(),
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
}

/// Why a lane ends that is stopped.
const GOES_DOWN: &str = "the gateway goes down";

/// The consumer's next event, after the one that is there already; its end alone, while the lane takes nothing.
async fn next(
    consumer: &mut Consumer,
    first: &mut Option<ConsumerEvent>,
    takes: bool,
) -> ConsumerEvent {
    if !takes {
        return ConsumerEvent::Lost {
            cause: consumer.ended().await,
        };
    }
    match first.take() {
        Some(event) => event,
        None => consumer.next().await,
    }
}
