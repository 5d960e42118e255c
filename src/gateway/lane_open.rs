//! How a lane comes to its consumer.
//!
//! Owns the steps from a source's description to a consumer of its queue: the virtual host, the declarations or the
//! look at a foreign queue, the channel. Promises that what it returns is held by one consumer alone. Never tries twice:
//! whoever calls does.

use super::brokers::Vhost;
use super::lane_hand::held_max;
use super::lane_task::LaneSpec;
use super::shared::Shared;
use super::source_task::Feeding;
use super::spread::weight;
use super::status::{LaneFacts, LaneState};
use crate::broker::{self, Consumer, ConsumerKind, DeclareError};
use crate::lane::DRAIN_DELIVERIES;
use crate::model::{UnitId, own_queues};
use crate::rules::{QueueType, Take};

/// Makes sure that the lane's queue is there and can be held by one consumer, and consumes it.
pub(super) async fn open(
    shared: &Shared,
    spec: &LaneSpec,
    prefetch: u16,
    absent: LaneState,
) -> Result<(Consumer, ConsumerKind), String> {
    let vhost = shared
        .brokers
        .vhost(spec.vhost.as_deref())
        .map_err(|e| e.to_string())?;
    if let Some(cause) = vhost.control.state().cause() {
        // Said at once; the connection goes on trying by itself.
        let facts = LaneFacts::of(absent, Some(format!("the broker is away: {cause}")));
        shared.status.set_lane(&spec.source, spec.partition, facts);
    }
    vhost.control.up().await;
    let (queue, kind) = match &spec.take {
        Take::Exchange { exchange, bindings } => {
            let queue = own_queues::lane(&shared.here.space, &spec.source, spec.partition);
            let bindings: Vec<_> = bindings
                .iter()
                .map(|binding| broker::Binding {
                    routing_key: binding.routing_key.clone().into(),
                    arguments: binding.arguments.clone(),
                })
                .collect();
            let kind = kind_of(spec.queue_type);
            match &spec.feeding {
                Feeding::Direct { switch } => {
                    not_spread(&vhost.control, switch).await?;
                    broker::ensure_lane_queue(&vhost.control, &queue, kind, exchange, &bindings)
                        .await
                        .map_err(|e| e.to_string())?;
                    // Another gateway may have spread the source meanwhile, and taken these bindings off before they came.
                    if let Err(spread) = not_spread(&vhost.control, switch).await {
                        for binding in &bindings {
                            broker::spread::unbind_queue(&vhost.control, &queue, exchange, binding)
                                .await
                                .map_err(|e| e.to_string())?;
                        }
                        return Err(spread);
                    }
                }
                Feeding::Spread { hash } => {
                    broker::ensure_lane_queue(&vhost.control, &queue, kind, "", &[])
                        .await
                        .map_err(|e| e.to_string())?;
                    broker::bind_queue(&vhost.control, &queue, hash, &weight())
                        .await
                        .map_err(|e| e.to_string())?;
                }
                // Declared again, it would come back empty while it is being deleted.
                Feeding::Leaving => {}
            }
            (queue, ConsumerKind::SingleActive)
        }
        Take::Queue { queue } => {
            let management = shared.brokers.management();
            let found = broker::inspect_foreign_queue(&vhost.control, management, queue)
                .await
                .map_err(|e| e.to_string())?;
            (
                queue.clone(),
                broker::hold(&found).map_err(|refused| refused.to_string())?,
            )
        }
    };
    let name = format!("lane {}/{}", spec.source, spec.partition);
    let body_bytes_max = shared.limits.body_bytes_max;
    let consumer = Consumer::open(&vhost.dialer, &name, &queue, kind, prefetch, body_bytes_max)
        .await
        .map_err(|e| e.to_string())?;
    consumer.hold_at_most(held_max(shared));
    Ok((consumer, kind))
}

