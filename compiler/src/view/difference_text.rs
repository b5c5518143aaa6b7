//! Differences of two plans as text for a terminal.
//!
//! Owns its words and columns. Must not compare anything itself.

use std::fmt::Write;

use super::difference::{Difference, Side};
use super::text::{bytes, count, grouped, ratio};

/// The whole report; one line where nothing differs.
pub fn report(difference: &Difference) -> String {
    let Difference { from, to, .. } = difference;
    let mut text = format!("{} → {}\n", named(from), named(to));
    if difference.is_empty() {
        let same = match difference.same_numerics {
            true => "the same model, the same training",
            false => "no setting, parameter, operation or byte differs that is told here",
        };
        let _ = writeln!(text, "  {same}");
        return text;
    }
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "  {label:<15}{value}");
    };
    let times = |a: u64, b: u64, show: fn(u64) -> String| match a == b {
        true => format!("{}, as before", show(a)),
        false => format!("{} → {}   {}", show(a), show(b), ratio(b, a)),
    };
    let flops = |n: u64| count(n as f64);
    line("parameters", times(from.parameters, to.parameters, grouped));
    line("FLOPs/token", times(from.flops_per_token.total, to.flops_per_token.total, flops));
    let (before, after) = (from.flops_per_token, to.flops_per_token);
    for (name, a, b) in [
        ("forward", before.forward, after.forward),
        ("backward", before.backward, after.backward),
        ("recompute", before.recompute, after.recompute),
    ] {
        if a != b {
            line("", format!("{name} {} → {}", flops(a), flops(b)));
        }
    }
    line("memory", times(from.memory, to.memory, bytes));
    line(
        "checkpoints",
        match difference.same_model {
            true => "weights of one fit the other".to_owned(),
            false => "weights of one do not fit the other".to_owned(),
        },
    );
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "–".to_owned());
    if !difference.settings.is_empty() {
        let _ = writeln!(text, "\nsettings");
        for setting in &difference.settings {
            let (from, to) = (shown(&setting.from), shown(&setting.to));
            let _ = writeln!(text, "  {:<34}{from} → {to}", setting.key);
        }
    }
    if !difference.linears.is_empty() {
        let _ = writeln!(text, "\nlinears");
        for change in &difference.linears {
            let path = format!("{}{}", change.path, times_of(change.count));
            let (from, to) = (shown(&change.from), shown(&change.to));
            let _ = writeln!(text, "  {path:<40}{from}  →  {to}");
        }
    }
    if !difference.parameters.is_empty() {
        let _ = writeln!(text, "\nparameters");
        for change in &difference.parameters {
            let path = format!("{}{}", change.path, times_of(change.count));
            let what = match (&change.from, &change.to) {
                (Some(from), Some(to)) => format!("{from} → {to}"),
                (Some(from), None) => format!("removed  {from}"),
                (None, to) => format!("added    {}", shown(to)),
            };
            let _ = writeln!(text, "  {path:<46}{what}");
        }
    }
    if !difference.memory.is_empty() {
        let _ = writeln!(text, "\nmemory");
        for change in &difference.memory {
            let (from, to) = (bytes(change.from), bytes(change.to));
            let _ = writeln!(text, "  {:<20}{from:>12} → {to:>12}", change.name);
        }
    }
    if !difference.operations.is_empty() {
        let _ = writeln!(text, "\noperations");
        for change in &difference.operations {
            let (block, op) = (&change.block, change.op);
            let difference = change.to as i64 - change.from as i64;
            let _ = writeln!(
                text,
                "  {:<18}{block:<14}{op:<28}{:>5} → {:>5}   {difference:+}",
                change.program, change.from, change.to
            );
        }
    }
    text
}

fn named(side: &Side) -> String {
    format!("{} ({})", side.name, side.form)
}

fn times_of(count: usize) -> String {
    if count > 1 { format!(" × {count}") } else { String::new() }
}
