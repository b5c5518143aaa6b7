//! An architecture file as a TOML tree, and the readers of its values that every section shares.
//!
//! Owns which values of TOML no architecture may hold, and what is said of a key or value that is not as it must be.
//! Must not know which keys an architecture has.

use crate::diagnostics::{Diagnostic, Diagnostics, SourceId, Sources, Span, did_you_mean};
use crate::language::codes;
use crate::language::expression::Value;
use crate::toml_tree::{self, Entry, Node, Table, Tree};

/// Reads a whole file.
///
/// # Errors
/// `language::toml`: syntax errors of TOML, and values that no key takes: dates, numbers that are not finite or need
/// more than 64 bits.
pub(crate) fn parse(source: SourceId, sources: &mut Sources) -> Result<Table, Diagnostics> {
    let table = toml_tree::parse(source, codes::TOML, sources)?;
    let mut diagnostics = Diagnostics::default();
    for entry in &table.0 {
        refuse_foreign_values(&entry.node, &mut diagnostics);
    }
    if diagnostics.has_errors() { Err(diagnostics) } else { Ok(table) }
}

/// Reports every value in `node` that [`Value`] cannot hold.
fn refuse_foreign_values(node: &Node, diagnostics: &mut Diagnostics) {
    let (reason, help) = match &node.value {
        Tree::HugeInteger(_) => ("the number is too large", "write a number of at most 64 bits"),
        Tree::Float(number) if !number.is_finite() => {
            ("the number is not finite", "write a finite number")
        }
        Tree::Datetime(_) => ("an architecture has no dates", "write a number or a text"),
        Tree::Text(..) | Tree::Integer(_) | Tree::Float(_) | Tree::Boolean(_) => return,
        Tree::List(nodes) => {
            return nodes.iter().for_each(|node| refuse_foreign_values(node, diagnostics));
        }
        Tree::Table(table) => {
            let entries = table.0.iter();
            return entries.for_each(|entry| refuse_foreign_values(&entry.node, diagnostics));
        }
    };
    diagnostics
        .push(Diagnostic::error(codes::TOML, reason).at(node.span, "not a value here").help(help));
}

/// The number, truth value or text of a node; `None` for what has parts.
pub(crate) fn plain(node: &Node) -> Option<Value> {
    match &node.value {
        Tree::Text(text, _) => Some(Value::Text(text.clone())),
        Tree::Integer(number) => Some(Value::Integer(*number)),
        Tree::Float(number) => Some(Value::Float(*number)),
        Tree::Boolean(truth) => Some(Value::Boolean(*truth)),
        Tree::HugeInteger(_) | Tree::Datetime(_) | Tree::List(_) | Tree::Table(_) => None,
    }
}

/// The entries of a table.
pub(crate) fn table(node: &Node) -> Result<&Table, Diagnostic> {
    match &node.value {
        Tree::Table(table) => Ok(table),
        _ => Err(wrong_value(node, "a table")),
    }
}

/// A text and its bytes, without quotes.
pub(crate) fn text(node: &Node) -> Result<(&str, Span), Diagnostic> {
    match &node.value {
        Tree::Text(text, span) => Ok((text, *span)),
        _ => Err(wrong_value(node, "a text")),
    }
}

/// The diagnostic for a key that a table does not have.
pub(crate) fn unknown_key(entry: &Entry, table: &str, known: &[&str]) -> Diagnostic {
    let all = || format!("it may have {}", known.join(", "));
    Diagnostic::error(codes::UNKNOWN_KEY, format!("{table} has no `{}`", entry.key))
        .at(entry.key_span, "unknown")
        .help(did_you_mean(&entry.key, known.iter().copied(), all))
}

/// The diagnostic for a value of the wrong type.
pub(crate) fn wrong_value(node: &Node, wanted: &str) -> Diagnostic {
    let found = node.type_name();
    Diagnostic::error(codes::WRONG_VALUE, format!("this must be {wanted}, not {found}"))
        .at(node.span, format!("is {found}"))
        .help(format!("write {wanted}"))
}
