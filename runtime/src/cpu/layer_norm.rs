//! Layer norm of rows and its derivative.
//!
//! The variance is taken over the differences from the mean, in a second pass over a row that is in cache by then: the
//! difference of two large sums would lose the digits that matter. Owns both kernels. Must not know other operations.

use colac_plan::op::cost::REDUCTION_ROWS;

use crate::cpu::kernel::{Buffers, Context, Kernel, WriteMode, span};
use crate::cpu::pointwise::Pointwise;
use crate::cpu::reduce::{COLUMNS, sum_partials};
use crate::cpu::stored::Stored;
use crate::cpu::vector::{LANES, accumulate, fold, multiply_add, sum, vectorised};
use crate::cpu::view::Rows;

/// Rows in a task.
const TASK_ROWS: usize = 32;

/// [`colac_plan::Op::LayerNorm`].
#[derive(Debug)]
pub(crate) struct LayerNorm {
    /// Makes each row of `x` before it is read, if something does.
    pub(crate) prologue: Option<Pointwise>,
    pub(crate) x: Stored,
    /// One row, where there is a gain.
    pub(crate) weight: Option<Stored>,
    /// One row, where there is a bias.
    pub(crate) bias: Option<Stored>,
    pub(crate) y: Stored,
    /// One number for each row of `x`, as one row.
    pub(crate) mean: Rows,
    /// As the mean.
    pub(crate) rstd: Rows,
    pub(crate) epsilon: f64,
}

vectorised! {
    /// `Σ (x - mean)²`.
    fn squared_differences<FUSED>(x: &[f32], mean: f32) -> f32 {
        let mut lanes = [0f32; LANES];
        let (chunks, rest) = x.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane = multiply_add::<FUSED>(*x - mean, *x - mean, *lane);
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane = multiply_add::<FUSED>(*x - mean, *x - mean, *lane);
        }
        fold(lanes, |a, b| a + b)
    }
}

vectorised! {
    /// `y = (x - mean) · rstd`.
    fn normalise<FUSED>(x: &[f32], mean: f32, rstd: f32, y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = (*x - mean) * rstd;
        }
    }
}

vectorised! {
    /// `y = y · w`.
    fn multiply_row<FUSED>(y: &mut [f32], weight: &[f32]) {
        for (y, w) in y.iter_mut().zip(weight) {
            *y *= *w;
        }
    }
}

impl Kernel for LayerNorm {
    fn run(&self, context: &Context<'_>) {
        let width = self.x.width;
        context.pool.run(self.x.rows.div_ceil(TASK_ROWS), &|task, thread| {
            // SAFETY: the task takes its thread's scratch once.
            let mut buffers = Buffers::new(unsafe { context.scratch.of(thread, self.scratch()) });
            let (x_buffer, y_buffer) =
                (buffers.take(self.x.buffer(width)), buffers.take(self.y.buffer(width)));
            let mut vector = |vector: Stored| {
                // SAFETY: operands are only read.
                unsafe { vector.row(0, buffers.take(vector.buffer(width))) }
            };
            let (weight, bias) = (self.weight.map(&mut vector), self.bias.map(&mut vector));
            let registers = buffers.rest();
            for row in span(task, TASK_ROWS, self.x.rows) {
                // SAFETY: a row belongs to one task; operands are only read.
                unsafe {
                    if let Some(prologue) = &self.prologue {
                        prologue.row(row, registers);
                    }
                    let x = self.x.row(row, x_buffer);
                    let mean = sum(x) / x.len() as f32;
                    let variance = f64::from(squared_differences(x, mean)) / x.len() as f64;
                    let rstd = (1.0 / (variance + self.epsilon).sqrt()) as f32;
                    self.mean.part_mut(0, row..row + 1)[0] = mean;
                    self.rstd.part_mut(0, row..row + 1)[0] = rstd;
                    self.y.write_row(row, y_buffer, |y| {
                        normalise(x, mean, rstd, y);
                        if let Some(weight) = weight {
                            multiply_row(y, weight);
                        }
                        if let Some(bias) = bias {
                            accumulate(y, bias);
                        }
                    });
                }
            }
        });
    }

