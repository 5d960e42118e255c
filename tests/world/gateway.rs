//! One gateway's process: its lane, the streams that it receives, its end of the journal; alive, frozen or dead.

use crate::account::Account;
use crate::broker::{Broker, Heard, Is, Name, Said};
use crate::facts::{FACTS, unit_of};
use crate::journal::{Journal, is_due};
use crate::receiving::Receiving;
use crate::taking::{DELIVERIES_MAX, Ended, Taking};
use crate::wire::{Piece, Wire};
use fastrand::Rng;
use setgate::lane::{Wrapping, knock, wrap};
use setgate::model::{Address, Message};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const KNOCK_AFTER: Duration = Duration::from_secs(2);
const LANE_PAUSE: Duration = Duration::from_millis(300);

/// All that a gateway meets in one turn.
pub(crate) struct Surroundings<'a> {
    pub(crate) now: Instant,
    /// The wall clock, since 1970.
    pub(crate) since: Duration,
    pub(crate) random: &'a mut Rng,
    pub(crate) broker: &'a mut Broker,
    pub(crate) wire: &'a mut Wire,
    pub(crate) account: &'a mut Account,
    /// There are no faults any more, and nobody dawdles.
    pub(crate) is_calm: bool,
}

impl Surroundings<'_> {
    /// A stream that begins.
    pub(crate) fn open(&mut self, from: usize, to: usize, hello: Piece) -> u64 {
        let (now, random) = (self.now, &mut *self.random);
        self.wire.open(from, to, hello, now, random)
    }

    /// Nobody sends on it any more.
    pub(crate) fn leave_sender(&mut self, stream: u64) {
        let (now, random) = (self.now, &mut *self.random);
        self.wire.leave_sender(stream, now, random);
    }
}

/// Whether the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Runs,
    Frozen { since: Instant, until: Instant },
    Dead { until: Instant },
}

enum LaneState {
    Closed {
        until: Instant,
    },
    /// It waits until the queue is its own.
    Waiting {
        consumer: u64,
        since: Instant,
    },
    Takes(Box<Taking>),
}

pub(crate) struct Gateway {
    number: usize,
    pub(crate) life: Life,
    /// By index: the table that it has.
    pub(crate) table: usize,
    lane: LaneState,
    receiving: Vec<Receiving>,
    journal: Journal,
    /// It goes down in order.
    stops: bool,
}

impl Gateway {
    pub(crate) fn new(number: usize, table: usize, at: &mut Surroundings<'_>) -> Self {
        let epoch = FACTS.tables[table].epoch();
        let life = at.random.u64(..);
        Self {
            number,
            life: Life::Runs,
            table,
            lane: LaneState::Closed { until: at.now },
            receiving: Vec::new(),
            journal: Journal::new(number, life, epoch, at),
            stops: false,
        }
    }

    /// A newer table has reached it.
    pub(crate) fn adopt(&mut self, table: usize, since: Duration) {
        self.table = table;
        self.journal.seen.epoch(FACTS.tables[table].epoch(), since);
    }

    /// It is asked to go down in order.
    pub(crate) fn stop(&mut self) {
        self.stops = true;
    }

    pub(crate) fn freeze(&mut self, time: Duration, at: &mut Surroundings<'_>) {
        if self.life == Life::Runs {
            self.life = Life::Frozen {
                since: at.now,
                until: at.now + time,
            };
            at.wire.falls_silent(self.number, at.now);
        }
    }

    /// The process ends at once; another begins after this time.
    pub(crate) fn kill(&mut self, pause: Duration, at: &mut Surroundings<'_>) {
        for connection in at.broker.connections_of(self.number) {
            at.broker.cut(connection, at.random, at.account);
        }
        at.broker.forget(self.number);
        at.wire.dies(self.number, at.now, at.random);
        at.account
            .say(|| format!("gateway {} is dead", self.number));
        let (number, table) = (self.number, self.table);
        *self = Self::new(number, table, at);
        self.life = Life::Dead {
            until: at.now + pause,
        };
        at.wire.falls_silent(self.number, at.now);
    }

    pub(crate) fn is_idle(&self) -> bool {
        match &self.lane {
            LaneState::Takes(taking) => taking.is_idle(),
            LaneState::Waiting { .. } | LaneState::Closed { .. } => true,
        }
    }

    pub(crate) fn tell(&self) -> String {
        match &self.lane {
            LaneState::Takes(taking) => format!("gateway {}: {}", self.number, taking.tell()),
            LaneState::Waiting { .. } => format!("gateway {} waits for its lane", self.number),
            LaneState::Closed { .. } => format!("gateway {} has no lane", self.number),
        }
    }

