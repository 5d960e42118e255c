//! One run from its first connection to its account.
//!
//! Owns the checker, shared by the run's clients for the length of a synchronous call, and the tasks of the run. Ends
//! when all that was confirmed is accounted for and nothing more comes, or when nothing new has come for the settle
//! time.

use super::TrafficError;
use super::client::connect;
use super::consumer::{Consumer, Marks};
use super::documents;
use super::message::{RunId, read_body};
use super::ownership::{Owners, Rest};
use super::plan::{Ownership, Plan, UnitPlan};
use super::publisher::{Publisher, short};
use super::report::Progress;
use crate::lab::checker::{Account, Checker, Delivered, Handed, KeyIndex, Place, Tag, UnitIndex};
use crate::model::{Epoch, Why};
use anstream::eprintln;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the run looks at itself.
const TICK: Duration = Duration::from_millis(100);

/// Of what was overtaken, so many are told at once.
const OVERTAKEN_SHOWN: u64 = 10;

/// How often the placement and the park queues are read.
const REFRESH: Duration = Duration::from_secs(1);

/// How long nothing may come after the last that is due: what is delivered twice comes late.
const QUIET: Duration = Duration::from_secs(1);

/// What the clients of one run share.
pub(super) struct Shared {
    pub(super) plan: Plan,
    pub(super) run: RunId,
    begun: Instant,
    state: Mutex<State>,
}

struct State {
    checker: Checker,
    owners: Owners,
    last_news: Instant,
}

impl Shared {
    fn new(plan: Plan) -> Result<Self, TrafficError> {
        let checker = Checker::new(plan.expect.clone(), plan.units.len(), plan.keys)
            .map_err(TrafficError::Account)?;
        let begun = Instant::now();
        Ok(Self {
            plan,
            run: RunId::new(),
            begun,
            state: Mutex::new(State {
                checker,
                owners: Owners::default(),
                last_news: begun,
            }),
        })
    }

    pub(super) fn unit(&self, unit: UnitIndex) -> Option<&UnitPlan> {
        self.plan.units.get(usize::from(unit.0))
    }

    pub(super) fn unit_name(&self, unit: UnitIndex) -> &str {
        self.unit(unit).map_or("", |unit| &unit.name)
    }

