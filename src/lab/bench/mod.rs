//! A benchmark of RabbitMQ across distances: setgate, shovel and exchange federation, on the same brokers, in one run.
//!
//! Owns the command `bench`: which cells, in which order, and what is made of the figures. Carriers take turns within
//! each round, so that whatever the machine does meanwhile hits all of them; ratios are those of one run.

mod body;
mod cell;
mod cores;
mod ends;
mod measure;
mod plot;
mod report;
mod rig;

use super::commands::Output;
use super::fabric::default_dir;
use super::supervisor::Signals;
use super::{LabError, Reporter, machine};
use cell::Cell;
use clap::Args;
use ends::Load;
use measure::{Latency, Sample};
use report::{Figures, Measured, Report, median};
use rig::{Carrier, Rig};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// Free space that the brokers' data may need: a million messages at both ends, and their logs.
const DISK_BYTES: u64 = 8 * 1024 * 1024 * 1024;
/// Latency is measured at this share of the rate of whoever is slowest in that cell.
const LATENCY_SHARE: f64 = 0.5;

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Four cells and one round: some four minutes on two cores
    #[arg(long, conflicts_with = "cells")]
    pub quick: bool,
    /// Which cells: `named`, `all`, names of some, separated by commas; or of setgate alone `memory`, what could take a
    /// gateway beyond its own, and `cores`, gateways held to one core and to two
    #[arg(long, value_name = "CELLS", default_value = "named")]
    pub cells: String,
    /// Rounds in which each carrier has its turn
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20))]
    pub rounds: Option<u32>,
    /// Only these carriers; ratios to the others are missing then
    #[arg(long, value_enum, value_delimiter = ',', value_name = "CARRIERS")]
    pub only: Vec<Carrier>,
    /// Write benchmarks.md and its plots, benchmarks-memory.md or benchmarks-cores.md, into this folder
    #[arg(long, value_name = "DIR")]
    pub docs: Option<PathBuf>,
    /// json: the report as one document on the last line
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// The folder of its lab
    #[arg(long, value_name = "DIR", default_value_os_t = default_dir().with_file_name("bench-lab"))]
    pub dir: PathBuf,
}

/// What a run is about: each has a page of the docs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Page {
    /// setgate beside the others.
    Carriers,
    /// A gateway's memory.
    Memory,
    /// A gateway's cores.
    Cores,
}

/// Why a benchmark ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum BenchError {
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error("an application of the benchmark lost its broker: {0}")]
    Broker(#[from] lapin::Error),
    #[error("a broker of the benchmark's lab isn't there; see the logs in its folder")]
    NoBroker,
    #[error("a broker refused a message of the benchmark; see its log")]
    Nacked,
    #[error("the federation links didn't run within 20 s ({0}); see the far broker's log")]
    NotFederated(String),
    #[error("{carrier} didn't carry all messages of cell {cell} in time")]
    Stuck { carrier: &'static str, cell: String },
    #[error("{missing} messages of cell {cell} didn't come while latency was measured")]
    Missing { cell: String, missing: u64 },
    #[error("no cell {0}; `named`, `all`, or some of: {1}")]
    NoCell(String, String),
    #[error("{free} MiB are free where {dir} lies; the brokers' data may need {needed} MiB")]
    Disk { dir: String, free: u64, needed: u64 },
    #[error("a latency can't be counted: {0}")]
    Histogram(String),
}

impl BenchError {
    fn histogram(error: impl std::fmt::Display) -> Self {
        Self::Histogram(error.to_string())
    }
}

/// Runs it. What was measured before a fault or Ctrl-C is printed, marked as incomplete. 0 when it is complete.
pub(super) async fn run(args: &BenchArgs) -> ExitCode {
    let report = Reporter::lines();
    let mut found = Report::default();
    let result = bench(args, report, &mut found).await;
    found.targets = match args.page() {
        Page::Carriers => report::targets(&found.cells, found.idle),
        Page::Memory => report::memory_targets(&found.cells),
        Page::Cores => Vec::new(),
    };
    found.machine = machine::about();
    if !found.cells.is_empty() {
        match args.output {
            Output::Json => println!("{}", serde_json::to_string(&found).unwrap_or_default()),
            Output::Text => print!("{}", report::markdown(&found)),
        }
    }
    let result = match &args.docs {
        Some(folder) if !found.cells.is_empty() => {
            let written = match args.page() {
                Page::Carriers => plot::write(&found, folder),
                Page::Memory => plot::write_memory(&found, folder),
                Page::Cores => cores::write(&found, folder),
            };
            result.and(written.map_err(BenchError::from))
        }
        Some(_) | None => result,
    };
    match result {
        Ok(()) if found.complete => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            let text = match &error {
                BenchError::Lab(error) => error.render(),
                error => error.to_string(),
            };
            eprintln!("setgate-lab bench: {text}");
            ExitCode::FAILURE
        }
    }
}

