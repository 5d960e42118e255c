//! `setgate freeze` and `thaw`: maintenance, during which the coordinator takes over from nobody by itself.
//!
//! Promises that the status page shows what is frozen until it is thawed, and that a person's own moves go on.

use super::block_on;
use super::failure::Failure;
use super::moves::Asks;
use super::rules::{EtcdArgs, Format};
use super::tables;
use crate::etcd::{Commit, HistoryEntry, Key, Scope, SpaceView, Store, Transaction, write_history};
use crate::model::{Freeze, Frozen, UnitId};
use anstream::println;
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Have nobody take over from a unit by itself, or from any, while it is worked on.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The unit [default: every one].
    unit: Option<UnitId>,
    #[command(flatten)]
    asks: Asks,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What is to become of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nobody takes over.
    Freeze,
    /// The topology's policy holds again.
    Thaw,
}

impl Args {
    pub(super) fn output(&self) -> Format {
        self.output
    }
}

pub(super) fn run(args: &Args, wish: Wish) -> Result<ExitCode, Failure> {
    block_on(change(args, wish))
}

async fn change(args: &Args, wish: Wish) -> Result<ExitCode, Failure> {
    let (who, why) = args.asks.checked()?;
    let (etcd, space) = args.etcd.resolve()?;
    let store = Store::connect(&etcd, &space).await?;
    let table = tables::of_etcd(&store, &space).await?;
    if let Some(unit) = args.unit.as_ref().filter(|unit| table.unit(unit).is_none()) {
        return Err(Failure::Refused(format!("there is no unit {unit}")));
    }
    let snapshot = store.read(Scope::Ownership).await?;
    let mut frozen = SpaceView::of(&snapshot).frozen();
    let what = args.unit.as_ref().map_or("every unit", UnitId::as_str);
    let at = jiff::Timestamp::now().to_string();
    let freeze = Freeze {
        who: who.clone(),
        why: why.clone(),
        at: at.clone(),
    };
    let (verb, was) = match (wish, &args.unit) {
        (Wish::Freeze, None) => ("freeze", frozen.all.replace(freeze)),
        (Wish::Freeze, Some(unit)) => ("freeze", frozen.units.insert(unit.clone(), freeze)),
        (Wish::Thaw, None) => ("thaw", frozen.all.take()),
        (Wish::Thaw, Some(unit)) => ("thaw", frozen.units.remove(unit)),
    };
    if wish == Wish::Thaw && was.is_none() {
        return Err(Failure::Refused(format!(
            "{what} isn't frozen; `setgate status` says what is"
        )));
    }
    let entry = HistoryEntry {
        who,
        why: format!("{verb} takeovers of {what}: {why}"),
        at,
        before: BTreeMap::new(),
    };
    let mut transaction = Transaction::new().unchanged(&Key::Frozen, &snapshot);
    transaction = if frozen == Frozen::default() {
        transaction.delete(&Key::Frozen)
    } else {
        transaction.put(
            &Key::Frozen,
            serde_json::to_vec(&frozen).unwrap_or_default(),
        )
    };
    if store
        .commit(&transaction.and(write_history(&entry)))
        .await?
        == Commit::Conflict
    {
        return Err(Failure::Refused(
            "somebody else has frozen or thawed something meanwhile; nothing was changed: look at `setgate status`, then ask again"
                .to_owned(),
        ));
    }
    match args.output {
        Format::Text if wish == Wish::Freeze => println!(
            "nobody takes over from {what} by itself, until `setgate thaw`; moves that persons ask for go on"
        ),
        Format::Text => println!("{what} is thawed: the topology's policy holds again"),
        Format::Json => println!("{}", serde_json::to_string(&frozen).unwrap_or_default()),
    }
    Ok(ExitCode::SUCCESS)
}
