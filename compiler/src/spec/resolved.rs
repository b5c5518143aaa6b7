//! The resolved spec: every key with the value that holds, as canonical TOML.
//!
//! Owns the order and layout of that text. Must not decide values: the decoder hands them over once they are checked.

use std::collections::BTreeMap;
use std::fmt;

use super::schema;
use crate::toml_tree::Tree;

/// Values that hold, by section and key.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    /// TOML of the value by (section, position in a list, key).
    lines: BTreeMap<(&'static str, Option<usize>, String), String>,
}

impl Resolved {
    /// Records the value of a key.
    pub(super) fn set(
        &mut self,
        section: &'static str,
        index: Option<usize>,
        key: &str,
        value: &Tree,
    ) {
        self.lines.insert((section, index, key.to_owned()), value.to_string());
    }

    /// Removes a key.
    pub(super) fn forget(&mut self, section: &'static str, key: &str) {
        self.lines.remove(&(section, None, key.to_owned()));
    }

    /// Removes a section with the sections inside it.
    pub(super) fn drop_section(&mut self, section: &str) {
        self.lines.retain(|(name, _, _), _| name.split('.').next() != Some(section));
    }
}

impl fmt::Display for Resolved {
    /// Sections and keys in the order of [`schema`]; settings of `[model]` by name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for section in schema::SECTIONS {
            let order = |key: &str| schema::keys_of(section).position(|known| known.name == key);
            let mut lines: Vec<_> =
                self.lines.iter().filter(|((name, _, _), _)| name == section).collect();
            lines.sort_by_key(|((_, index, key), _)| (*index, order(key)));
            let mut header = None;
            for ((_, index, key), value) in lines {
                if !section.is_empty() && header != Some(index) {
                    f.write_str(if first { "" } else { "\n" })?;
                    match index {
                        Some(_) => writeln!(f, "[[{section}]]")?,
                        None => writeln!(f, "[{section}]")?,
                    }
                    header = Some(index);
                }
                first = false;
                let bare = !key.is_empty()
                    && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
                match bare {
                    true => writeln!(f, "{key} = {value}")?,
                    false => writeln!(f, "{} = {value}", toml::Value::String(key.clone()))?,
                }
            }
        }
        Ok(())
    }
}
