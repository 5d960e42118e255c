//! All streams that this gateway receives: at most one for each lane.
//!
//! Owns which stream of a lane is the current one. Promises that a newer one begins only when the older has confirmed
//! or given up all that it published.

use super::receiver;
use super::shared::Shared;
use crate::model::LaneId;
use crate::wire::ReceiverPipe;
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
    // Bounded by what runs: a finished stream is forgotten with the next one that comes.
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
        let lane = LaneId {
            unit: pipe.hello.from.clone(),
            source: pipe.hello.source.clone(),
            partition: pipe.hello.partition,
        };
        current.retain(|_, running| !running.task.is_finished());
        let older = current.remove(&lane);
        let end = cancel.child_token();
        let task = shared
            .tracker
            .spawn(take_over(Arc::clone(&shared), older, pipe, end.clone()));
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
