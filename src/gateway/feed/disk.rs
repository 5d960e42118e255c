//! The last good table on disk: `table.json` in the state folder.
//!
//! Promises that the file is whole or not there (a temporary file, fsync, rename, fsync of the folder) and that nobody but
//! its owner reads it: it holds the seal's key.

use super::inputs::{Inputs, Peers};
use crate::etcd::{ClusterId, Files};
use crate::model::{GatewayId, Moves, Revision, Seats, SpaceId, UnitId};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What lies in the state folder.
const TABLE_FILE: &str = "table.json";

/// The seal's key of a gateway without etcd.
const SEAL_FILE: &str = "seal.json";

/// A state folder that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Reading failed.
    #[error("can't read {path}: {source}; check the permissions of state_dir", path = path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Writing failed.
    #[error("can't write {path}: {source}; check the permissions of state_dir and the space on its disk", path = path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not what setgate writes there.
    #[error(
        "{path} is not a table that setgate saved ({cause}); remove it and start again with etcd reachable",
        path = path.display()
    )]
    Broken {
        /// Which file.
        path: PathBuf,
        /// In words; never the content.
        cause: String,
    },
    /// The folder of a gateway of another space.
    #[error(
        "{path} holds a table of the space {found}, and this gateway works for {expected}; give each space its own \
         state_dir",
        path = path.display()
    )]
    OtherSpace {
        /// Which file.
        path: PathBuf,
        /// In the file.
        found: SpaceId,
        /// In gateway.yaml.
        expected: SpaceId,
    },
}

#[derive(Serialize, Deserialize)]
struct TableJson {
    version: u32,
    space: SpaceId,
    cluster_id: String,
    revision: Revision,
    files: BTreeMap<String, String>,
    placement: String,
    seats: Seats,
    #[serde(default)]
    moves: Moves,
    seal: String,
    peers: Peers,
    #[serde(default)]
    members: BTreeSet<(UnitId, GatewayId)>,
}

const VERSION: u32 = 1;

/// What was saved: the table's inputs, and the peers as they were last known.
pub(super) struct Saved {
    pub(super) inputs: Inputs,
    pub(super) peers: Peers,
    pub(super) members: BTreeSet<(UnitId, GatewayId)>,
}

/// Reads the last good table; `None` when there is none.
pub(super) fn load(state_dir: &Path, space: &SpaceId) -> Result<Option<Saved>, StateError> {
    let path = state_dir.join(TABLE_FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateError::Read { path, source }),
    };
    // The parser's own words could repeat a piece of the file: its place is enough.
    let json: TableJson = serde_json::from_slice(&text).map_err(|error| StateError::Broken {
        path: path.clone(),
        cause: format!("line {}, column {}", error.line(), error.column()),
    })?;
    if json.version != VERSION {
        return Err(StateError::Broken {
            path,
            cause: format!(
                "it has version {}, this program knows {VERSION}",
                json.version
            ),
        });
    }
    if json.space != *space {
        let expected = space.clone();
        return Err(StateError::OtherSpace {
            path,
            found: json.space,
            expected,
        });
    }
    let Ok(cluster_id) = u64::from_str_radix(&json.cluster_id, 16) else {
        return Err(StateError::Broken {
            path,
            cause: "its cluster_id is no number".to_owned(),
        });
    };
    let files: Files = json
        .files
        .into_iter()
        .map(|(k, v)| (k, v.into_bytes()))
        .collect();
    Ok(Some(Saved {
        inputs: Inputs {
            cluster_id: Some(ClusterId(cluster_id)),
            revision: json.revision,
            files,
            placement: json.placement.into_bytes(),
            seats: json.seats,
            moves: json.moves,
            seal: json.seal.into(),
        },
        peers: json.peers,
        members: json.members,
    }))
}

