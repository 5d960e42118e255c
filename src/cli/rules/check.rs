//! `rules validate` and `rules diff`: what is wrong, and what is different.

use super::print::{Printer, count};
use super::{DiffArgs, Ended, Failure, ValidateArgs, by_name, reach};
use crate::etcd::{Scope, SpaceView, Store};
use crate::gateway::feed::{document_files, read_folder};
use crate::rules::{self, Context, NotYet};
use serde_json::json;

pub(super) fn validate(args: &ValidateArgs, printer: &Printer) -> Result<Ended, Failure> {
    let files = read_folder(&args.dir)?;
    let context = Context {
        not_yet: NotYet::Warn,
        ..Context::default()
    };
    let validation = rules::validate(&files, &context);
    printer.validation(&args.dir, &files, &validation);
    let (faults, warnings) = (validation.faults.len(), validation.warnings.len());
    printer.say(format_args!(
        "{}: {}, {}, {}",
        args.dir.display(),
        count(files.len(), "file"),
        count(faults, "fault"),
        count(warnings, "warning")
    ));
    printer.json(&json!({"faults": validation.faults, "warnings": validation.warnings}));
    // The exit code is that of a difference: the faults are the result, printed above.
    Ok(if faults == 0 {
        Ended::Done
    } else {
        Ended::Different
    })
}

pub(super) async fn diff(args: &DiffArgs, printer: &Printer) -> Result<Ended, Failure> {
    let files = read_folder(&args.dir)?;
    let (etcd, space) = args.etcd.resolve()?;
    let store = Store::connect(&etcd, &space).await?;
    let snapshot = store.read(Scope::Rules).await?;
    let view = SpaceView::of(&snapshot);
    let documents = view.documents();
    let diff = rules::diff(&document_files(&documents), &files);
    // What `apply` would put in force: the folder, over what is there besides.
    let mut wanted = documents.clone();
    wanted.extend(by_name(&files));
    let shifts = reach::owners(&view, &space, &document_files(&wanted));
    let carried = reach::carried(&store, &shifts).await;
    printer.diff(&diff, &shifts, &carried);
    let folder = by_name(&files);
    let missing = documents
        .keys()
        .filter(|name| !folder.contains_key(*name))
        .count();
    if missing > 0 {
        printer.say(format_args!(
            "{} only in etcd: `rules apply` leaves them there unless it is told to --prune",
            count(missing, "file")
        ));
    }
    let in_force = document_files(&view.in_force());
    let context = Context {
        space: Some(&space),
        live_placement: view.placement(),
        in_force: (!in_force.is_empty()).then_some(in_force.as_slice()),
        ..Context::default()
    };
    let validation = rules::validate(&files, &context);
    printer.validation(&args.dir, &files, &validation);
    printer.moves(&validation.moves);
    let revision = snapshot.revision;
    printer.say(if diff.documents.is_empty() {
        format!("no difference to the documents of {space} (read at revision {revision})")
    } else {
        let changes = count(diff.documents.len(), "file");
        format!("{changes} of {space} would change (read at revision {revision})")
    });
    printer.json(&json!({
        "documents": diff.documents,
        "effects": diff.effects,
        "owners": shifts,
        "carried": carried,
        "revision": revision,
        "faults": validation.faults,
        "warnings": validation.warnings,
        "moves": validation.moves,
    }));
    Ok(if diff.documents.is_empty() {
        Ended::Done
    } else {
        Ended::Different
    })
}
