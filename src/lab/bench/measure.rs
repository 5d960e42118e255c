//! One measurement: so many messages wait at the near broker, a carrier is let go, and what arrives is watched.
//!
//! Rate and processor time are those between the first arrival and the last. Not of a part in between: a carrier that takes
//! more in hand than a cell has (a shovel's prefetch of 20,000 at each of eight queues) has done much of its work before.
//! Bytes are those of the whole run. Then, where a cell wants it, latency at half of the load.

use super::BenchError;
use super::cell::Cell;
use super::ends::{End, Load};
use super::report::median;
use super::rig::{Carrier, Pids, QUEUES, Rig, addresses, destinations};
use crate::lab::usage::{forget_peak, peak_mib, processor_time};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Between two looks at how many have arrived.
const LOOK: Duration = Duration::from_millis(20);
/// The slowest carrier takes half a minute for a cell of 40,000 messages, and no cell's rate is below this, a second.
const PATIENCE: Duration = Duration::from_mins(2);
const RATE_MIN: u64 = 2_000;
/// How long messages are published at a rate for latency, and for how long before, since a carrier that has only just
/// begun isn't what is measured.
const LATENCY: Duration = Duration::from_secs(4);
const WARM_UP: Duration = Duration::from_secs(2);

/// How long an idle gateway is watched, and how long after its start.
const IDLE: Duration = Duration::from_secs(10);
const SETTLE: Duration = Duration::from_secs(3);

/// What one measurement gave.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// Messages per second.
    pub(super) rate: f64,
    /// Processor time per message of all processes: brokers and gateways.
    pub(super) cpu_us: f64,
    /// Of the gateways at both ends alone.
    pub(super) gateway_cpu_us: Option<f64>,
    /// Of the near and of the far broker alone.
    pub(super) broker_cpu_us: [f64; 2],
    /// Bytes on the wire per message, both ways.
    pub(super) wire_bytes: f64,
    /// The larger gateway's peak.
    pub(super) rss_mib: Option<f64>,
}

/// Latency at a rate.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Latency {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

impl Latency {
    /// The medians of several.
    pub(super) fn median(of: &[Self]) -> Option<Self> {
        (!of.is_empty()).then(|| Self {
            p50_ms: median(of.iter().map(|latency| latency.p50_ms)),
            p99_ms: median(of.iter().map(|latency| latency.p99_ms)),
        })
    }
}

/// What has been used up to a moment.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    arrived: u64,
    brokers: [Duration; 2],
    gateways: Duration,
}

/// Of one run: when some had arrived, and when all had.
struct Marks {
    begin: Mark,
    end: Mark,
}

/// A gateway with eight lanes and nothing to do.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Idle {
    /// The larger one's memory.
    pub(super) rss_mib: f64,
    /// The busier one's processor time, in percent of a core.
    pub(super) cpu_percent: f64,
}

/// Lets both gateways run without any message.
pub(super) async fn idle(rig: &mut Rig) -> Result<Idle, BenchError> {
    rig.go(Carrier::Setgate, QUEUES).await?;
    let pids = rig.pids(Carrier::Setgate)?.gateways.unwrap_or_default();
    sleep(SETTLE).await;
    let before = pids.map(processor_time);
    sleep(IDLE).await;
    let after = pids.map(processor_time);
    let used = |number: usize| after[number].saturating_sub(before[number]).as_secs_f64();
    let found = Idle {
        rss_mib: pids.into_iter().map(peak_mib).fold(0.0, f64::max),
        cpu_percent: used(0).max(used(1)) / IDLE.as_secs_f64() * 100.0,
    };
    rig.rest(Carrier::Setgate, QUEUES).await?;
    Ok(found)
}

