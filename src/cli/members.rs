//! `setgate members`: the gateways that a space knows of, and taking one out that won't come back.
//!
//! A move waits for every member, so one that is gone for good has to be retired by a person. Promises that a gateway which
//! holds its lease isn't retired.

use super::block_on;
use super::failure::Failure;
use super::moves::Asks;
use super::rules::{EtcdArgs, Format};
use crate::etcd::{Commit, HistoryEntry, Key, Scope, SpaceView, Store, Transaction, write_history};
use crate::model::{GatewayId, UnitId};
use anstream::println;
use serde_json::json;
use std::collections::BTreeMap;
use std::process::ExitCode;

/// List the gateways of a space, and retire those that are gone for good.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Every registered gateway, and whether it runs.
    List(List),
    /// Forget a gateway that doesn't run and won't come back: moves don't wait for it any more.
    Retire(Retire),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
struct Retire {
    /// Which, for example sh-1/sh-1-a.
    #[arg(value_name = "UNIT/GATEWAY", value_parser = member)]
    member: (UnitId, GatewayId),
    #[command(flatten)]
    asks: Asks,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

fn member(text: &str) -> Result<(UnitId, GatewayId), String> {
    let (unit, gateway) = text
        .split_once('/')
        .ok_or("write it as UNIT/GATEWAY, for example sh-1/sh-1-a")?;
    let unit = UnitId::parse(unit).map_err(|error| error.to_string())?;
    let gateway = GatewayId::parse(gateway).map_err(|error| error.to_string())?;
    Ok((unit, gateway))
}

impl Args {
    pub(super) fn output(&self) -> Format {
        match &self.command {
            Command::List(list) => list.output,
            Command::Retire(retire) => retire.output,
        }
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    block_on(async {
        match &args.command {
            Command::List(args) => list(args).await,
            Command::Retire(args) => retire(args).await,
        }
    })
}

async fn list(args: &List) -> Result<ExitCode, Failure> {
    let (etcd, space) = args.etcd.resolve()?;
    let store = Store::connect(&etcd, &space).await?;
    let snapshot = store.read(Scope::Registrations).await?;
    let view = SpaceView::of(&snapshot);
    let gateways = view.gateways();
    let runs = |unit: &UnitId, gateway: &GatewayId| {
        let of_unit = gateways.get(unit);
        of_unit.is_some_and(|records| records.contains_key(gateway))
    };
    let members = view.members();
    match args.output {
        Format::Text => {
            for (unit, gateway) in &members {
                let state = if runs(unit, gateway) { "runs" } else { "away" };
                println!("{unit}/{gateway}  {state}");
            }
        }
        Format::Json => {
            let members: Vec<_> = members
                .iter()
                .map(|(unit, gateway)| {
                    json!({"unit": unit, "gateway": gateway, "runs": runs(unit, gateway)})
                })
                .collect();
            println!("{}", json!({"members": members}));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn retire(args: &Retire) -> Result<ExitCode, Failure> {
    let (who, why) = args.asks.checked()?;
    let (unit, gateway) = &args.member;
    let (etcd, space) = args.etcd.resolve()?;
    let store = Store::connect(&etcd, &space).await?;
    let snapshot = store.read(Scope::Registrations).await?;
    let view = SpaceView::of(&snapshot);
    if !view.members().contains(&args.member) {
        return Err(Failure::Refused(format!(
            "{space} knows no gateway {unit}/{gateway}; see `setgate members list`"
        )));
    }
    let entry = HistoryEntry {
        who,
        why: format!("retire gateway {unit}/{gateway}: {why}"),
        at: jiff::Timestamp::now().to_string(),
        before: BTreeMap::new(),
    };
    let transaction = Transaction::new()
        .absent(&Key::Gateway(unit, gateway))
        .unchanged(&Key::Member(unit, gateway), &snapshot)
        .delete(&Key::Member(unit, gateway))
        .and(write_history(&entry));
    match store.commit(&transaction).await? {
        Commit::Done(_) => {}
        Commit::Conflict => {
            return Err(Failure::Refused(format!(
                "{unit}/{gateway} holds its lease in etcd: stop it first, then wait for some seconds"
            )));
        }
    }
    match args.output {
        Format::Text => println!(
            "{unit}/{gateway} is retired; should it start again after all, it registers anew"
        ),
        Format::Json => println!("{}", json!({"retired": format!("{unit}/{gateway}")})),
    }
    Ok(ExitCode::SUCCESS)
}
