//! One unit is cut off from all others for minutes: what the others feel of it, and how its messages come back.
//!
//! Owns the command `cut-off`. Promises to compare minutes of one run with each other, of the same load on the same
//! machine, by the messages that have nothing to do with the unit; and to watch what the gateways take of the memory that
//! they are given.

use super::Load;
use super::health::backlog;
use super::report::publish;
use super::run::{SOURCE, Traffic, in_a_lab, tenths};
use crate::lab::checker::{Account, UnitIndex};
use crate::lab::traffic::{Window, Windows};
use crate::lab::usage::resident_bytes;
use crate::lab::{Fabric, LabError, Place, Reporter, Ways};
use crate::model::UnitId;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// How often the gateways' memory and backlog are read.
const LOOK: Duration = Duration::from_secs(1);
/// What a lab's gateways are given: `memory:` in their gateway.yaml.
const MEMORY_BYTES: u64 = 256 * 1024 * 1024;
/// A diversion of ten minutes drains within this, or its rate is no rate.
const DRAIN_MAX: Duration = Duration::from_mins(15);
/// What the others' p99 may become: this many times what it was, or so much more.
const WORSE: (f64, f64) = (1.2, 5.0);

/// Arguments of `cut-off`.
#[derive(Debug, Args)]
pub struct CutOffArgs {
    /// Which unit
    #[arg(long, value_name = "UNIT", default_value = "bj-1")]
    pub unit: UnitId,
    /// Windows before the cut that those during it are compared with, after one to warm up
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub before: u32,
    /// Windows of the cut: ten minutes
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub during: u32,
    /// Seconds of a window
    #[arg(long, value_name = "SECS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub window: u64,
    /// What is published
    #[command(flatten)]
    pub load: Load,
}

/// What it came to.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    account: Account,
    /// p99 in milliseconds of the windows before.
    before_p99_ms: Vec<f64>,
    /// And of those during the cut.
    during_p99_ms: Vec<f64>,
    /// What the highest of them may be.
    allowed_p99_ms: f64,
    /// Messages in diversions when the wires were healed.
    diverted: u64,
    /// From then until none was left.
    drained_after_s: f64,
    /// The most that any gateway had resident, by its name.
    resident_bytes: BTreeMap<String, u64>,
    /// What it is given.
    memory_bytes: u64,
}

impl Outcome {
    fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let worst = self.during_p99_ms.iter().copied().fold(0.0, f64::max);
        if worst > self.allowed_p99_ms {
            let allowed = self.allowed_p99_ms;
            complaints.push(format!(
                "the others' p99 rose to {worst:.1} ms, {allowed:.1} are allowed"
            ));
        }
        for (gateway, bytes) in &self.resident_bytes {
            if *bytes > self.memory_bytes {
                complaints.push(format!("{gateway} took {} MiB", mebibytes(*bytes)));
            }
        }
        if !self.account.is_clean() {
            complaints.push("a promise was broken".to_owned());
        }
        complaints
    }
}

/// Runs it: 0 when the others felt no more than is allowed, memory was enough, and no promise was broken.
pub(in crate::lab) async fn run(args: &CutOffArgs) -> ExitCode {
    let measured = in_a_lab(&args.load, async |fabric, report| {
        measure(args, fabric, report).await
    });
    match Box::pin(measured).await {
        Ok(outcome) => {
            let complaints = outcome.complaints();
            let text = render(&outcome, &complaints);
            publish(&text, &outcome.account, &outcome, args.load.output);
            ExitCode::from(u8::from(!complaints.is_empty()))
        }
        Err(error) => crate::lab::commands::exit_code(Err(error)),
    }
}

async fn measure(
    args: &CutOffArgs,
    fabric: &mut Fabric,
    report: Reporter,
) -> Result<Outcome, LabError> {
    let units: Vec<UnitId> = fabric.lab().units.into_iter().map(|one| one.unit).collect();
    let at = units.iter().position(|unit| *unit == args.unit);
    let at = at.and_then(|at| u8::try_from(at).ok()).map(UnitIndex);
    let unit = Place::Unit(args.unit.clone());
    let apart = at.ok_or_else(|| LabError::NoWire(unit.clone(), unit.clone()))?;
    let others: Vec<Place> = units
        .into_iter()
        .filter(|other| *other != args.unit)
        .map(Place::Unit)
        .collect();
    let length = Duration::from_secs(args.window);
    let windows = Windows::without(apart, length);
    let watched = windows.clone();
    let mut traffic = Traffic::begin(&args.load, |plan| plan.windows = Some(watched)).await?;
    let mut resident = Resident::default();

    let cut_at = traffic.begun() + length * (1 + args.before);
    let heal_at = cut_at + length * args.during;
    report.say(format!(
        "{} windows of {} s as things are, the first to warm up",
        1 + args.before,
        args.window
    ));
    watch_until(fabric, &mut traffic, &mut resident, cut_at).await?;
    for other in &others {
        fabric.cut(&unit, other, Ways::Both)?;
    }
    report.say(format!("{unit} is cut off for {} windows", args.during));
    watch_until(fabric, &mut traffic, &mut resident, heal_at).await?;
    let at_heal = backlog(fabric, &args.unit)
        .await
        .map_err(LabError::Refused)?;
    for other in &others {
        fabric.heal(&unit, other, Ways::Both)?;
    }
    report.say(format!(
        "{unit} is back; {} messages are in {} diversions, {} in flight",
        at_heal.diverted, at_heal.diversions, at_heal.in_flight
    ));
    let drained_after = drain(fabric, &args.unit, &mut traffic, &mut resident).await?;
    report.say(format!(
        "drained after {:.1} s, beside live traffic",
        drained_after.as_secs_f64()
    ));
    let account = traffic.end().await?;
    let seen = windows.read();
    let of = |from: u32, count: u32| p99s(&seen, from as usize, count as usize);
    let before_p99_ms = of(1, args.before);
    let highest = before_p99_ms.iter().copied().fold(0.0, f64::max);
    Ok(Outcome {
        account,
        during_p99_ms: of(1 + args.before, args.during),
        allowed_p99_ms: allowed(highest),
        before_p99_ms,
        diverted: at_heal.diverted,
        drained_after_s: tenths(drained_after),
        resident_bytes: resident.0,
        memory_bytes: MEMORY_BYTES,
    })
}

