//! What a person sees of a run: its progress, and the account as a table or as JSON.

use crate::lab::checker::Account;
use comfy_table::presets;
use comfy_table::{Cell, CellAlignment, Table};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// A bar on standard error, where that is a terminal.
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    pub(super) fn new(messages: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new(messages);
        let template = "{elapsed_precise} {bar:30} {pos}/{len} published, {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(Some(bar))
    }

    pub(super) fn show(&self, published: u64, delivered: u64) {
        if let Self(Some(bar)) = self {
            bar.set_position(published);
            bar.set_message(format!("{delivered} delivered"));
        }
    }

    pub(super) fn done(&self) {
        if let Self(Some(bar)) = self {
            bar.finish_and_clear();
        }
    }
}

/// The account for people.
pub(in crate::lab) fn print_table(account: &Account) {
    anstream::println!("{}", table(account));
    anstream::println!("{}", verdict(account));
}

/// The account for scripts, on one line.
pub(super) fn print_json(account: &Account) {
    match serde_json::to_string(account) {
        Ok(line) => anstream::println!("{line}"),
        Err(error) => anstream::eprintln!("setgate-lab traffic: can't write the account: {error}"),
    }
}

fn verdict(account: &Account) -> &'static str {
    if account.is_clean() {
        "every promise was kept"
    } else {
        "a promise was broken: see the rows marked with !"
    }
}

fn table(account: &Account) -> Table {
    let counts = [
        ("published", account.published, ""),
        ("confirmed", account.confirmed, "by their own broker"),
        ("delivered", account.delivered, "to an application"),
        ("parked", account.parked, "wait for a person"),
        (
            "unconfirmed",
            account.unconfirmed,
            "open when a connection was lost; may arrive",
        ),
        (
            "nacked",
            account.nacked,
            "refused by the publisher's broker",
        ),
        ("returned", account.returned, "nothing was bound for them"),
        (
            "marked in doubt",
            account.marked_in_doubt,
            "may be repetitions, and say so",
        ),
        (
            "repeated",
            account.repeated,
            "that came again, marked or not",
        ),
        (
            "redelivered",
            account.redelivered,
            "by the application's broker",
        ),
    ];
    let faults = [
        (
            "lost",
            account.lost,
            "confirmed, neither delivered nor parked",
        ),
        ("duplicates", account.duplicates, "not marked in doubt"),
        (
            "reordered",
            account.reordered,
            "behind a higher number of their key",
        ),
        (
            "wrong unit",
            account.wrong_unit,
            "where another unit owns the key",
        ),
        (
            "two owners",
            account.two_owner,
            "keys in two units under one epoch",
        ),
        ("invented", account.invented, "published by nobody"),
    ];
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    for (name, count, note) in counts {
        table.add_row(vec![
            Cell::new(name),
            right(count.to_string()),
            Cell::new(note),
        ]);
    }
    for (name, count, note) in faults {
        let shown = match count {
            0 => "0".to_owned(),
            count => format!("! {count}"),
        };
        table.add_row(vec![Cell::new(name), right(shown), Cell::new(note)]);
    }
    for (name, time) in [("p50", account.p50_ms), ("p99", account.p99_ms)] {
        let shown = right(format!("{time:.1} ms"));
        table.add_row(vec![
            Cell::new(name),
            shown,
            Cell::new("publish to delivery"),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::checker::{Checker, Expect};

    #[test]
    fn the_json_has_the_fields_that_scripts_rely_on() {
        let account = Checker::new(Expect::Once, 1, 1).unwrap().account();
        let json = serde_json::to_value(&account).unwrap();
        for field in [
            "confirmed",
            "delivered",
            "lost",
            "duplicates",
            "marked_in_doubt",
            "reordered",
            "wrong_unit",
            "two_owner",
            "parked",
            "p50_ms",
            "p99_ms",
        ] {
            assert!(json[field].is_number(), "{field} in {json}");
        }
    }

    #[test]
    fn a_fault_stands_out_in_the_table() {
        let mut account = Checker::new(Expect::Once, 1, 1).unwrap().account();
        assert!(!table(&account).to_string().contains('!'));
        account.lost = 7;
        assert!(table(&account).to_string().contains("! 7"));
        assert!(verdict(&account).contains("broken"));
    }
}
