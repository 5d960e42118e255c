//! Parked messages for a terminal.

use super::super::status::table;
use crate::gateway::parked::Entry;
use crate::model::{Reason, RuleName, SourceName, UnitId};
use comfy_table::Cell;
use serde_json::Value;
use std::fmt::Write as _;

/// One line for each.
pub(super) fn list(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "nothing is parked that matches".to_owned();
    }
    let mut table = table(&[
        "handle", "id", "unit", "source", "rule", "reason", "origin", "at", "bytes", "retry",
    ]);
    for entry in entries {
        let or_dash = |text: Option<&str>| Cell::new(text.unwrap_or("-"));
        let reason = entry.reason.map(Reason::as_str);
        table.add_row([
            Cell::new(&entry.handle),
            or_dash(entry.id.as_deref().map(first_line).as_deref()),
            Cell::new(&entry.unit),
            or_dash(entry.source.as_ref().map(SourceName::as_str)),
            or_dash(entry.rule.as_ref().map(RuleName::as_str)),
            or_dash(reason.or(Some("no valid seal"))),
            or_dash(entry.origin.as_ref().map(UnitId::as_str)),
            or_dash(entry.at.as_deref()),
            Cell::new(entry.bytes),
            Cell::new(entry.retry),
        ]);
    }
    table.trim_fmt()
}

/// What publishers send must not move a terminal's cursor, nor fill its screen.
fn first_line(text: &str) -> String {
    let shown = text.chars().take(ID_CHARS).map(|c| match c {
        c if c.is_control() => '\u{fffd}',
        c => c,
    });
    let cut = if text.chars().nth(ID_CHARS).is_some() {
        "…"
    } else {
        ""
    };
    shown.chain(cut.chars()).collect()
}

/// A UUID has 36.
const ID_CHARS: usize = 40;

/// All that is known of one.
pub(super) fn shown(shown: &Value) -> String {
    let mut out = String::new();
    let entry = &shown["entry"];
    for (name, value) in [
        ("id", &entry["id"]),
        ("handle", &entry["handle"]),
        ("unit", &entry["unit"]),
        ("vhost", &entry["vhost"]),
        ("source", &entry["source"]),
        ("reason", &entry["reason"]),
        ("rule", &entry["rule"]),
        ("parked at", &entry["at"]),
        ("origin", &entry["origin"]),
        ("path", &shown["path"]),
        ("round", &shown["round"]),
        ("retry", &entry["retry"]),
        ("unsealed", &shown["unsealed"]),
        ("exchange", &shown["exchange"]),
        ("routing key", &shown["routing_key"]),
        ("user id", &shown["user_id"]),
        ("bytes", &entry["bytes"]),
    ] {
        if !value.is_null() {
            // Writing to a string can't fail.
            let _ = writeln!(out, "{name:<12} {}", one_line(value));
        }
    }
    if let Some(properties) = shown["properties"].as_object() {
        for (name, value) in properties.iter().filter(|(name, _)| *name != "headers") {
            let _ = writeln!(out, "{name:<18} {}", one_line(value));
        }
        for (name, value) in properties
            .get("headers")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let _ = writeln!(out, "header {} = {value}", plain(name));
        }
    }
    match (&shown["body"], &shown["body_base64"]) {
        (Value::String(text), _) => {
            let _ = write!(out, "\n{}", plain(text));
        }
        (_, base64) => {
            let _ = write!(out, "\nbase64: {}", one_line(base64));
        }
    }
    out
}

fn one_line(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        other => other.to_string(),
    }
}

/// Without what would move a terminal's cursor.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}
