//! What a space's keys are for, and the transactions that make a space and put files in force.
//!
//! Owns the layout of the keys. Never judges a document: its callers have.

use super::keys::{self, Key};
use super::records::{GatewayRecord, HistoryEntry};
use super::snapshot::{Entry, Snapshot};
use super::transaction::Transaction;
use crate::model::{
    Epoch, Freeze, Frozen, GatewayId, Lineage, Move, MoveId, Moves, Revision, SEAL_BYTES, Seats,
    UnitId,
};
use secrecy::{ExposeSecret as _, SecretString};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use xxhash_rust::xxh3::Xxh3Default;

/// Entries of a history: years of changes; `setgate rules history -o json` exports them before they are forgotten.
pub const HISTORY_MAX: usize = 1_000;
/// A transaction has room for few keys; what is too much goes with the next changes.
const FORGOTTEN_AT_ONCE: usize = 8;

/// Files by name, as written.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A snapshot's keys sorted by what they are for.
#[derive(Debug, Clone)]
pub struct SpaceView<'a> {
    snapshot: &'a Snapshot,
}

impl<'a> SpaceView<'a> {
    /// Of this snapshot.
    pub fn of(snapshot: &'a Snapshot) -> Self {
        Self { snapshot }
    }

    /// What operators wish.
    pub fn documents(&self) -> Files {
        files(self.snapshot, keys::DOCUMENTS)
    }

    /// What gateways compile.
    pub fn in_force(&self) -> Files {
        files(self.snapshot, keys::IN_FORCE)
    }

    /// The live placement, as written.
    pub fn placement(&self) -> Option<&'a [u8]> {
        self.snapshot.value(&Key::Placement)
    }

    /// The live seats, as written.
    pub fn seats(&self) -> Option<&'a [u8]> {
        self.snapshot.value(&Key::Seats)
    }

    /// The seal's keys, as written.
    pub fn seal(&self) -> Option<&'a [u8]> {
        self.snapshot.value(&Key::Seal)
    }

    /// Neither placement nor seats: nobody has made this space yet.
    pub fn is_unmade(&self) -> bool {
        self.placement().is_none() && self.seats().is_none()
    }

    /// The revision of the newest write that a table is compiled from: the same number for every gateway that compiles the
    /// same inputs, however long it has been watching. [`put_in_force`] keeps it growing when a file goes.
    pub fn rules_revision(&self) -> Revision {
        let single = [Key::Placement, Key::Seats];
        let single = single
            .iter()
            .filter_map(|key| self.snapshot.entries.get(&key.text()));
        let below = |prefix| self.snapshot.under(prefix).map(|(_, entry)| entry);
        single
            .chain(below(keys::IN_FORCE))
            .chain(below(keys::MOVES))
            .map(|entry| entry.mod_revision)
            .max()
            .unwrap_or_default()
    }

    /// The revision of the newest wish.
    pub fn documents_revision(&self) -> Revision {
        let wishes = self.snapshot.under(keys::DOCUMENTS);
        wishes
            .map(|(_, entry)| entry.mod_revision)
            .max()
            .unwrap_or_default()
    }

    /// What the wishes are, as [`files_hash`].
    pub fn documents_hash(&self) -> String {
        let wishes = self.snapshot.under(keys::DOCUMENTS);
        hash_of(wishes.map(|(file, entry)| (file, entry.value.as_slice())))
    }

    /// What is in force, in the same way.
    pub fn in_force_hash(&self) -> String {
        let files = self.snapshot.under(keys::IN_FORCE);
        hash_of(files.map(|(file, entry)| (file, entry.value.as_slice())))
    }

    /// The moves that the space knows of. What can't be read is left out: see [`Self::unread_moves`].
    pub fn moves(&self) -> Moves {
        let moves = self.snapshot.under(keys::MOVES);
        moves
            .filter_map(|(id, entry)| read_move(id, entry))
            .collect()
    }

    /// The keys below `moves/` that hold no move.
    pub fn unread_moves(&self) -> Vec<String> {
        let moves = self.snapshot.under(keys::MOVES);
        moves
            .filter(|(id, entry)| read_move(id, entry).is_none())
            .map(|(id, _)| format!("{}{id}", keys::MOVES))
            .collect()
    }

    /// The revision of a move's last write.
    pub fn move_revision(&self, id: MoveId) -> Option<Revision> {
        let entry = self.snapshot.entries.get(&Key::Move(id).text())?;
        Some(entry.mod_revision)
    }

    /// `unit/gateway` of the coordinator.
    pub fn coordinator(&self) -> Option<String> {
        let name = self.snapshot.value(&Key::Coordinator)?;
        Some(String::from_utf8_lossy(name).into_owned())
    }

    /// Whose seat the coordinator leaves as it is. Where that can't be read, everybody's.
    pub fn frozen(&self) -> Frozen {
        let Some(text) = self.snapshot.value(&Key::Frozen) else {
            return Frozen::default();
        };
        serde_json::from_slice(text).unwrap_or_else(|_| Frozen {
            all: Some(Freeze {
                who: "nobody known".to_owned(),
                why: "the key `frozen` can't be read; delete it, or put back what it was"
                    .to_owned(),
                at: String::new(),
            }),
            ..Frozen::default()
        })
    }

    /// The gateways that are registered, whether or not they run.
    pub fn members(&self) -> BTreeSet<(UnitId, GatewayId)> {
        let members = self.snapshot.under(keys::MEMBERS);
        members
            .filter_map(|(rest, _)| {
                let (unit, gateway) = rest.split_once('/')?;
                Some((UnitId::parse(unit).ok()?, GatewayId::parse(gateway).ok()?))
            })
            .collect()
    }

    /// The gateways that hold a lease. What can't be read, by a gateway of another version, is left out.
    pub fn gateways(&self) -> BTreeMap<UnitId, BTreeMap<GatewayId, GatewayRecord>> {
        let mut all: BTreeMap<UnitId, BTreeMap<GatewayId, GatewayRecord>> = BTreeMap::new();
        for (rest, entry) in self.snapshot.under(keys::GATEWAYS) {
            let Some((unit, gateway)) = rest.split_once('/') else {
                continue;
            };
            let (Ok(unit), Ok(gateway)) = (UnitId::parse(unit), GatewayId::parse(gateway)) else {
                continue;
            };
            if let Ok(record) = serde_json::from_slice(&entry.value) {
                all.entry(unit).or_default().insert(gateway, record);
            }
        }
        all
    }
}

