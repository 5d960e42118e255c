//! Lists a space, watches it, and swaps the table.
//!
//! Owns what was accepted last, in memory and on disk. Every connection begins with a listing, so what was missed while etcd
//! was away, or compacted, needs no path of its own.

use super::FeedSettings;
use super::disk;
use super::inputs::{Inputs, Peers};
use super::judge::{Fresh, Judgement, Known, Proposal, judge};
use super::state::{EtcdState, FeedState};
use super::trouble::Trouble;
use crate::etcd::{
    Changes, Commit, EtcdConfig, EtcdError, GatewayRecord, Newest, Snapshot, SpaceView, Store,
    WatchEnd, fresh_lineage, fresh_seal,
};
use crate::model::{Backoff, GatewayId, Lineage, Revision, SpaceId, UnitId};
use crate::routing::Table;
use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use secrecy::SecretString;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

/// How often a quiet watch is compared with what etcd holds: a stream that hangs, or a change that it missed, shows.
const CHECK_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Follower {
    space: SpaceId,
    me: (UnitId, GatewayId),
    state_dir: PathBuf,
    who: String,
    known: Option<Known>,
    inputs: Option<Inputs>,
    /// What the disk has, by the gateways that it names; `None` when the table's inputs are newer than the disk.
    saved: Option<KnownGateways>,
    /// What the last judgement was made of: revisions of the newest rules and wishes, and how many keys there were.
    judged: Option<Fingerprint>,
    fresh: (Lineage, SecretString),
    pub(super) state: watch::Sender<FeedState>,
    table: Arc<ArcSwapOption<Table>>,
    backoff: Backoff,
    /// In a row.
    failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    newest: Revision,
    keys: usize,
}

enum Event {
    Watched(Result<Changes, WatchEnd>),
    Check,
}

