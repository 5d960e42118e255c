//! What a command prints: for people, or as one JSON document on the last line.

use super::excerpt::Excerpts;
use super::reach::Carried;
use super::{Failure, Format};
use crate::routing::Shift;
use crate::rules::{Diff, DocumentFile, OwnerChange, Validation};
use anstream::{eprintln, println};
use miette::Severity;
use serde_json::{Value, json};
use std::path::Path;

/// So many faults and warnings are more than a person reads.
const SHOWN_MAX: usize = 100;

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

    /// Each fault with the lines around it, then each warning.
    pub(super) fn validation(
        &self,
        folder: &Path,
        files: &[DocumentFile],
        validation: &Validation,
    ) {
        let faults = validation.faults.iter().map(|one| (Severity::Error, one));
        let warnings = validation.warnings.iter();
        let warnings = warnings.map(|one| (Severity::Warning, one));
        let all = faults.len() + warnings.len();
        let mut excerpts = Excerpts::of(folder, files);
        for (severity, fault) in faults.chain(warnings).take(SHOWN_MAX) {
            self.say(excerpts.show(severity, fault));
        }
        if all > SHOWN_MAX {
            self.say(format_args!(
                "… and {} more; -o json has all",
                all - SHOWN_MAX
            ));
        }
    }

    /// Files, what they mean, which keys get other owners, and what the links of those have carried.
    pub(super) fn diff(&self, diff: &Diff, shifts: &[Shift], carried: &[Carried]) {
        for document in &diff.documents {
            self.say(format_args!("  {:8} {}", document.change, document.file));
        }
        if !diff.effects.is_empty() {
            self.say("effects:");
        }
        for effect in &diff.effects {
            self.say(format_args!("  - {effect}"));
        }
        if !shifts.is_empty() {
            self.say("owners:");
        }
        for shift in shifts {
            self.say(format_args!("  - {shift}"));
        }
        for link in carried {
            self.say(format_args!("  - {link}"));
        }
    }

    /// The sources whose change comes in force by a move, and why.
    pub(super) fn moves(&self, moves: &[OwnerChange]) {
        if !moves.is_empty() {
            self.say("by a move:");
        }
        for one in moves {
            self.say(format_args!("  - {}", one.fault.message));
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
