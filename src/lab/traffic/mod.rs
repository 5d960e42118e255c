//! Keyed, numbered traffic through a running fabric, and the account of it.
//!
//! Owns the plan of one run and its end: when everything that was confirmed has arrived, or nothing new comes any
//! more. Promises that what it counts is what rules.md defines. Judges owners by its own arithmetic from the documents
//! in etcd, never by the gateways' code, so that a fault in that code can't hide itself.

mod client;
mod consumer;
mod documents;
mod message;
mod ownership;
mod plan;
mod publisher;
mod report;
mod run;
mod windows;

pub use client::Endpoint;
pub use documents::{EtcdPlace, KeyMap};
pub use plan::{Ownership, Plan, UnitPlan, units_of_lab};
pub(super) use report::print_table;
pub use run::measure;
pub use windows::{Window, Windows};

use super::LabError;
use super::checker::{Account, CheckerError, KEYS_MAX, MESSAGES_MAX};
use super::supervisor::Signals;
use std::path::PathBuf;
use std::process::ExitCode;

/// Largest body. RabbitMQ 4 takes no more than 16 MiB.
const BODY_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// `setgate-lab traffic`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Messages to publish, over all units; Ctrl-C or SIGTERM ends the publishing before, and the account is given
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=MESSAGES_MAX))]
    pub messages: u64,
    /// Distinct keys
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(KEYS_MAX)))]
    pub keys: u32,
    /// Messages a second, over all units; 0 = as fast as the confirms come
    #[arg(long, default_value_t = 0)]
    pub rate: u32,
    /// Bytes of a body; a body is never shorter than what identifies it, some 130 bytes
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(0..=BODY_BYTES_MAX))]
    pub size: u64,
    /// The source whose exchange is published to
    #[arg(long, default_value = "orders")]
    pub source: String,
    /// Expect each message once in every unit, as rules with `route: shared` have it
    #[arg(long)]
    pub shared: bool,
    /// Publish in this unit; may be given several times [default: every unit]
    #[arg(long, value_name = "UNIT")]
    pub from: Vec<String>,
    /// The header that carries the key
    #[arg(long, default_value = "uid", value_name = "NAME")]
    pub header: String,
    /// Folder of the running lab
    #[arg(long, default_value_os_t = super::fabric::default_dir(), value_name = "DIR")]
    pub dir: PathBuf,
    /// Seconds without anything new after which what is missing counts as lost
    #[arg(long, default_value_t = 15, value_name = "SECS")]
    pub settle: u64,
    /// `json`: one JSON document on the last line of standard output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How the account is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// A table for people.
    Text,
    /// One line for scripts.
    Json,
}

