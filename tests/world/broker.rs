//! One unit's broker: queues with one active consumer, connections whose bytes are under way, locks, the journal.
//!
//! What a gateway has written lies in its connection's outbox and is worked off in order; when the connection dies, a part of
//! it has been, and what the broker said meanwhile may never be heard.

use crate::account::{Account, Sent, id_of};
use crate::facts::FACTS;
use bytes::Bytes;
use fastrand::Rng;
use setgate::amqp::engine::Outcome;
use setgate::amqp::{Edit, FieldValue};
use setgate::link::receiver::Mark;
use setgate::model::marks::X_SET_IN_DOUBT;
use setgate::model::{Address, Marking, Message, Parcel};
use std::collections::{BTreeMap, VecDeque};

/// A queue with consumers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Name {
    Lane,
    /// Of this unit.
    Diversion(usize),
}

/// What a message in a queue is to the account.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Is {
    Wish {
        id: u64,
        round: u32,
    },
    /// A shared copy that was delivered here, a knock, an end marker.
    Nothing,
}

#[derive(Debug, Clone)]
struct Item {
    is: Is,
    message: Message,
}

#[derive(Debug)]
struct Consumer {
    connection: u64,
    prefetch: usize,
    unacknowledged: VecDeque<(u64, Item)>,
    last_tag: u64,
}

/// Its first consumer is the active one.
#[derive(Debug, Default)]
struct Queue {
    ready: VecDeque<Item>,
    consumers: VecDeque<Consumer>,
}

/// Where a publish goes.
#[derive(Debug, Clone)]
pub(crate) enum To {
    /// The application's exchange, judged by this table, from this life of a lane.
    Application {
        table: usize,
        lane: u64,
    },
    Diversion(usize),
    Park,
    Journal(Bytes),
}

#[derive(Debug)]
pub(crate) struct Publish {
    pub(crate) id: u64,
    pub(crate) to: To,
    /// None for the journal's.
    pub(crate) parcel: Option<Parcel>,
    pub(crate) mark: Mark,
}

#[derive(Debug)]
pub(crate) enum Said {
    Acknowledge(Name, u64),
    Publish(Box<Publish>),
    Close,
}

#[derive(Debug)]
pub(crate) enum Heard {
    Delivery(u64, Message),
    Outcome(u64, Outcome),
    Lost,
}

#[derive(Debug)]
struct Connection {
    gateway: usize,
    outbox: VecDeque<Said>,
    inbox: VecDeque<Heard>,
    is_open: bool,
}

/// How the broker fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Health {
    Well,
    /// Publishers wait, acknowledgements go on.
    Alarm,
    /// The applications' queues refuse.
    Full,
    Down,
}

#[derive(Debug)]
pub(crate) struct Broker {
    unit: usize,
    pub(crate) health: Health,
    queues: BTreeMap<Name, Queue>,
    connections: BTreeMap<u64, Connection>,
    /// Whose lane, and which connection holds its lock.
    locks: BTreeMap<usize, u64>,
    pub(crate) journal: Vec<Bytes>,
    next: u64,
}

