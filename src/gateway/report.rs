//! What a gateway looks at from time to time: what it says of itself in etcd, slow metrics, its certificates.

use super::metrics::MemoryKind;
use super::shared::Shared;
use super::status::{LaneState, StatusHub, UpDown};
use crate::etcd::{BrokerHealth, GatewayRecord, LaneRecord};
use crate::link::Standing;
use crate::model::Revision;
use crate::wire::{LinkSecurity, RefusedCounts};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How often this gateway's record for etcd and the slow metrics are looked at.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// Certificate files are read again this often.
const RENEW_EVERY: Duration = Duration::from_secs(30);

/// Keeps what this gateway says of itself in etcd, and metrics that nobody else moves, up to date.
pub(super) async fn report(
    shared: Arc<Shared>,
    own: watch::Sender<GatewayRecord>,
    standing: watch::Receiver<Option<Arc<Standing>>>,
    mut consumed: watch::Receiver<Revision>,
    refused: Arc<RefusedCounts>,
    cancel: CancellationToken,
) {
    let mut tick = tokio::time::interval(REPORT_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut drained = shared.fencing.drained();
    let mut copies = shared.journal.copies();
    let mut reads = shared.journal.reads();
    // What was said before this task began is news to it.
    drained.mark_changed();
    copies.mark_changed();
    reads.mark_changed();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = tick.tick() => {}
            Ok(()) = reads.changed() => {
                let read = *reads.borrow_and_update();
                own.send_modify(|record| record.read = read);
            }
            Ok(()) = drained.changed() => {
                let drained = *drained.borrow_and_update();
                own.send_modify(|record| record.drained = drained);
                continue;
            }
            Ok(()) = consumed.changed() => {
                let consumed = *consumed.borrow_and_update();
                own.send_modify(|record| record.consumed = consumed);
                continue;
            }
            Ok(()) = copies.changed() => {
                let copied = *copies.borrow_and_update();
                own.send_modify(|record| record.copied = copied);
                continue;
            }
        }
        for (reason, count) in refused.snapshot() {
            let counter = shared.metrics.link_refused(reason.as_str());
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        remembered(&shared);
        let ungranted = {
            let standing = standing.borrow();
            shared.rights.ungranted(standing.as_deref())
        };
        let now = shared.status.snapshot();
        let broker = if now.brokers.iter().any(|line| line.blocked.is_some()) {
            BrokerHealth::Blocked
        } else if shared.probe.is_well()
            && !now.brokers.is_empty()
            && now.brokers.iter().all(|line| line.state == UpDown::Up)
            && (shared.rules().is_none() || shared.journal.is_up())
        {
            BrokerHealth::Up
        } else {
            BrokerHealth::Down
        };
        let holds = |state| matches!(state, LaneState::Taking | LaneState::Held);
        let lanes: Vec<_> = now
            .lanes
            .iter()
            .filter(|lane| holds(lane.facts.state))
            .map(|lane| LaneRecord {
                source: lane.source.clone(),
                partition: lane.partition,
            })
            .collect();
        own.send_if_modified(|record| {
            let ungranted = ungranted.unwrap_or(record.ungranted);
            let changed =
                record.broker != broker || record.lanes != lanes || record.ungranted != ungranted;
            record.ungranted = ungranted;
            record.broker = broker;
            record.lanes = lanes;
            changed
        });
    }
}

/// Takes renewed certificates up: connections that are new use them.
pub(super) async fn renew(security: LinkSecurity, status: StatusHub, cancel: CancellationToken) {
    let LinkSecurity::Mutual(identity) = security else {
        return;
    };
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(RENEW_EVERY) => {}
        }
        match identity.reload() {
            Ok(changed) => {
                status.clear_fault("link.tls");
                if changed {
                    tracing::info!("the link's certificates were read anew");
                }
            }
            Err(error) => status.set_fault(
                "link.tls",
                error.to_string(),
                "mend the files; the certificates read before stay in use",
            ),
        }
    }
}

/// What the windows hold, and what they had no room for.
fn remembered(shared: &Shared) {
    let (bytes, forgotten) = {
        let seen = shared.journal.seen().lock();
        (seen.bytes(), seen.forgotten_early())
    };
    let window = shared.metrics.memory_bytes(MemoryKind::Window);
    window.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    let counter = shared.metrics.forgotten_early();
    counter.inc_by(forgotten.saturating_sub(counter.get()));
}