/// Saves the last good table.
pub(super) fn save(
    state_dir: &Path,
    space: &SpaceId,
    inputs: &Inputs,
    peers: &Peers,
    members: &BTreeSet<(UnitId, GatewayId)>,
) -> Result<(), StateError> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let json = TableJson {
        version: VERSION,
        space: space.clone(),
        cluster_id: inputs.cluster_id.unwrap_or(ClusterId(0)).to_string(),
        revision: inputs.revision,
        files: inputs
            .files
            .iter()
            .map(|(name, bytes)| (name.clone(), text(bytes)))
            .collect(),
        placement: text(&inputs.placement),
        seats: inputs.seats.clone(),
        moves: inputs.moves.clone(),
        seal: inputs.seal.expose_secret().to_owned(),
        peers: peers.clone(),
        members: members.clone(),
    };
    let path = state_dir.join(TABLE_FILE);
    let broken = |error: serde_json::Error| StateError::Broken {
        path: path.clone(),
        cause: error.to_string(),
    };
    let bytes = serde_json::to_vec_pretty(&json).map_err(broken)?;
    write_whole(&path, &bytes).map_err(|source| StateError::Write { path, source })
}

/// The seal of a gateway without etcd, made when there is none.
pub(super) fn own_seal(state_dir: &Path) -> Result<SecretString, StateError> {
    let path = state_dir.join(SEAL_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => return Ok(text.into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(StateError::Read { path, source }),
    }
    let written = crate::etcd::fresh_seal()
        .and_then(|seal| write_whole(&path, seal.expose_secret().as_bytes()).map(|()| seal));
    written.map_err(|source| StateError::Write { path, source })
}

/// Makes the folder when it isn't there.
pub(super) fn prepare(state_dir: &Path) -> Result<(), StateError> {
    std::fs::create_dir_all(state_dir).map_err(|source| StateError::Write {
        path: state_dir.to_owned(),
        source,
    })
}

fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("json.new");
    let _ = std::fs::remove_file(&temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    // The rename itself is durable once the folder is.
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, Lineage};
    use std::os::unix::fs::PermissionsExt as _;

    fn inputs() -> Inputs {
        Inputs {
            cluster_id: Some(ClusterId(0xabc)),
            revision: Revision(42),
            files: Files::from([("a.yaml".to_owned(), b"kind: rule\n".to_vec())]),
            placement: b"kind: placement\n".to_vec(),
            seats: Seats {
                lineage: Lineage("one".into()),
                epoch: Epoch(3),
                ..Seats::default()
            },
            moves: Moves::new(),
            seal: r#"{"seal": "00112233445566778899aabbccddeeff", "verify": []}"#
                .to_owned()
                .into(),
        }
    }

    fn space() -> SpaceId {
        SpaceId::parse("trade").unwrap()
    }

    #[test]
    fn what_is_saved_is_loaded_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        save(
            folder.path(),
            &space(),
            &inputs(),
            &Peers::new(),
            &BTreeSet::new(),
        )
        .unwrap();
        save(
            folder.path(),
            &space(),
            &inputs(),
            &Peers::new(),
            &BTreeSet::new(),
        )
        .unwrap();
        let saved = load(folder.path(), &space()).unwrap().unwrap();
        assert!(saved.inputs.same_as(&inputs()));
        let mode = std::fs::metadata(folder.path().join(TABLE_FILE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_table_of_another_space_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        save(
            folder.path(),
            &space(),
            &inputs(),
            &Peers::new(),
            &BTreeSet::new(),
        )
        .unwrap();
        let other = SpaceId::parse("pay").unwrap();
        assert!(matches!(
            load(folder.path(), &other),
            Err(StateError::OtherSpace { .. })
        ));
    }

    #[test]
    fn garbage_is_refused_without_repeating_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join(TABLE_FILE),
            "{\"seal\": \"s3cret\", nonsense",
        )
        .unwrap();
        let error = load(folder.path(), &space()).err().unwrap().to_string();
        assert!(
            error.contains("table.json") && !error.contains("s3cret"),
            "{error}"
        );
    }
}