/// Why there is no account.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// `lab.json` can't be read.
    #[error(
        "can't read {path}: {source}\n  start a lab with `setgate-lab up`, or name its folder with --dir"
    )]
    LabFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `lab.json` isn't what `setgate-lab up` writes.
    #[error("{path} is no lab.json: {source}\n  start the lab anew with `setgate-lab up`")]
    LabShape {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Nothing to publish to or to consume from.
    #[error("the lab in {path} has no units\n  start the lab anew with `setgate-lab up`")]
    NoUnits {
        /// Which file.
        path: PathBuf,
    },
    /// A unit that the lab doesn't have.
    #[error("--from {unit}: no such unit; there are {known}")]
    UnknownUnit {
        /// As given.
        unit: String,
        /// What there is.
        known: String,
    },
    /// A broker's URI can't be read. Says nothing of the URI itself, which may hold a password.
    #[error("the broker's URI of unit {unit} can't be read: {cause}")]
    Uri {
        /// Whose.
        unit: String,
        /// Why.
        cause: String,
    },
    /// etcd can't be asked for the documents.
    #[error(
        "can't read {prefix} from etcd at {url}: {cause}\n  is the lab running? see `setgate-lab status`"
    )]
    Etcd {
        /// Of the endpoint asked last.
        url: String,
        /// What was asked for.
        prefix: String,
        /// Why.
        cause: String,
    },
    /// A document in etcd that this can't make sense of.
    #[error(
        "the document {key} in etcd can't be read: {cause}\n  `setgate rules validate` names the fault"
    )]
    Document {
        /// Its etcd key.
        key: String,
        /// Why.
        cause: String,
    },
    /// No such source in the documents.
    #[error(
        "no source {name} in etcd below {prefix}; there are: {known}\n  name one of them with --source"
    )]
    NoSource {
        /// As given.
        name: String,
        /// Where was looked.
        prefix: String,
        /// What there is.
        known: String,
    },
    /// The source takes from a queue, which nothing can be published to by its name alone.
    #[error("source {name} takes from a queue; traffic needs one that takes from an exchange")]
    QueueSource {
        /// As given.
        name: String,
    },
    /// None of a unit's brokers can be connected to.
    #[error(
        "can't connect to the broker of unit {unit}: {cause}\n  is it up? see `setgate-lab status`"
    )]
    Connect {
        /// Whose.
        unit: String,
        /// For each address, why.
        cause: String,
    },
    /// A connection or channel ended.
    #[error("the connection to {address} ended while {doing}: {source}")]
    Broker {
        /// Which.
        address: String,
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: lapin::Error,
    },
    /// The account can't be opened.
    #[error("can't keep an account of this run: {0}")]
    Account(#[source] CheckerError),
    /// A task of the run ended by a fault of its own.
    #[error("a client of the run broke off: {0}")]
    Task(#[source] tokio::task::JoinError),
    /// Signals can't be waited for.
    #[error("{0}")]
    Signals(#[source] Box<LabError>),
    /// A second signal, while what had been published was awaited.
    #[error("interrupted before all had arrived: there is no account")]
    Interrupted,
}

impl TrafficError {
    /// By the commands' convention: 1 faulty, 2 wrong usage, 3 unreachable.
    fn exit_code(&self) -> u8 {
        match self {
            Self::UnknownUnit { .. } | Self::NoSource { .. } | Self::Account(_) => 2,
            Self::Etcd { .. } | Self::Connect { .. } | Self::Broker { .. } => 3,
            Self::LabFile { .. }
            | Self::LabShape { .. }
            | Self::NoUnits { .. }
            | Self::Uri { .. }
            | Self::Document { .. }
            | Self::QueueSource { .. }
            | Self::Task(_)
            | Self::Signals(_)
            | Self::Interrupted => 1,
        }
    }
}

/// Runs the command: publishes, consumes, prints the account. 0 when nothing that the fabric promises was broken.
pub async fn run(args: Args) -> ExitCode {
    let result = match Plan::from_lab(&args).await {
        Ok(plan) => measure_until_told(plan).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(account) => {
            match args.output {
                Output::Text => report::print_table(&account),
                Output::Json => report::print_json(&account),
            }
            ExitCode::from(u8::from(!account.is_clean()))
        }
        Err(error) => {
            anstream::eprintln!("setgate-lab traffic: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// As [`measure`]. A first signal ends the publishing alone: what has been published by then is accounted for.
async fn measure_until_told(plan: Plan) -> Result<Account, TrafficError> {
    let mut signals = Signals::take().map_err(|error| TrafficError::Signals(Box::new(error)))?;
    let enough = plan.enough.clone();
    let mut measuring = std::pin::pin!(measure(plan));
    tokio::select! {
        account = &mut measuring => return account,
        () = signals.any() => {}
    }
    anstream::eprintln!(
        "\nsetgate-lab traffic: nothing more is published; what was is awaited (Ctrl-C again ends without an account)"
    );
    enough.cancel();
    tokio::select! {
        account = measuring => account,
        () = signals.any() => Err(TrafficError::Interrupted),
    }
}
