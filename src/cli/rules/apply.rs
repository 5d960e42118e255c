//! `rules apply`: a folder into etcd, in one transaction; in force at once, or by a move where keys may get other owners.

use super::print::{Printer, count};
use super::{ApplyArgs, Ended, Failure, by_name, reach};
use crate::etcd::{
    Commit, Files, HistoryEntry, Key, Scope, Snapshot, SpaceView, Store, Transaction,
    bound_history, create_space, files_hash, fresh_lineage, fresh_seal, put_in_force,
    write_history,
};
use crate::gateway::feed::{changed_before, document_files, placement_text, read_folder};
use crate::model::{
    Asked, Change as Changed, DecidedBy, Move, MoveId, Revision, RuleChange, SpaceId, next_move,
};
use crate::rules::{self, Context, NotYet, Validation};
use serde_json::json;
use std::path::Path;

pub(super) async fn apply(args: &ApplyArgs, printer: &Printer) -> Result<Ended, Failure> {
    if args.why.trim().is_empty() {
        return Err(Failure::Usage(
            "-m WHY: say why, for whoever reads the history".to_owned(),
        ));
    }
    let folder = by_name(&read_folder(&args.dir)?);
    let (etcd, space) = args.etcd.resolve()?;
    let store = Store::connect(&etcd, &space).await?;
    let snapshot = store.read(Scope::Rules).await?;
    let view = SpaceView::of(&snapshot);
    let documents = view.documents();
    let expected = args.expect_revision.map(Revision);
    check_expected(expected, &view)?;

    // What would be in force: the folder, over what etcd has besides.
    let mut wanted = if args.prune {
        Files::new()
    } else {
        documents.clone()
    };
    wanted.extend(folder.clone());
    let kept = wanted.keys().filter(|name| !folder.contains_key(*name));
    for name in kept {
        printer.say(format_args!(
            "  kept     {name} (not in the folder; --prune removes it)"
        ));
    }
    let change = Change {
        folder: &args.dir,
        why: &args.why,
        who: args.who.as_deref(),
        dry_run: args.dry_run,
        expected,
        unordered: args.unordered,
        deadline_seconds: DEADLINE_SECONDS,
    };
    put(&store, &space, &snapshot, &wanted, &change, printer).await
}

/// A change of the documents in force.
pub(super) struct Change<'a> {
    /// Where they lie; faults are told by their paths there.
    pub(super) folder: &'a Path,
    pub(super) why: &'a str,
    pub(super) who: Option<&'a str>,
    pub(super) dry_run: bool,
    /// Nothing newer may be there.
    pub(super) expected: Option<Revision>,
    /// Changes of owners are applied at once.
    pub(super) unordered: bool,
    /// A stage of the move that carries them out takes no longer.
    pub(super) deadline_seconds: u32,
}

/// Puts exactly these files in force, if they are valid.
pub(super) async fn put(
    store: &Store,
    space: &SpaceId,
    snapshot: &Snapshot,
    wanted: &Files,
    change: &Change<'_>,
    printer: &Printer,
) -> Result<Ended, Failure> {
    let view = SpaceView::of(snapshot);
    let validation = validate(wanted, &view, space);
    printer.validation(change.folder, &document_files(wanted), &validation);
    if !validation.faults.is_empty() {
        printer.say(format_args!(
            "{}; nothing was changed",
            count(validation.faults.len(), "fault")
        ));
        return Err(Failure::Faulty(validation));
    }
    let documents = view.documents();
    let diff = rules::diff(&document_files(&documents), &document_files(wanted));
    let shifts = reach::owners(&view, space, &document_files(wanted));
    printer.diff(&diff, &shifts, &[]);
    printer.moves(&validation.moves);
    let way = way(&validation, change, &view, wanted);
    let transaction = transaction(change, snapshot, wanted, &way)?;
    let mut applied = false;
    let mut revision = snapshot.revision;
    if change.dry_run {
        printer.say("dry run: nothing was changed");
    } else if let Some(mut transaction) = transaction {
        if let Some(expected) = change.expected {
            transaction = transaction.no_newer_rules(expected);
        }
        let history = store.read(Scope::History).await?;
        transaction = transaction.and(bound_history(&history));
        match store.commit(&transaction).await? {
            Commit::Done(at) => revision = at,
            Commit::Conflict => return Err(Failure::Conflict(snapshot.revision)),
        }
        applied = matches!(way, Way::AtOnce);
        match &way {
            Way::AtOnce => printer.say(format_args!(
                "in force in {space} since revision {revision}"
            )),
            Way::ByMove(id, one) => printer.say(format_args!(
                "asked for move {id}: {}; follow it with `setgate move status {id} --watch`",
                one.change
            )),
            Way::Under(id) => printer.say(format_args!("move {id} carries them out")),
        }
    } else if let Way::Under(id) = &way {
        printer.say(format_args!(
            "move {id} carries exactly these documents out already; follow it with `setgate move status {id} --watch`"
        ));
    } else {
        printer.say(format_args!(
            "{space} has exactly these documents in force already"
        ));
    }
    let by_move = match &way {
        Way::AtOnce => None,
        Way::ByMove(id, _) | Way::Under(id) => Some(*id),
    };
    printer.json(&json!({
        "applied": applied,
        "revision": revision,
        "documents": diff.documents,
        "effects": diff.effects,
        "owners": shifts,
        "move": by_move,
        "warnings": validation.warnings,
    }));
    Ok(Ended::Done)
}

