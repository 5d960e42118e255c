//! The gateway that advances moves and decides on takeovers: one of the space, elected in etcd.
//!
//! Owns the election and the writes of whoever leads. Promises that nothing is written but by the leader, since each write
//! is compared with the key that made it one; that each move goes on with whoever leads next, from the stage that etcd has;
//! and that a clock which is set wrong moves no deadline: time in a stage is counted from when the leader saw it. What is
//! decided is [`failover`](crate::failover)'s.

mod world;

pub(super) use world::is_up;
pub use world::world;
use world::{WishedBy, wish};

use super::feed::{EtcdState, FeedHandle, FeedState, changed_before};
use super::metrics::Metrics;
use crate::etcd::{
    Commit, EtcdConfig, EtcdError, HistoryEntry, Key, Lease, Scope, Snapshot, SpaceView, Store,
    Transaction, WatchEnd, put_in_force, write_history,
};
use crate::failover::{Plan, Policy, Takeover, Verdict, World, judge, place, plan, wished};
use crate::link::Here;
use crate::model::{
    Asked, Backoff, Change, DecidedBy, GatewayId, Kind, Move, MoveId, Revision, RuleChange,
    SeatChange, Seats, SlotSet, Stage, UnitId, next_move,
};
use crate::routing::Table;
use crate::rules::{self, DocumentFile, Failover, parse};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// A leader that is gone is followed by another after so long: within it a fenced slot waits.
const LEASE_TTL: Duration = Duration::from_secs(5);

/// Deadlines are looked at this often.
const TICK: Duration = Duration::from_millis(500);

/// A takeover that isn't through after so long is undone, and planned anew while the unit is down.
const DEADLINE_SECONDS: u32 = 120;

/// Where nobody leads, gateways try it within so long of each other.
const JITTER_MS: u64 = 200;

/// At the end the lead is given back, but the end doesn't wait for etcd.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// What a coordinator needs of its gateway.
pub(super) struct Coordinator {
    pub(super) here: Here,
    pub(super) etcd: EtcdConfig,
    pub(super) feed: FeedHandle,
    pub(super) metrics: Metrics,
}

/// The lead, while it is held.
struct Led {
    store: Store,
    lease: Lease,
    /// Of the key that made this gateway the leader.
    since: Revision,
}

