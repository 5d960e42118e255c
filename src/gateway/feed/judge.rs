//! What a revision of etcd means for this gateway.
//!
//! Pure: a snapshot and what is known in, a judgement out. Promises that a space that isn't the known one, or is older, is
//! refused whole; that a faulty wish never reaches `in-force/`; and that every gateway comes to the same judgement.

use super::inputs::{Inputs, document_files};
use super::placement::{placement_text, say_the_same};
use super::trouble::Trouble;
use crate::etcd::{
    ClusterId, Files, HistoryEntry, Snapshot, SpaceView, Transaction, create_space, files_hash,
    put_in_force,
};
use crate::model::{Lineage, Revision, Seats, SpaceId};
use crate::routing::Table;
use crate::rules::{Context, Fault, Validation, validate};
use secrecy::SecretString;
use std::collections::BTreeMap;

/// What this gateway has accepted before, in this life or by its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) cluster_id: Option<ClusterId>,
    pub(super) seats: Seats,
    pub(super) placement: Vec<u8>,
    pub(super) revision: Revision,
}

/// What to write to etcd, and why.
#[derive(Debug)]
pub(super) enum Proposal {
    /// Make the space.
    Create(Transaction),
    /// Put the wishes in force.
    Copy(Transaction),
}

/// What a snapshot means.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    /// A new table, with what it was compiled from; `None` keeps the last good one.
    pub(super) accepted: Option<(Table, Inputs)>,
    /// Of wishes, or of what is in force.
    pub(super) faults: Vec<Fault>,
    /// The revision of the rejected wish.
    pub(super) rejected: Option<Revision>,
    pub(super) trouble: Option<Trouble>,
    pub(super) proposal: Option<Proposal>,
}

impl Judgement {
    fn refused(trouble: Trouble) -> Self {
        Self {
            trouble: Some(trouble),
            ..Self::default()
        }
    }
}

/// Where fresh names and the time come from: arguments, so that judging stays a function.
#[derive(Debug)]
pub(super) struct Fresh<'a> {
    pub(super) lineage: Lineage,
    pub(super) seal: SecretString,
    /// RFC 3339.
    pub(super) now: String,
    /// For the history.
    pub(super) who: &'a str,
}

pub(super) fn judge(
    snapshot: &Snapshot,
    known: Option<&Known>,
    space: &SpaceId,
    fresh: &Fresh<'_>,
) -> Judgement {
    let view = SpaceView::of(snapshot);
    let documents = view.documents();
    if let Some(trouble) = other_cluster(snapshot, known) {
        return Judgement::refused(trouble);
    }
    if view.is_unmade() {
        return match known {
            Some(known) => Judgement::refused(Trouble::Blank(known.seats.lineage.clone())),
            None if documents.is_empty() => Judgement::refused(Trouble::NoDocuments(space.clone())),
            None => make_space(snapshot, &documents, space, fresh),
        };
    }
    let seats = match read_seats(&view) {
        Ok(seats) => seats,
        Err(trouble) => return Judgement::refused(trouble),
    };
    if let Some(trouble) = stale(&seats, view.rules_revision(), known) {
        return Judgement::refused(trouble);
    }
    let Some(placement) = view.placement() else {
        return Judgement::refused(broken("placement", "missing"));
    };
    if let Some(trouble) = edited(&seats, placement, known) {
        return Judgement::refused(trouble);
    }
    let Some(seal) = view.seal().and_then(|seal| std::str::from_utf8(seal).ok()) else {
        return Judgement::refused(broken("seal", "missing or no text"));
    };
    let inputs = Inputs {
        cluster_id: Some(snapshot.cluster_id),
        revision: view.rules_revision(),
        files: view.in_force(),
        placement: placement.to_vec(),
        seats,
        moves: view.moves(),
        seal: seal.to_owned().into(),
    };
    if let Some(key) = view.unread_moves().into_iter().next() {
        return Judgement::refused(Trouble::BrokenMove(key));
    }
    if let Err(error) = inputs.seal_keys() {
        return Judgement::refused(broken("seal", &error.to_string()));
    }
    let mut judgement = judge_wishes(snapshot, &documents, &inputs, space, fresh);
    if inputs.files.is_empty() {
        // A space that was just made, and whose files come in force with the next revision.
        return judgement;
    }
    match inputs.compile(space) {
        Ok(table) => judgement.accepted = Some((table, inputs)),
        Err(faults) => judgement.faults.extend(faults),
    }
    judgement
}

