//! TOML as a tree in which every key and value knows its place, whatever source it came from.
//!
//! Owns the conversion from the `toml` crate's spanned values, TOML syntax errors, and insertion of a value under a
//! dotted path. Must not know which keys a spec has.

use std::fmt;

use toml::de::{DeTable, DeValue};

use super::codes;
use crate::diagnostics::{Diagnostic, Diagnostics, SourceId, Sources, Span};

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) value: Tree,
    pub(super) span: Span,
}

/// A TOML value.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    /// The span covers the text without quotes; for a string with escapes it lies in a source of its own, because
    /// positions inside the text would otherwise not agree with the file.
    Text(String, Span),
    Integer(i64),
    /// A whole number that 64 bits cannot hold, as written.
    HugeInteger(String),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    List(Vec<Node>),
    Table(Table),
}

/// The entries of a table in the order written.
#[derive(Clone, Debug, Default)]
pub(super) struct Table(pub(super) Vec<Entry>);

/// A key with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Span,
    pub(super) node: Node,
}

impl Tree {
    /// What it is, with an article, for messages.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Tree::Text(..) => "a text",
            Tree::Integer(_) | Tree::HugeInteger(_) => "an integer",
            Tree::Float(_) => "a number with a fraction",
            Tree::Boolean(_) => "a truth value",
            Tree::Datetime(_) => "a date or time",
            Tree::List(_) => "a list",
            Tree::Table(_) => "a section",
        }
    }
}

impl Table {
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.key == key)
    }

    /// Puts `value` under `path`, creating tables on the way and replacing what was there.
    ///
    /// # Errors
    ///
    /// The span of the key on the way that is not a table.
    pub(super) fn insert(&mut self, path: &[(String, Span)], value: Node) -> Result<(), Span> {
        let Some(((key, key_span), rest)) = path.split_first() else { return Ok(()) };
        let at = self.0.iter().position(|entry| entry.key == *key);
        if rest.is_empty() {
            let entry = Entry { key: key.clone(), key_span: *key_span, node: value };
            match at {
                Some(at) => self.0[at] = entry,
                None => self.0.push(entry),
            }
            return Ok(());
        }
        let at = at.unwrap_or_else(|| {
            let node = Node { value: Tree::Table(Table::default()), span: *key_span };
            self.0.push(Entry { key: key.clone(), key_span: *key_span, node });
            self.0.len() - 1
        });
        match &mut self.0[at].node.value {
            Tree::Table(table) => table.insert(rest, value),
            _ => Err(*key_span),
        }
    }
}

/// Parses a whole TOML document.
///
/// # Errors
///
/// Every syntax error, at most one a line, because one mistake often makes the rest of its line unreadable.
pub(super) fn parse(source: SourceId, sources: &mut Sources) -> Result<Table, Diagnostics> {
    let text = std::sync::Arc::clone(&sources.get(source).text);
    let (table, errors) = DeTable::parse_recoverable(&text);
    if errors.is_empty() {
        return Ok(Converter { source, shift: 0, sources }.table(table.get_ref()));
    }
    let help = "write `key = value` lines under `[section]` headers; texts stand in quotes";
    let mut found: Vec<_> =
        errors.iter().map(|error| syntax_error(error, source, 0, &text).help(help)).collect();
    let line =
        |diagnostic: &Diagnostic| diagnostic.labels.first().map(|label| line_of(&text, label.span));
    found.sort_by_key(line);
    found.dedup_by_key(|diagnostic| line(diagnostic));
    let mut diagnostics = Diagnostics::default();
    for diagnostic in found {
        diagnostics.push(diagnostic);
    }
    Err(diagnostics)
}

/// The line a span starts in, counted from 0.
fn line_of(text: &str, span: Span) -> usize {
    text.as_bytes()[..span.start as usize].iter().filter(|&&byte| byte == b'\n').count()
}

/// Parses one TOML value that stands at byte `offset` of a source and reaches to its end.
///
/// # Errors
///
/// The first syntax error.
pub(super) fn parse_value(
    source: SourceId,
    offset: usize,
    sources: &mut Sources,
) -> Result<Node, Diagnostic> {
    let text = std::sync::Arc::clone(&sources.get(source).text);
    let value = DeValue::parse(&text[offset..]).map_err(|error| {
        syntax_error(&error, source, offset, &text)
            .help("complete the value: every quote and bracket must be closed")
    })?;
    Ok(Converter { source, shift: offset, sources }.node(value.get_ref(), value.span()))
}