impl Coordinator {
    /// Leads whenever nobody else does, until cancelled.
    pub(super) async fn run(self, cancel: CancellationToken) {
        let backoff = Backoff::new(fastrand::u64(..));
        let mut failures = 0;
        let mut states = self.feed.watch();
        loop {
            let vacant = async {
                while !is_vacant(&states.borrow_and_update()) {
                    // The feed lives as long as its gateway.
                    if states.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
                sleep(Duration::from_millis(fastrand::u64(..JITTER_MS))).await;
            };
            tokio::select! {
                () = vacant => {}
                () = cancel.cancelled() => return,
            }
            let mut led = None;
            let ended = tokio::select! {
                ended = self.lead(&mut led) => ended,
                () = cancel.cancelled() => Ok(()),
            };
            self.metrics.ownership().coordinator().set(0);
            if let Some(Led { store, lease, .. }) = led {
                tracing::info!("this gateway leads no longer");
                // Without an answer the lease runs out by itself.
                let _ = timeout(FAREWELL_MAX, store.revoke(lease)).await;
            }
            if cancel.is_cancelled() {
                return;
            }
            match ended {
                Ok(()) => failures = 0,
                Err(error) => {
                    tracing::warn!(%error, "leading was interrupted");
                    failures += 1;
                }
            }
            tokio::select! {
                () = sleep(backoff.delay(failures)) => {}
                () = cancel.cancelled() => return,
            }
        }
    }

    /// Leads until something fails; ends well where another was first, or etcd has to be read again.
    async fn lead(&self, led: &mut Option<Led>) -> Result<(), EtcdError> {
        let store = Store::connect(&self.etcd, &self.here.space).await?;
        let lease = store.grant(LEASE_TTL).await?;
        let name = format!("{}/{}", self.here.unit, self.here.gateway);
        let elected = Transaction::new()
            .absent(&Key::Coordinator)
            .put(&Key::Coordinator, name)
            .under(&lease);
        let since = match store.commit(&elected).await? {
            Commit::Done(since) => since,
            Commit::Conflict => return store.revoke(lease).await,
        };
        tracing::info!(%since, "this gateway leads the space");
        self.metrics.ownership().coordinator().set(1);
        let led = led.insert(Led {
            store,
            lease,
            since,
        });
        let mut snapshot = led.store.read(Scope::Ownership).await?;
        let mut watch = led.store.watch(snapshot.revision).await?;
        let mut renewals = interval(LEASE_TTL / 3);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = Seen::default();
        loop {
            tokio::select! {
                changes = watch.next() => match changes {
                    Ok(changes) => snapshot.apply(changes),
                    Err(WatchEnd::Compacted(_)) => return Ok(()),
                    Err(WatchEnd::Failed(error)) => return Err(error),
                },
                _ = renewals.tick() => led.lease.renew().await?,
                _ = ticks.tick() => {}
            }
            self.advance(led, &snapshot, &mut seen).await?;
        }
    }

    /// Does what is due: the next step of a move, or a takeover by the policy.
    async fn advance(
        &self,
        led: &Led,
        snapshot: &Snapshot,
        seen: &mut Seen,
    ) -> Result<(), EtcdError> {
        let view = SpaceView::of(snapshot);
        let moves = view.moves();
        self.metrics.ownership().moves(&moves);
        // A move would put in force what somebody has written beside all moves.
        let Some(table) = self.feed.table().filter(|_| !self.feed.is_edited()) else {
            return Ok(());
        };
        // Gateways refuse a space whose keys can't be read, and say so.
        let Some(world) = world(&view, &table, seen) else {
            return Ok(());
        };
        let now_ms = now_ms();
        let due = moves.iter().find_map(|(id, one)| {
            let written = view.move_revision(*id).unwrap_or_default();
            let in_stage = seen.in_stage(*id, written);
            let next = match judge(*id, &moves, written, in_stage, &world) {
                Verdict::Wait(_) => return None,
                Verdict::Go(stage) => at(one, stage, now_ms),
                Verdict::Undo(cause) => Move {
                    cause: Some(cause),
                    ..at(one, Stage::Undone, now_ms)
                },
            };
            let write = write(*id, &next, snapshot, &view)?;
            Some((*id, next, write))
        });
        let due = due.or_else(|| {
            let takeover = plan(&world, &moves, &policy(&table), now_ms);
            let takeover = takeover.map(|plan| takeover_of(&plan, &world));
            let one = takeover.or_else(|| wished(&world, &moves).map(wish_of))?;
            let id = next_move(&moves);
            let text = serde_json::to_vec(&one).ok()?;
            let write = Transaction::new()
                .no_newer_moves(snapshot.revision)
                .absent(&Key::Move(id))
                .put(&Key::Move(id), text);
            Some((id, one, write))
        });
        // One at a time: another has its turn when this one has come back by the watch.
        let Some((id, next, write)) = due else {
            return Ok(());
        };
        let commit = led.store.commit(&write.led(led.since)).await?;
        if let Commit::Done(revision) = commit {
            let (kind, stage, change) = (next.kind(), next.stage, &next.change);
            let cause = next.cause.as_deref().unwrap_or_default();
            tracing::info!(%id, kind, %stage, %change, %revision, cause, "a move goes on");
        }
        Ok(())
    }
}

/// A failover that the policy has decided on.
fn takeover_of(Plan { unit, by }: &Plan, world: &World) -> Move {
    let lost = world.units.get(unit);
    let down_for = lost.map_or(0, |unit| unit.down_for.as_secs());
    let change = SeatChange {
        kind: Kind::Failover,
        slots: lost.map_or_else(SlotSet::empty, |unit| unit.slots.clone()),
        from: unit.clone(),
        to: by.clone(),
        key: None,
    };
    let why = format!("{unit} hasn't been up for {down_for} s");
    decided(Change::Seats(change), why)
}

/// A change of rules that somebody has put into etcd.
fn wish_of(wish: &RuleChange) -> Move {
    let why = "the documents in etcd ask for it".to_owned();
    decided(Change::Rules(wish.clone()), why)
}

fn decided(change: Change, why: String) -> Move {
    let by = Asked {
        who: "coordinator".to_owned(),
        why,
        at: jiff::Timestamp::now().to_string(),
    };
    Move::asked(change, DecidedBy::Policy, by, DEADLINE_SECONDS)
}

/// What the topology of a table says of takeovers.
fn policy(table: &Table) -> Policy {
    let Failover {
        within_city,
        across_cities,
        grace,
        hold_down,
        sites_down_max,
        ..
    } = table.failover();
    let takeover = |one: &rules::Takeover| match one {
        rules::Takeover::Automatic => Takeover::Automatic,
        rules::Takeover::Manual => Takeover::Manual,
    };
    Policy {
        within_city: takeover(within_city),
        across_cities: takeover(across_cities),
        grace: *grace,
        hold_down: *hold_down,
        sites_down_max: *sites_down_max,
    }
}

/// Since when things have been as they are, by this gateway's clock, from when it began to lead.
#[derive(Default)]
pub struct Seen {
    moves: HashMap<MoveId, (Revision, Instant)>,
    down: HashMap<UnitId, Instant>,
    away: HashMap<(UnitId, GatewayId), Instant>,
    wished_by: Option<WishedBy>,
    wish: Option<RuleChange>,
}

impl Seen {
    /// Nothing: whoever doesn't lead.
    pub fn nothing() -> Self {
        Self::default()
    }

