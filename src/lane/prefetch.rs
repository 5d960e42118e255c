//! How many deliveries a lane asks for, by the sizes that it has seen.
//!
//! A live consumer's prefetch can't be changed, so a change costs the channel: rare, and only where the present one is
//! wrong. Too high: the lane's bytes are spent, its socket isn't read, and the broker resets what it can't write to for
//! 30 s. Too low: the lane waits for messages that it has room for. Never reads a clock.

use std::time::{Duration, Instant};

/// How long sizes are watched before a prefetch grows: where they change to and fro, a lane reopens no more often.
const WATCH: Duration = Duration::from_mins(1);

/// A prefetch that grows by less than this factor isn't worth a channel.
const GROWTH_MIN: u16 = 2;

/// See the file's head.
#[derive(Debug, Clone)]
pub struct Prefetch {
    now: u16,
    max: u16,
    bytes_max: usize,
    /// Bytes of the largest body since then; 0 when none came.
    largest: usize,
    watched_from: Option<Instant>,
}

impl Prefetch {
    /// Begins as if all messages were small: with `max` of them, which may take `bytes_max` together.
    pub fn new(max: u16, bytes_max: usize) -> Self {
        Self {
            now: max,
            max,
            bytes_max,
            largest: 0,
            watched_from: None,
        }
    }

    /// To consume with.
    pub fn get(&self) -> u16 {
        self.now
    }

    /// A delivery with a body of this size came.
    pub fn saw(&mut self, body_bytes: usize) {
        self.largest = self.largest.max(body_bytes).max(1);
    }

    /// Whether the lane had better settle what it has and reopen with a higher one: all that came for a minute is small
    /// enough. To be asked now and then; stays true until [`Prefetch::grow`].
    pub fn should_grow(&mut self, now: Instant) -> bool {
        let from = *self.watched_from.get_or_insert(now);
        if now.saturating_duration_since(from) < WATCH {
            return false;
        }
        if self.largest > 0 && self.fitting() / GROWTH_MIN >= self.now {
            return true;
        }
        self.watch_anew();
        false
    }

    /// Takes the higher one.
    pub fn grow(&mut self) {
        self.now = self.fitting().max(self.now);
        self.watch_anew();
    }

    /// The lane's channel has gone or is given up: the next one asks for no more than fits the sizes seen.
    pub fn shrink(&mut self) {
        self.now = self.fitting().min(self.now);
        self.watch_anew();
    }

    /// The lane's channel is given up with so many in flight, all that it may have: the next one asks for no more, since what
    /// is beyond them would only lie in the socket and bring it to this again.
    pub fn stalled(&mut self, in_flight: usize) {
        self.shrink();
        let held = u16::try_from(in_flight).unwrap_or(self.max);
        self.now = self.now.min(held).max(1);
    }

    fn watch_anew(&mut self) {
        self.largest = 0;
        self.watched_from = None;
    }

    fn fitting(&self) -> u16 {
        u16::try_from(self.bytes_max / self.largest.max(1))
            .unwrap_or(self.max)
            .clamp(1, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn after(seconds: u64, start: Instant) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_lane_that_stalled_on_large_messages_asks_for_as_many_as_fit() {
        let mut prefetch = Prefetch::new(1_024, 64 * MIB);
        prefetch.saw(1_024);
        prefetch.saw(8 * MIB);
        prefetch.shrink();
        assert_eq!(prefetch.get(), 8);
        prefetch.saw(100 * MIB);
        prefetch.shrink();
        assert_eq!(prefetch.get(), 1, "one always fits");
    }

    #[test]
    fn it_grows_again_after_a_minute_of_small_ones_and_not_in_silence() {
        let start = tokio::time::Instant::now().into_std();
        let mut prefetch = Prefetch::new(1_024, 64 * MIB);
        prefetch.saw(60 * MIB);
        prefetch.shrink();
        assert!(!prefetch.should_grow(start));
        assert!(!prefetch.should_grow(after(61, start)), "nothing came");
        assert!(!prefetch.should_grow(after(62, start)));
        prefetch.saw(1_024);
        assert!(!prefetch.should_grow(after(100, start)), "too early");
        assert!(prefetch.should_grow(after(123, start)));
        prefetch.grow();
        assert_eq!(prefetch.get(), 1_024);
        assert!(!prefetch.should_grow(after(124, start)));
    }

    #[test]
    fn one_large_message_within_the_minute_keeps_it_low() {
        let start = tokio::time::Instant::now().into_std();
        let mut prefetch = Prefetch::new(1_024, 64 * MIB);
        prefetch.saw(60 * MIB);
        prefetch.shrink();
        assert!(!prefetch.should_grow(start));
        prefetch.saw(60 * MIB);
        prefetch.saw(1_024);
        assert!(!prefetch.should_grow(after(61, start)));
        assert_eq!(prefetch.get(), 1);
    }

    #[test]
    fn a_lane_that_stalled_on_small_messages_asks_for_those_that_it_may_hold() {
        let mut prefetch = Prefetch::new(4_096, 64 * MIB);
        prefetch.saw(1_024);
        prefetch.stalled(1_024);
        assert_eq!(prefetch.get(), 1_024);
        prefetch.stalled(0);
        assert_eq!(prefetch.get(), 1, "one always fits");
    }

    #[test]
    fn a_loss_of_the_channel_among_small_messages_changes_nothing() {
        let mut prefetch = Prefetch::new(1_024, 64 * MIB);
        prefetch.saw(1_024);
        prefetch.shrink();
        prefetch.shrink();
        assert_eq!(prefetch.get(), 1_024);
    }
}
