//! What a run came to, for people and for scripts.

use super::fault::FaultKind;
use super::run::{Event, Outcome};
use crate::lab::checker::Account;
use crate::lab::commands::Output;
use crate::lab::traffic;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;

/// Below this share of confirmed messages a run says little.
const CONFIRMED_PERCENT_MIN: f64 = 60.0;

/// `-o json`: the account of `traffic`, and what was broken meanwhile.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    account: &'a Account,
    faults: BTreeMap<FaultKind, u32>,
    seed: u64,
    offered: u64,
    confirmed_percent: f64,
    parked_reasons: &'a BTreeMap<String, u64>,
    timeline: &'a [Event],
    #[serde(skip_serializing_if = "Option::is_none")]
    broken_off: Option<&'a str>,
}

/// Prints it.
pub(super) fn print(outcome: &Outcome, output: Output) {
    publish(
        &render(outcome),
        &outcome.account,
        &document(outcome),
        output,
    );
}

/// Text and account for people; or a document on the last line of standard output, and the text on standard error.
pub(super) fn publish(text: &str, account: &Account, document: &impl Serialize, output: Output) {
    match output {
        Output::Text => {
            anstream::println!("{text}");
            traffic::print_table(account);
        }
        Output::Json => {
            anstream::eprintln!("{text}");
            match serde_json::to_string(document) {
                Ok(line) => anstream::println!("{line}"),
                Err(error) => anstream::eprintln!("setgate-lab: can't write the account: {error}"),
            }
        }
    }
}

fn document(outcome: &Outcome) -> Document<'_> {
    Document {
        account: &outcome.account,
        faults: outcome.faults(),
        seed: outcome.seed,
        offered: outcome.offered,
        confirmed_percent: confirmed_percent(outcome),
        parked_reasons: &outcome.parked,
        timeline: &outcome.timeline,
        broken_off: outcome.broken_off.as_deref(),
    }
}

/// Tenths of a percent.
fn confirmed_percent(outcome: &Outcome) -> f64 {
    let share = outcome.account.confirmed as f64 / outcome.offered.max(1) as f64;
    (share * 1_000.0).round() / 10.0
}

fn render(outcome: &Outcome) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["at", "fault", "what", "hit", "healed after"]);
    for event in &outcome.timeline {
        let hit = match (event.struck, event.hit.as_str()) {
            (true, whom) => whom.to_owned(),
            (false, whom) => format!("! {whom} was not struck"),
        };
        table.add_row([
            format!("{:.1} s", event.at_s),
            event.kind.to_string(),
            event.what.clone(),
            hit,
            format!("{:.1} s", event.healed_after_s),
        ]);
    }
    let faults = outcome.faults();
    let percent = confirmed_percent(outcome);
    let little = if percent < CONFIRMED_PERCENT_MIN {
        "! "
    } else {
        ""
    };
    let account = &outcome.account;
    let mut lines = vec![
        format!("seed {}", outcome.seed),
        table.to_string(),
        format!(
            "{} faults of {} kinds; {} messages offered, {little}{percent} % of them confirmed; {} marked in doubt, {} repeated",
            faults.values().sum::<u32>(),
            faults.len(),
            outcome.offered,
            account.marked_in_doubt,
            account.repeated
        ),
    ];
    if account.parked > 0 {
        let reasons = outcome.parked.iter();
        let reasons: Vec<String> = reasons
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        let (parked, reasons) = (account.parked, reasons.join(", "));
        lines.push(format!("! {parked} parked: {reasons}"));
    }
    match outcome.missed() {
        0 => {}
        missed => lines.push(format!("! {missed} faults did not strike")),
    }
    if let Some(why) = &outcome.broken_off {
        lines.push(format!("! broken off: {why}"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::checker::{Checker, Expect};

    fn outcome() -> Outcome {
        let event = |kind, struck| Event {
            at_s: 1.5,
            kind,
            what: "the receiving gateway of sh-1".to_owned(),
            hit: "gateway/sh-1-a".to_owned(),
            struck,
            healed_after_s: 4.0,
        };
        Outcome {
            account: Checker::new(Expect::Once, 1, 1).unwrap().account(),
            seed: 7,
            offered: 1_000,
            timeline: vec![
                event(FaultKind::GatewayKilled, true),
                event(FaultKind::GatewayKilled, true),
                event(FaultKind::FailpointJournaled, false),
            ],
            parked: [("no_rule".to_owned(), 2)].into(),
            broken_off: None,
        }
    }

    #[test]
    fn the_json_is_that_of_traffic_with_the_faults_that_struck() {
        let json = serde_json::to_value(document(&outcome())).unwrap();
        assert_eq!(json["faults"], serde_json::json!({"gateway_killed": 2}));
        for field in [
            "confirmed",
            "lost",
            "duplicates",
            "marked_in_doubt",
            "reordered",
            "parked",
        ] {
            assert!(json[field].is_number(), "{field} in {json}");
        }
        assert_eq!(json["seed"], 7);
    }

    #[test]
    fn the_text_says_seed_and_timeline_and_what_makes_a_run_worth_little() {
        let text = render(&outcome());
        assert!(text.starts_with("seed 7\n"), "{text}");
        assert!(text.contains("gateway_killed"), "{text}");
        assert!(text.contains("! gateway/sh-1-a was not struck"), "{text}");
        assert!(text.contains("! 0 % of them confirmed"), "{text}");
    }

    #[test]
    fn what_did_not_strike_or_heal_is_no_success_however_clean_the_account() {
        let mut outcome = outcome();
        assert!(!outcome.is_good(), "a failpoint was not reached");
        assert!(render(&outcome).contains("! 1 faults did not strike"));
        outcome.timeline.pop();
        assert!(outcome.is_good());
        outcome.broken_off = Some("sh-1-a: the link to bj-1-a is down".to_owned());
        assert!(!outcome.is_good());
        assert!(render(&outcome).contains("! broken off: sh-1-a"));
    }
}
