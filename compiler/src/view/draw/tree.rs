//! A stage as a tree for a terminal, with the totals of every box.
//!
//! Owns its words and columns. A row is a box, or what a box holds under one label or none; the rows below a row are its
//! parts. Must not add up anything that the picture does not hold.

use std::fmt::Write;

use super::{heading, inner};
use crate::view::picture::model::{BoxKind, Node, NodeKind, Picture, Stage, Total};
use crate::view::text::{bytes, count, grouped};

/// A row of the tree.
pub(super) struct Row {
    /// The box's path and what it is in it: the same for the same part of another picture.
    pub(super) key: String,
    /// Branches and name.
    pub(super) name: String,
    /// The totals, of boxes; what stands beside boxes has none of its own.
    pub(super) total: Total,
    /// What is said behind the numbers.
    pub(super) note: String,
}

/// Stages as text, one after the other.
pub fn text(picture: &Picture) -> String {
    let stages: Vec<String> = picture.stages.iter().map(|stage| one(picture, stage)).collect();
    stages.join("\n")
}

fn one(picture: &Picture, stage: &Stage) -> String {
    let mut text = format!(
        "{} ({}), {}: {}\n",
        picture.name,
        picture.form,
        stage.name,
        lower_first(stage.title)
    );
    let _ = writeln!(
        text,
        "FLOPs of products and attention for each token; bytes for a micro-batch of {} × {} tokens\n",
        picture.micro_batch, picture.sequence_length
    );
    if let Some(note) = picture.note_on(stage) {
        let _ = writeln!(text, "note: {note}\n");
    }
    let rows = rows(stage);
    let cells: Vec<[String; 7]> = rows.iter().map(|row| cells(picture, &row.total)).collect();
    let used: Vec<usize> = (0..COLUMNS.len()).filter(|&c| any(&cells, c)).collect();
    let width = |column: usize| {
        let widths = cells.iter().map(|cells| cells[column].chars().count());
        widths.chain([COLUMNS[column].len()]).max().unwrap_or(0)
    };
    let name = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
    let mut line = format!("{:name$}", "");
    for &column in &used {
        let _ = write!(line, "  {:>1$}", COLUMNS[column], width(column));
    }
    let _ = writeln!(text, "{}", line.trim_end());
    for (row, cells) in rows.iter().zip(&cells) {
        let mut line = format!("{:name$}", row.name);
        for &column in &used {
            let _ = write!(line, "  {:>1$}", cells[column], width(column));
        }
        let _ = write!(line, "  {}", row.note);
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

const COLUMNS: [&str; 7] =
    ["parameters", "forward", "backward", "recompute", "bytes moved", "kept", "operations"];

/// Whether a column says anything.
fn any(cells: &[[String; 7]], column: usize) -> bool {
    cells.iter().any(|cells| !cells[column].is_empty())
}

fn cells(picture: &Picture, total: &Total) -> [String; 7] {
    let positions = f64::from(picture.micro_batch) * f64::from(picture.sequence_length);
    let flops = |n: u64| match n {
        0 => String::new(),
        n => count((n as f64 / positions.max(1.0)).round()),
    };
    let shown = |n: u64, show: fn(u64) -> String| if n == 0 { String::new() } else { show(n) };
    [
        shown(total.parameters, grouped),
        flops(total.forward),
        flops(total.backward),
        flops(total.recompute),
        shown(total.bytes, bytes),
        shown(total.kept, bytes),
        shown(total.operations, grouped),
    ]
}

/// The rows of a stage, from the model down.
pub(super) fn rows(stage: &Stage) -> Vec<Row> {
    let mut rows = Vec::new();
    let model = &stage.boxes[0];
    let key = String::new();
    rows.push(Row { key, name: model.label.clone(), total: model.total, note: String::new() });
    below(stage, 0, "", &mut rows);
    rows
}

fn below(stage: &Stage, around: usize, indent: &str, rows: &mut Vec<Row>) {
    // A fold and the turn that stands for its turns are one row.
    let around = match stage.boxes[around].kind {
        BoxKind::Fold => inner(stage, around).next().unwrap_or(around),
        _ => around,
    };
    let mut parts: Vec<(usize, Row, Option<usize>)> = Vec::new();
    for index in inner(stage, around) {
        let one = &stage.boxes[index];
        let row = Row {
            key: one.path.clone(),
            name: heading(one),
            total: one.total,
            note: note(stage, index),
        };
        parts.push((first_node(stage, index), row, Some(index)));
    }
    let is_leaf = matches!(stage.boxes[around].kind, BoxKind::Pair | BoxKind::Linear);
    if !is_leaf {
        parts.extend(own(stage, around).into_iter().map(|(at, row)| (at, row, None)));
    }
    parts.sort_by_key(|(at, ..)| *at);
    let count = parts.len();
    for (number, (_, mut row, index)) in parts.into_iter().enumerate() {
        let (branch, next) =
            if number + 1 == count { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        row.name = format!("{indent}{branch}{}", row.name);
        rows.push(row);
        if let Some(index) = index {
            below(stage, index, &format!("{indent}{next}"), rows);
        }
    }
}

/// What a box holds beside boxes: one row for each label, and one for what has none, named after what it does.
fn own(stage: &Stage, around: usize) -> Vec<(usize, Row)> {
    let times = stage.boxes[around].times;
    let mut rows: Vec<(usize, Row)> = Vec::new();
    for (index, node) in stage.nodes.iter().enumerate() {
        let supplied = matches!(node.kind, NodeKind::Input | NodeKind::Constant | NodeKind::View);
        if node.parent != around || supplied || is_state(node) {
            continue;
        }
        let total = stage.total_of(index) * times;
        if total == Total::default() {
            continue;
        }
        let unnamed = node.label == node.op;
        let name = node.label.split('.').next().unwrap_or_default();
        let key = format!("{} {}", stage.boxes[around].path, if unnamed { "·" } else { name });
        match rows.iter_mut().find(|(_, row)| row.key == key) {
            Some((_, row)) => {
                row.total += total;
                if !row.name.split(", ").any(|known| known == name) {
                    row.name = format!("{}, {name}", row.name);
                }
            }
            None => {
                let (name, note) = (name.to_owned(), String::new());
                rows.push((index, Row { key, name, total, note }));
            }
        }
    }
    rows
}

/// Whether a node only says that something is there.
fn is_state(node: &Node) -> bool {
    node.kind == NodeKind::Memory && node.operands.is_empty()
}

/// The first node in a box or in the boxes in it.
fn first_node(stage: &Stage, index: usize) -> usize {
    let own = stage.nodes.iter().position(|node| node.parent == index);
    let inside = inner(stage, index).map(|inner| first_node(stage, inner));
    inside.chain(own).min().unwrap_or(usize::MAX)
}

/// Activation of a pair, reason of a dense linear.
fn note(stage: &Stage, index: usize) -> String {
    let one = &stage.boxes[index];
    match (&one.pair, &one.reason) {
        (Some(pair), _) => pair.activation.clone(),
        (None, Some(reason)) => format!("dense: {reason}"),
        (None, None) => String::new(),
    }
}

fn lower_first(sentence: &str) -> String {
    let mut letters = sentence.chars();
    let first = letters.next().map(char::to_lowercase);
    first.into_iter().flatten().chain(letters).collect()
}
