//! The language-model head with its loss: logits exist for a chunk of positions at a time.
//!
//! For each chunk: logits by tiled products with the bias added and the transform applied, log-sum-exp by position, and
//! where the gradient is wanted the gradient of the products in their place, from which `dx`, `dw` and `db` follow. The
//! derivative of a transform reads the products again, so there the logits have a chunk of their own. Positions whose label is not valid contribute nothing:
//! they are left out at the ends of a chunk and written as zeros inside it. Must not know other operations.

use colac_plan::pointwise::Program;

use crate::cpu::factor::Factor;
use crate::cpu::gemm::{self, multiply_tiled};
use crate::cpu::kernel::{Buffers, Context, Kernel, WriteMode, span};
use crate::cpu::pointwise::Pointwise;
use crate::cpu::reduce::{COLUMNS, Partials, store_sums};
use crate::cpu::stored::Stored;
use crate::cpu::vector::{accumulate, exponentials, maximum, scale};
use crate::cpu::view::{Integers, Rows};

/// The label of a position that is not to be predicted.
const IGNORED: i32 = -100;

/// [`colac_plan::Op::HeadLoss`] and, with `gradient`, [`colac_plan::Op::HeadLossWithGradient`].
#[derive(Debug)]
pub(crate) struct HeadLoss {
    pub(crate) x: Stored,
    pub(crate) weight: Stored,
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
    pub(crate) bias: Option<Stored>,
    pub(crate) transform: Option<Transform>,
    pub(crate) gradient: Option<Gradient>,
}

/// What the operation with gradient has in addition.
#[derive(Debug)]
pub(crate) struct Gradient {
    pub(crate) scale: Rows,
    pub(crate) dx: Stored,
    pub(crate) dw: SummedGradient,
    /// Where there is a bias.
    pub(crate) db: Option<SummedGradient>,
}

/// The gradient of the weight or, one row, of the bias: a sum over chunks.
#[derive(Debug)]
pub(crate) struct SummedGradient {
    pub(crate) target: Stored,
    pub(crate) write: WriteMode,
    /// In the workspace, where the target is not f32: the sum over the chunks, so that it is rounded once.
    pub(crate) sums: Option<Rows>,
}

impl SummedGradient {
    /// Where the chunks are summed up.
    fn summed(&self) -> Stored {
        self.sums.map_or(self.target, Stored::from)
    }

    /// Whether the first chunk adds to what is there.
    fn begins_with_old(&self) -> bool {
        self.sums.is_none() && self.write.adds()
    }
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
        let rows = Stored::from(products);
        let function = Pointwise::by_rows(function, vec![rows], &[rows]);
        Transform { function, logits: products, derivative: None }
    }

    /// Logits beside the products, which their gradient replaces.
    pub(crate) fn with_gradient(
        function: &Program,
        derivative: &Program,
        products: Rows,
        logits: Rows,
    ) -> Transform {
        let (from, to) = (Stored::from(products), Stored::from(logits));
        let derivative = Pointwise::by_rows(derivative, vec![from, to], &[from]);
        let function = Pointwise::by_rows(function, vec![from], &[to]);
        Transform { function, logits, derivative: Some(derivative) }
    }

    fn scratch(&self) -> usize {
        self.function.scratch().max(self.derivative.as_ref().map_or(0, Kernel::scratch))
    }
}

