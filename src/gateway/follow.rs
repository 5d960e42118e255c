//! Takes each new table into force: the rules that lanes route by, what links say of it, which links run, the status page.
//!
//! A reconciler: it takes no hint of what changed, and runs on a timer too.

use super::coordinator::is_up;
use super::feed::{EtcdState, FeedHandle, FeedState};
use super::metrics::Metrics;
use super::metrics_ownership::UnitIs;
use super::shared::{Rules, Shared};
use super::status::{MoveLine, StatusFault, TableFacts, UnitFacts};
use crate::link::Standing;
use crate::model::{Freeze, Frozen, UnitId};
use crate::routing::{Table, Unit};
use crate::rules::Duplicates;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Links are compared with the registered gateways this often, besides at every change.
const RECONCILE_EVERY: Duration = Duration::from_secs(5);

/// Takes each new table of the feed into force: routing rules, what links say of it, links, status, metrics.
pub(super) async fn follow(
    shared: Arc<Shared>,
    handle: FeedHandle,
    rules: watch::Sender<Option<Arc<Rules>>>,
    standing: watch::Sender<Option<Arc<Standing>>>,
    cancel: CancellationToken,
) {
    let mut states = handle.watch();
    let mut units = Units::default();
    loop {
        let state = states.borrow_and_update().clone();
        if let (Some(table), Some(keys)) = (&state.table, &state.seal) {
            let fresh = rules
                .borrow()
                .as_ref()
                .is_none_or(|old| !Arc::ptr_eq(&old.table, table));
            if fresh {
                shared.links.cap(table);
                standing.send_replace(Some(Arc::new(standing_of(table, &shared.here.unit))));
                shared.status.set_table(facts(table));
                shared
                    .metrics
                    .table_in_force(table.revision(), table.epoch());
                let fenced = table.fenced().count();
                shared.metrics.ownership().fenced_slots(fenced);
                let in_force = Rules {
                    table: Arc::clone(table),
                    keys: Arc::clone(keys),
                };
                remember(&shared, table);
                rules.send_replace(Some(Arc::new(in_force)));
                shared.fencing.look();
            }
        }
        if let Some(table) = &state.table {
            shared.rights.follow(&state, table, &shared.here.unit);
            units.show(&shared.metrics, &state, table);
        }
        show(&shared, &state);
        let known = |unit: &UnitId| {
            state
                .table
                .as_ref()
                .is_some_and(|table| table.unit(unit).is_some())
        };
        let mut peers = (*state.peers).clone();
        peers.retain(|unit, _| known(unit));
        shared.links.reconcile(&peers, &cancel);
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(RECONCILE_EVERY) => {}
            changed = states.changed() => if changed.is_err() { return },
        }
    }
}

/// Since when which unit isn't up, as etcd says it.
#[derive(Default)]
struct Units(HashMap<UnitId, Instant>);

impl Units {
    /// What metrics say of each. With etcd away, they stay as they are.
    fn show(&mut self, metrics: &Metrics, state: &FeedState, table: &Table) {
        if !matches!(state.etcd, EtcdState::Up { .. }) {
            return;
        }
        let taken = table.taken();
        for Unit { name, .. } in table.units() {
            let is = if taken.contains(name) {
                UnitIs::Fenced
            } else if is_up(state.peers.get(name)) {
                self.0.remove(name);
                UnitIs::Up
            } else {
                let since = self.0.entry(name.clone()).or_insert_with(Instant::now);
                if since.elapsed() < table.failover().grace {
                    UnitIs::Doubtful
                } else {
                    UnitIs::Down
                }
            };
            metrics.ownership().unit(name, is);
        }
    }
}

