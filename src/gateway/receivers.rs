//! All streams that this gateway receives: at most one for each lane.
//!
//! Owns which stream of a lane is the current one. Promises that a newer one begins only when the older has confirmed
//! or given up all that it published.

use super::receiver;
use super::shared::Shared;
use crate::link::{self, Standing};
use crate::model::LaneId;
use crate::wire::{ReceiverPipe, StreamEvent};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Running {
    end: CancellationToken,
    task: JoinHandle<()>,
}

/// Takes streams from links and from this gateway's own lanes until cancelled, then ends them all.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut incoming: mpsc::Receiver<ReceiverPipe>,
    cancel: CancellationToken,
) {
    // Bounded by what `admit` lets in: lanes of sources and units that the table knows.
    let mut current: HashMap<LaneId, Running> = HashMap::new();
    loop {
        let pipe = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            pipe = incoming.recv() => match pipe {
                Some(pipe) => pipe,
                None => break,
            },
        };
        let standing = shared.rules().map(|rules| standing(&rules.table));
        if let Err(refusal) =
            link::admit(&pipe.hello, &pipe.peer, &shared.here, standing.as_ref())
        {
            shared.metrics.link_refused(refusal.reason.as_str()).inc();
            let refused = StreamEvent::Refused { reason: refusal.reason, cause: refusal.cause };
            // The channel is new and empty, so this never waits.
            let _ = pipe.words.try_send(refused);
            continue;
        }
        let lane = LaneId {
            unit: pipe.hello.from.clone(),
            source: pipe.hello.source.clone(),
            partition: pipe.hello.partition,
        };
        current.retain(|_, running| !running.task.is_finished());
        let older = current.remove(&lane);
        let end = cancel.child_token();
        let task = shared.tracker.spawn(take_over(Arc::clone(&shared), older, pipe, end.clone()));
        current.insert(lane, Running { end, task });
    }
    for (_, running) in current {
        running.end.cancel();
        // A receiver that panicked has closed its channels; there is nothing left to wait for.
        let _ = running.task.await;
    }
}

async fn take_over(
    shared: Arc<Shared>,
    older: Option<Running>,
    pipe: ReceiverPipe,
    end: CancellationToken,
) {
    if let Some(older) = older {
        older.end.cancel();
        let _ = older.task.await;
    }
    receiver::receive(&shared, pipe, end).await;
}

fn standing(table: &crate::routing::Table) -> Standing {
    Standing {
        lineage: table.lineage().clone(),
        epoch: table.epoch(),
        revision: table.revision(),
        units: table.units().iter().map(|unit| unit.name.clone()).collect(),
    }
}
