//! Where a gateway kills itself, for tests alone.
//!
//! `SETGATE_FAILPOINT=confirmed:1000` ends the process with SIGKILL between the broker's confirm of the 1000th parcel that
//! it receives and the journal; `journaled:1000` between the journal and the answer. Without the variable: nothing.

use rustix::process::{Signal, getpid, kill_process};
use std::sync::atomic::{AtomicU64, Ordering};

const VARIABLE: &str = "SETGATE_FAILPOINT";

/// A seam between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seam {
    /// The broker has it, the journal not yet.
    Confirmed,
    /// The journal has it, the sender no answer.
    Journaled,
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Failpoint {
    at: Option<Seam>,
    left: AtomicU64,
}

impl Failpoint {
    /// As the process's environment has it. What can't be understood is none: it is for tests, which see that.
    pub(super) fn from_environment() -> Self {
        let said = std::env::vars_os().find(|(name, _)| name == VARIABLE);
        let said = said.and_then(|(_, value)| value.into_string().ok());
        let parsed = said.as_deref().and_then(parse);
        if let Some((seam, number)) = parsed {
            tracing::warn!(
                ?seam,
                number,
                "this gateway will kill itself: {VARIABLE} is set"
            );
        }
        Self {
            at: parsed.map(|(seam, _)| seam),
            left: AtomicU64::new(parsed.map_or(0, |(_, number)| number)),
        }
    }

    /// So many parcels have come to a seam.
    pub(super) fn pass(&self, seam: Seam, parcels: usize) {
        if self.at != Some(seam) || parcels == 0 {
            return;
        }
        let parcels = parcels as u64;
        let before = self.left.fetch_sub(parcels, Ordering::Relaxed);
        if before <= parcels {
            // As from outside: no destructor runs, no buffer is flushed.
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }
}

fn parse(text: &str) -> Option<(Seam, u64)> {
    let (seam, number) = text.split_once(':')?;
    let seam = match seam {
        "confirmed" => Seam::Confirmed,
        "journaled" => Seam::Journaled,
        _ => return None,
    };
    Some((seam, number.parse().ok().filter(|number| *number > 0)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failpoint_is_a_seam_and_a_number() {
        assert_eq!(parse("confirmed:1000"), Some((Seam::Confirmed, 1_000)));
        assert_eq!(parse("journaled:1"), Some((Seam::Journaled, 1)));
        for text in ["", "confirmed", "confirmed:", "confirmed:0", "taken:3"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
