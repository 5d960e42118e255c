//! The gateway's metrics.
//!
//! Owns one registry and the name, labels and meaning of each metric. Promises that labels are closed enums or names of
//! documents, never message data. Callers fetch a handle once and keep it: an increment by handle costs 2 ns, a look-up
//! by label 22 ns. Series of sources and units that have gone stay until the process ends: there are tens.

use super::metrics_ownership::OwnershipMetrics;
use crate::lane::DivertReason;
use crate::model::{Epoch, Reason, Revision, SourceName, UnitId};
use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::sync::Arc;
use tokio::time::Instant;

/// What [`Metrics::text`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// 0.5 ms, an idle classic queue, to 32 s, beyond any time-out: 17 buckets, each twice the one before.
const SECONDS_FIRST: f64 = 0.000_5;
const SECONDS_BUCKETS: usize = 17;

/// Why the metrics could not be made or shown: a fault of setgate's own.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// Two metrics with one name, or a name that is none.
    #[error("the metric {name} can't be registered; report this")]
    Register {
        /// Of the metric.
        name: &'static str,
        /// What the registry says.
        source: prometheus::Error,
    },
    /// The registry could not be written out.
    #[error("the metrics can't be written out; report this")]
    Encode(#[source] prometheus::Error),
}

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the peer.
    Out,
    /// From the peer.
    In,
}

/// What memory is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryKind {
    /// Deliveries that are not settled.
    Lanes,
    /// Parcels that are not answered.
    Receivers,
    /// What is remembered of parcels that were received.
    Window,
    /// The configured budget of all of them.
    Budget,
}

impl Direction {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::In => "in",
        }
    }
}

impl MemoryKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Lanes => "lanes",
            Self::Receivers => "receivers",
            Self::Window => "window",
            Self::Budget => "budget",
        }
    }
}

/// All metrics; a clone is the same registry.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    received: IntCounterVec,
    delivered: IntCounterVec,
    parked: IntCounterVec,
    dropped: IntCounterVec,
    duplicates: IntCounterVec,
    in_doubt: IntCounterVec,
    id_reused: IntCounterVec,
    forgotten_early: IntCounter,
    journal_foreign: IntCounter,
    in_flight: IntGaugeVec,
    diverted: IntGaugeVec,
    lag: GaugeVec,
    link_up: IntGaugeVec,
    link_round_trip: GaugeVec,
    link_bytes: IntCounterVec,
    link_refused: IntCounterVec,
    confirm: Histogram,
    journal: Histogram,
    transit: Histogram,
    table_revision: IntGauge,
    table_age: Gauge,
    table_rejected: IntGauge,
    epoch: IntGauge,
    ownership: OwnershipMetrics,
    seal_refused: IntCounter,
    memory: IntGaugeVec,
    broker_blocked: IntGauge,
    stale_since: Mutex<Option<Instant>>,
}

