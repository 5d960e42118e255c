//! How long to wait before trying again.

use std::time::Duration;

/// Waits between attempts: doubling from 0.1 s to 10 s, with jitter, so that gateways that lost the same peer don't
/// come back in step.
#[derive(Debug, Clone)]
pub struct Backoff {
    seed: u64,
}

/// The shortest wait.
const DELAY_MIN: Duration = Duration::from_millis(100);
/// The longest: a peer that is back is found within it.
const DELAY_MAX: Duration = Duration::from_secs(10);

impl Backoff {
    /// Its jitter follows from the seed alone.
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The wait before an attempt, the first one being 1: between half of its step and all of it.
    pub fn delay(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(16);
        let step = (DELAY_MIN * 2)
            .saturating_mul(1 << doublings)
            .min(DELAY_MAX);
        let half = step / 2;
        let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_micros(mix(self.seed ^ u64::from(attempt)) % spread)
    }
}

/// SplitMix64's output function: spreads neighbouring seeds over all 64 bits.
const fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_a_tenth_of_a_second_to_ten_and_differ_by_seed() {
        for seed in 0..50 {
            let backoff = Backoff::new(seed);
            for attempt in 0..40 {
                let delay = backoff.delay(attempt);
                assert!(
                    delay >= DELAY_MIN && delay <= DELAY_MAX,
                    "{attempt}: {delay:?}"
                );
            }
            assert!(backoff.delay(12) >= DELAY_MAX / 2);
        }
        assert_ne!(Backoff::new(1).delay(9), Backoff::new(2).delay(9));
        assert_eq!(Backoff::new(1).delay(9), Backoff::new(1).delay(9));
    }
}
