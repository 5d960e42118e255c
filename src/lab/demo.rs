//! The demonstration: a lab, traffic through it, the account, and everything ended again.

use super::commands::{ProfileName, exit_code};
use super::fabric::{FabricSpec, default_dir};
use super::supervisor::{Signals, start};
use super::{Fabric, LabError, Reporter, traffic};
use clap::{Args, Parser};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Messages to publish, over all units
    #[arg(long, value_name = "N", default_value_t = 30_000)]
    pub messages: u64,
    /// Messages a second, over all units: less than it can, so that the latencies are those of a fabric that keeps up;
    /// 0 = as fast as the confirms come
    #[arg(long, value_name = "N", default_value_t = 1_500)]
    pub rate: u32,
    /// Round trip between units, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 30)]
    pub rtt: u64,
    /// The lab's folder
    #[arg(long, value_name = "DIR", default_value_os_t = demo_dir())]
    pub dir: PathBuf,
}

/// The traffic's own arguments, with its own defaults.
#[derive(Debug, Parser)]
struct Traffic {
    #[command(flatten)]
    args: traffic::Args,
}

/// Beside a lab that may be up meanwhile.
fn demo_dir() -> PathBuf {
    default_dir().with_file_name("demo-lab")
}

/// Runs it; the exit code is the account's.
pub(super) async fn run(args: &DemoArgs) -> ExitCode {
    let report = Reporter::lines();
    match play(args, report).await {
        Ok(code) => code,
        Err(error) => exit_code(Err(error)),
    }
}

async fn play(args: &DemoArgs, report: Reporter) -> Result<ExitCode, LabError> {
    let mut signals = Signals::take()?;
    let spec = FabricSpec::profile(ProfileName::TwoSitesThreeCenters.folder())
        .dir(&args.dir)
        .rtt(Duration::from_millis(args.rtt));
    let Some(mut fabric) = start(spec, report, &mut signals).await? else {
        return Ok(ExitCode::FAILURE);
    };
    introduce(&mut fabric, args);
    let code = tokio::select! {
        code = send(args) => code?,
        () = signals.any() => ExitCode::FAILURE,
    };
    report.say("going down");
    fabric.down().await?;
    report.say(format!(
        "everything is ended; a lab that stays: {} up",
        program()
    ));
    Ok(code)
}

/// This program as a person would type it.
fn program() -> String {
    let path = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("setgate-lab"));
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here)
        .unwrap_or(&path)
        .display()
        .to_string()
}

/// Says what the account will be about.
fn introduce(fabric: &mut Fabric, args: &DemoArgs) {
    let units: Vec<String> = fabric
        .lab()
        .units
        .iter()
        .map(|unit| format!("{} at {}", unit.unit, unit.site))
        .collect();
    anstream::eprintln!(
        "\n  Units: {}; {} ms between them.\n  {} messages are now published in all of them, each \
         with a user's id as its key. Gateways carry\n  each to the one unit that owns its key, \
         by the placement in etcd. The account says what arrived.\n",
        units.join(", "),
        args.rtt,
        args.messages
    );
}

async fn send(args: &DemoArgs) -> Result<ExitCode, LabError> {
    let (messages, rate) = (args.messages.to_string(), args.rate.to_string());
    let dir = args.dir.display().to_string();
    let words = [
        "traffic",
        "--messages",
        &messages,
        "--rate",
        &rate,
        "--dir",
        &dir,
    ];
    match Traffic::try_parse_from(words) {
        Ok(traffic) => Ok(traffic::run(traffic.args).await),
        Err(error) => Err(LabError::Refused(error.to_string())),
    }
}
