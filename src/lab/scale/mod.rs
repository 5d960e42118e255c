//! How a space grows: tables, etcd, links and gateways, from three units to fifty of ten gateways.
//!
//! Owns the command `scale`: a lab of one unit with etcd, then everything that five hundred gateways would ask of it, as
//! far as one machine can say; and eight whole units with traffic. What is simulated is said to be.

mod documents;
mod fanout;
mod mesh;
mod page;
mod size;
mod table;

use super::commands::{Output, ProfileName};
use super::fabric::{FabricSpec, default_dir};
use super::supervisor::{Signals, start};
use super::traffic::{self, Plan};
use super::usage::resident_bytes;
use super::{Fabric, LabError, Node, Reporter, machine};
use crate::etcd::{EtcdConfig, EtcdError};
use crate::gateway::raise_descriptor_limit;
use crate::lab::checker::Account;
use crate::wire::LinkError;
use clap::Args;
use documents::{Owners, write};
use fanout::FanoutPoint;
use mesh::{Mesh, MeshPoint};
use serde::Serialize;
use size::SIZES;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use table::TablePoint;
use tokio::time::Instant;

/// Both ends of the links of five hundred gateways, and their connections to etcd.
const DESCRIPTORS: u64 = 4_096;
/// Members of the lab's etcd.
const MEMBERS: usize = 3;
/// Units that run for real.
const REAL_UNITS: usize = 8;
const REAL_MESSAGES: u64 = 30_000;
const REAL_RATE: u32 = 1_000;

/// Arguments of `scale`.
#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// Write scale.md and its plots into this folder
    #[arg(long, value_name = "DIR")]
    pub docs: Option<PathBuf>,
    /// json: the report as one document on the last line
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// The folder of its lab
    #[arg(long, value_name = "DIR", default_value_os_t = default_dir().with_file_name("scale-lab"))]
    pub dir: PathBuf,
}

/// Why it ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScaleError {
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the documents of this measurement make no space: {0}")]
    Documents(String),
    #[error("a gateway of this measurement broke off: {0}")]
    Broken(String),
    #[error("{0} gateways didn't hear of all others within two minutes")]
    Silent(usize),
    #[error("of {peers} peers the gateway reached {out} and {back} reached it within two minutes")]
    Links {
        peers: usize,
        out: usize,
        back: usize,
    },
    #[error("the gateway of this measurement isn't there; see the logs in its folder")]
    NoGateway,
    #[error("this needs {DESCRIPTORS} open files; raise the hard limit (`ulimit -Hn`)")]
    Descriptors,
    #[error("interrupted")]
    Interrupted,
}

impl ScaleError {
    fn documents(error: impl std::fmt::Display) -> Self {
        Self::Documents(error.to_string())
    }

    fn broken(error: impl std::fmt::Display) -> Self {
        Self::Broken(error.to_string())
    }
}

/// All that was found.
#[derive(Debug, Default, Serialize)]
struct Report {
    machine: BTreeMap<String, String>,
    tables: Vec<TablePoint>,
    fanout: Vec<FanoutPoint>,
    mesh: Vec<MeshPoint>,
    real: Option<Real>,
    complete: bool,
}

/// Units that run for real, with traffic.
#[derive(Debug, Serialize)]
struct Real {
    units: usize,
    /// Until every gateway was ready.
    up_s: f64,
    rate: u32,
    account: Account,
    /// The largest gateway's resident memory after the traffic.
    resident_mib: f64,
}

