//! Files and folders that a command makes where the user says.
//!
//! Owns making the folders on the way, and what is said where something cannot be written. Must not know what is in a
//! file, or whether one may be replaced.

use std::fs;
use std::io;
use std::path::Path;

use crate::shared::failure::Failure;

/// Makes the folder that a file is to lie in.
pub(crate) fn make_folder_of(file: &Path) -> Result<(), Failure> {
    match file.parent().filter(|folder| *folder != Path::new("")) {
        Some(folder) => make_folder(folder),
        None => Ok(()),
    }
}

/// Refuses a file that could not be written, before what is to be in it is made at length. Its folder is made, and the file
/// is as it was.
pub(crate) fn check_writable(file: &Path) -> Result<(), Failure> {
    make_folder_of(file)?;
    let is_new = !file.exists();
    let opened = fs::OpenOptions::new().append(true).create(true).open(file);
    opened.map_err(|error| cannot("write", file, &error))?;
    if is_new {
        fs::remove_file(file).map_err(|error| cannot("write", file, &error))?;
    }
    Ok(())
}

/// Makes a folder and those around it; it may be there.
pub(crate) fn make_folder(folder: &Path) -> Result<(), Failure> {
    refuse_file(folder)?;
    fs::create_dir_all(folder).map_err(|error| cannot("create", folder, &error))
}

/// Where a folder is wanted, a file cannot be, nor can one be on the way.
pub(crate) fn refuse_file(folder: &Path) -> Result<(), Failure> {
    match folder.ancestors().find(|path| path.is_file()) {
        Some(file) => Err(Failure::line(format!("{} is a file", file.display()))
            .or_help(|| "name a folder; it is made if it does not exist".to_owned())),
        None => Ok(()),
    }
}

/// What is said where the operating system refuses to `create` or `write` something.
pub(crate) fn cannot(action: &str, path: &Path, error: &io::Error) -> Failure {
    let failure = Failure::line(format!("cannot {action} {}: {error}", path.display()));
    failure.or_help(|| elsewhere().to_owned())
}

/// The way out where nothing can be written.
pub(crate) fn elsewhere() -> &'static str {
    "name a place where this user may write and where there is room"
}