impl Metrics {
    /// A registry of its own, so that two gateways in one process don't mix.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let r = &registry;
        let source_to = &["source", "to"];
        let inner = Inner {
            received: counters(
                r,
                "setgate_received_total",
                "Messages taken from source queues.",
                &["source"],
            )?,
            delivered: counters(
                r,
                "setgate_delivered_total",
                "Parcels that a unit has answered as durable.",
                source_to,
            )?,
            parked: counters(
                r,
                "setgate_parked_total",
                "Messages put into the park queue.",
                &["source", "reason"],
            )?,
            dropped: counters(
                r,
                "setgate_dropped_total",
                "Messages dropped because a rule says so.",
                &["source", "reason"],
            )?,
            duplicates: counters(
                r,
                "setgate_duplicates_total",
                "Parcels that were known to be delivered and were not delivered again.",
                &["source", "from"],
            )?,
            in_doubt: counters(
                r,
                "setgate_in_doubt_total",
                "Parcels delivered with the mark that they may have come before.",
                source_to,
            )?,
            id_reused: counters(
                r,
                "setgate_id_reused_total",
                "Parcels under an id that another message of the same source and round had.",
                &["source"],
            )?,
            forgotten_early: plain(
                r,
                "setgate_window_forgotten_early_total",
                IntCounter::new,
                "Identities forgotten within their window for lack of room: what is sent again may be in doubt.",
            )?,
            journal_foreign: plain(
                r,
                "setgate_journal_foreign_total",
                IntCounter::new,
                "Messages in the unit's journal that no gateway has written: passed over.",
            )?,
            in_flight: gauges(
                r,
                "setgate_in_flight",
                "Parcels without an answer.",
                source_to,
            )?,
            diverted: gauges(
                r,
                "setgate_diverted",
                "Messages that lanes have put into diversions and that have not come out.",
                &["source", "to", "reason"],
            )?,
            lag: float_gauges(
                r,
                "setgate_lag_seconds",
                "Age of the oldest parcel without an answer.",
                source_to,
            )?,
            link_up: gauges(
                r,
                "setgate_link_up",
                "1 while some link to the unit carries parcels.",
                &["to"],
            )?,
            link_round_trip: float_gauges(
                r,
                "setgate_link_round_trip_seconds",
                "Round trip of the last canary.",
                &["to"],
            )?,
            link_bytes: counters(
                r,
                "setgate_link_bytes_total",
                "Bytes of frames on links.",
                &["to", "direction"],
            )?,
            link_refused: counters(
                r,
                "setgate_link_refused_total",
                "Connections and streams that were refused on the link port.",
                &["reason"],
            )?,
            confirm: histogram(
                r,
                "setgate_confirm_seconds",
                "From a publish to the broker's confirm.",
            )?,
            journal: histogram(
                r,
                "setgate_journal_seconds",
                "From writing what was received into the journal to the broker's confirm: a crash in that time leaves it in doubt.",
            )?,
            transit: histogram(
                r,
                "setgate_transit_seconds",
                "From taking a message to its last answer.",
            )?,
            table_revision: plain(
                r,
                "setgate_table_revision",
                IntGauge::new,
                "Revision of the table in force.",
            )?,
            table_age: plain(
                r,
                "setgate_table_age_seconds",
                Gauge::new,
                "Since when the table in force is not known to be the newest; 0 while etcd answers.",
            )?,
            table_rejected: plain(
                r,
                "setgate_table_rejected",
                IntGauge::new,
                "1 while the newest documents are faulty and the last good table stays.",
            )?,
            epoch: plain(
                r,
                "setgate_epoch",
                IntGauge::new,
                "Epoch of the table in force.",
            )?,
            ownership: OwnershipMetrics::new(r)?,
            seal_refused: plain(
                r,
                "setgate_seal_refused_total",
                IntCounter::new,
                "Messages whose marks had no valid seal.",
            )?,
            memory: gauges(
                r,
                "setgate_memory_bytes",
                "Bytes in flight, and their budget.",
                &["kind"],
            )?,
            broker_blocked: plain(
                r,
                "setgate_broker_blocked",
                IntGauge::new,
                "1 while the broker takes no publishes.",
            )?,
            stale_since: Mutex::new(None),
            registry,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Messages taken.
    pub fn received(&self, source: &SourceName) -> IntCounter {
        self.0.received.with_label_values(&[source.as_str()])
    }

    /// Parcels answered as durable by a unit, the own one too.
    pub fn delivered(&self, source: &SourceName, to: &UnitId) -> IntCounter {
        self.0
            .delivered
            .with_label_values(&[source.as_str(), to.as_str()])
    }

    /// Messages parked.
    pub fn parked(&self, source: &SourceName, reason: Reason) -> IntCounter {
        self.0
            .parked
            .with_label_values(&[source.as_str(), reason.as_str()])
    }

    /// Messages dropped.
    pub fn dropped(&self, source: &SourceName, reason: Reason) -> IntCounter {
        self.0
            .dropped
            .with_label_values(&[source.as_str(), reason.as_str()])
    }

    /// Parcels known before.
    pub fn duplicates(&self, source: &SourceName, from: &UnitId) -> IntCounter {
        self.0
            .duplicates
            .with_label_values(&[source.as_str(), from.as_str()])
    }

    /// Parcels under another message's id.
    pub fn id_reused(&self, source: &SourceName) -> IntCounter {
        self.0.id_reused.with_label_values(&[source.as_str()])
    }

    /// Identities forgotten within their window.
    pub fn forgotten_early(&self) -> IntCounter {
        self.0.forgotten_early.clone()
    }

    /// What lies in the journal and is not of it.
    pub fn journal_foreign(&self) -> IntCounter {
        self.0.journal_foreign.clone()
    }

    /// Parcels delivered marked as in doubt.
    pub fn in_doubt(&self, source: &SourceName, to: &UnitId) -> IntCounter {
        self.0
            .in_doubt
            .with_label_values(&[source.as_str(), to.as_str()])
    }

    /// Parcels without an answer. Lanes of one source share it: add and subtract.
    pub fn in_flight(&self, source: &SourceName, to: &UnitId) -> IntGauge {
        self.0
            .in_flight
            .with_label_values(&[source.as_str(), to.as_str()])
    }

    /// Messages in a lane's diversion.
    pub fn diverted(&self, source: &SourceName, to: &UnitId, reason: DivertReason) -> IntGauge {
        self.0
            .diverted
            .with_label_values(&[source.as_str(), to.as_str(), reason.as_str()])
    }

    /// Age of the oldest of them, in seconds.
    pub fn lag(&self, source: &SourceName, to: &UnitId) -> Gauge {
        self.0
            .lag
            .with_label_values(&[source.as_str(), to.as_str()])
    }

    /// 1 or 0.
    pub fn link_up(&self, to: &UnitId) -> IntGauge {
        self.0.link_up.with_label_values(&[to.as_str()])
    }

    /// In seconds.
    pub fn link_round_trip(&self, to: &UnitId) -> Gauge {
        self.0.link_round_trip.with_label_values(&[to.as_str()])
    }

    /// Bytes on the links to a unit.
    pub fn link_bytes(&self, to: &UnitId, direction: Direction) -> IntCounter {
        self.0
            .link_bytes
            .with_label_values(&[to.as_str(), direction.as_str()])
    }

    /// What the link port refused; `reason` is a word of the link's own closed set.
    pub fn link_refused(&self, reason: &'static str) -> IntCounter {
        self.0.link_refused.with_label_values(&[reason])
    }

    /// Publish to confirm, in seconds.
    pub fn confirm_seconds(&self) -> Histogram {
        self.0.confirm.clone()
    }

    /// Journal entry to confirm, in seconds.
    pub fn journal_seconds(&self) -> Histogram {
        self.0.journal.clone()
    }

    /// Taken to last answer, in seconds.
    pub fn transit_seconds(&self) -> Histogram {
        self.0.transit.clone()
    }

    /// A table has come into force.
    pub fn table_in_force(&self, revision: Revision, epoch: Epoch) {
        self.0.table_revision.set(revision.0);
        let epoch = i64::try_from(epoch.0).unwrap_or(i64::MAX);
        self.0.epoch.set(epoch);
    }

    /// Who serves what, and how that changes.
    pub fn ownership(&self) -> &OwnershipMetrics {
        &self.0.ownership
    }

    /// Whether the newest documents were refused.
    pub fn table_rejected(&self) -> IntGauge {
        self.0.table_rejected.clone()
    }

    /// Whether the table in force is known to be the newest.
    pub fn table_is_current(&self, current: bool, now: Instant) {
        let mut since = self.0.stale_since.lock();
        *since = if current { None } else { since.or(Some(now)) };
    }

    /// Messages whose marks had no valid seal.
    pub fn seal_refused(&self) -> IntCounter {
        self.0.seal_refused.clone()
    }

    /// Bytes in flight of a kind.
    pub fn memory_bytes(&self, kind: MemoryKind) -> IntGauge {
        self.0.memory.with_label_values(&[kind.as_str()])
    }

    /// 1 while the broker takes no publishes.
    pub fn broker_blocked(&self) -> IntGauge {
        self.0.broker_blocked.clone()
    }

    /// Everything, in Prometheus' text format.
    pub fn text(&self, now: Instant) -> Result<String, MetricsError> {
        let since = *self.0.stale_since.lock();
        let age = since.map_or(0.0, |since| {
            now.saturating_duration_since(since).as_secs_f64()
        });
        self.0.table_age.set(age);
        let mut out = Vec::new();
        TextEncoder::new()
            .encode(&self.0.registry.gather(), &mut out)
            .map_err(MetricsError::Encode)?;
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    name: &'static str,
    made: prometheus::Result<C>,
) -> Result<C, MetricsError> {
    let refuse = |source| MetricsError::Register { name, source };
    let metric = made.map_err(refuse)?;
    registry
        .register(Box::new(metric.clone()))
        .map_err(refuse)?;
    Ok(metric)
}

fn counters(
    registry: &Registry,
    name: &'static str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, MetricsError> {
    registered(
        registry,
        name,
        IntCounterVec::new(Opts::new(name, help), labels),
    )
}

pub(super) fn gauges(
    registry: &Registry,
    name: &'static str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, MetricsError> {
    registered(
        registry,
        name,
        IntGaugeVec::new(Opts::new(name, help), labels),
    )
}

fn float_gauges(
    registry: &Registry,
    name: &'static str,
    help: &str,
    labels: &[&str],
) -> Result<GaugeVec, MetricsError> {
    registered(registry, name, GaugeVec::new(Opts::new(name, help), labels))
}

fn histogram(
    registry: &Registry,
    name: &'static str,
    help: &str,
) -> Result<Histogram, MetricsError> {
    let buckets = prometheus::exponential_buckets(SECONDS_FIRST, 2.0, SECONDS_BUCKETS);
    let made = buckets
        .and_then(|buckets| Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)));
    registered(registry, name, made)
}