    /// One turn.
    pub(crate) fn step(&mut self, at: &mut Surroundings<'_>) {
        match self.life {
            Life::Dead { until } | Life::Frozen { until, .. } => {
                if !is_due(until, at.now) {
                    return;
                }
                self.life = Life::Runs;
                at.wire.speaks(self.number);
                at.account
                    .say(|| format!("gateway {} runs again", self.number));
            }
            Life::Runs => {}
        }
        for stream in at.wire.incoming(self.number) {
            self.receiving.push(Receiving::new(stream, self.number));
        }
        if at.random.bool() {
            self.step_lane(at);
            self.step_receiving(at);
        } else {
            self.step_receiving(at);
            self.step_lane(at);
        }
        let receiving = &self.receiving;
        let listens = |stream, ticket| {
            let mut waits = receiving.iter().filter(|one| one.stream == stream);
            waits.any(|one| one.listens(ticket))
        };
        let epoch = FACTS.tables[self.table].epoch();
        self.journal.step(epoch, listens, at);
        for lane in std::mem::take(&mut self.journal.wanted) {
            let of_it = self.receiving.iter_mut();
            let of_it =
                of_it.filter(|one| one.hears_wishes() && one.lane().as_ref() == Some(&lane));
            of_it.for_each(Receiving::end);
        }
        let has_lane = !matches!(self.lane, LaneState::Closed { .. });
        if self.stops && !has_lane {
            self.receiving.iter_mut().for_each(Receiving::end);
            if self.receiving.is_empty() {
                let pause = Duration::from_millis(at.random.u64(..2_000));
                self.kill(pause, at);
            }
        }
    }

    fn step_receiving(&mut self, at: &mut Surroundings<'_>) {
        for index in 0..self.receiving.len() {
            // A newer stream of a lane ends the older ones, and waits until they are through.
            if self.receiving[index].greet(self.table, at) {
                let lane = self.receiving[index].lane();
                let (older, _) = self.receiving.split_at_mut(index);
                let of_lane = |one: &&mut Receiving| lane.is_some() && one.lane() == lane;
                older.iter_mut().filter(of_lane).for_each(Receiving::end);
            }
        }
        let mut lanes = BTreeSet::new();
        for one in &mut self.receiving {
            let lane = one.lane();
            let is_first = lane.is_none_or(|lane| lanes.insert(lane));
            one.step(is_first, self.table, &mut self.journal, at);
        }
        self.receiving.retain(|one| !one.is_over());
    }

    fn step_lane(&mut self, at: &mut Surroundings<'_>) {
        match &mut self.lane {
            LaneState::Closed { until } => {
                if is_due(*until, at.now) && !self.stops {
                    let prefetch = usize::from(DELIVERIES_MAX);
                    if let Some(consumer) = at.broker.consume(self.number, Name::Lane, prefetch) {
                        let since = at.now;
                        self.lane = LaneState::Waiting { consumer, since };
                    }
                }
            }
            LaneState::Waiting { consumer, since } => {
                let (consumer, since) = (*consumer, *since);
                if self.stops {
                    at.broker.say(consumer, Said::Close);
                    return self.close_lane(at);
                }
                match at.broker.hear(consumer) {
                    Some(Heard::Delivery(tag, message)) => {
                        let mut taking = Taking::new(self.number, consumer, self.table, at);
                        taking.take(tag, message, self.table, at);
                        self.lane = LaneState::Takes(Box::new(taking));
                    }
                    Some(Heard::Lost) => self.close_lane(at),
                    None if is_due(since + KNOCK_AFTER, at.now) => {
                        let now = at.now;
                        self.knock(at);
                        self.lane = LaneState::Waiting {
                            consumer,
                            since: now,
                        };
                    }
                    Some(Heard::Outcome(..)) | None => {}
                }
            }
            LaneState::Takes(taking) => {
                if self.stops {
                    taking.stop(self.table, at);
                }
                let ended = taking.step(self.table, at);
                let Some(ended) = ended else { return };
                at.account.say(|| {
                    let cause = match ended {
                        Ended::Lost => "its channel is gone",
                        Ended::Stopped => "it was stopped",
                    };
                    format!("gateway {}: its lane ends: {cause}", self.number)
                });
                let closed = LaneState::Closed {
                    until: at.now + LANE_PAUSE,
                };
                if let LaneState::Takes(taking) = std::mem::replace(&mut self.lane, closed) {
                    taking.close(at);
                }
            }
        }
    }

    fn close_lane(&mut self, at: &Surroundings<'_>) {
        self.lane = LaneState::Closed {
            until: at.now + LANE_PAUSE,
        };
    }

    /// Asks the queue whether it is this lane's own, if a diversion has something.
    fn knock(&self, at: &mut Surroundings<'_>) {
        if !at.broker.is_up() || at.broker.diversions().all(|(_, has_ready)| !has_ready) {
            return;
        }
        let wrapping = Wrapping {
            keys: &FACTS.keys,
            from: &FACTS.units[unit_of(self.number)],
            source: &FACTS.source,
            at: at.since.as_secs(),
        };
        let (properties, body) = wrap(&knock(), wrapping);
        let message = Message {
            address: Address::default(),
            properties,
            body,
            redelivered: false,
        };
        at.broker.enqueue(message, Is::Nothing, at.account);
    }
}
