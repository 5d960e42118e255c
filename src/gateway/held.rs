//! What one part of the gateway holds of the memory that all of its kind are counted by.
//!
//! Promises that whatever was added is taken off when it is dropped.

use prometheus::IntGauge;

/// What one stream has added to the gauge of all receivers' memory.
pub(super) struct Held {
    gauge: IntGauge,
    bytes: i64,
}

impl Held {
    pub(super) fn of(gauge: IntGauge) -> Self {
        Self { gauge, bytes: 0 }
    }

    pub(super) fn add(&mut self, bytes: i64) {
        self.gauge.add(bytes);
        self.bytes += bytes;
    }

    pub(super) fn sub(&mut self, bytes: i64) {
        self.add(-bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.sub(self.bytes);
    }
}
