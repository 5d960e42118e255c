//! How many deliveries a lane needs in flight for its rate over its distance.
//!
//! Too few, and the lane waits for answers that are still on their way; too many, and they only grow old here, where a
//! healthy target looks late. Never reads a clock.

use std::time::{Duration, Instant};

/// A lane may have so many whatever its rate: a target near by needs no more for 10,000 a second.
const LEAST: usize = 1_024;

/// The same of a lane that is full all the time: of many lanes on a busy machine each gets so little done that 1,024 would
/// grow a minute old, and a healthy target would be diverted as a late one. Its least is what it settles in a second.
const FULL_LEAST: usize = 16;

/// What an answer takes besides the way: publish, confirm and journal. On average some 20 ms were seen (ADR 14); a loaded
/// broker takes longer.
const ANSWER: Duration = Duration::from_millis(50);

/// How much more than its rate needs a lane may have, so that its rate can grow.
const HEADROOM: f64 = 2.0;

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
    /// When it was last measured, and what had been settled by then.
    last: Option<(Instant, u64)>,
}

impl Default for Reach {
    fn default() -> Self {
        Self {
            deliveries: LEAST,
            last: None,
        }
    }
}

impl Reach {
    /// For the time to come, at most `max`.
    pub fn deliveries(&self, max: usize) -> usize {
        self.deliveries.min(max)
    }

    /// So much has been done up to now, by targets of which the farthest is so far away (round trip). To be told about once
    /// a second.
    pub fn measure(&mut self, done: Done, distance: Duration, now: Instant) {
        let last = self.last.replace((now, done.settled));
        let Some((since, before)) = last else {
            return;
        };
        let time = now.saturating_duration_since(since).as_secs_f64();
        if time <= 0.0 {
            return;
        }
        let rate = done.settled.saturating_sub(before) as f64 / time;
        let least = if done.in_flight < self.deliveries {
            LEAST
        } else {
            count(rate).clamp(FULL_LEAST, LEAST)
        };
        let needed = HEADROOM * rate * (distance + ANSWER).as_secs_f64();
        self.deliveries = count(needed).max(least);
    }
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

    const MAX: usize = 4_096;

    fn done(settled: u64, in_flight: usize) -> Done {
        Done { settled, in_flight }
    }

    /// After some seconds of so many settled in each.
    fn reach(per_second: u64, distance_ms: u64) -> usize {
        let start = tokio::time::Instant::now().into_std();
        let mut reach = Reach::default();
        for second in 0..3 {
            let now = start + Duration::from_secs(second);
            let done = done(second * per_second, 0);
            reach.measure(done, Duration::from_millis(distance_ms), now);
        }
        reach.deliveries(MAX)
    }

    #[test]
    fn a_lane_near_by_has_the_least_and_a_far_one_twice_what_its_rate_needs() {
        assert_eq!(Reach::default().deliveries(MAX), LEAST);
        assert_eq!(reach(10_000, 1), LEAST);
        assert_eq!(reach(10_000, 100), 3_000);
        assert_eq!(reach(10_000, 200), MAX, "no more than it may");
        assert_eq!(reach(500, 200), LEAST, "a slow lane needs no more");
    }

    #[test]
    fn a_lane_whose_targets_stop_comes_back_to_the_least() {
        let start = tokio::time::Instant::now().into_std();
        let (mut reach, far) = (Reach::default(), Duration::from_millis(100));
        reach.measure(done(0, 0), far, start);
        reach.measure(done(10_000, 0), far, start + Duration::from_secs(1));
        assert_eq!(reach.deliveries(MAX), 3_000);
        reach.measure(done(10_000, 0), far, start + Duration::from_secs(2));
        assert_eq!(reach.deliveries(MAX), LEAST);
        assert_eq!(reach.deliveries(8), 8, "its prefetch is the bound");
    }

    #[test]
    fn what_a_full_lane_has_in_flight_is_not_older_than_a_second_and_grows_again() {
        let start = tokio::time::Instant::now().into_std();
        let (mut reach, far) = (Reach::default(), Duration::from_millis(100));
        let mut settled = 0;
        for (second, per_second, full) in [(0, 0, LEAST), (1, 20, LEAST), (2, 0, 20)] {
            settled += per_second;
            let now = start + Duration::from_secs(second);
            reach.measure(done(settled, full), far, now);
        }
        assert_eq!(reach.deliveries(MAX), FULL_LEAST, "nothing was settled");
        // Its targets are well again: with sixteen in flight over this distance some hundred a second.
        for second in 3..8 {
            let in_flight = reach.deliveries(MAX);
            settled += in_flight as u64 * 8;
            let now = start + Duration::from_secs(second);
            reach.measure(done(settled, in_flight), far, now);
        }
        assert!(reach.deliveries(MAX) >= LEAST);
    }
}
