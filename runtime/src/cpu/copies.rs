//! Parts of rows and rows of other positions, copied: slices, joins, shifts.
//!
//! Owns the three kernels. Must not know other operations.

use std::ops::Range;

use crate::cpu::kernel::{Context, Kernel, span};
use crate::cpu::stored::Stored;

/// Elements in a task, about.
const TASK_ELEMENTS: usize = 1 << 14;

/// Cuts the rows of a result into tasks.
fn by_rows(context: &Context<'_>, y: Stored, each_row: &(dyn Fn(usize) + Sync)) {
    let each = TASK_ELEMENTS.div_ceil(y.width.max(1));
    context.pool.run(y.rows.div_ceil(each), &|task, _| {
        span(task, each, y.rows).for_each(each_row);
    });
}

/// [`colac_plan::Op::Slice`].
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) x: Stored,
    pub(crate) start: usize,
    pub(crate) y: Stored,
}

impl Kernel for Slice {
    fn run(&self, context: &Context<'_>) {
        by_rows(context, self.y, &|row| {
            // SAFETY: a row belongs to one task; operands are only read and apart from the result.
            unsafe { self.y.copy(row, 0, &self.x, row, self.start..self.start + self.y.width) };
        });
    }
}

/// [`colac_plan::Op::Concat`].
#[derive(Debug)]
pub(crate) struct Concat {
    /// Each part with the element where it begins.
    parts: Vec<(usize, Stored)>,
    /// Elements that no part fills.
    gaps: Vec<Range<usize>>,
    y: Stored,
}

impl Concat {
    /// Parts in order, without overlap.
    pub(crate) fn new(parts: Vec<(usize, Stored)>, y: Stored) -> Concat {
        let mut gaps = Vec::new();
        let mut end = 0;
        for (start, part) in &parts {
            gaps.push(end..*start);
            end = start + part.width;
        }
        gaps.push(end..y.width);
        gaps.retain(|gap| !gap.is_empty());
        Concat { parts, gaps, y }
    }
}

impl Kernel for Concat {
    fn run(&self, context: &Context<'_>) {
        by_rows(context, self.y, &|row| {
            for (start, part) in &self.parts {
                // SAFETY: a row belongs to one task; operands are only read and apart from the result.
                unsafe { self.y.copy(row, *start, part, row, 0..part.width) };
            }
            // SAFETY: as above.
            self.gaps.iter().for_each(|gap| unsafe { self.y.clear(row, gap.clone()) });
        });
    }
}

/// [`colac_plan::Op::Shift`].
#[derive(Debug)]
pub(crate) struct Shift {
    pub(crate) x: Stored,
    pub(crate) y: Stored,
    /// Rows of one sequence.
    pub(crate) sequence: usize,
    /// Rows to move towards the end of the sequence; negative moves towards its start.
    pub(crate) by: i64,
}

impl Kernel for Shift {
    fn run(&self, context: &Context<'_>) {
        by_rows(context, self.y, &|row| {
            let within = row % self.sequence;
            let source = (within as i64)
                .checked_sub(self.by)
                .and_then(|source| usize::try_from(source).ok())
                .filter(|source| *source < self.sequence);
            let width = self.y.width;
            // SAFETY: a row belongs to one task; operands are only read and apart from the result.
            unsafe {
                match source {
                    Some(source) => self.y.copy(row, 0, &self.x, row - within + source, 0..width),
                    None => self.y.clear(row, 0..width),
                }
            }
        });
    }
}
