//! What is wrong with a space beyond its documents.

use crate::etcd::ClusterId;
use crate::model::{Epoch, Lineage, Revision, SpaceId};

/// Why a space is refused, or has no table: nothing that a document's line could be named for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Nobody has applied anything yet.
    #[error(
        "etcd has no documents of the space {0} yet; write them with `setgate rules apply DIR -m WHY`"
    )]
    NoDocuments(SpaceId),
    /// Another cluster answers at the known address.
    #[error(
        "the etcd that answers is cluster {found}, and this gateway knows cluster {known}; if that is meant, and the new \
         one holds the space's newest state, stop the gateway, remove table.json from its state_dir and start it"
    )]
    OtherCluster {
        /// Who answers.
        found: ClusterId,
        /// Who did.
        known: ClusterId,
    },
    /// A space of the same name with another life.
    #[error(
        "etcd holds lineage {found} of the space, and this gateway belongs to lineage {known}; if its space was made anew \
         on purpose, stop the gateway, remove table.json from its state_dir and start it"
    )]
    OtherLineage {
        /// In etcd.
        found: Lineage,
        /// On this gateway's disk.
        known: Lineage,
    },
    /// A blank etcd under a gateway that has belonged to a space.
    #[error(
        "etcd holds no space, and this gateway belongs to lineage {0}; a gateway with a past makes no new one: restore \
         etcd, or remove table.json from the gateway's state_dir to begin anew"
    )]
    Blank(Lineage),
    /// An etcd restored from a backup.
    #[error(
        "etcd is at epoch {found_epoch}, revision {found}, and this gateway has seen epoch {known_epoch}, revision \
         {known}: it looks restored from a backup; bring it up to date, or remove table.json from every gateway's \
         state_dir to go on from the backup"
    )]
    Older {
        /// In etcd.
        found: Revision,
        /// In etcd.
        found_epoch: Epoch,
        /// Seen before.
        known: Revision,
        /// Seen before.
        known_epoch: Epoch,
    },
    /// A key that setgate writes isn't what setgate writes.
    #[error("the key {key} of the space is {what}; put back what it was")]
    BrokenKey {
        /// Below the prefix.
        key: &'static str,
        /// In words; never the value.
        what: String,
    },
    /// A key that moves alone change was changed by hand.
    #[error(
        "the key {key} of the space was changed without a move: within epoch {epoch} it isn't what it was at revision {known}, \
         so nothing is routed by it; put back what it was (`etcdctl get --rev={known}` has it), and give slots other owners \
         with `setgate move`"
    )]
    Edited {
        /// Below the prefix.
        key: &'static str,
        /// In etcd, and here.
        epoch: Epoch,
        /// When it was what it is to be.
        known: Revision,
    },
    /// A key below `moves/` isn't what setgate writes.
    #[error("the key {0} of the space is no move; put back what it was, or delete it")]
    BrokenMove(String),
    /// etcd refuses a write of this gateway.
    #[error("{0}")]
    Write(String),
    /// The disk refuses the last good table.
    #[error("{0}; without it, this gateway can't start while etcd is away")]
    Disk(String),
}

impl Trouble {
    /// The space in etcd as a whole isn't believed.
    pub fn refuses(&self) -> bool {
        match self {
            Self::NoDocuments(_)
            | Self::OtherCluster { .. }
            | Self::OtherLineage { .. }
            | Self::Blank(_)
            | Self::Older { .. }
            | Self::BrokenKey { .. }
            | Self::BrokenMove(_) => true,
            // Whoever is given something by a move is given it in a newer epoch.
            Self::Edited { .. } | Self::Write(_) | Self::Disk(_) => false,
        }
    }
}
