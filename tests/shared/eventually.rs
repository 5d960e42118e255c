//! Waiting for a state, with a deadline, for all tests that run beside real processes.

use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often a state is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `look` finds what it looks for, and says how long that took. Panics with what was awaited when it isn't
/// found within `deadline`.
pub(crate) async fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> (T, Duration) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let begun = Instant::now();
    loop {
        looks.tick().await;
        let found = look().await;
        let took = begun.elapsed();
        match found {
            Some(found) => return (found, took),
            None => assert!(took < deadline, "not within {deadline:?}: {what}"),
        }
    }
}
