//! Parts of rows and rows of other positions, copied: slices, joins, shifts.
//!
//! Owns the three kernels. Must not know other operations.

use std::ops::Range;

use crate::cpu::kernel::{Context, Kernel, span};
use crate::cpu::view::Rows;

/// Elements in a task, about.
const TASK_ELEMENTS: usize = 1 << 14;

/// Cuts the rows of a result into tasks.
fn by_rows(context: &Context<'_>, y: Rows, each_row: &(dyn Fn(usize) + Sync)) {
    let each = TASK_ELEMENTS.div_ceil(y.width.max(1));
    context.pool.run(y.rows.div_ceil(each), &|task, _| {
        span(task, each, y.rows).for_each(each_row);
    });
}

/// [`colac_plan::Op::Slice`].
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) x: Rows,
    pub(crate) start: usize,
    pub(crate) y: Rows,
}

impl Kernel for Slice {
    fn run(&self, context: &Context<'_>) {
        by_rows(context, self.y, &|row| {
            // SAFETY: a row belongs to one task; operands are only read and apart from the result.
            unsafe {
                let part = self.x.part(row, self.start..self.start + self.y.width);
                self.y.row_mut(row).copy_from_slice(part);
            }
        });
    }
}

/// [`colac_plan::Op::Concat`].
#[derive(Debug)]
pub(crate) struct Concat {
    /// Each part with the element where it begins.
    parts: Vec<(usize, Rows)>,
    /// Elements that no part fills.
    gaps: Vec<Range<usize>>,
    y: Rows,
}

impl Concat {
    /// Parts in order, without overlap.
    pub(crate) fn new(parts: Vec<(usize, Rows)>, y: Rows) -> Concat {
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
            // SAFETY: a row belongs to one task; operands are only read and apart from the result.
            let y = unsafe { self.y.row_mut(row) };
            for (start, part) in &self.parts {
                // SAFETY: as above.
                y[*start..start + part.width].copy_from_slice(unsafe { part.row(row) });
            }
            self.gaps.iter().for_each(|gap| y[gap.clone()].fill(0.0));
        });
    }
}

/// [`colac_plan::Op::Shift`].
#[derive(Debug)]
pub(crate) struct Shift {
    pub(crate) x: Rows,
    pub(crate) y: Rows,
    /// Rows of one sequence.
    pub(crate) sequence: usize,
    /// Rows to move towards the end of the sequence; negative moves towards its start.
    pub(crate) by: i64,
}

impl Kernel for Shift {
    fn run(&self, context: &Context<'_>) {
        by_rows(context, self.y, &|row| {
            let within = row % self.sequence;
            // SAFETY: a row belongs to one task; operands are only read and apart from the result.
            let y = unsafe { self.y.row_mut(row) };
            let source = (within as i64)
                .checked_sub(self.by)
                .and_then(|source| usize::try_from(source).ok())
                .filter(|source| *source < self.sequence);
            match source {
                // SAFETY: as above.
                Some(source) => y.copy_from_slice(unsafe { self.x.row(row - within + source) }),
                None => y.fill(0.0),
            }
        });
    }
}
