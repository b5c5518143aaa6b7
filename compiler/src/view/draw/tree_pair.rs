//! The trees of two pictures side by side, for a terminal.
//!
//! Owns which rows are the same part of both, and the marks. Must not know how a row comes about.

use std::fmt::Write;

use super::tree::{Row, rows};
use crate::view::compare::Comparison;
use crate::view::picture::model::{Picture, Stage, Total};
use crate::view::text::{bytes, count, grouped};

/// Numbers that are set side by side: name, which, how they are written.
type Column = (&'static str, fn(&Total) -> u64, fn(u64) -> String);

const COLUMNS: [Column; 4] = [
    ("parameters", |total| total.parameters, grouped),
    ("FLOPs", |total| total.forward + total.backward, |n| count(n as f64)),
    ("recompute", |total| total.recompute, |n| count(n as f64)),
    ("kept", |total| total.kept, bytes),
];

/// The stages of both, one after the other: `=` where a part is the same, `≠` where it differs, `+` and `−` where only one
/// has it.
pub fn text(comparison: &Comparison) -> String {
    let Comparison { a, b, differences } = comparison;
    let mut text = format!("{} ({})  |  {} ({})\n", a.name, a.form, b.name, b.form);
    let noted = [a, b].map(|picture| (&picture.name, picture.note.as_ref()));
    for (name, note) in noted.into_iter().filter_map(|(name, note)| Some((name, note?))) {
        let _ = writeln!(text, "note on {name}: {note}");
    }
    for (one, other) in a.stages.iter().zip(&b.stages) {
        let _ = writeln!(text, "\n{}: FLOPs and bytes of one execution", one.name);
        text += &table((a, one), (b, other));
    }
    if differences.is_empty() {
        text += "\nno difference\n";
        return text;
    }
    text += "\ndifferences\n";
    let paths = differences.iter().map(|row| row.path.chars().count()).max().unwrap_or(0);
    let what = differences.iter().map(|row| row.what.chars().count()).max().unwrap_or(0);
    for row in differences {
        let line = format!("  {:paths$}  {:what$}  {}  →  {}", row.path, row.what, row.a, row.b);
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn table((_, a): (&Picture, &Stage), (_, b): (&Picture, &Stage)) -> String {
    let pairs = merged(rows(a), rows(b));
    let cells: Vec<(String, Vec<String>)> = pairs.iter().map(row).collect();
    let name = cells.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let used: Vec<usize> = (0..COLUMNS.len())
        .filter(|&c| cells.iter().any(|(_, cells)| !cells[c].is_empty()))
        .collect();
    let width = |column: usize| {
        let widths = cells.iter().map(|(_, cells)| cells[column].chars().count());
        widths.chain([COLUMNS[column].0.len()]).max().unwrap_or(0)
    };
    let mut text = format!("{:name$}", "");
    for &column in &used {
        let _ = write!(text, "  {:<1$}", COLUMNS[column].0, width(column));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    for (label, cells) in &cells {
        let mut line = format!("{label:name$}");
        for &column in &used {
            let _ = write!(line, "  {:<1$}", cells[column], width(column));
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// A part of one picture, of the other, or of both.
type Part = (Option<Row>, Option<Row>);

/// Rows of both in the order of the first, what only the second has behind what stands before it there.
fn merged(a: Vec<Row>, b: Vec<Row>) -> Vec<Part> {
    let mut parts: Vec<Part> = a.into_iter().map(|row| (Some(row), None)).collect();
    let mut after = 0;
    for row in b {
        let key = |part: &Part| part.0.as_ref().is_some_and(|other| other.key == row.key);
        match parts.iter().position(key) {
            Some(at) => {
                parts[at].1 = Some(row);
                after = at + 1;
            }
            None => {
                parts.insert(after, (None, Some(row)));
                after += 1;
            }
        }
    }
    parts
}

fn row((a, b): &Part) -> (String, Vec<String>) {
    let total = |row: &Option<Row>| row.as_ref().map(|row| row.total).unwrap_or_default();
    let (old, new) = (total(a), total(b));
    let mark = match (a, b) {
        (Some(_), None) => '−',
        (None, Some(_)) => '+',
        (Some(a), Some(b)) if a.total == b.total && a.note == b.note => '=',
        _ => '≠',
    };
    let name = b.as_ref().or(a.as_ref()).map(|row| row.name.clone()).unwrap_or_default();
    let cell = |&(_, number, show): &Column| match (number(&old), number(&new)) {
        (0, 0) => String::new(),
        (old, new) if old == new => show(new),
        (0, new) => format!("0 → {}", show(new)),
        (old, new) => {
            let percent = 100.0 * (new as f64 - old as f64) / old as f64;
            format!("{} → {} ({percent:+.0} %)", show(old), show(new))
        }
    };
    (format!("{mark} {name}"), COLUMNS.iter().map(cell).collect())
}
