//! What a table is compiled from, wherever it came from: etcd, the disk or a folder.

use crate::etcd::{ClusterId, Files, GatewayRecord};
use crate::model::{GatewayId, Moves, Revision, SealError, SealKeys, Seats, SpaceId, UnitId};
use crate::routing::{Table, TableInputs};
use crate::rules::{DocumentFile, Fault, parse};
use secrecy::{ExposeSecret as _, SecretString};
use std::collections::BTreeMap;
use std::time::Duration;

/// The gateways of the space, by unit.
pub type Peers = BTreeMap<UnitId, BTreeMap<GatewayId, GatewayRecord>>;

/// Files in force and what goes with them, of one revision.
#[derive(Debug, Clone)]
pub(super) struct Inputs {
    /// `None`: from a folder.
    pub(super) cluster_id: Option<ClusterId>,
    pub(super) revision: Revision,
    pub(super) files: Files,
    pub(super) placement: Vec<u8>,
    pub(super) seats: Seats,
    pub(super) moves: Moves,
    /// The value of the key `seal`.
    pub(super) seal: SecretString,
}

impl Inputs {
    /// The same table and seal would come of them.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.revision == other.revision
            && self.cluster_id == other.cluster_id
            && self.seats == other.seats
            && self.moves == other.moves
            && self.files == other.files
            && self.placement == other.placement
            && self.seal.expose_secret() == other.seal.expose_secret()
    }

    pub(super) fn compile(&self, space: &SpaceId) -> Result<Table, Vec<Fault>> {
        Table::compile(TableInputs {
            files: &document_files(&self.files),
            placement: Some(&self.placement),
            seats: self.seats.clone(),
            moves: self.moves.clone(),
            revision: self.revision,
            space,
        })
    }

    pub(super) fn seal_keys(&self) -> Result<SealKeys, SealError> {
        SealKeys::parse(self.seal.expose_secret().as_bytes())
    }

    /// `failover.detect` of the topology: how long a lease lives.
    pub(super) fn lease_ttl(&self) -> Option<Duration> {
        let (documents, _) = parse(&document_files(&self.files));
        documents.topology.map(|topology| topology.failover.detect)
    }
}

/// Files as the validator takes them, in the order of their names.
pub fn document_files(files: &Files) -> Vec<DocumentFile> {
    let file = |(name, text): (&String, &Vec<u8>)| DocumentFile {
        name: name.clone(),
        text: text.clone(),
    };
    files.iter().map(file).collect()
}
