//! The language-model head with its loss: logits exist for a chunk of positions at a time.
//!
//! For each chunk: logits by tiled products with the bias added and the transform applied, log-sum-exp by position, and
//! where the gradient is wanted the gradient of the products in their place, from which `dx`, `dw` and `db` follow. The
//! derivative of a transform reads the products again, so there the logits have a chunk of their own. Positions whose label is not valid contribute nothing:
//! they are left out at the ends of a chunk and written as zeros inside it. Must not know other operations.

use colac_plan::pointwise::Program;
use faer::Accum;

use crate::cpu::gemm::multiply_tiled;
use crate::cpu::kernel::{Context, Kernel, WriteMode, span};
use crate::cpu::pointwise::Pointwise;
use crate::cpu::reduce::{COLUMNS, Partials};
use crate::cpu::vector::{accumulate, exponentials, maximum, scale};
use crate::cpu::view::{Integers, Matrix, Rows};

/// The label of a position that is not to be predicted.
const IGNORED: i32 = -100;

/// [`colac_plan::Op::HeadLoss`] and, with `gradient`, [`colac_plan::Op::HeadLossWithGradient`].
#[derive(Debug)]
pub(crate) struct HeadLoss {
    pub(crate) x: Rows,
    pub(crate) weight: Rows,
    pub(crate) labels: Integers,
    /// One number for each row of positions, as one row.
    pub(crate) loss: Rows,
    /// Positions in a row.
    pub(crate) seq: usize,
    /// A chunk of logits; in the workspace.
    pub(crate) logits: Rows,
    /// The loss of each position of the chunk; in the workspace.
    pub(crate) losses: Partials,
    /// Added to each product; one row.
    pub(crate) bias: Option<Rows>,
    pub(crate) transform: Option<Transform>,
    pub(crate) gradient: Option<Gradient>,
}

/// What the operation with gradient has in addition.
#[derive(Debug)]
pub(crate) struct Gradient {
    pub(crate) scale: Rows,
    pub(crate) dx: Rows,
    pub(crate) dw: Rows,
    pub(crate) write: WriteMode,
    /// Where there is a bias.
    pub(crate) db: Option<BiasGradient>,
}

/// The gradient of the bias.
#[derive(Debug)]
pub(crate) struct BiasGradient {
    /// One row.
    pub(crate) db: Rows,
    pub(crate) write: WriteMode,
}

/// The function between products and logits.
#[derive(Debug)]
pub(crate) struct Transform {
    /// From the products to the logits.
    function: Pointwise,
    /// Where the logits are: a second chunk, or in place of the products.
    logits: Rows,
    /// From products and the gradient of the logits to the gradient of the products, in their place.
    derivative: Option<Pointwise>,
}

impl Transform {
    /// Logits in place of the products.
    pub(crate) fn without_gradient(function: &Program, products: Rows) -> Transform {
        let function = Pointwise::by_rows(function, vec![products], &[products]);
        Transform { function, logits: products, derivative: None }
    }

    /// Logits beside the products, which their gradient replaces.
    pub(crate) fn with_gradient(
        function: &Program,
        derivative: &Program,
        products: Rows,
        logits: Rows,
    ) -> Transform {
        let derivative = Pointwise::by_rows(derivative, vec![products, logits], &[products]);
        let function = Pointwise::by_rows(function, vec![products], &[logits]);
        Transform { function, logits, derivative: Some(derivative) }
    }

    fn scratch(&self) -> usize {
        self.function.scratch().max(self.derivative.as_ref().map_or(0, Kernel::scratch))
    }
}

/// Sets every element of a view to 0.
fn clear(context: &Context<'_>, rows: Rows, range: std::ops::Range<usize>) {
    let each = (1usize << 14).div_ceil(rows.width.max(1));
    context.pool.run(range.len().div_ceil(each), &|task, _| {
        for row in span(task, each, range.len()) {
            // SAFETY: a row belongs to one task.
            unsafe { rows.row_mut(range.start + row) }.fill(0.0);
        }
    });
}

