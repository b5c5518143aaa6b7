//! Pictures as files: trees of text, Graphviz, model-explorer's JSON, figures.
//!
//! One format a file. Reads pictures and nothing else of the compiler.

pub mod dot;
pub mod explorer;
pub mod figure;
pub mod tree;
pub mod tree_pair;

use super::picture::model::{Box, BoxKind, Stage};

/// What every file that `colac graph` writes holds near its beginning, so that it can be told from other files.
pub const SIGNATURE: &str = "<!-- drawn by colac graph -->";

/// Text as it may stand in XML, in elements and between quotes.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            // XML has no place for other control characters.
            c if c.is_control() && !matches!(c, '\n' | '\t') => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// The boxes directly in a box, in order.
fn inner(stage: &Stage, around: usize) -> impl Iterator<Item = usize> + '_ {
    (0..stage.boxes.len()).filter(move |&index| stage.boxes[index].parent == Some(around))
}

/// What stands on a box: a fold says which turns, a pair its widths.
fn heading(one: &Box) -> String {
    if let Some(pair) = &one.pair {
        return format!("{}  {} → {} → {}", one.label, pair.inputs, pair.rank, pair.outputs);
    }
    match (one.kind, one.first, one.last) {
        (BoxKind::Fold, Some(first), Some(last)) => format!("{}  ({first}–{last})", one.label),
        _ => one.label.clone(),
    }
}
