//! The lane: deliveries in, parcels out, answers in, settlements out.
//!
//! Owns the ledgers and an outlet for each target. Promises that a delivery is settled once, after every target has
//! answered for good; that what a target returns or refuses is parked and never settled as if it had arrived; that
//! parcels for one target stay in the order of the queue, through its diversion too. Never talks to a broker, never
//! reads a clock.

mod divert;
mod drain;
mod finish;
mod route;

use super::absent::Absent;
use super::action::{Action, LaneSettings, Moment, Note, Routing, Target};
use super::diversion::{Diversion, DiversionView};
use super::ledger::{EntryId, Ledger};
use super::outlet::{Claim, Feed, Offered, Outlet, OutletView};
use super::park::{LargeParcel, wrap_large};
use crate::model::{Answer, DeliveryTag, Epoch, Message, Parcel, ParcelNumber, Reason, UnitId};
use crate::routing::Table;
use drain::Waiting;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

/// See the file's head.
#[derive(Debug)]
pub struct Lane {
    settings: LaneSettings,
    /// So many may be in flight now.
    deliveries: usize,
    /// Of the queue that is taken; diversions that are drained have their own.
    ledger: Ledger,
    outlets: BTreeMap<Target, Outlet>,
    diversions: BTreeMap<UnitId, Diversion>,
    /// By the unit whose diversion brought it; no queue is empty.
    waiting: BTreeMap<UnitId, VecDeque<Waiting>>,
    /// Numbers what goes into diversions, over all of them.
    next_number: u64,
    /// Of the ledger's entries, those whose bodies are being parked in pieces.
    large: BTreeSet<EntryId>,
    /// What found nothing bound at its unit.
    absent: Absent,
    /// Of the table that parcels were last routed by.
    epoch: Epoch,
    /// Its own broker is slow: see [`Lane::tick`].
    no_detour_until: Option<Instant>,
    /// It takes no more: nothing is held for the end of a diversion.
    stopping: bool,
}

/// One event: what it is judged by, when it came, and what it leads to.
struct Turn<'a> {
    routing: Routing<'a>,
    at: Moment,
    actions: Vec<Action>,
}

impl<'a> Turn<'a> {
    fn new(routing: Routing<'a>, at: Moment) -> Self {
        Self {
            routing,
            at,
            actions: Vec::new(),
        }
    }

    fn note(&mut self, note: Note) {
        self.actions.push(Action::Note(note));
    }
}

impl Lane {
    /// An empty lane: of one consumer on one channel, whose end is the lane's end.
    pub fn new(settings: LaneSettings) -> Self {
        Self {
            deliveries: settings.window.deliveries,
            settings,
            ledger: Ledger::default(),
            outlets: BTreeMap::new(),
            diversions: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_number: 1,
            large: BTreeSet::new(),
            absent: Absent::default(),
            epoch: Epoch::default(),
            no_detour_until: None,
            stopping: false,
        }
    }

    /// Whether it takes another delivery now.
    pub fn has_room(&self) -> bool {
        self.ledger.is_empty()
            || (self.ledger.len() < self.deliveries
                && self.ledger.cost_bytes() < self.settings.window.bytes)
    }

    /// From now on so many deliveries may be in flight; what is beyond it stays.
    pub fn set_deliveries(&mut self, deliveries: usize) {
        self.deliveries = deliveries;
    }

    /// What it may have in flight when all is well. A lane that is full all the time gets fewer for the time being; what
    /// fills a good part of those says nothing of a target.
    fn budget(&self) -> usize {
        self.deliveries.max(self.settings.window.deliveries)
    }

    /// Deliveries that were settled, ever, of the queue that it takes.
    pub fn settled(&self) -> u64 {
        self.ledger.settled()
    }

    /// Deliveries that are not settled, of the queue that it takes.
    pub fn in_flight(&self) -> usize {
        self.ledger.len()
    }

    /// The same of the diversions that it drains.
    pub fn drains_in_flight(&self) -> usize {
        self.drains().map(Ledger::len).sum()
    }

