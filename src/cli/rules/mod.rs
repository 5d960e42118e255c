//! `setgate rules`: validate, diff, apply, get, and go back to earlier routing documents.
//!
//! Owns the flags, the exit codes (0 done, 1 refused, faulty or different, 2 wrong usage, 3 unreachable) and what is printed.
//! Promises that `apply` changes nothing unless everything is valid and nobody else has changed the documents meanwhile.

mod apply;
mod check;
mod excerpt;
mod expectations;
mod get;
mod gray;
mod history;
mod print;
mod reach;
mod retire;
mod target;

pub(super) use apply::who;
pub(super) use gray::{GrayStep, Step};
pub use retire::RetireArgs;
pub use target::EtcdArgs;

use crate::etcd::EtcdError;
use crate::gateway::feed::FolderError;
use crate::model::Revision;
use crate::rules::{DocumentFile, Validation};
use print::Printer;
use std::path::PathBuf;
use std::process::ExitCode;

/// Routing documents: check, compare, apply, read back.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Name every fault of a folder, with file, line and mend.
    Validate(ValidateArgs),
    /// Show what applying a folder would change.
    Diff(DiffArgs),
    /// Put a folder in force, in one transaction.
    Apply(ApplyArgs),
    /// Read the documents back, with the live placement.
    Get(GetArgs),
    /// Route the messages of a folder's *.test.yaml files, and compare with what is expected of each.
    Test(TestArgs),
    /// Print the JSON Schema of the documents, for editors.
    Schema,
    /// Who changed what and why, the newest first.
    History(HistoryArgs),
    /// What was in force at a revision, and what changed there.
    Show(ShowArgs),
    /// Put in force again what was at a revision; a change like any other.
    Rollback(RollbackArgs),
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON document, on the last line of standard output.
    Json,
}

#[derive(Debug, clap::Args)]
struct ValidateArgs {
    /// The folder; its flat *.yaml files count.
    dir: PathBuf,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
struct TestArgs {
    /// The folder of the rules and of their *.test.yaml files.
    dir: PathBuf,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
struct DiffArgs {
    /// The folder; its flat *.yaml files count.
    dir: PathBuf,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
struct ApplyArgs {
    /// The folder; its flat *.yaml files count.
    dir: PathBuf,
    /// Why, for the history.
    #[arg(short = 'm', long = "message", value_name = "WHY")]
    why: String,
    /// Validate and show the difference; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Remove the files that etcd has and the folder hasn't.
    #[arg(long)]
    prune: bool,
    /// Refuse if anything has changed after this revision, as `get` and `diff` print it.
    #[arg(long, value_name = "REVISION")]
    expect_revision: Option<i64>,
    /// Apply a change of owners at once: messages of one key may overtake each other.
    #[arg(long)]
    unordered: bool,
    /// Who, for the history.
    #[arg(long, env = "USER", hide = true)]
    who: Option<String>,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
struct GetArgs {
    /// Write the files there instead of printing them.
    dir: Option<PathBuf>,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
struct HistoryArgs {
    /// So many changes.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    count: usize,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// As `history` lists it.
    revision: i64,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
struct RollbackArgs {
    /// As `history` lists it.
    revision: i64,
    /// Why, for the history.
    #[arg(short = 'm', long = "message", value_name = "WHY")]
    why: String,
    /// Validate and show the difference; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Apply a change of owners at once: messages of one key may overtake each other.
    #[arg(long)]
    unordered: bool,
    /// Who, for the history.
    #[arg(long, env = "USER", hide = true)]
    who: Option<String>,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// How a command ended that did what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Done,
    /// Different, for `diff`.
    Different,
}

/// Why it didn't.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("the documents have faults")]
    Faulty(Validation),
    #[error("gateway.yaml has faults")]
    Config(Vec<crate::gateway::config::ConfigFault>),
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    #[error(
        "somebody else has changed the documents of the space since they were read (revision {0}); nothing was changed: look \
         with `setgate rules diff`, then apply again"
    )]
    Conflict(Revision),
    #[error(
        "the documents have changed since revision {expected} (the newest is of revision {newest}); nothing was changed: \
         look with `setgate rules diff`, then apply again with the revision that it prints"
    )]
    Unexpected {
        expected: Revision,
        newest: Revision,
    },
    #[error("{0}")]
    Refused(String),
}

impl Failure {
    pub(in crate::cli) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Etcd(error) if error.is_unreachable() => 3,
            Self::Folder(_)
            | Self::Faulty(_)
            | Self::Config(_)
            | Self::Etcd(_)
            | Self::Conflict(_)
            | Self::Unexpected { .. }
            | Self::Refused(_) => 1,
        }
    }
}

/// Runs a command to its exit code.
pub fn run(args: Args) -> ExitCode {
    let output = match &args.command {
        Command::Validate(args) => args.output,
        Command::Diff(args) => args.output,
        Command::Apply(args) => args.output,
        Command::Get(args) => args.output,
        Command::Schema => Format::Text,
        Command::Test(args) => args.output,
        Command::History(args) => args.output,
        Command::Show(args) => args.output,
        Command::Rollback(args) => args.output,
    };
    let printer = Printer::new(output);
    let ended = match args.command {
        Command::Validate(args) => check::validate(&args, &printer),
        Command::Diff(args) => block_on(check::diff(&args, &printer)),
        Command::Apply(args) => block_on(apply::apply(&args, &printer)),
        Command::Get(args) => block_on(get::get(&args, &printer)),
        Command::Test(args) => expectations::test(&args, &printer),
        Command::Schema => {
            let schema = crate::rules::schema();
            printer.say(serde_json::to_string_pretty(&schema).unwrap_or_default());
            Ok(Ended::Done)
        }
        Command::History(args) => block_on(history::history(&args, &printer)),
        Command::Show(args) => block_on(history::show(&args, &printer)),
        Command::Rollback(args) => block_on(history::rollback(&args, &printer)),
    };
    exit_code(ended, &printer)
}

/// Asks for a gray step, or says what it would do, to the exit code.
pub(in crate::cli) fn gray(step: &Step<'_>, output: Format) -> ExitCode {
    let printer = Printer::new(output);
    exit_code(block_on(gray::gray(step, &printer)), &printer)
}

/// Retires a source, to the exit code.
pub(in crate::cli) fn retire(args: &RetireArgs) -> ExitCode {
    let printer = Printer::new(args.output);
    exit_code(block_on(retire::retire(args, &printer)), &printer)
}

fn exit_code(ended: Result<Ended, Failure>, printer: &Printer) -> ExitCode {
    match ended {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::Different) => ExitCode::from(1),
        Err(failure) => {
            printer.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// These commands are a few round trips: one thread is enough.
fn block_on(command: impl Future<Output = Result<Ended, Failure>>) -> Result<Ended, Failure> {
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

fn by_name(files: &[DocumentFile]) -> crate::etcd::Files {
    files
        .iter()
        .map(|file| (file.name.clone(), file.text.clone()))
        .collect()
}
