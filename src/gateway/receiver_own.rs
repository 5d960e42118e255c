//! The receiving end of a gateway's own streams: into its park, and into its lanes' diversions.
//!
//! Neither needs a lock, and neither is journaled: what is in there is whatever its lane says it is.

use super::brokers::Vhost;
use super::receiver::{End, Kind, refuse, serve};
use super::shared::Shared;
use crate::broker::{self, LanePublisher};
use crate::link::RefusalReason;
use crate::link::receiver::Full;
use crate::model::own_queues;
use crate::wire::ReceiverPipe;
use tokio_util::sync::CancellationToken;

/// Serves the stream of parked messages, which go to this unit's own queue and need no lock.
pub(super) async fn park(
    shared: &Shared,
    vhost: &Vhost,
    pipe: ReceiverPipe,
    end: CancellationToken,
) {
    let publisher = match open_park(shared, vhost).await {
        Ok(publisher) => publisher,
        Err(cause) => return refuse(&pipe.words, RefusalReason::BrokerAway, cause).await,
    };
    // There is nowhere to go from the park.
    let kind = Kind::Own(Full::Waits);
    let end = serve(shared, &vhost.control, pipe, publisher, kind, end).await;
    if let End::Broken(cause) = end {
        tracing::warn!(%cause, "parking was interrupted");
    }
}

/// Serves the stream into one of a lane's diversions, which is there already and needs no lock either.
pub(super) async fn divert(
    shared: &Shared,
    vhost: &Vhost,
    full: Full,
    pipe: ReceiverPipe,
    end: CancellationToken,
) {
    let publisher = match LanePublisher::open(&vhost.dialer, "divert", None).await {
        Ok(publisher) => publisher.of_any_size(),
        Err(error) => {
            return refuse(&pipe.words, RefusalReason::BrokerAway, error.to_string()).await;
        }
    };
    let kind = Kind::Own(full);
    let end = serve(shared, &vhost.control, pipe, publisher, kind, end).await;
    if let End::Broken(cause) = end {
        tracing::warn!(%cause, "diverting was interrupted");
    }
}

/// A publisher into the park queue, which is there when this returns.
pub(super) async fn open_park(shared: &Shared, vhost: &Vhost) -> Result<LanePublisher, String> {
    let queue = own_queues::park(&shared.here.space);
    broker::ensure_own_queue(&vhost.control, &queue, broker::QueueType::Quorum)
        .await
        .map_err(|error| format!("declaring {queue}: {error}"))?;
    let publisher = LanePublisher::open(&vhost.dialer, "park", None)
        .await
        .map_err(|error| error.to_string())?;
    Ok(publisher.of_any_size())
}
