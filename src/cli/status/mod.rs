//! `setgate status`: units, gateways, links and lanes of a space, by what its gateways answer.
//!
//! etcd says which gateways there are; each is asked by itself. With etcd away, the gateway of `--config` says what it
//! knows.

mod print;

pub(super) use print::table;

use super::ask::{self, Known};
use super::failure::Failure;
use super::rules::{EtcdArgs, Format};
use super::{block_on, load_config};
use crate::etcd::Store;
use crate::gateway::config::{Config, RulesFrom};
use crate::gateway::status::{SpaceStatus, StatusFault, UpDown, assemble};
use anstream::println;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

/// How often `--watch` looks again.
const WATCH_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Look again every two seconds, until Ctrl-C.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let config = args.etcd.config().map(load_config).transpose()?;
    block_on(async {
        loop {
            let looked = look(args, config.as_ref()).await;
            if !args.watch {
                show(&looked?, args.output)?;
                return Ok(ExitCode::SUCCESS);
            }
            match looked {
                Ok(status) => {
                    if args.output == Format::Text && std::io::stdout().is_terminal() {
                        // Clears the screen and goes to its first line.
                        print!("\x1b[2J\x1b[H");
                    }
                    show(&status, args.output)?;
                }
                // What can't be reached now may be in two seconds.
                Err(failure @ Failure::Unreachable(_)) => failure.print(Format::Text),
                Err(failure) => return Err(failure),
            }
            tokio::time::sleep(WATCH_EVERY).await;
        }
    })
}

fn show(status: &SpaceStatus, output: Format) -> Result<(), Failure> {
    match output {
        Format::Text => println!("{}", print::text(status)),
        Format::Json => match serde_json::to_string(status) {
            Ok(text) => println!("{text}"),
            Err(error) => return Err(Failure::Refused(format!("can't write JSON: {error}"))),
        },
    }
    Ok(())
}

async fn look(args: &Args, config: Option<&Config>) -> Result<SpaceStatus, Failure> {
    if let Some(config) = config
        && matches!(config.rules, RulesFrom::Dir(_))
    {
        return alone(config, None).await;
    }
    let (etcd, space) = args.etcd.resolve()?;
    let known = match Store::connect(&etcd, &space).await {
        Ok(store) => ask::gateways(&store).await,
        Err(error) => Err(error.into()),
    };
    match (known, config) {
        (Ok(known), _) => Ok(assemble(&space, UpDown::Up, &ask::statuses(known).await)),
        (Err(Failure::Unreachable(cause)), Some(config)) => alone(config, Some(cause)).await,
        (Err(failure), _) => Err(failure),
    }
}

/// What the gateway of this configuration knows. `etcd` is why etcd could not be asked.
async fn alone(config: &Config, etcd: Option<String>) -> Result<SpaceStatus, Failure> {
    let known = Known {
        unit: config.unit.clone(),
        gateway: config.gateway.clone(),
        admin: Ok(config.admin.listen.to_string()),
    };
    let asked = ask::statuses(vec![known]).await;
    if let Some(Err(cause)) = asked.first().map(|one| &one.answer) {
        let etcd = etcd.map_or_else(String::new, |cause| format!("{cause}; and "));
        return Err(Failure::Unreachable(format!(
            "{etcd}{cause}; start the gateway with `setgate run`, or look where it runs"
        )));
    }
    let word = if etcd.is_some() {
        UpDown::Down
    } else {
        UpDown::Up
    };
    let mut status = assemble(&config.space, word, &asked);
    if let Some(cause) = etcd {
        status.faults.push(StatusFault {
            subject: "etcd".to_owned(),
            message: cause,
            mend: "this is what one gateway knows; the others are not shown".to_owned(),
        });
    }
    Ok(status)
}
