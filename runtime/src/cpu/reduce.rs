//! Sums over many elements: columns of a matrix, and the norm of the gradient.
//!
//! Owns the order of addition: partial sums over fixed ranges, then the partials in order. Must not know other
//! operations.

use colac_plan::op::cost::REDUCTION_ROWS;

use crate::cpu::kernel::{Context, Kernel, WriteMode, span};
use crate::cpu::stored::Stored;
use crate::cpu::vector::{accumulate, vectorised};
use crate::cpu::view::Rows;

/// Columns in a task of a sum over rows.
pub(crate) const COLUMNS: usize = 256;

/// Adds the rows of `partials`, in order, into `target`, one row.
pub(crate) fn sum_partials(context: &Context<'_>, partials: Rows, target: Stored, adds: bool) {
    context.pool.run(target.width.div_ceil(COLUMNS), &|task, _| {
        let columns = span(task, COLUMNS, target.width);
        let add = |target: &mut [f32]| {
            if !adds {
                target.fill(0.0);
            }
            for row in 0..partials.rows {
                // SAFETY: the partial sums are complete.
                accumulate(target, unsafe { partials.part(row, columns.clone()) });
            }
        };
        // SAFETY: these columns belong to this task.
        unsafe { target.update(0, columns.clone(), &mut [0.0; COLUMNS], add) };
    });
}

/// Stores sums that were kept in f32, row by row, or adds them to what is there.
pub(crate) fn store_sums(context: &Context<'_>, sums: Rows, target: Stored, adds: bool) {
    let across = target.width.div_ceil(COLUMNS);
    let each = (1usize << 14).div_ceil(COLUMNS);
    context.pool.run((target.rows * across).div_ceil(each), &|task, _| {
        for part in span(task, each, target.rows * across) {
            let (row, columns) = (part / across, span(part % across, COLUMNS, target.width));
            // SAFETY: these columns of this row belong to this task, and the sums are complete.
            unsafe {
                let sums = sums.part(row, columns.clone());
                target.update(row, columns, &mut [0.0; COLUMNS], |target| match adds {
                    true => accumulate(target, sums),
                    false => target.copy_from_slice(sums),
                });
            }
        }
    });
}

/// [`colac_plan::Op::ColumnSum`].
#[derive(Debug)]
pub(crate) struct ColumnSum {
    pub(crate) x: Stored,
    /// One row.
    pub(crate) y: Stored,
    pub(crate) write: WriteMode,
    /// One row for every [`REDUCTION_ROWS`] rows of `x`; in the workspace.
    pub(crate) partials: Rows,
}

impl Kernel for ColumnSum {
    fn run(&self, context: &Context<'_>) {
        let across = self.x.width.div_ceil(COLUMNS);
        context.pool.run(self.partials.rows * across, &|task, _| {
            let columns = span(task % across, COLUMNS, self.x.width);
            let mut buffer = [0.0; COLUMNS];
            // SAFETY: these columns of this partial row belong to this task; the operand is only read.
            unsafe {
                let sum = self.partials.part_mut(task / across, columns.clone());
                sum.fill(0.0);
                for row in span(task / across, REDUCTION_ROWS as usize, self.x.rows) {
                    accumulate(sum, self.x.part(row, columns.clone(), &mut buffer));
                }
            }
        });
        sum_partials(context, self.partials, self.y, self.write.adds());
    }
}

/// Elements whose squares are summed apart.
pub(crate) const NORM_BLOCK: usize = 1 << 16;

/// The partial results of [`GradientNorm`], each the sum of squares of one block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Partials {
    pub(crate) pointer: *mut f64,
    pub(crate) count: usize,
}

// SAFETY: as for views: an address with a bound.
unsafe impl Send for Partials {}
// SAFETY: as above.
unsafe impl Sync for Partials {}

impl Partials {
    /// The elements in `range`.
    ///
    /// # Safety
    /// While the slice lives, nobody else reads or writes these elements.
    pub(crate) unsafe fn part<'a>(&self, range: std::ops::Range<usize>) -> &'a mut [f64] {
        assert!(range.start <= range.end && range.end <= self.count);
        // SAFETY: in bounds, as checked; the caller answers for races.
        unsafe {
            std::slice::from_raw_parts_mut(self.pointer.wrapping_add(range.start), range.len())
        }
    }
}

