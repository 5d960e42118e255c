//! A lane with its queues and targets in a seeded world, where everything may happen at any moment.

use crate::diversions::{as_delivered, id};
use crate::seeds::seeds;
use crate::world::{World, documents, here, order, there, unit};
use setgate::lane::Target;
use setgate::link::receiver::check;
use setgate::model::{Answer, Epoch, LaneId, Lineage, Message, Parcel, Partition, Seats, UnitId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// A queue of the broker with one consumer.
#[derive(Default)]
struct Queue {
    ready: VecDeque<Message>,
    unacknowledged: VecDeque<(u64, Message)>,
    last_tag: u64,
}

impl Queue {
    fn give(&mut self) -> Option<(u64, Message)> {
        let message = self.ready.pop_front()?;
        self.last_tag += 1;
        self.unacknowledged
            .push_back((self.last_tag, message.clone()));
        Some((self.last_tag, message))
    }

    fn acknowledge(&mut self, tag: u64) {
        while self
            .unacknowledged
            .front()
            .is_some_and(|(one, _)| *one <= tag)
        {
            self.unacknowledged.pop_front();
        }
    }

    fn end_channel(&mut self) {
        for (_, mut message) in self.unacknowledged.drain(..).rev() {
            message.redelivered = true;
            self.ready.push_front(message);
        }
        self.last_tag = 0;
    }

    /// The ids of what is in it.
    fn waiting(&self) -> Vec<u64> {
        let unacknowledged = self.unacknowledged.iter().map(|(_, message)| message);
        let messages = self.ready.iter().chain(unacknowledged);
        messages.filter_map(id_of).collect()
    }

    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.unacknowledged.is_empty()
    }
}

/// One stream, and what came out of it.
#[derive(Default)]
struct Side {
    up: bool,
    under_way: VecDeque<Parcel>,
    /// Ids, and whether they were marked.
    arrived: Vec<(u64, bool)>,
}

/// Who has the slots 70 to 79, and whether they are on their way to the other unit.
struct Mover {
    seats: Seats,
    owner: UnitId,
    to: UnitId,
    fenced: bool,
}

/// The world's documents, with a third unit.
fn three_units() -> String {
    let placed = documents().replace(
        "{slots: 50-99, unit: bj-1}",
        "{slots: 50-79, unit: bj-1}, {slots: 80-99, unit: bj-2}",
    );
    placed.replace(
        "bj-1: {site: bj-c}",
        "bj-1: {site: bj-c}, bj-2: {site: bj-c}",
    )
}

/// A lane with its queues, in a world where everything may happen at any moment.
struct Sim {
    seed: u64,
    random: fastrand::Rng,
    world: World,
    source: Queue,
    diversions: BTreeMap<String, Queue>,
    sides: BTreeMap<Target, Side>,
    slots: BTreeMap<u64, i32>,
    /// Of each slot, what has arrived anywhere, and when it did first.
    order: BTreeMap<i32, Vec<u64>>,
    mover: Mover,
    lives: u64,
    /// The lane works off what it has.
    stopping: bool,
}

const UNITS: [&str; 3] = ["sh-1", "bj-1", "bj-2"];

