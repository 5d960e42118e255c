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
use futures_util::future::select_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::{AbortHandle, JoinError, JoinSet};

/// What came out of a diversion.
pub(super) struct Drained {
    pub(super) unit: UnitId,
    pub(super) event: ConsumerEvent,
}

/// See the file's head. Dropping it gives all of them up.
pub(super) struct Drains {
    shared: Arc<Shared>,
    spec: LaneSpec,
    opening: JoinSet<(UnitId, Result<Consumer, String>)>,
    by_unit: BTreeMap<UnitId, Drain>,
}

enum Drain {
    Opening(AbortHandle),
    Open(Consumer),
}

impl Drains {
    pub(super) fn new(shared: Arc<Shared>, spec: LaneSpec) -> Self {
        Self {
            shared,
            spec,
            opening: JoinSet::new(),
            by_unit: BTreeMap::new(),
        }
    }

    /// Begins to consume the diversion of a unit.
    pub(super) fn begin(&mut self, unit: UnitId) {
        let shared = Arc::clone(&self.shared);
        let spec = self.spec.clone();
        let to = unit.clone();
        let opening = self.opening.spawn(async move {
            let opened = open_diversion(&shared, &spec, &to).await;
            (to, opened)
        });
        self.by_unit.insert(unit, Drain::Opening(opening));
    }

    /// Consumes it no longer. What was handed out and is not acknowledged goes back into it.
    pub(super) fn end(&mut self, unit: &UnitId) {
        match self.by_unit.remove(unit) {
            Some(Drain::Opening(opening)) => opening.abort(),
            // Dropped, it closes its channel in the background.
            Some(Drain::Open(_)) | None => {}
        }
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
            let step = {
                let taking = taking(&mut self.by_unit, &has_room);
                tokio::select! {
                    biased;
                    Some(opened) = self.opening.join_next() => Step::Opened(opened),
                    (unit, event) = taking => Step::Drained(Drained { unit, event }),
                }
            };
            let drained = match step {
                Step::Opened(Ok((unit, Ok(consumer)))) => {
                    // Unless it was ended meanwhile.
                    if let Some(drain) = self.by_unit.get_mut(&unit) {
                        *drain = Drain::Open(consumer);
                    }
                    continue;
                }
                Step::Opened(Ok((unit, Err(cause)))) => Drained {
                    unit,
                    event: ConsumerEvent::Lost { cause },
                },
                Step::Opened(Err(error)) if error.is_panic() => {
                    std::panic::resume_unwind(error.into_panic())
                }
                Step::Opened(Err(_)) => continue,
                Step::Drained(drained) => drained,
            };
            if let ConsumerEvent::Lost { .. } = drained.event {
                self.by_unit.remove(&drained.unit);
            }
            return drained;
        }
    }

    /// Gives all of them up; what they had in hand is back in their queues when this returns.
    pub(super) async fn close(&mut self) {
        self.opening.shutdown().await;
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
    Opened(Result<(UnitId, Result<Consumer, String>), JoinError>),
    Drained(Drained),
}

/// The next event of the open ones that have room; never, where there is none.
async fn taking(
    drains: &mut BTreeMap<UnitId, Drain>,
    has_room: impl Fn(&UnitId) -> bool,
) -> (UnitId, ConsumerEvent) {
    let open = drains.iter_mut().filter_map(|(unit, drain)| match drain {
        Drain::Open(consumer) if has_room(unit) => Some(Box::pin(async move {
            let event = consumer.next().await;
            (unit.clone(), event)
        })),
        Drain::Open(_) | Drain::Opening(_) => None,
    });
    let open: Vec<_> = open.collect();
    if open.is_empty() {
        return std::future::pending().await;
    }
    select_all(open).await.0
}
