//! Root-mean-square norm of rows and its derivative.
//!
//! Owns both kernels. Must not know other operations.

use colac_plan::op::cost::REDUCTION_ROWS;

use crate::cpu::kernel::{Context, Kernel, WriteMode, span};
use crate::cpu::pointwise::Pointwise;
use crate::cpu::reduce::{COLUMNS, sum_partials};
use crate::cpu::vector::{dot, multiply_add, vectorised};
use crate::cpu::view::Rows;

/// Rows in a task.
const TASK_ROWS: usize = 32;

/// [`colac_plan::Op::RmsNorm`].
#[derive(Debug)]
pub(crate) struct RmsNorm {
    /// Makes each row of `x` before it is read, if something does.
    pub(crate) prologue: Option<Pointwise>,
    pub(crate) x: Rows,
    /// One row, where there is a gain.
    pub(crate) weight: Option<Rows>,
    pub(crate) y: Rows,
    /// One number for each row of `x`, as one row.
    pub(crate) rstd: Rows,
    pub(crate) epsilon: f64,
}

vectorised! {
    /// `y = x · factor · weight`.
    fn scaled_row<FUSED>(x: &[f32], weight: &[f32], factor: f32, y: &mut [f32]) {
        for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
            *y = *x * factor * *w;
        }
    }
}

vectorised! {
    /// `y = x · factor`.
    fn plainly_scaled_row<FUSED>(x: &[f32], factor: f32, y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = *x * factor;
        }
    }
}

impl Kernel for RmsNorm {
    fn run(&self, context: &Context<'_>) {
        context.pool.run(self.x.rows.div_ceil(TASK_ROWS), &|task, thread| {
            // SAFETY: the task takes its thread's scratch once.
            let scratch = unsafe { context.scratch.of(thread, self.scratch()) };
            for row in span(task, TASK_ROWS, self.x.rows) {
                // SAFETY: a row belongs to one task; operands are only read.
                unsafe {
                    if let Some(prologue) = &self.prologue {
                        prologue.row(row, scratch);
                    }
                    let x = self.x.row(row);
                    let mean = f64::from(dot(x, x)) / x.len() as f64;
                    let rstd = (1.0 / (mean + self.epsilon).sqrt()) as f32;
                    self.rstd.part_mut(0, row..row + 1)[0] = rstd;
                    match self.weight {
                        Some(weight) => scaled_row(x, weight.row(0), rstd, self.y.row_mut(row)),
                        None => plainly_scaled_row(x, rstd, self.y.row_mut(row)),
                    }
                }
            }
        });
    }

    fn scratch(&self) -> usize {
        self.prologue.as_ref().map_or(0, Kernel::scratch)
    }
}

/// [`colac_plan::Op::RmsNormBackward { gain: true }`].
#[derive(Debug)]
pub(crate) struct RmsNormBackward {
    pub(crate) dy: Rows,
    pub(crate) x: Rows,
    /// Where there is a gain, it and its gradient.
    pub(crate) gain: Option<Gain>,
    /// One number for each row of `x`, as one row.
    pub(crate) rstd: Rows,
    pub(crate) dx: Rows,
    /// Makes the result of each row of `dx`, in its place, if something does.
    pub(crate) epilogue: Option<Pointwise>,
}

/// A gain and its gradient, one row each.
#[derive(Debug)]
pub(crate) struct Gain {
    pub(crate) weight: Rows,
    pub(crate) dw: Rows,
    pub(crate) write: WriteMode,
    /// One row for every [`REDUCTION_ROWS`] rows of `x`; in the workspace.
    pub(crate) partials: Rows,
}

vectorised! {
    /// `Σ dy · weight · x`.
    fn weighted_dot<FUSED>(dy: &[f32], weight: &[f32], x: &[f32]) -> f32 {
        const LANES: usize = crate::cpu::vector::LANES;
        let mut lanes = [0f32; LANES];
        let (dy, dy_rest) = dy.as_chunks::<LANES>();
        let (weight, weight_rest) = weight.as_chunks::<LANES>();
        let (x, x_rest) = x.as_chunks::<LANES>();
        for ((dy, w), x) in dy.iter().zip(weight).zip(x) {
            for i in 0..LANES {
                lanes[i] = multiply_add::<FUSED>(dy[i] * w[i], x[i], lanes[i]);
            }
        }
        for (((lane, dy), w), x) in lanes.iter_mut().zip(dy_rest).zip(weight_rest).zip(x_rest) {
            *lane = multiply_add::<FUSED>(*dy * *w, *x, *lane);
        }
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
            width /= 2;
        }
        lanes[0]
    }
}