    fn in_stage(&mut self, id: MoveId, written: Revision) -> Duration {
        let now = Instant::now();
        let since = self.moves.entry(id).or_insert((written, now));
        if since.0 != written {
            *since = (written, now);
        }
        now.saturating_duration_since(since.1)
    }

    /// Takes in who is up and who holds its lease, and what is wished.
    fn look(&mut self, view: &SpaceView<'_>, table: &Table) {
        let now = Instant::now();
        let by = WishedBy::of(view);
        if self.wished_by.as_ref() != Some(&by) {
            self.wish = wish(view, table.space());
            self.wished_by = Some(by);
        }
        let gateways = view.gateways();
        for unit in table.units() {
            if is_up(gateways.get(&unit.name)) {
                self.down.remove(&unit.name);
            } else {
                self.down.entry(unit.name.clone()).or_insert(now);
            }
        }
        let members = view.members();
        self.away.retain(|member, _| members.contains(member));
        for member in members {
            let (unit, gateway) = &member;
            let runs = gateways
                .get(unit)
                .is_some_and(|of| of.contains_key(gateway));
            if runs {
                self.away.remove(&member);
            } else {
                self.away.entry(member).or_insert(now);
            }
        }
    }

    fn down_for(&self, unit: &UnitId) -> Duration {
        self.down.get(unit).map_or(Duration::ZERO, Instant::elapsed)
    }

    fn away_for(&self, member: &(UnitId, GatewayId)) -> Duration {
        self.away
            .get(member)
            .map_or(Duration::ZERO, Instant::elapsed)
    }
}

/// Nobody leads, as far as this gateway knows, and it could.
fn is_vacant(state: &FeedState) -> bool {
    matches!(state.etcd, EtcdState::Up { .. })
        && state.table.is_some()
        && state.trouble.is_none()
        && state.coordinator.is_none()
}

/// The move in its next stage.
fn at(one: &Move, stage: Stage, now_ms: u64) -> Move {
    let mut next = Move {
        stage,
        ..one.clone()
    };
    match stage {
        Stage::Fenced => next.fenced_at_ms = Some(now_ms),
        Stage::Done => {
            next.ended_at_ms = Some(now_ms);
            next.pause_ms = next.fenced_at_ms.map(|then| now_ms.saturating_sub(then));
        }
        Stage::Undone => next.ended_at_ms = Some(now_ms),
        Stage::Asked | Stage::Drained | Stage::Placed => {}
    }
    next
}

/// What is written for a move's next stage; `None` where the space's own keys can't be read.
fn write(
    id: MoveId,
    next: &Move,
    snapshot: &Snapshot,
    view: &SpaceView<'_>,
) -> Option<Transaction> {
    let text = serde_json::to_vec(next).ok()?;
    let key = Key::Move(id);
    let mut transaction = Transaction::new().unchanged(&key, snapshot).put(&key, text);
    if next.stage == Stage::Placed {
        let seats: Seats = serde_json::from_slice(view.seats()?).ok()?;
        let seats = serde_json::to_vec(&place(&seats, &next.change)).ok()?;
        let documents = view.documents();
        let mut entry = HistoryEntry {
            who: next.who.clone(),
            why: format!("move {id} ({}), {}: {}", next.kind(), next.change, next.why),
            at: jiff::Timestamp::now().to_string(),
            before: BTreeMap::new(),
        };
        transaction = transaction
            .no_newer_members(snapshot.revision)
            .put(&Key::Seats, seats);
        transaction = match &next.change {
            Change::Seats(change) => {
                if change.kind == Kind::Planned {
                    let text = placed(view, change)?;
                    transaction = transaction.put(&Key::Placement, text);
                }
                transaction
                    .unchanged(&Key::Placement, snapshot)
                    .unchanged(&Key::Seats, snapshot)
                    .and(write_history(&entry))
            }
            Change::Rules(_) => {
                entry.before = changed_before(&view.in_force(), &documents);
                transaction
                    .judged(snapshot)
                    .and(put_in_force(snapshot, &documents, &entry))
            }
        };
    }
    Some(transaction)
}

/// The placement with what moves at its new home.
fn placed(view: &SpaceView<'_>, change: &SeatChange) -> Option<String> {
    let SeatChange { slots, to, key, .. } = change;
    let file = DocumentFile {
        name: "placement".to_owned(),
        text: view.placement()?.to_vec(),
    };
    let placement = parse(&[file]).0.placement?;
    Some(match key {
        Some(key) => placement.with_pinned(key, slots, to),
        None => placement.with_moved(slots, to),
    })
}

/// For the pause alone, which people read.
fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}