pub(super) fn plain<C: Collector + Clone + 'static>(
    registry: &Registry,
    name: &'static str,
    make: impl FnOnce(String, String) -> prometheus::Result<C>,
    help: &str,
) -> Result<C, MetricsError> {
    registered(registry, name, make(name.to_owned(), help.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn handles_count_and_the_text_shows_it() {
        let metrics = Metrics::new().unwrap();
        let (source, to) = (
            SourceName::parse("orders").unwrap(),
            UnitId::parse("bj-1").unwrap(),
        );
        let delivered = metrics.delivered(&source, &to);
        delivered.inc_by(3);
        metrics.parked(&source, Reason::NoRule).inc();
        metrics.table_in_force(Revision(12), Epoch(2));
        let text = metrics.text(Instant::now()).unwrap();
        for line in [
            r#"setgate_delivered_total{source="orders",to="bj-1"} 3"#,
            r#"setgate_parked_total{reason="no_rule",source="orders"} 1"#,
            "setgate_table_revision 12",
            "setgate_epoch 2",
            "setgate_table_rejected 0",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_table_ages_from_the_first_doubt_on() {
        let metrics = Metrics::new().unwrap();
        let start = Instant::now();
        metrics.table_is_current(false, start);
        metrics.table_is_current(false, start + Duration::from_secs(5));
        let text = metrics.text(start + Duration::from_secs(9)).unwrap();
        assert!(text.contains("setgate_table_age_seconds 9"), "{text}");
        metrics.table_is_current(true, start);
        assert!(
            metrics
                .text(start)
                .unwrap()
                .contains("setgate_table_age_seconds 0")
        );
    }
}
