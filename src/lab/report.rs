//! Progress for people: one line per change, with the seconds since the start.

use std::time::Duration;
use tokio::time::Instant;

/// Where progress goes.
#[derive(Debug, Clone, Copy)]
pub enum Reporter {
    /// Tests want the outcome alone.
    Quiet,
    /// Lines on standard error, so that standard output stays a program's.
    Lines {
        /// When the command began.
        since: Instant,
    },
}

impl Reporter {
    /// Lines from now on.
    pub fn lines() -> Self {
        Self::Lines {
            since: Instant::now(),
        }
    }

    /// Tells what has just been reached.
    pub fn say(&self, text: impl AsRef<str>) {
        if let Self::Lines { since } = self {
            eprintln!("[{:>5.1} s] {}", seconds(since.elapsed()), text.as_ref());
        }
    }
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}
