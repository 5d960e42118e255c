//! The keys of a space as they were at one revision.

use super::keys;
use crate::model::Revision;
use std::collections::BTreeMap;
use std::fmt;

/// Which etcd cluster answered. A restored backup or another cluster has another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A value and when it was last written.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// As written.
    pub value: Vec<u8>,
    /// The revision of the write.
    pub mod_revision: Revision,
}

impl fmt::Debug for Entry {
    // A value may be the seal's key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Entry({} bytes at {})",
            self.value.len(),
            self.mod_revision
        )
    }
}

/// Everything under the prefix at one revision, but `history/`, which only grows and which no gateway needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Who answered.
    pub cluster_id: ClusterId,
    /// As of when.
    pub revision: Revision,
    /// By the key below the prefix.
    pub entries: BTreeMap<String, Entry>,
}

/// What one or more whole revisions changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The newest revision among them.
    pub revision: Revision,
    /// In order; absent: deleted.
    pub changes: Vec<(String, Option<Entry>)>,
}

impl Snapshot {
    /// The value at a key.
    pub fn value(&self, key: &keys::Key<'_>) -> Option<&[u8]> {
        self.entries
            .get(&key.text())
            .map(|entry| entry.value.as_slice())
    }

    /// Entries whose key begins so, by the rest of the key.
    pub fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a Entry)> + 'a {
        self.entries
            .range(prefix.to_owned()..)
            .map_while(move |(key, entry)| key.strip_prefix(prefix).map(|rest| (rest, entry)))
    }

    /// Takes over what a watch saw; what is older than the snapshot is not news.
    pub fn apply(&mut self, changes: Changes) {
        if changes.revision <= self.revision {
            return;
        }
        for (key, entry) in changes.changes {
            if key.starts_with(keys::HISTORY) {
                continue;
            }
            match entry {
                Some(entry) => self.entries.insert(key, entry),
                None => self.entries.remove(&key),
            };
        }
        self.revision = changes.revision;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str, revision: i64) -> Entry {
        Entry {
            value: text.into(),
            mod_revision: Revision(revision),
        }
    }

    #[test]
    fn changes_older_than_the_snapshot_are_not_news() {
        let mut snapshot = Snapshot {
            cluster_id: ClusterId(1),
            revision: Revision(7),
            entries: BTreeMap::from([("seats".to_owned(), entry("new", 7))]),
        };
        snapshot.apply(Changes {
            revision: Revision(6),
            changes: vec![("seats".to_owned(), Some(entry("old", 6)))],
        });
        assert_eq!(snapshot.value(&keys::Key::Seats), Some(&b"new"[..]));
    }

    #[test]
    fn a_prefix_ends_where_another_begins() {
        let entries = [
            "documents/a.yaml",
            "documents/b.yaml",
            "documents0",
            "in-force/a.yaml",
        ];
        let snapshot = Snapshot {
            cluster_id: ClusterId(1),
            revision: Revision(1),
            entries: entries
                .iter()
                .map(|key| ((*key).to_owned(), entry("", 1)))
                .collect(),
        };
        let files: Vec<_> = snapshot
            .under(keys::DOCUMENTS)
            .map(|(file, _)| file)
            .collect();
        assert_eq!(files, ["a.yaml", "b.yaml"]);
    }
}
