//! What a lane's consumer has read and the lane hasn't taken.
//!
//! Promises that a lane that is held up leaves its socket unread only where what it was handed exceeds its share of the
//! memory, and then gives its queue up before the broker resets the connection.

use super::lane_task::{Taking, bytes_max};
use super::shared::Shared;
use crate::broker::Consumer;
use std::time::Duration;

/// What waits in a connection is beside what its lane has in flight: a quarter of that, where many lanes share the memory.
const HELD_SHARE: usize = 4;
/// And no more than this: 50 ms of 20,000 messages a second of 1 KiB, longer than any turn of a loop.
const HELD_MAX: usize = 1 << 20;

/// A lane that has taken nothing for so long is held up, and not only busy: what waits may fill what its deliveries leave of
/// its memory. (After one second, eight lanes that worked off a backlog took 269 of 256 MiB on a slow machine.)
const HELD_UP: Duration = Duration::from_secs(5);

/// The broker resets a connection that it couldn't write to for 30 s; a lane that can't go on lets go long before.
const STALL_MAX: Duration = Duration::from_secs(10);

/// What a consumer may hold while its lane goes on.
pub(super) fn held_max(shared: &Shared) -> usize {
    (bytes_max(shared) / HELD_SHARE).min(HELD_MAX)
}

impl Taking<'_> {
    /// Lets the consumer hold what is right now; to be called several times a second. Fails when its queue has to be given up.
    pub(super) fn hold(&mut self, consumer: &Consumer) -> Result<(), String> {
        match consumer.stalled_since().map(|since| since.elapsed()) {
            Some(stalled) if stalled >= STALL_MAX => {
                self.prefetch.shrink();
                return Err(self.stalled());
            }
            Some(stalled) if stalled >= HELD_UP => {
                let taken = self.lane.cost_bytes();
                consumer.hold_at_most(bytes_max(&self.shared).saturating_sub(taken));
            }
            None if self.lane.has_room() => consumer.hold_at_most(held_max(&self.shared)),
            Some(_) | None => {}
        }
        Ok(())
    }
}
