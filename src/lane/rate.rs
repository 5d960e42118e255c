//! How fast a diversion is drained.
//!
//! Owns one number, messages per second: it grows while the lane's other targets fare well, halves when they wait, and
//! never falls below what arrives, with some to spare: a drain always wins in the end. Never reads a clock.

use std::time::Instant;

/// To begin with, and the least without arrivals.
const FLOOR: f64 = 200.0;
/// More than a lane can do: no limit in practice.
const CEILING: f64 = 100_000.0;
/// A drain takes this many times what arrives, at least.
const LEAD: f64 = 2.0;
/// By how much it grows in a second in which nobody waits.
const GROWTH: f64 = 1.5;
/// By how much it falls in one in which somebody does.
const FALL: f64 = 0.5;
/// Tokens for so many seconds may be saved up.
const BURST_SECONDS: f64 = 0.25;

/// See the file's head.
#[derive(Debug, Clone)]
pub(super) struct DrainRate {
    per_second: f64,
    tokens: f64,
    filled: Instant,
}

impl DrainRate {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            per_second: 5.0 * FLOOR,
            tokens: 1.0,
            filled: now,
        }
    }

    /// Whether one may be taken now.
    pub(super) fn allows(&self, now: Instant) -> bool {
        self.tokens_at(now) >= 1.0
    }

    /// One was taken.
    pub(super) fn took(&mut self, now: Instant) {
        self.tokens = self.tokens_at(now) - 1.0;
        self.filled = now;
    }

    /// Once a second.
    pub(super) fn adapt(&mut self, arrivals: f64, others_wait: bool) {
        let factor = if others_wait { FALL } else { GROWTH };
        let floor = FLOOR.max(arrivals * LEAD);
        self.per_second = (self.per_second * factor).clamp(floor.min(CEILING), CEILING);
    }

    fn tokens_at(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        let most = (self.per_second * BURST_SECONDS).max(1.0);
        (self.tokens + passed * self.per_second).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn taken_in_a_second(rate: &mut DrainRate, from: Instant) -> u32 {
        let mut taken = 0;
        for ms in 0..1_000 {
            let now = from + Duration::from_millis(ms);
            while rate.allows(now) {
                rate.took(now);
                taken += 1;
            }
        }
        taken
    }

    #[test]
    fn it_wins_over_what_arrives_however_the_others_fare() {
        let start = tokio::time::Instant::now().into_std();
        let mut rate = DrainRate::new(start);
        (0..60).for_each(|_| rate.adapt(4_000.0, true));
        let taken = taken_in_a_second(&mut rate, start);
        assert!(taken > 5_000, "{taken}");
    }

    #[test]
    fn it_gives_way_while_others_wait_and_grows_when_they_do_not() {
        let start = tokio::time::Instant::now().into_std();
        let mut rate = DrainRate::new(start);
        (0..20).for_each(|_| rate.adapt(0.0, false));
        assert!(rate.per_second > 50_000.0);
        (0..20).for_each(|_| rate.adapt(0.0, true));
        let taken = taken_in_a_second(&mut rate, start);
        assert!((200..=260).contains(&taken), "{taken}");
    }
}
