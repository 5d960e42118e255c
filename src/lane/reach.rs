//! How many deliveries a lane needs in flight for its rate over its distance.
//!
//! Too few, and the lane waits for answers that are still on their way; too many, and they only grow old here, where a
//! healthy target looks late. Never reads a clock.

use std::time::{Duration, Instant};

/// A lane may have so many whatever its rate: a target near by needs no more for 10,000 a second.
const LEAST: usize = 1_024;

/// What an answer takes besides the way: publish, confirm and journal. On average some 20 ms were seen (ADR 14); a loaded
/// broker takes longer.
const ANSWER: Duration = Duration::from_millis(50);

/// How much more than its rate needs a lane may have, so that its rate can grow.
const HEADROOM: f64 = 2.0;

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

    /// So many deliveries have been settled up to now, by targets of which the farthest is so far away (round trip). To be
    /// told about once a second.
    pub fn measure(&mut self, settled: u64, distance: Duration, now: Instant) {
        let last = self.last.replace((now, settled));
        let Some((since, before)) = last else {
            return;
        };
        let time = now.saturating_duration_since(since).as_secs_f64();
        if time <= 0.0 {
            return;
        }
        let rate = settled.saturating_sub(before) as f64 / time;
        let needed = HEADROOM * rate * (distance + ANSWER).as_secs_f64();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count far below 2^52"
        )]
        let needed = needed.min(1e9) as usize;
        self.deliveries = needed.max(LEAST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 4_096;

    /// After some seconds of so many settled in each.
    fn reach(per_second: u64, distance_ms: u64) -> usize {
        let start = tokio::time::Instant::now().into_std();
        let mut reach = Reach::default();
        for second in 0..3 {
            let now = start + Duration::from_secs(second);
            reach.measure(second * per_second, Duration::from_millis(distance_ms), now);
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
        reach.measure(0, far, start);
        reach.measure(10_000, far, start + Duration::from_secs(1));
        assert_eq!(reach.deliveries(MAX), 3_000);
        reach.measure(10_000, far, start + Duration::from_secs(2));
        assert_eq!(reach.deliveries(MAX), LEAST);
        assert_eq!(reach.deliveries(8), 8, "its prefetch is the bound");
    }
}