    /// Bytes that all of them count for.
    pub fn cost_bytes(&self) -> usize {
        self.ledger.cost_bytes() + self.drains().map(Ledger::cost_bytes).sum::<usize>()
    }

    /// Parcels of slots that are being moved, by this table, which some unit has not answered yet. With none in any lane
    /// and any receiver, those slots are delivered nowhere.
    pub fn fenced_in_flight(&self, table: &Table) -> usize {
        if !table.has_fences() {
            return 0;
        }
        if table.is_source_fenced(&self.settings.source) {
            let diverted = self.diversions().count();
            return self.in_flight() + self.drains_in_flight() + diverted;
        }
        let fenced = |parcel: &Parcel| table.is_fenced(parcel.slot, parcel.why, &parcel.to);
        let outlets = self.outlets.iter();
        outlets
            .map(|(target, outlet)| match target {
                Target::Unit(_) => outlet.count(fenced),
                Target::Diversion(_) | Target::Park => 0,
            })
            .sum()
    }

    /// When the oldest of its own queue's was taken.
    pub fn oldest(&self) -> Option<Instant> {
        self.ledger.oldest()
    }

    /// What the status page says of each target.
    pub fn views(&self) -> impl Iterator<Item = (&Target, OutletView)> {
        self.outlets
            .iter()
            .map(|(target, outlet)| (target, outlet.view()))
    }

    /// What it says of each diversion that is in use.
    pub fn diversions(&self) -> impl Iterator<Item = (&UnitId, DiversionView)> {
        self.diversions
            .iter()
            .filter(|(_, diversion)| diversion.is_active())
            .map(|(unit, diversion)| (unit, diversion.view()))
    }

    /// Takes a delivery in, routes it, and offers its parcels.
    pub fn take(
        &mut self,
        tag: DeliveryTag,
        message: Message,
        routing: Routing<'_>,
        at: Moment,
    ) -> Vec<Action> {
        let mut turn = Turn::new(routing, at);
        self.follow_seats(&mut turn);
        turn.note(Note::Received);
        let claim = Claim {
            feed: Feed::Source,
            entry: self.ledger.open(tag, cost_bytes(&message), at.now),
        };
        self.route(&claim, message, &mut turn);
        self.ledger.close(claim.entry);
        self.end(turn)
    }

    /// Takes a delivery in whose body is above `message_max` and comes in pieces. Gives what goes into the park queue in
    /// front of them; the delivery is settled when all of it is there, see [`Lane::large_parked`]. Others may be taken
    /// meanwhile: what is parked keeps nobody waiting, though their acknowledgement waits for its own.
    pub fn take_large(
        &mut self,
        tag: DeliveryTag,
        message: Message,
        body_bytes: u64,
        routing: Routing<'_>,
        at: Moment,
    ) -> (Vec<Action>, LargeParcel) {
        let reason = Reason::TooLarge;
        let max = self.settings.limits.body_bytes_max;
        let cause = format!("its body has {body_bytes} bytes, message_max is {max}");
        let mut turn = Turn::new(routing, at);
        turn.note(Note::Received);
        turn.note(Note::Parking { reason, cause });
        // Its body counts for nothing: no more of it than a piece is ever held.
        let entry = self.ledger.open(tag, OVERHEAD_BYTES, at.now);
        self.ledger.wait_for(entry);
        self.ledger.close(entry);
        self.large.insert(entry);
        let parked = self.parked_as_it_is(message, reason);
        let (properties, prefix, body_bytes) =
            wrap_large(&parked, body_bytes, self.wrapping(&turn));
        let parcel = LargeParcel {
            entry,
            address: route::park_address(routing.table),
            properties,
            prefix,
            body_bytes,
        };
        (self.end(turn), parcel)
    }

