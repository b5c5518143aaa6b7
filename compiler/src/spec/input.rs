//! Where a spec comes from: a shipped name, a file, or text in memory.
//!
//! Owns reading and the errors of reading. Must not look inside the text.

use std::path::PathBuf;

use super::{codes, shipped};
use crate::diagnostics::{Diagnostic, nearest};

/// A spec is a page; a file of more than this is something else, such as data or weights.
const MOST_BYTES: u64 = 1 << 20;

/// How a spec was named.
#[derive(Clone, Debug)]
pub enum SpecInput {
    /// A spec carried in the binary, by bare name.
    Shipped(String),
    /// A file.
    Path(PathBuf),
    /// A text that is already in memory, such as the one stored in a plan.
    Text {
        /// What messages call it.
        name: String,
        /// The TOML text.
        text: String,
    },
}

/// A spec's text before anything is known of it.
pub(super) struct Read {
    pub(super) name: String,
    pub(super) text: String,
    pub(super) folder: Option<PathBuf>,
}

impl SpecInput {
    /// Reads an argument of the command line: a path has a `/` or ends in `.toml`, anything else is a shipped name.
    pub fn from_argument(argument: &str) -> SpecInput {
        match shipped::is_path(argument) {
            true => SpecInput::Path(argument.into()),
            false => SpecInput::Shipped(argument.into()),
        }
    }

    /// The text behind it.
    pub(super) fn read(self) -> Result<Read, Diagnostic> {
        match self {
            SpecInput::Text { name, text } if text.len() as u64 > MOST_BYTES => {
                Err(too_large(&name, text.len() as u64))
            }
            SpecInput::Text { name, text } => Ok(Read { name, text, folder: None }),
            SpecInput::Shipped(name) => match shipped::spec(&name) {
                Some(text) => {
                    Ok(Read { name: format!("{name} (built in)"), text: text.into(), folder: None })
                }
                None => Err(Diagnostic::error(
                    codes::NOT_FOUND,
                    format!("no shipped spec is called `{name}`"),
                )
                .help(format!(
                    "write {}, or give a path: it has a `/` or ends in `.toml`",
                    shipped_help(&name)
                ))),
            },
            SpecInput::Path(path) => {
                let name = path.display().to_string();
                let unreadable = |error| unreadable(&path, &error);
                let size = std::fs::metadata(&path).map_err(unreadable)?.len();
                if size > MOST_BYTES {
                    return Err(too_large(&name, size));
                }
                let bytes = std::fs::read(&path).map_err(unreadable)?;
                let text = String::from_utf8(bytes).map_err(|error| {
                    let at = error.utf8_error().valid_up_to();
                    Diagnostic::error(
                        codes::UNREADABLE,
                        format!("{name} is not UTF-8 text: byte {at} is invalid"),
                    )
                    .help("save the file as UTF-8, or give the path of a spec")
                })?;
                let folder = path.parent().map(|parent| match parent.as_os_str().is_empty() {
                    true => PathBuf::from("."),
                    false => parent.to_owned(),
                });
                Ok(Read { name, text, folder })
            }
        }
    }
}

/// A file that is no spec, whatever is in it.
fn too_large(name: &str, size: u64) -> Diagnostic {
    Diagnostic::error(
        codes::TOO_LARGE,
        format!("{name} has {size} bytes, and a spec has at most {MOST_BYTES}"),
    )
    .help("give the path of a spec: data, plans and weights are named in it or by other options")
}

/// Why a file gave no bytes, with the shipped name the user may have meant.
fn unreadable(path: &std::path::Path, error: &std::io::Error) -> Diagnostic {
    let name = path.display();
    if path.is_dir() {
        return Diagnostic::error(codes::UNREADABLE, format!("{name} is a folder"))
            .help("give the path of a spec inside it");
    }
    if error.kind() != std::io::ErrorKind::NotFound {
        return Diagnostic::error(codes::UNREADABLE, format!("{name} cannot be read: {error}"))
            .help("make the file readable for this user, or give another path");
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    Diagnostic::error(codes::NOT_FOUND, format!("{name} does not exist"))
        .help(format!("check the path, or name a built-in spec: {}", shipped_help(&stem)))
}

/// The nearest shipped name, or all of them when none is near.
fn shipped_help(wrong: &str) -> String {
    match nearest(wrong, shipped::specs().iter().map(|(name, _)| *name)) {
        Some(near) => format!("`{near}`"),
        None => {
            let names: Vec<_> =
                shipped::specs().iter().map(|(name, _)| format!("`{name}`")).collect();
            format!("one of {}", names.join(", "))
        }
    }
}
