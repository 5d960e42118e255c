//! Whether the documents fit together, and with what is in force.
//!
//! Owns the order of the checks and who is told what. Promises all faults of all documents at once, in the order of
//! files and lines. A fault keeps documents out of force; a warning doesn't. What `validate` warns of as *not yet*,
//! `apply` and gateways refuse.

use super::checks;
use super::documents::{Documents, parse};
use super::fault::{Fault, FaultCode, Place};
use super::owners::{self, OwnerChange};
use super::placement::Placement;
use super::policies;
use super::suspicious;
use super::tree::DocumentFile;
use crate::model::SpaceId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What documents are judged against.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context<'a> {
    /// The space that the gateway, or the command, works for.
    pub space: Option<&'a SpaceId>,
    /// The live placement, as etcd has it; it wins over the folder's.
    pub live_placement: Option<&'a [u8]>,
    /// What is in force, where something is.
    pub in_force: Option<&'a [DocumentFile]>,
    /// What becomes of fields that this version knows and doesn't enforce.
    pub not_yet: NotYet,
}

/// What becomes of fields that this version knows and doesn't enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NotYet {
    /// A warning: an operator looks.
    Warn,
    /// A fault: the documents would act.
    #[default]
    Refuse,
}

/// What is wrong, and what is only worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Validation {
    /// They keep the documents out of force.
    pub faults: Vec<Fault>,
    /// They don't.
    pub warnings: Vec<Fault>,
    /// Against what is in force, they may give keys other owners: they come in force by a move.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<OwnerChange>,
}

/// Documents that were judged, and the placement that counts for them.
#[derive(Debug, Default)]
pub(crate) struct Examined {
    pub(crate) documents: Documents,
    /// The live one, or the folder's where none is live.
    pub(crate) placement: Option<Placement>,
    pub(crate) validation: Validation,
}

/// The name under which faults of the live placement are reported; it is its key in etcd.
const LIVE_PLACEMENT: &str = "placement";

/// So many faults, and so many warnings, are told.
const FAULTS_MAX: usize = 1_000;

/// The name under which faults of the folder as a whole are reported.
const FOLDER: &str = "(all files)";

/// Judges documents.
pub fn validate(files: &[DocumentFile], context: &Context<'_>) -> Validation {
    examine(files, context).validation
}

/// Judges documents and keeps what was read.
pub(crate) fn examine(files: &[DocumentFile], context: &Context<'_>) -> Examined {
    let (documents, mut found) = parse(files);
    let mut warnings = Vec::new();
    let folder = Place::whole(FOLDER);
    let live = context
        .live_placement
        .and_then(|text| read_live(text, &mut found));
    let own = documents.placement.as_ref().map(|placed| &placed.value);
    if let (Some(live), Some(own)) = (&live, own) {
        compare_placements(live, own, &mut found, &mut warnings);
    }
    // A kind that is misspelt may be any.
    if !found
        .iter()
        .any(|fault| fault.code == FaultCode::UnknownKind)
    {
        let missing = |what: &str| {
            Fault::at(
                &folder,
                FaultCode::MissingDocument,
                format!("there is no {what}"),
                format!("add a document of `kind: {what}`"),
            )
        };
        if documents.topology.is_none() && !documents.may_name("topology") {
            found.push(missing("topology"));
        }
        if own.is_none() && context.live_placement.is_none() && !documents.may_name("placement") {
            found.push(missing("placement"));
        }
    }
    let placement = live.or_else(|| own.cloned());
    checks::topology(&documents, context.space, &mut found);
    checks::placement(&documents, placement.as_ref(), &mut found);
    checks::sources(&documents, placement.as_ref(), &mut found, &mut warnings);
    checks::returns(&documents, &mut found);
    checks::rules(&documents, &mut found);
    policies::check(&documents, placement.as_ref(), &mut found, &mut warnings);
    suspicious::warn(&documents, placement.as_ref(), &mut warnings);
    let mut moves = Vec::new();
    if let Some(in_force) = context.in_force {
        let before = parse(in_force).0;
        checks::keys_kept(&documents, &before, &mut found);
        moves = owners::changes(&before, &documents);
    }
    checks::transaction(files, context.in_force.unwrap_or(&[]), &folder, &mut found);
    let (faults, later) = match context.not_yet {
        NotYet::Refuse => (found, Vec::new()),
        NotYet::Warn => found
            .into_iter()
            .partition(|fault| fault.code != FaultCode::NotYet),
    };
    warnings.extend(later);
    Examined {
        documents,
        placement,
        validation: Validation {
            faults: bounded(in_order(faults, files), &folder),
            warnings: bounded(in_order(warnings, files), &folder),
            moves,
        },
    }
}

