//! An architecture file as a TOML document in which every key and value knows its place.
//!
//! Owns reading TOML and the place of a text inside its quotes. Must not know which keys an architecture has.

use toml::de::{DeTable, DeValue};

use crate::diagnostics::{Diagnostic, Diagnostics, SourceId, Sources, Span};
use crate::language::codes;
use crate::language::expression::Value;

/// A key and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The key, quotes taken off.
    pub(crate) key: String,
    /// The key as written, with quotes if it has them.
    pub(crate) key_span: Span,
    /// The value.
    pub(crate) node: Node,
}

impl Entry {
    /// Where the text of the key begins: after its quote, if it has one.
    pub(crate) fn key_text_start(&self) -> usize {
        let quoted = (self.key_span.end - self.key_span.start) as usize > self.key.len();
        self.key_span.start as usize + usize::from(quoted)
    }

    /// Key and value.
    pub(crate) fn span(&self) -> Span {
        self.key_span.to(self.node.span)
    }
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The value.
    pub(crate) content: Content,
    /// As written, with quotes.
    pub(crate) span: Span,
}

/// A value of a document.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// A number, truth value or text; for a text also the byte where it begins behind its quotes, or `None` if escapes
    /// shift its bytes against the file's.
    Plain(Value, Option<usize>),
    /// `[a, b]`.
    List(Vec<Node>),
    /// A section or `{ a = b }`, in the order written.
    Table(Vec<Entry>),
}

impl Node {
    /// What a message calls it.
    pub(crate) fn type_name(&self) -> &'static str {
        match &self.content {
            Content::Plain(value, _) => value.type_name(),
            Content::List(_) => "a list",
            Content::Table(_) => "a table",
        }
    }
}

/// Reads a whole document.
///
/// # Errors
/// `language::toml`: every syntax error of TOML; dates and numbers of more than 64 bits, which no key takes.
pub(crate) fn parse(source: SourceId, sources: &Sources) -> Result<Vec<Entry>, Diagnostics> {
    let text = &sources.get(source).text;
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut diagnostics = Diagnostics::default();
    for error in &errors {
        let span = error.span().unwrap_or_default();
        let start = span.start.min(text.len());
        diagnostics.push(
            Diagnostic::error(codes::TOML, "this is not TOML")
                .at(Span::new(source, start..span.end.clamp(start, text.len())), error.message())
                .help("write `key = value` lines under `[section]` headers; texts stand in quotes"),
        );
    }
    let reader = Reader { source, text };
    let entries = reader.table(table.get_ref(), &mut diagnostics);
    if diagnostics.has_errors() { Err(diagnostics) } else { Ok(entries) }
}

struct Reader<'a> {
    source: SourceId,
    text: &'a str,
}

impl Reader<'_> {
    fn table(&self, table: &DeTable<'_>, diagnostics: &mut Diagnostics) -> Vec<Entry> {
        let mut entries: Vec<Entry> = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref().to_string(),
                key_span: Span::new(self.source, key.span()),
                node: self.node(value.get_ref(), value.span(), diagnostics),
            })
            .collect();
        // The crate orders keys by name; the order of the text decides between rules and for messages.
        entries.sort_by_key(|entry| entry.key_span);
        entries
    }

    fn node(
        &self,
        value: &DeValue<'_>,
        range: std::ops::Range<usize>,
        diagnostics: &mut Diagnostics,
    ) -> Node {
        let span = Span::new(self.source, range.clone());
        let mut refuse = |what: &str, help: &str| {
            diagnostics
                .push(Diagnostic::error(codes::TOML, what).at(span, "not a value here").help(help));
            Content::Plain(Value::Integer(0), None)
        };
        let content = match value {
            DeValue::String(text) => {
                Content::Plain(Value::Text(text.to_string()), self.text_start(text, range))
            }
            DeValue::Integer(integer) => {
                match i64::from_str_radix(integer.as_str(), integer.radix()) {
                    Ok(number) => Content::Plain(Value::Integer(number), None),
                    Err(_) => {
                        refuse("the number is too large", "write a number of at most 64 bits")
                    }
                }
            }
            DeValue::Float(float) => match float.as_str().parse::<f64>() {
                Ok(number) if number.is_finite() => Content::Plain(Value::Float(number), None),
                _ => refuse("the number is not finite", "write a finite number"),
            },
            DeValue::Boolean(truth) => Content::Plain(Value::Boolean(*truth), None),
            DeValue::Datetime(_) => {
                refuse("an architecture has no dates", "write a number or a text")
            }
            DeValue::Array(values) => Content::List(
                values
                    .iter()
                    .map(|value| self.node(value.get_ref(), value.span(), diagnostics))
                    .collect(),
            ),
            DeValue::Table(table) => Content::Table(self.table(table, diagnostics)),
        };
        Node { content, span }
    }

    /// The byte where a string's text begins, if it stands in the file byte for byte.
    fn text_start(&self, text: &str, range: std::ops::Range<usize>) -> Option<usize> {
        let written = self.text.get(range.clone())?;
        let quotes = ["\"\"\"", "'''", "\"", "'"]
            .into_iter()
            .find(|quotes| written.starts_with(quotes))?
            .len();
        let inner = written.get(quotes..written.len().checked_sub(quotes)?)?;
        // A line break right after three quotes does not belong to the text.
        let line_break = [("\r\n", 2), ("\n", 1)]
            .into_iter()
            .find(|(br, _)| quotes == 3 && inner.starts_with(br));
        let skipped = line_break.map_or(0, |(_, length)| length);
        (inner.get(skipped..)? == text).then_some(range.start + quotes + skipped)
    }
}
