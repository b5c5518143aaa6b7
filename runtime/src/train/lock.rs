//! One process at a time in a run folder.
//!
//! Owns the lock file. The lock is the operating system's (`flock`), not the existence of the file: it vanishes with the
//! process that held it, however that ended, so a lock is never stale. Must not know what a run is.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::train::error::TrainError;

/// Name of the lock file in a run folder.
pub const LOCK_FILE: &str = "run.lock";

/// Holds the lock of a run folder until it is dropped. The file stays; removing it would race with the next holder.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Takes the lock of an existing run folder and writes the number of this process into it.
    ///
    /// # Errors
    ///
    /// [`TrainError::InUse`] if another process, or another run of this one, holds the lock.
    pub fn acquire(run_dir: &Path) -> Result<RunLock, TrainError> {
        let path = run_dir.join(LOCK_FILE);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(TrainError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let known = (&file).take(32).read_to_string(&mut holder).is_ok();
                let holder = holder.trim();
                let process =
                    if known && !holder.is_empty() { holder } else { "unknown" }.to_owned();
                return Err(TrainError::InUse { run_dir: run_dir.to_owned(), process });
            }
            Err(TryLockError::Error(cause)) => return Err(TrainError::io("lock", &path)(cause)),
        }
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(file, "{}", std::process::id()))
            .map_err(TrainError::io("write", &path))?;
        Ok(RunLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_holder_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let held = RunLock::acquire(directory.path()).unwrap();
        let error = RunLock::acquire(directory.path()).unwrap_err();
        assert!(
            matches!(&error, TrainError::InUse { process, .. } if *process == std::process::id().to_string())
        );
        drop(held);
        RunLock::acquire(directory.path()).unwrap();
    }

    /// What a killed process leaves behind: the file with its number, and no lock on it.
    #[test]
    fn the_file_of_a_dead_process_locks_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(LOCK_FILE);
        std::fs::write(&path, "4194305 and more that is longer than a number\n").unwrap();
        let _held = RunLock::acquire(directory.path()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
    }
}