    /// Microseconds since the run began.
    pub(super) fn micros(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn published(&self, unit: UnitIndex, key: KeyIndex) -> Option<Tag> {
        self.state.lock().checker.published(unit, key)
    }

    pub(super) fn confirmed(&self, tag: Tag) {
        self.news(|checker| checker.confirmed(tag));
    }

    pub(super) fn nacked(&self, tag: Tag) {
        self.news(|checker| checker.nacked(tag));
    }

    /// A message that came back to its publisher.
    pub(super) fn returned(&self, body: &[u8]) {
        if let Some((tag, _)) = read_body(&self.run, body) {
            self.news(|checker| checker.returned(tag));
        }
    }

    fn news(&self, change: impl FnOnce(&mut Checker)) {
        let mut state = self.state.lock();
        change(&mut state.checker);
        state.last_news = Instant::now();
    }

    /// A message that an application's queue has handed out; those of other runs are nobody's business.
    pub(super) fn delivered(&self, unit: UnitIndex, body: &[u8], marks: &Marks, handed: Handed) {
        let Some((tag, sent_micros)) = read_body(&self.run, body) else {
            return;
        };
        let latency = Duration::from_micros(self.micros().saturating_sub(sent_micros));
        if let Some(windows) = &self.plan.windows {
            windows.record(
                tag.publisher,
                unit,
                Duration::from_micros(sent_micros),
                latency,
            );
        }
        if marks.why == Some(Why::Standby) {
            self.plan.stood_in.fetch_add(1, Ordering::Relaxed);
        }
        let mut state = self.state.lock();
        let (place, epoch) = self.judge(&mut state.owners, tag.key, unit, marks);
        let reordered = state.checker.reordered();
        state.checker.delivered(Delivered {
            tag,
            unit,
            mark: marks.mark(),
            handed,
            place,
            epoch,
            latency,
        });
        if reordered < state.checker.reordered() && reordered < OVERTAKEN_SHOWN {
            // Where it may be found in the logs of the gateways.
            eprintln!(
                "{}: message {} of key {} from {}, {} ms old, was overtaken before it arrived in {} (epoch {})",
                jiff::Timestamp::now(),
                tag.number.0,
                tag.key.0,
                self.unit_name(tag.publisher),
                latency.as_millis(),
                self.unit_name(unit),
                marks.epoch.unwrap_or_default().0,
            );
        }
        state.last_news = Instant::now();
    }

    /// Whether a delivery belongs where it came: for another unit it never does; what went to an owner must have come
    /// to the owner; for what a rule sent elsewhere, the mark is all there is.
    fn judge(
        &self,
        owners: &mut Owners,
        key: KeyIndex,
        unit: UnitIndex,
        marks: &Marks,
    ) -> (Place, Option<Epoch>) {
        let to_owner = match marks.why {
            None | Some(Why::Owner | Why::Standby) => true,
            Some(Why::Center | Why::Shared | Why::Units | Why::Local | Why::Gray | Why::Pin) => {
                false
            }
        };
        let epoch = marks.epoch.filter(|_| to_owner);
        let addressed = marks.to.as_deref().map(|to| to == self.unit_name(unit));
        let place = match (addressed, to_owner, &self.plan.expect) {
            (Some(false), _, _) => Place::Wrong,
            (_, true, crate::lab::checker::Expect::Once) => owners.judge(key, epoch, unit),
            (Some(true), _, _) => Place::Right,
            (None, _, _) => Place::Unjudged,
        };
        (place, epoch)
    }

    /// Reads the live placement again. With etcd away, what is known stays.
    async fn refresh_owners(&self, rest: Rest) -> Result<(), TrafficError> {
        let Ownership::Live { etcd, map } = &self.plan.ownership else {
            return Ok(());
        };
        let placed = documents::fetch(etcd).await?.placed()?;
        let mut state = self.state.lock();
        if let Some(placed) = placed {
            state
                .owners
                .learn(&placed, *map, &self.plan.units, self.plan.keys);
        }
        drop(state);
        self.judge_put_off(rest);
        Ok(())
    }

    fn judge_put_off(&self, rest: Rest) {
        let mut state = self.state.lock();
        for place in state.owners.judge_put_off(rest) {
            state.checker.judged_late(place);
        }
    }
}

/// Publishes, consumes, waits for the end, and gives the account.
pub async fn measure(plan: Plan) -> Result<Account, TrafficError> {
    let shared = Arc::new(Shared::new(plan)?);
    shared.refresh_owners(Rest::Keep).await?;
    let mut parked = Parked::before(&shared).await?;
    let stop = CancellationToken::new();
    let _stop_at_any_end = stop.clone().drop_guard();
    let mut consumers = consume(&shared, &stop).await?;
    let mut publishers = publish(&shared).await?;
    let progress = Progress::new(shared.plan.messages);

    let mut tick = tokio::time::interval(TICK);
    let mut refreshed = Instant::now();
    let mut last_publish = Instant::now();
    loop {
        tokio::select! {
            biased;
            Some(ended) = publishers.join_next() => ended.map_err(TrafficError::Task)?,
            Some(ended) = consumers.join_next() => ended.map_err(TrafficError::Task)?,
            _ = tick.tick() => {}
        }
        if refreshed.elapsed() >= REFRESH {
            if let Err(error) = shared.refresh_owners(Rest::Keep).await {
                tracing::debug!(%error, "the placement can't be read again for now");
            }
            if publishers.is_empty() {
                parked.count(&shared).await;
            }
            refreshed = Instant::now();
        }
        let (outstanding, quiet_for, (published, delivered)) = {
            let state = shared.state.lock();
            let checker = &state.checker;
            (
                checker.outstanding(),
                state.last_news.elapsed(),
                checker.progress(),
            )
        };
        progress.show(published, delivered);
        let patience = match outstanding {
            0 => QUIET.min(shared.plan.settle),
            _ => shared.plan.settle,
        };
        if !publishers.is_empty() {
            last_publish = Instant::now();
        } else if quiet_for >= patience || last_publish.elapsed() >= shared.plan.settle_max {
            break;
        }
    }
    progress.done();
    stop.cancel();
    while let Some(ended) = consumers.join_next().await {
        ended.map_err(TrafficError::Task)?;
    }
    parked.count(&shared).await;
    if let Err(error) = shared.refresh_owners(Rest::JudgeToo).await {
        tracing::debug!(%error, "the last deliveries are judged by the placements seen so far");
        shared.judge_put_off(Rest::JudgeToo);
    }
    let account = shared.state.lock().checker.account();
    Ok(account)
}

async fn consume(
    shared: &Arc<Shared>,
    stop: &CancellationToken,
) -> Result<JoinSet<()>, TrafficError> {
    let mut tasks = JoinSet::new();
    for (index, unit) in (0..=u8::MAX).map(UnitIndex).zip(&shared.plan.units) {
        for exchange in &shared.plan.deliver {
            let consumer = Consumer {
                unit: index,
                exchange: exchange.clone(),
                shared: Arc::clone(shared),
            };
            let at = connect(unit, "consumer").await?;
            let deliveries = consumer.start(&at).await?;
            tasks.spawn(consumer.run(at, deliveries, stop.clone()));
        }
    }
    Ok(tasks)
}

async fn publish(shared: &Arc<Shared>) -> Result<JoinSet<()>, TrafficError> {
    let plan = &shared.plan;
    let count = plan.publish_in.len().max(1) as u64;
    let mut connected = Vec::new();
    for (at, unit) in (0u64..).zip(&plan.publish_in) {
        let Some(unit_plan) = shared.unit(*unit) else {
            continue;
        };
        let publisher = Publisher {
            unit: *unit,
            // The first ones take what doesn't divide.
            left: plan.messages / count + u64::from(at < plan.messages % count),
            rate: f64::from(plan.rate) / count as f64,
            shared: Arc::clone(shared),
        };
        connected.push((publisher, connect(unit_plan, "publisher").await?));
    }
    let mut tasks = JoinSet::new();
    for (publisher, at) in connected {
        tasks.spawn(publisher.run(at));
    }
    Ok(tasks)
}

/// How much the park queues have grown, per unit.
struct Parked {
    before: Vec<u64>,
    now: Vec<u64>,
}

impl Parked {
    async fn before(shared: &Shared) -> Result<Self, TrafficError> {
        let mut before = Vec::new();
        for unit in &shared.plan.units {
            before.push(match &shared.plan.park {
                Some(queue) => depth(unit, queue).await?,
                None => 0,
            });
        }
        let now = before.clone();
        Ok(Self { before, now })
    }