async fn bench(args: &BenchArgs, report: Reporter, found: &mut Report) -> Result<(), BenchError> {
    let cells = args.cells()?;
    let once = args.quick || args.page() == Page::Memory;
    let rounds = args.rounds.unwrap_or(if once { 1 } else { 3 });
    let carriers = args.carriers();
    enough_disk(args)?;
    if let Some(folder) = &args.docs {
        std::fs::create_dir_all(folder).map_err(LabError::file("make", folder))?;
    }
    let mut signals = Signals::take()?;
    found.complete = true;
    // A rig has as many lanes for all of its cells.
    for cells in cells.chunk_by(|one, next| one.partitions == next.partitions) {
        if found.complete {
            found.complete = false;
            on_a_rig(args, cells, &carriers, rounds, report, &mut signals, found).await?;
        }
    }
    Ok(())
}

/// Measures cells of the same lanes; complete when all were.
async fn on_a_rig(
    args: &BenchArgs,
    cells: &[Cell],
    carriers: &[Carrier],
    rounds: u32,
    report: Reporter,
    signals: &mut Signals,
    found: &mut Report,
) -> Result<(), BenchError> {
    let partitions = cells.first().map_or(1, |cell| cell.partitions);
    let Some(mut rig) = Rig::up(&args.dir, partitions, report, signals).await? else {
        return Ok(());
    };
    let measured = async {
        if found.idle.is_none() && carriers.contains(&Carrier::Setgate) {
            let idle = measure::idle(&mut rig).await?;
            report.say(format!(
                "an idle gateway: {:.0} MiB, {:.2} % of a core",
                idle.rss_mib, idle.cpu_percent
            ));
            found.idle = Some(idle);
        }
        all_cells(&mut rig, cells, carriers, rounds, report, &mut found.cells).await
    };
    let result = tokio::select! {
        measured = measured => measured.map(|()| true),
        () = signals.any() => {
            report.say("interrupted: what follows is not complete");
            Ok(false)
        }
    };
    report.say("going down");
    let ended = rig.down().await;
    found.complete = result?;
    Ok(ended?)
}

async fn all_cells(
    rig: &mut Rig,
    cells: &[Cell],
    carriers: &[Carrier],
    rounds: u32,
    report: Reporter,
    found: &mut Vec<Measured>,
) -> Result<(), BenchError> {
    for cell in cells {
        let load = Load::new(cell.body, cell.bytes);
        let mut samples: BTreeMap<Carrier, Vec<Sample>> = BTreeMap::new();
        for round in 1..=rounds {
            for carrier in turns(carriers, round) {
                let sample = measure::throughput(rig, carrier, cell, &load).await?;
                rig.rest(carrier, cell.queues).await?;
                report.say(format!(
                    "{} round {round}: {} {:.0}/s, {:.0} us of CPU (brokers {:.0} and {:.0}) and {:.0} bytes on the wire each",
                    cell.name,
                    carrier.name(),
                    sample.rate,
                    sample.cpu_us,
                    sample.broker_cpu_us[0],
                    sample.broker_cpu_us[1],
                    sample.wire_bytes
                ));
                samples.entry(carrier).or_default().push(sample);
            }
        }
        let (late, direct, latency_rate) = if cell.latency {
            let medians = samples
                .values()
                .map(|of| median(of.iter().map(|one| one.rate)));
            let rate = medians.fold(f64::INFINITY, f64::min) * LATENCY_SHARE;
            let (late, direct) = latencies(rig, cell, carriers, rounds, rate, report).await?;
            (late, direct, Some(rate))
        } else {
            Default::default()
        };
        let carriers = samples.iter().map(|(carrier, samples)| {
            let late = late.get(carrier).map_or(&[][..], Vec::as_slice);
            (carrier.name(), Figures::of(samples, late))
        });
        found.push(Measured {
            cell: cell.clone(),
            latency_rate,
            direct: Latency::median(&direct),
            carriers: carriers.collect(),
        });
    }
    Ok(())
}

