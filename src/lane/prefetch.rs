//! How many deliveries a lane asks for, by the sizes that it has seen.
//!
//! A live consumer's prefetch can't be changed, so a change costs the channel: rare, and only where the present one is
//! wrong. Too high: the lane's bytes are spent, its socket isn't read, and the broker resets what it can't write to for
//! 30 s. Too low: the lane waits for messages that it has room for. A lower one than before costs more: what a consumer
//! gives back to a quorum queue goes behind what the queue was given back before and hasn't handed out again. So one that
//! asks for less had better not end before that is through. Never reads a clock.

use std::time::{Duration, Instant};

/// How long sizes are watched before a prefetch grows: where they change to and fro, a lane reopens no more often.
const WATCH: Duration = Duration::from_mins(1);

/// A prefetch that grows by less than this factor isn't worth a channel.
const GROWTH_MIN: u16 = 2;

/// What a delivery counts for besides its body.
const OVERHEAD_BYTES: usize = 1_024;

/// See the file's head.
#[derive(Debug, Clone)]
pub struct Prefetch {
    now: u16,
    max: u16,
    bytes_max: usize,
    /// Bytes of the largest body since then; 0 when none came.
    largest: usize,
    watched_from: Option<Instant>,
    /// What a consumer that asked for more has given back may not all be handed out again.
    works_off: bool,
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
            works_off: false,
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

    /// A delivery came that nobody had before: all that was given back has been handed out again.
    pub fn saw_new(&mut self) {
        self.works_off = false;
    }

    /// Whether more may have been given back than this consumer is handed at once, so that its end would put what it has in
    /// hand behind the rest.
    pub fn works_off(&self) -> bool {
        self.works_off
    }

    /// Whether the lane had better settle what it has and reopen with a higher one: all that came for a minute is small
    /// enough. To be asked now and then; stays true until [`Prefetch::grow`].
    pub fn should_grow(&mut self, now: Instant) -> bool {
        let from = *self.watched_from.get_or_insert(now);
        if now.saturating_duration_since(from) < WATCH {
            return false;
        }
        if self.largest > 0 && !self.works_off && self.fitting() / GROWTH_MIN >= self.now {
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
        let before = self.now;
        self.now = self.fitting().min(before);
        self.works_off |= self.now < before;
        self.watch_anew();
    }

    fn watch_anew(&mut self) {
        self.largest = 0;
        self.watched_from = None;
    }

    fn fitting(&self) -> u16 {
        u16::try_from(self.bytes_max / (self.largest + OVERHEAD_BYTES))
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
        assert_eq!(prefetch.get(), 7);
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
        prefetch.saw_new();
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
    fn a_lane_that_asks_for_less_works_off_what_was_given_back_until_something_new_comes() {
        let start = tokio::time::Instant::now().into_std();
        let mut prefetch = Prefetch::new(1_024, 64 * MIB);
        prefetch.saw(8 * MIB);
        assert!(!prefetch.works_off());
        prefetch.shrink();
        assert!(prefetch.works_off());
        prefetch.shrink();
        assert!(prefetch.works_off(), "still");
        prefetch.saw(1_024);
        assert!(!prefetch.should_grow(start));
        prefetch.saw(1_024);
        assert!(!prefetch.should_grow(after(61, start)), "its end waits");
        prefetch.saw_new();
        assert!(!prefetch.works_off());
        prefetch.saw(1_024);
        assert!(!prefetch.should_grow(after(62, start)));
        assert!(prefetch.should_grow(after(123, start)));
    }

    #[test]
    fn a_loss_of_the_channel_among_small_messages_changes_nothing() {
        let mut prefetch = Prefetch::new(1_024, 64 * MIB);
        prefetch.saw(1_024);
        prefetch.shrink();
        prefetch.shrink();
        assert_eq!((prefetch.get(), prefetch.works_off()), (1_024, false));
    }
}
