//! Latencies by the minute in which their messages were published.
//!
//! Owns a histogram for each window, of all messages or of those that have nothing to do with one unit: what others may
//! feel of its trouble. By the time of publishing, not of arrival: a message that was held is slow in the minute that held it, not in
//! the one that let it go.

use crate::lab::checker::UnitIndex;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Windows of one run: two hours of minutes, at 40 KiB each with two digits up to ten minutes.
const WINDOWS_MAX: usize = 120;
/// What took longer counts as that.
const LATENCY_MICROS_MAX: u64 = 600_000_000;

/// The windows of one run; a clone is the same windows.
#[derive(Debug, Clone)]
pub struct Windows {
    apart: Option<UnitIndex>,
    length: Duration,
    histograms: Arc<Mutex<Vec<Histogram<u64>>>>,
}

/// One window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// Messages published in it that have arrived.
    pub messages: u64,
    /// Half of them took no longer.
    pub p50_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
}

impl Windows {
    /// Windows of this length, of all that is neither published nor delivered in the unit `apart`.
    pub fn without(apart: UnitIndex, length: Duration) -> Self {
        Self {
            apart: Some(apart),
            ..Self::of_all(length)
        }
    }

    /// Windows of this length, of everything.
    pub fn of_all(length: Duration) -> Self {
        Self {
            apart: None,
            length,
            histograms: Arc::default(),
        }
    }

    /// Enters a delivery, by its time of publishing since the run began.
    pub(super) fn record(
        &self,
        publisher: UnitIndex,
        unit: UnitIndex,
        sent: Duration,
        latency: Duration,
    ) {
        let window = sent.as_micros() / self.length.as_micros().max(1);
        let Some(window) = usize::try_from(window).ok().filter(|at| *at < WINDOWS_MAX) else {
            return;
        };
        if [publisher, unit].map(Some).contains(&self.apart) {
            return;
        }
        let mut histograms = self.histograms.lock();
        while histograms.len() <= window {
            // The bounds are constants that the library takes.
            match Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 2) {
                Ok(histogram) => histograms.push(histogram),
                Err(_) => return,
            }
        }
        if let Some(histogram) = histograms.get_mut(window) {
            histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        }
    }

    /// The windows so far, the first one first.
    pub fn read(&self) -> Vec<Window> {
        let histograms = self.histograms.lock();
        let window = |histogram: &Histogram<u64>| Window {
            messages: histogram.len(),
            p50_ms: histogram.value_at_quantile(0.50) as f64 / 1_000.0,
            p99_ms: histogram.value_at_quantile(0.99) as f64 / 1_000.0,
        };
        histograms.iter().map(window).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_message_counts_in_the_minute_that_published_it_and_the_unit_apart_not_at_all() {
        let (a, b, apart) = (UnitIndex(0), UnitIndex(1), UnitIndex(2));
        let windows = Windows::without(apart, Duration::from_mins(1));
        windows.record(a, b, Duration::from_secs(59), Duration::from_secs(90));
        windows.record(a, b, Duration::from_secs(61), Duration::from_millis(5));
        windows.record(a, apart, Duration::from_secs(61), Duration::from_secs(5));
        windows.record(apart, b, Duration::from_secs(61), Duration::from_secs(5));
        let seen = windows.read();
        assert_eq!(seen.len(), 2);
        assert!(seen[0].p99_ms > 80_000.0, "{seen:?}");
        assert_eq!(seen[1].messages, 1);
        assert!((4.9..5.2).contains(&seen[1].p99_ms), "{seen:?}");
    }
}
