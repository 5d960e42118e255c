//! One source at this gateway: which of its lanes run here.
//!
//! A reconciler: it looks at the broker, at the gateways of the unit and at the clock, and takes no hint of what changed.
//! Promises that a lane settles what it has before another gateway takes it on purpose, and that no lane of one bank runs
//! while another bank holds older messages.

mod emptying;

use super::brokers::Errand;
use super::feed::{EtcdState, FeedState};
use super::inflow::Inflow;
use super::lane_task::{self, LaneSpec};
use super::shared::Shared;
use super::source_shown::Shown;
use super::spread::Spread;
use super::status::{LaneFacts, LaneState};
use crate::broker::spread::HashOn;
use crate::broker::{Connection, DeclareError};
use crate::etcd::BrokerHealth;
use crate::lane::{Bank, Emptying, Layout, Stand, judge, stand};
use crate::model::{GatewayId, Partition, SourceName, UnitId};
use crate::rules::{Divert, Duplicates, QueueType, Take};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// What a source task is made from; a change of it is another one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SourceSpec {
    pub(super) source: SourceName,
    pub(super) vhost: Option<String>,
    pub(super) take: Take,
    pub(super) queue_type: QueueType,
    pub(super) duplicates: Duplicates,
    pub(super) divert: Divert,
    pub(super) partitions: u16,
    pub(super) on: HashOn,
    pub(super) retired: bool,
}

/// Where a lane's queue gets its messages from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Feeding {
    /// From the source's exchange; or it is a foreign queue.
    Direct {
        /// The exchange that is there when the source is spread after all.
        switch: String,
    },
    /// From this consistent-hash exchange.
    Spread {
        /// Its name.
        hash: String,
    },
    /// From nowhere any more.
    Leaving,
}

/// How often a spread that is as it should be is looked at, and its bindings are made again. Not more often: RabbitMQ logs
/// an error for whatever is asked for and isn't there.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How often it is asked whether the source's exchange is there: that it isn't is to be seen within five seconds.
const FED_EVERY: Duration = Duration::from_secs(3);

/// How often a bank that is being emptied is looked at.
const EMPTYING_EVERY: Duration = Duration::from_secs(1);

/// When something was refused.
const RETRY_EVERY: Duration = Duration::from_secs(3);

/// A foreign queue has nothing to look at.
const NEVER: Duration = Duration::from_hours(1);

/// How much later the second gateway comes to a lane than the first: whoever comes first is handed the messages.
const SECOND_WAITS: Duration = Duration::from_secs(3);

/// A second gateway that takes, because the first one was away, lets go this often while that one is back.
const SECOND_TAKES_MAX: Duration = Duration::from_secs(15);

/// A connection of its own for a change, and the lock.
const ERRAND_MAX: Duration = Duration::from_mins(1);

struct Running {
    spec: LaneSpec,
    place: Stand,
    since: Instant,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

/// The lanes that are to run, and when to look again.
struct Plan {
    lanes: Vec<LaneSpec>,
    again: Duration,
}

/// What the last look at the broker has found, and how long that holds.
struct Looked {
    lanes: Vec<LaneSpec>,
    until: Instant,
}

struct SourceTask {
    shared: Arc<Shared>,
    spec: SourceSpec,
    feed: watch::Receiver<FeedState>,
    spread: Option<Spread>,
    inflow: Inflow,
    looked: Option<Looked>,
    running: HashMap<Partition, Running>,
    /// Since when this gateway has been second for a lane that it doesn't run.
    second_since: HashMap<Partition, Instant>,
    shown: Shown,
    /// What has been settled last, so that it is done once by each gateway that starts.
    settled: Option<Layout>,
    emptying: Emptying,
    /// It is retired, and nothing of it is left in the broker.
    gone: bool,
}

/// Runs a source's lanes until cancelled, then ends them.
pub(super) async fn run(
    shared: Arc<Shared>,
    spec: SourceSpec,
    feed: watch::Receiver<FeedState>,
    cancel: CancellationToken,
) {
    let mut task = SourceTask {
        spread: Spread::of(&shared.here.space, &spec),
        inflow: Inflow::new(&spec.source),
        shown: Shown::new(Arc::clone(&shared), spec.source.clone()),
        looked: None,
        shared,
        spec,
        feed,
        running: HashMap::new(),
        second_since: HashMap::new(),
        settled: None,
        emptying: Emptying::default(),
        gone: false,
    };
    task.shown.opening(task.spec.partitions);
    loop {
        let planned = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            planned = task.plan() => planned,
        };
        let gateways = task.gateways();
        let again = match planned {
            Ok(plan) => {
                task.shown.mended();
                let sooner = task.reconcile(plan.lanes).await;
                if task.gone {
                    task.shown.retired();
                }
                plan.again.min(sooner)
            }
            Err(cause) => {
                task.shown.failed(cause, task.running.len());
                RETRY_EVERY
            }
        };
        tokio::select! {
            () = cancel.cancelled() => break,
            () = tokio::time::sleep(again) => {}
            () = task.gateways_other_than(gateways) => {}
        }
    }
    let all = task.running.drain().map(|(_, lane)| lane).collect();
    end(all).await;
    task.inflow.end(&task.shared.status);
    task.shown.mended();
    task.shown.hide(|_| false);
}