    fn scratch(&self) -> usize {
        let views = [Some(self.x), Some(self.y), self.weight, self.bias].into_iter().flatten();
        let registers = self.prologue.as_ref().map_or(0, Kernel::scratch);
        views.map(|rows| rows.buffer(self.x.width)).sum::<usize>() + registers
    }
}

/// The gradient of a vector that is used in every row.
#[derive(Debug)]
pub(crate) struct VectorGradient {
    /// One row.
    pub(crate) target: Stored,
    pub(crate) write: WriteMode,
    /// One row for every [`REDUCTION_ROWS`] rows of `x`; in the workspace.
    pub(crate) partials: Rows,
}

/// [`colac_plan::Op::LayerNormBackward`].
#[derive(Debug)]
pub(crate) struct LayerNormBackward {
    pub(crate) dy: Stored,
    pub(crate) x: Stored,
    /// One row, where there is a gain.
    pub(crate) weight: Option<Stored>,
    /// One number for each row of `x`, as one row.
    pub(crate) mean: Rows,
    /// As the mean.
    pub(crate) rstd: Rows,
    pub(crate) dx: Stored,
    /// Makes the result of each row of `dx`, in its place, if something does.
    pub(crate) epilogue: Option<Pointwise>,
    pub(crate) dw: Option<VectorGradient>,
    pub(crate) db: Option<VectorGradient>,
}

vectorised! {
    /// `Σ g` and `Σ g · (x - mean)`.
    fn sums_with_differences<FUSED>(g: &[f32], x: &[f32], mean: f32) -> (f32, f32) {
        let (mut plain, mut weighted) = ([0f32; LANES], [0f32; LANES]);
        let (g, g_rest) = g.as_chunks::<LANES>();
        let (x, x_rest) = x.as_chunks::<LANES>();
        for (g, x) in g.iter().zip(x) {
            for i in 0..LANES {
                plain[i] += g[i];
                weighted[i] = multiply_add::<FUSED>(g[i], x[i] - mean, weighted[i]);
            }
        }
        for (i, (g, x)) in g_rest.iter().zip(x_rest).enumerate() {
            plain[i] += *g;
            weighted[i] = multiply_add::<FUSED>(*g, *x - mean, weighted[i]);
        }
        (fold(plain, |a, b| a + b), fold(weighted, |a, b| a + b))
    }
}

vectorised! {
    /// `dx = rstd · (dx - mean_g - (x - mean) · factor)`, where `dx` holds `g`.
    fn input_gradient<FUSED>(dx: &mut [f32], x: &[f32], mean: f32, rstd: f32, mean_g: f32, factor: f32) {
        for (dx, x) in dx.iter_mut().zip(x) {
            *dx = rstd * multiply_add::<FUSED>(-factor, *x - mean, *dx - mean_g);
        }
    }
}

vectorised! {
    /// `sum = sum + dy · (x - mean) · rstd`.
    fn add_weight_gradient<FUSED>(sum: &mut [f32], dy: &[f32], x: &[f32], mean: f32, rstd: f32) {
        for ((sum, dy), x) in sum.iter_mut().zip(dy).zip(x) {
            *sum = multiply_add::<FUSED>(*dy * rstd, *x - mean, *sum);
        }
    }
}

/// Buffers of a task that reads these columns of `dy` and `x`.
type ColumnBuffers = [[f32; COLUMNS]; 2];

/// Adds to a part of a sum what one row has in these columns.
type AddRow<'a> = dyn Fn(&mut [f32], usize, std::ops::Range<usize>, &mut ColumnBuffers) + Sync + 'a;