impl Follower {
    /// Knows nothing yet.
    pub(super) fn new(
        settings: &FeedSettings,
        state: watch::Sender<FeedState>,
        table: Arc<ArcSwapOption<Table>>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            space: settings.space.clone(),
            me: (settings.unit.clone(), settings.gateway.clone()),
            state_dir: settings.state_dir.clone(),
            who: format!("gateway {}/{}", settings.unit, settings.gateway),
            known: None,
            inputs: None,
            saved: None,
            judged: None,
            fresh: (fresh_lineage(), fresh_seal()?),
            state,
            table,
            backoff: Backoff::new(fastrand::u64(..)),
            failures: 0,
        })
    }

    pub(super) async fn run(mut self, etcd: &EtcdConfig, cancel: &CancellationToken) {
        loop {
            let error = tokio::select! {
                error = self.follow(etcd) => error,
                () = cancel.cancelled() => return,
            };
            self.down(&error);
            self.failures = self.failures.saturating_add(1);
            let wait = self.backoff.delay(self.failures);
            tokio::select! {
                () = sleep(wait) => {}
                () = cancel.cancelled() => return,
            }
        }
    }

    /// Lists and watches until something fails.
    async fn follow(&mut self, etcd: &EtcdConfig) -> EtcdError {
        let store = match Store::connect(etcd, &self.space).await {
            Ok(store) => store,
            Err(error) => return error,
        };
        loop {
            if let Err(error) = self.list_and_watch(&store).await {
                return error;
            }
        }
    }

    /// Ends well where listing again is the answer.
    async fn list_and_watch(&mut self, store: &Store) -> Result<(), EtcdError> {
        let mut snapshot = store.read_all().await?;
        self.up(store.endpoint());
        self.take(store, &snapshot).await?;
        let mut watch = store.watch(snapshot.revision).await?;
        let mut checks = interval(CHECK_EVERY);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut missing: Option<Newest> = None;
        loop {
            let event = tokio::select! {
                changes = watch.next() => Event::Watched(changes),
                _ = checks.tick() => Event::Check,
            };
            match event {
                Event::Watched(Ok(changes)) => {
                    snapshot.apply(changes);
                    self.take(store, &snapshot).await?;
                }
                Event::Watched(Err(WatchEnd::Compacted(revision))) => {
                    tracing::info!(%revision, "etcd has compacted what was watched; reading again");
                    return Ok(());
                }
                Event::Watched(Err(WatchEnd::Failed(error))) => return Err(error),
                Event::Check => {
                    let newest = store.newest().await?;
                    let late = missing.is_some_and(|seen| seen.mod_revision > snapshot.revision);
                    if late || newest.cluster_id != snapshot.cluster_id {
                        return Ok(());
                    }
                    missing = Some(newest);
                }
            }
        }
    }

    /// Makes of a snapshot what it means, and writes what it asks for.
    async fn take(&mut self, store: &Store, snapshot: &Snapshot) -> Result<(), EtcdError> {
        let view = SpaceView::of(snapshot);
        let peers = view.gateways();
        let fingerprint = fingerprint(snapshot);
        // With the table comes who may have to grant leave.
        self.state.send_if_modified(|state| {
            let members = view.members();
            if *state.members != members {
                state.members = Arc::new(members);
            }
            false
        });
        // A move waits for every member: whoever isn't registered yet must not route by a table that may be moved away.
        let is_member = view.members().contains(&self.me);
        if is_member && self.judged != Some(fingerprint) {
            self.judged = Some(fingerprint);
            self.judge(store, snapshot).await?;
        }
        let (coordinator, frozen) = (view.coordinator(), view.frozen());
        let members = view.members();
        self.state.send_if_modified(|state| {
            state.read_at = snapshot.revision;
            // A refused space has strangers for gateways.
            if state.trouble.as_ref().is_some_and(Trouble::refuses) {
                return false;
            }
            let changed = *state.peers != peers
                || state.coordinator != coordinator
                || state.frozen != frozen
                || *state.members != members;
            if *state.members != members {
                state.members = Arc::new(members);
            }
            if *state.peers != peers {
                state.peers = Arc::new(peers);
            }
            state.coordinator = coordinator;
            state.frozen = frozen;
            changed
        });
        self.save_if_changed().await;
        Ok(())
    }

    async fn judge(&mut self, store: &Store, snapshot: &Snapshot) -> Result<(), EtcdError> {
        let fresh = Fresh {
            lineage: self.fresh.0.clone(),
            seal: self.fresh.1.clone(),
            now: Timestamp::now().to_string(),
            who: &self.who,
        };
        let mut judgement = judge(snapshot, self.known.as_ref(), &self.space, &fresh);
        if let Some(proposal) = judgement.proposal.take()
            && let Err(error) = propose(store, &proposal).await
        {
            if error.is_unreachable() {
                // Judge again when it is back.
                self.judged = None;
                return Err(error);
            }
            judgement.trouble = Some(Trouble::Write(error.to_string()));
        }
        self.publish(judgement);
        Ok(())
    }

    fn publish(&mut self, judgement: Judgement) {
        let Judgement {
            accepted,
            faults,
            rejected,
            trouble,
            proposal: _,
        } = judgement;
        let mut fresh = None;
        if let Some((table, inputs)) = accepted {
            self.known = Some(known(&inputs));
            if !self
                .inputs
                .as_ref()
                .is_some_and(|last| last.same_as(&inputs))
            {
                tracing::info!(revision = %table.revision(), epoch = %table.epoch(), "a new table is in force");
                fresh = Some((Arc::new(table), inputs));
            }
        }
        if !faults.is_empty() {
            tracing::error!(
                faults = faults.len(),
                first = %faults[0],
                "the routing documents are rejected; the last good table stays"
            );
        }
        if let Some(trouble) = &trouble {
            tracing::error!(%trouble, "the space in etcd can't be used as it is");
        }
        let fresh = fresh.map(|(table, inputs)| {
            let seal = inputs.seal_keys().ok().map(Arc::new);
            let ttl = inputs.lease_ttl();
            self.table.store(Some(table.clone()));
            self.inputs = Some(inputs);
            self.saved = None;
            (table, seal, ttl)
        });
        self.state.send_modify(|state| {
            if let Some((table, seal, ttl)) = fresh {
                state.table = Some(table);
                state.seal = seal;
                state.lease_ttl = ttl;
            }
            state.faults = faults.into();
            state.rejected = rejected;
            state.trouble = trouble;
        });
    }

    /// Takes up what lay on the disk, or what a folder holds.
    pub(super) fn restore(&mut self, saved: disk::Saved) {
        let disk::Saved {
            inputs,
            peers,
            members,
        } = saved;
        // What lies on the disk is on the disk: where etcd has the same, it isn't written again.
        let on_disk = inputs.revision;
        self.state.send_modify(|state| {
            state.peers = Arc::new(peers);
            state.members = Arc::new(members);
            state.saved = on_disk;
        });
        match inputs.compile(&self.space) {
            Ok(table) => self.publish(Judgement {
                accepted: Some((table, inputs)),
                ..Judgement::default()
            }),
            Err(faults) => {
                // The past counts, even if this program can't read it.
                self.known = Some(known(&inputs));
                self.publish(Judgement {
                    faults,
                    ..Judgement::default()
                });
            }
        }
        self.saved = Some(known_of(&self.state.borrow()));
    }

    /// The table's inputs go to the disk when they change, and the peers' addresses with them; what else peers say of
    /// themselves is worth nothing after a restart.
    async fn save_if_changed(&mut self) {
        let Some(inputs) = self.inputs.clone() else {
            return;
        };
        let (peers, members, known) = {
            let state = self.state.borrow();
            (state.peers.clone(), state.members.clone(), known_of(&state))
        };
        let revision = inputs.revision;
        if self.saved.as_ref() == Some(&known) {
            return;
        }
        let (folder, space) = (self.state_dir.clone(), self.space.clone());
        let saved = tokio::task::spawn_blocking(move || {
            disk::save(&folder, &space, &inputs, &peers, &members)
        });
        match saved.await {
            Ok(Ok(())) => {
                self.saved = Some(known);
                self.state.send_if_modified(|state| {
                    let newer = std::mem::replace(&mut state.saved, revision) != revision;
                    match state.trouble {
                        Some(Trouble::Disk(_)) => state.trouble.take().is_some(),
                        Some(_) | None => newer,
                    }
                });
            }
            Ok(Err(error)) => {
                let trouble = Trouble::Disk(error.to_string());
                self.state
                    .send_modify(|state| state.trouble = Some(trouble));
            }
            Err(error) => tracing::error!(%error, "saving the table was interrupted"),
        }
    }

    fn up(&mut self, endpoint: &str) {
        self.failures = 0;
        if matches!(&self.state.borrow().etcd, EtcdState::Up { endpoint: now, .. } if now == endpoint)
        {
            return;
        }
        tracing::info!(endpoint, "etcd answers");
        let up = EtcdState::Up {
            since: Timestamp::now(),
            endpoint: endpoint.to_owned(),
        };
        self.state.send_modify(|state| state.etcd = up);
    }

    fn down(&mut self, error: &EtcdError) {
        let cause = error.to_string();
        let since = match &self.state.borrow().etcd {
            EtcdState::Down { since, cause: last } if *last == cause => return,
            EtcdState::Down { since, .. } => *since,
            EtcdState::Unused | EtcdState::Connecting | EtcdState::Up { .. } => Timestamp::now(),
        };
        tracing::warn!(%cause, "etcd is away; the last good table stays");
        self.state
            .send_modify(|state| state.etcd = EtcdState::Down { since, cause });
    }
}

