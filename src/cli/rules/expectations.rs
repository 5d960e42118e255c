//! `rules test`: what rules are expected to do, written next to them.
//!
//! Owns the files `*.test.yaml` of a folder: lists of messages with what is to become of each. The messages are routed by
//! the very code that gateways route by.

use super::print::{Printer, count};
use super::{Ended, Failure, TestArgs};
use crate::admin::{Question, QuestionError, answer};
use crate::cli::tables;
use crate::gateway::feed::read_folder;
use crate::model::{Reason, RuleName, Slot, SourceName, UnitId};
use crate::routing::{Explanation, Table};
use crate::rules::{self, Context, FILE_BYTES_MAX, NotYet};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// One expectation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// For people; else its place in the file.
    name: Option<String>,
    message: Message,
    expect: Expect,
}

/// A message as it is published.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    source: SourceName,
    /// The unit in which it is published.
    from: UnitId,
    #[serde(default)]
    routing_key: String,
    #[serde(default)]
    headers: Map<String, Value>,
    /// A text as it is; anything else as JSON.
    #[serde(default)]
    body: Value,
}

/// What is to become of it; what isn't named may be anything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    /// The only unit that gets it.
    unit: Option<UnitId>,
    /// All units that get it, in any order.
    units: Option<Vec<UnitId>>,
    rule: Option<RuleName>,
    /// `owner`, `center`, …, `park`, `drop` or `nobody`.
    why: Option<String>,
    /// Why it is parked or dropped.
    reason: Option<Reason>,
    slot: Option<Slot>,
    exchange: Option<String>,
    /// Under which it is delivered.
    routing_key: Option<String>,
}

/// An expectation that isn't met.
#[derive(Debug, PartialEq, Eq)]
struct Unmet {
    what: &'static str,
    expected: String,
    found: String,
}

pub(super) fn test(args: &TestArgs, printer: &Printer) -> Result<Ended, Failure> {
    let documents = read_folder(&args.dir)?;
    let context = Context {
        not_yet: NotYet::Warn,
        ..Context::default()
    };
    let validation = rules::validate(&documents, &context);
    if !validation.faults.is_empty() {
        printer.validation(&args.dir, &documents, &validation);
        return Err(Failure::Faulty(validation));
    }
    let table = tables::of_folder(&args.dir, None, NotYet::Warn)
        .map_err(|failure| Failure::Refused(failure.lines().join("\n")))?;
    let (mut all, mut failed) = (0, Vec::new());
    for path in files(&args.dir)? {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        for (number, case) in (1..).zip(read(&path)?) {
            all += 1;
            let name = case
                .name
                .clone()
                .unwrap_or_else(|| format!("number {number}"));
            let unmet = judge(&table, &case)
                .map_err(|why| Failure::Refused(format!("{}: {name}: {why}", path.display())))?;
            if unmet.is_empty() {
                continue;
            }
            printer.say(format_args!("{}: {name}", path.display()));
            for one in &unmet {
                printer.say(format_args!(
                    "    {}: expected {}, found {}",
                    one.what, one.expected, one.found
                ));
            }
            let unmet: Map<String, Value> = unmet
                .into_iter()
                .map(|one| {
                    let text = json!({"expected": one.expected, "found": one.found});
                    (one.what.to_owned(), text)
                })
                .collect();
            failed.push(json!({"file": file, "name": name, "unmet": unmet}));
        }
    }
    if all == 0 {
        return Err(Failure::Refused(format!(
            "the folder {} has no expectations; write some into NAME.test.yaml, as docs/rules.md shows",
            args.dir.display()
        )));
    }
    printer.say(format_args!(
        "{}: {}, {} not met",
        args.dir.display(),
        count(all, "expectation"),
        failed.len()
    ));
    printer.json(&json!({"expectations": all, "failed": failed}));
    Ok(if failed.is_empty() {
        Ended::Done
    } else {
        Ended::Different
    })
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let refuse = |error: std::io::Error| {
        Failure::Refused(format!("can't read {}: {error}", folder.display()))
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(refuse)? {
        let path = entry.map_err(refuse)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if name.is_some_and(|name| name.ends_with(".test.yaml") && !name.starts_with('.')) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<Case>, Failure> {
    let refuse = |why: String| Failure::Refused(format!("{}: {why}", path.display()));
    let size = std::fs::metadata(path)
        .map_err(|error| refuse(error.to_string()))?
        .len();
    if size > FILE_BYTES_MAX as u64 {
        return Err(refuse(format!(
            "it has {size} bytes, and a file has at most {FILE_BYTES_MAX}; make several of it"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
    serde_saphyr::from_str(&text).map_err(|error| refuse(error.to_string()))
}

/// What isn't met; an error where the message can't be asked about.
fn judge(table: &Table, case: &Case) -> Result<Vec<Unmet>, String> {
    let Message {
        source,
        from,
        routing_key,
        headers,
        body,
    } = &case.message;
    let said = |error: QuestionError| format!("{error}; {}", error.mend());
    let question = Question::of(routing_key.clone(), headers, body).map_err(said)?;
    let found = answer(table, source, from, question).map_err(said)?;
    Ok(compare(&case.expect, &found))
}

fn compare(expect: &Expect, found: &Explanation) -> Vec<Unmet> {
    let mut unmet = Vec::new();
    let mut check = |what, expected: Option<String>, found: String| {
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            unmet.push(Unmet {
                what,
                expected,
                found,
            });
        }
    };
    let nothing = || "nothing".to_owned();
    let units = |units: &[UnitId]| {
        let mut names: Vec<&str> = units.iter().map(UnitId::as_str).collect();
        names.sort_unstable();
        if names.is_empty() {
            nothing()
        } else {
            names.join(", ")
        }
    };
    let targets = units(&found.targets);
    check(
        "unit",
        expect.unit.as_ref().map(ToString::to_string),
        targets.clone(),
    );
    check("units", expect.units.as_deref().map(units), targets);
    let or_nothing = |text: Option<String>| text.unwrap_or_else(nothing);
    check(
        "rule",
        expect.rule.as_ref().map(ToString::to_string),
        or_nothing(found.rule.as_ref().map(ToString::to_string)),
    );
    check("why", expect.why.clone(), found.why.clone());
    check(
        "reason",
        expect.reason.map(|reason| reason.as_str().to_owned()),
        or_nothing(found.reason.map(|reason| reason.as_str().to_owned())),
    );
    check(
        "slot",
        expect.slot.map(|slot| slot.to_string()),
        or_nothing(found.slot.map(|slot| slot.to_string())),
    );
    let deliver = found.deliver.as_ref();
    check(
        "exchange",
        expect.exchange.clone(),
        or_nothing(deliver.map(|to| to.exchange.clone())),
    );
    check(
        "routing_key",
        expect.routing_key.clone(),
        or_nothing(deliver.map(|to| to.routing_key.clone())),
    );
    unmet
}
