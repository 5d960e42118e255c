//! How a lane comes to its consumer.
//!
//! Owns the steps from a source's description to a consumer of its queue: the virtual host, the declarations or the
//! look at a foreign queue, the channel. Promises that what it returns is held by one consumer alone. Never tries twice:
//! whoever calls does.

use super::lane_task::LaneSpec;
use super::shared::Shared;
use super::source_task::Feeding;
use super::spread::weight;
use super::status::{LaneFacts, LaneState};
use crate::broker::{self, Consumer, ConsumerKind};
use crate::model::own_queues;
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
            let kind = match spec.queue_type {
                QueueType::Quorum => broker::QueueType::Quorum,
                QueueType::Classic => broker::QueueType::Classic,
            };
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
    Ok((consumer, kind))
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
