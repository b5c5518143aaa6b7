//! The price of every operation, in integers: arithmetic, bytes, workspace.
//!
//! Owns the counting conventions. A multiply-add is two FLOPs. Causal attention is counted as half the square of the
//! sequence (a window as its width), which is what a kernel that skips masked tiles does. `products` counts the
//! mathematics: scores that the backward attention rebuilds instead of reading them are an executor's choice and not
//! in it.

use crate::dtype::DType;
use crate::op::{Mask, Op, Scores};
use crate::pointwise::Program;
use crate::shape::{Shape, TensorType};

/// What one execution costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// FLOPs in matrix products and attention.
    pub products: u64,
    /// FLOPs elsewhere: each arithmetic instruction of a pointwise program is one, norms and softmax by hand count.
    pub other: u64,
    /// Bytes of operands read and results written once each.
    pub bytes: u64,
}

impl std::ops::Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost {
            products: self.products + other.products,
            other: self.other + other.other,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// Alignment of workspace parts and of every tensor's offset, in bytes.
pub const ALIGNMENT: u64 = 256;

/// `bytes` rounded up to [`ALIGNMENT`].
pub fn aligned(bytes: u64) -> u64 {
    bytes.div_ceil(ALIGNMENT) * ALIGNMENT
}

/// Rows whose partial sums are kept apart by operations that reduce over rows. Fixed, so that results do not depend on
/// the number of threads.
pub const REDUCTION_ROWS: u64 = 256;

/// Elements of a sum over everything whose partial sums are kept apart, about: whole rows, at least one.
pub const SUM_ELEMENTS: u64 = 1 << 16;

/// Rows of a shape whose sum is one partial sum of [`Op::Sum`].
pub fn sum_rows(shape: &Shape) -> u64 {
    (SUM_ELEMENTS / shape.width().max(1)).max(1)
}

/// Pairs of positions that a mask lets one head compute, for a sequence of `seq`.
fn visible_pairs(mask: Mask, seq: u64) -> u64 {
    match mask {
        Mask::Full => seq * seq,
        Mask::Causal => seq * seq / 2,
        Mask::Window(width) => {
            let width = u64::from(width).min(seq);
            seq * width - width * width / 2
        }
    }
}

impl Op {
    /// Price for operands and results of the given types.
    pub fn cost(&self, operands: &[&TensorType], results: &[&TensorType]) -> Cost {
        let bytes = operands.iter().chain(results).map(|t| t.bytes()).sum();
        let elements = |i: usize| operands[i].shape.elements();
        let inside = |program: &Option<Program>| program.as_ref().map_or(0, Program::arithmetic);
        // Each product of a pair goes once over the width of keys and once over that of values.
        let attention = |q: &Shape, v: &Shape, scores: &Scores, products: u64| {
            let pairs = visible_pairs(scores.mask, q.0[1].extent) * q.0[0].extent * q.0[2].extent;
            let each = 5 + 3 * u64::from(scores.softcap.is_some()) + 2 * u64::from(scores.alibi);
            (products * 2 * pairs * (q.width() + v.width()), each * pairs)
        };
        let (products, other, bytes) = match self {
            Op::Linear => (2 * elements(0) * operands[1].shape.0[0].extent, 0, bytes),
            Op::LinearBackwardInput => (2 * elements(0) * operands[1].shape.width(), 0, bytes),
            Op::LinearBackwardWeight => (2 * elements(0) * operands[1].shape.width(), 0, bytes),
            Op::Embedding => (0, 0, operands[0].bytes() + 2 * results[0].bytes()),
            Op::EmbeddingBackward { .. } => {
                (0, elements(1), operands[0].bytes() + 3 * operands[1].bytes())
            }
            // What a prologue makes is written once and read from cache; what an epilogue reads is not written at all.
            Op::RmsNorm { gain, prologue, .. } => {
                (0, (3 + u64::from(*gain) + inside(prologue)) * results[0].shape.elements(), bytes)
            }
            Op::RmsNormBackward { gain, epilogue } => {
                (0, (6 + 4 * u64::from(*gain) + inside(epilogue)) * elements(0), bytes)
            }
            Op::LayerNorm { gain, bias, prologue, .. } => {
                let each = 6 + u64::from(*gain) + u64::from(*bias) + inside(prologue);
                (0, each * results[0].shape.elements(), bytes)
            }
            Op::LayerNormBackward { gain, bias, epilogue } => {
                let each = 9 + 3 * u64::from(*gain) + u64::from(*bias) + inside(epilogue);
                (0, each * elements(0), bytes)
            }
            Op::RowSum { mean } => {
                (0, elements(0) + u64::from(*mean) * results[0].shape.elements(), bytes)
            }
            Op::Softmax => (0, 5 * elements(0), bytes),
            // A draw of four words is ten rounds of two products, four exclusive ors and two additions.
            Op::Dropout { .. } => (0, 22 * elements(0), bytes),
            // Four products and two sums for a pair.
            Op::Rope { .. } => (0, 6 * operands[0].shape.rows() * operands[1].shape.width(), bytes),
            Op::Attention { scores } => {
                let (products, other) =
                    attention(&operands[0].shape, &operands[2].shape, scores, 1);
                (products, other, bytes)
            }
            Op::AttentionBackward { scores, turned_back } => {
                let (products, other) =
                    attention(&operands[1].shape, &operands[3].shape, scores, 2);
                // Four products and two sums for a pair of what is turned back, which is not stored before.
                let turned = turned_back.map_or(0, |turned| {
                    let of_results = turned.results().into_iter().zip(results);
                    let rows =
                        of_results.filter(|(turned, _)| *turned).map(|(_, ty)| ty.shape.rows());
                    6 * rows.sum::<u64>() * operands[6].shape.width()
                });
                (products, other + turned, bytes)
            }
            Op::Pointwise { program } => {
                (0, program.arithmetic() * results[0].shape.elements(), bytes)
            }
            Op::ColumnSum => (0, elements(0), bytes),
            Op::HeadLoss { bias, transform, .. } => {
                let logits = operands[0].shape.rows() * operands[1].shape.0[0].extent;
                let each = 3 + u64::from(*bias) + transform.as_ref().map_or(0, |t| t.arithmetic());
                (2 * logits * operands[0].shape.width(), each * logits, bytes)
            }
            Op::HeadLossWithGradient { bias, transform, .. } => {
                let logits = operands[0].shape.rows() * operands[1].shape.0[0].extent;
                let both =
                    transform.iter().map(|t| t.function.arithmetic() + t.derivative.arithmetic());
                let each = 5 + 2 * u64::from(*bias) + both.sum::<u64>();
                (6 * logits * operands[0].shape.width(), each * logits, bytes)
            }
            Op::GradientNorm => (0, 2 * elements(0), bytes),
            Op::AdamW { master, .. } => {
                // Gradients are read; parameters and moments are read and written, but copies of master parameters
                // only written.
                let state = [0, 1, 2, 4].into_iter().filter_map(|result| results.get(result));
                let state = 2 * state.map(|ty| ty.bytes()).sum::<u64>();
                let unread = if *master { results[0].bytes() } else { 0 };
                (0, 15 * elements(0), operands[0].bytes() + state - unread)
            }
            Op::Slice { .. } => (0, 0, 2 * results[0].bytes()),
            Op::Concat { .. } | Op::Shift { .. } => (0, 0, bytes),
            Op::Sum => (0, elements(0), bytes),
        };
        Cost { products, other, bytes }
    }

