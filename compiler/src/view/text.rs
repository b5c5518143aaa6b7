//! Inspections as text for a terminal.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::spec::RecomputePolicy;
use crate::view::Inspection;
use crate::view::inspection::Flops;

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest binary unit that leaves at least 1.
pub fn bytes(number: u64) -> String {
    scaled(number as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

/// A count in the largest decimal unit that leaves at least 1, e.g. `1.31 G`.
pub fn count(number: f64) -> String {
    scaled(number, 1000.0, &["", "k", "M", "G", "T", "P", "E"]).trim_end().to_string()
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    if unit == 0 { format!("{value} {}", units[0]) } else { format!("{value:.2} {}", units[unit]) }
}

/// `part / whole` as `0.50×`.
pub fn ratio(part: u64, whole: u64) -> String {
    format!("{:.2}×", part as f64 / whole.max(1) as f64)
}

/// What the compiler did, in about ten lines. `dense` is the same spec in full-rank form, where there is one to compare.
pub fn summary(inspection: &Inspection, dense: Option<&Inspection>) -> String {
    let against = |ours: u64, of: fn(&Inspection) -> u64, show: fn(u64) -> String| match dense {
        Some(dense) => format!("{} of full-rank {}", ratio(ours, of(dense)), show(of(dense))),
        None => String::new(),
    };
    let mut text = String::new();
    let mut line = |label: &str, value: String, note: String| {
        let note = if note.is_empty() { note } else { format!("   {note}") };
        let _ = writeln!(text, "  {label:<15}{value}{note}");
    };
    line("linears", linears(inspection), String::new());
    for (index, dense) in kept_dense(inspection).into_iter().enumerate() {
        line(if index == 0 { "dense" } else { "" }, dense, String::new());
    }
    let p = inspection.parameters;
    line("parameters", grouped(p.total), against(p.total, |i| i.parameters.total, grouped));
    let parts = format!(
        "low-rank {}, embedding {}, other {}",
        grouped(p.low_rank),
        grouped(p.embedding),
        grouped(p.other)
    );
    line("", parts, String::new());
    let f = inspection.flops_per_token;
    let flops = |n: u64| count(n as f64);
    line(
        "FLOPs/token",
        format!("{}  ({})", flops(f.total), flop_parts(f)),
        against(f.total, |i| i.flops_per_token.total, flops),
    );
    if inspection.recompute != RecomputePolicy::None.name() {
        line("recompute", inspection.recompute.clone(), String::new());
    }
    let m = inspection.memory;
    line("memory", bytes(m.total), against(m.total, |i| i.memory.total, bytes));
    line(
        "",
        format!(
            "weights {}, {}gradients {}, optimizer {}",
            bytes(m.parameters),
            if m.master > 0 {
                format!("master weights {}, ", bytes(m.master))
            } else {
                String::new()
            },
            bytes(m.gradients),
            bytes(m.optimizer)
        ),
        String::new(),
    );
    line(
        "",
        format!(
            "activations {}, workspace {}, other {}",
            bytes(m.activations),
            bytes(m.workspace),
            bytes(m.other)
        ),
        String::new(),
    );
    let b = inspection.batch;
    let run = format!(
        "{} steps of {} × {} tokens (micro-batch {}), {} tokens in all",
        grouped(b.steps),
        b.global_batch,
        b.sequence_length,
        b.micro_batch,
        count(b.tokens as f64)
    );
    let per_parameter = format!(
        "{:.1} tokens for each of {} full-rank parameters",
        b.tokens_per_parameter,
        grouped(p.full_rank)
    );
    line("run", run, String::new());
    line("", per_parameter, String::new());
    text
}

fn flop_parts(f: Flops) -> String {
    let show = |n: u64| count(n as f64);
    let mut text = format!("forward {}, backward {}", show(f.forward), show(f.backward));
    if f.recompute > 0 {
        let _ = write!(text, ", recompute {}", show(f.recompute));
    }
    text
}

/// `56 rewritten (56 of rank 128 with silu), 1 kept dense`.
pub fn linears(inspection: &Inspection) -> String {
    let mut kinds: BTreeMap<(u64, &str), usize> = BTreeMap::new();
    for linear in &inspection.rewritten {
        *kinds.entry((linear.rank, &linear.activation)).or_default() += 1;
    }
    let kinds: Vec<String> = kinds
        .into_iter()
        .map(|((rank, activation), n)| format!("{n} of rank {rank} with {activation}"))
        .collect();
    let detail = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
    format!(
        "{} rewritten{detail}, {} kept dense",
        inspection.rewritten.len(),
        inspection.kept_dense.iter().filter(|dense| !dense.is_table).count()
    )
}

/// What stays dense in a CoLA model and why, equal rows of repeats and equal reasons folded, in a few lines. Nothing for
/// a full-rank model, in which all of it would stand here.
pub fn kept_dense(inspection: &Inspection) -> Vec<String> {
    /// More paths than this are counted.
    const PATHS: usize = 4;
    if inspection.rewritten.is_empty() {
        return Vec::new();
    }
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for dense in &inspection.kept_dense {
        let path = pattern(&dense.path);
        match reasons.iter_mut().find(|(reason, _)| *reason == dense.reason) {
            Some((_, paths)) if paths.contains(&path) => {}
            Some((_, paths)) => paths.push(path),
            None => reasons.push((&dense.reason, vec![path])),
        }
    }
    let line = |(reason, mut paths): (&str, Vec<String>)| {
        let more = paths.len().saturating_sub(PATHS);
        paths.truncate(PATHS);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{more}: {reason}", paths.join(", "))
    };
    reasons.into_iter().map(line).collect()
}

/// The whole report: summary, every linear, layers, and the operations that cost most.
pub fn report(inspection: &Inspection) -> String {
    let mut text = format!("{} ({})\n", inspection.name, inspection.form);
    text.push_str(&summary(inspection, None));
    let m = inspection.memory;
    let _ = writeln!(
        text,
        "  {:<15}{} activations alive at once at least",
        "lower bound",
        bytes(m.activations_lower_bound)
    );
    let _ = writeln!(text, "\n{}", inspection.flops_convention);
    let _ = writeln!(text, "\nlinears (repeats folded)");
    for (path, what, n) in folded_linears(inspection) {
        let times = if n > 1 { format!("× {n}") } else { String::new() };
        let _ = writeln!(text, "  {path:<34}{times:<6}{what}");
    }
    let _ = writeln!(text, "\nlayers (repeats folded)");
    let _ = writeln!(
        text,
        "  {:<16}{:>14}{:>14}{:>16}{:>16}",
        "", "parameters", "low-rank", "FLOPs/token", "kept"
    );
    for (path, layer) in folded_layers(inspection) {
        let (flops, kept) = (count(layer.flops_per_token.total as f64), bytes(layer.kept_bytes));
        let (all, low) = (grouped(layer.parameters), grouped(layer.low_rank));
        let _ = writeln!(text, "  {path:<16}{all:>14}{low:>14}{flops:>16}{kept:>16}");
    }
    let _ = writeln!(text, "\noperations");
    let _ = writeln!(
        text,
        "  {:<18}{:<26}{:>6}{:>14}{:>14}",
        "program", "operation", "count", "FLOPs", "bytes"
    );
    for ((program, op), (n, flops, moved)) in operation_kinds(inspection) {
        let (flops, moved) = (count(flops as f64), bytes(moved));
        let _ = writeln!(text, "  {program:<18}{op:<26}{n:>6}{flops:>14}{moved:>14}");
    }
    let h = &inspection.hashes;
    let _ = writeln!(text, "\nmodel    {}\nnumerics {}\nfile     {}", h.model, h.numerics, h.file);
    text
}

/// A path with `*` for its numbers, so that equal rows of repeated layers can be folded.
pub(super) fn pattern(path: &str) -> String {
    let segment =
        |s: &str| if s.bytes().all(|b| b.is_ascii_digit()) { "*".into() } else { s.to_string() };
    path.split('.').map(segment).collect::<Vec<String>>().join(".")
}

/// Pattern, what was done, how often; only equal rows fold.
fn folded_linears(inspection: &Inspection) -> Vec<(String, String, usize)> {
    let rewritten = inspection.rewritten.iter().map(|l| {
        let saved = format!(
            "{:.2}× of {} weights",
            l.parameters as f64 / l.dense_parameters as f64,
            grouped(l.dense_parameters)
        );
        (
            pattern(&l.path),
            format!("{} → {} → {}  {}  {saved}", l.inputs, l.rank, l.outputs, l.activation),
        )
    });
    let kept = inspection
        .kept_dense
        .iter()
        .map(|l| (pattern(&l.path), format!("{} → {}  dense: {}", l.inputs, l.outputs, l.reason)));
    let mut rows: Vec<(String, String, usize)> = Vec::new();
    for (path, what) in rewritten.chain(kept) {
        match rows.iter_mut().find(|row| row.0 == path && row.1 == what) {
            Some(row) => row.2 += 1,
            None => rows.push((path, what, 1)),
        }
    }
    rows
}

/// Runs of equal layers as one row: `layers.0–7`.
fn folded_layers(inspection: &Inspection) -> Vec<(String, &crate::view::inspection::Layer)> {
    let mut rows: Vec<(String, String, &crate::view::inspection::Layer)> = Vec::new();
    for layer in &inspection.per_layer {
        let same = |other: &crate::view::inspection::Layer| {
            pattern(&other.path) == pattern(&layer.path)
                && (other.parameters, other.low_rank, other.flops_per_token)
                    == (layer.parameters, layer.low_rank, layer.flops_per_token)
                && other.kept_bytes == layer.kept_bytes
        };
        match rows.last_mut() {
            Some(row) if same(row.2) => row.1.clone_from(&layer.path),
            _ => rows.push((layer.path.clone(), layer.path.clone(), layer)),
        }
    }
    let name = |first: String, last: String| match last.rsplit_once('.') {
        Some((_, number)) if first != last => format!("{first}–{number}"),
        _ => first,
    };
    rows.into_iter().map(|(first, last, layer)| (name(first, last), layer)).collect()
}

type Kinds = BTreeMap<(&'static str, &'static str), (usize, u64, u64)>;

/// Count, FLOPs and bytes by program and kind of operation.
fn operation_kinds(inspection: &Inspection) -> Kinds {
    let mut kinds = Kinds::new();
    for row in &inspection.operations {
        let entry = kinds.entry((row.program, row.op)).or_default();
        *entry = (entry.0 + 1, entry.1 + row.flops, entry.2 + row.bytes);
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(42_770_944), "42,770,944");
        assert_eq!(grouped(999), "999");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(3 << 30), "3.00 GiB");
        assert_eq!(count(1.31e9), "1.31 G");
        assert_eq!(ratio(1, 2), "0.50×");
    }
}