fn check_expected(expected: Option<Revision>, view: &SpaceView<'_>) -> Result<(), Failure> {
    let newest = view.documents_revision().max(view.rules_revision());
    match expected {
        Some(expected) if newest > expected => Err(Failure::Unexpected { expected, newest }),
        Some(_) | None => Ok(()),
    }
}

fn validate(wanted: &Files, view: &SpaceView<'_>, space: &SpaceId) -> Validation {
    let in_force = document_files(&view.in_force());
    let context = Context {
        space: Some(space),
        live_placement: view.placement(),
        in_force: (!in_force.is_empty()).then_some(in_force.as_slice()),
        not_yet: NotYet::Refuse,
    };
    rules::validate(&document_files(wanted), &context)
}

/// Of moves that nobody named another for.
pub(super) const DEADLINE_SECONDS: u32 = 60;

/// How documents come in force.
enum Way {
    /// In the same transaction.
    AtOnce,
    /// By this move, which is asked for.
    ByMove(MoveId, Box<Move>),
    /// By this one, which goes on already.
    Under(MoveId),
}

fn way(validation: &Validation, change: &Change<'_>, view: &SpaceView<'_>, wanted: &Files) -> Way {
    if change.unordered || validation.moves.is_empty() {
        return Way::AtOnce;
    }
    let sources = validation.moves.iter().map(|one| one.source.clone());
    let rules = RuleChange {
        sources: sources.collect(),
        documents: files_hash(wanted),
    };
    let moves = view.moves();
    let mut going_on = moves.iter().filter(|(_, one)| !one.stage.is_over());
    if let Some((id, _)) = going_on.find(|(_, one)| one.rules() == Some(&rules)) {
        return Way::Under(*id);
    }
    let by = Asked {
        who: who(change.who),
        why: change.why.to_owned(),
        at: jiff::Timestamp::now().to_string(),
    };
    let changed = Changed::Rules(rules);
    let one = Move::asked(changed, DecidedBy::Person, by, change.deadline_seconds);
    Way::ByMove(next_move(&moves), Box::new(one))
}

/// Everything that changes; `None` when nothing does. With a move, the documents are a wish until it is through.
fn transaction(
    change: &Change<'_>,
    snapshot: &Snapshot,
    wanted: &Files,
    way: &Way,
) -> Result<Option<Transaction>, Failure> {
    let view = SpaceView::of(snapshot);
    let documents = view.documents();
    let mut transaction = Transaction::new().judged(snapshot);
    if view.is_unmade() {
        let Some(placement) = placement_text(&document_files(wanted)) else {
            return Err(Failure::Refused(
                "the folder has no placement document, and the space has none yet; add one of `kind: placement`"
                    .to_owned(),
            ));
        };
        let seal = fresh_seal().map_err(|error| {
            Failure::Refused(format!(
                "can't read /dev/urandom for the seal's key: {error}"
            ))
        })?;
        transaction = transaction.and(create_space(&placement, fresh_lineage(), &seal));
    } else if view.placement().is_none() || view.seats().is_none() {
        return Err(Failure::Refused(
            "the space in etcd is half made: one of its keys `placement` and `seats` is missing; put it back from a backup"
                .to_owned(),
        ));
    }
    for (name, text) in wanted {
        if documents.get(name) != Some(text) {
            transaction = transaction.put(&Key::Document(name), text.clone());
        }
    }
    for name in documents.keys().filter(|name| !wanted.contains_key(*name)) {
        transaction = transaction.delete(&Key::Document(name));
    }
    match way {
        Way::AtOnce => {}
        Way::Under(_) => return Ok((!transaction.is_empty()).then_some(transaction)),
        Way::ByMove(id, one) => {
            let text = serde_json::to_vec(one.as_ref()).unwrap_or_default();
            let transaction = transaction
                .no_newer_moves(snapshot.revision)
                .put(&Key::Move(*id), text);
            return Ok(Some(transaction));
        }
    }
    let entry = HistoryEntry {
        who: who(change.who),
        why: change.why.to_owned(),
        at: jiff::Timestamp::now().to_string(),
        before: changed_before(&view.in_force(), wanted),
    };
    let in_force = put_in_force(snapshot, wanted, &entry);
    if !in_force.is_empty() {
        return Ok(Some(transaction.and(in_force)));
    }
    if transaction.is_empty() {
        return Ok(None);
    }
    // Wishes alone change: those that were in force all along come back.
    Ok(Some(transaction.and(write_history(&entry))))
}

pub(in crate::cli) fn who(user: Option<&str>) -> String {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    match user {
        Some(user) => format!("{user}@{host}"),
        None => format!("uid {}@{host}", rustix::process::getuid().as_raw()),
    }
}
