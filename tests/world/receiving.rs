//! The receiving end of one stream, as its shell is: the lane's lock, the publisher under it, the journal's word.

use crate::broker::{Heard, Publish, Said, To};
use crate::facts::{FACTS, unit_of};
use crate::gateway::Surroundings;
use crate::journal::{Journal, Ticket, Write, is_due};
use crate::wire::{For, Piece};
use setgate::amqp::engine::Outcome;
use setgate::link::receiver::{Actions, Batch, Fact, Full, Offer, Receiver, check};
use setgate::link::{
    Arrival, Credit, CreditWindow, Decoder, Frame, Hello, Here, Peer, Standing, admit,
};
use setgate::model::{Answer, LaneId, Parcel, ParcelNumber};
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// What a receiver grants: small, so that it matters.
pub(crate) const CREDIT: Credit = Credit {
    bytes: 16 << 10,
    parcels: 6,
};

pub(crate) const MESSAGE_MAX: usize = 1 << 20;

const LOCK_PATIENCE: Duration = Duration::from_secs(20);
const ASK_EVERY: Duration = Duration::from_secs(1);
const TAKE_PATIENCE: Duration = Duration::from_secs(30);
const JOURNAL_PATIENCE: Duration = Duration::from_secs(10);

/// How far a stream has come.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Its hello is under way, or an older stream of the lane is not through.
    Waiting,
    Locking {
        connection: u64,
        until: Instant,
        ask_at: Instant,
    },
    Taking {
        connection: u64,
        until: Instant,
    },
    Serving {
        connection: u64,
        give_up: Option<Instant>,
    },
    /// The journal is to know that all is told.
    Releasing {
        connection: u64,
        until: Instant,
    },
    Over,
}

/// See the file's head.
pub(crate) struct Receiving {
    pub(crate) stream: u64,
    gateway: usize,
    hello: Option<Hello>,
    is_for: For,
    phase: Phase,
    /// A newer stream's word, another gateway's, or the gateway's own that it goes down.
    is_ended: bool,
    receiver: Receiver,
    window: CreditWindow,
    decoder: Decoder,
    parcels: VecDeque<Parcel>,
    under_way: BTreeSet<u64>,
    sender_is_gone: bool,
    token: u64,
}

