//! `setgate-lab`: a whole multi-site fabric on one machine.

use clap::Parser;
use setgate::lab::commands;
use std::process::ExitCode;

/// A multi-site setgate fabric on this machine: real RabbitMQ and etcd, gateways, WAN delay and cuts
#[derive(Debug, Parser)]
#[command(name = "setgate-lab", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: commands::Command,
}

#[tokio::main]
async fn main() -> ExitCode {
    commands::run(Cli::parse().command).await
}