/// Runs it. What was found before a fault is printed, marked as incomplete. 0 when it is complete.
pub(super) async fn run(args: &ScaleArgs) -> ExitCode {
    let mut found = Report {
        machine: machine::about(),
        ..Report::default()
    };
    let mut result = Box::pin(measure(args, Reporter::lines(), &mut found)).await;
    found.complete = result.is_ok();
    match args.output {
        Output::Json => println!("{}", serde_json::to_string(&found).unwrap_or_default()),
        Output::Text => print!("{}", page::markdown(&found)),
    }
    if let Some(folder) = &args.docs {
        result = result.and(page::write(&found, folder).map_err(ScaleError::from));
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = match &error {
                ScaleError::Lab(error) => error.render(),
                error => error.to_string(),
            };
            eprintln!("setgate-lab scale: {text}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: &ScaleArgs, report: Reporter, found: &mut Report) -> Result<(), ScaleError> {
    if raise_descriptor_limit().is_some_and(|limit| limit < DESCRIPTORS) {
        return Err(ScaleError::Descriptors);
    }
    for size in SIZES {
        found.tables.push(table::measure(size)?);
    }
    report.say("tables are compiled");
    let mut signals = Signals::take()?;
    let rules = args.dir.join("rules");
    write(
        &documents::documents(1, SIZES[0].rules, Owners::First),
        &rules,
    )?;
    let spec = FabricSpec::folder(&rules)
        .dir(args.dir.join("one"))
        .etcd(MEMBERS);
    let one = start(spec, report, &mut signals).await?;
    let mut one = one.ok_or(ScaleError::Interrupted)?;
    let result = tokio::select! {
        result = grow(args, &mut one, report, found) => result,
        () = signals.any() => Err(ScaleError::Interrupted),
    };
    one.down().await?;
    result?;

    let begun = Instant::now();
    let spec = FabricSpec::profile(ProfileName::ActiveActive.folder())
        .dir(args.dir.join("real"))
        .units(REAL_UNITS);
    let many = start(spec, report, &mut signals).await?;
    let mut many = many.ok_or(ScaleError::Interrupted)?;
    let up_s = begun.elapsed().as_secs_f64();
    let result = tokio::select! {
        result = carry(&mut many, up_s) => result,
        () = signals.any() => Err(ScaleError::Interrupted),
    };
    report.say("going down");
    many.down().await?;
    found.real = Some(result?);
    Ok(())
}

/// One gateway and an etcd, at every size.
async fn grow(
    args: &ScaleArgs,
    fabric: &mut Fabric,
    report: Reporter,
    found: &mut Report,
) -> Result<(), ScaleError> {
    let etcd = EtcdConfig::plain(fabric.lab().etcd);
    let pids: Vec<u32> = (1..=MEMBERS)
        .filter_map(|number| fabric.pid(&Node::Etcd(number)))
        .collect();
    for size in SIZES {
        let point = Box::pin(fanout::measure(size, &etcd, &pids)).await?;
        report.say(format!(
            "{} gateways: a change is seen after {:.0} ms (99 of 100), all have told all after {:.0} ms",
            size.all(),
            point.seen_p99_ms,
            point.told_ms
        ));
        found.fanout.push(point);
    }
    let mut mesh = Mesh::new(fabric, &etcd, &args.dir.join("grown")).await?;
    for size in SIZES {
        let point = mesh.measure(size, report).await?;
        report.say(format!(
            "{} peers: {:.0} MiB, {:.1} % of a core, {} descriptors; {:.0} ms of processor time for a change",
            point.peers, point.resident_mib, point.cpu_percent, point.descriptors, point.change_cpu_ms
        ));
        found.mesh.push(point);
    }
    mesh.end().await;
    Ok(())
}

/// Traffic through a lab of whole units.
async fn carry(fabric: &mut Fabric, up_s: f64) -> Result<Real, ScaleError> {
    let args = traffic::Args {
        messages: REAL_MESSAGES,
        keys: 1_000,
        rate: REAL_RATE,
        size: 1_024,
        source: "orders".to_owned(),
        shared: false,
        from: Vec::new(),
        header: "uid".to_owned(),
        dir: fabric.dir().to_owned(),
        settle: 30,
        output: traffic::Output::Json,
    };
    let plan = Plan::from_lab(&args).await.map_err(ScaleError::broken)?;
    let account = traffic::measure(plan).await.map_err(ScaleError::broken)?;
    let gateways = fabric
        .lab()
        .units
        .into_iter()
        .flat_map(|unit| unit.gateways);
    let resident = gateways.filter_map(|gateway| resident_bytes(gateway.pid?));
    Ok(Real {
        units: REAL_UNITS,
        up_s,
        rate: REAL_RATE,
        account,
        resident_mib: resident.max().unwrap_or(0) as f64 / f64::from(1 << 20),
    })
}
