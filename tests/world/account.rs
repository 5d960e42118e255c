//! What was asked for and what has become of it: all that a world is judged by.
//!
//! Every wish (a message in one of its rounds, for one unit where it is shared) is somewhere at any moment; it lands in a
//! unit that owns it; a second copy has its mark; and what was published first lands first.

use crate::facts::{FACTS, UNITS};
use setgate::link::receiver::Mark;
use setgate::model::{Parcel, Slot};
use std::collections::{BTreeMap, VecDeque};

/// `hops_max`.
pub(crate) const ROUNDS_MAX: u32 = 4;

/// A message in one of its rounds; for which unit, where it is for all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wish {
    pub(crate) id: u64,
    pub(crate) round: u32,
    pub(crate) copy_for: Option<usize>,
}

/// A message as its publisher knows it.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) from: usize,
    /// None: it is shared.
    pub(crate) slot: Option<u32>,
    /// How often its consumer rejects it.
    pub(crate) rejects: u32,
}

/// Where the copies of a wish are.
#[derive(Debug, Default)]
struct Copies {
    in_source: u32,
    in_diversion: u32,
    landed: u32,
    parked: u32,
    /// Where, and by which table.
    landed_by: Vec<(usize, usize)>,
    /// One of them had the mark.
    landed_in_doubt: bool,
    /// Connections on which others may have overtaken it: it was refused there while they were under way.
    overtaken_on: Vec<u64>,
    is_ordered: bool,
}

/// What has landed of one source's slot, in order: ids, and on which connection.
type Landed = BTreeMap<(usize, Option<u32>, Option<usize>), Vec<(u64, u64)>>;

pub(crate) struct Account {
    seed: u64,
    pub(crate) messages: Vec<Sent>,
    wishes: BTreeMap<Wish, Copies>,
    landed: Landed,
    /// Parcels that were refused before, by their lane's life, target and number.
    refused: BTreeMap<(u64, usize, u64), u64>,
    moved: Vec<u32>,
    /// The last events, where they are wanted.
    events: VecDeque<String>,
    tells: Tells,
    /// Copies that came a second time, marked.
    pub(crate) in_doubt: u32,
    unfulfilled: usize,
}

pub(crate) fn id_of(parcel: &Parcel) -> Option<u64> {
    let id = parcel.id.as_ref()?;
    std::str::from_utf8(&id.0[1..]).ok()?.parse().ok()
}

impl Account {
    pub(crate) fn new(seed: u64, tells: Tells) -> Self {
        Self {
            seed,
            messages: Vec::new(),
            wishes: BTreeMap::new(),
            landed: BTreeMap::new(),
            refused: BTreeMap::new(),
            moved: Vec::new(),
            events: VecDeque::new(),
            tells,
            in_doubt: 0,
            unfulfilled: 0,
        }
    }

    pub(crate) fn say(&mut self, event: impl FnOnce() -> String) {
        match self.tells {
            Tells::Nothing => {}
            Tells::Events { last } => {
                self.events.push_back(event());
                if self.events.len() > last {
                    self.events.pop_front();
                }
            }
        }
    }

    pub(crate) fn fail(&self, what: &str) -> ! {
        let events: Vec<_> = self.events.iter().map(String::as_str).collect();
        panic!(
            "seed {}: {what} (SETGATE_SEED={} replays it)\n{}",
            self.seed,
            self.seed,
            events.join("\n")
        );
    }

