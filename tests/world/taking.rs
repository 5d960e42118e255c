//! A lane while it consumes, as its shell is: the machine with its streams, its drains, its acknowledgements.

use crate::broker::{Heard, Name, Said};
use crate::facts::{FACTS, unit_of};
use crate::gateway::Surroundings;
use crate::journal::is_due;
use crate::receiving::MESSAGE_MAX;
use crate::wire::{For, Piece};
use setgate::lane::{
    Action, DRAIN_DELIVERIES, Feed, Lane, LaneSettings, Limits, Moment, Routing, Target, Window,
};
use setgate::link::{Batcher, Decoder, Frame, Hello, Incarnation, PROTOCOL};
use setgate::model::{Answer, Backoff, DeliveryTag, Message, ParcelNumber, Partition, UnitId};
use setgate::rules::Duplicates;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Of one lane: small, so that half of it is soon filled.
pub(crate) const DELIVERIES_MAX: u16 = 16;

const BEAT: Duration = Duration::from_millis(100);
const DRAIN_MAX: Duration = Duration::from_secs(5);
const GOOD_STREAM: Duration = Duration::from_secs(10);

/// Why a lane ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its channel is gone.
    Lost,
    /// It has been stopped, and is through.
    Stopped,
}

/// See the file's head.
pub(crate) struct Taking {
    gateway: usize,
    consumer: u64,
    lane: Lane,
    incarnation: u64,
    outlets: BTreeMap<Target, Keeping>,
    /// None: it couldn't be opened.
    drains: BTreeMap<UnitId, Option<u64>>,
    beat: Instant,
    stop_by: Option<Instant>,
}

/// One target's stream, kept open.
struct Keeping {
    attempt: u32,
    backoff: Backoff,
    stream: Option<Stream>,
    retry_at: Instant,
}

struct Stream {
    id: u64,
    began: Instant,
    is_up: bool,
    /// The lane hasn't given it up.
    sends: bool,
    batcher: Batcher,
    decoder: Decoder,
}

impl Taking {
    /// The queue has given this lane its first message, so that its diversions are its own.
    pub(crate) fn new(
        gateway: usize,
        consumer: u64,
        table: usize,
        at: &mut Surroundings<'_>,
    ) -> Self {
        let incarnation = at.random.u64(..);
        let mut taking = Self {
            gateway,
            consumer,
            lane: Lane::new(LaneSettings {
                here: FACTS.units[unit_of(gateway)].clone(),
                source: FACTS.source.clone(),
                partition: Partition(0),
                limits: Limits {
                    body_bytes_max: MESSAGE_MAX,
                    rounds_max: crate::account::ROUNDS_MAX,
                },
                window: Window {
                    deliveries: usize::from(DELIVERIES_MAX),
                    bytes: 64 << 20,
                },
                duplicates: Duplicates::default(),
                incarnation,
            }),
            incarnation,
            outlets: BTreeMap::new(),
            drains: BTreeMap::new(),
            beat: at.now,
            stop_by: None,
        };
        at.account
            .say(|| format!("gateway {gateway} takes its lane, as {incarnation:x}"));
        let found: Vec<_> = at.broker.diversions().map(|(unit, _)| unit).collect();
        for unit in found {
            let unit = &FACTS.units[unit];
            taking.ask(table, at, |lane, routing, moment| {
                lane.diversion_found(unit, routing, moment)
            });
        }
        taking
    }

