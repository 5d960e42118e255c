//! How many deliveries a lane needs in flight for its rate over its distance.
//!
//! Too few, and the lane waits for answers that are still on their way; too many, and they only grow old here, where a
//! healthy target looks late. Never reads a clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A lane may have so many whatever its rate: a target near by needs no more for 10,000 a second.
const LEAST: usize = 1_024;

/// The same of a lane that is full all the time: of many lanes on a busy machine each gets so little done that 1,024 would
/// grow a minute old, and a healthy target would be diverted as a late one. Its least is what it settles in a second.
const FULL_LEAST: usize = 16;

/// How old what is in flight may be, beside thrice the way: publish, confirm and journal take 20 ms on average (ADR 14), but
/// some 150 ms once a classic queue is busy, and a lost packet costs the way twice more. Less than that, and a busy queue's
/// lane would be given ever fewer.
const AGE: Duration = Duration::from_millis(500);

/// See [`AGE`].
const WAYS: u32 = 3;

/// How far back rates are looked at: the highest of this time counts.
const RECENT: Duration = Duration::from_secs(1);

/// A rate is that over so long at least: answers come in batches.
const STRETCH: Duration = Duration::from_millis(250);

/// What a lane has done up to a moment.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// Deliveries settled, ever.
    pub settled: u64,
    /// Deliveries not settled.
    pub in_flight: usize,
}

/// See the file's head.
#[derive(Debug, Clone)]
pub struct Reach {
    deliveries: usize,
    /// When it was measured, and what had been settled by then: all of [`RECENT`] and one before, oldest first.
    recent: VecDeque<(Instant, u64)>,
}

impl Default for Reach {
    fn default() -> Self {
        Self {
            deliveries: LEAST,
            recent: VecDeque::new(),
        }
    }
}

impl Reach {
    /// For the time to come, at most `max`.
    pub fn deliveries(&self, max: usize) -> usize {
        self.deliveries.min(max)
    }

    /// So much has been done up to now, by targets of which the farthest is so far away (round trip). To be told several
    /// times a second.
    pub fn measure(&mut self, done: Done, distance: Duration, now: Instant) {
        self.recent.push_back((now, done.settled));
        let is_old = |at: &(Instant, u64)| now.saturating_duration_since(at.0) >= RECENT;
        while self.recent.get(1).is_some_and(is_old) {
            self.recent.pop_front();
        }
        let Some(highest) = self.highest() else {
            return;
        };
        let least = if done.in_flight < self.deliveries {
            LEAST
        } else {
            count(self.over_all()).clamp(FULL_LEAST, LEAST)
        };
        // Where this many are that old, the rate is what the way or the target gives, and more wouldn't raise it; while they
        // are younger, they become more.
        let needed = highest * (WAYS * distance + AGE).as_secs_f64();
        self.deliveries = count(needed).max(least);
    }

    /// The highest rate of late; none before there is one.
    fn highest(&self) -> Option<f64> {
        let long = |(at, _): &(Instant, u64), (from, _): &(Instant, u64)| {
            at.saturating_duration_since(*from) >= STRETCH
        };
        let rates = self.recent.iter().enumerate().filter_map(|(number, from)| {
            let to = self.recent.range(number..).find(|to| long(to, from))?;
            Some(rate(*from, *to))
        });
        rates.max_by(f64::total_cmp)
    }

    /// Over all of the time that is looked at.
    fn over_all(&self) -> f64 {
        match (self.recent.front(), self.recent.back()) {
            (Some(from), Some(to)) => rate(*from, *to),
            (_, _) => 0.0,
        }
    }
}

fn rate((from, before): (Instant, u64), (to, settled): (Instant, u64)) -> f64 {
    let time = to.saturating_duration_since(from).as_secs_f64();
    settled.saturating_sub(before) as f64 / time.max(1e-3)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count far below 2^52"
)]
fn count(number: f64) -> usize {
    number.min(1e9) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 8_192;

    fn done(settled: u64, in_flight: usize) -> Done {
        Done { settled, in_flight }
    }

    /// After some seconds at such a rate.
    fn reach(per_second: u64, distance_ms: u64) -> usize {
        let mut world = World::new(distance_ms);
        (0..30).for_each(|_| world.beat(per_second / 10, 0));
        world.reach.deliveries(MAX)
    }

    /// A lane, told ten times a second.
    struct World {
        reach: Reach,
        now: Instant,
        settled: u64,
        distance: Duration,
    }

    impl World {
        fn new(distance_ms: u64) -> Self {
            Self {
                reach: Reach::default(),
                now: tokio::time::Instant::now().into_std(),
                settled: 0,
                distance: Duration::from_millis(distance_ms),
            }
        }

        fn beat(&mut self, settled: u64, in_flight: usize) {
            self.settled += settled;
            self.now += Duration::from_millis(100);
            let done = done(self.settled, in_flight);
            self.reach.measure(done, self.distance, self.now);
        }
    }

    #[test]
    fn a_lane_near_by_has_what_its_rate_needs_and_a_far_one_more() {
        assert_eq!(Reach::default().deliveries(MAX), LEAST);
        assert_eq!(reach(2_000, 0), LEAST);
        assert_eq!(reach(10_000, 0), 5_000);
        assert_eq!(reach(5_000, 100), 4_000);
        assert_eq!(reach(7_000, 200), 7_700);
        assert_eq!(reach(20_000, 200), MAX, "no more than it may");
        assert_eq!(reach(500, 200), LEAST, "a slow lane needs no more");
    }

    #[test]
    fn a_lane_comes_to_its_rate_within_a_second_whose_target_confirms_late() {
        let mut world = World::new(100);
        // 250 ms after a message is taken its answer is here.
        let mut taken = VecDeque::from([0; 2]);
        for _ in 0..10 {
            let in_flight = world.reach.deliveries(MAX);
            taken.push_back(in_flight as u64 * 100 / 250);
            let settled = taken.pop_front().unwrap_or_default();
            world.beat(settled, in_flight);
        }
        assert!(world.reach.deliveries(MAX) >= 4 * LEAST);
    }

    #[test]
    fn a_lane_whose_targets_stop_comes_back_to_the_least() {
        let mut world = World::new(100);
        (0..10).for_each(|_| world.beat(600, 0));
        assert_eq!(world.reach.deliveries(MAX), 4_800);
        (0..5).for_each(|_| world.beat(0, 0));
        assert_eq!(world.reach.deliveries(MAX), 4_800, "they may go on");
        (0..10).for_each(|_| world.beat(0, 0));
        assert_eq!(world.reach.deliveries(MAX), LEAST);
        assert_eq!(world.reach.deliveries(8), 8, "its prefetch is the bound");
    }

    #[test]
    fn what_a_full_lane_has_in_flight_is_not_older_than_a_second_and_grows_again() {
        let mut world = World::new(100);
        (0..20).for_each(|_| world.beat(2, LEAST));
        assert_eq!(world.reach.deliveries(MAX), 20);
        (0..20).for_each(|_| world.beat(0, 20));
        assert_eq!(
            world.reach.deliveries(MAX),
            FULL_LEAST,
            "nothing is settled"
        );
        // Its targets are well again: with sixteen in flight over this distance some hundred a second.
        for _ in 0..50 {
            let in_flight = world.reach.deliveries(MAX);
            world.beat(in_flight as u64 * 8 / 10, in_flight);
        }
        assert!(world.reach.deliveries(MAX) >= LEAST);
    }
}
