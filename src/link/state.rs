//! The states of a link.
//!
//! Owns every legal change of a link's state, in one function. Never reads a clock: the moment is an argument, the
//! jitter comes from a seed.

use crate::model::Backoff;
use std::time::{Duration, Instant};

/// Where a link to one gateway stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// Not connected; the next attempt comes.
    Down {
        /// Since when.
        since: Instant,
        /// What ended the last attempt or connection.
        cause: String,
        /// Attempts that failed in a row.
        attempt: u32,
        /// When the next one begins.
        retry_at: Instant,
    },
    /// Connecting, greeting, or waiting for the first canary to come back.
    Opening {
        /// Since when.
        since: Instant,
        /// Attempts that failed before this one.
        attempt: u32,
    },
    /// Canaries come back.
    Up {
        /// Since when.
        since: Instant,
        /// Attempts that failed before; forgotten once the link has proved itself.
        attempt: u32,
    },
    /// Taking no new streams; ends when those that it has are through.
    Draining {
        /// Since when.
        since: Instant,
    },
}

/// What happens to a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// Its wait is over.
    Try,
    /// The first canary came back.
    Opened,
    /// An attempt failed, or the connection ended.
    Lost {
        /// For the status page.
        cause: String,
    },
    /// This gateway goes down, or the peer left.
    Drain,
}

/// A link that was up this long has proved itself; one that breaks sooner counts as a failed attempt, so that a peer
/// that accepts and drops at once isn't asked ten times a second.
const PROVED_AFTER: Duration = Duration::from_secs(10);

impl LinkState {
    /// A link that nobody has tried yet.
    pub fn new(now: Instant) -> Self {
        Self::Down {
            since: now,
            cause: "not tried yet".to_owned(),
            attempt: 0,
            retry_at: now,
        }
    }

    /// The state after an event: the whole graph. An event that has no place leaves the state as it is.
    #[must_use]
    pub fn after(self, event: LinkEvent, now: Instant, backoff: &Backoff) -> Self {
        let lost = |cause, attempt: u32| {
            let attempt = attempt.saturating_add(1);
            Self::Down {
                since: now,
                cause,
                attempt,
                retry_at: now + backoff.delay(attempt),
            }
        };
        match (self, event) {
            (Self::Down { attempt, .. }, LinkEvent::Try) => Self::Opening {
                since: now,
                attempt,
            },
            (Self::Opening { attempt, .. }, LinkEvent::Opened) => Self::Up {
                since: now,
                attempt,
            },
            (Self::Opening { attempt, .. }, LinkEvent::Lost { cause }) => lost(cause, attempt),
            (Self::Up { since, attempt }, LinkEvent::Lost { cause }) => {
                let proved = now.saturating_duration_since(since) >= PROVED_AFTER;
                lost(cause, if proved { 0 } else { attempt })
            }
            (Self::Opening { .. } | Self::Up { .. }, LinkEvent::Drain) => {
                Self::Draining { since: now }
            }
            (Self::Draining { .. }, LinkEvent::Lost { cause }) => lost(cause, 0),
            (
                state @ Self::Down { .. },
                LinkEvent::Lost { .. } | LinkEvent::Opened | LinkEvent::Drain,
            )
            | (state @ Self::Opening { .. }, LinkEvent::Try)
            | (state @ Self::Up { .. }, LinkEvent::Try | LinkEvent::Opened)
            | (
                state @ Self::Draining { .. },
                LinkEvent::Try | LinkEvent::Opened | LinkEvent::Drain,
            ) => state,
        }
    }

    /// The word on the status page.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Down { .. } => "down",
            Self::Opening { .. } => "opening",
            Self::Up { .. } => "up",
            Self::Draining { .. } => "draining",
        }
    }

    /// Since when it is so.
    pub const fn since(&self) -> Instant {
        match self {
            Self::Down { since, .. }
            | Self::Opening { since, .. }
            | Self::Up { since, .. }
            | Self::Draining { since } => *since,
        }
    }

    /// Why it is down.
    pub fn cause(&self) -> Option<&str> {
        match self {
            Self::Down { cause, .. } => Some(cause),
            Self::Opening { .. } | Self::Up { .. } | Self::Draining { .. } => None,
        }
    }

    /// Whether streams can be opened.
    pub const fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods)] // any instant will do: only differences count
    fn start() -> Instant {
        Instant::now()
    }

    fn lost(cause: &str) -> LinkEvent {
        LinkEvent::Lost {
            cause: cause.to_owned(),
        }
    }

    #[test]
    fn a_link_that_breaks_at_once_is_asked_less_and_less_often() {
        let backoff = Backoff::new(7);
        let mut now = start();
        let mut state = LinkState::new(now);
        for round in 1..=5 {
            state = state.after(LinkEvent::Try, now, &backoff);
            state = state.after(LinkEvent::Opened, now, &backoff);
            assert!(state.is_up());
            now += Duration::from_secs(1);
            state = state.after(lost("reset"), now, &backoff);
            assert!(matches!(state, LinkState::Down { attempt, .. } if attempt == round));
        }
        state = state.after(LinkEvent::Try, now, &backoff);
        state = state.after(LinkEvent::Opened, now, &backoff);
        now += PROVED_AFTER;
        state = state.after(lost("reset"), now, &backoff);
        assert!(matches!(state, LinkState::Down { attempt: 1, .. }));
        assert_eq!(state.cause(), Some("reset"));
    }

    #[test]
    fn events_without_a_place_change_nothing() {
        let backoff = Backoff::new(7);
        let now = start();
        let down = LinkState::new(now);
        assert_eq!(down.clone().after(LinkEvent::Opened, now, &backoff), down);
        assert_eq!(down.clone().after(lost("late"), now, &backoff), down);
        let draining = LinkState::Draining { since: now };
        assert_eq!(
            draining.clone().after(LinkEvent::Try, now, &backoff),
            draining
        );
    }
}
