//! What is said of names: keys and sections that a spec should not have, and keys that it lacks.
//!
//! Owns the search for what was meant. Must not decide whether a name is wrong: the decoder does.

use super::codes;
use super::schema::{self, Key};
use crate::diagnostics::{Diagnostic, Span, nearest};
use crate::toml_tree::Entry;

/// A required key that its section, with this header, lacks.
pub(super) fn missing_key(key: &Key, header: Span) -> Diagnostic {
    let place = match key.section {
        "" => "at the top of this spec",
        _ => "in this section",
    };
    Diagnostic::error(codes::MISSING_KEY, format!("`{}` is missing", key.path()))
        .at(header, place)
        .help(format!("add `{} = …`: {}", key.name, key.kind))
}

/// An unknown section, with the nearest name or all names.
pub(super) fn unknown_section(entry: &Entry) -> Diagnostic {
    let names =
        || schema::SECTIONS.iter().copied().filter(|name| !name.is_empty() && !name.contains('.'));
    let help = match nearest(&entry.key, names()) {
        Some(near) => format!("write `[{near}]`"),
        None => {
            let names: Vec<_> = names().map(|name| format!("`[{name}]`")).collect();
            format!("remove it; the sections of a spec are {}", names.join(", "))
        }
    };
    Diagnostic::error(codes::UNKNOWN_SECTION, format!("a spec has no section `[{}]`", entry.key))
        .at(entry.key_span, "unknown section")
        .help(help)
}

/// An unknown key of a section, with the section it belongs to, the nearest name, or all names.
pub(super) fn unknown_key(section: &str, entry: &Entry) -> Diagnostic {
    let place = match section {
        "" => "the top level of a spec".to_owned(),
        section if section.contains('.') => format!("`[[{section}]]`"),
        section => format!("`[{section}]`"),
    };
    let names = || schema::keys_of(section).map(|key| key.name);
    let elsewhere: Vec<_> = schema::KEYS
        .iter()
        .filter(|key| key.name == entry.key && key.section != section)
        .map(|key| match key.section {
            "" => "at the top of the spec".to_owned(),
            section if section.contains('.') => format!("under `[[{section}]]`"),
            section => format!("under `[{section}]`"),
        })
        .collect();
    let help = if !elsewhere.is_empty() {
        format!("write it {}", elsewhere.join(" or "))
    } else if let Some(near) = nearest(&entry.key, names()) {
        format!("write `{near}`")
    } else {
        let names: Vec<_> = names().map(|name| format!("`{name}`")).collect();
        format!("remove it; the keys here are {}", names.join(", "))
    };
    let label = match entry.key.chars().find(|c| !c.is_ascii()) {
        Some(letter) => format!("unknown key: `{letter}` in it is U+{:04X}", u32::from(letter)),
        None => "unknown key".to_owned(),
    };
    Diagnostic::error(codes::UNKNOWN_KEY, format!("{place} has no key `{}`", entry.key))
        .at(entry.key_span, label)
        .help(help)
}
