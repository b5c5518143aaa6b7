//! `--set section.key=value`: one argument applied to the tree of a spec.
//!
//! Owns the notation of the argument. Must not know which keys exist: the decoder judges the result, and its errors
//! point into the argument.

use super::codes;
use super::inherit::EXTENDS;
use crate::diagnostics::{Diagnostic, SourceId, Sources, Span};
use crate::toml_tree::{self, Node, Table, Tree};

/// More parts than this no key of a spec has; the tree is walked by recursion, which an argument must not exhaust.
const MAX_PARTS: usize = 16;

/// Applies one argument, registering it as a source of its own.
///
/// The value is TOML; text that is not, such as `silu` or `hidden_size / 4`, is a string, unless it begins like a TOML
/// string, list or table.
///
/// # Errors
///
/// `spec::invalid_setting`, or `spec::syntax` for a value that begins like TOML and is not.
pub(super) fn apply(
    setting: &str,
    root: &mut Table,
    sources: &mut Sources,
) -> Result<(), Diagnostic> {
    let source = sources.add("--set", setting);
    let all = Span::new(source, 0..setting.len());
    let Some(equals) = setting.find('=') else {
        return Err(Diagnostic::error(codes::INVALID_SETTING, "a setting needs a value")
            .at(all, "no `=` in it")
            .help("write `--set section.key=value`"));
    };
    let path = key_path(setting, equals, source)?;
    if let [(key, span)] = path.as_slice()
        && key == EXTENDS
    {
        return Err(Diagnostic::error(
            codes::INVALID_SETTING,
            format!("`{EXTENDS}` cannot be set on the command line"),
        )
        .at(*span, "decides which files are read")
        .help("name the other spec itself, or write a spec that extends it"));
    }
    let node = value(setting, equals + 1, source, sources)?;
    root.insert(&path, node).map_err(|wrong| {
        Diagnostic::error(
            codes::INVALID_SETTING,
            format!("`{}` has no keys inside it", sources.slice(wrong)),
        )
        .at(wrong, "holds a single value or a list")
        .help("set the key itself; entries of a list are edited in the spec")
    })
}

/// The dotted path before `=`.
fn key_path(
    setting: &str,
    equals: usize,
    source: SourceId,
) -> Result<Vec<(String, Span)>, Diagnostic> {
    let mut path = Vec::new();
    let mut start = 0;
    for part in setting[..equals].split('.') {
        let key = part.trim();
        let key_start = start + (part.len() - part.trim_start().len());
        let span = Span::new(source, key_start..key_start + key.len());
        if key.is_empty()
            || !key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
        {
            return Err(Diagnostic::error(codes::INVALID_SETTING, format!("`{key}` is not a key"))
                .at(span, "letters, digits, `_` and `-` only")
                .help("write `--set section.key=value`"));
        }
        if path.len() == MAX_PARTS {
            return Err(Diagnostic::error(codes::INVALID_SETTING, "a key does not lie so deep")
                .at(span, format!("part {} of the key", MAX_PARTS + 1))
                .help("write `--set section.key=value`"));
        }
        path.push((key.to_owned(), span));
        start += part.len() + 1;
    }
    Ok(path)
}

/// The value after `=`.
fn value(
    setting: &str,
    start: usize,
    source: SourceId,
    sources: &mut Sources,
) -> Result<Node, Diagnostic> {
    let written = &setting[start..];
    let text = written.trim();
    let text_start = start + (written.len() - written.trim_start().len());
    let span = Span::new(source, text_start..text_start + text.len());
    if text.is_empty() {
        return Err(Diagnostic::error(codes::INVALID_SETTING, "a setting needs a value")
            .at(Span::new(source, 0..setting.len()), "nothing after `=`")
            .help("write `--set section.key=value`"));
    }
    match toml_tree::parse_value(source, text_start, codes::SYNTAX, sources) {
        Ok(node) => Ok(node),
        Err(error) if text.starts_with(['"', '\'', '[', '{']) => Err(error),
        Err(_) => Ok(Node { value: Tree::Text(text.to_owned(), span), span }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_many_parts_is_refused() {
        let mut sources = Sources::default();
        let setting = format!("{}a=1", "a.".repeat(60_000));
        let error = apply(&setting, &mut Table::default(), &mut sources).expect_err("too deep");
        assert_eq!(error.code, codes::INVALID_SETTING);
        assert_eq!(sources.slice(error.labels[0].span), "a");
    }
}
