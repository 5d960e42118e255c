//! A gateway's end of its unit's journal, as its shell keeps it: what it knows, what it writes, how far it has read.

use crate::broker::{Broker, Heard, Publish, Said, To};
use crate::facts::{FACTS, unit_of};
use crate::gateway::Surroundings;
use setgate::amqp::engine::Outcome;
use setgate::link::receiver::{
    Entry, Fact, Heard as Word, IDENTITIES_MAX, Life, Mark, Record, Seen,
};
use setgate::model::{Epoch, LaneId};
use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

/// Entries that the broker hasn't confirmed.
const ENTRIES_MAX: usize = 4;

/// Something to be written, for a stream that may wait for it.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) stream: u64,
    pub(crate) ticket: Ticket,
    pub(crate) records: Vec<Record>,
}

/// Which of a stream's writes it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ticket {
    Batch(u64),
    Taken,
    Released,
    LetGo,
}

#[derive(Debug)]
struct Pending {
    id: u64,
    writes: Vec<Write>,
    is_confirmed: bool,
}

pub(crate) struct Journal {
    gateway: usize,
    pub(crate) seen: Seen,
    read: usize,
    writes: VecDeque<Write>,
    pending: VecDeque<Pending>,
    connection: Option<u64>,
    next: u64,
    /// Written, as their streams wait for it.
    pub(crate) done: Vec<(u64, Ticket)>,
    /// Marks of its own that have been read.
    pub(crate) marks: BTreeSet<u64>,
    /// Lanes that another gateway wants.
    pub(crate) wanted: Vec<LaneId>,
}

impl Journal {
    pub(crate) fn new(gateway: usize, life: u64, epoch: Epoch, at: &Surroundings<'_>) -> Self {
        let mut seen = Seen::new(Life(life), IDENTITIES_MAX);
        seen.epoch(epoch, at.since);
        Self {
            gateway,
            seen,
            read: 0,
            writes: VecDeque::new(),
            pending: VecDeque::new(),
            connection: None,
            next: 1,
            done: Vec::new(),
            marks: BTreeSet::new(),
            wanted: Vec::new(),
        }
    }

    pub(crate) fn write(&mut self, write: Write) {
        self.writes.push_back(write);
    }

    /// `listens`: whether a stream still waits for what it has written.
    pub(crate) fn step(
        &mut self,
        epoch: Epoch,
        listens: impl Fn(u64, Ticket) -> bool,
        at: &mut Surroundings<'_>,
    ) {
        self.follow(at);
        let connection = match self.connection {
            Some(connection) => connection,
            None => match self.open(epoch, listens, at) {
                Some(connection) => connection,
                None => return,
            },
        };
        while let Some(heard) = at.broker.hear(connection) {
            match heard {
                Heard::Outcome(id, Outcome::Confirmed) => self.confirmed(id),
                Heard::Outcome(..) | Heard::Delivery(..) => {}
                Heard::Lost => {
                    self.connection = None;
                    return;
                }
            }
        }
        while self.pending.len() < ENTRIES_MAX && !self.writes.is_empty() {
            let count = at.random.usize(1..=self.writes.len().min(4));
            let writes: Vec<_> = self.writes.drain(..count).collect();
            let id = self.next;
            self.next += 1;
            self.publish(connection, id, &writes, epoch, at.since, at.broker);
            self.pending.push_back(Pending {
                id,
                writes,
                is_confirmed: false,
            });
        }
    }

    /// All that isn't done is written again; what was said of a lock by one who waits no more would be a lie by now.
    fn open(
        &mut self,
        epoch: Epoch,
        listens: impl Fn(u64, Ticket) -> bool,
        at: &mut Surroundings<'_>,
    ) -> Option<u64> {
        let connection = at.broker.connect(self.gateway)?;
        self.connection = Some(connection);
        let mut pending = std::mem::take(&mut self.pending);
        for one in &mut pending {
            one.is_confirmed = false;
            for write in &mut one.writes {
                if !listens(write.stream, write.ticket) {
                    write.records.retain(|record| match record.fact {
                        Fact::Confirmed(_) | Fact::Known(_) | Fact::Doubtful(_) => true,
                        Fact::Taken { .. } | Fact::Released | Fact::LetGo => false,
                    });
                }
            }
            self.publish(connection, one.id, &one.writes, epoch, at.since, at.broker);
        }
        self.pending = pending;
        Some(connection)
    }

    fn publish(
        &self,
        connection: u64,
        id: u64,
        writes: &[Write],
        epoch: Epoch,
        since: std::time::Duration,
        broker: &mut Broker,
    ) {
        let entry = Entry {
            gateway: FACTS.gateways[self.gateway].clone(),
            life: self.seen.life(),
            at: since,
            epoch,
            records: writes.iter().flat_map(|one| one.records.clone()).collect(),
            notes: Vec::new(),
        };
        let publish = Publish {
            id,
            to: To::Journal(entry.encode()),
            parcel: None,
            mark: Mark::Clean,
        };
        broker.say(connection, Said::Publish(Box::new(publish)));
    }

    fn confirmed(&mut self, id: u64) {
        for pending in &mut self.pending {
            pending.is_confirmed |= pending.id == id;
        }
        while let Some(first) = self.pending.pop_front_if(|first| first.is_confirmed) {
            let done = first.writes.iter().map(|one| (one.stream, one.ticket));
            self.done.extend(done);
        }
    }

    fn follow(&mut self, at: &mut Surroundings<'_>) {
        if !at.broker.is_up() {
            return;
        }
        let left = at.broker.journal.len() - self.read;
        let count = if at.is_calm {
            left
        } else {
            at.random.usize(..=left)
        };
        for _ in 0..count {
            if self.read == 0 {
                self.seen.begins();
            }
            let entry = at.broker.journal[self.read].clone();
            self.read += 1;
            let entry = Entry::decode(entry).unwrap();
            for heard in self.seen.apply(&entry, entry.at.min(at.since)) {
                match heard {
                    Word::Mark { token } => {
                        self.marks.insert(token);
                    }
                    Word::LetGo { lane, .. } => self.wanted.push(lane),
                    // Nothing moves in this world.
                    Word::Copied { .. } => {}
                }
            }
        }
    }

    /// Which unit's it is.
    pub(crate) fn unit(&self) -> usize {
        unit_of(self.gateway)
    }

    /// A ticket's records about a lane's lock.
    pub(crate) fn say(&mut self, stream: u64, ticket: Ticket, lane: &LaneId, fact: Fact) {
        let record = Record {
            lane: lane.clone(),
            fact,
        };
        self.write(Write {
            stream,
            ticket,
            records: vec![record],
        });
    }
}

/// A moment that has come.
pub(crate) fn is_due(at: Instant, now: Instant) -> bool {
    at <= now
}
