//! The language-model head with its loss: logits exist for a chunk of positions at a time.
//!
//! For each chunk: logits by tiled products, log-sum-exp by position, and where the gradient is wanted the gradient of
//! the logits in their place, from which `dx` and `dw` follow. Positions whose label is not valid contribute nothing:
//! they are left out at the ends of a chunk and written as zeros inside it. Must not know other operations.

use faer::Accum;

use crate::cpu::gemm::multiply_tiled;
use crate::cpu::kernel::{Context, Kernel, WriteMode, span};
use crate::cpu::reduce::Partials;
use crate::cpu::vector::{exponentials, maximum, scale};
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
    pub(crate) gradient: Option<Gradient>,
}

/// What the operation with gradient has in addition.
#[derive(Debug)]
pub(crate) struct Gradient {
    pub(crate) scale: Rows,
    pub(crate) dx: Rows,
    pub(crate) dw: Rows,
    pub(crate) write: WriteMode,
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
        context.pool.run(positions.len(), &|index, _| {
            // SAFETY: the logits and the loss of a position belong to one task.
            let (logits, loss) =
                unsafe { (self.logits.row_mut(index), &mut self.losses.part(index..index + 1)[0]) };
            let Ok(label) = usize::try_from(labels[positions.start + index]) else {
                *loss = 0.0;
                logits.fill(0.0);
                return;
            };
            let (largest, target) = (maximum(logits), logits[label]);
            let sum = exponentials(logits, largest);
            *loss = f64::from(largest) + f64::from(sum).ln() - f64::from(target);
            if let Some(factor) = factor {
                scale(logits, factor / sum);
                logits[label] -= factor;
            }
        });
        if let Some(gradient) = &self.gradient {
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
