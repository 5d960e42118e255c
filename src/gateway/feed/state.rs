//! What the feed knows, and how others read it.
//!
//! The table is in two places, the same one in both: in the state, which changes wake, and behind one pointer, which costs a
//! lane nothing to read for each message. It is the pointer that is stored first.

use super::inputs::Peers;
use super::trouble::Trouble;
use crate::model::{Frozen, GatewayId, Revision, SealKeys, UnitId};
use crate::routing::Table;
use crate::rules::Fault;
use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// What is known of the space now.
#[derive(Debug, Clone)]
pub struct FeedState {
    /// The last good table; `None` until there is one.
    pub table: Option<Arc<Table>>,
    /// What marks are sealed with; there whenever a table is.
    pub seal: Option<Arc<SealKeys>>,
    /// The running gateways by their own account; while etcd is away, as they were last known. This one is among them.
    pub peers: Arc<Peers>,
    /// What is wrong with the newest documents, or with those in force.
    pub faults: Arc<[Fault]>,
    /// What is wrong beyond documents: another space's etcd, a broken key, a full disk.
    pub trouble: Option<Trouble>,
    /// The revision of the documents that were rejected.
    pub rejected: Option<Revision>,
    /// Whether etcd answers.
    pub etcd: EtcdState,
    /// `failover.detect` of the table's topology.
    pub lease_ttl: Option<Duration>,
    /// Of the table that the disk has.
    pub saved: Revision,
    /// The gateways that are registered, whether or not they run; while etcd is away, as they were last known.
    pub members: Arc<BTreeSet<(UnitId, GatewayId)>>,
    /// What etcd had when it was last read. Nobody is woken for it alone.
    pub read_at: Revision,
    /// Whose seat the coordinator leaves as it is, as etcd last said.
    pub frozen: Frozen,
    /// `unit/gateway` of the gateway that advances moves, as etcd last said.
    pub coordinator: Option<String>,
}

/// Whether etcd answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EtcdState {
    /// The documents come from a folder.
    Unused,
    /// It has been asked and hasn't answered yet.
    Connecting,
    /// It does.
    Up {
        /// Since then.
        since: Timestamp,
        /// Which endpoint.
        endpoint: String,
    },
    /// It doesn't.
    Down {
        /// Since then.
        since: Timestamp,
        /// In words, with the mend.
        cause: String,
    },
}

/// A lease of this gateway in etcd, as it was last renewed. It counts: the space was read after it was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leased {
    /// When the renewal was sent, since the machine started.
    pub sent: Duration,
    /// How long it lives from then on.
    pub ttl: Duration,
}

/// The reading side, cheap to clone.
#[derive(Debug, Clone)]
pub struct FeedHandle {
    pub(super) leased: watch::Receiver<Option<Leased>>,
    pub(super) state: watch::Receiver<FeedState>,
    pub(super) table: Arc<ArcSwapOption<Table>>,
}

impl FeedHandle {
    /// The table to route the next message by.
    pub fn table(&self) -> Option<Arc<Table>> {
        self.table.load_full()
    }

    /// All that is known now.
    pub fn state(&self) -> FeedState {
        self.state.borrow().clone()
    }

    /// Whether etcd has seats or a placement that no move has written.
    pub fn is_edited(&self) -> bool {
        matches!(self.state.borrow().trouble, Some(Trouble::Edited { .. }))
    }

    /// This gateway's lease.
    pub fn leased(&self) -> watch::Receiver<Option<Leased>> {
        self.leased.clone()
    }

    /// To wait for changes.
    pub fn watch(&self) -> watch::Receiver<FeedState> {
        self.state.clone()
    }
}
