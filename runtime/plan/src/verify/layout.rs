//! How the kernels of each operation address its operands and results.
//!
//! Owns that contract: it is what an executor may assume of strides, and what the compiler must keep when it places
//! slices. Must not know how any executor uses it.

use crate::op::Op;
use crate::pointwise::InputForm;
use crate::tensor::Tensor;

/// What strides an operand or result may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// No gaps: elements follow each other in logical order.
    Packed,
    /// Rows without gaps inside, an even distance apart over all leading axes ([`Tensor::row_stride`]).
    Rows,
    /// `[batch, seq, heads, head_dim]` with a free distance along each axis but the innermost.
    Heads,
}

impl Layout {
    /// Whether a tensor is laid out so.
    pub fn holds(self, tensor: &Tensor) -> bool {
        match self {
            Layout::Packed => tensor.is_packed(),
            Layout::Rows => tensor.row_stride().is_some(),
            Layout::Heads => tensor.strides.len() == 4 && tensor.strides[3] == 1,
        }
    }

    /// What is demanded, to follow "must".
    pub fn text(self) -> &'static str {
        match self {
            Layout::Packed => "have no gaps",
            Layout::Rows => "consist of rows an even distance apart",
            Layout::Heads => "be [batch, seq, heads, head_dim] with heads in one piece",
        }
    }
}

/// Layout of operand `operand`. Operands beyond those of the operation count as rows; its shape rule refuses them.
pub fn operand(op: &Op, operand: usize) -> Layout {
    match (op, operand) {
        (Op::Linear | Op::LinearBackwardInput | Op::LinearBackwardWeight | Op::ColumnSum, _) => {
            Layout::Rows
        }
        (Op::Embedding | Op::EmbeddingBackward { .. }, 0) => Layout::Packed,
        (Op::Embedding | Op::EmbeddingBackward { .. }, _) => Layout::Rows,
        (Op::RmsNormBackward { gain, .. }, o) if o == 2 + usize::from(*gain) => Layout::Packed,
        (Op::LayerNormBackward { gain, .. }, o)
            if (2..4).contains(&(o.saturating_sub(usize::from(*gain)))) =>
        {
            Layout::Packed
        }
        (
            Op::Pointwise { .. }
            | Op::RmsNorm { .. }
            | Op::LayerNorm { .. }
            | Op::RmsNormBackward { .. }
            | Op::LayerNormBackward { .. },
            _,
        ) => match op.program_input(operand) {
            Some(InputForm::Column) => Layout::Packed,
            Some(InputForm::Elements | InputForm::Row | InputForm::Scalar) | None => Layout::Rows,
        },
        (Op::Dropout { .. }, 0) | (Op::RowSum { .. } | Op::Softmax, _) => Layout::Rows,
        (Op::Dropout { .. }, _) => Layout::Packed,
        (Op::Slice { .. } | Op::Concat { .. } | Op::Shift { .. } | Op::Sum, _) => Layout::Rows,
        (Op::Rope { .. }, 0) => Layout::Heads,
        (Op::Rope { .. }, _) => Layout::Rows,
        (Op::Attention { .. }, _) => Layout::Heads,
        (Op::AttentionBackward { .. }, 5) => Layout::Packed,
        (Op::AttentionBackward { .. }, 6 | 7) => Layout::Rows,
        (Op::AttentionBackward { .. }, _) => Layout::Heads,
        (Op::HeadLoss { .. } | Op::HeadLossWithGradient { .. }, 2) => Layout::Packed,
        (Op::HeadLoss { .. } | Op::HeadLossWithGradient { .. }, _) => Layout::Rows,
        (Op::GradientNorm | Op::AdamW { .. }, _) => Layout::Packed,
    }
}

/// Layout of result `result`.
pub fn result(op: &Op, result: usize) -> Layout {
    match (op, result) {
        (Op::Linear | Op::LinearBackwardInput | Op::LinearBackwardWeight, _) => Layout::Rows,
        (Op::Embedding | Op::EmbeddingBackward { .. } | Op::Pointwise { .. }, _) => Layout::Rows,
        (Op::RmsNorm { .. }, 1) | (Op::LayerNorm { .. }, 1 | 2) => Layout::Packed,
        (Op::RmsNormBackward { .. } | Op::LayerNormBackward { .. }, 1 | 2) => Layout::Packed,
        (Op::RmsNorm { .. } | Op::RmsNormBackward { .. } | Op::Dropout { .. }, _) => Layout::Rows,
        (Op::LayerNorm { .. } | Op::LayerNormBackward { .. }, _) => Layout::Rows,
        (Op::Rope { .. }, _) => Layout::Heads,
        (Op::Attention { .. }, 1) => Layout::Packed,
        (Op::Attention { .. } | Op::AttentionBackward { .. }, _) => Layout::Heads,
        (Op::HeadLoss { .. } | Op::HeadLossWithGradient { .. }, 0) => Layout::Packed,
        (Op::HeadLoss { .. } | Op::HeadLossWithGradient { .. }, _) => Layout::Rows,
        (Op::Softmax | Op::Slice { .. } | Op::Concat { .. } | Op::Shift { .. }, _) => Layout::Rows,
        (Op::ColumnSum | Op::Sum | Op::RowSum { .. } | Op::GradientNorm | Op::AdamW { .. }, _) => {
            Layout::Packed
        }
    }
}