fn make_space(
    snapshot: &Snapshot,
    documents: &Files,
    space: &SpaceId,
    fresh: &Fresh<'_>,
) -> Judgement {
    let files = document_files(documents);
    let context = Context {
        space: Some(space),
        ..Context::default()
    };
    let faults = validate(&files, &context).faults;
    let mut judgement = Judgement::default();
    match placement_text(&files) {
        Some(placement) if faults.is_empty() => {
            let entry = history(fresh, "made the space", &Files::new(), documents);
            let create = create_space(&placement, fresh.lineage.clone(), &fresh.seal)
                .judged(snapshot)
                .and(put_in_force(snapshot, documents, &entry));
            judgement.proposal = Some(Proposal::Create(create));
        }
        Some(_) | None => {
            judgement.faults = faults;
            judgement.rejected = Some(SpaceView::of(snapshot).documents_revision());
        }
    }
    judgement
}

fn judge_wishes(
    snapshot: &Snapshot,
    documents: &Files,
    inputs: &Inputs,
    space: &SpaceId,
    fresh: &Fresh<'_>,
) -> Judgement {
    let mut judgement = Judgement::default();
    if *documents == inputs.files {
        return judgement;
    }
    let in_force = document_files(&inputs.files);
    let context = Context {
        space: Some(space),
        live_placement: Some(&inputs.placement),
        in_force: (!in_force.is_empty()).then_some(in_force.as_slice()),
        ..Context::default()
    };
    let Validation { faults, moves, .. } = validate(&document_files(documents), &context);
    if !moves.is_empty() && faults.is_empty() {
        let mut going_on = inputs.moves.values().filter(|one| !one.stage.is_over());
        let hash = files_hash(documents);
        if !going_on.any(|one| one.rules().is_some_and(|rules| rules.documents == hash)) {
            judgement.rejected = Some(SpaceView::of(snapshot).documents_revision());
            judgement.faults = moves.into_iter().map(|one| one.fault).collect();
        }
    } else if faults.is_empty() {
        let entry = history(fresh, "carried the documents out", &inputs.files, documents);
        let copy = Transaction::new()
            .judged(snapshot)
            .and(put_in_force(snapshot, documents, &entry));
        judgement.proposal = Some(Proposal::Copy(copy));
    } else {
        judgement.rejected = Some(SpaceView::of(snapshot).documents_revision());
        judgement.faults = faults;
    }
    judgement
}

fn history(fresh: &Fresh<'_>, why: &str, before: &Files, after: &Files) -> HistoryEntry {
    HistoryEntry {
        who: fresh.who.to_owned(),
        why: why.to_owned(),
        at: fresh.now.clone(),
        before: changed_before(before, after),
    }
}

/// Each changed file as it was before.
pub fn changed_before(before: &Files, after: &Files) -> BTreeMap<String, Option<String>> {
    let names = before.keys().chain(after.keys());
    names
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| {
            let text = before
                .get(name)
                .map(|text| String::from_utf8_lossy(text).into_owned());
            (name.clone(), text)
        })
        .collect()
}

fn other_cluster(snapshot: &Snapshot, known: Option<&Known>) -> Option<Trouble> {
    let known = known?.cluster_id?;
    (known != snapshot.cluster_id).then_some(Trouble::OtherCluster {
        found: snapshot.cluster_id,
        known,
    })
}

fn read_seats(view: &SpaceView<'_>) -> Result<Seats, Trouble> {
    let Some(text) = view.seats() else {
        return Err(broken("seats", "missing"));
    };
    serde_json::from_slice(text)
        .map_err(|error| broken("seats", &format!("not what setgate writes there ({error})")))
}

fn stale(seats: &Seats, revision: Revision, known: Option<&Known>) -> Option<Trouble> {
    let known = known?;
    if seats.lineage != known.seats.lineage {
        return Some(Trouble::OtherLineage {
            found: seats.lineage.clone(),
            known: known.seats.lineage.clone(),
        });
    }
    if seats.epoch < known.seats.epoch || revision < known.revision {
        return Some(Trouble::Older {
            found: revision,
            found_epoch: seats.epoch,
            known: known.revision,
            known_epoch: known.seats.epoch,
        });
    }
    None
}

/// Whoever changes these two as they are to be changed begins an epoch.
fn edited(seats: &Seats, placement: &[u8], known: Option<&Known>) -> Option<Trouble> {
    let known = known.filter(|known| known.seats.epoch == seats.epoch)?;
    let key = if known.seats != *seats {
        "seats"
    } else if !say_the_same(&known.placement, placement) {
        "placement"
    } else {
        return None;
    };
    Some(Trouble::Edited {
        key,
        epoch: seats.epoch,
        known: known.revision,
    })
}