/// [`colac_plan::Op::GradientNorm`].
#[derive(Debug)]
pub(crate) struct GradientNorm {
    pub(crate) gradients: Stored,
    pub(crate) norm: Rows,
    pub(crate) finite: Rows,
    /// For each block the sum of squares and whether all are finite; in the workspace.
    pub(crate) partials: Partials,
}

vectorised! {
    /// `Σ x` in f64.
    fn sum_of_elements<FUSED>(x: &[f32]) -> f64 {
        const LANES: usize = 32;
        let mut lanes = [0f64; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(*x);
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane += f64::from(*x);
        }
        lanes.iter().sum()
    }
}

/// [`colac_plan::Op::Sum`].
#[derive(Debug)]
pub(crate) struct Sum {
    pub(crate) x: Stored,
    /// One number.
    pub(crate) y: Stored,
    pub(crate) write: WriteMode,
    /// Rows of `x` in a partial sum.
    pub(crate) rows: usize,
    /// One number for every so many rows; in the workspace.
    pub(crate) partials: Partials,
}

impl Kernel for Sum {
    fn run(&self, context: &Context<'_>) {
        context.pool.run(self.partials.count, &|task, thread| {
            // SAFETY: this partial belongs to this task, which takes its thread's scratch once; the operand is only read.
            unsafe {
                let buffer = context.scratch.of(thread, self.scratch());
                let sum = span(task, self.rows, self.x.rows)
                    .map(|row| sum_of_elements(self.x.row(row, buffer)))
                    .sum::<f64>();
                self.partials.part(task..task + 1)[0] = sum;
            }
        });
        // SAFETY: the partials are complete and nothing else is running.
        unsafe {
            let sum: f64 = self.partials.part(0..self.partials.count).iter().sum();
            let adds = self.write.adds();
            self.y.update(0, 0..1, &mut [0.0], |y| {
                let old = if adds { f64::from(y[0]) } else { 0.0 };
                y[0] = (old + sum) as f32;
            });
        }
    }

    fn scratch(&self) -> usize {
        self.x.buffer(self.x.width)
    }
}

vectorised! {
    /// `Σ x²` in f64.
    fn sum_of_squares<FUSED>(x: &[f32]) -> f64 {
        const LANES: usize = 32;
        let mut lanes = [0f64; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                let x = f64::from(*x);
                *lane += x * x;
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane += f64::from(*x) * f64::from(*x);
        }
        lanes.iter().sum()
    }
}

impl Kernel for GradientNorm {
    fn run(&self, context: &Context<'_>) {
        let length = self.gradients.width;
        let blocks = length.div_ceil(NORM_BLOCK);
        context.pool.run(blocks, &|task, thread| {
            // SAFETY: this partial belongs to this task, which takes its thread's scratch once; the operand is only read.
            unsafe {
                let buffer = context.scratch.of(thread, self.scratch());
                let block = self.gradients.part(0, span(task, NORM_BLOCK, length), buffer);
                let sum = sum_of_squares(block);
                // Squares of f32 cannot overflow an f64, so the sum is finite exactly when every element is.
                self.partials
                    .part(2 * task..2 * task + 2)
                    .copy_from_slice(&[sum, f64::from(u8::from(sum.is_finite()))]);
            }
        });
        // SAFETY: the partials are complete and nothing else is running.
        unsafe {
            let (mut total, mut finite) = (0.0, true);
            for partial in self.partials.part(0..2 * blocks).as_chunks::<2>().0 {
                total += partial[0];
                finite &= partial[1] != 0.0;
            }
            self.norm.part_mut(0, 0..1)[0] = total.sqrt() as f32;
            self.finite.part_mut(0, 0..1)[0] = f32::from(u8::from(finite));
        }
    }

    fn scratch(&self) -> usize {
        self.gradients.buffer(NORM_BLOCK)
    }
}
