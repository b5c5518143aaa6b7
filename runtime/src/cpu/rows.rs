//! Sums and softmax of rows.
//!
//! Owns both kernels. Must not know other operations.

use crate::cpu::kernel::{Buffers, Context, Kernel, span};
use crate::cpu::stored::Stored;
use crate::cpu::vector::{exponentials, maximum, scale, sum};
use crate::cpu::view::Rows;

/// Rows in a task.
const TASK_ROWS: usize = 32;

/// [`colac_plan::Op::RowSum`].
#[derive(Debug)]
pub(crate) struct RowSum {
    pub(crate) x: Stored,
    /// One number for each row of `x`, as one row.
    pub(crate) y: Rows,
    pub(crate) mean: bool,
}

impl Kernel for RowSum {
    fn run(&self, context: &Context<'_>) {
        let divisor = if self.mean { self.x.width as f32 } else { 1.0 };
        context.pool.run(self.x.rows.div_ceil(TASK_ROWS), &|task, thread| {
            // SAFETY: the task takes its thread's scratch once.
            let buffer = unsafe { context.scratch.of(thread, self.scratch()) };
            for row in span(task, TASK_ROWS, self.x.rows) {
                // SAFETY: a row belongs to one task; operands are only read.
                unsafe {
                    let sum = sum(self.x.row(row, buffer));
                    self.y.part_mut(0, row..row + 1)[0] = sum / divisor;
                }
            }
        });
    }

    fn scratch(&self) -> usize {
        self.x.buffer(self.x.width)
    }
}

/// [`colac_plan::Op::Softmax`].
#[derive(Debug)]
pub(crate) struct Softmax {
    pub(crate) x: Stored,
    pub(crate) y: Stored,
}

impl Kernel for Softmax {
    fn run(&self, context: &Context<'_>) {
        context.pool.run(self.x.rows.div_ceil(TASK_ROWS), &|task, thread| {
            // SAFETY: the task takes its thread's scratch once.
            let mut buffers = Buffers::new(unsafe { context.scratch.of(thread, self.scratch()) });
            let (x_buffer, y_buffer) = (buffers.take(self.x.buffer(self.x.width)), buffers.rest());
            for row in span(task, TASK_ROWS, self.x.rows) {
                // SAFETY: a row belongs to one task; operands are only read.
                unsafe {
                    let x = self.x.row(row, x_buffer);
                    self.y.write_row(row, y_buffer, |y| {
                        y.copy_from_slice(x);
                        let sum = exponentials(y, maximum(x));
                        scale(y, 1.0 / sum);
                    });
                }
            }
        });
    }

    fn scratch(&self) -> usize {
        self.x.buffer(self.x.width) + self.y.buffer(self.x.width)
    }
}
