//! `setgate run`: one gateway, from its configuration to the end of its last lane.
//!
//! A faulty configuration or a busy port ends it at once with exit code 1. An absent broker, etcd or peer doesn't: the
//! gateway goes on trying and `/readyz` says why it isn't ready.

use super::{load_config, rules};
use crate::admin::{self, AdminError, AdminState};
use crate::gateway::config::{Config, LogFormat, LogPart};
use crate::gateway::{Gateway, RunError, raise_descriptor_limit};
use anstream::eprintln;
use std::io::IsTerminal as _;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The gateway's configuration.
    #[arg(long, value_name = "gateway.yaml")]
    config: PathBuf,
}

/// Why a gateway ended with an error.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Gateway(#[from] RunError),
    #[error("can't wait for signals: {0}; report this")]
    Signals(std::io::Error),
    #[error("ended by a second signal before the lanes had settled; what they held comes again")]
    SecondSignal,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let config = match load_config(&args.config) {
        Ok(config) => config,
        Err(failure) => {
            failure.print(rules::Format::Text);
            return ExitCode::from(failure.exit_code());
        }
    };
    start_log(&config.log);
    for warning in &config.warnings {
        tracing::warn!(warning, "the configuration can be read, but look at this");
    }
    raise_descriptor_limit();
    let ended = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .enable_all()
        .build()
        .map_err(Stopped::Signals)
        .and_then(|runtime| runtime.block_on(gateway(config)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Half of the cores, one at least: what passes from one worker to another costs both, and brokers make more of the rest.
fn workers() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    (cores / 2).max(1)
}

fn start_log(log: &LogPart) {
    // The configuration has checked the level; what a later version of the filter refuses is no reason not to run.
    // The client library shouts what the gateway says itself, and shows whole returned messages, bodies and all.
    let level = format!("lapin=off,{}", log.level);
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("lapin=off,info"));
    let output = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A subscriber is there already only where a test has put one.
    let _ = match log.format {
        LogFormat::Text => output.try_init(),
        LogFormat::Json => output.json().try_init(),
    };
}

async fn gateway(config: Config) -> Result<(), Stopped> {
    let terminate = signal(SignalKind::terminate()).map_err(Stopped::Signals)?;
    let interrupt = signal(SignalKind::interrupt()).map_err(Stopped::Signals)?;
    let listener = admin::bind(config.admin.listen).await?;
    let gateway = Gateway::open(config).await?;
    let table = gateway.table();
    let config = gateway.config();
    let state = AdminState {
        unit: config.unit.clone(),
        status: gateway.status(),
        metrics: gateway.metrics(),
        table: Arc::new(move || table.table()),
        parked: gateway.parked(),
        token: config.admin.token.clone(),
    };
    tracing::info!(
        space = %config.space,
        unit = %config.unit,
        gateway = %config.gateway,
        link = %config.link.listen,
        admin = %config.admin.listen,
        version = env!("CARGO_PKG_VERSION"),
        "the gateway has started",
    );
    let (stop, admin_stop) = (CancellationToken::new(), CancellationToken::new());
    // The admin endpoint outlives the lanes: what is going on while they settle is worth seeing.
    let work = async {
        tokio::join!(admin::serve(listener, state, admin_stop.clone()), async {
            gateway.run(stop.clone()).await;
            admin_stop.cancel();
        });
    };
    tokio::select! {
        () = work => {
            tracing::info!("the gateway has ended");
            Ok(())
        }
        () = signals(terminate, interrupt, &stop) => Err(Stopped::SecondSignal),
    }
}

/// The first signal asks for an orderly end; returns at the second.
async fn signals(mut terminate: Signal, mut interrupt: Signal, stop: &CancellationToken) {
    for first in [true, false] {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if first {
            tracing::info!(
                "asked to end: the lanes settle what they hold; a second signal ends at once"
            );
            stop.cancel();
        }
    }
}
