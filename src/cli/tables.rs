//! A routing table for a command: compiled from a folder or from etcd, by the very code that gateways run.

use super::failure::Failure;
use crate::etcd::{Scope, SpaceView, Store};
use crate::gateway::feed::{document_files, read_folder};
use crate::model::{Epoch, Lineage, Moves, Revision, Seats, SpaceId};
use crate::routing::{Table, TableInputs};
use crate::rules::{NotYet, parse};
use std::path::Path;

/// Of a folder, as a gateway without etcd would run it. The space is the topology's unless one is given.
///
/// With [`NotYet::Warn`] it may say what gateways would refuse, and be asked about all the same.
pub(super) fn of_folder(
    folder: &Path,
    space: Option<&SpaceId>,
    not_yet: NotYet,
) -> Result<Table, Failure> {
    let files = read_folder(folder).map_err(|error| Failure::Refused(error.to_string()))?;
    let (documents, faults) = parse(&files);
    let written = documents
        .topology
        .map(|topology| topology.value.space.value);
    let Some(space) = space.cloned().or(written) else {
        return Err(if faults.is_empty() {
            Failure::Refused(format!(
                "the folder {} has no topology; add a document of `kind: topology`",
                folder.display()
            ))
        } else {
            Failure::Documents(faults)
        });
    };
    let compile = match not_yet {
        NotYet::Warn => Table::draft,
        NotYet::Refuse => Table::compile,
    };
    compile(TableInputs {
        files: &files,
        placement: None,
        seats: Seats {
            lineage: Lineage("local".into()),
            epoch: Epoch(1),
            ..Seats::default()
        },
        moves: Moves::new(),
        revision: Revision(0),
        space: &space,
    })
    .map_err(|faults| Failure::Documents(in_folder(folder, faults)))
}

/// Faults name files of the folder as a shell finds them.
fn in_folder(folder: &Path, mut faults: Vec<crate::rules::Fault>) -> Vec<crate::rules::Fault> {
    for fault in &mut faults {
        let path = folder.join(&fault.file);
        if path.is_file() {
            fault.file = path.display().to_string();
        }
    }
    faults
}

/// Of what is in force in etcd.
pub(super) async fn of_etcd(store: &Store, space: &SpaceId) -> Result<Table, Failure> {
    let snapshot = store.read(Scope::Rules).await?;
    let view = SpaceView::of(&snapshot);
    let (Some(placement), Some(seats)) = (view.placement(), view.seats()) else {
        return Err(Failure::Refused(format!(
            "etcd at {} has no documents in force for space {space}; put them there with `setgate rules apply DIR -m WHY`",
            store.endpoint()
        )));
    };
    let seats = serde_json::from_slice(seats).map_err(|error| {
        Failure::Refused(format!(
            "the key `seats` of space {space} can't be read: {error}; put back what it was"
        ))
    })?;
    Table::compile(TableInputs {
        files: &document_files(&view.in_force()),
        placement: Some(placement),
        seats,
        moves: view.moves(),
        revision: view.rules_revision(),
        space,
    })
    .map_err(Failure::Documents)
}