/// Sets every element of a view to 0.
fn clear(context: &Context<'_>, rows: Stored, range: std::ops::Range<usize>) {
    let each = (1usize << 14).div_ceil(rows.width.max(1));
    context.pool.run(range.len().div_ceil(each), &|task, _| {
        for row in span(task, each, range.len()) {
            // SAFETY: a row belongs to one task.
            unsafe { rows.clear(range.start + row, 0..rows.width) };
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
        // Whether a chunk's gradient of the weight is added to what is there.
        let mut adds = self.gradient.as_ref().is_some_and(|g| g.dw.begins_with_old());
        if let Some(db) = self.gradient.as_ref().and_then(|g| g.db.as_ref())
            && !db.begins_with_old()
        {
            clear(context, db.summed(), 0..1);
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
                self.chunk(context, labels, first..end, adds);
                adds = true;
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
        let Some(gradient) = &self.gradient else { return };
        if !adds {
            // No valid position at all: the gradient is 0 and nobody has written it.
            let summed = gradient.dw.summed();
            clear(context, summed, 0..summed.rows);
        }
        for SummedGradient { target, write, sums } in
            [Some(&gradient.dw), gradient.db.as_ref()].into_iter().flatten()
        {
            if let Some(sums) = sums {
                store_sums(context, *sums, *target, write.adds());
            }
        }
    }

    fn scratch(&self) -> usize {
        let (x, weight, logits) = self.factors(0..self.logits.rows);
        let mut scratch =
            self.position_scratch().max(gemm::scratch(logits, x, weight.transposed()));
        if let Some(Gradient { dx, dw, .. }) = &self.gradient {
            let (dx, dw) = (dx.factor(0..self.logits.rows), dw.summed());
            let dw = dw.factor(0..dw.rows);
            scratch = scratch.max(gemm::scratch(dx, logits, weight));
            scratch = scratch.max(gemm::scratch(dw, logits.transposed(), x));
        }
        scratch
    }
}

impl HeadLoss {
    fn chunk(
        &self,
        context: &Context<'_>,
        labels: &[i32],
        positions: std::ops::Range<usize>,
        adds: bool,
    ) {
        let (x, weight, logits) = self.factors(positions.clone());
        // SAFETY: operands are only read, the logits lie in the workspace, nothing else is running.
        unsafe { multiply_tiled(context, logits, false, x, weight.transposed()) };
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
            // SAFETY: the task takes its thread's scratch once.
            let mut buffers =
                Buffers::new(unsafe { context.scratch.of(thread, self.position_scratch()) });
            if let Some(bias) = self.bias {
                let buffer = buffers.take(bias.buffer(bias.width));
                // SAFETY: as above; operands are only read.
                unsafe { accumulate(self.logits.row_mut(index), bias.row(0, buffer)) };
            }
            let scratch = buffers.rest();
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
                // An infinite loss says so by its gradient.
                logits[label] -= if target.is_finite() { factor } else { f32::NAN };
            }
            if let Some(derivative) = self.transform.as_ref().and_then(|t| t.derivative.as_ref()) {
                // SAFETY: as above; the slice of the logits is not used any more.
                unsafe { derivative.row(index, scratch) };
            }
        });
        if let Some(gradient) = &self.gradient {
            if let Some(db) = &gradient.db {
                let db = db.summed();
                context.pool.run(db.width.div_ceil(COLUMNS), &|task, _| {
                    let columns = span(task, COLUMNS, db.width);
                    // SAFETY: these columns belong to this task, and the gradients of the chunk are complete.
                    unsafe {
                        db.update(0, columns.clone(), &mut [], |sum| {
                            for index in 0..positions.len() {
                                accumulate(sum, self.logits.part(index, columns.clone()));
                            }
                        });
                    }
                });
            }
            let dw = gradient.dw.summed();
            // SAFETY: as for the logits; `dx` and `dw` are apart from the operands.
            unsafe {
                multiply_tiled(context, gradient.dx.factor(positions), false, logits, weight);
                multiply_tiled(context, dw.factor(0..dw.rows), adds, logits.transposed(), x);
            }
        }
    }

    /// Of some positions the operand, all of the weight, and the place of their logits.
    fn factors(&self, positions: std::ops::Range<usize>) -> (Factor, Factor, Factor) {
        let logits = self.logits.matrix(0..positions.len()).into();
        (self.x.factor(positions), self.weight.factor(0..self.weight.rows), logits)
    }

    /// Numbers of scratch that the task of a position needs.
    fn position_scratch(&self) -> usize {
        self.bias.map_or(0, |bias| bias.buffer(bias.width))
            + self.transform.as_ref().map_or(0, Transform::scratch)
    }
}