    pub(crate) fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(&what());
        }
    }

    /// A publisher's broker has confirmed a new message: its id.
    pub(crate) fn publish(&mut self, sent: Sent) -> u64 {
        self.messages.push(sent);
        let id = self.messages.len() as u64;
        self.wish(id, 1);
        id
    }

    /// A message is to be handled in this round.
    pub(crate) fn wish(&mut self, id: u64, round: u32) {
        let Sent { slot, .. } = self.sent(id);
        let is_ordered = round == 1 && slot.is_none_or(|slot| !self.moved.contains(&slot));
        for wish in self.wishes_of(id, round) {
            self.unfulfilled += 1;
            let copies = Copies {
                is_ordered,
                ..Copies::default()
            };
            self.wishes.insert(wish, copies);
        }
    }

    pub(crate) fn sent(&self, id: u64) -> Sent {
        self.messages[usize::try_from(id).unwrap() - 1].clone()
    }

    /// Slots change their owner, without a fence: what is under way of them may be overtaken.
    pub(crate) fn moves(&mut self, slots: &[u32]) {
        self.moved.extend(slots);
        let moved = &self.moved;
        for (wish, copies) in &mut self.wishes {
            let slot = self.messages[usize::try_from(wish.id).unwrap() - 1].slot;
            copies.is_ordered &= slot.is_none_or(|slot| !moved.contains(&slot));
        }
    }

    fn wishes_of(&self, id: u64, round: u32) -> Vec<Wish> {
        let Sent { from, slot, .. } = self.sent(id);
        let to = |copy_for| Wish {
            id,
            round,
            copy_for,
        };
        match slot {
            Some(_) => vec![to(None)],
            None => (0..UNITS)
                .filter(|unit| *unit != from)
                .map(|unit| to(Some(unit)))
                .collect(),
        }
    }

    fn wish_at(&self, id: u64, round: u32, unit: usize) -> Wish {
        let copy_for = self.sent(id).slot.is_none().then_some(unit);
        Wish {
            id,
            round,
            copy_for,
        }
    }

    fn copies(&mut self, wish: Wish) -> &mut Copies {
        if !self.wishes.contains_key(&wish) {
            self.fail(&format!("nobody has asked for {wish:?}"));
        }
        self.wishes.get_mut(&wish).unwrap()
    }

    pub(crate) fn enters_source(&mut self, id: u64, round: u32) {
        for wish in self.wishes_of(id, round) {
            self.copies(wish).in_source += 1;
        }
    }

    pub(crate) fn leaves_source(&mut self, id: u64, round: u32) {
        for wish in self.wishes_of(id, round) {
            self.copies(wish).in_source -= 1;
            self.check_kept(wish);
        }
    }

    pub(crate) fn enters_diversion(&mut self, id: u64, round: u32, unit: usize) {
        let wish = self.wish_at(id, round, unit);
        self.copies(wish).in_diversion += 1;
    }

    pub(crate) fn leaves_diversion(&mut self, id: u64, round: u32, unit: usize) {
        let wish = self.wish_at(id, round, unit);
        self.copies(wish).in_diversion -= 1;
        self.check_kept(wish);
    }

    fn check_kept(&mut self, wish: Wish) {
        let copies = self.copies(wish);
        let kept = copies.in_source + copies.in_diversion + copies.landed + copies.parked;
        self.check(kept > 0, || format!("{wish:?} is acknowledged and nowhere"));
    }

    /// Whether a wish has come true where this unit is one of its targets.
    pub(crate) fn has_landed(&self, id: u64, round: u32, unit: usize) -> bool {
        let wish = self.wish_at(id, round, unit);
        self.wishes
            .get(&wish)
            .is_some_and(|copies| copies.landed > 0)
    }

    /// A copy is in the application's queue of a unit. True for the first of its wish.
    pub(crate) fn lands(
        &mut self,
        unit: usize,
        parcel: &Parcel,
        mark: Mark,
        table: usize,
        connection: u64,
    ) -> bool {
        let Some(id) = id_of(parcel) else {
            self.fail("something without an id was delivered");
        };
        let wish = self.wish_at(id, parcel.round.0, unit);
        self.say(|| format!("unit {unit}: {wish:?} lands, {mark:?}, on {connection:x}"));
        let sent = self.sent(id);
        if let Some(slot) = sent.slot {
            let owner = FACTS.tables[table].seat_of(Slot(slot)).unwrap();
            self.check(*owner == FACTS.units[unit], || {
                format!("{wish:?} lands in unit {unit}, by table {table} it is {owner}'s")
            });
        }
        let has_moved = sent.slot.is_some_and(|slot| self.moved.contains(&slot));
        let copies = self.copies(wish);
        // Without a fence, whoever has an older table serves a slot that another unit has been given: neither knows.
        let knows = |(at, by): &(usize, usize)| *at == unit || *by <= table;
        let is_known = copies.landed_by.iter().any(knows);
        // As messages of such a slot may overtake each other, so may two copies of one: the mark is on the later one, wherever
        // it comes first.
        let is_marked = mark == Mark::InDoubt || (has_moved && copies.landed_in_doubt);
        copies.landed_in_doubt |= mark == Mark::InDoubt;
        copies.landed_by.push((unit, table));
        copies.landed += 1;
        let is_first = copies.landed == 1;
        if !is_first {
            self.in_doubt += 1;
            self.check(!is_known || is_marked, || {
                format!("a second copy of {wish:?} has no mark")
            });
            return false;
        }
        self.unfulfilled -= 1;
        if self.copies(wish).is_ordered {
            self.check_order(wish, &sent, connection);
        }
        true
    }

    fn check_order(&mut self, wish: Wish, sent: &Sent, connection: u64) {
        let overtaken_on = std::mem::take(&mut self.copies(wish).overtaken_on);
        let key = (sent.from, sent.slot, wish.copy_for);
        let landed = self.landed.entry(key).or_default();
        let wrong = landed
            .iter()
            .find(|(other, on)| *other > wish.id && !overtaken_on.contains(on))
            .copied();
        landed.push((wish.id, connection));
        self.check(wrong.is_none(), || {
            let (other, on) = wrong.unwrap_or_default();
            format!("{other} (on {on:x}) came before {wish:?}, of {key:?}")
        });
    }

    /// A destination has refused a parcel: what was under way behind it may overtake it, once.
    pub(crate) fn refuses(&mut self, unit: usize, parcel: &Parcel, lane: u64, connection: u64) {
        let number = (lane, unit, parcel.number.0);
        let first_on = *self.refused.entry(number).or_insert(connection);
        if let Some(id) = id_of(parcel).filter(|_| first_on == connection) {
            let wish = self.wish_at(id, parcel.round.0, unit);
            self.copies(wish).overtaken_on.push(connection);
        }
    }

    pub(crate) fn parks(&mut self, unit: usize, parcel: &Parcel) {
        let Some(id) = id_of(parcel) else {
            self.fail("something without an id was parked");
        };
        let round = parcel.round.0;
        self.check(round > ROUNDS_MAX, || {
            format!("{id} was parked in round {round}")
        });
        let wish = self.wish_at(id, round, unit);
        let copies = self.copies(wish);
        copies.parked += 1;
        if copies.parked == 1 {
            self.unfulfilled -= 1;
        }
    }

    pub(crate) fn is_fulfilled(&self) -> bool {
        self.unfulfilled == 0
    }

    /// Everything is over: each wish has come true.
    pub(crate) fn check_end(&self) {
        for (wish, copies) in &self.wishes {
            let parks = wish.round > ROUNDS_MAX;
            let (landed, parked) = (copies.landed > 0, copies.parked > 0);
            self.check(landed != parks && parked == parks, || {
                format!("at the end {wish:?} is {copies:?}")
            });
        }
    }

    /// What is still to come.
    pub(crate) fn missing(&self) -> Vec<Wish> {
        let open = |copies: &Copies| copies.landed + copies.parked == 0;
        let missing = self.wishes.iter().filter(|(_, copies)| open(copies));
        missing.map(|(wish, _)| *wish).take(20).collect()
    }
}

/// Whether events are kept for the case that something fails.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tells {
    Nothing,
    /// So many.
    Events {
        last: usize,
    },
}
