//! Many messages at once, as lines of JSON: where each would go, and how many go where.
//!
//! Reads line by line, so a file may have any length. A line that can't be asked about ends it, with its number.

use crate::admin::{Question, QuestionError, answer};
use crate::cli::failure::Failure;
use crate::cli::rules::Format;
use crate::model::{SourceName, UnitId};
use crate::routing::{Explanation, Table};
use anstream::println;
use comfy_table::{Table as Printed, presets};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::ExitCode;

/// A body that keys are looked for in has at most 64 KiB; the rest of a line is small beside that.
const LINE_BYTES_MAX: u64 = 256 << 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    source: Option<SourceName>,
    from: Option<UnitId>,
    #[serde(default)]
    routing_key: String,
    #[serde(default)]
    headers: Map<String, Value>,
    /// A text as it is; anything else as JSON.
    #[serde(default)]
    body: Value,
}

/// How many messages go where, by what becomes of them.
#[derive(Debug, Default)]
struct Summary {
    messages: u64,
    by_unit: BTreeMap<String, u64>,
    /// Parked and dropped ones, by `park: key_absent` and the like.
    ended: BTreeMap<String, u64>,
    by_rule: BTreeMap<String, u64>,
}

pub(super) fn run(
    file: &Path,
    table: &Table,
    source: Option<&SourceName>,
    from: Option<&UnitId>,
    output: Format,
) -> Result<ExitCode, Failure> {
    let refuse = |why: String| Failure::Refused(format!("{}: {why}", file.display()));
    let mut reader = BufReader::new(File::open(file).map_err(|error| refuse(error.to_string()))?);
    let mut summary = Summary::default();
    let mut text = Vec::new();
    for number in 1_u64.. {
        text.clear();
        let mut bounded = reader.by_ref().take(LINE_BYTES_MAX + 1);
        let bytes = bounded.read_until(b'\n', &mut text);
        match bytes.map_err(|error| refuse(error.to_string()))? {
            0 => break,
            bytes if bytes as u64 > LINE_BYTES_MAX => {
                return Err(refuse(format!(
                    "line {number} has more than {LINE_BYTES_MAX} bytes; keys are looked for in bodies of up to 64 KiB"
                )));
            }
            _ => {}
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let found = one(&text, table, source, from)
            .map_err(|why| refuse(format!("line {number}: {why}")))?;
        if output == Format::Json {
            println!(
                "{}",
                json!({"line": number, "rule": found.rule, "targets": found.targets, "why": found.why, "reason": found.reason, "slot": found.slot})
            );
        }
        summary.add(&found);
    }
    match output {
        Format::Json => println!("{}", summary.json()),
        Format::Text => println!("{}", summary.table()),
    }
    Ok(ExitCode::SUCCESS)
}

fn one(
    text: &[u8],
    table: &Table,
    source: Option<&SourceName>,
    from: Option<&UnitId>,
) -> Result<Explanation, String> {
    let line: Line = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let source = line.source.as_ref().or(source);
    let source = source.ok_or("it names no source; add \"source\", or give --source NAME")?;
    let from = line.from.as_ref().or(from);
    let from = from.ok_or("it names no unit; add \"from\", or give --from UNIT")?;
    let said = |error: QuestionError| format!("{error}; {}", error.mend());
    let question = Question::of(line.routing_key, &line.headers, &line.body).map_err(said)?;
    answer(table, source, from, question).map_err(said)
}

impl Summary {
    fn add(&mut self, found: &Explanation) {
        self.messages += 1;
        let count = |map: &mut BTreeMap<String, u64>, name: String| {
            *map.entry(name).or_default() += 1;
        };
        for unit in &found.targets {
            count(&mut self.by_unit, unit.to_string());
        }
        if found.targets.is_empty() {
            let why = match found.reason {
                Some(reason) => format!("{}: {reason}", found.why),
                None => found.why.clone(),
            };
            count(&mut self.ended, why);
        }
        let rule = found.rule.as_ref().map_or("none", |rule| rule.as_str());
        count(&mut self.by_rule, rule.to_owned());
    }

    fn json(&self) -> Value {
        json!({
            "messages": self.messages,
            "by_unit": self.by_unit,
            "ended": self.ended,
            "by_rule": self.by_rule,
        })
    }

    fn table(&self) -> String {
        let mut table = Printed::new();
        table.load_style(presets::NOTHING);
        let share = |count: u64| {
            let percent = count as f64 / self.messages.max(1) as f64 * 100.0;
            format!("{percent:.1} %")
        };
        let kinds = [
            ("to", &self.by_unit),
            ("", &self.ended),
            ("by rule", &self.by_rule),
        ];
        for (kind, counts) in kinds {
            for (name, count) in counts {
                table.add_row([
                    kind.to_owned(),
                    name.clone(),
                    count.to_string(),
                    share(*count),
                ]);
            }
        }
        format!("{} messages\n{table}", self.messages)
    }
}
