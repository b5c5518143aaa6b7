//! The conformance suite over the kernels' own sources.

use std::sync::Arc;

use colac_plan::{Op, Plan};

use super::{Products, Shim};
use crate::conformance::{self, Arithmetic};
use crate::cuda::collect::Collector;
use crate::cuda::executor::DeviceExecutor;
use crate::executor::Executor;

fn make(products: Products, seed: u32) -> impl Fn(Arc<Plan>) -> Box<dyn Executor> {
    move |plan| {
        let executor = DeviceExecutor::new(plan, Shim::new(products, seed));
        Box::new(executor.expect("a plan of one operation"))
    }
}

/// Builds the kernels of all cases at once.
fn build(wanted: &dyn Fn(&Op) -> bool) {
    let mut collector = Collector::default();
    for plan in conformance::plans(wanted) {
        DeviceExecutor::new(plan, &mut collector).expect("a plan of one operation");
    }
    let kernels: Vec<_> = collector.kernels.into_iter().collect();
    super::build::all(&kernels).expect("kernels are C++");
}

fn conforms(wanted: &dyn Fn(&Op) -> bool) {
    build(wanted);
    conformance::check(&make(Products::Loops, 1), Arithmetic::Bf16Factors, wanted);
}

#[test]
fn products_conform() {
    let wanted =
        |op: &Op| matches!(op, Op::Linear | Op::LinearBackwardInput | Op::LinearBackwardWeight);
    conforms(&wanted);
    conformance::check(&make(Products::Fallback, 2), Arithmetic::F32, &wanted);
}

#[test]
fn pointwise_programs_conform() {
    conforms(&|op| matches!(op, Op::Pointwise { .. }));
}

#[test]
fn norms_conform() {
    conforms(&|op| matches!(op, Op::RmsNorm { .. } | Op::LayerNorm { .. }));
    conforms(&|op| matches!(op, Op::RmsNormBackward { .. } | Op::LayerNormBackward { .. }));
}

#[test]
fn rows_and_sums_conform() {
    conforms(&|op| matches!(op, Op::RowSum { .. } | Op::Softmax | Op::ColumnSum | Op::Sum));
}

#[test]
fn attention_conforms() {
    conforms(&|op| matches!(op, Op::Attention { .. } | Op::AttentionBackward { .. }));
}

#[test]
fn losses_conform() {
    conforms(&|op| matches!(op, Op::HeadLoss { .. } | Op::HeadLossWithGradient { .. }));
}

#[test]
fn updates_conform() {
    conforms(&|op| matches!(op, Op::GradientNorm | Op::AdamW { .. }));
}

#[test]
fn embeddings_conform() {
    conforms(&|op| matches!(op, Op::Embedding | Op::EmbeddingBackward { .. }));
}

#[test]
fn copies_conform() {
    conforms(&|op| {
        matches!(
            op,
            Op::Slice { .. }
                | Op::Concat { .. }
                | Op::Shift { .. }
                | Op::Rope { .. }
                | Op::Dropout { .. }
        )
    });
}