/// Measures a carrier in a cell.
pub(super) async fn throughput(
    rig: &mut Rig,
    carrier: Carrier,
    cell: &Cell,
    load: &Load,
) -> Result<Sample, BenchError> {
    rig.shape(cell).await?;
    rig.rest(carrier, cell.queues).await?;
    rig.clear().await?;
    let to = addresses(Some(carrier), cell.queues);
    let messages = cell.messages(carrier);
    rig.near.publish(&to, load, messages).await?;
    let before = rig.carried(carrier);
    rig.go(carrier, cell.queues).await?;
    if let (Carrier::Setgate, Some(cores)) = (carrier, cell.gateway_cores) {
        rig.hold_to(cores)?;
    }
    let pids = rig.pids(carrier)?;
    for pid in pids.gateways.into_iter().flatten() {
        forget_peak(pid);
    }
    let patience = PATIENCE + Duration::from_secs(messages / RATE_MIN);
    let watched = timeout(patience, watch(rig, cell.queues, messages, pids)).await;
    let marks = watched.map_err(|_| BenchError::Stuck {
        carrier: carrier.name(),
        cell: cell.name.clone(),
    })??;
    let all = rig.carried(carrier).saturating_sub(before);
    let Marks { begin, end } = marks;
    let watched = (end.arrived - begin.arrived).max(1) as f64;
    let time = (end.at - begin.at).as_secs_f64().max(1e-6);
    let per_message = |before: Duration, after: Duration| {
        after.saturating_sub(before).as_secs_f64() * 1e6 / watched
    };
    let of_broker = |number: usize| per_message(begin.brokers[number], end.brokers[number]);
    let brokers = [of_broker(0), of_broker(1)];
    let gateways = per_message(begin.gateways, end.gateways);
    let peak = |pids: [u32; 2]| pids.into_iter().map(peak_mib).fold(0.0, f64::max);
    Ok(Sample {
        rate: watched / time,
        cpu_us: brokers[0] + brokers[1] + gateways,
        gateway_cpu_us: pids.gateways.map(|_| gateways),
        broker_cpu_us: brokers,
        wire_bytes: all as f64 / messages as f64,
        rss_mib: pids.gateways.map(peak),
    })
}

/// Watches all messages arrive.
async fn watch(rig: &Rig, queues: usize, messages: u64, pids: Pids) -> Result<Marks, BenchError> {
    let queues = destinations(queues);
    let mut first = None;
    loop {
        let arrived = rig.far.ready(&queues).await?;
        let mark = || Mark {
            at: Instant::now(),
            arrived,
            brokers: pids.brokers.map(processor_time),
            gateways: pids
                .gateways
                .into_iter()
                .flatten()
                .map(processor_time)
                .sum(),
        };
        if first.is_none() && arrived > 0 {
            first = Some(mark());
        }
        if let (Some(begin), true) = (first, arrived >= messages) {
            return Ok(Marks { begin, end: mark() });
        }
        sleep(LOOK).await;
    }
}

/// Publishes at a rate, at the near broker through a carrier or at the far one directly, and times what arrives.
pub(super) async fn latency(
    rig: &mut Rig,
    carrier: Option<Carrier>,
    cell: &Cell,
    load: &Load,
    rate: f64,
) -> Result<Latency, BenchError> {
    let queues = destinations(cell.queues);
    let to = addresses(carrier, cell.queues);
    let interval = Duration::from_secs_f64(1.0 / rate);
    let (tell, told) = tokio::sync::watch::channel(None);
    let consuming = End::latencies(rig.far_uri(), queues, told);
    let end = if carrier.is_some() {
        &rig.near
    } else {
        &rig.far
    };
    let publishing = async {
        let sent = end
            .publish_at_rate(&to, load, interval, WARM_UP, LATENCY)
            .await;
        // The consumer ends, whatever became of the publisher.
        tell.send_replace(Some(*sent.as_ref().unwrap_or(&0)));
        sent
    };
    let (consumed, sent) = tokio::join!(consuming, publishing);
    let ((histogram, came), sent) = (consumed?, sent?);
    if came < sent {
        return Err(BenchError::Missing {
            cell: cell.name.clone(),
            missing: sent - came,
        });
    }
    Ok(read(&histogram))
}

fn read(histogram: &Histogram<u64>) -> Latency {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    Latency {
        p50_ms: at(0.5),
        p99_ms: at(0.99),
    }
}
