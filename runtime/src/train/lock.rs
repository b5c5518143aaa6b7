//! One process at a time in a run folder.
//!
//! Owns the lock file. The lock is the operating system's (`flock`), not the existence of the file: it vanishes with the
//! process that held it, however that ended, so a lock is never stale. Must not know what a run is.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
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
    /// Says whether another process holds the lock of a folder, and leaves everything as it is.
    ///
    /// # Errors
    ///
    /// [`TrainError::InUse`] if another process, or another run of this one, holds the lock.
    pub fn check(run_dir: &Path) -> Result<(), TrainError> {
        let path = run_dir.join(LOCK_FILE);
        match File::options().read(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(TrainError::io("open", &path)(error)),
            Ok(file) => lock(&file, &path, run_dir),
        }
    }

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
        lock(&file, &path, run_dir)?;
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| writeln!(file, "{}", std::process::id()))
            .map_err(TrainError::io("write", &path))?;
        Ok(RunLock { _file: file })
    }
}

/// Takes the lock, or says who has it.
fn lock(file: &File, path: &Path, run_dir: &Path) -> Result<(), TrainError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let known = file.take(32).read_to_string(&mut holder).is_ok();
            let holder = holder.trim();
            let process = if known && !holder.is_empty() { holder } else { "unknown" }.to_owned();
            Err(TrainError::InUse { run_dir: run_dir.to_owned(), process })
        }
        Err(TryLockError::Error(cause)) => Err(TrainError::io("lock", path)(cause)),
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
        assert!(matches!(RunLock::check(directory.path()), Err(TrainError::InUse { .. })));
        drop(held);
        RunLock::check(directory.path()).unwrap();
        RunLock::acquire(directory.path()).unwrap();
    }

    #[test]
    fn a_folder_without_a_lock_is_free_and_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        RunLock::check(directory.path()).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
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
