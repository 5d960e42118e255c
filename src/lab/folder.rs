//! A lab's folder.
//!
//! Promises that nothing is removed from a folder that isn't a lab's, and that a folder has one lab at a time: two would
//! end each other's processes.

use super::LabError;
use super::lab_file::LabFile;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file that says that a folder is a lab's and may be emptied. The lab that runs there has it locked.
const OWNED: &str = ".setgate-lab";

/// A lab that says that it is down is gone soon after; these two make three seconds at most.
const LOCK_LOOKS: u32 = 150;
/// See above.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A folder that is one lab's for as long as this is there. The lock goes with the process, however it ends.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes it, and refuses one that is something else's or another lab's.
    pub fn take(dir: &Path) -> Result<Self, LabError> {
        std::fs::create_dir_all(dir).map_err(LabError::file("create", dir))?;
        let path = dir.canonicalize().map_err(LabError::file("find", dir))?;
        let owned = path.join(OWNED);
        if !owned.exists() {
            let others = std::fs::read_dir(&path).map_err(LabError::file("read", &path))?;
            // `up --detach` has its log there before the lab begins.
            let foreign = others.flatten().any(|entry| entry.file_name() != "lab.log");
            if foreign {
                return Err(LabError::Foreign { dir: path });
            }
        }
        let lock = File::create(&owned).map_err(LabError::file("create", &owned))?;
        for _ in 0..LOCK_LOOKS {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { path, _lock: lock }),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(source)) => {
                    return Err(LabError::file("lock", &owned)(source));
                }
            }
        }
        Err(LabError::InUse { dir: path })
    }

    /// Where it is, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes an earlier lab's data; its detached supervisor's log is the new one's already.
    pub(super) fn empty(&self) -> Result<(), LabError> {
        for name in ["units", "etcd", "rules", "begin", "tests"] {
            let path = self.path.join(name);
            if path.exists() {
                std::fs::remove_dir_all(&path).map_err(LabError::file("remove", path))?;
            }
        }
        let file = LabFile::path(&self.path);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(LabError::file("remove", file)(error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_others_files_is_never_emptied() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
        let error = Folder::take(dir.path()).unwrap_err();
        assert!(matches!(error, LabError::Foreign { .. }), "{error}");
        assert!(dir.path().join("thesis.tex").exists());
    }

    #[test]
    fn a_labs_own_folder_is_taken_again_once_that_lab_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let lab = dir.path().join("lab");
        let first = Folder::take(&lab).unwrap();
        std::fs::create_dir(first.path().join("units")).unwrap();
        let error = Folder::take(&lab).unwrap_err();
        assert!(matches!(error, LabError::InUse { .. }), "{error}");
        drop(first);
        let second = Folder::take(&lab).unwrap();
        second.empty().unwrap();
        assert!(!second.path().join("units").exists());
    }
}
