//! Hours of traffic with moves, restarts and reconnects: memory, descriptors and latency must not grow.
//!
//! Owns the command `soak`. One unit's gateways are left alone and watched, for what grows only shows in a process that
//! lives; those of the others are restarted, their connections closed, their links cut. Promises to compare the first
//! quarter of the time with the last, four minutes at least: memory and descriptors by medians, latency by the quieter
//! minutes, for what a disturbance costs in its minute is not what is sought. Identities are kept for a fifth of the time at
//! most, so that what they take is full soon, and given back and taken again meanwhile.

use super::fault::{Deck, FaultKind, World};
use super::inflict::inflict;
use super::report::publish;
use super::run::{SOURCE, Traffic, in_a_lab};
use super::{Load, seed};
use crate::lab::checker::Account;
use crate::lab::traffic::{self, Plan, Windows, measure};
use crate::lab::units::reword;
use crate::lab::usage::{descriptors, resident_bytes};
use crate::lab::{Fabric, LabError, Reporter};
use crate::model::UnitId;
use clap::Args;
use serde::Serialize;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Of a window: two hours have 120.
const WINDOW: Duration = Duration::from_mins(1);
/// How often gateways are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Minutes at the begin and at the end that are compared, at least: one in which a broker pauses tells nothing.
const COMPARED: usize = 4;
/// How long its rules have identities kept, in minutes.
const IDENTITIES: u32 = 10;
/// Messages that show how many the fabric carries a second.
const CALIBRATION: u64 = 40_000;
/// What may grow from the begin to the end: this many times what it was, or so much more.
const MEMORY: (f64, f64) = (1.1, 8.0);
const DESCRIPTORS: (f64, f64) = (1.0, 8.0);
const LATENCY: (f64, f64) = (1.2, 5.0);

/// Slots that go from one unit to another and back.
const MOVED: &str = "0-999";

/// Disturbances that heal within seconds.
const KINDS: [FaultKind; 3] = [
    FaultKind::GatewayRestarted,
    FaultKind::ConnectionsClosed,
    FaultKind::LinkCut,
];

/// Arguments of `soak`.
#[derive(Debug, Args)]
pub struct SoakArgs {
    /// How long
    #[arg(long, value_name = "M", default_value_t = 120, value_parser = clap::value_parser!(u32).range(5..=120))]
    pub minutes: u32,
    /// Of what the fabric carries a second, in percent
    #[arg(long, value_name = "P", default_value_t = 70, value_parser = clap::value_parser!(u32).range(1..=95))]
    pub percent: u32,
    /// Seconds from one disturbance to the next
    #[arg(long, value_name = "SECS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(10..=3_600))]
    pub every: u64,
    /// The unit that is left alone and watched
    #[arg(long, value_name = "UNIT", default_value = "bj-1")]
    pub unit: UnitId,
    /// Which disturbances in which order; any number [default: one of chance, which is said]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// What is published; its rate is found out
    #[command(flatten)]
    pub load: Load,
}

/// What it came to.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    account: Account,
    seed: u64,
    /// Messages a second: that percentage of what the fabric carried.
    rate: u32,
    /// Whole minutes, the first one left out.
    minutes: Vec<Minute>,
    disturbances: u32,
    /// Of begin and end.
    compared: Vec<Compared>,
}

/// One minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
struct Minute {
    p50_ms: f64,
    p99_ms: f64,
    /// The most that a gateway of the watched unit had.
    resident_mib: f64,
    descriptors: usize,
}

/// A figure at the begin and at the end, by medians.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Compared {
    figure: &'static str,
    first: f64,
    last: f64,
    allowed: f64,
}

impl Compared {
    fn is_flat(&self) -> bool {
        self.last <= self.allowed
    }
}

impl Outcome {
    fn is_good(&self) -> bool {
        self.account.is_clean() && self.compared.iter().all(Compared::is_flat)
    }
}

/// Runs it: 0 when nothing grew and no promise was broken.
pub(in crate::lab) async fn run(args: &SoakArgs) -> ExitCode {
    let soaked = in_a_lab(&args.load, async |fabric, report| {
        soak(args, fabric, report).await
    });
    match Box::pin(soaked).await {
        Ok(outcome) => {
            let text = render(&outcome);
            publish(&text, &outcome.account, &outcome, args.load.output);
            ExitCode::from(u8::from(!outcome.is_good()))
        }
        Err(error) => crate::lab::commands::exit_code(Err(error)),
    }
}