impl SourceTask {
    async fn plan(&mut self) -> Result<Plan, String> {
        let Some(spread) = &self.spread else {
            return Ok(Plan {
                lanes: vec![self.lane(Partition(0), self.direct())],
                again: NEVER,
            });
        };
        let control = self.control()?;
        if control.state().cause().is_some() {
            if self.spec.partitions == 1 && self.settled.is_none() && !self.spec.retired {
                // The lane says that the broker is away, and finds out itself if the source is spread.
                return Ok(Plan {
                    lanes: vec![self.lane(Partition(0), self.direct())],
                    again: RETRY_EVERY,
                });
            }
            self.shown.away(&control);
            control.up().await;
        }
        if self.spec.retired {
            return self.retiring(&control).await;
        }
        if let Some(Looked { lanes, until }) = &self.looked
            && Instant::now() < *until
            && self.inflow.flows()
            && spread.is_fed(&control).await.map_err(|e| e.to_string())?
        {
            let (lanes, again) = (lanes.clone(), FED_EVERY);
            return Ok(Plan { lanes, again });
        }
        self.looked = None;
        // A lane that is down has a queue that isn't there or isn't what it should be: nothing is to flow into that.
        let direct = self.settled == Some(Layout::Single) && self.has_open_lane();
        if direct {
            let flows = spread.flow_directly(&control).await;
            self.inflow.heard(&self.shared.status, flows);
        }
        let shown = spread.look(&control).await.map_err(|e| e.to_string())?;
        let layout = judge(&shown, spread.wanted);
        if direct && layout != Layout::Single {
            let parted = spread.part_directly(&control).await;
            parted.map_err(|e| e.to_string())?;
        }
        match layout {
            Layout::Single => {
                self.settled = Some(layout);
                let lanes = vec![self.lane(Partition(0), self.direct())];
                Ok(self.looked(lanes))
            }
            Layout::Begin { .. } => {
                self.settle(layout).await?;
                Ok(self.look_again())
            }
            Layout::Steady { bank, count } => {
                if self.settled == Some(layout) {
                    let flows = spread.flow(&control).await;
                    self.inflow.heard(&self.shared.status, flows);
                } else {
                    self.settle(layout).await?;
                    self.settled = Some(layout);
                }
                let lanes = self.lanes(bank, count, FED_EVERY).lanes;
                Ok(self.looked(lanes))
            }
            Layout::Outgrown { bank, count } => {
                // A gateway that can't know the newest rules leaves what others have made of them.
                match self.feed.borrow().etcd {
                    EtcdState::Unused | EtcdState::Up { .. } => {}
                    EtcdState::Connecting | EtcdState::Down { .. } => {
                        return Ok(self.lanes(bank, count, LOOK_EVERY));
                    }
                }
                self.settle(layout).await?;
                Ok(self.look_again())
            }
            Layout::Changing { from, left, built } => {
                self.changing(&control, from, left, built).await
            }
        }
    }

    async fn settle(&self, layout: Layout) -> Result<(), String> {
        let Some(spread) = &self.spread else {
            return Ok(());
        };
        let errand = self.errand().await?;
        let settled = timeout(ERRAND_MAX, spread.settle(errand.connection(), layout)).await;
        match (settled, layout) {
            // Another gateway makes sure of what is there already.
            (Ok(Err(DeclareError::Busy { .. })), Layout::Steady { .. }) => Ok(()),
            (settled, _) => done(settled),
        }
    }