    /// The park queue has a large message, to its last byte.
    pub fn large_parked(
        &mut self,
        entry: EntryId,
        routing: Routing<'_>,
        at: Moment,
    ) -> Vec<Action> {
        let mut turn = Turn::new(routing, at);
        if self.large.remove(&entry) {
            self.ledger.answered(entry);
            turn.note(Note::Parked {
                reason: Reason::TooLarge,
            });
        }
        self.end(turn)
    }

    /// There is a stream to a target, with this credit.
    pub fn stream_up(&mut self, target: &Target, credit_bytes: usize, credit_parcels: usize) {
        if let Some(outlet) = self.outlets.get_mut(target) {
            outlet.up(credit_bytes, credit_parcels);
        }
        self.check_invariants();
    }

    /// There is none.
    pub fn stream_down(&mut self, target: &Target, cause: String) {
        if let Some(outlet) = self.outlets.get_mut(target) {
            outlet.down(cause);
        }
        self.check_invariants();
    }

    /// The next parcel that may go to a target now.
    pub fn next_to_send(&mut self, target: &Target, now: Instant) -> Option<Parcel> {
        self.outlets.get_mut(target)?.next_to_send(now)
    }

    /// Takes a target's answers in.
    pub fn answered(
        &mut self,
        target: &Target,
        answers: Vec<(ParcelNumber, Answer)>,
        routing: Routing<'_>,
        at: Moment,
    ) -> Vec<Action> {
        let mut turn = Turn::new(routing, at);
        self.follow_seats(&mut turn);
        if let Some(outlet) = self.outlets.get_mut(target) {
            outlet.hears(at.now);
        }
        for (number, answer) in answers {
            self.answer(target, number, answer, &mut turn);
        }
        if self.outlets.get(target).is_some_and(Outlet::is_closing) {
            turn.actions.push(Action::Close(target.clone()));
        }
        self.end(turn)
    }

    fn offer(&mut self, target: &Target, offered: Offered, turn: &mut Turn<'_>) {
        self.outlet(target, turn).offer(offered);
    }

    fn outlet(&mut self, target: &Target, turn: &mut Turn<'_>) -> &mut Outlet {
        self.outlets.entry(target.clone()).or_insert_with(|| {
            turn.actions.push(Action::Open(target.clone()));
            Outlet::new()
        })
    }

    /// The ledger of a feed; none once a drain has ended, and with it what it had taken.
    fn ledger_of(&mut self, feed: &Feed) -> Option<&mut Ledger> {
        match feed {
            Feed::Source => Some(&mut self.ledger),
            Feed::Diversion(unit) => Some(&mut self.diversions.get_mut(unit)?.drain_mut()?.ledger),
        }
    }

    fn drains(&self) -> impl Iterator<Item = &Ledger> {
        self.diversions
            .values()
            .filter_map(Diversion::drain)
            .map(|drain| &drain.ledger)
    }

    /// The end of every event.
    fn end(&mut self, mut turn: Turn<'_>) -> Vec<Action> {
        let settled = self.ledger.settle();
        turn.actions
            .extend(settled.map(|settled| Action::Acknowledge(Feed::Source, settled)));
        self.settle_drains(&mut turn);
        self.check_invariants();
        turn.actions
    }

    fn check_invariants(&self) {
        if cfg!(debug_assertions) {
            self.outlets.values().for_each(Outlet::check_invariants);
            let unanswered: usize = self.outlets.values().map(Outlet::claimed).sum();
            let held: usize = self.diversions.values().map(Diversion::held).sum();
            let waiting = self.ledger.waiting() + self.drains().map(Ledger::waiting).sum::<usize>();
            let kept: usize = self.waiting.values().map(VecDeque::len).sum();
            debug_assert_eq!(
                unanswered + held + kept + self.large.len(),
                waiting,
                "every parcel has its entry"
            );
        }
    }
}

/// A flat allowance for what a message takes besides its body; the same as a parcel's.
const OVERHEAD_BYTES: usize = 1_024;

/// What a message counts for in a lane's window.
fn cost_bytes(message: &Message) -> usize {
    message.body.len() + OVERHEAD_BYTES
}
