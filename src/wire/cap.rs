//! The cap of what a gateway sends to one unit, shared by all streams that go there.

use crate::link::Cap;
use parking_lot::Mutex;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// A cap that held a frame back so recently is named as the cause.
const HOLDING_FOR: Duration = Duration::from_secs(2);

/// Unlimited until somebody says otherwise.
#[derive(Debug, Default)]
pub struct LinkCap {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    cap: Option<Cap>,
    held_at: Option<Instant>,
}

impl LinkCap {
    /// Sets the rate; none: unlimited. What was sent before counts under the new one as saved up.
    pub fn set(&self, bytes_per_second: Option<NonZeroU64>) {
        let mut inner = self.inner.lock();
        if inner.cap.as_ref().map(Cap::bytes_per_second) != bytes_per_second {
            inner.cap = bytes_per_second.map(Cap::new);
        }
    }

    /// Whether there is one.
    pub(super) fn is_set(&self) -> bool {
        self.inner.lock().cap.is_some()
    }

    /// From when on a frame may leave; none: at once.
    pub(super) fn closed_until(&self, now: Instant) -> Option<Instant> {
        let mut inner = self.inner.lock();
        let until = inner.cap.as_ref()?.closed_until(now);
        if until.is_some() {
            inner.held_at = Some(now);
        }
        until
    }

    pub(super) fn spend(&self, bytes: usize, now: Instant) {
        if let Some(cap) = &mut self.inner.lock().cap {
            cap.spend(bytes, now);
        }
    }

    /// The rate, while it holds frames back.
    pub(super) fn holding(&self, now: Instant) -> Option<NonZeroU64> {
        let inner = self.inner.lock();
        let recent = now.saturating_duration_since(inner.held_at?) < HOLDING_FOR;
        inner
            .cap
            .as_ref()
            .filter(|_| recent)
            .map(Cap::bytes_per_second)
    }
}