async fn soak(args: &SoakArgs, fabric: &mut Fabric, report: Reporter) -> Result<Outcome, LabError> {
    let lab = fabric.lab();
    if lab.unit(args.unit.as_str()).is_none() {
        return Err(LabError::Refused(format!(
            "the lab has no unit {}",
            args.unit
        )));
    }
    let units = lab.units.into_iter().map(|unit| unit.unit);
    let others: Vec<UnitId> = units.filter(|unit| *unit != args.unit).collect();
    keep_identities(fabric, (args.minutes / 5).clamp(1, IDENTITIES)).await?;
    let world = World {
        units: others.clone(),
        etcd: 0,
    };
    let seed = seed(args.seed);
    let mut deck = Deck::new(seed, world, KINDS.to_vec());
    let rate = calibrate(&args.load, args.percent).await?;
    report.say(format!(
        "seed {seed}; {rate} messages a second, {} % of what it carries",
        args.percent
    ));
    let load = Load {
        rate,
        ..args.load.clone()
    };
    let windows = Windows::of_all(WINDOW);
    let watched = windows.clone();
    let mut traffic = Traffic::begin(&load, |plan| plan.windows = Some(watched)).await?;
    let begun = traffic.begun();
    let end = begun + WINDOW * args.minutes;
    let every = Duration::from_secs(args.every);
    let mut seen = vec![Minute::default(); args.minutes as usize];
    let mut next = begun + every;
    let mut disturbances = 0;
    while Instant::now() < end {
        watch_until(fabric, &args.unit, &mut traffic, &mut seen, next.min(end)).await?;
        if Instant::now() >= end {
            break;
        }
        if let Some((kind, fault)) = deck.next() {
            report.say(format!("{kind}: {fault}"));
            inflict(fabric, &fault, SOURCE).await?;
            disturbances += 1;
        }
        report.say(move_slots(fabric, &others).await);
        next += every;
    }
    let account = traffic.end().await?;
    for (minute, window) in seen.iter_mut().zip(windows.read()) {
        (minute.p50_ms, minute.p99_ms) = (window.p50_ms, window.p99_ms);
    }
    seen.remove(0);
    Ok(Outcome {
        account,
        seed,
        rate,
        compared: compare(&seen),
        minutes: seen,
        disturbances,
    })
}

/// Has the identities of what was delivered kept for so long.
async fn keep_identities(fabric: &Fabric, minutes: u32) -> Result<(), LabError> {
    if minutes == IDENTITIES {
        return Ok(());
    }
    let dir = fabric.dir().join("soak-rules");
    let window = |minutes| format!("window: {minutes}m");
    let words = [(window(IDENTITIES), window(minutes))];
    reword(fabric.profile(), &words, &dir)?;
    fabric.apply(&dir, "a soak").await.map(|_| ())
}

/// Asks for slots to be moved to another unit than the one that has them, and says what came of it: a disturbance may have
/// undone the move before, and a unit may not be up again.
async fn move_slots(fabric: &mut Fabric, units: &[UnitId]) -> String {
    let lab = fabric.lab();
    let (etcd, space) = (lab.etcd.join(","), lab.space.to_string());
    let mut refused = String::new();
    for to in units {
        let words = ["move", "start", "--slots", MOVED, "--to", to.as_str()];
        let more = ["-m", "a soak", "--etcd", &etcd, "--space", &space];
        match fabric.setgate(&[&words[..], &more].concat()).await {
            Ok(_) => return format!("slots {MOVED} move to {to}"),
            Err(error) => refused = error.to_string(),
        }
    }
    format!("no move: {refused}")
}

/// So many percent of what the fabric carries when it is given as much as it takes.
async fn calibrate(load: &Load, percent: u32) -> Result<u32, LabError> {
    let refused = |error: traffic::TrafficError| LabError::Refused(error.to_string());
    let mut plan = Plan::from_lab(&load.traffic(&load.dir))
        .await
        .map_err(refused)?;
    (plan.messages, plan.rate) = (CALIBRATION, 0);
    let begun = Instant::now();
    let account = measure(plan).await.map_err(refused)?;
    let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let carried = account.delivered * 1_000 / millis.max(1);
    let rate = carried * u64::from(percent) / 100;
    Ok(u32::try_from(rate).unwrap_or(u32::MAX).max(1))
}

