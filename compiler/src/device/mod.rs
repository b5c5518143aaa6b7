//! Device profiles as TOML files: rates from which the time of a plan is predicted.
//!
//! Owns the file format (`docs/device-profiles.md`), the shipped profiles and what is wrong with one. What the figures
//! mean is in [`colac_plan::profile`]; how they become times in [`colac_plan::predict`]. Must not measure anything, and
//! must not know where a user keeps profiles.

pub mod codes;
mod read;
mod write;

use std::path::Path;

use colac_plan::profile::Profile;

use crate::diagnostics::{Diagnostic, Diagnostics, Sources, did_you_mean};
use crate::spec::shipped;

pub use read::read;
pub use write::write;

/// Version of the format that is written and read.
pub const FORMAT: i64 = 1;

/// The profile that a name or a path stands for: a path has a `/` or ends in `.toml`; a name is looked for in `folder`,
/// where a user keeps profiles, and then among the shipped ones.
///
/// # Errors
/// Everything that is wrong with the file, as far as it can be seen at once.
pub fn load(
    argument: &str,
    folder: Option<&Path>,
    sources: &mut Sources,
) -> Result<Profile, Diagnostics> {
    if shipped::is_path(argument) {
        return load_file(Path::new(argument), sources);
    }
    if let Some(path) = folder.map(|folder| folder.join(format!("{argument}.toml")))
        && path.is_file()
    {
        return load_file(&path, sources);
    }
    match shipped::devices().iter().find(|(name, _)| *name == argument) {
        Some((name, text)) => read(format!("{name} (built in)"), text, sources),
        None => {
            let names = names(folder);
            let otherwise = || {
                format!(
                    "write one of {}, or the path of a profile such as ./{argument}.toml; `colac calibrate` makes one of this machine",
                    names.join(", ")
                )
            };
            let help = did_you_mean(argument, names.iter().map(String::as_str), otherwise);
            let message = format!("there is no device profile `{argument}`");
            Err(Diagnostic::error(codes::NOT_FOUND, message).help(help).into())
        }
    }
}

/// The names that [`load`] knows with this folder, in order.
pub fn names(folder: Option<&Path>) -> Vec<String> {
    let mut names: Vec<String> =
        shipped::devices().iter().map(|(name, _)| (*name).to_owned()).collect();
    let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok());
    for entry in entries.into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "toml")
            && let Some(stem) = path.file_stem()
        {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    names.dedup();
    names
}

fn load_file(path: &Path, sources: &mut Sources) -> Result<Profile, Diagnostics> {
    match std::fs::read_to_string(path) {
        Ok(text) => read(path.display().to_string(), &text, sources),
        Err(error) => {
            let absent = error.kind() == std::io::ErrorKind::NotFound;
            let code = if absent { codes::NOT_FOUND } else { codes::UNREADABLE };
            let message = format!("the device profile {} cannot be read: {error}", path.display());
            let help = "give the path of a profile, or a name such as h100; `colac calibrate` writes one of this machine";
            Err(Diagnostic::error(code, message).help(help).into())
        }
    }
}
