//! Root-mean-square norm of rows and its derivative.
//!
//! Owns both kernels. Must not know other operations.

use colac_plan::op::cost::REDUCTION_ROWS;

use crate::cpu::kernel::{Buffers, Context, Kernel, WriteMode, span};
use crate::cpu::pointwise::Pointwise;
use crate::cpu::reduce::{COLUMNS, sum_partials};
use crate::cpu::stored::Stored;
use crate::cpu::vector::{dot, multiply_add, vectorised};
use crate::cpu::view::Rows;

/// Rows in a task.
const TASK_ROWS: usize = 32;

/// [`colac_plan::Op::RmsNorm`].
#[derive(Debug)]
pub(crate) struct RmsNorm {
    /// Makes each row of `x` before it is read, if something does.
    pub(crate) prologue: Option<Pointwise>,
    pub(crate) x: Stored,
    /// One row, where there is a gain.
    pub(crate) weight: Option<Stored>,
    pub(crate) y: Stored,
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
        let width = self.x.width;
        context.pool.run(self.x.rows.div_ceil(TASK_ROWS), &|task, thread| {
            // SAFETY: the task takes its thread's scratch once.
            let mut buffers = Buffers::new(unsafe { context.scratch.of(thread, self.scratch()) });
            let (x_buffer, y_buffer) =
                (buffers.take(self.x.buffer(width)), buffers.take(self.y.buffer(width)));
            let weight_buffer = buffers.take(self.weight.map_or(0, |weight| weight.buffer(width)));
            // SAFETY: operands are only read.
            let weight = self.weight.map(|weight| unsafe { weight.row(0, weight_buffer) });
            let registers = buffers.rest();
            for row in span(task, TASK_ROWS, self.x.rows) {
                // SAFETY: a row belongs to one task; operands are only read.
                unsafe {
                    if let Some(prologue) = &self.prologue {
                        prologue.row(row, registers);
                    }
                    let x = self.x.row(row, x_buffer);
                    let mean = f64::from(dot(x, x)) / x.len() as f64;
                    let rstd = (1.0 / (mean + self.epsilon).sqrt()) as f32;
                    self.rstd.part_mut(0, row..row + 1)[0] = rstd;
                    self.y.write_row(row, y_buffer, |y| match weight {
                        Some(weight) => scaled_row(x, weight, rstd, y),
                        None => plainly_scaled_row(x, rstd, y),
                    });
                }
            }
        });
    }

    fn scratch(&self) -> usize {
        let width = self.x.width;
        let weight = self.weight.map_or(0, |weight| weight.buffer(width));
        let registers = self.prologue.as_ref().map_or(0, Kernel::scratch);
        self.x.buffer(width) + self.y.buffer(width) + weight + registers
    }
}

/// [`colac_plan::Op::RmsNormBackward { gain: true }`].
#[derive(Debug)]
pub(crate) struct RmsNormBackward {
    pub(crate) dy: Stored,
    pub(crate) x: Stored,
    /// Where there is a gain, it and its gradient.
    pub(crate) gain: Option<Gain>,
    /// One number for each row of `x`, as one row.
    pub(crate) rstd: Rows,
    pub(crate) dx: Stored,
    /// Makes the result of each row of `dx`, in its place, if something does.
    pub(crate) epilogue: Option<Pointwise>,
}

/// A gain and its gradient, one row each.
#[derive(Debug)]
pub(crate) struct Gain {
    pub(crate) weight: Stored,
    pub(crate) dw: Stored,
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
            let (mut dy_buffer, mut x_buffer) = ([0.0; COLUMNS], [0.0; COLUMNS]);
            // SAFETY: these columns of this partial row belong to this task; operands are only read.
            unsafe {
                let sum = gain.partials.part_mut(task / across, columns.clone());
                sum.fill(0.0);
                for row in span(task / across, block, rows) {
                    let (dy, x) = (
                        self.dy.part(row, columns.clone(), &mut dy_buffer),
                        self.x.part(row, columns.clone(), &mut x_buffer),
                    );
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
        let width = self.x.width;
        context.pool.run(self.x.rows.div_ceil(TASK_ROWS), &|task, thread| {
            // SAFETY: the task takes its thread's scratch once.
            let mut buffers = Buffers::new(unsafe { context.scratch.of(thread, self.scratch()) });
            let [dy_buffer, x_buffer, dx_buffer] =
                [self.dy, self.x, self.dx].map(|rows| buffers.take(rows.buffer(width)));
            let gain = self.gain.as_ref();
            let weight_buffer = buffers.take(gain.map_or(0, |gain| gain.weight.buffer(width)));
            // SAFETY: operands are only read.
            let weight = gain.map(|gain| unsafe { gain.weight.row(0, weight_buffer) });
            let (width, registers) = (width as f32, buffers.rest());
            for row in span(task, TASK_ROWS, self.x.rows) {
                // SAFETY: a row belongs to one task; operands are only read.
                unsafe {
                    let (dy, x) = (self.dy.row(row, dy_buffer), self.x.row(row, x_buffer));
                    let rstd = self.rstd.part(0, row..row + 1)[0];
                    let factor = rstd * rstd * rstd;
                    self.dx.write_row(row, dx_buffer, |dx| match weight {
                        Some(weight) => {
                            let mean = weighted_dot(dy, weight, x) / width;
                            input_gradient(dy, weight, x, rstd, factor * mean, dx);
                        }
                        None => {
                            plain_input_gradient(dy, x, rstd, factor * (dot(dy, x) / width), dx);
                        }
                    });
                    if let Some(epilogue) = &self.epilogue {
                        epilogue.row(row, registers);
                    }
                }
            }
        });
    }

    fn scratch(&self) -> usize {
        let width = self.x.width;
        let weight = self.gain.as_ref().map_or(0, |gain| gain.weight.buffer(width));
        let registers = self.epilogue.as_ref().map_or(0, Kernel::scratch);
        let rows = [self.dy, self.x, self.dx].map(|rows| rows.buffer(width));
        rows.iter().sum::<usize>() + weight + registers
    }
}