/// A syntax error of the `toml` crate as a diagnostic.
fn syntax_error(error: &toml::de::Error, source: SourceId, shift: usize, text: &str) -> Diagnostic {
    let found = error.span().unwrap_or_default();
    let (mut start, mut end) =
        ((found.start + shift).min(text.len()), (found.end + shift).min(text.len()));
    let last = text.trim_end().char_indices().next_back();
    if let Some((at, character)) = last.filter(|(at, _)| start > *at) {
        // Nothing stands where the text ends too early: the error points at the last character before.
        (start, end) = (at, at + character.len_utf8());
    }
    Diagnostic::error(codes::SYNTAX, "this is not TOML")
        .at(Span::new(source, start..end.max(start)), error.message())
}

/// Turns the `toml` crate's values into nodes of one source.
struct Converter<'s> {
    source: SourceId,
    /// Where the parsed text starts in the source.
    shift: usize,
    sources: &'s mut Sources,
}

impl Converter<'_> {
    fn span(&self, range: std::ops::Range<usize>) -> Span {
        Span::new(self.source, range.start + self.shift..range.end + self.shift)
    }

    fn table(&mut self, table: &DeTable<'_>) -> Table {
        let mut entries: Vec<Entry> = Vec::new();
        for (key, value) in table {
            let key_span = self.span(key.span());
            let node = self.node(value.get_ref(), value.span());
            entries.push(Entry { key: key.get_ref().clone().into_owned(), key_span, node });
        }
        // The crate orders keys by name; messages come in the order of the text.
        entries.sort_by_key(|entry| entry.key_span);
        Table(entries)
    }

    fn node(&mut self, value: &DeValue<'_>, range: std::ops::Range<usize>) -> Node {
        let span = self.span(range);
        let value = match value {
            DeValue::String(text) => {
                Tree::Text(text.clone().into_owned(), self.text_span(text, span))
            }
            DeValue::Integer(integer) => {
                match i64::from_str_radix(integer.as_str(), integer.radix()) {
                    Ok(number) => Tree::Integer(number),
                    Err(_) => Tree::HugeInteger(self.sources.slice(span).to_owned()),
                }
            }
            // The crate has checked the digits; what Rust does not take would be a number that is not one.
            DeValue::Float(float) => Tree::Float(float.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(flag) => Tree::Boolean(*flag),
            DeValue::Datetime(moment) => Tree::Datetime(moment.to_string()),
            DeValue::Array(values) => Tree::List(
                values.iter().map(|value| self.node(value.get_ref(), value.span())).collect(),
            ),
            DeValue::Table(table) => Tree::Table(self.table(table)),
        };
        Node { value, span }
    }

    /// The bytes of a string's text, without quotes.
    fn text_span(&mut self, text: &str, span: Span) -> Span {
        let written = self.sources.slice(span);
        let quotes =
            ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quotes| written.starts_with(quotes));
        let quotes = quotes.map_or(0, str::len);
        let inner = written.get(quotes..written.len().saturating_sub(quotes)).unwrap_or_default();
        // A line break right after three quotes does not belong to the text.
        let trimmed = if quotes == 3 {
            inner.trim_start_matches('\r').strip_prefix('\n').unwrap_or(inner)
        } else {
            inner
        };
        if trimmed == text {
            let start = span.start as usize + quotes + (inner.len() - trimmed.len());
            return Span::new(span.source, start..start + text.len());
        }
        let source = self.sources.add(format!("text at {}", self.sources.place(span)), text);
        Span::new(source, 0..text.len())
    }
}

impl fmt::Display for Tree {
    /// As TOML, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tree::Text(text, _) => write!(f, "{}", toml::Value::String(text.clone())),
            Tree::Integer(number) => write!(f, "{number}"),
            Tree::HugeInteger(text) | Tree::Datetime(text) => f.write_str(text),
            // Debug writes 1e-8 where Display writes 0.00000001; only numbers that are not finite differ from TOML.
            Tree::Float(number) if number.is_finite() => write!(f, "{number:?}"),
            Tree::Float(number) => write!(f, "{}", toml::Value::Float(*number)),
            Tree::Boolean(flag) => write!(f, "{flag}"),
            Tree::List(nodes) => {
                f.write_str("[")?;
                for (index, node) in nodes.iter().enumerate() {
                    write!(f, "{}{}", if index == 0 { "" } else { ", " }, node.value)?;
                }
                f.write_str("]")
            }
            Tree::Table(table) => {
                f.write_str("{ ")?;
                for (index, entry) in table.0.iter().enumerate() {
                    let key = toml::Value::String(entry.key.clone());
                    write!(
                        f,
                        "{}{key} = {}",
                        if index == 0 { "" } else { ", " },
                        entry.node.value
                    )?;
                }
                f.write_str(" }")
            }
        }
    }
}
