//! What the unit has delivered of slots that move, told to their new owner: so that a publisher's resend is known there too.
//!
//! Promises that an answer has all that any gateway of the unit had journaled when it was asked, and that all of an answer
//! is in this unit's journal before it is said to be.

use super::feed::FeedState;
use super::journal::Write;
use super::shared::Shared;
use crate::link::Ask;
use crate::model::{Move, Revision, SeatChange, Stage};
use crate::routing::Table;
use crate::wire::KnownPipe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Identities in one frame, and in one journal entry: 64 KiB.
const AT_ONCE: usize = 4_096;

/// Pieces of an answer on their way into the journal.
const WRITES_MAX: usize = 16;

/// After a question that wasn't answered.
const PAUSE: Duration = Duration::from_millis(200);

/// The journal is read up to now within so long, or nothing is answered.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);

/// Answers questions until cancelled, one after the other.
pub(super) async fn tell(
    shared: Arc<Shared>,
    mut asked: mpsc::Receiver<KnownPipe>,
    cancel: CancellationToken,
) {
    loop {
        let KnownPipe { ask, answer } = tokio::select! {
            pipe = asked.recv() => match pipe {
                Some(pipe) => pipe,
                None => return,
            },
            () = cancel.cancelled() => return,
        };
        // Other gateways of the unit may have confirmed some, too.
        let caught_up = timeout(CATCH_UP_MAX, shared.journal.catch_up()).await;
        if caught_up.is_err() {
            continue;
        }
        let records = shared
            .journal
            .seen()
            .lock()
            .confirmed_of(&ask.slots, AT_ONCE);
        for record in records {
            if answer.send(vec![record]).await.is_err() {
                break;
            }
        }
        let _ = answer.send(Vec::new()).await;
    }
}

/// Asks for what moves here, whenever something does, until cancelled.
pub(super) async fn copy(
    shared: Arc<Shared>,
    feed: watch::Receiver<FeedState>,
    cancel: CancellationToken,
) {
    let mut rules = shared.rules.clone();
    let (mut copied, mut attempt) = (Revision::default(), 0);
    loop {
        let in_force = rules.borrow_and_update().clone();
        let table = in_force.as_ref().map(|rules| &*rules.table);
        let due = table
            .filter(|table| table.revision() > copied)
            .map_or_else(Vec::new, |table| drained(table, &shared));
        if let Some(table) = table.filter(|_| !due.is_empty() && is_first(&shared, &feed)) {
            let all = tokio::select! {
                all = copy_all(&shared, table, &due, attempt) => all,
                () = cancel.cancelled() => return,
            };
            match all {
                Ok(count) => {
                    (copied, attempt) = (table.revision(), 0);
                    tracing::info!(count, revision = %copied, "what others have delivered of slots that move here is known");
                    shared.journal.copied(copied).await;
                    continue;
                }
                Err(cause) => {
                    attempt += 1;
                    tracing::warn!(%cause, "asking for what is known of slots that move here");
                }
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = rules.changed() => if changed.is_err() { return },
            () = sleep(PAUSE), if !due.is_empty() => {}
        }
    }
}

/// One gateway of the unit asks: the first of those that hold their lease.
pub(super) fn is_first(shared: &Shared, feed: &watch::Receiver<FeedState>) -> bool {
    let state = feed.borrow();
    let unit = state.peers.get(&shared.here.unit);
    let first = unit.and_then(|gateways| gateways.keys().next());
    first.is_none_or(|first| *first == shared.here.gateway)
}

/// What has drained, and is about to be this unit's.
fn drained(table: &Table, shared: &Shared) -> Vec<SeatChange> {
    let drained = table
        .moves()
        .values()
        .filter(|one| one.stage == Stage::Drained);
    let changes = drained.filter_map(Move::seats);
    changes
        .filter(|change| change.to == shared.here.unit)
        .cloned()
        .collect()
}

/// How many identities that were.
async fn copy_all(
    shared: &Shared,
    table: &Table,
    due: &[SeatChange],
    attempt: u32,
) -> Result<usize, String> {
    let mut count = 0;
    for SeatChange { slots, from, .. } in due {
        let ask = Ask {
            lineage: table.lineage().clone(),
            slots: slots.clone(),
        };
        let (done, mut written) = mpsc::channel(WRITES_MAX);
        let mut under_way = 0;
        let mut answer = shared.links.ask_known(from, ask, attempt).await?;
        while let Some(records) = answer.next().await? {
            count += records.iter().map(|one| one.fact.count()).sum::<usize>();
            if under_way == WRITES_MAX {
                written.recv().await;
                under_way -= 1;
            }
            under_way += 1;
            let write = Write {
                ticket: 0,
                records,
                note: None,
                done: done.clone(),
            };
            shared.journal.write(write).await;
        }
        for _ in 0..under_way {
            written.recv().await;
        }
    }
    Ok(count)
}
