//! Replacing files without ever leaving half of one.
//!
//! Owns what the modules of this tree ask of the file system. Must not know any file format.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::data::error::DataError;

/// A file that is written beside its destination and takes the destination's name only when it is complete and on the
/// disk.
///
/// Dropped before [`PartialFile::commit`], it is removed and the destination stays as it was.
#[derive(Debug)]
pub(crate) struct PartialFile {
    file: File,
    partial_path: PathBuf,
    committed: bool,
}

impl PartialFile {
    /// Creates the file for a destination whose directory exists. `name` must be the destination's file name or at
    /// least unique among the files that are being written to the directory.
    pub(crate) fn create(directory: &Path, name: &str) -> Result<Self, DataError> {
        let partial_path = directory.join(format!(".{name}.{}.partial", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&partial_path)
            .map_err(DataError::io("create", &partial_path))?;
        Ok(Self { file, partial_path, committed: false })
    }

    /// The open file.
    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Where the bytes lie until the file is committed, for error messages.
    pub(crate) fn path(&self) -> &Path {
        &self.partial_path
    }

    /// Brings the bytes to the disk and gives the file its name.
    pub(crate) fn commit(mut self, destination: &Path) -> Result<(), DataError> {
        self.file.sync_all().map_err(DataError::io("sync", &self.partial_path))?;
        fs::rename(&self.partial_path, destination).map_err(DataError::io("write", destination))?;
        self.committed = true;
        // The new name lies in the directory: without this a power cut may bring the old one back.
        let directory = parent(destination);
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(DataError::io("sync", directory))
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.committed {
            // The error that led here is the one to report; a left-over hidden file does no harm.
            let _ = fs::remove_file(&self.partial_path);
        }
    }
}

/// Removes what processes that do not live any more left half written in a directory. What cannot be removed does no
/// harm.
pub(crate) fn remove_abandoned(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name
            .strip_prefix('.')
            .and_then(|name| name.strip_suffix(".partial"))
            .and_then(|name| name.rsplit_once('.'))
            .and_then(|(_, process)| process.parse::<u32>().ok());
        if process.is_some_and(|process| !is_alive(process)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether there is a process of that number, as far as can be told.
fn is_alive(process: u32) -> bool {
    !Path::new("/proc/self").exists() || Path::new("/proc").join(process.to_string()).exists()
}

/// The directory a file lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dead_processes_left_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let own = format!(".shard-0.{}.partial", std::process::id());
        // No process has this number: the kernel's limit is 2^22.
        for name in [own.as_str(), ".shard-1.4194305.partial", ".hidden", "shard.tokens"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        remove_abandoned(directory.path());
        let mut names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, [".hidden", own.as_str(), "shard.tokens"]);
    }

    #[test]
    fn a_file_appears_only_when_complete() {
        use std::io::Write;

        let directory = tempfile::tempdir().unwrap();
        let destination = directory.path().join("file");
        fs::write(&destination, "old").unwrap();
        let mut abandoned = PartialFile::create(directory.path(), "file").unwrap();
        abandoned.file().write_all(b"ne").unwrap();
        drop(abandoned);
        assert_eq!(fs::read_to_string(&destination).unwrap(), "old");
        let mut complete = PartialFile::create(directory.path(), "file").unwrap();
        complete.file().write_all(b"new").unwrap();
        complete.commit(&destination).unwrap();
        assert_eq!(fs::read_to_string(&destination).unwrap(), "new");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