/// A person mends the first ones first; and what a file of 1 MiB can have wrong with it is told to every gateway's page.
fn bounded(mut faults: Vec<Fault>, folder: &Place) -> Vec<Fault> {
    let more = faults.len().saturating_sub(FAULTS_MAX);
    if more > 0 {
        faults.truncate(FAULTS_MAX);
        faults.push(Fault::at(
            folder,
            FaultCode::More,
            format!("{more} more of the kind"),
            "mend those first",
        ));
    }
    faults
}

fn read_live(text: &[u8], faults: &mut Vec<Fault>) -> Option<Placement> {
    let file = DocumentFile {
        name: LIVE_PLACEMENT.to_owned(),
        text: text.to_vec(),
    };
    let (documents, found) = parse(&[file]);
    faults.extend(found);
    if documents.placement.is_none() && !documents.is_incomplete() {
        faults.push(Fault::at(
            &Place::whole(LIVE_PLACEMENT),
            FaultCode::MissingDocument,
            "the live placement is no document of `kind: placement`",
            "put back what it was; moves alone change it",
        ));
    }
    documents.placement.map(|placed| placed.value)
}

fn compare_placements(
    live: &Placement,
    own: &Placement,
    faults: &mut Vec<Fault>,
    warnings: &mut Vec<Fault>,
) {
    if live.slots != own.slots {
        faults.push(Fault::at(
            &own.slots.place,
            FaultCode::SlotsChanged,
            format!(
                "the space was created with {} slots, and this says {}",
                live.slots.value, own.slots.value
            ),
            format!(
                "write `slots: {}`; the count is fixed for the life of a space",
                live.slots.value
            ),
        ));
    } else if owned(live) != owned(own) || live.pinned() != own.pinned() {
        warnings.push(Fault::at(
            &own.place.place,
            FaultCode::PlacementDrift,
            format!(
                "the placement here isn't the live one, and the live one counts: {} slots and {} pinned keys have another owner there",
                slots_apart(live, own),
                pins_apart(live, own)
            ),
            "write the live one back with `setgate rules get`, or move slots with `setgate move`",
        ));
    }
}

/// Slots that two placements give to different units.
fn slots_apart(one: &Placement, other: &Placement) -> u32 {
    let (one, other) = (owned(one), owned(other));
    let mut apart = 0;
    for (first, last, unit) in one {
        // What another unit owns of it there.
        for (begin, end, other) in &other {
            let (from, to) = (first.max(*begin), last.min(*end));
            if from <= to && unit != *other {
                apart += to - from + 1;
            }
        }
    }
    apart
}

fn pins_apart(one: &Placement, other: &Placement) -> usize {
    let (one, other) = (one.pinned(), other.pinned());
    let keys: BTreeSet<&str> = one.keys().chain(other.keys()).copied().collect();
    let keys = keys.into_iter();
    keys.filter(|key| one.get(key) != other.get(key)).count()
}

/// The ranges as they mean, not as they are written: sorted, and neighbours of one unit joined.
pub(super) fn owned(placement: &Placement) -> Vec<(u32, u32, &str)> {
    let mut sorted: Vec<_> = placement.ranges.iter().collect();
    sorted.sort_by_key(|range| range.first);
    let mut joined: Vec<(u32, u32, &str)> = Vec::new();
    for range in sorted {
        let unit = range.unit.as_str();
        match joined.last_mut() {
            Some((_, last, before))
                if *before == unit && last.saturating_add(1) == range.first.0 =>
            {
                *last = range.last.0;
            }
            _ => joined.push((range.first.0, range.last.0, unit)),
        }
    }
    joined
}

/// By file, as the files were given, then by line; what concerns no single file comes last.
fn in_order(mut faults: Vec<Fault>, files: &[DocumentFile]) -> Vec<Fault> {
    let ranks: std::collections::HashMap<&str, usize> = files
        .iter()
        .enumerate()
        .map(|(n, file)| (file.name.as_str(), n))
        .collect();
    faults.sort_by_cached_key(|fault| {
        let rank = ranks.get(fault.file.as_str()).copied();
        (rank.unwrap_or(usize::MAX), fault.line, fault.column)
    });
    faults
}