    /// Counts again. A unit that is away keeps its last count.
    async fn count(&mut self, shared: &Shared) {
        let Some(queue) = &shared.plan.park else {
            return;
        };
        for (unit, now) in shared.plan.units.iter().zip(&mut self.now) {
            match depth(unit, queue).await {
                Ok(depth) => *now = depth,
                Err(error) => tracing::debug!(%error, "a park queue can't be counted for now"),
            }
        }
        let grown = self.before.iter().zip(&self.now);
        let grown = grown.map(|(before, now)| now.saturating_sub(*before)).sum();
        shared.state.lock().checker.parked(grown);
    }
}

/// Ready messages of a queue, 0 where there is none.
async fn depth(unit: &UnitPlan, queue: &str) -> Result<u64, TrafficError> {
    let at = connect(unit, "park count").await?;
    let failed = at.failed("counting the park queue");
    let channel = at.connection.create_channel().await.map_err(&failed)?;
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let found = channel
        .queue_declare(short(queue), passive, FieldTable::default())
        .await;
    let depth = match found {
        Ok(found) => Ok(u64::from(found.message_count())),
        // A 404 closes the channel and leaves the connection; anything else is a failure.
        Err(_) if at.connection.status().connected() => Ok(0),
        Err(error) => Err(failed(error)),
    };
    at.close().await;
    depth
}
