//! The conformance suite over the kernels' own sources.

use std::sync::Arc;

use colac_plan::{DType, Op, Plan};

use super::{Products, Shim};
use crate::conformance::{self, Arithmetic};
use crate::cuda::collect::Collector;
use crate::cuda::executor::DeviceExecutor;
use crate::executor::Executor;
use crate::skip::skip;

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
    super::build::all(&kernels, None).expect("kernels are C++");
}

/// Whether kernels can be built here; if not, says that a test was skipped.
pub(super) fn can_build(module: &str, test: &str) -> bool {
    let missing = super::missing();
    if let Some(missing) = missing {
        skip(&format!("cuda::shim::{module}::{test}"), missing);
    }
    missing.is_none()
}

fn conform(test: &str, wanted: &dyn Fn(&Op) -> bool) {
    if can_build("tests", test) {
        build(wanted);
        conformance::check(&make(Products::Loops, 1), Arithmetic::Bf16Factors, wanted);
    }
}

#[test]
fn products_conform() {
    let wanted =
        |op: &Op| matches!(op, Op::Linear | Op::LinearBackwardInput | Op::LinearBackwardWeight);
    conform("products_conform", &wanted);
    if super::missing().is_none() {
        conformance::check(&make(Products::Fallback, 2), Arithmetic::F32, &wanted);
    }
}

#[test]
fn pointwise_programs_conform() {
    conform("pointwise_programs_conform", &|op| matches!(op, Op::Pointwise { .. }));
}

#[test]
fn norms_conform() {
    conform("norms_conform", &|op| matches!(op, Op::RmsNorm { .. } | Op::LayerNorm { .. }));
    conform("norms_conform", &|op| {
        matches!(op, Op::RmsNormBackward { .. } | Op::LayerNormBackward { .. })
    });
}

#[test]
fn rows_and_sums_conform() {
    conform("rows_and_sums_conform", &|op| {
        matches!(op, Op::RowSum { .. } | Op::Softmax | Op::ColumnSum | Op::Sum)
    });
}

#[test]
fn attention_conforms() {
    conform("attention_conforms", &|op| {
        matches!(op, Op::Attention { .. } | Op::AttentionBackward { .. })
    });
}

#[test]
fn attention_turns_gradients_back_as_rotations_do() {
    if can_build("tests", "attention_turns_gradients_back_as_rotations_do") {
        conformance::check_turned_back(&make(Products::Loops, 1), &[DType::F32, DType::Bf16]);
    }
}

#[test]
fn losses_conform() {
    conform("losses_conform", &|op| {
        matches!(op, Op::HeadLoss { .. } | Op::HeadLossWithGradient { .. })
    });
}

#[test]
fn updates_conform() {
    conform("updates_conform", &|op| matches!(op, Op::GradientNorm | Op::AdamW { .. }));
}

#[test]
fn embeddings_conform() {
    conform("embeddings_conform", &|op| matches!(op, Op::Embedding | Op::EmbeddingBackward { .. }));
}

#[test]
fn copies_conform() {
    conform("copies_conform", &|op| {
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
