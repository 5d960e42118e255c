//! The commands of `setgate-lab` that start, change and end a lab.

use super::bench::{self, BenchArgs};
use super::chaos::{self, ChaosArgs, CutOffArgs, DrillArgs, KillsArgs, SoakArgs};
use super::control::{self, Reply, Request, Status};
use super::demo::{self, DemoArgs};
use super::fabric::{FabricSpec, Parts, default_dir};
use super::lab_file::LabFile;
use super::process::ProcessState;
use super::profile::RulesFrom;
use super::scale::{self, ScaleArgs};
use super::supervisor::{down, up, up_detached};
use super::{LabError, Node, Place, Ways, traffic};
use clap::{Args, Subcommand, ValueEnum};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Refused, faulty or different.
const REFUSED: u8 = 1;
/// Nobody there; try again.
const UNREACHABLE: u8 = 3;

/// Commands about a lab.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a lab, and stay until Ctrl-C or `down`
    Up(UpArgs),
    /// End a lab, or what a crashed one has left
    Down(Folder),
    /// Show a lab's parts
    Status(StatusArgs),
    /// End a process by SIGKILL
    Kill(NodeArgs),
    /// Freeze a process by SIGSTOP
    Pause(NodeArgs),
    /// Let a frozen process go on
    Resume(NodeArgs),
    /// Start a killed process again, with its data
    Start(NodeArgs),
    /// Cut the wires between two places: bytes vanish, connections stay open
    Cut(WireArgs),
    /// Heal the wires between two places
    Heal(WireArgs),
    /// Publish numbered messages in every unit, consume them in every unit, and print the account
    Traffic(traffic::Args),
    /// Start three units in two cities, send 30,000 messages through them, print the account, and end it all
    Demo(DemoArgs),
    /// Break everything in turn under traffic, in a lab of its own, and print the account
    Chaos(ChaosArgs),
    /// Kill the gateways of one role again and again under traffic, some of them at the seams, and print the account
    Kills(KillsArgs),
    /// Cut one unit off from all others for minutes, and compare what the others feel with the minutes before
    CutOff(CutOffArgs),
    /// What operators fear, on purpose and under traffic: losses, cuts, moves; the account, the time to recover, the pause
    Drill(DrillArgs),
    /// Two hours of traffic with restarts and reconnects: memory, descriptors and latency must stay flat
    Soak(SoakArgs),
    /// Measure setgate, shovel and federation on the same brokers over distances, and print the figures and ratios
    Bench(BenchArgs),
    /// Let a space grow from three units to fifty, and print what tables, etcd, links and gateways take
    Scale(ScaleArgs),
}

/// Which lab.
#[derive(Debug, Clone, Args)]
pub struct Folder {
    /// The lab's folder
    #[arg(long, value_name = "DIR", default_value_os_t = default_dir())]
    pub dir: PathBuf,
}

/// Arguments of `up`.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// The rules: a folder of routing-rules/
    #[arg(long, value_enum, default_value_t = ProfileName::TwoSitesThreeCenters)]
    pub profile: ProfileName,
    /// Rules of your own, instead of a profile's
    #[arg(long, value_name = "DIR", conflicts_with = "profile")]
    pub rules: Option<PathBuf>,
    /// Begin with the rules of this folder of routing-rules/: units that they don't know run and wait for their place
    #[arg(long, value_enum, value_name = "PROFILE")]
    pub begin_with: Option<ProfileName>,
    /// Units; another number than the rules have makes a copy of them in the lab's folder
    #[arg(long, value_name = "N")]
    pub units: Option<usize>,
    /// Gateways per unit
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub gateways: usize,
    /// RabbitMQ nodes per unit
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub brokers: usize,
    /// etcd members
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub etcd: usize,
    /// Round trip between units, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub rtt: u64,
    /// Brokers and etcd alone, without gateways and rules
    #[arg(long)]
    pub bare: bool,
    /// Return when everything is ready, and leave the lab running
    #[arg(long)]
    pub detach: bool,
    /// Which folder
    #[command(flatten)]
    pub folder: Folder,
}

