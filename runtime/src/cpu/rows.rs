//! Sums and softmax of rows.
//!
//! Owns both kernels. Must not know other operations.

use crate::cpu::kernel::{Context, Kernel, span};
use crate::cpu::vector::{exponentials, maximum, scale, sum};
use crate::cpu::view::Rows;

/// Rows in a task.
const TASK_ROWS: usize = 32;

/// [`colac_plan::Op::RowSum`].
#[derive(Debug)]
pub(crate) struct RowSum {
    pub(crate) x: Rows,
    /// One number for each row of `x`, as one row.
    pub(crate) y: Rows,
    pub(crate) mean: bool,
}

impl Kernel for RowSum {
    fn run(&self, context: &Context<'_>) {
        let divisor = if self.mean { self.x.width as f32 } else { 1.0 };
        context.pool.run(self.x.rows.div_ceil(TASK_ROWS), &|task, _| {
            for row in span(task, TASK_ROWS, self.x.rows) {
                // SAFETY: a row belongs to one task; operands are only read.
                unsafe { self.y.part_mut(0, row..row + 1)[0] = sum(self.x.row(row)) / divisor };
            }
        });
    }
}

/// [`colac_plan::Op::Softmax`].
#[derive(Debug)]
pub(crate) struct Softmax {
    pub(crate) x: Rows,
    pub(crate) y: Rows,
}

impl Kernel for Softmax {
    fn run(&self, context: &Context<'_>) {
        context.pool.run(self.x.rows.div_ceil(TASK_ROWS), &|task, _| {
            for row in span(task, TASK_ROWS, self.x.rows) {
                // SAFETY: a row belongs to one task; operands are only read.
                let (x, y) = unsafe { (self.x.row(row), self.y.row_mut(row)) };
                y.copy_from_slice(x);
                let sum = exponentials(y, maximum(x));
                scale(y, 1.0 / sum);
            }
        });
    }
}
