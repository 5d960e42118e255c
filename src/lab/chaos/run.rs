//! One run: a lab, traffic, faults one after the other, the end, the outcome.

use super::fault::{Fault, FaultKind, World};
use super::health::wait_healthy;
use super::inflict::{Hit, inflict, mend};
use super::{Load, parked};
use crate::lab::checker::Account;
use crate::lab::supervisor::{Signals, start};
use crate::lab::traffic::{Plan, TrafficError, measure};
use crate::lab::{Fabric, LabError, Reporter};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// After the last publish, everything has arrived by then or is lost.
const SETTLE_MAX: Duration = Duration::from_mins(3);
/// A broker that stays away for longer has not healed, which is another fault.
const AWAY_MAX: Duration = Duration::from_mins(10);
/// Gateways say that all is well until they have noticed: a reset at once, what a heartbeat tells later.
const NOTICE: Duration = Duration::from_millis(500);

/// What kind of run.
pub(super) struct Setting {
    pub(super) load: Load,
    pub(super) seed: u64,
    pub(super) ends: Ends,
}

/// When no more faults begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// So long after the traffic has begun.
    After(Duration),
    /// When all that were planned are healed.
    WithTheLast,
}

/// A fault that was, by the seconds since the traffic began.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Event {
    pub(super) at_s: f64,
    pub(super) kind: FaultKind,
    pub(super) what: String,
    /// Whom it hit, where that was seen only then.
    pub(super) hit: String,
    /// Whether it came to pass: a failpoint may not be reached.
    pub(super) struck: bool,
    /// From the fault's begin until everything had recovered.
    pub(super) healed_after_s: f64,
}

/// What a run came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) account: Account,
    pub(super) seed: u64,
    /// Messages that the publishers were to publish while they ran.
    pub(super) offered: u64,
    pub(super) timeline: Vec<Event>,
    /// Parked messages by reason.
    pub(super) parked: BTreeMap<String, u64>,
    /// Why the run broke off: what has not healed, or an interruption.
    pub(super) broken_off: Option<String>,
}

impl Outcome {
    /// How often each kind struck.
    pub(super) fn faults(&self) -> BTreeMap<FaultKind, u32> {
        let mut faults = BTreeMap::new();
        for event in self.timeline.iter().filter(|event| event.struck) {
            *faults.entry(event.kind).or_default() += 1;
        }
        faults
    }

    /// Faults that did not come to pass.
    pub(super) fn missed(&self) -> usize {
        self.timeline.iter().filter(|event| !event.struck).count()
    }

    /// Whether every promise was kept, and every fault struck and healed.
    pub(super) fn is_good(&self) -> bool {
        self.account.is_clean() && self.broken_off.is_none() && self.missed() == 0
    }
}

/// Traffic that goes on until it is told to end.
pub(super) struct Traffic {
    running: JoinSet<Result<Account, TrafficError>>,
    enough: CancellationToken,
    begun: Instant,
}

impl Traffic {
    /// Begins it; `change` may change what the load says.
    pub(super) async fn begin(
        load: &Load,
        change: impl FnOnce(&mut Plan),
    ) -> Result<Self, LabError> {
        let plan = Plan::from_lab(&load.traffic(&load.dir)).await;
        let mut plan = plan.map_err(|error| no_account(&error))?;
        plan.settle_max = SETTLE_MAX;
        plan.away_max = AWAY_MAX;
        change(&mut plan);
        let enough = plan.enough.clone();
        let mut running = JoinSet::new();
        running.spawn(measure(plan));
        Ok(Self {
            running,
            enough,
            begun: Instant::now(),
        })
    }

    /// When it began.
    pub(super) fn begun(&self) -> Instant {
        self.begun
    }

    /// Waits for an end that nobody asked for, and says why.
    pub(super) async fn broke_off(&mut self) -> LabError {
        match self.running.join_next().await {
            Some(Ok(Err(error))) => no_account(&error),
            Some(Ok(Ok(_))) | None => LabError::Refused("the traffic ended early".to_owned()),
            Some(Err(error)) => LabError::Refused(format!("the traffic broke off: {error}")),
        }
    }

    /// Publishes no more, waits until everything has arrived or is lost, and gives the account.
    pub(super) async fn end(mut self) -> Result<Account, LabError> {
        self.enough.cancel();
        match self.running.join_next().await {
            Some(Ok(Ok(account))) => Ok(account),
            Some(Ok(Err(error))) => Err(no_account(&error)),
            Some(Err(error)) => Err(LabError::Refused(format!("the traffic broke off: {error}"))),
            None => Err(LabError::Refused("the traffic ended early".to_owned())),
        }
    }
}

fn no_account(error: &TrafficError) -> LabError {
    LabError::Refused(error.to_string())
}

