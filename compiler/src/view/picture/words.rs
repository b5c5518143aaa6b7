//! How operations and types are called in pictures.
//!
//! Owns the kinds by which nodes are coloured and the form of shapes. Must not know where operations stand.

use colac_plan::{Op, TensorType};

use super::model::{NodeKind, Value};

/// The kind of an operation.
pub(super) fn kind(op: &Op) -> NodeKind {
    match op {
        Op::Linear | Op::LinearBackwardInput | Op::LinearBackwardWeight => NodeKind::Product,
        Op::Attention { .. } | Op::AttentionBackward { .. } => NodeKind::Attention,
        Op::RmsNorm { .. }
        | Op::RmsNormBackward { .. }
        | Op::LayerNorm { .. }
        | Op::LayerNormBackward { .. }
        | Op::Softmax => NodeKind::Norm,
        Op::Pointwise { .. } | Op::Dropout { .. } | Op::Rope { .. } => NodeKind::Pointwise,
        Op::Embedding | Op::EmbeddingBackward { .. } => NodeKind::Embedding,
        Op::HeadLoss { .. } | Op::HeadLossWithGradient { .. } => NodeKind::Loss,
        Op::GradientNorm | Op::AdamW { .. } => NodeKind::Optimizer,
        Op::ColumnSum
        | Op::RowSum { .. }
        | Op::Sum
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Shift { .. } => NodeKind::Memory,
    }
}

/// The attributes of an operation, if it has any. The key of a dropout is left out: it is made of the path, and would
/// tell turns apart that do the same.
pub(super) fn detail(op: &Op) -> Option<String> {
    let text = match op {
        Op::Dropout { probability, .. } => format!("p={probability}"),
        _ => op.attributes(),
    };
    (!text.is_empty()).then_some(text)
}

/// A value of a type, without a place.
pub(super) fn value(node: usize, name: String, ty: &TensorType) -> Value {
    let axes = ty.shape.0.iter().map(|axis| match axis.name.is_empty() {
        true => axis.extent.to_string(),
        false => format!("{} {}", axis.name, axis.extent),
    });
    Value {
        node,
        name,
        shape: format!("[{}]", axes.collect::<Vec<_>>().join(", ")),
        dtype: match ty.dtype {
            colac_plan::DType::F32 => "f32",
            colac_plan::DType::Bf16 => "bf16",
            colac_plan::DType::I32 => "i32",
        },
        bytes: ty.bytes(),
        kept: false,
        segment: None,
        places: Vec::new(),
    }
}