/// A hash of files, names and texts: others have another one. Hexadecimal.
pub fn files_hash(files: &Files) -> String {
    hash_of(
        files
            .iter()
            .map(|(file, text)| (file.as_str(), text.as_slice())),
    )
}

fn hash_of<'a>(files: impl Iterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut hash = Xxh3Default::new();
    for (name, text) in files {
        for part in [name.as_bytes(), text] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    format!("{:032x}", hash.digest128())
}

fn read_move(id: &str, entry: &Entry) -> Option<(MoveId, Move)> {
    let read = serde_json::from_slice(&entry.value).ok()?;
    Some((MoveId(id.parse().ok()?), read))
}

fn files(snapshot: &Snapshot, prefix: &str) -> Files {
    snapshot
        .under(prefix)
        .map(|(file, entry)| (file.to_owned(), entry.value.clone()))
        .collect()
}

/// Makes a space: placement, seats of a new lineage and the seal, each of which must not be there yet.
pub fn create_space(placement: &[u8], lineage: Lineage, seal: &SecretString) -> Transaction {
    let seats = Seats {
        lineage,
        epoch: Epoch(1),
        ..Seats::default()
    };
    // Names and numbers: there is nothing in it that JSON can't say.
    let seats = serde_json::to_vec(&seats).unwrap_or_default();
    Transaction::new()
        .absent(&Key::Placement)
        .absent(&Key::Seats)
        .absent(&Key::Seal)
        .put(&Key::Placement, placement)
        .put(&Key::Seats, seats)
        .put(&Key::Seal, seal.expose_secret().as_bytes())
}

/// Puts `wanted` in force instead of what the snapshot has in force, with an entry of the history.
///
/// A deletion leaves no trace in the keys that remain, so one of them is written again: whoever reads the space later finds
/// the same revision as who saw it happen.
pub fn put_in_force(snapshot: &Snapshot, wanted: &Files, entry: &HistoryEntry) -> Transaction {
    let current = SpaceView::of(snapshot).in_force();
    let mut transaction = Transaction::new();
    let mut put_any = false;
    for (file, text) in wanted {
        if current.get(file) != Some(text) {
            transaction = transaction.put(&Key::InForce(file), text.clone());
            put_any = true;
        }
    }
    for file in current.keys().filter(|file| !wanted.contains_key(*file)) {
        transaction = transaction.delete(&Key::InForce(file));
    }
    if !transaction.is_empty()
        && !put_any
        && let Some((file, text)) = wanted.first_key_value()
    {
        transaction = transaction.put(&Key::InForce(file), text.clone());
    }
    if transaction.is_empty() {
        return transaction;
    }
    transaction.and(write_history(entry))
}

/// The history, oldest first, each entry with the revision of its change. What can't be read is left out.
pub fn history(snapshot: &Snapshot) -> Vec<(Revision, HistoryEntry)> {
    let entries = snapshot.under(keys::HISTORY).filter_map(|(_, entry)| {
        let read = serde_json::from_slice(&entry.value).ok()?;
        Some((entry.mod_revision, read))
    });
    let mut entries: Vec<_> = entries.collect();
    entries.sort_by_key(|(revision, _)| *revision);
    entries
}

/// Deletes the oldest entries, so that no more than [`HISTORY_MAX`] are left with one more.
pub fn bound_history(snapshot: &Snapshot) -> Transaction {
    let mut entries: Vec<_> = snapshot
        .under(keys::HISTORY)
        .map(|(id, entry)| (entry.mod_revision, id))
        .collect();
    entries.sort_unstable();
    let surplus = (entries.len() + 1).saturating_sub(HISTORY_MAX);
    let oldest = entries.into_iter().take(surplus.min(FORGOTTEN_AT_ONCE));
    oldest.fold(Transaction::new(), |transaction, (_, id)| {
        transaction.delete(&Key::History(id))
    })
}

/// Adds an entry to the history, under a name that sorts by time.
pub fn write_history(entry: &HistoryEntry) -> Transaction {
    let id = uuid::Uuid::now_v7().to_string();
    let text = serde_json::to_vec(entry).unwrap_or_default();
    Transaction::new().put(&Key::History(&id), text)
}

/// The name of a new life of a space.
pub fn fresh_lineage() -> Lineage {
    Lineage::from(uuid::Uuid::now_v7().to_string())
}

/// A new key for the seal, from the kernel's random source, as the value of the key `seal`.
pub fn fresh_seal() -> std::io::Result<SecretString> {
    let mut bytes = [0; SEAL_BYTES];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    Ok(serde_json::json!({"seal": hex, "verify": []})
        .to_string()
        .into())
}
