//! `rules history`, `show` and `rollback`: who changed what and why, what was in force then, and that again.

use super::apply::{Change, DEADLINE_SECONDS, put};
use super::print::{Printer, count};
use super::{Ended, Failure, HistoryArgs, RollbackArgs, ShowArgs};
use crate::etcd::{Files, HistoryEntry, Scope, SpaceView, Store, history as entries};
use crate::gateway::feed::document_files;
use crate::model::{Revision, SpaceId};
use crate::rules;
use comfy_table::{Table, presets};
use serde_json::{Map, Value, json};
use std::path::Path;

type Entries = Vec<(Revision, HistoryEntry)>;

pub(super) async fn history(args: &HistoryArgs, printer: &Printer) -> Result<Ended, Failure> {
    let (etcd, space) = args.etcd.resolve()?;
    let store = Store::connect(&etcd, &space).await?;
    let entries = entries(&store.read(Scope::History).await?);
    let newest: Vec<_> = entries.iter().rev().take(args.count).collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["revision", "at", "who", "files", "why"]);
    for (revision, entry) in &newest {
        let files: Vec<&str> = entry.before.keys().map(String::as_str).collect();
        table.add_row([
            revision.to_string(),
            entry.at.clone(),
            entry.who.clone(),
            files.join(", "),
            entry.why.clone(),
        ]);
    }
    printer.say(&table);
    printer.say(format_args!(
        "{} of {space}, of {} that it remembers",
        count(newest.len(), "change"),
        entries.len()
    ));
    let newest = newest.into_iter().map(|(revision, entry)| {
        json!({
            "revision": revision,
            "at": entry.at,
            "who": entry.who,
            "why": entry.why,
            "before": entry.before,
        })
    });
    printer.json(&json!({"history": newest.collect::<Vec<_>>()}));
    Ok(Ended::Done)
}

pub(super) async fn show(args: &ShowArgs, printer: &Printer) -> Result<Ended, Failure> {
    let (etcd, space) = args.etcd.resolve()?;
    let store = Store::connect(&etcd, &space).await?;
    let revision = Revision(args.revision);
    let snapshot = store.read(Scope::Rules).await?;
    let entries = entries(&store.read(Scope::History).await?);
    let files = documents_at(
        SpaceView::of(&snapshot).in_force(),
        &entries,
        revision,
        &space,
    )?;
    let change = entries.iter().find(|(at, _)| *at == revision);
    if let Some((_, entry)) = change {
        printer.say(format_args!(
            "# revision {revision}, {}, by {}: {}",
            entry.at, entry.who, entry.why
        ));
        let mut before = files.clone();
        take_back(&mut before, entry);
        let diff = rules::diff(&document_files(&before), &document_files(&files));
        printer.diff(&diff, &[], &[]);
    }
    for (name, text) in &files {
        printer.say(format_args!(
            "# file: {name}\n{}",
            String::from_utf8_lossy(text)
        ));
    }
    let documents: Map<String, Value> = files
        .iter()
        .map(|(name, text)| {
            let text = String::from_utf8_lossy(text).into_owned();
            (name.clone(), text.into())
        })
        .collect();
    printer.json(&json!({
        "revision": revision,
        "change": change.map(|(_, entry)| json!({"at": entry.at, "who": entry.who, "why": entry.why})),
        "documents": documents,
    }));
    Ok(Ended::Done)
}

pub(super) async fn rollback(args: &RollbackArgs, printer: &Printer) -> Result<Ended, Failure> {
    let (etcd, space) = args.etcd.resolve()?;
    let store = Store::connect(&etcd, &space).await?;
    let revision = Revision(args.revision);
    let snapshot = store.read(Scope::Rules).await?;
    let entries = entries(&store.read(Scope::History).await?);
    let wanted = documents_at(
        SpaceView::of(&snapshot).in_force(),
        &entries,
        revision,
        &space,
    )?;
    let change = Change {
        folder: Path::new(""),
        why: &format!("rollback to revision {revision}: {}", args.why.trim()),
        who: args.who.as_deref(),
        dry_run: args.dry_run,
        expected: None,
        unordered: args.unordered,
        deadline_seconds: DEADLINE_SECONDS,
    };
    if args.why.trim().is_empty() {
        return Err(Failure::Usage(
            "-m WHY: say why, for whoever reads the history".to_owned(),
        ));
    }
    put(&store, &space, &snapshot, &wanted, &change, printer).await
}

/// What was in force right after a revision, by taking back all changes since.
fn documents_at(
    mut files: Files,
    entries: &Entries,
    revision: Revision,
    space: &SpaceId,
) -> Result<Files, Failure> {
    match entries.first() {
        Some((first, _)) if revision >= *first => {}
        Some((first, _)) => {
            return Err(Failure::Refused(format!(
                "the history of {space} begins with revision {first}, so what was in force at {revision} isn't known; see \
                 `setgate rules history`"
            )));
        }
        None => {
            return Err(Failure::Refused(format!(
                "the space {space} has no history; write documents with `setgate rules apply`"
            )));
        }
    }
    let later = entries.iter().rev().take_while(|(at, _)| *at > revision);
    for (_, entry) in later {
        take_back(&mut files, entry);
    }
    Ok(files)
}

fn take_back(files: &mut Files, entry: &HistoryEntry) {
    for (name, before) in &entry.before {
        match before {
            Some(text) => files.insert(name.clone(), text.clone().into_bytes()),
            None => files.remove(name),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(before: &[(&str, Option<&str>)]) -> HistoryEntry {
        let owned = |text: &str| text.to_owned();
        HistoryEntry {
            who: owned("somebody"),
            why: owned("a test"),
            at: owned("2026-01-01T00:00:00Z"),
            before: before
                .iter()
                .map(|(name, text)| (owned(name), text.map(owned)))
                .collect(),
        }
    }

    #[test]
    fn what_was_in_force_is_found_by_taking_back_what_came_later() {
        let files = |all: &[(&str, &str)]| -> Files {
            all.iter()
                .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
                .collect()
        };
        let space = SpaceId::parse("trade").unwrap();
        let entries = vec![
            (Revision(5), entry(&[("a.yaml", None)])),
            (
                Revision(9),
                entry(&[("a.yaml", Some("one")), ("b.yaml", None)]),
            ),
            (Revision(12), entry(&[("b.yaml", Some("two"))])),
        ];
        let now = files(&[("a.yaml", "changed")]);
        let at =
            |revision| documents_at(now.clone(), &entries, Revision(revision), &space).unwrap();
        assert_eq!(at(12), now);
        assert_eq!(at(11), files(&[("a.yaml", "changed"), ("b.yaml", "two")]));
        assert_eq!(at(9), at(11));
        assert_eq!(at(5), files(&[("a.yaml", "one")]));
        let unknown = documents_at(now.clone(), &entries, Revision(4), &space);
        assert!(unknown.unwrap_err().to_string().contains("revision 5"));
    }
}
