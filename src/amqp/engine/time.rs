//! When something is due: a heartbeat to send, a silence to notice, an answer that is late.
//!
//! Promises that [`Engine::deadline`] is exact, and that a tick at it moves it on. Silence while nothing is read is not
//! the peer's: all that waits for it begins to wait anew when reading goes on. Source: specification, section 4.2.7.

use super::Engine;
use super::channel::Channel;
use super::connection::Life;
use super::event::Ended;
use bytes::Buf;
use std::time::{Duration, Instant};

/// How many heartbeats a peer may leave out. Two by the specification; a third for a broker that is short of time.
const HEARTBEATS_MISSED_MAX: u32 = 3;

/// When what happened.
#[derive(Debug)]
pub(super) struct Clock {
    wrote: Instant,
    heard: Instant,
    reading: Reading,
}

#[derive(Debug)]
enum Reading {
    /// Since when.
    On(Instant),
    Paused,
}

impl Clock {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            wrote: now,
            heard: now,
            reading: Reading::On(now),
        }
    }

    pub(super) fn wrote(&mut self, now: Instant) {
        self.wrote = now;
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// From when on a wait counts that began at `since`; not at all while nothing is read.
    fn waits(&self, since: Instant) -> Option<Instant> {
        match self.reading {
            Reading::On(from) => Some(from.max(since)),
            Reading::Paused => None,
        }
    }
}

impl Engine {
    /// When a [`super::Input::Tick`] is due: a heartbeat to send, a silence to notice, an answer that is late.
    pub fn deadline(&self) -> Option<Instant> {
        let silence = self.silence().map(|(until, _)| until);
        let answer = self.answer_due().map(|(until, _)| until);
        [self.heartbeat_due(), silence, answer]
            .into_iter()
            .flatten()
            .min()
    }

    /// The reader stops for a while, or goes on: silence meanwhile isn't the peer's.
    pub fn reading(&mut self, paused: bool, now: Instant) {
        self.clock.reading = match (paused, &self.clock.reading) {
            (true, _) => Reading::Paused,
            (false, Reading::On(since)) => Reading::On(*since),
            (false, Reading::Paused) => Reading::On(now),
        };
    }

    pub(super) fn tick(&mut self, now: Instant) {
        if let Some((until, silence)) = self.silence()
            && until <= now
        {
            let what =
                format!("nothing came from the broker for {silence:?}, not even a heartbeat");
            return self.end(Ended::Silent { what });
        }
        if let Some((until, answer)) = self.answer_due()
            && until <= now
        {
            let timeout = self.settings.answer_timeout;
            let what = format!("the broker sent no {answer} within {timeout:?}");
            return self.end(Ended::Silent { what });
        }
        if self.heartbeat_due().is_some_and(|due| due <= now) {
            // What waits to be written will be heard; heartbeats behind it would only pile up.
            if self.output.has_remaining() {
                self.clock.wrote(now);
            } else {
                self.output.heartbeat();
            }
        }
    }

    /// Heartbeats, once they are agreed on and until the end.
    fn heartbeat(&self) -> Option<Duration> {
        match self.life {
            Life::Opening { .. } | Life::Open | Life::Closing { .. } => self.agreed.heartbeat,
            Life::Starting { .. } | Life::Tuning { .. } | Life::Ended { .. } => None,
        }
    }

    /// When ours is due.
    fn heartbeat_due(&self) -> Option<Instant> {
        self.clock.wrote.checked_add(self.heartbeat()? / 2)
    }

    /// When the peer will have been silent for too long, and how long that is.
    fn silence(&self) -> Option<(Instant, Duration)> {
        let silence = self.heartbeat()?.saturating_mul(HEARTBEATS_MISSED_MAX);
        let until = self.clock.waits(self.clock.heard)?.checked_add(silence)?;
        Some((until, silence))
    }

    /// When the oldest answer will be late, and which it is.
    fn answer_due(&self) -> Option<(Instant, &'static str)> {
        let channels = self.channels.values().filter_map(Channel::waits);
        let (since, answer) = self.life.waits().into_iter().chain(channels).min()?;
        let until = self
            .clock
            .waits(since)?
            .checked_add(self.settings.answer_timeout)?;
        Some((until, answer))
    }
}
