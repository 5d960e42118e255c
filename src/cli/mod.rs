//! The operator's commands.
//!
//! Owns the command line, the exit codes (0 done, 1 refused, faulty or different, 2 wrong usage, 3 unreachable) and what
//! is printed. Promises that each error is a line that says what was being done, with which address or file, and the
//! mend, and that `-o json` prints one JSON document on the last line of standard output. Never shows a secret.

mod ask;
mod check;
mod explain;
mod failure;
mod freeze;
mod import;
mod members;
mod moves;
mod parked;
pub mod rules;
mod run;
mod sources;
mod status;
mod tables;

use crate::gateway::config::{Config, Surroundings};
use failure::Failure;
use std::path::Path;
use std::process::ExitCode;

/// Routes RabbitMQ messages between data centers to the unit that owns their key.
#[derive(Debug, clap::Parser)]
#[command(
    name = "setgate",
    version,
    max_term_width = 100,
    propagate_version = true
)]
#[command(
    after_help = "Exit codes: 0 done, 1 refused, faulty or different, 2 wrong usage, 3 unreachable (try again)."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run a gateway until SIGTERM or SIGINT.
    Run(run::Args),
    /// Check a gateway's configuration and everything that it needs, and change nothing.
    Check(check::Args),
    /// Check, compare, apply and read back routing documents.
    Rules(rules::Args),
    /// Take a source out of service, or send what it has shared to a new unit.
    Sources(sources::Args),
    /// Say where a message would go, and why.
    Explain(explain::Args),
    /// Make documents of RabbitMQ's federation and shovels, from its definitions export.
    Import(import::Args),
    /// Show units, gateways, links and lanes of a space.
    Status(status::Args),
    /// Give slots, a key or what a source's rules lead to other owners, under traffic.
    Move(moves::Args),
    /// Have another unit take over from one that is lost.
    Failover(moves::FailoverArgs),
    /// Give a unit its seat back.
    Failback(moves::FailbackArgs),
    /// Have nobody take over from a unit by itself, or from any, while it is worked on.
    Freeze(freeze::Args),
    /// Let the topology's policy hold again for a unit that was frozen, or for all.
    Thaw(freeze::Args),
    /// List the gateways of a space, and retire those that are gone for good.
    Members(members::Args),
    /// List, show, retry and drop messages that need a person.
    Parked(parked::Args),
}

/// Runs a command to its exit code.
pub fn run(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => ended(&check::run(&args), args.output),
        Command::Rules(args) => rules::run(args),
        Command::Sources(args) => sources::run(&args),
        Command::Explain(args) => ended(&explain::run(&args), args.output),
        Command::Import(args) => ended(&import::run(&args), rules::Format::Text),
        Command::Status(args) => ended(&status::run(&args), args.output),
        Command::Move(args) => ended(&moves::run(&args), args.output()),
        Command::Failover(args) => ended(&moves::failover(&args), args.output()),
        Command::Failback(args) => ended(&moves::failback(&args), args.output()),
        Command::Freeze(args) => {
            let frozen = freeze::run(&args, freeze::Wish::Freeze);
            ended(&frozen, args.output())
        }
        Command::Thaw(args) => ended(&freeze::run(&args, freeze::Wish::Thaw), args.output()),
        Command::Members(args) => ended(&members::run(&args), args.output()),
        Command::Parked(args) => ended(&parked::run(&args), args.output()),
    }
}

fn ended(result: &Result<ExitCode, Failure>, output: rules::Format) -> ExitCode {
    match result {
        Ok(code) => *code,
        Err(failure) => {
            failure.print(output);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// The process's own environment and host name: read here, an argument everywhere else.
fn surroundings() -> Surroundings {
    let text = |text: std::ffi::OsString| text.into_string().ok();
    Surroundings {
        variables: std::env::vars_os()
            .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
            .collect(),
        host_name: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
    }
}

fn load_config(path: &Path) -> Result<Config, Failure> {
    Config::load(path, &surroundings()).map_err(Failure::Config)
}

/// These commands are a few round trips: one thread is enough.
fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => Err(Failure::Refused(format!(
            "can't start an event loop: {error}"
        ))),
    }
}
