//! How many bytes a second a link may carry: a token bucket.
//!
//! Owns the moment up to which the link's bytes are paid for. Promises that over any stretch of time no more leaves than
//! the rate allows, one burst and one frame beside it, and that every frame leaves at last, however large. Shared by a
//! link's streams: whoever finds it open sends, and pays afterwards. Never reads a clock, never waits.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// What an idle link may save up. A tenth of a second covers the turns of a busy runtime; more would fill the queues
/// of the wire that the cap is there to keep short.
const BURST: Duration = Duration::from_millis(100);

/// See the file's head.
#[derive(Debug, Clone)]
pub struct Cap {
    bytes_per_second: NonZeroU64,
    /// The bytes sent so far take up to here at the rate; before now when the link has been idle.
    paid_until: Option<Instant>,
}

impl Cap {
    /// Open at first.
    pub fn new(bytes_per_second: NonZeroU64) -> Self {
        Self {
            bytes_per_second,
            paid_until: None,
        }
    }

    /// The rate.
    pub fn bytes_per_second(&self) -> NonZeroU64 {
        self.bytes_per_second
    }

    /// From when on a frame may leave; none: at once.
    pub fn closed_until(&self, now: Instant) -> Option<Instant> {
        self.paid_until.filter(|until| *until > now)
    }

    /// Pays for a frame that leaves now.
    ///
    /// A frame may cost more than what is saved up: what it is short of, the next one waits for. Asking for the whole
    /// sum beforehand would hold a frame larger than a burst for ever.
    pub fn spend(&mut self, bytes: usize, now: Instant) {
        let saved_from = now.checked_sub(BURST).unwrap_or(now);
        let from = self
            .paid_until
            .map_or(saved_from, |until| until.max(saved_from));
        self.paid_until = from.checked_add(self.takes(bytes)).or(Some(from));
    }

    fn takes(&self, bytes: usize) -> Duration {
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_second.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods)] // any instant will do: only differences count
    fn some_instant() -> Instant {
        Instant::now()
    }

    fn cap(bytes_per_second: u64) -> Cap {
        Cap::new(NonZeroU64::new(bytes_per_second).expect("not zero"))
    }

    /// Sends frames of this size whenever the cap is open, for this long; the bytes that left.
    fn send_for(cap: &mut Cap, frame: usize, from: Instant, length: Duration) -> usize {
        let (mut now, mut sent) = (from, 0);
        while now < from + length {
            if let Some(until) = cap.closed_until(now) {
                now = until;
            } else {
                cap.spend(frame, now);
                sent += frame;
            }
        }
        sent
    }

    #[test]
    fn a_busy_link_carries_its_rate_and_no_more_than_a_burst_beside_it() {
        // 1 MB a second for a minute, in frames of 32 KiB.
        let (rate, frame) = (1_000_000, 32 * 1_024);
        let from = some_instant() + BURST;
        let sent = send_for(&mut cap(rate), frame, from, Duration::from_mins(1));
        let allowed = 60 * 1_000_000 + 100_000 + frame;
        assert!((60_000_000..=allowed).contains(&sent), "{sent}");
    }

    #[test]
    fn an_idle_link_saves_up_one_burst_alone() {
        let from = some_instant() + BURST;
        let mut cap = cap(1_000_000);
        cap.spend(1, from);
        let later = from + Duration::from_hours(1);
        let sent = send_for(&mut cap, 1_000, later, Duration::from_millis(1));
        assert!((100_000..=102_000).contains(&sent), "{sent}");
    }

    #[test]
    fn a_frame_larger_than_the_rate_leaves_and_the_next_waits_for_it() {
        let now = some_instant() + BURST;
        let mut cap = cap(1_000);
        assert_eq!(cap.closed_until(now), None);
        cap.spend(10_000, now);
        let expected = now + Duration::from_secs(10).saturating_sub(BURST);
        assert_eq!(cap.closed_until(now), Some(expected));
        assert_eq!(cap.closed_until(expected), None);
    }

    #[test]
    fn no_size_and_no_rate_makes_it_panic() {
        let now = some_instant();
        let mut cap = cap(1);
        cap.spend(usize::MAX, now);
        cap.spend(usize::MAX, now);
        assert!(cap.closed_until(now).is_some());
    }
}
