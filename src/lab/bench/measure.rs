//! One measurement: so many messages wait at the near broker, a carrier is let go, and what arrives is watched.
//!
//! The rate is that between a tenth and nine tenths of the messages, so that neither a start nor an end counts; so is
//! processor time. Bytes are those of the whole run: what is on the way is not what has arrived. Then, where a cell wants
//! it, latency at half of the load.

use super::BenchError;
use super::cell::Cell;
use super::ends::{End, Load};
use super::report::median;
use super::rig::{Carrier, Pids, Rig, addresses, destinations};
use super::usage::{forget_peak, peak_mib, processor_time};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Between two looks at how many have arrived.
const LOOK: Duration = Duration::from_millis(20);
/// The slowest carrier takes half a minute for a cell.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long messages are published at a rate for latency.
const LATENCY: Duration = Duration::from_secs(4);

/// What one measurement gave.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// Messages per second.
    pub(super) rate: f64,
    /// Processor time per message of all processes: brokers and gateways.
    pub(super) cpu_us: f64,
    /// Of the gateways at both ends alone.
    pub(super) gateway_cpu_us: Option<f64>,
    /// Of the two brokers alone.
    pub(super) broker_cpu_us: f64,
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
    brokers: Duration,
    gateways: Duration,
}

/// Measures a carrier in a cell.
pub(super) async fn throughput(
    rig: &mut Rig,
    carrier: Carrier,
    cell: &Cell,
    load: &Load,
) -> Result<Sample, BenchError> {
    rig.shape(cell);
    rig.rest(carrier, cell.queues).await?;
    rig.clear().await?;
    let to = addresses(Some(carrier), cell.queues);
    rig.near.publish(&to, load, cell.messages).await?;
    let before = rig.carried(carrier);
    rig.go(carrier, cell.queues).await?;
    let pids = rig.pids(carrier)?;
    for pid in pids.gateways.into_iter().flatten() {
        forget_peak(pid);
    }
    let watched = timeout(PATIENCE, watch(rig, cell, pids)).await;
    let (first, last) = watched.map_err(|_| BenchError::Stuck {
        carrier: carrier.name(),
        cell: cell.name.clone(),
    })??;
    let all = rig.carried(carrier).saturating_sub(before);
    let messages = (last.arrived - first.arrived).max(1) as f64;
    let time = (last.at - first.at).as_secs_f64().max(1e-6);
    let per_message = |time: Duration| time.as_secs_f64() * 1e6 / messages;
    let (brokers, gateways) = (
        per_message(last.brokers.saturating_sub(first.brokers)),
        per_message(last.gateways.saturating_sub(first.gateways)),
    );
    let peak = |pids: [u32; 2]| pids.into_iter().map(peak_mib).fold(0.0, f64::max);
    Ok(Sample {
        rate: messages / time,
        cpu_us: brokers + gateways,
        gateway_cpu_us: pids.gateways.map(|_| gateways),
        broker_cpu_us: brokers,
        wire_bytes: all as f64 / cell.messages as f64,
        rss_mib: pids.gateways.map(peak),
    })
}

/// Watches messages arrive, from a tenth of them to nine tenths, and waits for the rest.
async fn watch(rig: &Rig, cell: &Cell, pids: Pids) -> Result<(Mark, Mark), BenchError> {
    let queues = destinations(cell.queues);
    let (begin, end) = (cell.messages / 10, cell.messages * 9 / 10);
    let mut first = None;
    let mut last = None;
    loop {
        let arrived = rig.far.ready(&queues).await?;
        let mark = || Mark {
            at: Instant::now(),
            arrived,
            brokers: pids.brokers.into_iter().map(processor_time).sum(),
            gateways: pids
                .gateways
                .into_iter()
                .flatten()
                .map(processor_time)
                .sum(),
        };
        if first.is_none() && arrived >= begin {
            first = Some(mark());
        }
        if last.is_none() && arrived >= end {
            last = Some(mark());
        }
        if let (Some(first), Some(last), true) = (first, last, arrived >= cell.messages) {
            return Ok((first, last));
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
        let sent = end.publish_at_rate(&to, load, interval, LATENCY).await;
        // The consumer ends, whatever became of the publisher.
        tell.send_replace(Some(*sent.as_ref().unwrap_or(&0)));
        sent
    };
    let (histogram, sent) = tokio::join!(consuming, publishing);
    let (histogram, sent) = (histogram?, sent?);
    if histogram.len() < sent {
        return Err(BenchError::Missing {
            cell: cell.name.clone(),
            missing: sent - histogram.len(),
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