async fn propose(store: &Store, proposal: &Proposal) -> Result<(), EtcdError> {
    let (transaction, done) = match proposal {
        Proposal::Create(transaction) => (transaction, "made the space in etcd"),
        Proposal::Copy(transaction) => (transaction, "put the documents in force"),
    };
    match store.commit(transaction).await? {
        Commit::Done(revision) => tracing::info!(%revision, done, "changed the space"),
        // Somebody else was first, or the documents have changed: the watch will say.
        Commit::Conflict => tracing::debug!("the space had changed meanwhile"),
    }
    Ok(())
}

fn known(inputs: &Inputs) -> Known {
    Known {
        cluster_id: inputs.cluster_id,
        seats: inputs.seats.clone(),
        placement: inputs.placement.clone(),
        revision: inputs.revision,
    }
}

/// Link and admin address of each gateway, and who is registered.
type KnownGateways = (Addresses, Arc<BTreeSet<(UnitId, GatewayId)>>);

fn known_of(state: &FeedState) -> KnownGateways {
    (addresses(&state.peers), Arc::clone(&state.members))
}

/// Link and admin address of each gateway.
type Addresses = BTreeMap<UnitId, BTreeMap<GatewayId, (String, String)>>;

/// Registrations come and go without the rules changing; they don't count.
fn fingerprint(snapshot: &Snapshot) -> Fingerprint {
    let rules = snapshot.entries.iter().filter(|(key, _)| {
        let passing = ["gateways/", "members/", "coordinator"];
        !passing.iter().any(|one| key.starts_with(one))
    });
    rules.fold(
        Fingerprint {
            newest: Revision(0),
            keys: 0,
        },
        |print, (_, entry)| Fingerprint {
            newest: print.newest.max(entry.mod_revision),
            keys: print.keys + 1,
        },
    )
}

fn addresses(peers: &Peers) -> Addresses {
    let of_unit = |gateways: &BTreeMap<GatewayId, GatewayRecord>| {
        let each = gateways.iter();
        each.map(|(name, one)| (name.clone(), (one.link.clone(), one.admin.clone())))
            .collect()
    };
    peers
        .iter()
        .map(|(unit, gateways)| (unit.clone(), of_unit(gateways)))
        .collect()
}
