//! One change of a space: what must still hold, and what is written, all or nothing.

use super::keys::{self, Key};
use super::snapshot::Snapshot;
use crate::model::Revision;
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// All of it was written, at this revision.
    Done(Revision),
    /// Something had changed meanwhile: nothing was written. Read again and judge anew.
    Conflict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Demand {
    Absent(String),
    Unchanged(String, Revision),
    NothingNewer(String, Revision),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Write {
    Put(String, Vec<u8>),
    Delete(String),
}

/// Demands and writes. Nothing is written unless every demand holds.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    demands: Vec<Demand>,
    writes: Vec<Write>,
    lease: Option<i64>,
}

/// Keys that are compared one by one. etcd takes 128 comparisons; a folder of more files is guarded by its prefixes alone,
/// which see every write, and by `history/`, which sees every deletion but one by hand.
const SINGLE_DEMANDS_MAX: usize = 96;

impl Transaction {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The key must not exist.
    #[must_use]
    pub fn absent(mut self, key: &Key<'_>) -> Self {
        self.demands.push(Demand::Absent(key.text()));
        self
    }

    /// The key must be as the snapshot has it, there or not there.
    #[must_use]
    pub fn unchanged(mut self, key: &Key<'_>, snapshot: &Snapshot) -> Self {
        let key = key.text();
        self.demands.push(match snapshot.entries.get(&key) {
            Some(entry) => Demand::Unchanged(key, entry.mod_revision),
            None => Demand::Absent(key),
        });
        self
    }

    /// This gateway must still be the coordinator that it became at that revision.
    #[must_use]
    pub fn led(mut self, since: Revision) -> Self {
        let key = Key::Coordinator.text();
        self.demands.push(Demand::Unchanged(key, since));
        self
    }

    /// No gateway may have registered or been retired since.
    #[must_use]
    pub fn no_newer_members(mut self, revision: Revision) -> Self {
        self.demands
            .push(Demand::NothingNewer(keys::MEMBERS.to_owned(), revision));
        self
    }

    /// No move may be newer.
    #[must_use]
    pub fn no_newer_moves(mut self, revision: Revision) -> Self {
        self.demands
            .push(Demand::NothingNewer(keys::MOVES.to_owned(), revision));
        self
    }

    /// Documents, files in force, placement and seats must be as the snapshot has them.
    #[must_use]
    pub fn judged(mut self, snapshot: &Snapshot) -> Self {
        self = self.no_newer_rules(snapshot.revision);
        self = self.unchanged(&Key::Placement, snapshot);
        self = self.unchanged(&Key::Seats, snapshot);
        let single: Vec<Demand> = snapshot
            .entries
            .iter()
            .filter(|(key, _)| key.starts_with(keys::DOCUMENTS) || key.starts_with(keys::IN_FORCE))
            .map(|(key, entry)| Demand::Unchanged(key.clone(), entry.mod_revision))
            .collect();
        if single.len() <= SINGLE_DEMANDS_MAX {
            self.demands.extend(single);
        }
        self
    }

    /// No document, file in force or entry of the history may be newer.
    #[must_use]
    pub fn no_newer_rules(mut self, revision: Revision) -> Self {
        for prefix in [keys::DOCUMENTS, keys::IN_FORCE, keys::HISTORY] {
            self.demands
                .push(Demand::NothingNewer(prefix.to_owned(), revision));
        }
        self
    }

    /// Writes a value.
    #[must_use]
    pub fn put(mut self, key: &Key<'_>, value: impl Into<Vec<u8>>) -> Self {
        self.writes.push(Write::Put(key.text(), value.into()));
        self
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(mut self, key: &Key<'_>) -> Self {
        self.writes.push(Write::Delete(key.text()));
        self
    }

    /// Whatever is written goes away with this lease.
    #[must_use]
    pub fn under(mut self, lease: &super::Lease) -> Self {
        self.lease = Some(lease.id());
        self
    }

    /// Nothing would be written.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// All of both, in that order.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.demands.extend(other.demands);
        self.writes.extend(other.writes);
        self
    }

    pub(super) fn build(&self, prefix: &str) -> Txn {
        let full = |key: &str| format!("{prefix}{key}");
        let when: Vec<Compare> = self
            .demands
            .iter()
            .map(|demand| match demand {
                Demand::Absent(key) => Compare::create_revision(full(key), CompareOp::Equal, 0),
                Demand::Unchanged(key, revision) => {
                    Compare::mod_revision(full(key), CompareOp::Equal, revision.0)
                }
                Demand::NothingNewer(below, revision) => {
                    Compare::mod_revision(full(below), CompareOp::Less, revision.0 + 1)
                        .with_prefix()
                }
            })
            .collect();
        let options = self.lease.map(|lease| PutOptions::new().with_lease(lease));
        let then: Vec<TxnOp> = self
            .writes
            .iter()
            .map(|write| match write {
                Write::Put(key, value) => TxnOp::put(full(key), value.clone(), options.clone()),
                Write::Delete(key) => TxnOp::delete(full(key), None),
            })
            .collect();
        Txn::new().when(when).and_then(then)
    }
}

impl std::fmt::Debug for Transaction {
    // Values may be secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let writes: Vec<String> = self
            .writes
            .iter()
            .map(|write| match write {
                Write::Put(key, value) => format!("put {key} ({} bytes)", value.len()),
                Write::Delete(key) => format!("delete {key}"),
            })
            .collect();
        f.debug_struct("Transaction")
            .field("demands", &self.demands)
            .field("writes", &writes)
            .field("lease", &self.lease)
            .finish()
    }
}
