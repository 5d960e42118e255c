//! A folder of routing documents on disk.
//!
//! Owns which files belong to it: the flat `*.yaml`, `*.test.yaml` aside. Bounded: a file larger than any document may be
//! is cut off one byte later, so that the validator names it.

use crate::rules::{DocumentFile, FILE_BYTES_MAX};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Files of one folder. A change of all of them couldn't go into one etcd transaction of 128 keys anyway.
const FILES_MAX: usize = 1_024;

/// A folder that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder itself.
    #[error("can't read the folder {path}: {source}; check the path and its permissions", path = path.display())]
    Folder {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// One of its files.
    #[error("can't read {path}: {source}; check its permissions", path = path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing in it.
    #[error(
        "the folder {path} has no *.yaml file; name the folder that the routing documents lie in directly",
        path = path.display()
    )]
    Empty {
        /// Which one.
        path: PathBuf,
    },
    /// Too much in it.
    #[error(
        "the folder {path} has more than {FILES_MAX} *.yaml files; put several documents into one file",
        path = path.display()
    )]
    TooMany {
        /// Which one.
        path: PathBuf,
    },
}

/// Whether a file of this name is one of routing documents.
pub fn is_document(name: &str) -> bool {
    // As the interface spells it: an editor's `x.YAML` is another file.
    let is_test = name.strip_suffix(".test.yaml").is_some();
    name.strip_suffix(".yaml").is_some() && !is_test && !name.starts_with('.')
}

/// Reads a folder, by name.
pub fn read_folder(folder: &Path) -> Result<Vec<DocumentFile>, FolderError> {
    let failed = |source| FolderError::Folder {
        path: folder.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // A file whose name isn't UTF-8 can be no etcd key that others could type.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if is_document(&name) && !entry.path().is_dir() {
            names.push(name);
        }
        if names.len() > FILES_MAX {
            return Err(FolderError::TooMany {
                path: folder.to_owned(),
            });
        }
    }
    if names.is_empty() {
        return Err(FolderError::Empty {
            path: folder.to_owned(),
        });
    }
    names.sort_unstable();
    names
        .into_iter()
        .map(|name| read_file(folder, name))
        .collect()
}

fn read_file(folder: &Path, name: String) -> Result<DocumentFile, FolderError> {
    let path = folder.join(&name);
    let read = File::open(&path).and_then(|file| {
        let mut text = Vec::new();
        file.take(FILE_BYTES_MAX as u64 + 1)
            .read_to_end(&mut text)?;
        Ok(text)
    });
    match read {
        Ok(text) => Ok(DocumentFile { name, text }),
        Err(source) => Err(FolderError::File { path, source }),
    }
}