fn broken(key: &'static str, what: &str) -> Trouble {
    Trouble::BrokenKey {
        key,
        what: what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::Entry;
    use crate::model::{Asked, Change, DecidedBy, Epoch, Move, RuleChange, SourceName};

    const TOPOLOGY: &str = "kind: topology\nspace: trade\nsites: {a: {city: x}}\ncities: {x: {}}\n\
                            units: {u: {site: a}}\n";
    const PLACEMENT: &str = "kind: placement\nslots: 2\nranges: [{slots: 0-1, unit: u}]\n";

    fn space() -> SpaceId {
        SpaceId::parse("trade").unwrap()
    }

    fn snapshot(entries: &[(&str, &str, i64)]) -> Snapshot {
        let entry = |(key, value, at): &(&str, &str, i64)| {
            let value = value.as_bytes().to_vec();
            (
                (*key).to_owned(),
                Entry {
                    value,
                    mod_revision: Revision(*at),
                },
            )
        };
        Snapshot {
            cluster_id: ClusterId(1),
            revision: Revision(100),
            entries: entries.iter().map(entry).collect(),
        }
    }

    fn made(lineage: &str, epoch: u64, at: i64) -> Snapshot {
        let seats = format!(r#"{{"lineage": "{lineage}", "epoch": {epoch}}}"#);
        let seal = r#"{"seal": "00112233445566778899aabbccddeeff", "verify": []}"#;
        snapshot(&[
            (
                "documents/all.yaml",
                &format!("{TOPOLOGY}---\n{PLACEMENT}"),
                at,
            ),
            (
                "in-force/all.yaml",
                &format!("{TOPOLOGY}---\n{PLACEMENT}"),
                at,
            ),
            ("placement", PLACEMENT, 1),
            ("seats", &seats, 1),
            ("seal", seal, 1),
        ])
    }

    fn known() -> Known {
        Known {
            cluster_id: Some(ClusterId(1)),
            seats: Seats {
                lineage: Lineage("one".into()),
                epoch: Epoch(5),
                ..Seats::default()
            },
            placement: PLACEMENT.as_bytes().to_vec(),
            revision: Revision(50),
        }
    }

    fn judged(snapshot: &Snapshot, known: Option<&Known>) -> Judgement {
        let fresh = Fresh {
            lineage: Lineage("fresh".into()),
            seal: r#"{"seal": "ffeeddccbbaa99887766554433221100"}"#.to_owned().into(),
            now: "2026-01-01T00:00:00Z".to_owned(),
            who: "a test",
        };
        judge(snapshot, known, &space(), &fresh)
    }

    #[test]
    fn the_known_life_of_a_space_is_accepted() {
        let judgement = judged(&made("one", 5, 50), Some(&known()));
        assert!(judgement.faults.is_empty(), "{:?}", judgement.faults);
        let (table, inputs) = judgement.accepted.unwrap();
        assert_eq!((table.epoch(), inputs.revision), (Epoch(5), Revision(50)));
        assert!(judgement.trouble.is_none() && judgement.proposal.is_none());
    }

    #[test]
    fn another_life_an_older_epoch_or_revision_and_another_cluster_are_refused() {
        let other_cluster = Snapshot {
            cluster_id: ClusterId(2),
            ..made("one", 5, 50)
        };
        for refused in [
            made("two", 9, 90),
            made("one", 4, 90),
            made("one", 5, 49),
            other_cluster,
        ] {
            let judgement = judged(&refused, Some(&known()));
            assert!(judgement.accepted.is_none() && judgement.proposal.is_none());
            assert!(judgement.trouble.unwrap().refuses());
        }
    }

    #[test]
    fn what_moves_alone_change_is_not_taken_from_anybodys_hand_and_stops_nobody() {
        let with = |key: &str, value: &str| {
            let mut edited = made("one", 5, 50);
            let entry = Entry {
                value: value.as_bytes().to_vec(),
                mod_revision: Revision(60),
            };
            edited.entries.insert(key.to_owned(), entry);
            edited
        };
        let other = PLACEMENT.replace("0-1, unit: u", "0-0, unit: u}, {slots: 1-1, unit: v");
        let stand_in = r#"{"lineage": "one", "epoch": 5, "stand_ins": {"u": "v"}}"#;
        for (key, value) in [("placement", other.as_str()), ("seats", stand_in)] {
            let judgement = judged(&with(key, value), Some(&known()));
            assert!(judgement.accepted.is_none() && judgement.proposal.is_none());
            let trouble = judgement.trouble.unwrap();
            assert!(!trouble.refuses(), "nobody has been given anything");
            let text = trouble.to_string();
            assert!(text.contains(key) && text.contains("--rev=50"), "{text}");
        }
        let moved = r#"{"lineage": "one", "epoch": 6, "stand_ins": {"u": "v"}}"#;
        assert!(
            judged(&with("seats", moved), Some(&known()))
                .trouble
                .is_none()
        );
    }

    #[test]
    fn only_a_gateway_without_a_past_makes_a_space() {
        let text = format!("{TOPOLOGY}---\n{PLACEMENT}");
        let blank = snapshot(&[("documents/all.yaml", &text, 3)]);
        let judgement = judged(&blank, None);
        assert!(
            matches!(judgement.proposal, Some(Proposal::Create(_))),
            "{judgement:?}"
        );
        let judgement = judged(&blank, Some(&known()));
        assert!(matches!(judgement.trouble, Some(Trouble::Blank(_))));
        assert!(judgement.proposal.is_none());
    }

    #[test]
    fn a_broken_seal_is_named_and_never_shown() {
        let mut broken = made("one", 5, 50);
        let entry = Entry {
            value: b"s3cret".to_vec(),
            mod_revision: Revision(60),
        };
        broken.entries.insert("seal".to_owned(), entry);
        let trouble = judged(&broken, None).trouble.unwrap().to_string();
        assert!(
            trouble.contains("seal") && !trouble.contains("s3cret"),
            "{trouble}"
        );
    }

    #[test]
    fn a_faulty_wish_is_not_proposed_and_what_is_in_force_stays() {
        let mut wished = made("one", 5, 50);
        let entry = Entry {
            value: b"kind: nonsense".to_vec(),
            mod_revision: Revision(70),
        };
        wished
            .entries
            .insert("documents/more.yaml".to_owned(), entry);
        let judgement = judged(&wished, Some(&known()));
        assert!(judgement.proposal.is_none() && judgement.accepted.is_some());
        assert_eq!(judgement.rejected, Some(Revision(70)));
        assert!(
            judgement
                .faults
                .iter()
                .all(|fault| fault.file == "more.yaml")
        );
    }

    #[test]
    fn a_wish_that_may_give_keys_other_owners_stays_a_wish_and_is_shown() {
        let source = "kind: source\nname: s\ntake: {queue: q}\ndeliver: {exchange: e}\n---\n\
                      kind: rule\nname: r\nsource: s\norder: 1\nroute: owner\n";
        let mut wished = made("one", 5, 50);
        let mut put = |key: &str, text: String, at| {
            let entry = Entry {
                value: text.into_bytes(),
                mod_revision: Revision(at),
            };
            wished.entries.insert(key.to_owned(), entry);
        };
        put("in-force/s.yaml", source.to_owned(), 50);
        put(
            "documents/s.yaml",
            source.replace("route: owner", "route: center"),
            70,
        );
        let judgement = judged(&wished, Some(&known()));
        assert!(judgement.proposal.is_none() && judgement.accepted.is_some());
        assert_eq!(judgement.rejected, Some(Revision(70)));
        let codes: Vec<_> = judgement.faults.iter().map(|fault| fault.code).collect();
        assert_eq!(codes, [crate::rules::FaultCode::NeedsMove]);

        // While its move goes on, it is no fault; another wish is.
        let change = |documents: &Snapshot| {
            Change::Rules(RuleChange {
                sources: [SourceName::parse("s").unwrap()].into(),
                documents: SpaceView::of(documents).documents_hash(),
            })
        };
        let one = Move::asked(change(&wished), DecidedBy::Policy, Asked::default(), 60);
        let entry = Entry {
            value: serde_json::to_vec(&one).unwrap(),
            mod_revision: Revision(71),
        };
        wished.entries.insert("moves/1".to_owned(), entry);
        let judgement = judged(&wished, Some(&known()));
        assert_eq!((judgement.rejected, judgement.faults.len()), (None, 0));
        assert!(judgement.proposal.is_none() && judgement.accepted.is_some());
        let (_, other) = wished
            .entries
            .iter_mut()
            .find(|(key, _)| *key == "documents/s.yaml")
            .unwrap();
        other.value.push(b'\n');
        let judgement = judged(&wished, Some(&known()));
        assert_eq!(judgement.faults.len(), 1);
    }
}