/// Ready rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProfileName {
    /// Two cities, three units, keyed orders and a shared catalog
    TwoSitesThreeCenters,
    /// Units as equals
    ActiveActive,
    /// One unit
    Single,
}

impl ProfileName {
    /// The folder's name, which is the option's value too.
    pub fn folder(self) -> &'static str {
        match self {
            Self::TwoSitesThreeCenters => "two-sites-three-centers",
            Self::ActiveActive => "active-active",
            Self::Single => "single",
        }
    }
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// json: what lab.json says, on the last line
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Which lab
    #[command(flatten)]
    pub folder: Folder,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// One document on the last line
    Json,
}

/// A node and its lab.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// gateway/sh-1-a, broker/sh-1, broker/sh-1/2 or etcd/1
    pub node: Node,
    /// Which lab
    #[command(flatten)]
    pub folder: Folder,
}

/// Two places and their lab.
#[derive(Debug, Args)]
pub struct WireArgs {
    /// A unit or `etcd`
    pub a: Place,
    /// A unit or `etcd`
    pub b: Place,
    /// Only bytes from A to B
    #[arg(long)]
    pub one_way: bool,
    /// Which lab
    #[command(flatten)]
    pub folder: Folder,
}

impl WireArgs {
    fn ways(&self) -> Ways {
        if self.one_way {
            Ways::OneWay
        } else {
            Ways::Both
        }
    }
}

/// Runs a command; faults go to standard error, with their mend.
pub async fn run(command: Command) -> ExitCode {
    let result = match command {
        Command::Up(args) if args.detach => up_detached(&args).await,
        Command::Up(args) => up(&args).await,
        Command::Down(folder) => down(&folder.dir).await,
        Command::Status(args) => status(&args).await,
        Command::Kill(args) => tell(&args.folder, Request::Kill { node: args.node }).await,
        Command::Pause(args) => tell(&args.folder, Request::Pause { node: args.node }).await,
        Command::Resume(args) => tell(&args.folder, Request::Resume { node: args.node }).await,
        Command::Start(args) => tell(&args.folder, Request::Start { node: args.node }).await,
        Command::Cut(args) => {
            let ways = args.ways();
            tell(
                &args.folder,
                Request::Cut {
                    a: args.a,
                    b: args.b,
                    ways,
                },
            )
            .await
        }
        Command::Heal(args) => {
            let ways = args.ways();
            tell(
                &args.folder,
                Request::Heal {
                    a: args.a,
                    b: args.b,
                    ways,
                },
            )
            .await
        }
        Command::Traffic(args) => return traffic::run(args).await,
        Command::Demo(args) => return demo::run(&args).await,
        Command::Chaos(args) => return chaos::run(&args).await,
        Command::Kills(args) => return chaos::run_kills(&args).await,
        Command::CutOff(args) => return chaos::run_cut_off(&args).await,
        Command::Drill(args) => return chaos::run_drill(&args).await,
        Command::Soak(args) => return chaos::run_soak(&args).await,
        Command::Bench(args) => return bench::run(&args).await,
        Command::Scale(args) => return scale::run(&args).await,
    };
    exit_code(result)
}

/// Prints a fault and says how the program ends.
pub fn exit_code(result: Result<(), LabError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("setgate-lab: {}", error.render());
            match error {
                LabError::NotUp { .. } | LabError::Control { .. } => ExitCode::from(UNREACHABLE),
                _ => ExitCode::from(REFUSED),
            }
        }
    }
}

impl UpArgs {
    /// The lab that is asked for.
    pub fn spec(&self) -> FabricSpec {
        let rules = match &self.rules {
            Some(dir) => RulesFrom::Folder(dir.clone()),
            None => RulesFrom::Profile(self.profile.folder().to_owned()),
        };
        let parts = if self.bare { Parts::Bare } else { Parts::Whole };
        FabricSpec {
            dir: self.folder.dir.clone(),
            rules,
            begins_with: self
                .begin_with
                .map(|profile| RulesFrom::Profile(profile.folder().to_owned())),
            units: self.units,
            gateways: self.gateways,
            brokers: self.brokers,
            etcd: self.etcd,
            rtt: Duration::from_millis(self.rtt),
            parts,
            ..FabricSpec::profile(self.profile.folder())
        }
    }

