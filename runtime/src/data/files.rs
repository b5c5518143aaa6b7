//! Reading text, listing inputs, and replacing files without ever leaving half of one.
//!
//! Owns what the modules of this tree ask of the file system. Must not know any file format.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::data::error::DataError;

/// A text file that was found among the inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextFile {
    /// Where it lies.
    pub path: PathBuf,
    /// How manifests name it: the file name, or for a file found in a directory its path below that directory, with `/`
    /// between the parts.
    pub name: String,
}

/// Lists the text files that `inputs` stand for, in the order of the inputs.
///
/// A file stands for itself, whatever its name. A directory stands for all files below it whose names end in `.txt`,
/// sorted by name so that the order does not depend on the file system; symbolic links to directories are not followed.
///
/// # Errors
///
/// If an input cannot be read, or none of them yields a file.
pub fn list_text_files(inputs: &[PathBuf]) -> Result<Vec<TextFile>, DataError> {
    let mut files = Vec::new();
    for input in inputs {
        let metadata = fs::metadata(input).map_err(DataError::io("open", input))?;
        if metadata.is_dir() {
            list_directory(input, "", &mut files)?;
        } else {
            let name =
                input.file_name().unwrap_or(input.as_os_str()).to_string_lossy().into_owned();
            files.push(TextFile { path: input.clone(), name });
        }
    }
    if files.is_empty() { Err(DataError::NoText { inputs: inputs.to_vec() }) } else { Ok(files) }
}

fn list_directory(
    directory: &Path,
    prefix: &str,
    files: &mut Vec<TextFile>,
) -> Result<(), DataError> {
    let mut entries = fs::read_dir(directory)
        .and_then(|entries| entries.collect::<io::Result<Vec<_>>>())
        .map_err(DataError::io("list", directory))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let file_type = entry.file_type().map_err(DataError::io("open", &path))?;
        if file_type.is_dir() {
            list_directory(&path, &format!("{name}/"), files)?;
        } else if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt")) {
            files.push(TextFile { path, name });
        }
    }
    Ok(())
}

/// Reads a whole text file. A byte order mark at its beginning is an encoding's mark and no text: it is left out.
///
/// # Errors
///
/// If the file cannot be read or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, DataError> {
    let bytes = fs::read(path).map_err(DataError::io("read", path))?;
    let mut text = String::from_utf8(bytes).map_err(|error| DataError::NotUtf8 {
        path: path.to_owned(),
        offset: error.utf8_error().valid_up_to() as u64,
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

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
    fn directories_are_listed_in_the_order_of_names() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("b")).unwrap();
        for name in ["c.txt", "a.TXT", "b/z.txt", "b/notes.md"] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        let single = directory.path().join("b/notes.md");
        let files = list_text_files(&[single, directory.path().to_owned()]).unwrap();
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["notes.md", "a.TXT", "b/z.txt", "c.txt"]);
    }

    #[test]
    fn inputs_without_text_are_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing.txt");
        assert!(matches!(list_text_files(&[missing]), Err(DataError::Io { .. })));
        assert!(matches!(
            list_text_files(&[directory.path().to_owned()]),
            Err(DataError::NoText { .. })
        ));
    }

    #[test]
    fn text_is_utf8_without_its_mark() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("text");
        fs::write(&path, b"\xef\xbb\xbfna\xc3\xafve").unwrap();
        assert_eq!(read_text(&path).unwrap(), "naïve");
        fs::write(&path, b"na\xefve").unwrap();
        assert!(matches!(read_text(&path), Err(DataError::NotUtf8 { offset: 2, .. })));
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
