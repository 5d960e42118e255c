//! Looks each minute for policies of the broker that endanger setgate's own queues, and says what to do about them.

use super::shared::Shared;
use super::status::StatusFault;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

/// How often.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// The first look: the queues are declared by then, and quorum queues have told their statistics.
const FIRST_LOOK: Duration = Duration::from_secs(15);

/// Queues named at most: one policy endangers them all alike.
const NAMED_MAX: usize = 5;

/// The group of its faults.
const GROUP: &str = "policies";

/// Runs until cancelled.
pub(super) async fn watch(shared: Arc<Shared>, cancel: CancellationToken) {
    let Some(management) = shared.brokers.management() else {
        tracing::warn!(
            "whether policies endanger setgate's own queues is unknown: broker.management names no address"
        );
        return;
    };
    let prefix = format!("setgate.{}.", shared.here.space);
    let mut looks = interval_at(Instant::now() + FIRST_LOOK, LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = looks.tick() => {}
        }
        let mut faults = Vec::new();
        for vhost in shared.brokers.vhosts() {
            match management.endangered(&vhost, &prefix).await {
                Ok(found) => faults.extend(found.into_iter().take(NAMED_MAX).map(|one| {
                    StatusFault {
                        subject: format!("queue {}", one.queue),
                        message: format!("{}: what setgate keeps in it can be lost", one.cause),
                        mend: format!(
                            "set the policy of deploy/rabbitmq/own-queues.policy.json in vhost {vhost}, whose priority shuts others out; an operator policy has to spare ^setgate\\. itself"
                        ),
                    }
                })),
                Err(cause) => faults.push(StatusFault {
                    subject: format!("vhost {vhost}"),
                    message: format!(
                        "whether policies endanger setgate's own queues is unknown: {cause}"
                    ),
                    mend: "mend broker.management, or the rights of its user".to_owned(),
                }),
            }
        }
        shared.status.set_faults(GROUP, faults);
    }
}