    /// The part of [`Cost::products`] that belongs to the forward pass: for most operations all or nothing by their
    /// kind, for the loss with its gradient a third.
    pub fn forward_products(&self, cost: Cost) -> u64 {
        match self {
            Op::Linear | Op::Attention { .. } | Op::HeadLoss { .. } => cost.products,
            Op::HeadLossWithGradient { .. } => cost.products / 3,
            Op::LinearBackwardInput
            | Op::LinearBackwardWeight
            | Op::AttentionBackward { .. }
            | Op::Embedding
            | Op::EmbeddingBackward { .. }
            | Op::RmsNorm { .. }
            | Op::RmsNormBackward { .. }
            | Op::LayerNorm { .. }
            | Op::LayerNormBackward { .. }
            | Op::Dropout { .. }
            | Op::RowSum { .. }
            | Op::Softmax
            | Op::Rope { .. }
            | Op::Pointwise { .. }
            | Op::ColumnSum
            | Op::GradientNorm
            | Op::AdamW { .. }
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::Shift { .. }
            | Op::Sum => 0,
        }
    }

    /// Bytes of scratch memory that an executor may use, exactly; an executor asks for no other.
    ///
    /// Row reductions keep one f32 partial row for every [`REDUCTION_ROWS`] rows and each vector they make; the loss keeps a
    /// chunk of logits in f32 (its gradient takes their place; beside a transform, which reads them again, it has a chunk of
    /// its own) and one f64 loss per position of the chunk; a sum keeps one f64 for every [`sum_rows`] rows; the norm keeps
    /// one f64 and one
    /// flag (as f64) for every 2¹⁶ elements; the backward attention keeps one f32 per query and head (the row sums of
    /// `dout · out`). Where the gradients of the loss's weight and bias are stored in bf16, their sums over the chunks are
    /// kept in f32, so that they are rounded once.
    pub fn workspace_bytes(&self, operands: &[&TensorType], results: &[&TensorType]) -> u64 {
        let partials = |sums: u64| {
            let shape = &operands[0].shape;
            sums * aligned(shape.rows().div_ceil(REDUCTION_ROWS) * shape.width() * 4)
        };
        match self {
            Op::ColumnSum | Op::RmsNormBackward { gain: true, .. } => partials(1),
            Op::RmsNormBackward { gain: false, .. } => 0,
            Op::LayerNormBackward { gain, bias, .. } => {
                partials(u64::from(*gain) + u64::from(*bias))
            }
            Op::HeadLoss { chunk, .. } | Op::HeadLossWithGradient { chunk, .. } => {
                let positions = operands[0].shape.rows().min(u64::from(*chunk));
                let transformed =
                    matches!(self, Op::HeadLossWithGradient { transform: Some(_), .. });
                let chunks = 1 + u64::from(transformed);
                let sums = results.iter().skip(2).filter(|ty| ty.dtype != DType::F32);
                chunks * aligned(positions * operands[1].shape.0[0].extent * 4)
                    + aligned(positions * 8)
                    + sums.map(|ty| aligned(ty.shape.elements() * 4)).sum::<u64>()
            }
            Op::Sum => {
                let shape = &operands[0].shape;
                aligned(shape.rows().div_ceil(sum_rows(shape)) * 8)
            }
            Op::GradientNorm => aligned(operands[0].shape.elements().div_ceil(1 << 16) * 16),
            Op::AttentionBackward { .. } => {
                let q = &operands[1].shape;
                aligned(q.0[0].extent * q.0[1].extent * q.0[2].extent * 4)
            }
            Op::Linear
            | Op::LinearBackwardInput
            | Op::LinearBackwardWeight
            | Op::Embedding
            | Op::EmbeddingBackward { .. }
            | Op::RmsNorm { .. }
            | Op::LayerNorm { .. }
            | Op::Dropout { .. }
            | Op::RowSum { .. }
            | Op::Softmax
            | Op::Rope { .. }
            | Op::Attention { .. }
            | Op::Pointwise { .. }
            | Op::AdamW { .. }
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::Shift { .. } => 0,
        }
    }
}