    /// The same arguments for the supervisor in the background.
    pub(super) fn in_background(&self) -> Vec<String> {
        let mut args = vec!["up".to_owned()];
        let mut option = |name: &str, value: String| args.extend([format!("--{name}"), value]);
        match &self.rules {
            Some(dir) => option("rules", dir.display().to_string()),
            None => option("profile", self.profile.folder().to_owned()),
        }
        if let Some(profile) = self.begin_with {
            option("begin-with", profile.folder().to_owned());
        }
        if let Some(units) = self.units {
            option("units", units.to_string());
        }
        option("gateways", self.gateways.to_string());
        option("brokers", self.brokers.to_string());
        option("etcd", self.etcd.to_string());
        option("rtt", self.rtt.to_string());
        option("dir", self.folder.dir.display().to_string());
        if self.bare {
            args.push("--bare".to_owned());
        }
        args
    }
}

async fn tell(folder: &Folder, request: Request) -> Result<(), LabError> {
    match control::ask(&folder.dir, &request).await? {
        Reply::Done { text } => {
            println!("{text}");
            Ok(())
        }
        Reply::Fault { text } => Err(LabError::Refused(text)),
        Reply::Status(_) => Ok(()),
    }
}

async fn status(args: &StatusArgs) -> Result<(), LabError> {
    let status = match control::ask(&args.folder.dir, &Request::Status).await? {
        Reply::Status(status) => status,
        Reply::Done { text } | Reply::Fault { text } => return Err(LabError::Refused(text)),
    };
    match args.output {
        Output::Json => match serde_json::to_string(&status.lab) {
            Ok(text) => println!("{text}"),
            Err(error) => return Err(LabError::Refused(error.to_string())),
        },
        Output::Text => print!("{}", render(&status)),
    }
    Ok(())
}

/// A table of the processes, and what is cut.
fn render(status: &Status) -> String {
    let mut table = comfy_table::Table::new();
    *table.style_mut() = comfy_table::presets::NOTHING;
    table.set_header(["node", "state", "where", "log"]);
    let here = std::env::current_dir().unwrap_or_default();
    for node in &status.nodes {
        let state = match &node.state {
            ProcessState::Running => "running".to_owned(),
            ProcessState::Paused => "paused".to_owned(),
            ProcessState::Stopped => "stopped".to_owned(),
            ProcessState::Ended(how) => format!("ended: {how}"),
        };
        let log = node.log.strip_prefix(&here).unwrap_or(&node.log);
        let place = place(&status.lab, &node.node);
        table.add_row([
            node.node.to_string(),
            state,
            place,
            log.display().to_string(),
        ]);
    }
    let mut text = format!(
        "space {}, supervisor {}\n{table}\n",
        status.lab.space, status.pid
    );
    for cut in &status.cuts {
        let _ = writeln!(text, "cut: {} -> {}", cut.from, cut.to);
    }
    text
}

/// Where a person would point a browser or a client.
fn place(lab: &LabFile, node: &Node) -> String {
    match node {
        Node::Gateway(name) => {
            let gateway = lab.gateway(name.as_str());
            gateway
                .map(|gateway| format!("http://{}", gateway.admin))
                .unwrap_or_default()
        }
        Node::Broker(unit, number) => {
            let brokers = lab.unit(unit.as_str()).map(|unit| &unit.brokers);
            let broker = brokers.and_then(|brokers| brokers.get(number.saturating_sub(1)));
            broker
                .map(|broker| format!("{} {}", broker.uri, broker.management))
                .unwrap_or_default()
        }
        Node::Etcd(number) => lab
            .etcd
            .get(number.saturating_sub(1))
            .cloned()
            .unwrap_or_default(),
        Node::PortMapper | Node::Supervisor => String::new(),
    }
}
