//! The resolved spec: every key with the value that holds, as canonical TOML, and where each value comes from.
//!
//! Owns the order and layout of that text. Must not decide values: the decoder hands them over once they are checked.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::schema;
use crate::diagnostics::{Sources, Span};
use crate::language::expression::Value;
use crate::toml_tree::Tree;

/// Every key of a spec with the value that holds and where it comes from.
#[derive(Clone, Debug, Default)]
pub struct Resolution {
    lines: BTreeMap<Place, Line>,
}

/// Section, position in a list, key.
type Place = (&'static str, Option<usize>, String);

#[derive(Clone, Debug)]
struct Line {
    value: Tree,
    origin: Origin,
}

/// Where the value of a key comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// It is written there: in a file of the spec or in an argument of `--set`.
    Written(Span),
    /// The default of [`schema`].
    Default,
    /// The value of another key, because its own is absent.
    SameAs(&'static str),
    /// The default of the architecture, declared there.
    Architecture(Span),
    /// It follows from another key and the model, as the text says.
    Computed(Arc<str>),
}

impl Resolution {
    /// Records the value of a key.
    pub(super) fn set(
        &mut self,
        section: &'static str,
        index: Option<usize>,
        key: &str,
        value: &Tree,
        origin: Origin,
    ) {
        let line = Line { value: value.clone(), origin };
        self.lines.insert((section, index, key.to_owned()), line);
    }

    /// Adds a setting of `[model]` that the spec leaves to the architecture.
    pub(crate) fn set_model_default(&mut self, key: &str, value: &Value, declared: Span) {
        let value = match value {
            Value::Integer(number) => Tree::Integer(*number),
            Value::Float(number) => Tree::Float(*number),
            Value::Boolean(flag) => Tree::Boolean(*flag),
            Value::Text(text) => Tree::Text(text.clone(), declared),
        };
        let place = ("model", None, key.to_owned());
        self.lines.entry(place).or_insert(Line { value, origin: Origin::Architecture(declared) });
    }

    /// Removes a key.
    pub(super) fn forget(&mut self, section: &'static str, key: &str) {
        self.lines.remove(&(section, None, key.to_owned()));
    }

    /// Removes the tables of a list.
    pub(super) fn drop_tables(&mut self, section: &str) {
        self.lines.retain(|(name, _, _), _| *name != section);
    }

    /// Removes a section with the sections inside it.
    pub(super) fn drop_section(&mut self, section: &str) {
        self.lines.retain(|(name, _, _), _| name.split('.').next() != Some(section));
    }

    /// The same TOML as [`fmt::Display`] gives, with a comment behind each value that says where it comes from.
    pub fn annotated(&self, sources: &Sources) -> String {
        let mut text = String::new();
        for item in self.items() {
            match item {
                Item::Blank => text.push('\n'),
                Item::Header(header) => text.push_str(&format!("{header}\n")),
                Item::Line(key, line) => {
                    let setting = format!("{key} = {}", line.value);
                    text.push_str(&format!("{setting:<40}  # {}\n", line.origin.describe(sources)));
                }
            }
        }
        text
    }

    /// Values and their origins for machines: `values` nested as in the spec, `origins` by dotted path, entries of
    /// `[[cola.override]]` as `cola.override.0.rank`.
    pub fn json(&self, sources: &Sources) -> serde_json::Value {
        let mut values = serde_json::Map::new();
        let mut origins = serde_json::Map::new();
        for section in schema::SECTIONS {
            for ((_, index, key), line) in self.lines_of(section) {
                let mut path: Vec<&str> =
                    section.split('.').filter(|part| !part.is_empty()).collect();
                let number = index.map(|index| index.to_string());
                let mut place = &mut values;
                for (depth, part) in path.iter().enumerate() {
                    let listed = index.is_some() && depth + 1 == path.len();
                    let empty = match listed {
                        true => serde_json::Value::Array(Vec::new()),
                        false => serde_json::Value::Object(serde_json::Map::new()),
                    };
                    let entry = place.entry((*part).to_owned()).or_insert(empty);
                    let object = match (entry, index) {
                        (serde_json::Value::Array(list), Some(index)) => {
                            while list.len() <= *index {
                                list.push(serde_json::Value::Object(serde_json::Map::new()));
                            }
                            list[*index].as_object_mut()
                        }
                        (entry, _) => entry.as_object_mut(),
                    };
                    place = object.expect("a section is a table or a list of tables");
                }
                place.insert(key.clone(), line.value.to_json());
                path.extend(number.as_deref());
                path.push(key);
                origins.insert(path.join("."), line.origin.describe(sources).into());
            }
        }
        serde_json::json!({ "values": values, "origins": origins })
    }

    /// The lines of a section in their order: as in [`schema`], settings of `[model]` by name.
    fn lines_of(&self, section: &str) -> Vec<(&Place, &Line)> {
        let order = |key: &str| schema::keys_of(section).position(|known| known.name == key);
        let mut lines: Vec<_> =
            self.lines.iter().filter(|((name, _, _), _)| *name == section).collect();
        lines.sort_by_key(|((_, index, key), _)| (*index, order(key)));
        lines
    }

    fn items(&self) -> Vec<Item<'_>> {
        let mut items = Vec::new();
        for section in schema::SECTIONS {
            let mut header = None;
            for ((_, index, key), line) in self.lines_of(section) {
                if !section.is_empty() && header != Some(index) {
                    if !items.is_empty() {
                        items.push(Item::Blank);
                    }
                    items.push(Item::Header(match index {
                        Some(_) => format!("[[{section}]]"),
                        None => format!("[{section}]"),
                    }));
                    header = Some(index);
                }
                let bare = !key.is_empty()
                    && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
                let key = match bare {
                    true => key.clone(),
                    false => toml::Value::String(key.clone()).to_string(),
                };
                items.push(Item::Line(key, line));
            }
        }
        items
    }
}

/// A line of the text.
enum Item<'a> {
    Blank,
    Header(String),
    Line(String, &'a Line),
}

impl Origin {
    /// In a few words on one line: `default`, `--set`, `my.toml:12`.
    fn describe(&self, sources: &Sources) -> String {
        let text = match self {
            Origin::Written(span) => {
                let source = sources.get(span.source);
                match source.name.starts_with("--") {
                    true => source.name.clone(),
                    false => sources.place(*span),
                }
            }
            Origin::Default => "default".to_owned(),
            Origin::SameAs(key) => format!("default: that of {key}"),
            Origin::Architecture(span) => {
                format!("default of the architecture, {}", sources.place(*span))
            }
            Origin::Computed(text) => text.to_string(),
        };
        // A path may have any character, and a comment ends with its line.
        text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
    }
}

impl fmt::Display for Resolution {
    /// Sections and keys in the order of [`schema`]; settings of `[model]` by name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for item in self.items() {
            match item {
                Item::Blank => writeln!(f)?,
                Item::Header(header) => writeln!(f, "{header}")?,
                Item::Line(key, line) => writeln!(f, "{key} = {}", line.value)?,
            }
        }
        Ok(())
    }
}
