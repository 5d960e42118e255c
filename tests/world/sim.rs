//! The world: three units with their brokers and gateways, publishers, and every fault at any moment; all of it by a seed.

use crate::account::{Account, Sent, Tells};
use crate::broker::{Broker, Health, Is};
use crate::facts::{FACTS, GATEWAYS, MOVING, STEADY, UNITS, unit_of};
use crate::gateway::{Gateway, Life, Surroundings};
use crate::wire::Wire;
use bytes::Bytes;
use fastrand::Rng;
use setgate::amqp::{FieldValue, Properties, RawProperties};
use setgate::model::{Address, Message};
use std::time::{Duration, Instant};

/// Turns with faults.
const TURNS: u32 = 400;

/// Turns after which a world without faults has to be at rest, and the time that they take.
const CALM_TURNS: u32 = 4_000;

/// After three of its heartbeats a broker gives up a connection that says nothing.
const HEARTBEATS: Duration = Duration::from_secs(15);

pub(crate) struct World {
    random: Rng,
    began: Instant,
    now: Instant,
    brokers: Vec<Broker>,
    gateways: Vec<Gateway>,
    wire: Wire,
    account: Account,
    /// The newest that is in force.
    table: usize,
    is_calm: bool,
    /// Of each unit's broker: until when it fares as it does.
    until: [Instant; UNITS],
    /// Cuts, and until when they last.
    cuts: Vec<(usize, usize, Instant)>,
}

impl World {
    pub(crate) fn new(seed: u64, tells: Tells) -> Self {
        let began = tokio::time::Instant::now().into_std();
        let mut world = Self {
            random: Rng::with_seed(seed),
            began,
            now: began,
            brokers: (0..UNITS).map(Broker::new).collect(),
            gateways: Vec::new(),
            wire: Wire::default(),
            account: Account::new(seed, tells),
            table: 0,
            is_calm: false,
            until: [began; UNITS],
            cuts: Vec::new(),
        };
        for number in 0..GATEWAYS {
            let gateway = world.at(number, |at| Gateway::new(number, 0, at));
            world.gateways.push(gateway);
        }
        world
    }

    /// Its end's figures: messages, and second copies, all of which were marked.
    pub(crate) fn run(mut self) -> (usize, u32) {
        for _ in 0..TURNS {
            self.pass();
            if self.random.u8(..100) < 55 {
                self.publish();
            }
            self.strike();
            self.turn();
        }
        self.heal();
        (self.account.messages.len(), self.account.in_doubt)
    }

    fn since(&self) -> Duration {
        Duration::from_secs(1_000_000) + (self.now - self.began)
    }