/// Looks at the gateways of a unit until a moment; an error when the traffic ends meanwhile.
async fn watch_until(
    fabric: &mut Fabric,
    unit: &UnitId,
    traffic: &mut Traffic,
    seen: &mut [Minute],
    moment: Instant,
) -> Result<(), LabError> {
    while Instant::now() < moment {
        let at = traffic.begun().elapsed().as_secs() / WINDOW.as_secs();
        let lab = fabric.lab();
        let gateways = lab.unit(unit.as_str()).map(|unit| &unit.gateways);
        if let Some(minute) = usize::try_from(at).ok().and_then(|at| seen.get_mut(at)) {
            for pid in gateways.into_iter().flatten().filter_map(|one| one.pid) {
                let resident = resident_bytes(pid).unwrap_or(0) as f64 / f64::from(1 << 20);
                minute.resident_mib = minute.resident_mib.max(resident);
                minute.descriptors = minute.descriptors.max(descriptors(pid));
            }
        }
        tokio::select! {
            error = traffic.broke_off() => return Err(error),
            () = sleep_until(moment.min(Instant::now() + LOOK)) => {}
        }
    }
    // A moment that has passed while something was disturbed still lets other tasks run.
    sleep(Duration::ZERO).await;
    Ok(())
}

fn compare(minutes: &[Minute]) -> Vec<Compared> {
    let few = COMPARED.min(minutes.len() / 2).max(1);
    let compared = (minutes.len() / 4).max(few);
    let first = minutes.get(..compared).unwrap_or(minutes);
    let last = minutes
        .get(minutes.len().saturating_sub(compared)..)
        .unwrap_or(minutes);
    let one = |figure, quantile, of: fn(&Minute) -> f64, (times, more): (f64, f64)| {
        let at = |minutes: &[Minute]| lower(minutes.iter().map(of), quantile);
        let (first, last) = (at(first), at(last));
        Compared {
            figure,
            first,
            last,
            allowed: (first * times).max(first + more),
        }
    };
    vec![
        one("resident, MiB", 2, |minute| minute.resident_mib, MEMORY),
        one(
            "descriptors",
            2,
            |minute| minute.descriptors as f64,
            DESCRIPTORS,
        ),
        one("p50, ms", 4, |minute| minute.p50_ms, LATENCY),
        one("p99, ms", 4, |minute| minute.p99_ms, LATENCY),
    ]
}

/// The value that one of so many is below: 2 for the median, 4 for the lower quartile.
fn lower(values: impl Iterator<Item = f64>, one_of: usize) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / one_of).copied().unwrap_or(0.0)
}

fn render(outcome: &Outcome) -> String {
    let mut text = format!(
        "seed {}; {} minutes at {} messages a second, {} disturbances\n",
        outcome.seed,
        outcome.minutes.len(),
        outcome.rate,
        outcome.disturbances
    );
    text.push_str("minute   p50 ms   p99 ms  resident MiB  descriptors\n");
    for (number, minute) in (2..).zip(&outcome.minutes) {
        let Minute {
            p50_ms,
            p99_ms,
            resident_mib,
            descriptors,
        } = minute;
        let _ = writeln!(
            text,
            "{number:>6} {p50_ms:>8.1} {p99_ms:>8.1} {resident_mib:>13.1} {descriptors:>12}"
        );
    }
    for one in &outcome.compared {
        let _ = writeln!(
            text,
            "{}{}: {:.1} at the begin, {:.1} at the end (at most {:.1})",
            if one.is_flat() { "" } else { "! " },
            one.figure,
            one.first,
            one.last,
            one.allowed
        );
    }
    if !outcome.account.is_clean() {
        text.push_str("! a promise was broken\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(residents: &[f64]) -> Vec<Minute> {
        let minute = |resident: &f64| Minute {
            p50_ms: 10.0,
            p99_ms: 40.0,
            resident_mib: *resident,
            descriptors: 60,
        };
        residents.iter().map(minute).collect()
    }

    #[test]
    fn what_grows_from_the_begin_to_the_end_is_named() {
        let steady = compare(&minutes(&[50.0; 12]));
        assert!(steady.iter().all(Compared::is_flat), "{steady:?}");
        let growing: Vec<f64> = (0..12)
            .map(|minute| 50.0 + 2.0 * f64::from(minute))
            .collect();
        let found = compare(&minutes(&growing));
        let grown: Vec<_> = found.iter().filter(|one| !one.is_flat()).collect();
        assert_eq!(grown.len(), 1, "{found:?}");
        assert_eq!(grown[0].figure, "resident, MiB");
    }

    #[test]
    fn two_disturbed_minutes_of_four_are_no_growth() {
        let mut minutes = minutes(&[50.0; 9]);
        (7..9).for_each(|at| minutes[at].p99_ms = 4_000.0);
        assert!(compare(&minutes).iter().all(Compared::is_flat));
        minutes[6].p99_ms = 4_000.0;
        assert!(!compare(&minutes).iter().all(Compared::is_flat));
    }
}
