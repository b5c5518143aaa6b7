//! The few operations by which a run's checkpoints change the disk.
//!
//! Owns the interface through which checkpoints are written, renamed and deleted, and what an operation means on a real
//! disk. Must not know what is written. Reading does not go through it: what is on the disk is read as it is.
//!
//! Nothing is assumed about what survives a crash beyond what POSIX promises: bytes of a file after it was synced, names
//! in a folder after the folder was synced. Tests replace the real disk by one that drops everything else.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// A file being written.
pub(crate) trait Output: Write {
    /// Brings all bytes that were written to the disk.
    fn sync(&mut self) -> io::Result<()>;
}

impl Output for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Changes to a disk. Each method is one operation; nothing of it is sure to survive a crash before a sync.
pub(crate) trait FileSystem {
    /// Makes a folder whose parent exists; an error if it is there already.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// Makes a file to write into; an error if it is there already.
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn Output>>;

    /// Gives a file or folder another name, in one step; a file that has that name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty folder.
    fn remove_directory(&self, path: &Path) -> io::Result<()>;

    /// Brings the names in a folder to the disk.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Disk;

impl FileSystem for Disk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create_file(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        Ok(Box::new(File::create_new(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        // Where folders cannot be opened as files there is no such call, and names last without it.
        match cfg!(unix) {
            true => File::open(path)?.sync_all(),
            false => Ok(()),
        }
    }
}

/// Removes a folder and all in it, one operation after the other.
pub(crate) fn remove_tree(disk: &dyn FileSystem, path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => remove_tree(disk, &entry.path())?,
            false => disk.remove_file(&entry.path())?,
        }
    }
    disk.remove_directory(path)
}

/// Whether an error says that there is no room for more bytes: a full disk, a quota, a limit on the size of files.
pub(crate) fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