impl Broker {
    pub(crate) fn new(unit: usize) -> Self {
        Self {
            unit,
            health: Health::Well,
            queues: BTreeMap::from([(Name::Lane, Queue::default())]),
            connections: BTreeMap::new(),
            locks: BTreeMap::new(),
            journal: Vec::new(),
            next: (unit as u64 + 1) << 16,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.health != Health::Down
    }

    /// A publisher's message is in the lane's queue.
    pub(crate) fn enqueue(&mut self, message: Message, is: Is, account: &mut Account) {
        if let Is::Wish { id, round } = is {
            account.enters_source(id, round);
        }
        self.queue(Name::Lane).ready.push_back(Item { is, message });
    }

    /// None while the broker is down.
    pub(crate) fn connect(&mut self, gateway: usize) -> Option<u64> {
        self.is_up().then(|| {
            self.next += 1;
            let connection = Connection {
                gateway,
                outbox: VecDeque::new(),
                inbox: VecDeque::new(),
                is_open: true,
            };
            self.connections.insert(self.next, connection);
            self.next
        })
    }

    pub(crate) fn consume(&mut self, gateway: usize, name: Name, prefetch: usize) -> Option<u64> {
        let connection = self.connect(gateway)?;
        self.queue(name).consumers.push_back(Consumer {
            connection,
            prefetch,
            unacknowledged: VecDeque::new(),
            last_tag: 0,
        });
        Some(connection)
    }

    fn queue(&mut self, name: Name) -> &mut Queue {
        self.queues.entry(name).or_default()
    }

    /// The diversion is there from now on.
    pub(crate) fn declare(&mut self, diversion: usize) {
        self.queue(Name::Diversion(diversion));
    }

    /// The diversions that are there, and whether something is ready in one.
    pub(crate) fn diversions(&self) -> impl Iterator<Item = (usize, bool)> {
        self.queues.iter().filter_map(|(name, queue)| match name {
            Name::Lane => None,
            Name::Diversion(unit) => Some((*unit, !queue.ready.is_empty())),
        })
    }

    /// Takes the lock of a unit's lane, if nobody else holds it.
    pub(crate) fn lock(&mut self, lane: usize, connection: u64) -> bool {
        *self.locks.entry(lane).or_insert(connection) == connection
    }

    pub(crate) fn say(&mut self, connection: u64, said: Said) {
        if let Some(connection) = self.connections.get_mut(&connection)
            && connection.is_open
        {
            connection.outbox.push_back(said);
        }
    }

    pub(crate) fn hear(&mut self, connection: u64) -> Option<Heard> {
        match self.connections.get_mut(&connection) {
            Some(connection) => connection.inbox.pop_front(),
            None => Some(Heard::Lost),
        }
    }

    /// Whether its end has come to be known.
    pub(crate) fn has_lost(&self, connection: u64) -> bool {
        let lost = |one: &Connection| matches!(one.inbox.back(), Some(Heard::Lost));
        self.connections.get(&connection).is_none_or(lost)
    }

    /// Works off some of what lies in the outboxes, and hands out deliveries.
    pub(crate) fn step(&mut self, random: &mut Rng, account: &mut Account) {
        if !self.is_up() {
            return;
        }
        let open: Vec<_> = self.connections.keys().copied().collect();
        for connection in open {
            let count = random.usize(..12);
            self.work(connection, count, random, account);
        }
        self.connections
            .retain(|_, one| one.is_open || !one.inbox.is_empty());
        for queue in self.queues.values_mut() {
            let Some(active) = queue.consumers.front_mut() else {
                continue;
            };
            let Some(connection) = self.connections.get_mut(&active.connection) else {
                continue;
            };
            while active.unacknowledged.len() < active.prefetch
                && let Some(item) = queue.ready.pop_front()
            {
                active.last_tag += 1;
                let delivery = Heard::Delivery(active.last_tag, item.message.clone());
                connection.inbox.push_back(delivery);
                active.unacknowledged.push_back((active.last_tag, item));
            }
        }
    }

    fn work(&mut self, connection: u64, count: usize, random: &mut Rng, account: &mut Account) {
        for _ in 0..count {
            let Some(open) = self.connections.get_mut(&connection) else {
                return;
            };
            if self.health == Health::Alarm && matches!(open.outbox.front(), Some(Said::Publish(_)))
            {
                return;
            }
            match open.outbox.pop_front() {
                None => return,
                Some(Said::Acknowledge(name, tag)) => {
                    self.acknowledge(name, connection, tag, account);
                }
                Some(Said::Publish(publish)) => self.take(connection, *publish, random, account),
                Some(Said::Close) => {
                    self.close(connection);
                    self.connections.remove(&connection);
                }
            }
        }
    }

    fn acknowledge(&mut self, name: Name, connection: u64, tag: u64, account: &mut Account) {
        let Some(queue) = self.queues.get_mut(&name) else {
            return;
        };
        let mut consumers = queue.consumers.iter_mut();
        let Some(consumer) = consumers.find(|one| one.connection == connection) else {
            return;
        };
        while let Some((_, item)) = consumer.unacknowledged.pop_front_if(|(one, _)| *one <= tag) {
            match (item.is, name) {
                (Is::Wish { id, round }, Name::Lane) => account.leaves_source(id, round),
                (Is::Wish { id, round }, Name::Diversion(unit)) => {
                    account.leaves_diversion(id, round, unit);
                }
                (Is::Nothing, _) => {}
            }
        }
    }

    fn take(&mut self, connection: u64, publish: Publish, random: &mut Rng, account: &mut Account) {
        let mut outcome = Outcome::Confirmed;
        let Publish {
            id,
            to,
            parcel,
            mark,
        } = publish;
        match (to, parcel) {
            (To::Application { table, lane }, Some(parcel)) => {
                let is_full = self.health == Health::Full;
                if is_full {
                    outcome = Outcome::Nacked;
                    account.refuses(self.unit, &parcel, lane, connection);
                }
                // A queue beside the full one may have taken it.
                if !is_full || random.u8(..4) == 0 {
                    self.deliver(&parcel, mark, table, connection, account);
                }
            }
            (To::Diversion(unit), Some(parcel)) => {
                let is = match id_of(&parcel) {
                    Some(id) => {
                        let round = parcel.round.0;
                        account.enters_diversion(id, round, unit);
                        Is::Wish { id, round }
                    }
                    None => Is::Nothing,
                };
                account.say(|| format!("unit {}: {is:?} goes into diversion {unit}", self.unit));
                let message = delivered(parcel, mark);
                let queue = self.queue(Name::Diversion(unit));
                queue.ready.push_back(Item { is, message });
            }
            (To::Park, Some(parcel)) => account.parks(self.unit, &parcel),
            (To::Journal(entry), _) => self.journal.push(entry),
            (To::Application { .. } | To::Diversion(_) | To::Park, None) => {}
        }
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.inbox.push_back(Heard::Outcome(id, outcome));
        }
    }

