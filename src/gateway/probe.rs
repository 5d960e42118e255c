//! Whether the unit's broker takes a message and confirms it, seen for true once a second: a connection that is open says
//! little of a broker that hangs.
//!
//! Owns the probe's queue and its publisher. Promises that health follows the last confirm, and that a broker which holds
//! publishers back (an alarm) isn't taken for a dead one.

use super::shared::Shared;
use crate::amqp::{Properties, RawProperties};
use crate::broker::{self, LanePublisher, Outcome, Publish, PublishId, Unroutable};
use crate::model::{Address, own_queues};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

/// How often one is published.
const EVERY: Duration = Duration::from_secs(1);

/// A broker that leaves one without its confirm for so long is not well: five heartbeats of a busy one, and less than the
/// grace of a takeover.
const PATIENCE: Duration = Duration::from_secs(5);

/// The last word on the broker.
#[derive(Debug, Default)]
pub(super) struct Probe {
    well: AtomicBool,
}

impl Probe {
    /// Whether it has confirmed the last one, or is just about to.
    pub(super) fn is_well(&self) -> bool {
        self.well.load(Ordering::Relaxed)
    }
}

/// Probes until cancelled.
pub(super) async fn keep(shared: Arc<Shared>, cancel: CancellationToken) {
    let mut said = String::new();
    loop {
        let cause = tokio::select! {
            cause = probe(&shared) => cause,
            () = cancel.cancelled() => return,
        };
        let was_well = shared.probe.well.swap(false, Ordering::Relaxed);
        if was_well || cause != said {
            tracing::warn!(%cause, "the broker confirms nothing");
            said = cause;
        }
        tokio::select! {
            () = sleep(EVERY) => {}
            () = cancel.cancelled() => return,
        }
    }
}

/// Publishes and waits for confirms until one doesn't come: the cause.
async fn probe(shared: &Shared) -> String {
    match probing(shared).await {
        Ok(cause) | Err(cause) => cause,
    }
}

async fn probing(shared: &Shared) -> Result<String, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let vhost = shared.brokers.vhost(None).map_err(|error| text(&error))?;
    vhost.control.up().await;
    let queue = own_queues::probe(&shared.here.space, &shared.here.gateway);
    broker::ensure_probe_queue(&vhost.control, &queue)
        .await
        .map_err(|error| text(&error))?;
    let opened = LanePublisher::open(&vhost.dialer, "probe", None).await;
    let mut publisher = opened.map_err(|error| text(&error))?;
    let name = Bytes::from(queue);
    let properties = RawProperties::of(&Properties::default()).map_err(|error| text(&error))?;
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut number, mut unanswered_since) = (0, None::<Instant>);
    loop {
        tokio::select! {
            outcomes = publisher.next() => {
                for (_, outcome) in outcomes {
                    if !matches!(outcome, Outcome::Confirmed) {
                        return Ok(format!("a probe ended as {outcome:?}"));
                    }
                    unanswered_since = None;
                    shared.probe.well.store(true, Ordering::Relaxed);
                }
                if let Some(cause) = publisher.ended() {
                    return Ok(cause);
                }
            }
            _ = ticks.tick() => {
                let waited = unanswered_since.map(|since| since.elapsed());
                // One that is held back by an alarm waits without anybody's fault.
                if waited.is_some_and(|waited| waited >= PATIENCE) && publisher.has_room() {
                    return Ok(format!("a probe is without its confirm for {PATIENCE:?}"));
                }
                if unanswered_since.is_none() && publisher.has_room() {
                    number += 1;
                    unanswered_since = Some(Instant::now());
                    publisher.publish(Publish {
                        id: PublishId(number),
                        address: Address {
                            exchange: name.clone(),
                            routing_key: name.clone(),
                        },
                        properties: properties.clone(),
                        body: Bytes::new(),
                        unroutable: Unroutable::Drop,
                    });
                }
            }
        }
    }
}
