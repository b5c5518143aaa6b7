//! The memory report as text for a terminal.
//!
//! Owns its words and columns. Must not count anything that the report does not hold.

use std::fmt::Write;

use super::memory::{Peak, PeakTensor, Place};
use super::text::{bytes, pattern};
use super::{Inspection, MemoryReport};

/// More rows of tensors than this are summed up in one.
const ROWS: usize = 12;

/// Categories, bytes moved, and what makes the peak. `architecture` is the text that lines are quoted from.
pub fn report(memory: &MemoryReport, inspection: &Inspection, architecture: &str) -> String {
    let mut text = String::from("memory by category\n");
    for category in memory.categories.iter().filter(|category| category.bytes > 0) {
        let note = match category.name {
            "kept for backward" => "  activations made in the forward pass, at the peak",
            "transient" => "  other activations, at the peak",
            "unused" => "  of the arena, at the peak: what placing them costs",
            _ => "",
        };
        let _ = writeln!(text, "  {:<20}{:>12}{note}", category.name, bytes(category.bytes));
    }
    let _ = writeln!(text, "  {:<20}{:>12}", "total", bytes(memory.total));
    let moved = memory.bytes_moved;
    let mut parts = format!("forward {}, backward {}", bytes(moved.forward), bytes(moved.backward));
    if moved.recompute > 0 {
        let _ = write!(parts, ", recompute {}", bytes(moved.recompute));
    }
    let _ = writeln!(
        text,
        "\nbytes moved   {parts} for each micro-batch of {} rows; update {}",
        inspection.batch.micro_batch,
        bytes(moved.update)
    );
    text.push('\n');
    text += &peak(&memory.peak, architecture);
    text
}

fn peak(peak: &Peak, architecture: &str) -> String {
    let mut text = String::new();
    let Some(operation) = &peak.operation else { return text };
    let _ = writeln!(
        text,
        "peak of activations   {} alive in an arena of {}, in {} at {}",
        bytes(peak.bytes),
        bytes(peak.arena_bytes),
        peak.program,
        named(operation)
    );
    if let Some(line) = quoted(operation.line, architecture) {
        let _ = writeln!(text, "  {line}");
    }
    let rows = folded(&peak.tensors);
    let cells: Vec<[String; 6]> = rows.iter().take(ROWS).map(cells).collect();
    let heading = ["what is alive", "bytes", "", "operations", "made by", "type"];
    let width = |column: usize| {
        let widths = cells.iter().map(|cells| cells[column].chars().count());
        widths.chain([heading[column].len()]).max().unwrap_or(0)
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    for cells in [heading.map(str::to_owned)].iter().chain(&cells) {
        let mut line = format!("  {:<1$}", cells[0], widths[0]);
        let _ = write!(line, "  {:>1$}", cells[1], widths[1]);
        for column in 2..6 {
            let _ = write!(line, "  {:<1$}", cells[column], widths[column]);
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    if rows.len() > ROWS {
        let rest: u64 = rows[ROWS..].iter().map(|row| row.bytes).sum();
        let name = format!("and {} more", rows.len() - ROWS);
        let _ = writeln!(text, "  {name:<0$}  {1:>2$}", widths[0], bytes(rest), widths[1]);
    }
    text
}

/// `operation 83, linear_backward_weight of layers.3.mlp.up_proj (backward)`.
fn named(place: &Place) -> String {
    let path = if place.path.is_empty() { String::new() } else { format!(" of {}", place.path) };
    format!("operation {}, {}{path} ({})", place.index, place.op, place.phase)
}

/// A line of the architecture with its number.
fn quoted(line: Option<u32>, architecture: &str) -> Option<String> {
    let line = line?;
    let text = architecture.lines().nth(line.checked_sub(1)? as usize)?;
    Some(format!("line {line}: {}", text.trim()))
}

/// A row as it is printed.
fn cells(row: &Row<'_>) -> [String; 6] {
    let PeakTensor { name, ty, kept, since, .. } = row.first;
    let times = if row.count > 1 { format!(" × {}", row.count) } else { String::new() };
    // What the architecture left without a label is known by what makes it.
    let name = match name.trim_matches(|c: char| c == '.' || c.is_ascii_digit()).is_empty() {
        true => format!("({})", since.op),
        false => pattern(name),
    };
    let made = match since.line {
        Some(line) => format!("line {line}, {}", since.op),
        None => since.op.to_owned(),
    };
    [
        name + &times,
        bytes(row.bytes),
        if *kept { "kept" } else { "transient" }.to_owned(),
        format!("{}–{}", row.since, row.until),
        made,
        ty.clone(),
    ]
}

/// Tensors of repeated layers that differ only in their layer.
struct Row<'a> {
    first: &'a PeakTensor,
    count: usize,
    bytes: u64,
    since: usize,
    until: usize,
}

fn folded(tensors: &[PeakTensor]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for tensor in tensors {
        let same = |row: &&mut Row<'_>| {
            pattern(&row.first.name) == pattern(&tensor.name)
                && (&row.first.ty, row.first.bytes, row.first.kept, row.first.since.op)
                    == (&tensor.ty, tensor.bytes, tensor.kept, tensor.since.op)
        };
        match rows.iter_mut().find(same) {
            Some(row) => {
                row.count += 1;
                row.bytes += tensor.bytes;
                row.since = row.since.min(tensor.since.index);
                row.until = row.until.max(tensor.until.index);
            }
            None => rows.push(Row {
                first: tensor,
                count: 1,
                bytes: tensor.bytes,
                since: tensor.since.index,
                until: tensor.until.index,
            }),
        }
    }
    rows.sort_by_key(|row| (std::cmp::Reverse(row.bytes), row.since));
    rows
}