vectorised! {
    /// `dx = rstd · (dy · weight) - x · mean_factor`.
    fn input_gradient<FUSED>(dy: &[f32], weight: &[f32], x: &[f32], rstd: f32, mean_factor: f32, dx: &mut [f32]) {
        for (((dx, dy), w), x) in dx.iter_mut().zip(dy).zip(weight).zip(x) {
            *dx = multiply_add::<FUSED>(-mean_factor, *x, rstd * (*dy * *w));
        }
    }
}

vectorised! {
    /// `dx = rstd · dy - x · mean_factor`.
    fn plain_input_gradient<FUSED>(dy: &[f32], x: &[f32], rstd: f32, mean_factor: f32, dx: &mut [f32]) {
        for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
            *dx = multiply_add::<FUSED>(-mean_factor, *x, rstd * *dy);
        }
    }
}

vectorised! {
    /// `sum = sum + dy · x · rstd`.
    fn add_weight_gradient<FUSED>(sum: &mut [f32], dy: &[f32], x: &[f32], rstd: f32) {
        for ((sum, dy), x) in sum.iter_mut().zip(dy).zip(x) {
            *sum = multiply_add::<FUSED>(*dy * rstd, *x, *sum);
        }
    }
}

impl RmsNormBackward {
    fn gain_gradient(&self, context: &Context<'_>, gain: &Gain) {
        let (rows, width, block) = (self.x.rows, self.x.width, REDUCTION_ROWS as usize);
        let across = width.div_ceil(COLUMNS);
        context.pool.run(gain.partials.rows * across, &|task, _| {
            let columns = span(task % across, COLUMNS, width);
            // SAFETY: these columns of this partial row belong to this task; operands are only read.
            unsafe {
                let sum = gain.partials.part_mut(task / across, columns.clone());
                sum.fill(0.0);
                for row in span(task / across, block, rows) {
                    let (dy, x) =
                        (self.dy.part(row, columns.clone()), self.x.part(row, columns.clone()));
                    add_weight_gradient(sum, dy, x, self.rstd.part(0, row..row + 1)[0]);
                }
            }
        });
        sum_partials(context, gain.partials, gain.dw, gain.write.adds());
    }
}

impl Kernel for RmsNormBackward {
    fn run(&self, context: &Context<'_>) {
        // The gradient of the gain first: it needs `dy` and `x` of many rows, the other only its own.
        if let Some(gain) = &self.gain {
            self.gain_gradient(context, gain);
        }
        let width = self.x.width as f32;
        context.pool.run(self.x.rows.div_ceil(TASK_ROWS), &|task, thread| {
            // SAFETY: the task takes its thread's scratch once.
            let scratch = unsafe { context.scratch.of(thread, self.scratch()) };
            for row in span(task, TASK_ROWS, self.x.rows) {
                // SAFETY: a row belongs to one task; operands are only read.
                unsafe {
                    let (dy, x, dx) = (self.dy.row(row), self.x.row(row), self.dx.row_mut(row));
                    let rstd = self.rstd.part(0, row..row + 1)[0];
                    let factor = rstd * rstd * rstd;
                    match &self.gain {
                        Some(gain) => {
                            let weight = gain.weight.row(0);
                            let mean = weighted_dot(dy, weight, x) / width;
                            input_gradient(dy, weight, x, rstd, factor * mean, dx);
                        }
                        None => {
                            plain_input_gradient(dy, x, rstd, factor * (dot(dy, x) / width), dx);
                        }
                    }
                    if let Some(epilogue) = &self.epilogue {
                        epilogue.row(row, scratch);
                    }
                }
            }
        });
    }

    fn scratch(&self) -> usize {
        self.epilogue.as_ref().map_or(0, Kernel::scratch)
    }
}
