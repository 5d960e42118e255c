//! Which sources this gateway takes: those that the rules in force take in this unit.
//!
//! A reconciler: it compares what runs with what the table wants, and takes no hint of what changed. The lanes of a source
//! that has changed end, settle, and begin anew.

use super::feed::FeedState;
use super::shared::Shared;
use super::source_task::{self, SourceSpec};
use crate::broker::spread::HashOn;
use crate::model::SourceName;
use crate::routing::Source;
use crate::rules::KeyFrom;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Running {
    spec: SourceSpec,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

/// Runs until cancelled, then ends every lane.
pub(super) async fn run(
    shared: Arc<Shared>,
    feed: watch::Receiver<FeedState>,
    cancel: CancellationToken,
) {
    let mut rules = shared.rules.clone();
    let mut running: HashMap<SourceName, Running> = HashMap::new();
    loop {
        let wanted: Vec<SourceSpec> = rules
            .borrow_and_update()
            .as_ref()
            .map_or_else(Vec::new, |r| {
                r.table.sources_of(&shared.here.unit).map(spec).collect()
            });
        let ended = running.extract_if(|_, source| !wanted.contains(&source.spec));
        end(ended.map(|(_, source)| source).collect()).await;
        for spec in wanted {
            running.entry(spec.source.clone()).or_insert_with(|| {
                let cancel = CancellationToken::new();
                let run = source_task::run(
                    Arc::clone(&shared),
                    spec.clone(),
                    feed.clone(),
                    cancel.clone(),
                );
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
    end(running.into_values().collect()).await;
}

/// Ends sources side by side.
async fn end(sources: Vec<Running>) {
    for source in &sources {
        source.cancel.cancel();
    }
    for source in sources {
        if let Err(error) = source.task.await {
            tracing::error!(source = %source.spec.source, %error, "a source ended by a fault of setgate");
        }
    }
}

fn spec(source: &Source) -> SourceSpec {
    SourceSpec {
        source: source.name.clone(),
        vhost: source.vhost.clone(),
        take: source.take.clone(),
        queue_type: source.queue_type,
        duplicates: source.duplicates.clone(),
        divert: source.divert.clone(),
        partitions: source.partitions,
        retired: source.retired,
        on: match source.key.from.first() {
            Some(KeyFrom::Header(name)) => HashOn::Header(name.clone()),
            // The validator lets nothing else be spread.
            Some(KeyFrom::RoutingKey | KeyFrom::RoutingKeyWord(_) | KeyFrom::Json(_)) | None => {
                HashOn::RoutingKey
            }
        },
    }
}