/// Starts a lab, does something in it, and ends it; a signal ends that early.
pub(super) async fn in_a_lab<T>(
    load: &Load,
    act: impl AsyncFnOnce(&mut Fabric, Reporter) -> Result<T, LabError>,
) -> Result<T, LabError> {
    let report = Reporter::lines();
    let mut signals = Signals::take()?;
    let interrupted = || LabError::Refused("interrupted".to_owned());
    let started = start(load.spec(), report, &mut signals).await?;
    let mut fabric = started.ok_or_else(interrupted)?;
    let outcome = tokio::select! {
        outcome = act(&mut fabric, report) => outcome,
        () = signals.any() => Err(interrupted()),
    };
    report.say("going down");
    fabric.down().await?;
    outcome
}

/// Starts a lab, sends traffic, deals faults, and ends it all.
pub(super) async fn perform<Faults>(
    setting: &Setting,
    deal: impl FnOnce(World) -> Faults,
) -> Result<Outcome, LabError>
where
    Faults: Iterator<Item = (FaultKind, Fault)>,
{
    let report = Reporter::lines();
    let mut signals = Signals::take()?;
    report.say(format!("seed {}", setting.seed));
    let started = start(setting.load.spec(), report, &mut signals).await?;
    let Some(mut fabric) = started else {
        return Err(LabError::Refused(
            "interrupted before the lab was up".to_owned(),
        ));
    };
    let lab = fabric.lab();
    let world = World {
        units: lab.units.into_iter().map(|unit| unit.unit).collect(),
        etcd: lab.etcd.len(),
    };
    let load = &setting.load;
    let mut traffic = Traffic::begin(load, |_| ()).await?;
    let mut timeline = Vec::new();
    let dealt = break_all(
        &mut fabric,
        traffic.begun(),
        setting.ends,
        deal(world),
        &mut timeline,
        report,
    );
    let broken_off = tokio::select! {
        broken_off = dealt => broken_off.err().map(|error| error.render()),
        error = traffic.broke_off() => return Err(error),
        () = signals.any() => Some("interrupted".to_owned()),
    };
    if let Some(why) = &broken_off {
        report.say(format!("broken off: {why}"));
        if let Err(error) = mend(&mut fabric).await {
            report.say(error.render());
        }
    }
    let offered = offered(traffic.begun().elapsed(), load.rate);
    report.say("no more faults; waiting for what is on its way");
    let account = tokio::select! {
        account = traffic.end() => account?,
        () = signals.any() => return Err(LabError::Refused("interrupted before the account was closed".to_owned())),
    };
    let parked = parked::reasons(&mut fabric).await;
    report.say("going down");
    fabric.down().await?;
    Ok(Outcome {
        account,
        seed: setting.seed,
        offered,
        timeline,
        parked,
        broken_off,
    })
}

/// Deals faults until the end, or until one doesn't heal.
async fn break_all(
    fabric: &mut Fabric,
    begun: Instant,
    ends: Ends,
    faults: impl Iterator<Item = (FaultKind, Fault)>,
    timeline: &mut Vec<Event>,
    report: Reporter,
) -> Result<(), LabError> {
    wait_healthy(fabric, SOURCE).await?;
    for (kind, fault) in faults {
        match ends {
            Ends::After(time) if begun.elapsed() >= time => break,
            Ends::After(_) | Ends::WithTheLast => {}
        }
        let at = begun.elapsed();
        report.say(format!("{kind}: {fault}"));
        let hit = inflict(fabric, &fault, SOURCE).await?;
        let mended = begun.elapsed();
        sleep(NOTICE).await;
        let last = wait_healthy(fabric, SOURCE).await?;
        let (healed, last) = (begun.elapsed(), last.unwrap_or_default());
        let (struck, whom) = match hit {
            Hit::Struck(whom) => (true, whom),
            Hit::Missed(whom) => (false, whom),
        };
        report.say(format!(
            "{} {whom}: {:.1} s, {:.1} s more until all was well {last}",
            if struck { "struck" } else { "did not strike" },
            mended.saturating_sub(at).as_secs_f64(),
            healed.saturating_sub(mended).as_secs_f64()
        ));
        timeline.push(Event {
            at_s: tenths(at),
            kind,
            what: fault.to_string(),
            hit: whom,
            struck,
            healed_after_s: tenths(healed.saturating_sub(at)),
        });
    }
    Ok(())
}

/// The source whose traffic it is.
pub(super) const SOURCE: &str = "orders";

/// What publishers at this rate, messages a second, are to publish in this time.
fn offered(time: Duration, rate: u32) -> u64 {
    u64::try_from(time.as_millis() * u128::from(rate) / 1_000).unwrap_or(u64::MAX)
}

pub(super) fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}
