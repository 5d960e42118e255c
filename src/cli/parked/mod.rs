//! `setgate parked`: what lies in the parks of a space, and what is to become of it.
//!
//! etcd says which gateways there are; of each unit one is asked, the next one where the first doesn't answer. Promises
//! that `drop` drops nothing unless the count that was named is the one that all units together find.

mod asked;
mod backfill;
mod print;
mod units;

use super::failure::Failure;
use super::rules::{EtcdArgs, Format};
use super::{block_on, load_config};
use crate::admin::{DropAsk, LISTED};
use crate::gateway::parked::{Dropped, Listing, Retried, RetryAsk};
use crate::model::UnitId;
use anstream::{eprintln, println};
use asked::{FilterArgs, Rate};
pub(super) use backfill::{Args as BackfillArgs, run as backfill};
use hyper::Method;
use secrecy::SecretString;
use serde::Serialize;
use serde_json::json;
use std::process::ExitCode;
use units::{Answer, Tokens, Unit, Units};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List parked messages, oldest first.
    List(ListArgs),
    /// Show one: its marks, its properties, the first 4 KiB of its body.
    Show(ShowArgs),
    /// Give messages back to the sources that took them, in order; they are routed by the rules as they are now.
    Retry(RetryArgs),
    /// Delete messages for good.
    Drop(DropArgs),
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Of this unit alone.
    #[arg(long, value_name = "UNIT")]
    unit: Option<UnitId>,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
struct TokenArgs {
    /// The file with the gateways' admin token, or with that of one unit's gateways; may be repeated. By default that of
    /// --config.
    #[arg(long, value_name = "[UNIT=]FILE")]
    token_file: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// List this many of each unit at most.
    #[arg(long, value_name = "N", default_value_t = LISTED)]
    limit: usize,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// Its id, or its handle.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct RetryArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// At most so many a second, such as 100/s.
    #[arg(long, value_name = "N/s")]
    rate: Option<Rate>,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct DropArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// How many are to be dropped: exactly as many as match.
    #[arg(long, value_name = "N")]
    count: u64,
    #[command(flatten)]
    token: TokenArgs,
    #[command(flatten)]
    common: Common,
}