    /// The application gets it, and rejects it as often as it does: through its dead-letter exchange, into the source.
    fn deliver(
        &mut self,
        parcel: &Parcel,
        mark: Mark,
        table: usize,
        connection: u64,
        account: &mut Account,
    ) {
        let is_first = account.lands(self.unit, parcel, mark, table, connection);
        let Some(id) = id_of(parcel) else { return };
        let Sent { slot, rejects, .. } = account.sent(id);
        let message = delivered(parcel.clone(), mark);
        if slot.is_none() {
            // The source's exchange feeds the lane's queue here as well.
            self.enqueue(message, Is::Nothing, account);
        } else if is_first && parcel.round.0 <= rejects {
            let round = parcel.round.0 + 1;
            account.wish(id, round);
            let message = Message {
                address: Address {
                    exchange: Bytes::from_static(b"orders"),
                    ..message.address
                },
                ..message
            };
            self.enqueue(message, Is::Wish { id, round }, account);
        }
    }

    fn close(&mut self, connection: u64) {
        self.locks.retain(|_, holder| *holder != connection);
        for queue in self.queues.values_mut() {
            let of_it = |one: &Consumer| one.connection == connection;
            let Some(at) = queue.consumers.iter().position(of_it) else {
                continue;
            };
            let Some(consumer) = queue.consumers.remove(at) else {
                continue;
            };
            for (_, mut item) in consumer.unacknowledged.into_iter().rev() {
                item.message.redelivered = true;
                queue.ready.push_front(item);
            }
        }
    }

    /// A connection dies: some of what was on its way has come through, in both directions.
    pub(crate) fn cut(&mut self, connection: u64, random: &mut Rng, account: &mut Account) {
        let Some(open) = self.connections.get(&connection).filter(|one| one.is_open) else {
            return;
        };
        let count = random.usize(..=open.outbox.len());
        self.work(connection, count, random, account);
        self.close(connection);
        if let Some(open) = self.connections.get_mut(&connection) {
            open.is_open = false;
            open.outbox.clear();
            let heard = random.usize(..=open.inbox.len());
            open.inbox.truncate(heard);
            open.inbox.push_back(Heard::Lost);
        }
    }

    pub(crate) fn connections_of(&self, gateway: usize) -> Vec<u64> {
        let of_it = self.connections.iter();
        let of_it = of_it.filter(|(_, one)| one.gateway == gateway && one.is_open);
        of_it.map(|(id, _)| *id).collect()
    }

    /// Nobody listens to them any more.
    pub(crate) fn forget(&mut self, gateway: usize) {
        self.connections.retain(|_, one| one.gateway != gateway);
    }

    /// Whether nothing waits in it but copies of what has landed: those came late into a diversion that had ended.
    pub(crate) fn is_idle(&self, account: &Account) -> bool {
        self.queues.iter().all(|(name, queue)| {
            let unacknowledged = queue.consumers.iter().flat_map(|one| &one.unacknowledged);
            let items = unacknowledged.map(|(_, item)| item);
            let mut items = items.chain(&queue.ready);
            match name {
                Name::Lane => items.next().is_none(),
                Name::Diversion(unit) => items.all(|item| match item.is {
                    Is::Wish { id, round } => account.has_landed(id, round, *unit),
                    Is::Nothing => true,
                }),
            }
        })
    }
}

/// A published parcel as a queue gives it.
fn delivered(parcel: Parcel, mark: Mark) -> Message {
    let from = match &parcel.marking {
        Marking::AtReceiver(way) => way.path.last(),
        Marking::Done => None,
    };
    let from = from.unwrap_or(&parcel.to);
    let mut properties = parcel.marked(from, &FACTS.keys).unwrap();
    if mark == Mark::InDoubt {
        let mut edit = Edit::new();
        edit.set(X_SET_IN_DOUBT, &FieldValue::Bool(true));
        properties = edit.apply(&properties).unwrap();
    }
    Message {
        address: parcel.address,
        properties,
        body: parcel.body,
        redelivered: false,
    }
}
