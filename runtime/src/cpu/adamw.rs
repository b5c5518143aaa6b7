//! AdamW over the flat parameter segment, in one pass that also applies the clipping factor.
//!
//! Owns the update and the step counter (arXiv 1711.05101, arXiv 1412.6980). Must not know other operations.

use crate::cpu::kernel::{Buffers, Context, Kernel, span};
use crate::cpu::stored::Stored;
use crate::cpu::vector::{multiply_add, vectorised};
use crate::cpu::view::{Integers, Rows};

/// Elements in a task.
const TASK_ELEMENTS: usize = 1 << 15;
/// Elements of a task that are updated together: as f32 they stay in the first-level cache.
const BLOCK: usize = 1 << 11;

/// A piece of one range: elements that are treated alike by one task.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) elements: std::ops::Range<usize>,
    pub(crate) weight_decay: f64,
    pub(crate) learning_rate_factor: f64,
}

/// [`colac_plan::Op::AdamW`].
#[derive(Debug)]
pub(crate) struct AdamW {
    pub(crate) gradients: Stored,
    pub(crate) norm: Rows,
    pub(crate) finite: Rows,
    pub(crate) learning_rate: Rows,
    /// Updated, or where there are masters only written.
    pub(crate) parameters: Stored,
    pub(crate) master: Option<Stored>,
    pub(crate) first: Stored,
    pub(crate) second: Stored,
    pub(crate) step: Integers,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) epsilon: f64,
    pub(crate) clip_norm: f64,
    pub(crate) pieces: Vec<Piece>,
}

/// Cuts ranges of `(start, length)` into tasks.
pub(crate) fn pieces(ranges: &[colac_plan::op::UpdateRange]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for range in ranges {
        let end = (range.start + range.length) as usize;
        for start in (range.start as usize..end).step_by(TASK_ELEMENTS) {
            pieces.push(Piece {
                elements: start..(start + TASK_ELEMENTS).min(end),
                weight_decay: range.weight_decay.get(),
                learning_rate_factor: range.learning_rate_factor.get(),
            });
        }
    }
    pieces
}

/// Numbers of one update, rounded once.
#[derive(Clone, Copy)]
struct Constants {
    clip: f32,
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    /// `1 / sqrt(1 - β₂ᵗ)`.
    root_correction: f32,
    epsilon: f32,
    /// `1 - lr · decay`.
    keep: f32,
    /// `lr / (1 - β₁ᵗ)`.
    step_size: f32,
}

vectorised! {
    fn update<FUSED>(g: &[f32], p: &mut [f32], m: &mut [f32], v: &mut [f32], c: Constants) {
        for (((g, p), m), v) in g.iter().zip(p).zip(m).zip(v) {
            let g = *g * c.clip;
            *m = multiply_add::<FUSED>(c.beta1, *m, c.one_minus_beta1 * g);
            *v = multiply_add::<FUSED>(c.beta2, *v, c.one_minus_beta2 * g * g);
            let denominator = multiply_add::<FUSED>(v.sqrt(), c.root_correction, c.epsilon);
            *p = multiply_add::<FUSED>(*p, c.keep, -(c.step_size * (*m / denominator)));
        }
    }
}

/// `base` to the power of `exponent` by squaring: only multiplications, so the same bits on every machine.
fn power(base: f64, exponent: u64) -> f64 {
    let (mut result, mut square, mut left) = (1.0, base, exponent);
    while left > 0 {
        if left & 1 == 1 {
            result *= square;
        }
        square *= square;
        left >>= 1;
    }
    result
}

impl Kernel for AdamW {
    fn run(&self, context: &Context<'_>) {
        // SAFETY: nothing else is running, and no operand is written below but the step.
        let (norm, finite, learning_rate, step) = unsafe {
            (
                self.norm.scalar(),
                self.finite.scalar(),
                self.learning_rate.scalar(),
                &mut self.step.all_mut()[0],
            )
        };
        if finite == 0.0 {
            return;
        }
        // A counter at its largest value stays there; the corrections have long been 1.
        *step = step.saturating_add(1);
        let t = u64::try_from(*step).unwrap_or(1);
        let clip = match self.clip_norm {
            0.0 => 1.0,
            clip_norm => (clip_norm / (f64::from(norm) + 1e-6)).min(1.0),
        };
        let (correction1, correction2) = (1.0 - power(self.beta1, t), 1.0 - power(self.beta2, t));
        context.pool.run(self.pieces.len(), &|task, thread| {
            let piece = &self.pieces[task];
            let rate = f64::from(learning_rate) * piece.learning_rate_factor;
            let constants = Constants {
                clip: clip as f32,
                beta1: self.beta1 as f32,
                one_minus_beta1: (1.0 - self.beta1) as f32,
                beta2: self.beta2 as f32,
                one_minus_beta2: (1.0 - self.beta2) as f32,
                root_correction: (1.0 / correction2.sqrt()) as f32,
                epsilon: self.epsilon as f32,
                keep: (1.0 - rate * piece.weight_decay) as f32,
                step_size: (rate / correction1) as f32,
            };
            // SAFETY: the task takes its thread's scratch once.
            let scratch = unsafe { context.scratch.of(thread, self.scratch()) };
            for block in 0..piece.elements.len().div_ceil(BLOCK) {
                let block = span(block, BLOCK, piece.elements.len());
                let start = piece.elements.start;
                // SAFETY: these elements belong to this task; gradients are only read.
                unsafe { self.block(start + block.start..start + block.end, constants, scratch) };
            }
        });
    }

    fn scratch(&self) -> usize {
        let views = [self.gradients, self.kept(), self.first, self.second];
        views.map(|view| view.buffer(BLOCK)).iter().sum()
    }
}

impl AdamW {
    /// The parameters that the update reads.
    fn kept(&self) -> Stored {
        self.master.unwrap_or(self.parameters)
    }

    /// Updates some elements: one evaluation in f32, from which each stored number is rounded once.
    ///
    /// # Safety
    /// While this runs, nobody else reads or writes these elements, or writes their gradients.
    unsafe fn block(
        &self,
        elements: std::ops::Range<usize>,
        constants: Constants,
        scratch: &mut [f32],
    ) {
        let mut buffers = Buffers::new(scratch);
        let [g_buffer, p_buffer, m_buffer, v_buffer] =
            [self.gradients, self.kept(), self.first, self.second]
                .map(|view| buffers.take(view.buffer(BLOCK)));
        let all = || elements.clone();
        // SAFETY: passed on.
        unsafe {
            let g = self.gradients.part(0, all(), g_buffer);
            self.kept().update(0, all(), p_buffer, |p| {
                self.first.update(0, all(), m_buffer, |m| {
                    self.second.update(0, all(), v_buffer, |v| update(g, p, m, v, constants));
                });
            });
            if let Some(master) = &self.master {
                self.parameters.copy(0, elements.start, master, 0, all());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_those_of_repeated_multiplication() {
        for exponent in [0, 1, 2, 3, 17, 1000] {
            let want = (0..exponent).fold(1.0, |product, _| product * 0.999f64);
            assert!((power(0.999, exponent) - want).abs() <= 1e-13);
        }
    }
}
