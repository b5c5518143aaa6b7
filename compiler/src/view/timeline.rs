//! Bytes alive over a program, operation by operation, and their picture for a terminal.
//!
//! Owns the curve and its text. Must not know other pictures: the runtime's `plot` draws the same curve as an SVG.

use std::fmt::Write;

use colac_plan::Plan;
use colac_plan::verify::{alive, arena_bytes, lifetimes};
use serde::Serialize;

use super::inspection::phase_name;
use super::memory::{is_kept, largest, lives_at};
use super::text;

/// Bytes alive during every operation of the program with the largest arena.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// The program.
    pub program: &'static str,
    /// During each operation: made in the forward pass and waiting for the backward pass.
    pub kept_bytes: Vec<u64>,
    /// During each operation: the others.
    pub transient_bytes: Vec<u64>,
    /// Runs of operations of one phase, in order.
    pub phases: Vec<PhaseRun>,
    /// The operation at which most is alive.
    pub peak: usize,
    /// Bytes of the arena.
    pub arena_bytes: u64,
}

/// Operations of one phase that follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PhaseRun {
    /// `forward`, `backward`, `recompute`, `update`.
    pub phase: &'static str,
    /// Position of the first.
    pub first: usize,
    /// How many.
    pub count: usize,
}

impl Timeline {
    /// The curve of a plan.
    pub fn new(plan: &Plan) -> Timeline {
        let program = largest(plan);
        let moments = alive(plan, program);
        let mut kept_bytes = vec![0; moments.len()];
        for life in lifetimes(plan, program).iter().filter(|life| is_kept(program, life)) {
            for at in life.first..=life.last {
                if lives_at(life, at, &moments[at]) {
                    kept_bytes[at] += arena_bytes(plan, life.root);
                }
            }
        }
        let transient_bytes =
            moments.iter().zip(&kept_bytes).map(|(moment, kept)| moment.bytes - kept).collect();
        let mut phases: Vec<PhaseRun> = Vec::new();
        for (index, operation) in program.operations.iter().enumerate() {
            let phase = phase_name(operation.phase);
            match phases.last_mut() {
                Some(run) if run.phase == phase => run.count += 1,
                _ => phases.push(PhaseRun { phase, first: index, count: 1 }),
            }
        }
        let fullest = moments.iter().map(|moment| moment.bytes).max();
        let peak = moments.iter().position(|moment| Some(moment.bytes) == fullest).unwrap_or(0);
        Timeline {
            program: program.kind.name(),
            kept_bytes,
            transient_bytes,
            phases,
            peak,
            arena_bytes: program.arena_bytes,
        }
    }

    /// Bytes alive during an operation.
    pub fn alive(&self, at: usize) -> u64 {
        self.kept_bytes[at] + self.transient_bytes[at]
    }

    /// The curve in letters, `columns` of them beside the scale: full blocks are kept for the backward pass, light ones
    /// transient. A column shows the fullest of its operations.
    pub fn text(&self, columns: usize) -> String {
        const ROWS: usize = 12;
        let count = self.kept_bytes.len();
        let columns = columns.clamp(1, count.max(1));
        let range = |column: usize| column * count / columns..(column + 1) * count / columns;
        let fullest: Vec<(u64, u64)> = (0..columns)
            .map(|column| {
                let at = range(column).max_by_key(|&at| (self.alive(at), std::cmp::Reverse(at)));
                at.map_or((0, 0), |at| (self.kept_bytes[at], self.alive(at)))
            })
            .collect();
        let top = fullest.iter().map(|(_, all)| *all).max().unwrap_or(0).max(1);
        let height = |bytes: u64| (u128::from(bytes) * 2 * ROWS as u128).div_ceil(u128::from(top));
        let mut drawing = String::new();
        for row in (0..ROWS as u128).rev() {
            let label = match row + 1 {
                full if full == ROWS as u128 => text::bytes(top),
                half if half == ROWS as u128 / 2 => text::bytes(top / 2),
                _ => String::new(),
            };
            let cell = |&(kept, all): &(u64, u64)| {
                let (kept, all) = (height(kept), height(all));
                match () {
                    () if kept >= 2 * row + 2 => '█',
                    () if kept > 2 * row => '▄',
                    () if all > 2 * row => '░',
                    () => ' ',
                }
            };
            let cells: String = fullest.iter().map(cell).collect();
            let _ = writeln!(drawing, "  {label:>11} ┤{}", cells.trim_end());
        }
        let peak = (0..columns).find(|&column| range(column).contains(&self.peak)).unwrap_or(0);
        let axis: String = (0..columns).map(|c| if c == peak { '▲' } else { '─' }).collect();
        let _ = writeln!(drawing, "  {:>11} └{axis}", "0 B");
        let _ = writeln!(drawing, "  {:>11}  {}", "", self.phase_row(columns));
        let _ = writeln!(
            drawing,
            "  {:>11}  █ kept for backward  ░ transient  ▲ operation {} of {count} in {}",
            "", self.peak, self.program
        );
        drawing
    }

    /// The names of the long runs of a phase under their columns.
    fn phase_row(&self, columns: usize) -> String {
        let count = self.kept_bytes.len().max(1);
        let mut row = vec![' '; columns];
        for run in &self.phases {
            let (start, end) =
                (run.first * columns / count, (run.first + run.count) * columns / count);
            let name = format!("│{}", run.phase);
            if end - start > name.chars().count() {
                row.splice(start..start + name.chars().count(), name.chars());
            }
        }
        row.into_iter().collect::<String>().trim_end().to_owned()
    }
}
