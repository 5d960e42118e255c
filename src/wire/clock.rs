//! The clock by which leave and leases are counted: it goes on while the machine sleeps.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Since the machine started.
pub fn boottime() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}