    fn at<T>(&mut self, gateway: usize, turn: impl FnOnce(&mut Surroundings<'_>) -> T) -> T {
        let since = self.since();
        turn(&mut Surroundings {
            now: self.now,
            since,
            random: &mut self.random,
            broker: &mut self.brokers[unit_of(gateway)],
            wire: &mut self.wire,
            account: &mut self.account,
            is_calm: self.is_calm,
        })
    }

    fn of(&mut self, number: usize, turn: impl FnOnce(&mut Gateway, &mut Surroundings<'_>)) {
        let since = self.since();
        let mut at = Surroundings {
            now: self.now,
            since,
            random: &mut self.random,
            broker: &mut self.brokers[unit_of(number)],
            wire: &mut self.wire,
            account: &mut self.account,
            is_calm: self.is_calm,
        };
        turn(&mut self.gateways[number], &mut at);
    }

    fn pass(&mut self) {
        let millis = match self.random.u8(..20) {
            0 => self.random.u64(..1_500),
            1..4 => self.random.u64(..200),
            _ => self.random.u64(1..40),
        };
        self.now += Duration::from_millis(millis);
        let now = self.now;
        let (wire, cuts) = (&mut self.wire, &mut self.cuts);
        cuts.retain(|(from, to, until)| {
            let lasts = *until > now;
            if !lasts {
                wire.mend(*from, *to);
            }
            lasts
        });
        for (broker, until) in self.brokers.iter_mut().zip(self.until) {
            if until <= now {
                broker.health = Health::Well;
            }
        }
    }

    fn turn(&mut self) {
        self.wire.step(self.now, &mut self.random);
        for broker in &mut self.brokers {
            if self.is_calm || self.random.u8(..4) > 0 {
                broker.step(&mut self.random, &mut self.account);
            }
        }
        for number in 0..GATEWAYS {
            if self.is_calm || self.random.u8(..4) > 0 {
                self.of(number, Gateway::step);
            }
            if let Life::Frozen { since, .. } = self.gateways[number].life
                && since + HEARTBEATS <= self.now
            {
                let broker = &mut self.brokers[unit_of(number)];
                for connection in broker.connections_of(number) {
                    broker.cut(connection, &mut self.random, &mut self.account);
                }
            }
            self.spread_table(number);
        }
    }

    /// Tables reach gateways at different times; one that is frozen or dead learns of them later.
    fn spread_table(&mut self, number: usize) {
        let (table, since) = (self.table, self.since());
        let comes = self.is_calm || self.random.u8(..40) == 0;
        let gateway = &mut self.gateways[number];
        if comes && gateway.table < table && gateway.life == Life::Runs {
            gateway.adopt(table, since);
            self.account
                .say(|| format!("gateway {number} has table {table}"));
        }
    }

    fn publish(&mut self) {
        let from = self.random.usize(..UNITS);
        if !self.brokers[from].is_up() {
            return;
        }
        let again = self.random.u8(..16) == 0;
        let known = self.account.messages.len();
        if again && known > 0 {
            let index = self.random.usize(..known);
            return self.publish_again(index);
        }
        let slots = STEADY.iter().chain(&MOVING);
        let slots: Vec<_> = slots.copied().map(Some).chain([None]).collect();
        let slot = slots[self.random.usize(..slots.len())];
        let rejects = match self.random.u8(..32) {
            0 => u32::MAX,
            1..4 => self.random.u32(1..3),
            _ => 0,
        };
        let id = self.account.publish(Sent {
            from,
            slot,
            rejects,
        });
        let message = message(id, slot);
        let is = Is::Wish { id, round: 1 };
        self.account
            .say(|| format!("unit {from}: {id} is published, of {slot:?}"));
        self.brokers[from].enqueue(message, is, &mut self.account);
    }

    /// A publisher doesn't know that its message has been confirmed. What another unit has had of a slot that moved, its
    /// owner doesn't know.
    fn publish_again(&mut self, index: usize) {
        let Sent { from, slot, .. } = self.account.messages[index].clone();
        let id = index as u64 + 1;
        if slot.is_some_and(|slot| STEADY.contains(&slot)) && self.brokers[from].is_up() {
            self.account
                .say(|| format!("unit {from}: {id} is published again"));
            let is = Is::Wish { id, round: 1 };
            self.brokers[from].enqueue(message(id, slot), is, &mut self.account);
        }
    }

    fn millis(&mut self, most: u64) -> Duration {
        Duration::from_millis(self.random.u64(10..most))
    }

    /// Perhaps something breaks.
    fn strike(&mut self) {
        let number = self.random.usize(..GATEWAYS);
        let unit = self.random.usize(..UNITS);
        match self.random.u16(..1_000) {
            0..8 => {
                let pause = self.millis(3_000);
                self.of(number, |gateway, at| gateway.kill(pause, at));
            }
            8..14 => {
                let time = self.millis(30_000);
                self.account
                    .say(|| format!("gateway {number} is frozen for {time:?}"));
                self.of(number, |gateway, at| gateway.freeze(time, at));
            }
            14..19 => {
                self.account.say(|| format!("gateway {number} is to stop"));
                self.gateways[number].stop();
            }
            19..23 => self.break_broker(unit),
            23..33 => {
                let health = [Health::Alarm, Health::Full][self.random.usize(..2)];
                if self.brokers[unit].is_up() {
                    self.account.say(|| format!("unit {unit}: {health:?}"));
                    self.brokers[unit].health = health;
                    self.until[unit] = self.now + self.millis(5_000);
                }
            }
            33..43 => self.cut_link(unit),
            43..58 => {
                let streams = self.wire.streams();
                if let Some(stream) = self.random.choice(&streams) {
                    self.account.say(|| format!("stream {stream} breaks"));
                    let (now, random) = (self.now, &mut self.random);
                    self.wire.breaks(*stream, now, random);
                }
            }
            58..70 => {
                let broker = &mut self.brokers[unit_of(number)];
                let connections = broker.connections_of(number);
                if let Some(connection) = self.random.choice(&connections) {
                    self.account
                        .say(|| format!("connection {connection:x} of gateway {number} breaks"));
                    broker.cut(*connection, &mut self.random, &mut self.account);
                }
            }
            70..74 if self.table + 1 < FACTS.tables.len() => {
                self.table += 1;
                self.account
                    .say(|| format!("table {} comes into force", self.table));
                self.account.moves(&MOVING);
            }
            _ => {}
        }
    }

    fn break_broker(&mut self, unit: usize) {
        self.account.say(|| format!("unit {unit}: the broker dies"));
        let time = self.millis(4_000);
        let broker = &mut self.brokers[unit];
        for gateway in [2 * unit, 2 * unit + 1] {
            for connection in broker.connections_of(gateway) {
                broker.cut(connection, &mut self.random, &mut self.account);
            }
        }
        broker.health = Health::Down;
        self.until[unit] = self.now + time;
    }

    fn cut_link(&mut self, from: usize) {
        let to = (from + 1 + self.random.usize(..UNITS - 1)) % UNITS;
        let until = self.now + self.millis(8_000);
        let both = self.random.bool();
        let ways = [(from, to), (to, from)];
        for (from, to) in ways.into_iter().take(1 + usize::from(both)) {
            self.account
                .say(|| format!("nothing comes from unit {from} to unit {to}"));
            self.wire.cut(from, to, self.now);
            self.cuts.push((from, to, until));
        }
    }

    /// No more faults: everything arrives in bounded time, and every way is direct again.
    fn heal(&mut self) {
        self.account.say(|| "all is healed".to_owned());
        self.is_calm = true;
        self.until = [self.now; UNITS];
        for (_, _, until) in &mut self.cuts {
            *until = self.now;
        }
        for _ in 0..CALM_TURNS {
            self.pass();
            self.turn();
            if self.is_at_rest() {
                return self.account.check_end();
            }
        }
        let brokers = self.brokers.iter().map(|one| one.is_idle(&self.account));
        let gateways = self.gateways.iter().map(Gateway::tell);
        self.account.fail(&format!(
            "after {CALM_TURNS} turns without a fault {:?} are missing; brokers at rest: {:?}\n{}\n",
            self.account.missing(),
            brokers.collect::<Vec<_>>(),
            gateways.collect::<Vec<_>>().join("\n"),
        ));
    }

    fn is_at_rest(&self) -> bool {
        self.account.is_fulfilled()
            && self.gateways.iter().all(Gateway::is_idle)
            && self.brokers.iter().all(|one| one.is_idle(&self.account))
    }
}

fn message(id: u64, slot: Option<u32>) -> Message {
    let mut properties = Properties {
        message_id: Some(Bytes::from(format!("m{id}"))),
        ..Properties::default()
    };
    if let Some(slot) = slot {
        let uid = FieldValue::I32(i32::try_from(slot).unwrap());
        properties.headers_mut().set("uid", uid);
    }
    let key = if slot.is_some() { "order.x" } else { "all.x" };
    Message {
        address: Address {
            exchange: Bytes::from_static(b"orders"),
            routing_key: Bytes::from_static(key.as_bytes()),
        },
        properties: RawProperties::of(&properties).unwrap(),
        body: Bytes::from_static(b"body"),
        redelivered: false,
    }
}
