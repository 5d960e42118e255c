//! The diversions that one lane drains: a consumer for each.
//!
//! Promises that a diversion is given up by closing its channel, and that nothing of it is taken in hand while the lane
//! has no room for it. Never decides when a diversion is drained.

use super::lane_open::open_diversion;
use super::lane_task::LaneSpec;
use super::shared::Shared;
use crate::broker::{Consumer, ConsumerEvent};
use crate::lane::Settlement;
use crate::model::UnitId;
use futures_util::future::{BoxFuture, select_all};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What came out of a diversion.
pub(super) struct Drained {
    pub(super) unit: UnitId,
    pub(super) event: ConsumerEvent,
}

/// See the file's head. Dropping it gives all of them up.
pub(super) struct Drains {
    shared: Arc<Shared>,
    spec: LaneSpec,
    by_unit: BTreeMap<UnitId, Drain>,
}

enum Drain {
    Opening(BoxFuture<'static, Result<Consumer, String>>),
    Open(Consumer),
}

impl Drains {
    pub(super) fn new(shared: Arc<Shared>, spec: LaneSpec) -> Self {
        Self {
            shared,
            spec,
            by_unit: BTreeMap::new(),
        }
    }

    /// Begins to consume the diversion of a unit.
    pub(super) fn begin(&mut self, unit: UnitId) {
        let shared = Arc::clone(&self.shared);
        let spec = self.spec.clone();
        let to = unit.clone();
        let opening = async move { open_diversion(&shared, &spec, &to).await };
        self.by_unit.insert(unit, Drain::Opening(Box::pin(opening)));
    }

    /// Consumes it no longer. What was handed out and is not acknowledged goes back into it.
    pub(super) fn end(&mut self, unit: &UnitId) {
        // Dropped, one that opens is given up, and an open one closes its channel in the background.
        self.by_unit.remove(unit);
    }

    /// Acknowledges what the lane has settled. A consumer that has ended says so by itself.
    pub(super) fn acknowledge(&self, unit: &UnitId, settlement: &Settlement) {
        if let Some(Drain::Open(consumer)) = self.by_unit.get(unit)
            && let Err(error) = consumer.acknowledge(settlement)
        {
            tracing::debug!(%unit, %error, "acknowledging what was diverted");
        }
    }

    /// What comes next out of those that `has_room` names. Given up, it loses nothing.
    pub(super) async fn next(&mut self, has_room: impl Fn(&UnitId) -> bool) -> Drained {
        loop {
            let (unit, step) = taking(&mut self.by_unit, &has_room).await;
            let event = match step {
                Step::Opened(Ok(consumer)) => {
                    self.by_unit.insert(unit, Drain::Open(consumer));
                    continue;
                }
                Step::Opened(Err(cause)) => ConsumerEvent::Lost { cause },
                Step::Taken(event) => event,
            };
            if let ConsumerEvent::Lost { .. } = event {
                self.by_unit.remove(&unit);
            }
            return Drained { unit, event };
        }
    }

    /// Gives all of them up; what they had in hand is back in their queues when this returns.
    pub(super) async fn close(&mut self) {
        for (unit, drain) in std::mem::take(&mut self.by_unit) {
            if let Drain::Open(consumer) = drain
                && let Err(error) = consumer.close().await
            {
                tracing::debug!(%unit, %error, "closing a diversion's channel");
            }
        }
    }
}

enum Step {
    Opened(Result<Consumer, String>),
    Taken(ConsumerEvent),
}

/// What comes first of those that open, and of the open ones that have room; never, where there is none.
async fn taking(
    drains: &mut BTreeMap<UnitId, Drain>,
    has_room: impl Fn(&UnitId) -> bool,
) -> (UnitId, Step) {
    let steps = drains.iter_mut().filter_map(|(unit, drain)| {
        if matches!(drain, Drain::Open(_)) && !has_room(unit) {
            return None;
        }
        Some(Box::pin(async move {
            let step = match drain {
                Drain::Opening(opening) => Step::Opened(opening.await),
                Drain::Open(consumer) => Step::Taken(consumer.next().await),
            };
            (unit.clone(), step)
        }))
    });
    let steps: Vec<_> = steps.collect();
    if steps.is_empty() {
        return std::future::pending().await;
    }
    select_all(steps).await.0
}