impl LayerNormBackward {
    /// Sums over rows what `add` adds for each of them, in the order of [`crate::cpu::reduce`].
    fn reduce(&self, context: &Context<'_>, gradient: &VectorGradient, add: &AddRow<'_>) {
        let (rows, width) = (self.x.rows, self.x.width);
        let across = width.div_ceil(COLUMNS);
        context.pool.run(gradient.partials.rows * across, &|task, _| {
            let columns = span(task % across, COLUMNS, width);
            // SAFETY: these columns of this partial row belong to this task.
            let sum = unsafe { gradient.partials.part_mut(task / across, columns.clone()) };
            sum.fill(0.0);
            let mut buffers = [[0.0; COLUMNS]; 2];
            for row in span(task / across, REDUCTION_ROWS as usize, rows) {
                add(sum, row, columns.clone(), &mut buffers);
            }
        });
        sum_partials(context, gradient.partials, gradient.target, gradient.write.adds());
    }
}

impl Kernel for LayerNormBackward {
    fn run(&self, context: &Context<'_>) {
        // SAFETY: operands are only read.
        let statistics = |row: usize| unsafe {
            (self.mean.part(0, row..row + 1)[0], self.rstd.part(0, row..row + 1)[0])
        };
        // The gradients of the vectors first: they need many rows of `dy` and `x`, the other only its own.
        if let Some(dw) = &self.dw {
            self.reduce(context, dw, &|sum, row, columns, [dy_buffer, x_buffer]| {
                let (mean, rstd) = statistics(row);
                // SAFETY: operands are only read.
                let (dy, x) = unsafe {
                    let dy = self.dy.part(row, columns.clone(), dy_buffer);
                    (dy, self.x.part(row, columns, x_buffer))
                };
                add_weight_gradient(sum, dy, x, mean, rstd);
            });
        }
        if let Some(db) = &self.db {
            self.reduce(context, db, &|sum, row, columns, [dy_buffer, _]| {
                // SAFETY: operands are only read.
                accumulate(sum, unsafe { self.dy.part(row, columns, dy_buffer) });
            });
        }
        let width = self.x.width;
        context.pool.run(self.x.rows.div_ceil(TASK_ROWS), &|task, thread| {
            // SAFETY: the task takes its thread's scratch once.
            let mut buffers = Buffers::new(unsafe { context.scratch.of(thread, self.scratch()) });
            let [dy_buffer, x_buffer, dx_buffer] =
                [self.dy, self.x, self.dx].map(|rows| buffers.take(rows.buffer(width)));
            let weight_buffer = buffers.take(self.weight.map_or(0, |weight| weight.buffer(width)));
            // SAFETY: operands are only read.
            let weight = self.weight.map(|weight| unsafe { weight.row(0, weight_buffer) });
            let registers = buffers.rest();
            for row in span(task, TASK_ROWS, self.x.rows) {
                let (mean, rstd) = statistics(row);
                // SAFETY: a row belongs to one task; operands are only read.
                unsafe {
                    let (dy, x) = (self.dy.row(row, dy_buffer), self.x.row(row, x_buffer));
                    self.dx.write_row(row, dx_buffer, |dx| {
                        dx.copy_from_slice(dy);
                        if let Some(weight) = weight {
                            multiply_row(dx, weight);
                        }
                        let (plain, weighted) = sums_with_differences(dx, x, mean);
                        let width = x.len() as f32;
                        let factor = rstd * rstd * (weighted / width);
                        input_gradient(dx, x, mean, rstd, plain / width, factor);
                    });
                    if let Some(epilogue) = &self.epilogue {
                        epilogue.row(row, registers);
                    }
                }
            }
        });
    }

    fn scratch(&self) -> usize {
        let views = [Some(self.dy), Some(self.x), Some(self.dx), self.weight].into_iter().flatten();
        let registers = self.epilogue.as_ref().map_or(0, Kernel::scratch);
        views.map(|rows| rows.buffer(self.x.width)).sum::<usize>() + registers
    }
}