    /// Asks the lane something, and does what it wants.
    fn ask(
        &mut self,
        table: usize,
        at: &mut Surroundings<'_>,
        ask: impl FnOnce(&mut Lane, Routing<'_>, Moment) -> Vec<Action>,
    ) {
        let routing = Routing {
            table: &FACTS.tables[table],
            source: FACTS.source_in(table),
            keys: &FACTS.keys,
        };
        let moment = Moment {
            now: at.now,
            unix_seconds: at.since.as_secs(),
        };
        let actions = ask(&mut self.lane, routing, moment);
        for action in actions {
            self.apply(action, at);
        }
    }

    fn apply(&mut self, action: Action, at: &mut Surroundings<'_>) {
        match action {
            Action::Acknowledge(Feed::Source, settled) => {
                let said = Said::Acknowledge(Name::Lane, settled.tag().0);
                at.broker.say(self.consumer, said);
            }
            Action::Acknowledge(Feed::Diversion(unit), settled) => {
                if let Some(Some(connection)) = self.drains.get(&unit) {
                    let name = Name::Diversion(FACTS.unit(&unit));
                    let said = Said::Acknowledge(name, settled.tag().0);
                    at.broker.say(*connection, said);
                }
            }
            Action::Drain(unit) => {
                let index = FACTS.unit(&unit);
                let prefetch = usize::from(DRAIN_DELIVERIES);
                let name = Name::Diversion(index);
                let connection = at.broker.consume(self.gateway, name, prefetch);
                at.account
                    .say(|| format!("gateway {} drains {unit}: {connection:x?}", self.gateway));
                self.drains.insert(unit, connection);
            }
            Action::Undrain(unit) => {
                if let Some(Some(connection)) = self.drains.remove(&unit) {
                    at.broker.say(connection, Said::Close);
                }
            }
            Action::Open(target) => {
                let keeping = Keeping {
                    attempt: 0,
                    backoff: Backoff::new(self.incarnation),
                    stream: None,
                    retry_at: at.now,
                };
                let before = self.outlets.insert(target, keeping);
                at.account
                    .check(before.is_none(), || "opened twice".to_owned());
            }
            Action::Close(target) => {
                if let Some(stream) = self
                    .outlets
                    .get_mut(&target)
                    .and_then(|one| one.stream.as_mut())
                    && std::mem::take(&mut stream.sends)
                {
                    stream.flush(at);
                    at.wire.say_down(stream.id, Piece::End, at.now);
                }
            }
            Action::Note(note) => at
                .account
                .say(|| format!("gateway {}: {note:?}", self.gateway)),
        }
    }

    pub(crate) fn stop(&mut self, table: usize, at: &mut Surroundings<'_>) {
        if self.stop_by.is_none() {
            self.stop_by = Some(at.now + DRAIN_MAX);
            self.ask(table, at, Lane::stop);
        }
    }

    /// Whether all is settled and every way is direct.
    pub(crate) fn is_idle(&self) -> bool {
        self.lane.in_flight() == 0
            && self.lane.drains_in_flight() == 0
            && self.lane.diversions().count() == 0
    }

    /// What keeps it busy, in words.
    pub(crate) fn tell(&self) -> String {
        format!(
            "{} in flight, {} drained, diversions {:?}, outlets {:?}",
            self.lane.in_flight(),
            self.lane.drains_in_flight(),
            self.lane.diversions().collect::<Vec<_>>(),
            self.lane.views().collect::<Vec<_>>(),
        )
    }

    /// One turn: some of what has come, in any order.
    pub(crate) fn step(&mut self, table: usize, at: &mut Surroundings<'_>) -> Option<Ended> {
        if is_due(self.beat + BEAT, at.now) {
            self.beat = at.now;
            self.ask(table, at, Lane::tick);
        }
        let targets: Vec<_> = self.outlets.keys().cloned().collect();
        for target in targets {
            self.keep(&target, table, at);
        }
        // What a lane that was frozen finds first is chance.
        if at.broker.has_lost(self.consumer) && at.random.bool() {
            return Some(Ended::Lost);
        }
        self.drain(table, at);
        while self.stop_by.is_none()
            && self.lane.has_room()
            && let Some(heard) = at.broker.hear(self.consumer)
        {
            match heard {
                Heard::Delivery(tag, message) => self.take(tag, message, table, at),
                Heard::Outcome(..) => {}
                Heard::Lost => return Some(Ended::Lost),
            }
        }
        let (in_flight, cost) = (self.lane.in_flight(), self.lane.cost_bytes());
        at.account.check(
            in_flight <= usize::from(DELIVERIES_MAX)
                && self.lane.drains_in_flight() <= UNITS_DRAINED * usize::from(DRAIN_DELIVERIES)
                && cost < (1 << 20),
            || format!("{in_flight} in flight, {cost} bytes"),
        );
        self.pump(at);
        let is_done = in_flight == 0 && self.lane.drains_in_flight() == 0;
        let stops = self.stop_by.is_some_and(|by| is_done || is_due(by, at.now));
        stops.then_some(Ended::Stopped)
    }

    pub(crate) fn take(
        &mut self,
        tag: u64,
        message: Message,
        table: usize,
        at: &mut Surroundings<'_>,
    ) {
        self.ask(table, at, |lane, routing, moment| {
            lane.take(DeliveryTag(tag), message, routing, moment)
        });
    }

    fn drain(&mut self, table: usize, at: &mut Surroundings<'_>) {
        let units: Vec<_> = self.drains.keys().cloned().collect();
        for unit in units {
            while self.lane.drain_has_room(&unit, at.now)
                && let Some(connection) = self.drains.get(&unit).copied()
            {
                let heard = connection.map_or(Some(Heard::Lost), |one| at.broker.hear(one));
                match heard {
                    None => break,
                    Some(Heard::Delivery(tag, message)) => {
                        self.ask(table, at, |lane, routing, moment| {
                            lane.take_diverted(&unit, DeliveryTag(tag), message, routing, moment)
                        });
                    }
                    Some(Heard::Outcome(..)) => {}
                    Some(Heard::Lost) => {
                        self.drains.remove(&unit);
                        self.ask(table, at, |lane, routing, moment| {
                            lane.drain_lost(&unit, routing, moment)
                        });
                    }
                }
            }
        }
    }

    fn keep(&mut self, target: &Target, table: usize, at: &mut Surroundings<'_>) {
        let Some(keeping) = self.outlets.get_mut(target) else {
            return;
        };
        if keeping.stream.is_none() && is_due(keeping.retry_at, at.now) {
            let opened = open(
                self.gateway,
                target,
                keeping.attempt,
                self.incarnation,
                table,
                at,
            );
            match opened {
                Some(stream) => keeping.stream = Some(stream),
                None => self.down(target, "nobody can be reached", at),
            }
        }
        while let Some(stream) = self
            .outlets
            .get_mut(target)
            .and_then(|one| one.stream.as_mut())
        {
            let piece = if at.wire.is_given_up(stream.id) {
                Some(Piece::End)
            } else {
                at.wire.hear_up(stream.id, at.now)
            };
            let Some(piece) = piece else { return };
            let mut answers = Vec::new();
            match piece {
                Piece::Up(credit) => {
                    stream.is_up = true;
                    self.lane.stream_up(target, credit.bytes, credit.parcels);
                }
                Piece::Answers(heard) => answers = heard,
                Piece::Frame(bytes) => {
                    for frame in stream.decoder.frames(&bytes).unwrap() {
                        match frame {
                            Frame::Answers(heard) => answers.extend(heard),
                            other => at.account.fail(&format!("a receiver says {other:?}")),
                        }
                    }
                }
                Piece::Down(cause) => self.down(target, &cause, at),
                Piece::End => self.down(target, "the stream ended", at),
                Piece::Hello(..) | Piece::Parcel(_) => {
                    at.account.fail(&format!("a receiver says {piece:?}"));
                }
            }
            self.hear(target, answers, table, at);
        }
    }

    fn hear(
        &mut self,
        target: &Target,
        answers: Vec<(ParcelNumber, Answer)>,
        table: usize,
        at: &mut Surroundings<'_>,
    ) {
        if !answers.is_empty() {
            self.ask(table, at, |lane, routing, moment| {
                lane.answered(target, answers, routing, moment)
            });
        }
    }

    fn down(&mut self, target: &Target, cause: &str, at: &mut Surroundings<'_>) {
        at.account
            .say(|| format!("gateway {}: {target:?} is down: {cause}", self.gateway));
        let Some(keeping) = self.outlets.get_mut(target) else {
            return;
        };
        let mut lived = Duration::ZERO;
        if let Some(stream) = keeping.stream.take() {
            lived = at.now.saturating_duration_since(stream.began);
            at.leave_sender(stream.id);
        }
        keeping.attempt = if lived > GOOD_STREAM {
            0
        } else {
            keeping.attempt + 1
        };
        keeping.retry_at = at.now + keeping.backoff.delay(keeping.attempt);
        self.lane.stream_down(target, cause.to_owned());
    }

    /// Sends what may be sent.
    fn pump(&mut self, at: &mut Surroundings<'_>) {
        for (target, keeping) in &mut self.outlets {
            let Some(stream) = keeping.stream.as_mut().filter(|one| one.is_up && one.sends) else {
                continue;
            };
            while let Some(parcel) = self.lane.next_to_send(target, at.now) {
                if at.wire.is_link(stream.id) {
                    let mut frames = Vec::new();
                    stream.batcher.push(&parcel, at.now, &mut frames).unwrap();
                    for frame in frames {
                        at.wire.say_down(stream.id, Piece::Frame(frame), at.now);
                    }
                } else {
                    let piece = Piece::Parcel(Box::new(parcel));
                    at.wire.say_down(stream.id, piece, at.now);
                }
            }
            if stream
                .batcher
                .deadline()
                .is_some_and(|due| is_due(due, at.now))
                || at.random.bool()
            {
                stream.flush(at);
            }
        }
    }

    /// It ends, streams first; the process lives on.
    pub(crate) fn close(mut self, at: &mut Surroundings<'_>) {
        for keeping in self.outlets.values_mut() {
            if let Some(stream) = keeping.stream.take() {
                at.leave_sender(stream.id);
            }
        }
        for connection in self.drains.values().flatten() {
            at.broker.say(*connection, Said::Close);
        }
        at.broker.say(self.consumer, Said::Close);
    }
}

/// Diversions that one lane drains at a time.
const UNITS_DRAINED: usize = crate::facts::UNITS;

impl Stream {
    fn flush(&mut self, at: &mut Surroundings<'_>) {
        if let Some(frame) = self.batcher.take(at.now) {
            at.wire.say_down(self.id, Piece::Frame(frame), at.now);
        }
    }
}

fn open(
    gateway: usize,
    target: &Target,
    attempt: u32,
    incarnation: u64,
    table: usize,
    at: &mut Surroundings<'_>,
) -> Option<Stream> {
    let here = unit_of(gateway);
    let (to, unit, is_for) = match target {
        Target::Unit(unit) => {
            let unit = FACTS.unit(unit);
            let reached = at.wire.reached(gateway, unit, at.now);
            let to = match reached.len() {
                _ if unit == here => gateway,
                0 => return None,
                n => reached[attempt as usize % n],
            };
            (to, unit, For::Lane)
        }
        Target::Diversion(unit) => (gateway, here, For::Diversion(FACTS.unit(unit))),
        Target::Park => (gateway, here, For::Park),
    };
    let table = &FACTS.tables[table];
    let hello = Hello {
        protocol: PROTOCOL,
        space: FACTS.space.clone(),
        lineage: table.lineage().clone(),
        epoch: table.epoch(),
        revision: table.revision(),
        from: FACTS.units[here].clone(),
        gateway: FACTS.gateways[gateway].clone(),
        to: FACTS.units[unit].clone(),
        source: FACTS.source.clone(),
        partition: Partition(0),
        incarnation: Incarnation(incarnation),
    };
    let hello = Piece::Hello(Box::new(hello), is_for);
    Some(Stream {
        id: at.open(gateway, to, hello),
        began: at.now,
        is_up: false,
        sends: true,
        batcher: Batcher::new(MESSAGE_MAX),
        decoder: Decoder::new(0),
    })
}
