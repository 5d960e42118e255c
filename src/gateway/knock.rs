//! A lane that nothing comes to, asking its queue whether it is its own.
//!
//! A single active consumer that gets nothing can't tell whether it is the one, and a lane drains its diversions only when
//! it is. So where messages lie in them, it puts a message of its own into its queue: to whom that comes, it is the one.

use super::lane_open::found_diversions;
use super::lane_task::LaneSpec;
use super::shared::Shared;
use crate::amqp::Edit;
use crate::broker::{self, LanePublisher, Outcome, Publish, PublishId, Unroutable};
use crate::lane::{Wrapping, knock as the_knock, wrap};
use crate::model::marks::X_SET_PARCEL;
use crate::model::{Address, own_queues};
use crate::rules::Take;
use std::time::Duration;

/// The first messages of a queue come within a moment.
pub(super) const KNOCK_AFTER: Duration = Duration::from_secs(1);
/// Whoever has the queue may end at any time.
pub(super) const KNOCK_EVERY: Duration = Duration::from_secs(10);

/// Knocks, if there is something to drain.
pub(super) async fn knock(shared: &Shared, spec: &LaneSpec) -> Result<(), String> {
    let found = found_diversions(shared, spec).await?;
    if found.iter().all(|(_, ready)| *ready == 0) {
        return Ok(());
    }
    let rules = shared.rules().ok_or("no table")?;
    let vhost = shared.brokers.vhost(spec.vhost.as_deref());
    let vhost = vhost.map_err(|error| error.to_string())?;
    let queue = match &spec.take {
        Take::Exchange { .. } => own_queues::lane(&shared.here.space, &spec.source, spec.partition),
        Take::Queue { queue } => queue.clone(),
    };
    let exchange = own_queues::retry(&shared.here.space);
    let way = broker::ensure_way(&vhost.control, &exchange, &queue).await;
    way.map_err(|error| error.to_string())?;
    let wrapping = Wrapping {
        keys: &rules.keys,
        from: &shared.here.unit,
        source: &spec.source,
        at: Shared::moment().unix_seconds,
    };
    let (properties, body) = wrap(&the_knock(), wrapping);
    let mut edit = Edit::new();
    edit.set_str(X_SET_PARCEL, format!("{:x}", fastrand::u64(..)));
    let publisher = LanePublisher::open(&vhost.dialer, "knock", None).await;
    let mut publisher = publisher.map_err(|error| error.to_string())?;
    publisher.publish(Publish {
        id: PublishId(1),
        address: Address {
            exchange: exchange.into(),
            routing_key: queue.into(),
        },
        properties: edit.apply(&properties).map_err(|error| error.to_string())?,
        body,
        unroutable: Unroutable::Return,
    });
    let outcome = loop {
        if let Some((_, outcome)) = publisher.next().await.into_iter().next() {
            break outcome;
        }
    };
    // Whatever became of it: it is knocked again.
    drop(publisher.close().await);
    match outcome {
        Outcome::Confirmed => Ok(()),
        other => Err(format!("{other:?}")),
    }
}