    async fn errand(&self) -> Result<Errand, String> {
        let errand = self.shared.brokers.errand(self.spec.vhost.as_deref());
        let errand = errand.map_err(|e| e.to_string())?;
        timeout(ERRAND_MAX, errand.connection().up())
            .await
            .map_err(|_| "no connection to the broker within a minute".to_owned())?;
        Ok(errand)
    }

    fn control(&self) -> Result<Connection, String> {
        let vhost = self.shared.brokers.vhost(self.spec.vhost.as_deref());
        Ok(vhost.map_err(|e| e.to_string())?.control)
    }

    /// All is as it should be: these lanes are to run.
    fn looked(&mut self, lanes: Vec<LaneSpec>) -> Plan {
        let looked = Looked {
            lanes: lanes.clone(),
            until: Instant::now() + LOOK_EVERY,
        };
        self.looked = Some(looked);
        let again = FED_EVERY;
        Plan { lanes, again }
    }

    fn look_again(&self) -> Plan {
        Plan {
            lanes: self.running.values().map(|one| one.spec.clone()).collect(),
            again: Duration::ZERO,
        }
    }

    fn lanes(&self, bank: Bank, count: u16, again: Duration) -> Plan {
        let hash = self.spread.as_ref().map(|spread| spread.hash(bank));
        let feeding = Feeding::Spread {
            hash: hash.unwrap_or_default(),
        };
        let lane = |partition| self.lane(partition, feeding.clone());
        Plan {
            lanes: bank.partitions(count).map(lane).collect(),
            again,
        }
    }

    fn direct(&self) -> Feeding {
        let switch = self.spread.as_ref().map(Spread::switch);
        Feeding::Direct {
            switch: switch.unwrap_or_default(),
        }
    }

    fn lane(&self, partition: Partition, feeding: Feeding) -> LaneSpec {
        LaneSpec {
            source: self.spec.source.clone(),
            partition,
            vhost: self.spec.vhost.clone(),
            take: self.spec.take.clone(),
            feeding,
            queue_type: self.spec.queue_type,
            duplicates: self.spec.duplicates.clone(),
            divert: self.spec.divert.clone(),
        }
    }

    /// Ends what isn't wanted and begins what is. Returns how soon a lane is due that has to wait yet.
    async fn reconcile(&mut self, wanted: Vec<LaneSpec>) -> Duration {
        let gateways = self.gateways();
        let place = |lane: &LaneSpec| match (&lane.feeding, &gateways) {
            // One queue: every gateway waits for it, as the first to come takes it.
            (Feeding::Direct { .. }, _) => Stand::First,
            (Feeding::Spread { .. } | Feeding::Leaving, Known::Now(all)) => {
                let me = &self.shared.here.gateway;
                stand(me, all, &lane.source, lane.partition)
            }
            // Nobody can tell who is there, so everybody stands by.
            (Feeding::Spread { .. } | Feeding::Leaving, Known::Once(all)) => {
                let me = &self.shared.here.gateway;
                match stand(me, all, &lane.source, lane.partition) {
                    Stand::First => Stand::First,
                    Stand::Second | Stand::Aside => Stand::Second,
                }
            }
        };
        let wanted: HashMap<Partition, (LaneSpec, Stand)> = wanted
            .into_iter()
            .map(|lane| (lane.partition, (place(&lane), lane)))
            .filter(|(_, (place, _))| *place != Stand::Aside)
            .map(|(partition, (place, lane))| (partition, (lane, place)))
            .collect();
        let now = Instant::now();
        let taking = self.taking();
        let ends = |partition: &Partition, lane: &Running| match wanted.get(partition) {
            Some((spec, _)) if *spec != lane.spec => true,
            Some((_, Stand::First)) => false,
            Some((_, Stand::Second | Stand::Aside)) => {
                lane.place == Stand::First
                    || (now - lane.since > SECOND_TAKES_MAX
                        && taking.contains(partition)
                        && self.first_is_back(&gateways, *partition))
            }
            None => true,
        };
        let ended: Vec<Partition> = self
            .running
            .iter()
            .filter(|(partition, lane)| ends(partition, lane))
            .map(|(partition, _)| *partition)
            .collect();
        let ended = ended.iter().filter_map(|p| self.running.remove(p));
        end(ended.collect()).await;
        for (partition, lane) in &mut self.running {
            if let Some((_, place)) = wanted.get(partition) {
                lane.place = *place;
            }
        }
        let now = Instant::now();
        self.second_since
            .retain(|p, _| matches!(wanted.get(p), Some((_, Stand::Second))));
        self.shown
            .hide(|partition| self.running.contains_key(partition));
        let mut sooner = NEVER;
        for (partition, (spec, place)) in wanted {
            if self.running.contains_key(&partition) {
                self.second_since.remove(&partition);
                continue;
            }
            if place == Stand::Second {
                let since = *self.second_since.entry(partition).or_insert(now);
                let left = SECOND_WAITS.saturating_sub(now - since);
                if !left.is_zero() {
                    sooner = sooner.min(left);
                    continue;
                }
                self.second_since.remove(&partition);
            }
            self.begin(spec, place);
        }
        sooner
    }