impl Args {
    pub(super) fn output(&self) -> Format {
        match &self.command {
            Command::List(args) => args.common.output,
            Command::Show(args) => args.common.output,
            Command::Retry(args) => args.common.output,
            Command::Drop(args) => args.common.output,
        }
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    block_on(async {
        match &args.command {
            Command::List(args) => list(args).await,
            Command::Show(args) => show(args).await,
            Command::Retry(args) => retry(args).await,
            Command::Drop(args) => drop_all(args).await,
        }
    })
}

async fn list(args: &ListArgs) -> Result<ExitCode, Failure> {
    let units = Units::find(
        &args.common.etcd,
        args.common.unit.as_ref(),
        Tokens::default(),
    )
    .await?;
    let path = format!("/v1/parked?limit={}&{}", args.limit, args.filter.query());
    let (listings, silent) = listings(&units, &path).await?;
    let (mut entries, mut matched, mut unseen) = (Vec::new(), 0, 0);
    for (_, listing) in listings {
        matched += listing.matched;
        unseen += listing.unseen;
        entries.extend(listing.entries);
    }
    // Each unit's are in order; people want the oldest of all first.
    entries.sort_by(|a, b| a.at.cmp(&b.at));
    let more = matched.saturating_sub(entries.len() as u64);
    match args.common.output {
        Format::Text => println!("{}", print::list(&entries)),
        Format::Json => println!("{}", to_json(&entries)?),
    }
    if more > 0 {
        eprintln!("{more} more match: name a filter, or a higher --limit");
    }
    if unseen > 0 {
        eprintln!(
            "{unseen} more messages were not looked at: retry or drop some of those before them"
        );
    }
    Ok(ended(&silent))
}

async fn show(args: &ShowArgs) -> Result<ExitCode, Failure> {
    let tokens = tokens(&args.token, &args.common.etcd)?;
    let units = Units::find(&args.common.etcd, args.common.unit.as_ref(), tokens).await?;
    let id = asked::escaped(&args.id);
    let (listings, mut silent) = listings(&units, &format!("/v1/parked?limit=0&id={id}")).await?;
    let path = format!("/v1/parked/show?id={id}");
    for (unit, _) in listings.iter().filter(|(_, found)| found.matched > 0) {
        match units.ask(unit, Method::GET, &path, Vec::new()).await? {
            Answer::Done(shown) => {
                let shown: serde_json::Value = units::read(&shown, unit)?;
                match args.common.output {
                    Format::Text => println!("{}", print::shown(&shown)),
                    Format::Json => println!("{}", to_json(&shown)?),
                }
                return Ok(ExitCode::SUCCESS);
            }
            Answer::Unknown => {}
            Answer::Silent(cause) => silent.push(cause),
            Answer::Refused { text } => return Err(Failure::Refused(text)),
        }
    }
    if silent.is_empty() {
        return Err(Failure::Refused(format!(
            "no parked message has the id or handle {:?}; see `setgate parked list`",
            args.id
        )));
    }
    Err(Failure::Unreachable(silent.join("; ")))
}

/// What became of the messages of one unit.
#[derive(Debug, Serialize)]
struct UnitRetried {
    unit: UnitId,
    #[serde(flatten)]
    retried: Retried,
}

async fn retry(args: &RetryArgs) -> Result<ExitCode, Failure> {
    let tokens = tokens(&args.token, &args.common.etcd)?;
    let units = Units::find(&args.common.etcd, args.common.unit.as_ref(), tokens).await?;
    let path = format!("/v1/parked?limit=0&{}", args.filter.query());
    let (listings, mut silent) = listings(&units, &path).await?;
    let mut results = Vec::new();
    let may_have = |found: &Listing| found.matched > 0 || found.unseen > 0;
    for (unit, _) in listings.iter().filter(|(_, found)| may_have(found)) {
        let ask = RetryAsk {
            filter: args.filter.filter(),
            rate: args.rate.map(Rate::per_second),
            left: None,
        };
        match retry_in(&units, unit, ask).await? {
            Ok(retried) => results.push(retried),
            Err(cause) => silent.push(cause),
        }
    }
    let sum: u64 = results.iter().map(|one| one.retried.retried).sum();
    match args.common.output {
        Format::Text => {
            println!("{sum} retried");
            for UnitRetried { unit, retried } in &results {
                for (why, count) in &retried.skipped {
                    println!("{unit}: {count} stay: {why}");
                }
            }
        }
        Format::Json => println!("{}", to_json(&json!({"retried": sum, "units": results}))?),
    }
    let failed = results.iter().filter_map(|one| {
        let cause = one.retried.failed.as_ref()?;
        Some(format!("{}: {cause}", one.unit))
    });
    let failed: Vec<String> = failed.collect();
    for cause in &failed {
        eprintln!("error: {cause}; what was not retried lies in the park as before");
    }
    let stay = results.iter().any(|one| !one.retried.skipped.is_empty());
    let code = ended(&silent);
    Ok(if failed.is_empty() && !stay {
        code
    } else {
        ExitCode::from(1)
    })
}

/// Asks until nothing is left: a gateway answers within a minute, however much there is.
async fn retry_in(
    units: &Units,
    unit: &Unit,
    mut ask: RetryAsk,
) -> Result<Result<UnitRetried, String>, Failure> {
    let mut whole = Retried::default();
    loop {
        let body = to_json(&ask)?.into_bytes();
        let slice: Retried = match units
            .ask(unit, Method::POST, "/v1/parked/retry", body)
            .await?
        {
            Answer::Done(slice) => units::read(&slice, unit)?,
            Answer::Refused { text } => Retried {
                failed: Some(text),
                ..Retried::default()
            },
            Answer::Unknown => Retried::default(),
            Answer::Silent(cause) if whole.retried == 0 => return Ok(Err(cause)),
            Answer::Silent(cause) => Retried {
                failed: Some(cause),
                ..Retried::default()
            },
        };
        whole.retried += slice.retried;
        for (why, count) in slice.skipped {
            *whole.skipped.entry(why).or_default() += count;
        }
        whole.failed = slice.failed;
        whole.left = slice.left;
        if whole.failed.is_none() && !whole.left.is_empty() && slice.retried == 0 {
            let left: u64 = whole.left.values().sum();
            whole.failed = Some(format!(
                "{left} messages could not be looked at: somebody else holds them, or too many that are not meant lie before them"
            ));
        }
        if whole.failed.is_some() || whole.left.is_empty() {
            let unit = unit.name.clone();
            return Ok(Ok(UnitRetried {
                unit,
                retried: whole,
            }));
        }
        ask.left = Some(whole.left.clone());
    }
}

async fn drop_all(args: &DropArgs) -> Result<ExitCode, Failure> {
    let tokens = tokens(&args.token, &args.common.etcd)?;
    let units = Units::find(&args.common.etcd, args.common.unit.as_ref(), tokens).await?;
    let path = format!("/v1/parked?limit=0&{}", args.filter.query());
    let (listings, silent) = listings(&units, &path).await?;
    if !silent.is_empty() {
        let silent = silent.join("; ");
        return Err(Failure::Unreachable(format!(
            "{silent}; nothing was dropped, since what lies there can't be counted (--unit U leaves the others out)"
        )));
    }
    let found: u64 = listings.iter().map(|(_, listing)| listing.matched).sum();
    if found != args.count {
        return Err(Failure::Refused(format!(
            "{found} match, not {}; nothing was dropped; look at them with `setgate parked list`, then name the count that is meant",
            args.count
        )));
    }
    let mut dropped = 0;
    for (unit, listing) in &listings {
        if listing.matched == 0 {
            continue;
        }
        let ask = DropAsk {
            filter: args.filter.filter(),
            count: listing.matched,
        };
        let body = to_json(&ask)?.into_bytes();
        let before = format!("{dropped} were dropped before");
        match units
            .ask(unit, Method::POST, "/v1/parked/drop", body)
            .await?
        {
            Answer::Done(answer) => dropped += units::read::<Dropped>(&answer, unit)?.dropped,
            Answer::Unknown => {}
            Answer::Silent(cause) => {
                return Err(Failure::Unreachable(format!("{cause}; {before}")));
            }
            Answer::Refused { text } => {
                return Err(Failure::Refused(format!("{text}; {before}")));
            }
        }
    }
    match args.common.output {
        Format::Text => println!("{dropped} dropped"),
        Format::Json => println!("{}", to_json(&json!({"dropped": dropped}))?),
    }
    Ok(ExitCode::SUCCESS)
}

/// Of all units that answer, in their order, and why the others don't.
async fn listings<'a>(
    units: &'a Units,
    path: &str,
) -> Result<(Vec<(&'a Unit, Listing)>, Vec<String>), Failure> {
    let (mut listings, mut silent) = (Vec::new(), Vec::new());
    let answers = units.ask_all(Method::GET, path).await?;
    for (unit, answer) in units.all.iter().zip(answers) {
        match answer {
            Answer::Done(listing) => listings.push((unit, units::read(&listing, unit)?)),
            Answer::Unknown => {}
            Answer::Silent(cause) => silent.push(cause),
            Answer::Refused { text } => return Err(Failure::Refused(text)),
        }
    }
    Ok((listings, silent))
}

/// What is printed is true, but not all: that is told beside it.
fn ended(silent: &[String]) -> ExitCode {
    for cause in silent {
        eprintln!("error: {cause}");
    }
    if silent.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(3)
    }
}

fn tokens(args: &TokenArgs, etcd: &EtcdArgs) -> Result<Tokens, Failure> {
    let mut tokens = Tokens::default();
    for named in &args.token_file {
        let (unit, path) = match named.split_once('=') {
            Some((unit, path)) => (UnitId::parse(unit).ok(), path),
            None => (None, named.as_str()),
        };
        let path = if unit.is_some() { path } else { named };
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::Refused(format!(
                "can't read the token file {path}: {error}; check the path and its permissions"
            ))
        })?;
        let token: SecretString = text.trim().into();
        match unit {
            Some(unit) => drop(tokens.of.insert(unit, token)),
            None => tokens.others = Some(token),
        }
    }
    if tokens.others.is_none() {
        let config = etcd.config().map(load_config).transpose()?;
        tokens.others = config.and_then(|config| config.admin.token);
    }
    if tokens.others.is_none() && tokens.of.is_empty() {
        return Err(Failure::Usage(
            "this needs the gateways' admin token: --token-file FILE".to_owned(),
        ));
    }
    Ok(tokens)
}

fn to_json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map_err(|error| Failure::Refused(format!("can't write JSON: {error}")))
}
