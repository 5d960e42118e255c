//! What a lane says of itself: status, metrics, log.
//!
//! Never decides anything about a message.

use super::lane_task::Taking;
use super::metrics::MemoryKind;
use super::shared::Shared;
use super::status::{DiversionLine, LaneFacts, LaneState, TargetLine};
use crate::broker::ConsumerKind;
use crate::lane::{DiversionView, DivertReason, Note, Target};
use std::collections::BTreeMap;
use std::time::Instant;

impl Taking<'_> {
    pub(super) fn note(&self, note: Note) {
        let metrics = &self.shared.metrics;
        let source = &self.spec.source;
        match note {
            Note::Received => metrics.received(source).inc(),
            Note::Delivered { to, transit } => {
                metrics.delivered(source, &to).inc();
                metrics.transit_seconds().observe(transit.as_secs_f64());
            }
            // Counted where it was found to be one.
            Note::Duplicate { .. } => {}
            Note::Parked { reason } => metrics.parked(source, reason).inc(),
            Note::Dropped { reason } => metrics.dropped(source, reason).inc(),
            Note::SealRefused => metrics.seal_refused().inc(),
            // One line per message is meant: each of them needs a person.
            Note::Parking { reason, cause } => {
                tracing::info!(%source, %reason, %cause, "a message is parked");
            }
            Note::Diverting { to, reason, cause } => {
                tracing::warn!(%source, %to, %reason, %cause, "a target is diverted");
            }
            Note::Drained { to } => {
                tracing::info!(%source, %to, "a diversion is drained: the way is direct again");
            }
        }
    }

    pub(super) fn count_memory(&mut self, bytes: usize) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let gauge = self.shared.metrics.memory_bytes(MemoryKind::Lanes);
        gauge.add(bytes - self.counted_bytes);
        self.counted_bytes = bytes;
    }

    pub(super) fn report(&mut self, kind: ConsumerKind) {
        self.count_memory(self.lane.cost_bytes());
        let at = Shared::moment();
        let stuck = self.stuck(at.now);
        let diversions: BTreeMap<_, _> = self.lane.diversions().collect();
        let mut targets = Vec::new();
        for (target, view) in self.lane.views() {
            let Target::Unit(to) = target else { continue };
            let diversion = diversions.get(to);
            let waits_ms = diversion.map_or(0, |diversion| {
                at.unix_seconds.saturating_sub(diversion.oldest_at) * 1_000
            });
            let lag_ms = age_ms(at.now, view.oldest).max(waits_ms);
            let metrics = &self.shared.metrics;
            let in_flight = view.unanswered as u64;
            metrics
                .in_flight(&self.spec.source, to)
                .set(i64::try_from(in_flight).unwrap_or(i64::MAX));
            #[allow(clippy::cast_precision_loss)]
            metrics
                .lag(&self.spec.source, to)
                .set(lag_ms as f64 / 1_000.0);
            for reason in DivertReason::ALL {
                let of_reason = diversion.filter(|diversion| diversion.reason == reason);
                let messages = of_reason.map_or(0, |diversion| diversion.messages);
                metrics
                    .diverted(&self.spec.source, to, reason)
                    .set(i64::try_from(messages).unwrap_or(i64::MAX));
            }
            targets.push(TargetLine {
                to: to.clone(),
                in_flight,
                lag_ms,
                cause: view.cause,
                diversion: diversion.map(|diversion| self.line(diversion, at.unix_seconds)),
            });
        }
        let state = match (&stuck, self.received_any, kind) {
            (Some(_), _, _) => LaneState::Held,
            (None, true, _) | (None, false, ConsumerKind::Exclusive) => LaneState::Taking,
            (None, false, ConsumerKind::SingleActive) => LaneState::Waiting,
        };
        let facts = LaneFacts {
            state,
            in_flight: self.lane.in_flight() as u64,
            cause: stuck.or_else(|| diverted(&targets)),
            targets,
        };
        self.shared
            .status
            .set_lane(&self.spec.source, self.spec.partition, facts);
    }

    fn line(&self, diversion: &DiversionView, unix_seconds: u64) -> DiversionLine {
        DiversionLine {
            reason: diversion.reason.as_str().to_owned(),
            messages: diversion.messages,
            bytes: diversion.bytes,
            bytes_max: self.spec.divert.bytes_max,
            oldest_seconds: unix_seconds.saturating_sub(diversion.oldest_at),
            full_in_seconds: full_in(diversion, self.spec.divert.bytes_max, unix_seconds),
            draining: diversion.drains,
            found: diversion.found,
        }
    }

    /// Why a lane that can't go on gives up its channel.
    pub(super) fn stalled(&self) -> String {
        let stuck = self.stuck(tokio::time::Instant::now().into_std());
        let why = stuck.as_deref().unwrap_or("its targets are slow");
        format!(
            "it holds {} messages of {} KiB together and has no room for the next one ({why}): it gives the queue up and takes it again with a prefetch that fits",
            self.lane.in_flight(),
            self.lane.cost_bytes() / 1_024,
        )
    }

    /// The first target that keeps what the lane's own queue gave waiting for two seconds, and why.
    pub(super) fn stuck(&self, now: Instant) -> Option<String> {
        self.lane.views().find_map(|(target, view)| {
            if age_ms(now, view.waits_since) <= STUCK_MS {
                return None;
            }
            let cause = view.cause.as_deref().unwrap_or("it does not answer");
            Some(match target {
                Target::Unit(unit) => format!("{unit}: {cause}"),
                Target::Diversion(unit) => format!("the diversion of {unit}: {cause}"),
                Target::Park => format!("the park: {cause}"),
            })
        })
    }
}

/// When a diversion will be full if it goes on growing as it has since its oldest message; none while it is drained.
fn full_in(diversion: &DiversionView, bytes_max: u64, unix_seconds: u64) -> Option<u64> {
    let seconds = unix_seconds.saturating_sub(diversion.oldest_at).max(1);
    let per_second = diversion.bytes / seconds;
    if diversion.drains || per_second == 0 {
        return None;
    }
    Some(bytes_max.saturating_sub(diversion.bytes) / per_second)
}

/// In words, which units are diverted.
fn diverted(targets: &[TargetLine]) -> Option<String> {
    let said: Vec<_> = targets
        .iter()
        .filter_map(|target| Some(said_of(target, target.diversion.as_ref()?)))
        .collect();
    (!said.is_empty()).then(|| said.join("; "))
}

fn said_of(target: &TargetLine, diversion: &DiversionLine) -> String {
    let DiversionLine {
        reason,
        messages,
        oldest_seconds,
        draining,
        ..
    } = diversion;
    let what = if *draining {
        "being drained"
    } else {
        "waiting"
    };
    let plural = if *messages == 1 { "" } else { "s" };
    let to = &target.to;
    let why = target
        .cause
        .as_ref()
        .map_or(String::new(), |cause| format!(" ({cause})"));
    format!(
        "{to} is diverted ({reason}): {messages} message{plural} {what}, the oldest for {oldest_seconds} s{why}"
    )
}

/// A target that leaves a parcel unanswered for longer is said to hold its lane.
const STUCK_MS: u64 = 2_000;

fn age_ms(now: Instant, since: Option<Instant>) -> u64 {
    since.map_or(0, |since| {
        u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX)
    })
}
