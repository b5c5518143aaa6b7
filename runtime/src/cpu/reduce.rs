//! Sums over many elements: columns of a matrix, and the norm of the gradient.
//!
//! Owns the order of addition: partial sums over fixed ranges, then the partials in order. Must not know other
//! operations.

use colac_plan::op::cost::REDUCTION_ROWS;

use crate::cpu::kernel::{Context, Kernel, WriteMode, span};
use crate::cpu::vector::{accumulate, vectorised};
use crate::cpu::view::Rows;

/// Columns in a task of a sum over rows.
pub(crate) const COLUMNS: usize = 256;

/// Adds the rows of `partials`, in order, into `target`.
pub(crate) fn sum_partials(context: &Context<'_>, partials: Rows, target: Rows, adds: bool) {
    context.pool.run(target.width.div_ceil(COLUMNS), &|task, _| {
        let columns = span(task, COLUMNS, target.width);
        // SAFETY: these columns belong to this task, and the partial sums are complete.
        unsafe {
            let target = target.part_mut(0, columns.clone());
            if !adds {
                target.fill(0.0);
            }
            for row in 0..partials.rows {
                accumulate(target, partials.part(row, columns.clone()));
            }
        }
    });
}

/// [`colac_plan::Op::ColumnSum`].
#[derive(Debug)]
pub(crate) struct ColumnSum {
    pub(crate) x: Rows,
    /// One row.
    pub(crate) y: Rows,
    pub(crate) write: WriteMode,
    /// One row for every [`REDUCTION_ROWS`] rows of `x`; in the workspace.
    pub(crate) partials: Rows,
}

impl Kernel for ColumnSum {
    fn run(&self, context: &Context<'_>) {
        let across = self.x.width.div_ceil(COLUMNS);
        context.pool.run(self.partials.rows * across, &|task, _| {
            let columns = span(task % across, COLUMNS, self.x.width);
            // SAFETY: these columns of this partial row belong to this task; the operand is only read.
            unsafe {
                let sum = self.partials.part_mut(task / across, columns.clone());
                sum.fill(0.0);
                for row in span(task / across, REDUCTION_ROWS as usize, self.x.rows) {
                    accumulate(sum, self.x.part(row, columns.clone()));
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
    pub(crate) gradients: Rows,
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
    pub(crate) x: Rows,
    /// One number.
    pub(crate) y: Rows,
    pub(crate) write: WriteMode,
    /// Rows of `x` in a partial sum.
    pub(crate) rows: usize,
    /// One number for every so many rows; in the workspace.
    pub(crate) partials: Partials,
}

impl Kernel for Sum {
    fn run(&self, context: &Context<'_>) {
        context.pool.run(self.partials.count, &|task, _| {
            // SAFETY: this partial belongs to this task; the operand is only read.
            unsafe {
                let sum = span(task, self.rows, self.x.rows)
                    .map(|row| sum_of_elements(self.x.row(row)))
                    .sum::<f64>();
                self.partials.part(task..task + 1)[0] = sum;
            }
        });
        // SAFETY: the partials are complete and nothing else is running.
        unsafe {
            let sum: f64 = self.partials.part(0..self.partials.count).iter().sum();
            let y = &mut self.y.part_mut(0, 0..1)[0];
            let old = if self.write.adds() { f64::from(*y) } else { 0.0 };
            *y = (old + sum) as f32;
        }
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
        context.pool.run(blocks, &|task, _| {
            // SAFETY: this partial belongs to this task; the operand is only read.
            unsafe {
                let sum = sum_of_squares(self.gradients.part(0, span(task, NORM_BLOCK, length)));
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
}
