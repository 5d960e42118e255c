//! How a source is spread over several lanes: which queues, which gateways, and how their number changes.
//!
//! Owns the two banks of lane queues, the order in which gateways stand for a lane, and the steps of a change. Promises
//! that at any time one bank alone is consumed, that a bank which messages no longer flow into is emptied before the other
//! is taken, so that no key is reordered, and that every gateway judges what the broker shows alike. Never asks a broker,
//! never reads a clock.

use crate::model::{GatewayId, Partition, SourceName};

/// One of the two banks of lane queues of a source. A change of their number goes from one to the other and the next one
/// back, so that a queue never holds messages of two spreads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bank {
    /// Partitions from 0; the first one.
    A,
    /// Partitions from 1,000.
    B,
}

/// Where the second bank's partitions begin: far above the most that a bank may have.
const SECOND_BANK: u16 = 1_000;

impl Bank {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// In the names of its exchange and its mark.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// Its first so many partitions, ascending.
    pub fn partitions(self, count: u16) -> impl DoubleEndedIterator<Item = Partition> {
        let first = match self {
            Self::A => 0,
            Self::B => SECOND_BANK,
        };
        (first..first.saturating_add(count)).map(Partition)
    }
}

/// What the broker shows of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// Whether the source's messages go through an exchange of setgate's own.
    pub switch: bool,
    /// The bank that a change leads to, from its begin until the other bank is gone.
    pub changing_to: Option<Bank>,
    /// Queues of the first bank, counted without a gap.
    pub in_a: u16,
    /// Queues of the second.
    pub in_b: u16,
}

impl Shown {
    /// Whether nothing of the source is there.
    pub fn is_nothing(&self) -> bool {
        !self.switch && self.in_a == 0 && self.in_b == 0
    }

    /// The bank that is taken while no change is under way, and its queues.
    pub fn taken(&self) -> (Bank, u16) {
        if self.in_a == 0 && self.in_b > 0 {
            (Bank::B, self.in_b)
        } else {
            (Bank::A, self.in_a)
        }
    }
}

/// What to make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One queue, which the source's exchange fills.
    Single,
    /// To be spread for the first time, over so many queues of the first bank: the wanted ones, or those that are there.
    Begin {
        /// Queues.
        count: u16,
    },
    /// Spread over this bank.
    Steady {
        /// Which.
        bank: Bank,
        /// Queues.
        count: u16,
    },
    /// Spread over this bank, which has another number of queues than is wanted.
    Outgrown {
        /// Which.
        bank: Bank,
        /// Queues.
        count: u16,
    },
    /// On the way from one bank to the other.
    Changing {
        /// The one to be emptied.
        from: Bank,
        /// How many queues are left of it.
        left: u16,
        /// Queues of the other; none: they aren't complete yet.
        built: u16,
    },
}

/// What to make of what the broker shows. Queues of a bank are declared downwards and deleted downwards, so a bank that has
/// its lowest one is complete, and one that is going is counted right to its end.
pub fn judge(shown: &Shown, wanted: u16) -> Layout {
    let count = |bank| match bank {
        Bank::A => shown.in_a,
        Bank::B => shown.in_b,
    };
    if !shown.switch {
        return match (wanted, shown.in_a) {
            (0 | 1, _) => Layout::Single,
            (count, 0) | (_, count) => Layout::Begin { count },
        };
    }
    if let Some(to) = shown.changing_to {
        return Layout::Changing {
            from: to.other(),
            left: count(to.other()),
            built: count(to),
        };
    }
    let (bank, taken) = shown.taken();
    match taken {
        // Somebody has deleted them all; they come back.
        0 => Layout::Steady {
            bank,
            count: wanted,
        },
        count if count == wanted => Layout::Steady { bank, count },
        count => Layout::Outgrown { bank, count },
    }
}

/// What is left in the queues of a bank that is to be emptied, its diversions among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// Messages that nobody holds.
    pub ready: u64,
    /// Consumers of all gateways.
    pub consumers: u64,
}

/// How far the emptying of a bank has come, at one gateway. Nothing flows into the bank any more but what was on its way,
/// so one look more than needed stands between the last message and the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Emptying {
    /// Its lanes take.
    #[default]
    Taking,
    /// They have taken all that is ready, seen once.
    Quiet,
    /// They have let go, so that what they had in hand is settled or ready again.
    LetGo,
    /// Nobody has anything of it in hand, seen once.
    Empty,
    /// Seen twice: it can be deleted.
    Done,
}

impl Emptying {
    /// Whether this gateway's lanes take from the bank.
    pub fn takes(self) -> bool {
        match self {
            Self::Taking | Self::Quiet => true,
            Self::LetGo | Self::Empty | Self::Done => false,
        }
    }

    /// After another look.
    #[must_use]
    pub fn next(self, left: Left) -> Self {
        if left.ready > 0 {
            return Self::Taking;
        }
        match (self, left.consumers) {
            (Self::Taking, _) => Self::Quiet,
            (Self::Quiet, _) | (Self::LetGo | Self::Empty | Self::Done, 1..) => Self::LetGo,
            (Self::LetGo, 0) => Self::Empty,
            (Self::Empty | Self::Done, 0) => Self::Done,
        }
    }
}