/// Of so many windows; one without messages has none.
fn p99s(windows: &[Window], from: usize, count: usize) -> Vec<f64> {
    let some = windows.iter().skip(from).take(count);
    some.filter(|window| window.messages > 0)
        .map(|window| window.p99_ms)
        .collect()
}

fn allowed(before_ms: f64) -> f64 {
    let (times, more) = WORSE;
    (before_ms * times).max(before_ms + more)
}

/// Looks at memory until a moment; an error when the traffic ends meanwhile.
async fn watch_until(
    fabric: &mut Fabric,
    traffic: &mut Traffic,
    resident: &mut Resident,
    moment: Instant,
) -> Result<(), LabError> {
    while Instant::now() < moment {
        resident.look(fabric);
        let next = moment.min(Instant::now() + LOOK);
        tokio::select! {
            error = traffic.broke_off() => return Err(error),
            () = sleep_until(next) => {}
        }
    }
    Ok(())
}

/// Waits until all goes direct again between the unit and the others.
async fn drain(
    fabric: &mut Fabric,
    unit: &UnitId,
    traffic: &mut Traffic,
    resident: &mut Resident,
) -> Result<Duration, LabError> {
    let begun = Instant::now();
    loop {
        resident.look(fabric);
        let left = match backlog(fabric, unit).await {
            Ok(left) if left.diversions == 0 => return Ok(begun.elapsed()),
            Ok(left) => format!("{} messages of {SOURCE} are still diverted", left.diverted),
            Err(cause) => cause,
        };
        if begun.elapsed() >= DRAIN_MAX {
            let seconds = DRAIN_MAX.as_secs();
            return Err(LabError::Refused(format!("after {seconds} s: {left}")));
        }
        tokio::select! {
            error = traffic.broke_off() => return Err(error),
            () = sleep(LOOK) => {}
        }
    }
}

/// The most that each gateway had resident.
#[derive(Debug, Default)]
struct Resident(BTreeMap<String, u64>);

impl Resident {
    fn look(&mut self, fabric: &mut Fabric) {
        let lab = fabric.lab();
        for gateway in lab.units.iter().flat_map(|unit| &unit.gateways) {
            if let Some(bytes) = gateway.pid.and_then(resident_bytes) {
                let most = self.0.entry(gateway.name.to_string()).or_default();
                *most = bytes.max(*most);
            }
        }
    }
}

fn mebibytes(bytes: u64) -> u64 {
    bytes / (1_024 * 1_024)
}

fn render(outcome: &Outcome, complaints: &[String]) -> String {
    let list = |times: &[f64]| {
        let times: Vec<String> = times.iter().map(|time| format!("{time:.1}")).collect();
        times.join(" ")
    };
    let resident = outcome.resident_bytes.iter();
    let resident: Vec<String> = resident
        .map(|(gateway, bytes)| format!("{gateway} {}", mebibytes(*bytes)))
        .collect();
    let mut lines = vec![
        format!(
            "the others' p99 before, in ms: {}",
            list(&outcome.before_p99_ms)
        ),
        format!(
            "and during the cut: {} (at most {:.1})",
            list(&outcome.during_p99_ms),
            outcome.allowed_p99_ms
        ),
        format!(
            "{} messages were diverted, and drained {} s after healing",
            outcome.diverted, outcome.drained_after_s
        ),
        format!(
            "most that was resident, in MiB of {}: {}",
            mebibytes(outcome.memory_bytes),
            resident.join(", ")
        ),
    ];
    lines.extend(complaints.iter().map(|complaint| format!("! {complaint}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::checker::{Checker, Expect};

    fn outcome(during: f64, resident: u64) -> Outcome {
        Outcome {
            account: Checker::new(Expect::Once, 1, 1).unwrap().account(),
            before_p99_ms: vec![10.0, 12.0],
            during_p99_ms: vec![9.0, during],
            allowed_p99_ms: allowed(12.0),
            diverted: 70,
            drained_after_s: 3.0,
            resident_bytes: [("sh-1-a".to_owned(), resident)].into(),
            memory_bytes: MEMORY_BYTES,
        }
    }

    #[test]
    fn others_may_become_slower_by_a_fifth_or_by_five_milliseconds() {
        assert!((allowed(12.0) - 17.0).abs() < 1e-9);
        assert!((allowed(100.0) - 120.0).abs() < 1e-9);
        assert_eq!(outcome(16.9, 1).complaints(), Vec::<String>::new());
        assert!(outcome(17.1, 1).complaints()[0].contains("17.1 ms"));
    }

    #[test]
    fn a_gateway_beyond_its_memory_is_named() {
        let complaints = outcome(9.0, MEMORY_BYTES + 1).complaints();
        assert_eq!(complaints, ["sh-1-a took 256 MiB"]);
    }
}
