//! The seeds of simulated worlds: `SETGATE_SEED=n` replays one, `SETGATE_SEEDS=n` says how many there are.

use std::ops::Range;

/// A few seconds' worth.
const SEEDS: u64 = 256;

/// Which to try.
pub(crate) fn seeds() -> Range<u64> {
    match number("SETGATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SETGATE_SEEDS").unwrap_or(SEEDS),
    }
}

/// An environment variable's number.
pub(crate) fn number(name: &str) -> Option<u64> {
    let (_, said) = std::env::vars().find(|(variable, _)| variable == name)?;
    let read = said.parse();
    Some(read.unwrap_or_else(|error| panic!("{name}={said}: {error}")))
}
