//! Everything breaks in turn, under traffic, and the account must come out clean.
//!
//! Owns the commands `chaos`, `kills`, `cut-off` and `soak`: a lab of their own with two gateways in each of three units and three etcd
//! members, all links through the proxy, traffic throughout. Promises that a run says what was broken and when, so that a
//! broken promise can be sought there; that the same seed breaks the same in the same order; and that it ends in bounded
//! time, with the lab. Never claims a fault that did not strike.

mod cut_off;
mod drill;
mod fault;
mod health;
mod inflict;
mod parked;
mod report;
mod run;
mod soak;

use super::commands::{Output, ProfileName, exit_code};
use super::fabric::{FabricSpec, default_dir};
use super::traffic;
use clap::Args;
pub(super) use cut_off::{CutOffArgs, run as run_cut_off};
pub(super) use drill::{DrillArgs, run as run_drill};
use fault::{Deck, FaultKind, Role, World, kills};
use run::{Ends, Setting, perform};
pub(super) use soak::{SoakArgs, run as run_soak};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Publishers of so little would prove nothing; publishers of more than this need another machine.
const RATE: u32 = 1_000;
/// As the measurements of rules.md have it.
const BODY_BYTES: u64 = 1_024;
/// Without anything new for so long, what is missing is lost: longer than the longest pause between two attempts.
const SETTLE: u64 = 60;

/// Arguments of `chaos`.
#[derive(Debug, Args)]
pub struct ChaosArgs {
    /// Which faults in which order; any number [default: one of chance, which is said]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// How long new faults begin
    #[arg(long, value_name = "M", default_value_t = 3.0, value_parser = minutes)]
    pub minutes: f64,
    /// No more than so many faults
    #[arg(long, value_name = "N")]
    pub faults: Option<usize>,
    /// Only these kinds, separated by commas
    #[arg(long, value_enum, value_name = "KIND", value_delimiter = ',')]
    pub only: Vec<FaultKind>,
    /// All kinds but these, separated by commas
    #[arg(
        long,
        value_enum,
        value_name = "KIND",
        value_delimiter = ',',
        conflicts_with = "only"
    )]
    pub without: Vec<FaultKind>,
    /// What is published
    #[command(flatten)]
    pub load: Load,
}

/// Arguments of `kills`.
#[derive(Debug, Args)]
pub struct KillsArgs {
    /// Which gateway of a unit
    #[arg(long, value_enum)]
    pub side: Role,
    /// How many kills
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub count: u32,
    /// How many of them by the gateway itself: half between confirm and journal, half between journal and answer
    #[arg(long, value_name = "K", default_value_t = 30)]
    pub failpoints: u32,
    /// Which units, when and where; any number [default: one of chance, which is said]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// What is published
    #[command(flatten)]
    pub load: Load,
}

/// The traffic, and the fabric that it goes through.
#[derive(Debug, Clone, Args)]
pub struct Load {
    /// Messages a second, over all units
    #[arg(long, value_name = "N", default_value_t = RATE, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// Distinct keys
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub keys: u32,
    /// Bytes of a body
    #[arg(long, value_name = "BYTES", default_value_t = BODY_BYTES)]
    pub size: u64,
    /// Round trip between units, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 20)]
    pub rtt: u64,
    /// The lab's folder
    #[arg(long, value_name = "DIR", default_value_os_t = chaos_dir())]
    pub dir: PathBuf,
    /// json: the account with the faults, on the last line
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Beside a lab that may be up meanwhile.
fn chaos_dir() -> PathBuf {
    default_dir().with_file_name("chaos-lab")
}

/// A positive number, fractions allowed.
fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if minutes > 0.0 && minutes <= 1_440.0 => Ok(minutes),
        Ok(_) => Err("say more than 0 minutes, and a day at most".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A seed of chance, short enough to be typed.
fn seed(given: Option<u64>) -> u64 {
    given.unwrap_or_else(|| u64::from(fastrand::u16(..)))
}

impl Load {
    fn spec(&self) -> FabricSpec {
        FabricSpec::profile(ProfileName::TwoSitesThreeCenters.folder())
            .dir(&self.dir)
            .gateways(2)
            .etcd(3)
            .rtt(Duration::from_millis(self.rtt))
    }

    fn traffic(&self, dir: &Path) -> traffic::Args {
        traffic::Args {
            messages: super::checker::MESSAGES_MAX,
            keys: self.keys,
            rate: self.rate,
            size: self.size,
            source: "orders".to_owned(),
            shared: false,
            from: Vec::new(),
            header: "uid".to_owned(),
            dir: dir.to_owned(),
            settle: SETTLE,
            output: traffic::Output::Json,
        }
    }
}

impl ChaosArgs {
    fn kinds(&self) -> Vec<FaultKind> {
        let all = FaultKind::ALL.into_iter();
        all.filter(|kind| self.only.is_empty() || self.only.contains(kind))
            .filter(|kind| !self.without.contains(kind))
            .collect()
    }
}

/// Runs `chaos`: 0 when no promise was broken and everything healed.
pub(super) async fn run(args: &ChaosArgs) -> ExitCode {
    let setting = Setting {
        load: args.load.clone(),
        seed: seed(args.seed),
        ends: Ends::After(Duration::from_secs_f64(args.minutes * 60.0)),
    };
    let (seed, kinds) = (setting.seed, args.kinds());
    let most = args.faults.unwrap_or(usize::MAX);
    let deal = |world: World| Deck::new(seed, world, kinds).take(most);
    finish(&setting, perform(&setting, deal).await)
}

/// Runs `kills`.
pub(super) async fn run_kills(args: &KillsArgs) -> ExitCode {
    let setting = Setting {
        load: args.load.clone(),
        seed: seed(args.seed),
        ends: Ends::WithTheLast,
    };
    let (seed, side) = (setting.seed, args.side);
    let deal = |world: World| kills(seed, &world, side, args.count, args.failpoints).into_iter();
    finish(&setting, perform(&setting, deal).await)
}

fn finish(setting: &Setting, outcome: Result<run::Outcome, super::LabError>) -> ExitCode {
    match outcome {
        Ok(outcome) => {
            report::print(&outcome, setting.load.output);
            ExitCode::from(u8::from(!outcome.is_good()))
        }
        Err(error) => exit_code(Err(error)),
    }
}
