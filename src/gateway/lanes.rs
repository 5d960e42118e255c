//! Which lanes this gateway runs: one for each source that the rules in force take in this unit.
//!
//! A reconciler: it compares what runs with what the table wants, and takes no hint of what changed. A lane whose
//! source has changed ends, settles, and begins anew.

use super::lane_task::{self, LaneSpec};
use super::shared::Shared;
use super::status::{LaneFacts, LaneState};
use crate::model::{Partition, SourceName};
use crate::routing::Source;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Running {
    spec: LaneSpec,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

/// Runs until cancelled, then ends every lane.
pub(super) async fn run(shared: Arc<Shared>, cancel: CancellationToken) {
    let mut rules = shared.rules.clone();
    let mut running: HashMap<SourceName, Running> = HashMap::new();
    loop {
        let wanted: Vec<LaneSpec> = rules
            .borrow_and_update()
            .as_ref()
            .map_or_else(Vec::new, |r| {
                r.table.sources_of(&shared.here.unit).map(spec).collect()
            });
        let ended: Vec<SourceName> = running
            .iter()
            .filter(|(_, lane)| !wanted.contains(&lane.spec))
            .map(|(name, _)| name.clone())
            .collect();
        for name in ended {
            if let Some(lane) = running.remove(&name) {
                end(lane).await;
            }
        }
        for spec in wanted {
            running.entry(spec.source.clone()).or_insert_with(|| {
                let begun = LaneFacts::of(LaneState::Opening, None);
                shared.status.set_lane(&spec.source, spec.partition, begun);
                let cancel = CancellationToken::new();
                let run = lane_task::run(Arc::clone(&shared), spec.clone(), cancel.clone());
                Running {
                    spec,
                    cancel,
                    task: shared.tracker.spawn(run),
                }
            });
        }
        tokio::select! {
            () = cancel.cancelled() => break,
            changed = rules.changed() => if changed.is_err() { break },
        }
    }
    for lane in running.values() {
        lane.cancel.cancel();
    }
    for (_, lane) in running {
        end(lane).await;
    }
}

async fn end(lane: Running) {
    lane.cancel.cancel();
    if let Err(error) = lane.task.await {
        tracing::error!(source = %lane.spec.source, %error, "a lane ended by a fault of setgate");
    }
}

fn spec(source: &Source) -> LaneSpec {
    LaneSpec {
        source: source.name.clone(),
        partition: Partition(0),
        vhost: source.vhost.clone(),
        take: source.take.clone(),
        queue_type: source.queue_type,
        duplicates: source.duplicates.clone(),
        divert: source.divert.clone(),
    }
}
