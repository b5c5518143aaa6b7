//! Pictures of training logs: one SVG for papers and notes, one page for looking closely.
//!
//! Both show the same panels over the same x axis (loss with validation, learning rate, gradient norm, tokens a second),
//! by steps, tokens, FLOPs or seconds. The page holds every update of every run and needs nothing but itself; where
//! scripts do not run it shows the SVG.
//!
//! Owns reading `metrics.jsonl` for drawing, scales, smoothing, thinning and both formats. Must not know plans, training
//! or where runs lie: it is given logs, names and FLOPs a step. Beside them `memory` draws the bytes that are alive over a
//! program, from numbers that it is given.

mod curve;
mod labels;
pub mod log;
pub mod memory;
mod page;
mod scale;
mod svg;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::plot::log::RunLog;

pub use memory::{MemoryCurve, memory_svg};
pub use page::page;
pub use svg::svg;

/// The comment by which a picture is known as one of ours, near the beginning of either format.
pub const SIGNATURE: &str = "<!-- drawn by colac plot -->";

/// What the x axis counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum XAxis {
    /// Optimizer updates.
    #[default]
    Steps,
    /// Positions with a label.
    Tokens,
    /// FLOPs of all updates, as the plan counts them.
    Flops,
    /// Time of all updates, without evaluations and checkpoints.
    Seconds,
}

/// A run to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// As legends call it.
    pub name: String,
    /// Runs of one group have one colour and one label: the seeds of a contender, say.
    pub group: String,
    /// What it logged.
    pub log: RunLog,
    /// FLOPs of one update, where the plan is known.
    pub flops_per_step: Option<u64>,
}

/// How to draw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// Above the figure.
    pub title: String,
    /// What the x axis counts. Runs without FLOPs are left out where it counts those.
    pub x: XAxis,
    /// Whether the x axis is logarithmic.
    pub log_x: bool,
    /// Whether loss and gradient norm are drawn on a logarithmic axis.
    pub log_y: bool,
    /// Updates over which the strong lines are smoothed, 1 for not at all; `None` chooses a hundredth of the longest run.
    pub smoothing: Option<f64>,
}

impl Options {
    /// Updates over which to smooth these runs.
    fn span(&self, runs: &[Run]) -> f64 {
        let longest = runs.iter().map(|run| run.log.updates.len()).max().unwrap_or(0);
        let chosen = self.smoothing.filter(|span| span.is_finite());
        chosen.unwrap_or_else(|| (longest as f64 / 100.0).round()).max(1.0)
    }
}

/// The names of groups, in the order of their first runs.
fn groups(runs: &[Run]) -> Vec<&str> {
    let mut groups: Vec<&str> = Vec::new();
    for run in runs {
        if !groups.contains(&run.group.as_str()) {
            groups.push(&run.group);
        }
    }
    groups
}

/// A text inside an element or an attribute. Characters that XML has no way to write are replaced.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' | '\r' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                out.push(char::REPLACEMENT_CHARACTER);
            }
            c => out.push(c),
        }
    }
    out
}