impl Receiving {
    pub(crate) fn new(stream: u64, gateway: usize) -> Self {
        Self {
            stream,
            gateway,
            hello: None,
            is_for: For::Lane,
            phase: Phase::Waiting,
            is_ended: false,
            receiver: Receiver::new(FACTS.lane(unit_of(gateway)), Full::Waits),
            window: CreditWindow::new(CREDIT),
            decoder: Decoder::new(MESSAGE_MAX),
            parcels: VecDeque::new(),
            under_way: BTreeSet::new(),
            sender_is_gone: false,
            token: 0,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// The lane that it is of; none before its hello has come, and for what needs no lock.
    pub(crate) fn lane(&self) -> Option<LaneId> {
        let hello = self.hello.as_ref().filter(|_| self.is_for == For::Lane)?;
        Some(LaneId {
            unit: hello.from.clone(),
            source: hello.source.clone(),
            partition: hello.partition,
        })
    }

    pub(crate) fn end(&mut self) {
        self.is_ended = true;
    }

    /// Another gateway may ask it to let go.
    pub(crate) fn hears_wishes(&self) -> bool {
        matches!(self.phase, Phase::Serving { .. })
    }

    /// Whether it still waits for what it wrote.
    pub(crate) fn listens(&self, ticket: Ticket) -> bool {
        match (ticket, self.phase) {
            (Ticket::Taken, Phase::Taking { .. })
            | (Ticket::Released, Phase::Releasing { .. })
            | (Ticket::Batch(_), _) => true,
            (Ticket::Taken | Ticket::Released | Ticket::LetGo, _) => false,
        }
    }

    /// The hello has come.
    pub(crate) fn greet(&mut self, table: usize, at: &mut Surroundings<'_>) -> bool {
        if self.hello.is_some() || self.is_over() {
            return false;
        }
        match at.wire.hear_down(self.stream, at.now) {
            Some(Piece::Hello(hello, is_for)) => {
                let table = &FACTS.tables[table];
                let here = Here {
                    space: FACTS.space.clone(),
                    unit: FACTS.units[unit_of(self.gateway)].clone(),
                    gateway: FACTS.gateways[self.gateway].clone(),
                };
                let standing = Standing {
                    lineage: table.lineage().clone(),
                    epoch: table.epoch(),
                    revision: table.revision(),
                    units: FACTS.names(),
                    taken: table.taken(),
                    lanes_elsewhere: 1,
                };
                let admitted = admit(&hello, &Peer::Unproven, &here, Some(&standing));
                at.account
                    .check(admitted.is_ok(), || format!("refused: {admitted:?}"));
                self.hello = Some(*hello);
                self.is_for = is_for;
                let lane = self.lane();
                if let Some(lane) = lane {
                    self.receiver = Receiver::new(lane, Full::Waits);
                }
                true
            }
            Some(_) => {
                self.leave(at);
                false
            }
            None => false,
        }
    }

    fn leave(&mut self, at: &mut Surroundings<'_>) {
        at.wire.end_receiver(self.stream, at.now);
        self.phase = Phase::Over;
    }

    fn refuse(&mut self, cause: &str, connection: Option<u64>, at: &mut Surroundings<'_>) {
        if let Some(connection) = connection {
            at.broker.say(connection, Said::Close);
        }
        at.wire
            .say_up(self.stream, Piece::Down(cause.to_owned()), at.now);
        self.leave(at);
    }

    /// `is_first`: no older stream of its lane is left at this gateway.
    pub(crate) fn step(
        &mut self,
        is_first: bool,
        table: usize,
        journal: &mut Journal,
        at: &mut Surroundings<'_>,
    ) {
        match self.phase {
            Phase::Waiting if self.hello.is_some() && is_first => self.begin(at),
            Phase::Waiting | Phase::Over => {}
            Phase::Locking {
                connection,
                until,
                ask_at,
            } => {
                self.lock(connection, until, ask_at, journal, at);
            }
            Phase::Taking { connection, until } => self.take(connection, until, journal, at),
            Phase::Serving {
                connection,
                give_up,
            } => {
                self.serve(connection, give_up, table, journal, at);
            }
            Phase::Releasing { connection, until } => {
                if is_due(until, at.now) || has(journal, self.stream, Ticket::Released) {
                    at.broker.say(connection, Said::Close);
                    self.leave(at);
                }
            }
        }
    }

    fn begin(&mut self, at: &mut Surroundings<'_>) {
        if self.is_ended {
            return self.refuse("superseded", None, at);
        }
        let Some(connection) = at.broker.connect(self.gateway) else {
            return self.refuse("the broker is away", None, at);
        };
        match self.is_for {
            For::Lane => {
                self.phase = Phase::Locking {
                    connection,
                    until: at.now + LOCK_PATIENCE,
                    ask_at: at.now,
                };
            }
            For::Diversion(unit) => {
                at.broker.declare(unit);
                self.up(connection, at);
            }
            For::Park => self.up(connection, at),
        }
    }

    fn up(&mut self, connection: u64, at: &mut Surroundings<'_>) {
        at.wire.say_up(self.stream, Piece::Up(CREDIT), at.now);
        self.phase = Phase::Serving {
            connection,
            give_up: None,
        };
    }

    fn lock(
        &mut self,
        connection: u64,
        until: Instant,
        ask_at: Instant,
        journal: &mut Journal,
        at: &mut Surroundings<'_>,
    ) {
        if self.is_ended {
            return self.refuse("superseded", Some(connection), at);
        }
        if at.broker.has_lost(connection) {
            return self.refuse("the broker is away", None, at);
        }
        let Some(lane) = self.lane() else { return };
        let unit = FACTS.unit(&lane.unit);
        if at.broker.lock(unit, connection) {
            self.token = at.random.u64(..);
            let fact = Fact::Taken { token: self.token };
            journal.say(self.stream, Ticket::Taken, &lane, fact);
            self.phase = Phase::Taking {
                connection,
                until: at.now + TAKE_PATIENCE,
            };
            return;
        }
        if is_due(until, at.now) {
            return self.refuse("another gateway holds the lock", Some(connection), at);
        }
        if is_due(ask_at, at.now) {
            journal.say(self.stream, Ticket::LetGo, &lane, Fact::LetGo);
            self.phase = Phase::Locking {
                connection,
                until,
                ask_at: at.now + ASK_EVERY,
            };
        }
    }

    fn take(
        &mut self,
        connection: u64,
        until: Instant,
        journal: &mut Journal,
        at: &mut Surroundings<'_>,
    ) {
        if self.is_ended {
            return self.refuse("superseded", Some(connection), at);
        }
        if is_due(until, at.now) {
            return self.refuse("the journal can't be read", Some(connection), at);
        }
        if journal.marks.remove(&self.token) {
            at.account.say(|| {
                format!(
                    "gateway {} receives {:?} on stream {}, connection {connection:x}",
                    self.gateway,
                    self.lane(),
                    self.stream
                )
            });
            self.up(connection, at);
        }
    }

    fn serve(
        &mut self,
        connection: u64,
        give_up: Option<Instant>,
        table: usize,
        journal: &mut Journal,
        at: &mut Surroundings<'_>,
    ) {
        let mut actions = Actions::default();
        let mut ends = self.is_ended.then(|| "superseded".to_owned());
        self.hear(at);
        if let Err(cause) = self.outcomes(connection, journal, &mut actions, at) {
            ends = Some(cause);
        }
        let done: Vec<_> = journal
            .done
            .extract_if(.., |(of, _)| *of == self.stream)
            .collect();
        for (_, ticket) in done {
            if let Ticket::Batch(ticket) = ticket {
                self.receiver.journaled(ticket, &mut actions);
            }
        }
        if give_up.is_none() && ends.is_none() {
            self.offer(connection, table, journal, &mut actions, at);
        }
        while let Some(Batch { ticket, records }) = self.receiver.to_journal() {
            journal.write(Write {
                stream: self.stream,
                ticket: Ticket::Batch(ticket),
                records,
            });
        }
        at.account
            .check(self.receiver.unanswered() <= CREDIT.parcels, || {
                format!("{} parcels are unanswered", self.receiver.unanswered())
            });
        self.answer(actions.answers, at);
        let ends = ends.or(actions.end);
        let is_gone = self.sender_is_gone && self.parcels.is_empty();
        let mut give_up = give_up;
        if give_up.is_none() && (ends.is_some() || is_gone) {
            self.receiver.stop();
            give_up = Some(at.now + JOURNAL_PATIENCE);
        }
        self.phase = Phase::Serving {
            connection,
            give_up,
        };
        let Some(give_up) = give_up else { return };
        let is_done = self.receiver.is_done();
        let gives_up = is_due(give_up, at.now) && self.under_way.is_empty();
        if !is_done && !gives_up {
            return;
        }
        let cause = ends.unwrap_or_else(|| "it ended".to_owned());
        at.wire.say_up(self.stream, Piece::Down(cause), at.now);
        match self.lane() {
            Some(lane) if is_done => {
                journal.say(self.stream, Ticket::Released, &lane, Fact::Released);
                self.phase = Phase::Releasing {
                    connection,
                    until: at.now + JOURNAL_PATIENCE,
                };
            }
            Some(_) | None => {
                at.broker.say(connection, Said::Close);
                self.leave(at);
            }
        }
    }

    fn hear(&mut self, at: &mut Surroundings<'_>) {
        while !self.sender_is_gone
            && let Some(piece) = at.wire.hear_down(self.stream, at.now)
        {
            match piece {
                Piece::Parcel(parcel) => self.parcels.push_back(*parcel),
                Piece::Frame(bytes) => {
                    for frame in self.decoder.frames(&bytes).unwrap() {
                        let Frame::Batch(arrivals) = frame else {
                            at.account.fail(&format!("a lane says {frame:?}"));
                        };
                        for arrival in arrivals {
                            let Arrival::Readable(parcel) = arrival else {
                                at.account.fail(&format!("unreadable: {arrival:?}"));
                            };
                            let taken = self.window.take(parcel.number, parcel.cost_bytes());
                            at.account.check(taken.is_ok(), || format!("{taken:?}"));
                            self.parcels.push_back(*parcel);
                        }
                    }
                }
                Piece::End => self.sender_is_gone = true,
                Piece::Hello(..) | Piece::Answers(_) | Piece::Up(_) | Piece::Down(_) => {
                    at.account.fail(&format!("a lane says {piece:?}"));
                }
            }
        }
    }

    fn outcomes(
        &mut self,
        connection: u64,
        journal: &mut Journal,
        actions: &mut Actions,
        at: &mut Surroundings<'_>,
    ) -> Result<(), String> {
        while let Some(heard) = at.broker.hear(connection) {
            match heard {
                Heard::Outcome(number, outcome) => {
                    self.under_way.remove(&number);
                    let number = ParcelNumber(number);
                    let seen = &mut journal.seen;
                    self.receiver
                        .outcome(seen, number, outcome, at.since, actions);
                }
                Heard::Delivery(..) => {}
                Heard::Lost => {
                    for number in std::mem::take(&mut self.under_way) {
                        let cause = "the connection broke".to_owned();
                        let unknown = Outcome::Unknown { cause };
                        let (number, seen) = (ParcelNumber(number), &mut journal.seen);
                        self.receiver
                            .outcome(seen, number, unknown, at.since, actions);
                    }
                    return Err("the connection broke".to_owned());
                }
            }
        }
        Ok(())
    }

    fn offer(
        &mut self,
        connection: u64,
        table: usize,
        journal: &mut Journal,
        actions: &mut Actions,
        at: &mut Surroundings<'_>,
    ) {
        let lane = self.lane();
        let incarnation = self.hello.as_ref().map_or(0, |hello| hello.incarnation.0);
        let count = self.receiver.room().min(self.parcels.len());
        for parcel in self.parcels.drain(..count) {
            let (identities, verdict) = match &lane {
                Some(lane) => (
                    FACTS
                        .keys
                        .identities(lane, &parcel, &FACTS.keys.body(&parcel.body)),
                    check(
                        &FACTS.tables[table],
                        &FACTS.units[journal.unit()],
                        &parcel,
                        lane,
                    ),
                ),
                None => (None, Ok(())),
            };
            at.account.say(|| {
                format!(
                    "gateway {} is offered {} ({:?}) on stream {}: {:?} {}",
                    self.gateway,
                    parcel.number,
                    parcel.id,
                    self.stream,
                    verdict,
                    if parcel.sent_before { "again" } else { "" }
                )
            });
            let offer = Offer {
                parcel,
                identities,
                verdict,
            };
            self.receiver.offer(&journal.seen, offer, actions);
            for (parcel, mark) in std::mem::take(&mut actions.publish) {
                let id = parcel.number.0;
                let to = match self.is_for {
                    For::Lane => To::Application {
                        table,
                        lane: incarnation,
                    },
                    For::Diversion(unit) => To::Diversion(unit),
                    For::Park => To::Park,
                };
                self.under_way.insert(id);
                let parcel = Some(parcel);
                let publish = Publish {
                    id,
                    to,
                    parcel,
                    mark,
                };
                at.broker.say(connection, Said::Publish(Box::new(publish)));
            }
        }
    }

    fn answer(&mut self, answers: Vec<(ParcelNumber, Answer)>, at: &mut Surroundings<'_>) {
        if answers.is_empty() {
            return;
        }
        at.account.say(|| {
            format!(
                "gateway {} answers on stream {}: {answers:?}",
                self.gateway, self.stream
            )
        });
        let piece = if at.wire.is_link(self.stream) {
            for (number, _) in &answers {
                let was_under_way = self.window.release(*number);
                at.account
                    .check(was_under_way, || format!("{number} was answered twice"));
            }
            Piece::Frame(Frame::Answers(answers).encode().unwrap())
        } else {
            Piece::Answers(answers)
        };
        at.wire.say_up(self.stream, piece, at.now);
    }
}

/// Whether the journal has a stream's word.
fn has(journal: &mut Journal, stream: u64, ticket: Ticket) -> bool {
    let done = journal
        .done
        .extract_if(.., |(of, what)| *of == stream && *what == ticket);
    done.count() > 0
}
