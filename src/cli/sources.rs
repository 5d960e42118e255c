//! `setgate sources`: what is done with one source as a whole.

use super::failure::Failure;
use super::{ended, parked, rules};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Take no more, carry what is there, delete the empty queues, and take the source out of the documents.
    Retire(rules::RetireArgs),
    /// Send what was shared before to a unit that is new.
    ///
    /// The messages come from a queue or stream of the same virtual host, into which the units' applications have kept
    /// them. The rules decide as they are now: what they send to all, or to units by name, goes to this unit alone.
    Backfill(parked::BackfillArgs),
}

pub(super) fn run(args: &Args) -> ExitCode {
    match &args.command {
        Command::Retire(args) => rules::retire(args),
        Command::Backfill(args) => {
            let done: Result<ExitCode, Failure> = parked::backfill(args);
            ended(&done, args.output())
        }
    }
}
