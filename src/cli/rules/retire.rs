//! `setgate sources retire`: a source out of service, without a message left behind.
//!
//! The document says that it is retired; gateways take no more, carry what is there, and delete its empty queues; then the
//! source and its rules leave the documents. Broken off anywhere, it is taken up by being run again.

use super::apply::{Change, DEADLINE_SECONDS, put};
use super::print::Printer;
use super::target::EtcdArgs;
use super::{Ended, Failure, Format, by_name};
use crate::cli::ask;
use crate::etcd::{Scope, SpaceView, Store};
use crate::gateway::feed::document_files;
use crate::gateway::status::{Asked, LaneState};
use crate::model::{SourceName, UnitId};
use crate::rules::{parse, retire_source, without_source};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// How often gateways are asked how far they are.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is retired.
#[derive(Debug, clap::Args)]
pub struct RetireArgs {
    /// The source.
    source: SourceName,
    /// Why, for the history.
    #[arg(short = 'm', long = "message", value_name = "WHY")]
    why: String,
    /// Who, for the history.
    #[arg(long, env = "USER", hide = true)]
    who: Option<String>,
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Format of the result.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: Format,
}

pub(super) async fn retire(args: &RetireArgs, printer: &Printer) -> Result<Ended, Failure> {
    if args.why.trim().is_empty() {
        return Err(Failure::Usage(
            "-m WHY: say why, for whoever reads the history".to_owned(),
        ));
    }
    let (etcd, space) = args.etcd.resolve()?;
    let store = Store::connect(&etcd, &space).await?;
    let snapshot = store.read(Scope::Rules).await?;
    let documents = SpaceView::of(&snapshot).documents();
    let files = document_files(&documents);
    let refused = |error: crate::rules::EditError| Failure::Refused(error.to_string());
    let source = &args.source;
    let why = format!("retire source {source}: {}", args.why.trim());
    let change = Change {
        folder: Path::new(""),
        why: &why,
        who: args.who.as_deref(),
        dry_run: false,
        expected: None,
        unordered: false,
        deadline_seconds: DEADLINE_SECONDS,
    };
    if let Some(file) = retire_source(&files, source).map_err(refused)? {
        let mut wanted = documents.clone();
        wanted.insert(file.name, file.text);
        put(&store, &space, &snapshot, &wanted, &change, printer).await?;
    }
    printer.say(format_args!(
        "gateways carry what is there; Ctrl-C ends the waiting, and the same command goes on with it"
    ));
    let units = units_of(&files, source);
    until_gone(&store, source, &units, printer).await?;

    let snapshot = store.read(Scope::Rules).await?;
    let files = document_files(&SpaceView::of(&snapshot).documents());
    let wanted = by_name(&without_source(&files, source));
    let ended = put(&store, &space, &snapshot, &wanted, &change, printer).await?;
    printer.say(format_args!(
        "source {source} is gone; take it out of your own folder too, or the next `rules apply` brings it back"
    ));
    Ok(ended)
}

/// Where it is taken.
fn units_of(files: &[crate::rules::DocumentFile], source: &SourceName) -> Vec<UnitId> {
    let (documents, _) = parse(files);
    let mut sources = documents.sources.iter();
    let named = sources
        .find(|one| one.name.value == *source)
        .and_then(|one| one.units.clone());
    let topology = documents.topology.iter();
    let producing = topology
        .flat_map(|topology| &topology.units)
        .filter(|unit| unit.access.value.produces())
        .map(|unit| unit.name.value.clone());
    match named {
        None => producing.collect(),
        Some(named) => {
            let named: Vec<UnitId> = named.into_iter().map(|unit| unit.value).collect();
            producing.filter(|unit| named.contains(unit)).collect()
        }
    }
}

/// Waits until each gateway of these units says that nothing is left; tells who doesn't yet, once for each news.
async fn until_gone(
    store: &Store,
    source: &SourceName,
    units: &[UnitId],
    printer: &Printer,
) -> Result<(), Failure> {
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let known = ask::gateways(store).await;
        let known = known.map_err(|failure| Failure::Refused(failure.lines().join("; ")))?;
        let of_units = known.into_iter().filter(|one| units.contains(&one.unit));
        let asked = ask::statuses(of_units.collect()).await;
        let mut waiting: BTreeMap<String, String> = asked
            .iter()
            .filter_map(|one| {
                let left = left(one, source)?;
                Some((format!("{}/{}", one.unit, one.gateway), left))
            })
            .collect();
        for unit in units {
            if !asked.iter().any(|one| one.unit == *unit) {
                waiting.insert(unit.to_string(), "no gateway is registered".to_owned());
            }
        }
        if waiting.is_empty() {
            return Ok(());
        }
        for (who, what) in &waiting {
            if told.get(who) != Some(what) {
                printer.say(format_args!("  {who}: {what}"));
            }
        }
        told = waiting;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What a gateway still has of it, or why that isn't known.
fn left(asked: &Asked, source: &SourceName) -> Option<String> {
    let status = match &asked.answer {
        Ok(status) => status,
        Err(cause) => return Some(cause.clone()),
    };
    let lanes = status.lanes.iter();
    let lanes: Vec<_> = lanes.filter(|lane| lane.source == *source).collect();
    if lanes.is_empty() {
        return Some("it isn't there yet".to_owned());
    }
    let retired = |state| state == LaneState::Retired;
    if lanes.iter().all(|lane| retired(lane.facts.state)) {
        return None;
    }
    let in_flight: u64 = lanes.iter().map(|lane| lane.facts.in_flight).sum();
    let cause = lanes.iter().find_map(|lane| lane.facts.cause.clone());
    let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
    Some(format!("{in_flight} in flight{cause}"))
}