/// A gateway's place among those that stand for a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// It takes the lane.
    First,
    /// It waits behind the first, and has the lane as soon as that is gone.
    Second,
    /// Two others do.
    Aside,
}

/// Where `me` stands for a lane among the unit's gateways (rendezvous hashing: a gateway that comes or goes moves its own
/// lanes alone, and every gateway that knows the same gateways says the same).
pub fn stand(
    me: &GatewayId,
    gateways: &[GatewayId],
    source: &SourceName,
    partition: Partition,
) -> Stand {
    let weight = |gateway: &GatewayId| {
        let text = format!("{gateway}/{source}/{partition}");
        xxhash_rust::xxh3::xxh3_64(text.as_bytes())
    };
    let mine = (weight(me), me);
    let before = gateways
        .iter()
        .filter(|other| *other != me && (weight(other), *other) > mine)
        .count();
    match before {
        0 => Stand::First,
        1 => Stand::Second,
        _ => Stand::Aside,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const NOTHING: Shown = Shown {
        switch: false,
        changing_to: None,
        in_a: 0,
        in_b: 0,
    };

    fn gateways(names: &[&str]) -> Vec<GatewayId> {
        let parse = |name: &&str| GatewayId::parse(name).expect("a name");
        names.iter().map(parse).collect()
    }

    fn firsts(gateways: &[GatewayId], partitions: u16) -> HashMap<Partition, GatewayId> {
        let source = SourceName::parse("orders").expect("a name");
        let mut found = HashMap::new();
        for partition in Bank::A.partitions(partitions) {
            let places: Vec<_> = gateways
                .iter()
                .map(|me| stand(me, gateways, &source, partition))
                .collect();
            let count = |wanted| places.iter().filter(|place| **place == wanted).count();
            assert_eq!(count(Stand::First), 1);
            assert_eq!(count(Stand::Second), gateways.len().min(2) - 1);
            let first = places.iter().position(|place| *place == Stand::First);
            found.insert(partition, gateways[first.expect("one")].clone());
        }
        found
    }

    #[test]
    fn each_lane_has_one_first_and_one_second_gateway() {
        for count in 1..=4 {
            firsts(&gateways(&["a", "b", "c", "d"])[..count], 50);
        }
    }

    #[test]
    fn a_gateway_that_joins_or_leaves_moves_its_own_lanes_alone() {
        let two = gateways(&["sh-1-a", "sh-1-b"]);
        let three = gateways(&["sh-1-a", "sh-1-b", "sh-1-c"]);
        let (before, after) = (firsts(&two, 99), firsts(&three, 99));
        let moved: Vec<_> = before.iter().filter(|(p, g)| after[p] != **g).collect();
        assert!(moved.iter().all(|(p, _)| after[p] == three[2]));
        assert!((15..=55).contains(&moved.len()), "{}", moved.len());
    }

    #[test]
    fn what_is_spread_for_the_first_time_keeps_the_queue_that_is_there() {
        assert_eq!(judge(&NOTHING, 1), Layout::Single);
        assert_eq!(judge(&NOTHING, 3), Layout::Begin { count: 3 });
        let single = Shown { in_a: 1, ..NOTHING };
        assert_eq!(judge(&single, 1), Layout::Single);
        assert_eq!(judge(&single, 3), Layout::Begin { count: 1 });
    }

    #[test]
    fn a_change_goes_from_one_set_to_the_other_and_back() {
        let mut shown = Shown {
            switch: true,
            in_a: 3,
            ..NOTHING
        };
        let steady = |bank, count| Layout::Steady { bank, count };
        assert_eq!(judge(&shown, 3), steady(Bank::A, 3));
        let (bank, count) = (Bank::A, 3);
        assert_eq!(judge(&shown, 5), Layout::Outgrown { bank, count });
        shown.changing_to = Some(Bank::B);
        shown.in_b = 5;
        let changing = Layout::Changing {
            from: Bank::A,
            left: 3,
            built: 5,
        };
        assert_eq!(judge(&shown, 5), changing);
        // What is wanted meanwhile waits.
        assert_eq!(judge(&shown, 1), changing);
        shown.in_a = 0;
        shown.changing_to = None;
        assert_eq!(judge(&shown, 5), steady(Bank::B, 5));
        let (bank, count) = (Bank::B, 5);
        assert_eq!(judge(&shown, 1), Layout::Outgrown { bank, count });
    }

    #[test]
    fn a_set_is_done_when_nobody_has_anything_of_it() {
        let left = |ready, consumers| Left { ready, consumers };
        let mut emptying = Emptying::default();
        for (seen, expected) in [
            (left(7, 2), Emptying::Taking),
            (left(0, 2), Emptying::Quiet),
            (left(0, 2), Emptying::LetGo),
            (left(0, 1), Emptying::LetGo),
            (left(0, 0), Emptying::Empty),
            // The other gateway's lane let go of something.
            (left(1, 0), Emptying::Taking),
            (left(0, 1), Emptying::Quiet),
            (left(0, 1), Emptying::LetGo),
            (left(0, 0), Emptying::Empty),
            (left(0, 0), Emptying::Done),
        ] {
            emptying = emptying.next(seen);
            assert_eq!(emptying, expected);
        }
    }
}