/// The carriers in the order of a round. Each round begins with another one, so that none always follows the same.
fn turns(carriers: &[Carrier], round: u32) -> impl Iterator<Item = Carrier> {
    let first = round.saturating_sub(1) as usize;
    carriers
        .iter()
        .copied()
        .cycle()
        .skip(first)
        .take(carriers.len())
}

/// By carrier, and of a direct publish.
type Latencies = (BTreeMap<Carrier, Vec<Latency>>, Vec<Latency>);

/// Latency of each carrier and of a direct publish, all at the same rate.
async fn latencies(
    rig: &mut Rig,
    cell: &Cell,
    carriers: &[Carrier],
    rounds: u32,
    rate: f64,
    report: Reporter,
) -> Result<Latencies, BenchError> {
    let load = Load::new(cell.body, cell.bytes);
    let mut found = Latencies::default();
    let say = |who: &str, latency: Latency| {
        let Latency { p50_ms, p99_ms } = latency;
        report.say(format!(
            "{} at {rate:.0}/s: {who} p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms",
            cell.name
        ));
    };
    for round in 1..=rounds {
        rig.clear().await?;
        let direct = measure::latency(rig, None, cell, &load, rate).await?;
        say("a direct publish", direct);
        found.1.push(direct);
        for carrier in turns(carriers, round) {
            rig.clear().await?;
            rig.go(carrier, cell.queues).await?;
            let latency = measure::latency(rig, Some(carrier), cell, &load, rate).await?;
            rig.rest(carrier, cell.queues).await?;
            say(carrier.name(), latency);
            found.0.entry(carrier).or_default().push(latency);
        }
    }
    Ok(found)
}

fn enough_disk(args: &BenchArgs) -> Result<(), BenchError> {
    std::fs::create_dir_all(&args.dir).map_err(LabError::file("create", &args.dir))?;
    let found = rustix::fs::statvfs(&args.dir)
        .map_err(|error| LabError::file("look at", &args.dir)(error.into()))?;
    let free = found.f_bavail * found.f_frsize;
    if free >= DISK_BYTES {
        return Ok(());
    }
    Err(BenchError::Disk {
        dir: args.dir.display().to_string(),
        free: free >> 20,
        needed: DISK_BYTES >> 20,
    })
}

impl BenchArgs {
    fn cells(&self) -> Result<Vec<Cell>, BenchError> {
        if self.quick {
            return Ok(cell::quick());
        }
        match self.cells.as_str() {
            "named" => Ok(cell::named()),
            "memory" => Ok(cell::memory()),
            "cores" => Ok(cell::cores()),
            "all" => Ok(cell::all()),
            some => some
                .split(',')
                .map(|name| {
                    let all = [cell::all(), cell::memory()].concat();
                    let names = || {
                        let names: Vec<&str> = all.iter().map(|cell| cell.name.as_str()).collect();
                        names.join(", ")
                    };
                    let found = all.iter().find(|cell| cell.name == name).cloned();
                    found.ok_or_else(|| BenchError::NoCell(name.to_owned(), names()))
                })
                .collect(),
        }
    }

    fn page(&self) -> Page {
        match self.cells.as_str() {
            "memory" => Page::Memory,
            "cores" => Page::Cores,
            _ => Page::Carriers,
        }
    }

    fn carriers(&self) -> Vec<Carrier> {
        match self.page() {
            Page::Carriers => {}
            Page::Memory | Page::Cores => return vec![Carrier::Setgate],
        }
        let wanted = |carrier: &Carrier| self.only.is_empty() || self.only.contains(carrier);
        Carrier::ALL.into_iter().filter(wanted).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_begins_with_another_carrier_and_has_all_of_them() {
        let order = |round| turns(&Carrier::ALL, round).collect::<Vec<_>>();
        assert_eq!(order(1), Carrier::ALL);
        assert_eq!(order(2)[0], Carrier::Shovel);
        assert_eq!(order(2)[3], Carrier::Setgate);
        assert_eq!(order(5), Carrier::ALL);
    }
}