/// How long each source's messages are remembered, and from which epoch on.
fn remember(shared: &Shared, table: &Table) {
    let windows = table.sources().iter().filter_map(|source| {
        let window = match &source.duplicates {
            Duplicates::Off => return None,
            Duplicates::ById { window, .. } => *window,
        };
        Some((source.name.clone(), window))
    });
    let now = shared.journal.now();
    let mut seen = shared.journal.seen().lock();
    seen.set_windows(windows);
    seen.epoch(table.epoch(), now);
}

fn show(shared: &Shared, state: &FeedState) {
    match &state.etcd {
        EtcdState::Unused | EtcdState::Up { .. } => shared.status.etcd_up(),
        EtcdState::Connecting => shared.status.etcd_down("not reached yet"),
        EtcdState::Down { cause, .. } => shared.status.etcd_down(cause.clone()),
    }
    let faults = state.faults.iter().map(|fault| StatusFault {
        subject: format!("{}:{}", fault.file, fault.line),
        message: fault.message.clone(),
        mend: fault.mend.clone(),
    });
    let trouble = state.trouble.iter().map(|trouble| StatusFault {
        subject: "etcd".to_owned(),
        message: trouble.to_string(),
        mend: "see docs/install.md, \"etcd\"".to_owned(),
    });
    shared
        .status
        .set_faults("documents", faults.chain(trouble).collect());
    let here = &shared.here.unit;
    match &state.table {
        Some(table) if table.unit(here).is_none() => shared.status.set_fault(
            "unit",
            format!("the topology in force has no unit {here}: nothing is taken or delivered here"),
            "add it to the topology, or mend `unit` in gateway.yaml; see docs/growing.md",
        ),
        Some(_) | None => shared.status.clear_fault("unit"),
    }
    let Frozen { all, units } = &state.frozen;
    let frozen = all.iter().map(|freeze| ("any unit", freeze));
    let units = units.iter().map(|(unit, freeze)| (unit.as_str(), freeze));
    let frozen = frozen
        .chain(units)
        .map(|(what, Freeze { who, why, at })| StatusFault {
            subject: "takeovers".to_owned(),
            message: format!(
                "nobody takes over from {what} by itself: frozen by {who} at {at}: {why}"
            ),
            mend: "`setgate thaw` when that is over".to_owned(),
        });
    shared.status.set_faults("takeovers", frozen.collect());
    let rejected = state.rejected.is_some() || state.trouble.is_some();
    shared.metrics.table_rejected().set(i64::from(rejected));
    let current = matches!(state.etcd, EtcdState::Up { .. } | EtcdState::Unused) && !rejected;
    shared.metrics.table_is_current(current, Instant::now());
}

fn standing_of(table: &Table, here: &UnitId) -> Standing {
    let elsewhere = table.units().iter().filter(|unit| unit.name != *here);
    Standing {
        lineage: table.lineage().clone(),
        epoch: table.epoch(),
        revision: table.revision(),
        units: table.units().iter().map(|unit| unit.name.clone()).collect(),
        taken: table.taken(),
        lanes_elsewhere: elsewhere.map(|unit| table.lanes_of(&unit.name)).sum(),
    }
}

fn facts(table: &Table) -> TableFacts {
    let seats = table.seats();
    let units = table.units();
    let seat_of = |unit: &UnitId| -> Vec<UnitId> {
        let homes = units.iter().map(|home| &home.name);
        homes
            .filter(|home| seats.seat_of(home) == unit)
            .cloned()
            .collect()
    };
    TableFacts {
        lineage: table.lineage().clone(),
        epoch: table.epoch(),
        revision: table.revision(),
        units: units
            .iter()
            .map(|unit| UnitFacts {
                unit: unit.name.clone(),
                site: unit.site.clone(),
                seat_of: seat_of(&unit.name),
            })
            .collect(),
        moves: table
            .moves()
            .iter()
            .filter(|(_, one)| !one.stage.is_over())
            .map(|(id, one)| MoveLine {
                id: *id,
                stage: one.stage,
                change: one.change.clone(),
            })
            .collect(),
    }
}
