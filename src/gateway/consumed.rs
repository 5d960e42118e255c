//! Whether what was delivered here of slots that move away has been consumed: for moves that wait for that.
//!
//! Promises fifteen seconds in which every look at every queue found nothing, after every gateway had drained.

use super::feed::FeedState;
use super::known::is_first;
use super::shared::Shared;
use crate::model::{Drain, Revision, Stage};
use crate::routing::{Source, Table};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often queues are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// RabbitMQ's figures lag by up to seven seconds; twice that.
const NOTHING_FOR: Duration = Duration::from_secs(15);

/// The subject of the fault while it can't be told.
const SUBJECT: &str = "drain: consumed";

/// Looks while such a move waits, until cancelled. What is consumed, by which table, goes out by `consumed`.
pub(super) async fn watch(
    shared: Arc<Shared>,
    feed: watch::Receiver<FeedState>,
    consumed: watch::Sender<Revision>,
    cancel: CancellationToken,
) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The table by which a fence was first seen, and since when there has been nothing.
    let (mut fenced, mut nothing_since) = (None::<Revision>, None::<Instant>);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = looks.tick() => {}
        }
        let Some(rules) = shared.rules() else {
            continue;
        };
        let table = &rules.table;
        if !waits(table, &shared) || !is_first(&shared, &feed) {
            (fenced, nothing_since) = (None, None);
            shared.status.clear_fault(SUBJECT);
            continue;
        }
        let by = *fenced.get_or_insert(table.revision());
        if !all_drained(&feed, by) {
            nothing_since = None;
            continue;
        }
        match left(&shared, table).await {
            Ok(0) => {
                let since = *nothing_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= NOTHING_FOR {
                    consumed.send_if_modified(|told| {
                        let newer = *told < by;
                        *told = by.max(*told);
                        newer
                    });
                }
                shared.status.clear_fault(SUBJECT);
            }
            Ok(_) => {
                nothing_since = None;
                shared.status.clear_fault(SUBJECT);
            }
            Err(cause) => {
                nothing_since = None;
                let mend = "mend broker.management, or move with `--drain parcels`";
                shared.status.set_fault(SUBJECT, cause, mend);
            }
        }
    }
}

/// Whether a move of this unit's slots waits for consumers.
fn waits(table: &Table, shared: &Shared) -> bool {
    table.moves().values().any(|one| {
        let from = one.seats().map(|change| &change.from);
        one.stage == Stage::Fenced
            && one.drain == Drain::Consumed
            && from == Some(&shared.here.unit)
    })
}

/// Whether every gateway that runs has drained: nothing more will be delivered.
fn all_drained(feed: &watch::Receiver<FeedState>, by: Revision) -> bool {
    let state = feed.borrow();
    let mut records = state.peers.values().flatten().map(|(_, record)| record);
    records.all(|record| record.drained >= by)
}

/// Messages in the queues that sources are delivered to here.
async fn left(shared: &Shared, table: &Table) -> Result<u64, String> {
    let management = shared.brokers.management();
    let management = management.ok_or("broker.management names no address")?;
    let mut exchanges = BTreeSet::new();
    for source in table.sources() {
        let vhost = shared.brokers.vhost(source.vhost.as_deref());
        let vhost = vhost.map_err(|error| error.to_string())?;
        let vhost = vhost.control.vhost().to_owned();
        exchanges.extend(delivered(source).map(|exchange| (vhost.clone(), exchange)));
    }
    let mut messages = 0;
    for (vhost, exchange) in exchanges {
        messages += management.messages_behind(&vhost, &exchange).await?;
    }
    Ok(messages)
}

fn delivered(source: &Source) -> impl Iterator<Item = String> {
    let exchanges = source.exchanges();
    exchanges.map(|exchange| String::from_utf8_lossy(exchange).into_owned())
}
