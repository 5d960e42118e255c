//! What drills came to, for people, scripts and the docs.

use crate::lab::checker::Account;
use comfy_table::{Table, TableStyle, presets};
use serde::Serialize;

/// From the loss to the first message that a stand-in delivers, by its parts, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Rto {
    /// Until the coordinator decided.
    pub(super) detect: Option<u64>,
    /// From then until the new seat was placed.
    pub(super) decide: Option<u64>,
    /// From then until every gateway that runs routed by it.
    pub(super) propagate: Option<u64>,
    /// From the placing until the stand-in delivered.
    pub(super) first_delivery: Option<u64>,
}

/// What a drill came to.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) drill: String,
    pub(super) passed: bool,
    #[serde(flatten)]
    pub(super) account: Account,
    pub(super) rto_ms: Rto,
    /// Messages that were confirmed and are gone for good.
    pub(super) rpo_messages: u64,
    /// The oldest of them, from its publishing to the loss; 0 where there is none.
    pub(super) rpo_ms: u64,
    /// The longest fence of a move in it.
    pub(super) pause_ms: Option<u64>,
    /// Why it didn't pass.
    pub(super) complaints: Vec<String>,
}

pub(super) fn table(outcomes: &[Outcome], preset: TableStyle) -> Table {
    let mut table = Table::new();
    table.load_style(preset);
    table.set_header([
        "drill",
        "",
        "confirmed",
        "lost",
        "duplicates",
        "in doubt",
        "reordered",
        "two owners",
        "wrong unit",
        "detect ms",
        "decide ms",
        "propagate ms",
        "first delivery ms",
        "pause ms",
    ]);
    let figure = |figure: Option<u64>| figure.map_or_else(String::new, |one| one.to_string());
    for outcome in outcomes {
        let Outcome {
            account, rto_ms, ..
        } = outcome;
        let verdict = if outcome.passed { "passed" } else { "failed" };
        table.add_row([
            outcome.drill.clone(),
            verdict.to_owned(),
            account.confirmed.to_string(),
            account.lost.to_string(),
            account.duplicates.to_string(),
            account.marked_in_doubt.to_string(),
            account.reordered.to_string(),
            account.two_owner.to_string(),
            account.wrong_unit.to_string(),
            figure(rto_ms.detect),
            figure(rto_ms.decide),
            figure(rto_ms.propagate),
            figure(rto_ms.first_delivery),
            figure(outcome.pause_ms),
        ]);
    }
    table
}

/// drills.md.
pub(super) fn page(outcomes: &[Outcome]) -> String {
    format!(
        "# Drills\n\n\
         Made by `setgate-lab drill all --docs docs` (`make drills`): three units of two gateways and a broker each, three etcd members,\n\
         20 ms between units, traffic throughout, `hold_down` at one second and everything else at its default (`detect` 10 s, `grace`\n\
         15 s). *detect*: from the loss until the coordinator decided; *decide*: until the new seat was placed; *propagate*: until every\n\
         gateway that runs routed by it; *first delivery*: from the placing until the stand-in delivered; *pause*: the longest fence.\n\n{}\n",
        table(outcomes, presets::ASCII_MARKDOWN)
    )
}