    fn begin(&mut self, spec: LaneSpec, place: Stand) {
        let begun = LaneFacts::of(LaneState::Opening, None);
        let status = &self.shared.status;
        status.set_lane(&spec.source, spec.partition, begun);
        let cancel = CancellationToken::new();
        let run = lane_task::run(Arc::clone(&self.shared), spec.clone(), cancel.clone());
        let running = Running {
            place,
            since: Instant::now(),
            cancel,
            task: self.shared.tracker.spawn(run),
            spec,
        };
        self.running.insert(running.spec.partition, running);
    }

    /// The lanes that have got something since they were opened.
    fn taking(&self) -> Vec<Partition> {
        self.lanes_in(&[LaneState::Taking, LaneState::Held])
    }

    fn has_open_lane(&self) -> bool {
        let open = [LaneState::Waiting, LaneState::Taking, LaneState::Held];
        !self.lanes_in(&open).is_empty()
    }

    fn lanes_in(&self, states: &[LaneState]) -> Vec<Partition> {
        let lanes = self.shared.status.snapshot().lanes.into_iter();
        lanes
            .filter(|lane| lane.source == self.spec.source && states.contains(&lane.facts.state))
            .map(|lane| lane.partition)
            .collect()
    }

    fn gateways(&self) -> Known {
        let state = self.feed.borrow();
        let registered = state.peers.get(&self.shared.here.unit);
        let mut all: Vec<GatewayId> =
            registered.map_or_else(Vec::new, |unit| unit.keys().cloned().collect());
        if !all.contains(&self.shared.here.gateway) {
            all.push(self.shared.here.gateway.clone());
        }
        match state.etcd {
            EtcdState::Unused => Known::Now(vec![self.shared.here.gateway.clone()]),
            EtcdState::Up { .. } => Known::Now(all),
            EtcdState::Connecting | EtcdState::Down { .. } => Known::Once(all),
        }
    }

    /// Whether the first gateway of a lane is there, and its broker too.
    fn first_is_back(&self, gateways: &Known, partition: Partition) -> bool {
        let Known::Now(all) = gateways else {
            return false;
        };
        let source = &self.spec.source;
        let first = all
            .iter()
            .find(|one| stand(one, all, source, partition) == Stand::First);
        let state = self.feed.borrow();
        let unit = state.peers.get(&self.shared.here.unit);
        first
            .and_then(|first| unit?.get(first))
            .is_some_and(|record| record.broker == BrokerHealth::Up)
    }

    async fn gateways_other_than(&mut self, known: Known) {
        while self.gateways() == known {
            if self.feed.changed().await.is_err() {
                // The gateway is going down; whoever runs this says when.
                std::future::pending::<()>().await;
            }
        }
    }

    fn units(&self) -> Vec<UnitId> {
        self.shared.rules().map_or_else(Vec::new, |rules| {
            let units = rules.table.units().iter();
            units.map(|unit| unit.name.clone()).collect()
        })
    }
}

/// The unit's gateways, as they are, or as they were when etcd was last heard.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    Now(Vec<GatewayId>),
    Once(Vec<GatewayId>),
}

fn done(
    outcome: Result<Result<(), DeclareError>, tokio::time::error::Elapsed>,
) -> Result<(), String> {
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the broker took more than a minute to spread the source".to_owned()),
    }
}

/// Ends lanes side by side: each settles what it has.
async fn end(lanes: Vec<Running>) {
    for lane in &lanes {
        lane.cancel.cancel();
    }
    for lane in lanes {
        if let Err(error) = lane.task.await {
            tracing::error!(source = %lane.spec.source, %error, "a lane ended by a fault of setgate");
        }
    }
}
