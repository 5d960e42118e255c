//! `setgate move --gray RULE=PERCENT`: another share of a rule's keys to its gray unit.
//!
//! The number in the rule's document is the step; it is applied as any document is, so it is carried out as a move.

use super::apply::{Change, put};
use super::print::Printer;
use super::target::EtcdArgs;
use super::{Ended, Failure};
use crate::etcd::{Scope, SpaceView, Store};
use crate::gateway::feed::document_files;
use crate::model::RuleName;
use crate::rules::gray_share;
use std::path::Path;
use std::str::FromStr;

/// Which share of which rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct GrayStep {
    rule: RuleName,
    percent: String,
}

impl FromStr for GrayStep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').and_then(|(rule, percent)| {
            let rule = RuleName::parse(rule).ok()?;
            percent.parse::<f64>().ok()?;
            Some(Self {
                rule,
                percent: percent.to_owned(),
            })
        });
        parts.ok_or_else(|| "write RULE=PERCENT, such as orders-by-user=20".to_owned())
    }
}

/// A step that is asked for.
pub(in crate::cli) struct Step<'a> {
    pub(in crate::cli) to: &'a GrayStep,
    pub(in crate::cli) etcd: &'a EtcdArgs,
    pub(in crate::cli) why: &'a str,
    pub(in crate::cli) who: Option<&'a str>,
    pub(in crate::cli) dry_run: bool,
    pub(in crate::cli) deadline_seconds: u32,
}

pub(super) async fn gray(asked: &Step<'_>, printer: &Printer) -> Result<Ended, Failure> {
    let (etcd, space) = asked.etcd.resolve()?;
    let store = Store::connect(&etcd, &space).await?;
    let snapshot = store.read(Scope::Rules).await?;
    let documents = SpaceView::of(&snapshot).documents();
    let GrayStep { rule, percent } = asked.to;
    let changed = gray_share(&document_files(&documents), rule, percent)
        .map_err(|error| Failure::Refused(error.to_string()))?;
    let Some(changed) = changed else {
        printer.say(format_args!("rule {rule} has {percent} % already"));
        return Ok(Ended::Done);
    };
    printer.say(format_args!(
        "take {percent} % into {} of your own folder too, or the next `rules apply` takes it back",
        changed.name
    ));
    let mut wanted = documents.clone();
    wanted.insert(changed.name, changed.text);
    let change = Change {
        folder: Path::new(""),
        why: asked.why,
        who: asked.who,
        dry_run: asked.dry_run,
        expected: None,
        unordered: false,
        deadline_seconds: asked.deadline_seconds,
    };
    put(&store, &space, &snapshot, &wanted, &change, printer).await
}
