//! Whether a lane hears nothing although its queue has messages for it.
//!
//! Owns the moment from which the lane has been silent beside a queue with ready messages. Promises to say *reopen* only
//! when both have held for the whole time, and once per such time. Why: a classic queue of RabbitMQ 3.10 may leave a
//! consumer dead without notice, and nothing in AMQP tells. Never reads a clock, never asks a broker.

use std::time::{Duration, Instant};

/// How long a lane may hear nothing while its queue has ready messages. A healthy broker delivers within milliseconds;
/// ten seconds outlast a pause of its node or a change of a quorum queue's leader.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What a tick knows of the lane's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// The lane can't take just now (no room, a full prefetch, another gateway's turn), or the broker didn't say.
    Unjudged,
    /// This many messages wait for a consumer.
    Messages(u64),
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Fine,
    /// Close the lane's channel and take the queue again.
    Reopen {
        /// Since when it has been silent.
        silent_for: Duration,
        /// How many messages wait.
        ready: u64,
    },
}

impl Verdict {
    /// For the status page and the log; none while all is well.
    pub fn cause(&self) -> Option<String> {
        match self {
            Self::Fine => None,
            Self::Reopen { silent_for, ready } => Some(format!(
                "nothing came for {} s while its queue has {ready} ready messages: it gives the queue up and takes it again",
                silent_for.as_secs()
            )),
        }
    }
}

/// See the file's head.
#[derive(Debug, Clone, Default)]
pub struct Silence {
    /// The first tick since the last delivery at which messages were ready.
    since: Option<Instant>,
}

impl Silence {
    /// A delivery came: whatever silence there was is over.
    pub fn delivered(&mut self) {
        self.since = None;
    }

    /// To be asked at ticks, with what is known of the queue then.
    ///
    /// A tick with nothing ready, or that can't be judged, begins the count anew: only a queue that has messages at
    /// every tick of the whole time convicts its broker.
    pub fn tick(&mut self, ready: Ready, now: Instant) -> Verdict {
        let ready = match ready {
            Ready::Unjudged | Ready::Messages(0) => {
                self.since = None;
                return Verdict::Fine;
            }
            Ready::Messages(ready) => ready,
        };
        let since = *self.since.get_or_insert(now);
        let silent_for = now.saturating_duration_since(since);
        if silent_for < SILENCE_MAX {
            return Verdict::Fine;
        }
        self.since = None;
        Verdict::Reopen { silent_for, ready }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods)] // any instant will do: only differences count
    fn some_instant() -> Instant {
        Instant::now()
    }

    /// The verdicts of one tick a second, each with what it knew.
    fn ticks(silence: &mut Silence, from: Instant, known: &[Ready]) -> Vec<Verdict> {
        (0..)
            .zip(known)
            .map(|(second, ready)| silence.tick(*ready, from + Duration::from_secs(second)))
            .collect()
    }

    #[test]
    fn a_lane_that_hears_nothing_beside_ready_messages_reopens_once() {
        let verdicts = ticks(
            &mut Silence::default(),
            some_instant(),
            &[Ready::Messages(3); 15],
        );
        let reopened: Vec<_> = verdicts
            .iter()
            .enumerate()
            .filter(|(_, verdict)| **verdict != Verdict::Fine)
            .collect();
        let expected = Verdict::Reopen {
            silent_for: SILENCE_MAX,
            ready: 3,
        };
        assert_eq!(reopened, [(10, &expected)]);
        assert!(expected.cause().is_some_and(|said| said.contains("10 s")));
    }

    #[test]
    fn a_delivery_ends_the_silence() {
        let from = some_instant();
        let mut silence = Silence::default();
        ticks(&mut silence, from, &[Ready::Messages(1); 9]);
        silence.delivered();
        let later = from + Duration::from_secs(9);
        let verdicts = ticks(&mut silence, later, &[Ready::Messages(1); 10]);
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Fine));
    }

    #[test]
    fn an_empty_queue_and_a_lane_without_room_are_no_silence() {
        for pause in [Ready::Messages(0), Ready::Unjudged] {
            let mut known = [Ready::Messages(9); 19];
            known[9] = pause;
            let verdicts = ticks(&mut Silence::default(), some_instant(), &known);
            assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Fine));
        }
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_convicts_nobody() {
        let now = some_instant() + SILENCE_MAX;
        let mut silence = Silence::default();
        assert_eq!(silence.tick(Ready::Messages(1), now), Verdict::Fine);
        let before = now.checked_sub(SILENCE_MAX).expect("after the start");
        assert_eq!(silence.tick(Ready::Messages(1), before), Verdict::Fine);
    }
}
