//! Whether this gateway may deliver what its unit serves, and who else may go on because it grants leave.
//!
//! The shell of [`Right`] and [`Granter`]: owns both, reads the clock, and tells receivers when the right ends. Promises
//! that whoever asks is told by the clock, not by a timer that may be late.

use super::feed::{EtcdState, FeedState, Leased};
use super::shared::Shared;
use crate::failover::{Granters, Right};
use crate::link::{Granter, LEAVE, Standing};
use crate::model::{GatewayId, Revision, UnitId};
use crate::routing::Table;
use crate::rules::Isolated;
use crate::wire::boottime;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How often the right is looked at. What is taken meanwhile is judged by the clock.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The subject of the fault while there is no right.
const SUBJECT: &str = "right to deliver";

/// See the file's head.
pub(super) struct Rights {
    right: Mutex<Right>,
    granters: Mutex<Granters>,
    pub(super) granter: Arc<Mutex<Granter>>,
    holds: watch::Sender<bool>,
}

impl Rights {
    pub(super) fn new() -> Self {
        Self {
            right: Mutex::default(),
            granters: Mutex::new(Granters::All(BTreeSet::new())),
            granter: Arc::new(Mutex::new(Granter::new(boottime()))),
            holds: watch::Sender::new(false),
        }
    }

    /// Whether it may deliver now.
    pub(super) fn holds(&self) -> bool {
        let until = self.right.lock().until(&self.granters.lock());
        until.is_some_and(|until| boottime() < until)
    }

    /// Until it may, or for so long.
    pub(super) async fn wait(&self, patience: Duration) {
        let mut holds = self.holds.subscribe();
        let _ = tokio::time::timeout(patience, holds.wait_for(|holds| *holds)).await;
    }

    /// Changes when it ends, and when it is back.
    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.holds.subscribe()
    }

    /// By the table and the members as they are now.
    pub(super) fn follow(&self, state: &FeedState, table: &Table, here: &UnitId) {
        *self.granters.lock() = granters(state, table, here);
        self.look();
    }

    /// The newest table of which every leave that it takes back has ended; none where it takes none back.
    pub(super) fn ungranted(&self, standing: Option<&Standing>) -> Option<Revision> {
        let standing = standing.filter(|standing| !standing.taken.is_empty())?;
        self.granter.lock().ended(standing, boottime())
    }

    /// Whether that has changed.
    fn look(&self) {
        let holds = self.holds();
        self.holds.send_if_modified(|held| {
            let changed = *held != holds;
            *held = holds;
            changed
        });
    }

    /// Why there is no right, in words.
    fn cause(&self) -> String {
        let granters = self.granters.lock();
        let lacks: Vec<String> = self
            .right
            .lock()
            .lacks(&granters, boottime())
            .map(|(unit, gateway)| format!("{unit}/{gateway}"))
            .collect();
        match &*granters {
            Granters::TakenOver => "another unit stands in for this one, or is about to".to_owned(),
            Granters::Nobody | Granters::All(_) => format!(
                "no lease in etcd, and no leave of {}",
                if lacks.is_empty() {
                    "anybody".to_owned()
                } else {
                    lacks.join(", ")
                }
            ),
        }
    }
}

/// Takes leases and leave in, and says what becomes of the right.
pub(super) async fn keep(
    shared: Arc<Shared>,
    mut leased: watch::Receiver<Option<Leased>>,
    cancel: CancellationToken,
) {
    let rights = &shared.rights;
    let mut said: Option<String> = None;
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = look.tick() => {}
            Ok(()) = leased.changed() => {}
        }
        if let Some(Leased { sent, ttl }) = *leased.borrow_and_update() {
            rights.right.lock().leased(sent, ttl);
        }
        for (member, sent) in shared.links.leaves() {
            rights.right.lock().granted(member, sent, LEAVE);
        }
        rights.look();
        let cause = (!rights.holds() && shared.rules().is_some()).then(|| rights.cause());
        if cause == said {
            continue;
        }
        if let Some(cause) = &cause {
            tracing::warn!(%cause, "this gateway may not deliver what its unit serves");
            let mend = "it delivers again by itself when etcd, or each of these, answers it; see docs/runbook.md";
            shared.status.set_fault(SUBJECT, cause.clone(), mend);
        } else {
            tracing::info!("this gateway may deliver what its unit serves");
            shared.status.clear_fault(SUBJECT);
        }
        said = cause;
    }
}

/// Who has to grant leave to this unit while it has no lease.
fn granters(state: &FeedState, table: &Table, here: &UnitId) -> Granters {
    if state.etcd == EtcdState::Unused {
        return Granters::Nobody;
    }
    if table.taken().contains(here) {
        return Granters::TakenOver;
    }
    if table.failover().isolated.value == Isolated::Continue {
        return Granters::Nobody;
    }
    let seats = table.seats();
    let homes = table.units().iter();
    let homes = homes.filter(|home| seats.seat_of(&home.name) == here);
    let needed: BTreeSet<&UnitId> = homes
        .flat_map(|home| home.standby.iter().chain([&home.name]))
        .filter(|unit| *unit != here && !seats.stand_ins.contains_key(*unit))
        .collect();
    if needed.is_empty() {
        return Granters::Nobody;
    }
    let members = state.members.iter();
    let members = members.filter(|(unit, _)| needed.contains(unit));
    Granters::All(members.cloned().collect::<BTreeSet<(UnitId, GatewayId)>>())
}