impl Sim {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            random: fastrand::Rng::with_seed(seed),
            world: World::under(&three_units(), "orders", 32),
            source: Queue::default(),
            diversions: BTreeMap::new(),
            sides: BTreeMap::new(),
            slots: BTreeMap::new(),
            order: BTreeMap::new(),
            mover: Mover {
                seats: Seats {
                    lineage: Lineage("one".into()),
                    epoch: Epoch(1),
                    ..Seats::default()
                },
                owner: unit("bj-1"),
                to: unit("sh-1"),
                fenced: false,
            },
            lives: 1,
            stopping: false,
        }
    }

    fn run(mut self) {
        for step in 0..400 {
            self.step();
            if step % 8 == 0 {
                self.check_conservation();
            }
        }
        self.heal();
        self.check_end();
    }

    fn targets(&self) -> Vec<Target> {
        self.world.opened.iter().cloned().collect()
    }

    fn step(&mut self) {
        let targets = self.targets();
        let target =
            (!targets.is_empty()).then(|| targets[self.random.usize(..targets.len())].clone());
        match (self.random.u8(..100), target) {
            (0..20, _) => self.publish(),
            (20..40, _) => self.take(),
            (40..55, _) => self.drain(),
            (55..70, Some(target)) => self.send(&target),
            (70..85, Some(target)) => self.answer(&target, Answer::Accepted),
            (85..87, Some(target)) => self.later(&target),
            (87..89, Some(target)) => self.cut(&target),
            (89..95, _) => {
                let time = Duration::from_millis(self.random.u64(..1_500));
                self.pass(time);
            }
            (95, _) => match self.random.u8(..3) {
                0 => self.restart(),
                1 => self.stop(),
                _ => self.lose_drain(),
            },
            (_, _) => self.move_on(),
        }
    }

    fn publish(&mut self) {
        let id = self.slots.len() as u64 + 1;
        // Few slots, so that each has many messages.
        let slot = [10, 60, 70, 71, 90][self.random.usize(..5)];
        self.slots.insert(id, slot);
        self.source.ready.push_back(order(slot, id));
    }

    /// Slots are fenced; where they are and nothing of them is under way any more, they get their new owner. Or they get it
    /// without that, when the old one is lost.
    fn move_on(&mut self) {
        let mover = &mut self.mover;
        if !mover.fenced {
            mover.fenced = true;
            return self.world.fence(&mover.seats, &mover.owner, &mover.to);
        }
        let is_lost = self.random.u8(..4) == 0;
        if self.world.lane.fenced_in_flight(&self.world.table) > 0 && !is_lost {
            return;
        }
        // It may be back before the lane hears of it.
        self.place();
        if is_lost && self.random.bool() {
            self.place();
        }
    }

    fn place(&mut self) {
        let mover = &mut self.mover;
        mover.fenced = false;
        mover.seats = self.world.place(&mover.seats, &mover.owner, &mover.to);
        std::mem::swap(&mut mover.owner, &mut mover.to);
    }

    /// The lane works off what it has, and ends when it has, or whenever.
    fn stop(&mut self) {
        self.stopping = true;
        self.world
            .ask(|lane, routing, at| (lane.stop(routing, at), ()));
        self.settle();
    }

    fn take(&mut self) {
        if self.stopping {
            let lane = &self.world.lane;
            if lane.in_flight() == 0 && lane.drains_in_flight() == 0 {
                self.restart();
            }
        } else if self.world.lane.has_room()
            && let Some((tag, message)) = self.source.give()
        {
            self.world.take(tag, message);
            self.settle();
        }
    }

    fn drain(&mut self) {
        for name in UNITS {
            let to = unit(name);
            if self.world.drains.contains(&to)
                && self.world.lane.drain_has_room(&to, self.world.now)
                && let Some((tag, message)) = self.diversions.get_mut(name).and_then(Queue::give)
            {
                self.world.take_diverted(&to, tag, message);
                self.settle();
            }
        }
    }

    fn send(&mut self, target: &Target) {
        let side = self.sides.entry(target.clone()).or_default();
        if !side.up {
            side.up = true;
            self.world.lane.stream_up(target, 1 << 20, 8);
        }
        while let Some(parcel) = self.world.next(target) {
            side.under_way.push_back(parcel);
        }
    }

    /// Unless its receiver publishes no such thing.
    fn arrive(&mut self, target: &Target, parcel: Parcel) -> Result<(), Answer> {
        if let Target::Unit(to) = target {
            let lane = LaneId {
                unit: unit("sh-1"),
                source: self.world.source.clone(),
                partition: Partition(0),
            };
            check(&self.world.table, to, &parcel, &lane)?;
        }
        match target {
            Target::Diversion(to) => {
                let queue = self.diversions.entry(to.as_str().to_owned()).or_default();
                let sent_before = parcel.sent_before;
                let mut message = as_delivered(parcel, false);
                if sent_before {
                    let mut edit = setgate::amqp::Edit::new();
                    let mark = setgate::amqp::FieldValue::Bool(true);
                    edit.set(setgate::model::marks::X_SET_IN_DOUBT, &mark);
                    message.properties = edit.apply(&message.properties).unwrap();
                }
                queue.ready.push_back(message);
            }
            Target::Unit(_) | Target::Park => {
                let side = self.sides.entry(target.clone()).or_default();
                let (id, marked) = (id(&parcel), parcel.sent_before);
                side.arrived.push((id, marked));
                let of_slot = self.order.entry(self.slots[&id]).or_default();
                if !of_slot.contains(&id) {
                    if let Some(last) = of_slot.last() {
                        assert!(id > *last, "seed {}: {id} came behind {last}", self.seed);
                    }
                    of_slot.push(id);
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, target: &Target, answer: Answer) {
        let side = self.sides.entry(target.clone()).or_default();
        if let Some(parcel) = side.under_way.pop_front() {
            let number = parcel.number;
            let answer = self.arrive(target, parcel).err().unwrap_or(answer);
            let ends = matches!(answer, Answer::Later { .. });
            self.world.answer(target, number, answer);
            self.settle();
            if ends {
                self.end_stream(target);
            }
        }
    }

    fn later(&mut self, target: &Target) {
        let side = self.sides.entry(target.clone()).or_default();
        if let Some(parcel) = side.under_way.pop_front() {
            // What is behind it is not published.
            side.under_way.clear();
            let cause = "full".to_owned();
            self.world
                .answer(target, parcel.number, Answer::Later { cause });
            self.settle();
            self.end_stream(target);
        }
    }

    /// Some of what is under way arrives, its answers don't.
    fn cut(&mut self, target: &Target) {
        let side = self.sides.entry(target.clone()).or_default();
        let arrives = self.random.usize(..=side.under_way.len());
        let arrived: Vec<_> = side.under_way.drain(..arrives).collect();
        for parcel in arrived {
            let _ = self.arrive(target, parcel);
        }
        self.end_stream(target);
    }

    fn end_stream(&mut self, target: &Target) {
        let side = self.sides.entry(target.clone()).or_default();
        side.under_way.clear();
        side.up = false;
        self.world.lane.stream_down(target, "cut".to_owned());
    }

    fn settle(&mut self) {
        self.source.acknowledge(self.world.settled);
        for (to, tag) in &self.world.drained {
            if let Some(queue) = self.diversions.get_mut(to.as_str()) {
                queue.acknowledge(*tag);
            }
        }
        // A lane that gives a stream up gets no more of its answers; some of it may have arrived.
        for target in std::mem::take(&mut self.world.closed) {
            self.cut(&target);
        }
        for name in UNITS {
            let open = self.world.drains.contains(&unit(name));
            if !open && let Some(queue) = self.diversions.get_mut(name) {
                queue.end_channel();
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.world.pass(time);
        self.settle();
    }

    fn lose_drain(&mut self) {
        let drains: Vec<_> = self.world.drains.iter().cloned().collect();
        for to in drains {
            self.diversions
                .entry(to.as_str().to_owned())
                .or_default()
                .end_channel();
            self.world
                .ask(|lane, routing, at| (lane.drain_lost(&to, routing, at), ()));
            self.settle();
        }
    }

    fn restart(&mut self) {
        for target in self.targets() {
            self.cut(&target);
        }
        self.source.end_channel();
        self.diversions.values_mut().for_each(Queue::end_channel);
        self.lives += 1;
        self.stopping = false;
        self.world.restart(32, self.lives);
        for name in UNITS {
            if self.diversions.contains_key(name) {
                self.world
                    .ask(|lane, routing, at| (lane.diversion_found(&unit(name), routing, at), ()));
            }
        }
        self.settle();
    }

    fn heal(&mut self) {
        if self.stopping {
            self.restart();
        }
        if self.mover.fenced {
            self.place();
        }
        for _ in 0..20_000 {
            self.take();
            self.drain();
            for target in self.targets() {
                self.send(&target);
                while self
                    .sides
                    .get(&target)
                    .is_some_and(|side| !side.under_way.is_empty())
                {
                    self.answer(&target, Answer::Accepted);
                }
            }
            self.pass(Duration::from_millis(200));
            // A diversion that has ended may have copies in it that came late.
            let mut left = self.diversions.values().flat_map(Queue::waiting);
            let idle = self.source.is_empty() && left.all(|id| self.has_arrived(id));
            if idle && self.world.lane.diversions().count() == 0 {
                return;
            }
        }
        panic!(
            "seed {}: after all is healed {} wait in the source and {:?} in diversions, {:?}",
            self.seed,
            self.source.ready.len() + self.source.unacknowledged.len(),
            self.diversions
                .values()
                .map(|one| one.ready.len())
                .collect::<Vec<_>>(),
            self.world.lane.diversions().collect::<Vec<_>>(),
        );
    }

    fn has_arrived(&self, id: u64) -> bool {
        let mut arrived = self.sides.values().flat_map(|side| &side.arrived);
        arrived.any(|(one, _)| *one == id)
    }

    fn check_conservation(&self) {
        let mut somewhere: BTreeSet<_> = self.source.waiting().into_iter().collect();
        somewhere.extend(self.diversions.values().flat_map(Queue::waiting));
        somewhere.extend(
            self.sides
                .values()
                .flat_map(|side| side.arrived.iter().map(|(id, _)| *id)),
        );
        for id in self.slots.keys() {
            assert!(
                somewhere.contains(id),
                "seed {}: message {id} is nowhere",
                self.seed
            );
        }
    }

    fn check_end(&self) {
        for (target, side) in &self.sides {
            let Target::Unit(_) = target else { continue };
            let mut seen = BTreeSet::new();
            for (id, marked) in &side.arrived {
                let slot = self.slots[id];
                let owner = match slot {
                    10 => Some(here()),
                    60 => Some(there()),
                    90 => Some(Target::Unit(unit("bj-2"))),
                    _ => None,
                };
                let its = owner.is_none_or(|owner| owner == *target);
                assert!(its, "seed {}: {id} came to {target:?}", self.seed);
                // What a former life of the lane took back from a diversion is known to the receiver alone.
                let known = *marked || self.lives > 1;
                assert!(
                    seen.insert(*id) || known,
                    "seed {}: {id} came twice, unmarked",
                    self.seed
                );
            }
        }
        let arrived: BTreeSet<_> = self
            .sides
            .values()
            .flat_map(|side| side.arrived.iter().map(|(id, _)| *id))
            .collect();
        assert_eq!(arrived.len(), self.slots.len(), "seed {}", self.seed);
    }
}

/// Of a message in a queue: wrapped ones have it as a mark.
fn id_of(message: &Message) -> Option<u64> {
    use setgate::amqp::TextProperty::MessageId;
    let id = message.properties.text(MessageId)?;
    std::str::from_utf8(&id[1..]).ok()?.parse().ok()
}

/// `SETGATE_SEED` replays one seed, `SETGATE_SEEDS` says how many there are.
#[test]
fn whatever_targets_links_lanes_and_drains_do_nothing_is_lost_and_order_holds_through_diversions() {
    for seed in seeds() {
        Sim::new(seed).run();
    }
}