impl Kernel for HeadLoss {
    fn run(&self, context: &Context<'_>) {
        // SAFETY: operands are only read.
        let labels = unsafe { self.labels.all() };
        let vocabulary = self.weight.rows;
        for label in labels {
            let known =
                *label == IGNORED || usize::try_from(*label).is_ok_and(|label| label < vocabulary);
            assert!(known, "label {label} is not in a vocabulary of {vocabulary}");
        }
        let chunk = self.logits.rows;
        let mut beta = match &self.gradient {
            Some(gradient) if gradient.write.adds() => Accum::Add,
            _ => Accum::Replace,
        };
        if let Some(BiasGradient { db, write }) = self.gradient.as_ref().and_then(|g| g.db.as_ref())
            && !write.adds()
        {
            clear(context, *db, 0..1);
        }
        // The sum of the row that the chunk's end may have cut.
        let mut sum = 0.0;
        for start in (0..labels.len()).step_by(chunk.max(1)) {
            let all = start..(start + chunk).min(labels.len());
            let valid = |position: &usize| labels[*position] != IGNORED;
            let first = all.clone().find(valid).unwrap_or(all.end);
            let end = all.clone().rfind(valid).map_or(first, |last| last + 1);
            if let Some(gradient) = &self.gradient {
                clear(context, gradient.dx, all.start..first);
                clear(context, gradient.dx, end..all.end);
            }
            if first < end {
                self.chunk(context, labels, first..end, beta);
                beta = Accum::Add;
            }
            for position in all {
                if (first..end).contains(&position) {
                    // SAFETY: the losses of the chunk are complete and nothing else is running.
                    sum += unsafe { self.losses.part(position - first..position - first + 1)[0] };
                }
                if (position + 1).is_multiple_of(self.seq) {
                    let row = position / self.seq;
                    // SAFETY: nothing else is running.
                    unsafe { self.loss.part_mut(0, row..row + 1)[0] = sum as f32 };
                    sum = 0.0;
                }
            }
        }
        if let (Some(gradient), Accum::Replace) = (&self.gradient, beta) {
            // No valid position at all: the gradient is 0 and nobody has written it.
            clear(context, gradient.dw, 0..gradient.dw.rows);
        }
    }

    fn scratch(&self) -> usize {
        self.transform.as_ref().map_or(0, Transform::scratch)
    }
}

impl HeadLoss {
    fn chunk(
        &self,
        context: &Context<'_>,
        labels: &[i32],
        positions: std::ops::Range<usize>,
        beta: Accum,
    ) {
        let (x, weight) =
            (self.x.matrix(positions.clone()), self.weight.matrix(0..self.weight.rows));
        let logits: Matrix = self.logits.matrix(0..positions.len());
        // SAFETY: operands are only read, the logits lie in the workspace, nothing else is running.
        unsafe { multiply_tiled(context, logits, Accum::Replace, x, weight.transposed()) };
        // SAFETY: the scalar is only read.
        let factor = self.gradient.as_ref().map(|gradient| unsafe { gradient.scale.scalar() });
        context.pool.run(positions.len(), &|index, thread| {
            // SAFETY: the loss of a position belongs to one task, and so do its products and logits below; of each row one
            // slice is alive at a time.
            let loss = unsafe { &mut self.losses.part(index..index + 1)[0] };
            let Ok(label) = usize::try_from(labels[positions.start + index]) else {
                *loss = 0.0;
                // SAFETY: as above.
                unsafe { self.logits.row_mut(index) }.fill(0.0);
                return;
            };
            if let Some(bias) = self.bias {
                // SAFETY: as above; operands are only read.
                unsafe { accumulate(self.logits.row_mut(index), bias.row(0)) };
            }
            // SAFETY: the task takes its thread's scratch once.
            let scratch = unsafe { context.scratch.of(thread, self.scratch()) };
            let place = match &self.transform {
                Some(transform) => {
                    // SAFETY: as above.
                    unsafe { transform.function.row(index, scratch) };
                    transform.logits
                }
                None => self.logits,
            };
            // SAFETY: as above.
            let logits = unsafe { place.row_mut(index) };
            let (largest, target) = (maximum(logits), logits[label]);
            let sum = exponentials(logits, largest);
            *loss = f64::from(largest) + f64::from(sum).ln() - f64::from(target);
            if let Some(factor) = factor {
                scale(logits, factor / sum);
                logits[label] -= factor;
            }
            if let Some(derivative) = self.transform.as_ref().and_then(|t| t.derivative.as_ref()) {
                // SAFETY: as above; the slice of the logits is not used any more.
                unsafe { derivative.row(index, scratch) };
            }
        });
        if let Some(gradient) = &self.gradient {
            if let Some(BiasGradient { db, .. }) = gradient.db {
                context.pool.run(db.width.div_ceil(COLUMNS), &|task, _| {
                    let columns = span(task, COLUMNS, db.width);
                    // SAFETY: these columns belong to this task, and the gradients of the chunk are complete.
                    unsafe {
                        let sum = db.part_mut(0, columns.clone());
                        for index in 0..positions.len() {
                            accumulate(sum, self.logits.part(index, columns.clone()));
                        }
                    }
                });
            }
            // SAFETY: as for the logits; `dx` and `dw` are apart from the operands.
            unsafe {
                multiply_tiled(
                    context,
                    gradient.dx.matrix(positions),
                    Accum::Replace,
                    logits,
                    weight,
                );
                multiply_tiled(
                    context,
                    gradient.dw.matrix(0..gradient.dw.rows),
                    beta,
                    logits.transposed(),
                    x,
                );
            }
        }
    }
}