/// The units for which a former holder of this lane has made a diversion, with how many messages are ready in it: what an
/// old drain has in hand isn't counted.
pub(super) async fn found_diversions(
    shared: &Shared,
    spec: &LaneSpec,
) -> Result<Vec<(UnitId, u32)>, String> {
    let rules = shared.rules().ok_or("no table")?;
    let vhost = shared
        .brokers
        .vhost(spec.vhost.as_deref())
        .map_err(|e| e.to_string())?;
    vhost.control.up().await;
    let mut found = Vec::new();
    for unit in rules.table.units() {
        let unit = &unit.name;
        let queue = diversion(shared, spec, unit);
        let depth = broker::depth(&vhost.control, &queue).await;
        if let Some(ready) = depth.map_err(|error| error.to_string())? {
            found.push((unit.clone(), ready));
        }
    }
    Ok(found)
}

/// Makes sure that the diversion of a unit is there, with the limit that the source has now or had when it was made.
pub(super) async fn ensure_diversion(
    shared: &Shared,
    vhost: &Vhost,
    spec: &LaneSpec,
    unit: &UnitId,
) -> Result<(), String> {
    let queue = diversion(shared, spec, unit);
    vhost.control.up().await;
    let kind = kind_of(spec.queue_type);
    let bytes_max = spec.divert.bytes_max;
    match broker::ensure_divert_queue(&vhost.control, &queue, kind, bytes_max).await {
        Ok(()) => Ok(()),
        Err(DeclareError::Different { text, .. }) => {
            tracing::warn!(%queue, %text, "a diversion keeps the limits that it was made with");
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Consumes the diversion of a unit.
pub(super) async fn open_diversion(
    shared: &Shared,
    spec: &LaneSpec,
    unit: &UnitId,
) -> Result<Consumer, String> {
    let vhost = shared
        .brokers
        .vhost(spec.vhost.as_deref())
        .map_err(|e| e.to_string())?;
    ensure_diversion(shared, &vhost, spec, unit).await?;
    let queue = diversion(shared, spec, unit);
    let name = format!("drain {}/{} {unit}", spec.source, spec.partition);
    let opened = Consumer::open(
        &vhost.dialer,
        &name,
        &queue,
        ConsumerKind::SingleActive,
        DRAIN_DELIVERIES,
        // Nothing larger than what a lane takes goes in, with what may be in front of it.
        shared.limits.body_bytes_max + PREFIX_BYTES_MAX,
    );
    let consumer = opened.await.map_err(|error| error.to_string())?;
    consumer.hold_at_most(held_max(shared));
    Ok(consumer)
}

/// What a wrapping may put in front of a body: properties of one frame.
const PREFIX_BYTES_MAX: usize = 128 << 10;

pub(super) fn diversion(shared: &Shared, spec: &LaneSpec, unit: &UnitId) -> String {
    own_queues::divert(&shared.here.space, &spec.source, spec.partition, unit)
}

fn kind_of(kind: QueueType) -> broker::QueueType {
    match kind {
        QueueType::Quorum => broker::QueueType::Quorum,
        QueueType::Classic => broker::QueueType::Classic,
    }
}

/// Refuses a source that other gateways have spread: bound directly too, its queue would get a second copy of everything.
async fn not_spread(control: &broker::Connection, switch: &str) -> Result<(), String> {
    match broker::exchange_exists(control, switch.as_bytes()).await {
        Ok(false) => Ok(()),
        Ok(true) => Err(
            "the source is spread over partitions in the broker; this gateway's rules say one: it takes what there is as soon as it has looked"
                .to_owned(),
        ),
        Err(error) => Err(error.to_string()),
    }
}

/// Of a new life of a lane: no other has it, and what a later one puts into diversions is known as newer, as far as the
/// clocks of a unit's gateways agree within the time that a lane takes to change hands.
pub(super) fn new_incarnation() -> u64 {
    let micros = u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or(0);
    (micros << 8) | u64::from(fastrand::u8(..))
}
