//! `setgate`: the gateway and its operator's commands.

use clap::Parser as _;
use setgate::cli::{self, Cli};
use std::process::ExitCode;

/// Messages are many small allocations, made on one thread and freed on another: what this allocator is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(Cli::parse())
}
