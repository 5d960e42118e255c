//! What a command prints: for people, or as one JSON document on the last line.

use super::{Failure, Format};
use crate::rules::{Diff, Fault, Validation};
use anstream::{eprintln, println};
use serde_json::{Value, json};
use std::path::Path;

pub(super) struct Printer {
    format: Format,
}

impl Printer {
    pub(super) fn new(format: Format) -> Self {
        Self { format }
    }

    /// A line for people; nothing where a program listens.
    pub(super) fn say(&self, line: impl std::fmt::Display) {
        if self.format == Format::Text {
            println!("{line}");
        }
    }

    /// The result for programs.
    pub(super) fn json(&self, value: &Value) {
        if self.format == Format::Json {
            println!("{value}");
        }
    }

    pub(super) fn validation(&self, folder: &Path, validation: &Validation) {
        for fault in &validation.faults {
            self.fault(folder, "", fault);
        }
        for warning in &validation.warnings {
            self.fault(folder, "warning: ", warning);
        }
    }

    fn fault(&self, folder: &Path, word: &str, fault: &Fault) {
        let path = folder.join(&fault.file);
        // What isn't in the folder, as the live placement or all files together, is named as it is.
        let file = if path.is_file() {
            path.display().to_string()
        } else {
            fault.file.clone()
        };
        let place = match fault.line {
            0 => file,
            line => format!("{file}:{line}:{}", fault.column),
        };
        self.say(format_args!(
            "{place}: {word}{}\n    mend: {}",
            fault.message, fault.mend
        ));
    }

    pub(super) fn diff(&self, diff: &Diff) {
        for document in &diff.documents {
            self.say(format_args!("  {:8} {}", document.change, document.file));
        }
        if !diff.effects.is_empty() {
            self.say("effects:");
        }
        for effect in &diff.effects {
            self.say(format_args!("  - {effect}"));
        }
    }

    /// To standard error, and as JSON where a program listens.
    pub(super) fn failure(&self, failure: &Failure) {
        match failure {
            // Its faults are printed already, in either format.
            Failure::Faulty(validation) => self.json(&json!({
                "applied": false,
                "faults": validation.faults,
                "warnings": validation.warnings,
            })),
            Failure::Config(faults) => {
                for fault in faults {
                    eprintln!("{fault}");
                }
                self.json(&json!({"faults": faults}));
            }
            Failure::Usage(_)
            | Failure::Folder(_)
            | Failure::Etcd(_)
            | Failure::Conflict(_)
            | Failure::Unexpected { .. }
            | Failure::Refused(_) => {
                eprintln!("error: {failure}");
                self.json(&json!({"error": failure.to_string()}));
            }
        }
    }
}

/// `1 fault`, `2 faults`.
pub(super) fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}
