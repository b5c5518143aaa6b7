//! The conformance suite over the kernels' own sources.

use std::sync::Arc;

use colac_plan::pointwise::InputForm;
use colac_plan::{DType, Op, Plan};

use super::{Fault, Products, Shim};
use crate::conformance::{self, Arithmetic};
use crate::cuda::collect::Collector;
use crate::cuda::executor::DeviceExecutor;
use crate::cuda::lower::{LARGE, depends_on_multiprocessors};
use crate::cuda::source::Family;
use crate::executor::Executor;
use crate::skip::skip;

fn make(
    products: Products,
    seed: u32,
    multiprocessors: u64,
) -> impl Fn(Arc<Plan>) -> Box<dyn Executor> {
    move |plan| {
        let shim = Shim::new(products, seed).like(multiprocessors);
        let executor = DeviceExecutor::new(plan, shim);
        Box::new(executor.expect("a plan of one operation"))
    }
}

/// Builds the kernels of all cases at once.
fn build(wanted: &dyn Fn(&Op) -> bool, multiprocessors: u64) {
    let mut collector = Collector::new(multiprocessors);
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
        run(wanted, LARGE);
        run(&|op| wanted(op) && depends_on_multiprocessors(op), 1);
    }
}

/// The suite with the kernels that a device of so many multiprocessors gets.
fn run(wanted: &dyn Fn(&Op) -> bool, multiprocessors: u64) {
    build(wanted, multiprocessors);
    let make = make(Products::Loops, 1, multiprocessors);
    conformance::check(&make, Arithmetic::Bf16Factors, wanted);
}

#[test]
fn products_conform() {
    let wanted =
        |op: &Op| matches!(op, Op::Linear | Op::LinearBackwardInput | Op::LinearBackwardWeight);
    conform("products_conform", &wanted);
    if super::missing().is_none() {
        conformance::check(&make(Products::Fallback, 2, LARGE), Arithmetic::Bf16Factors, &wanted);
    }
}

#[test]
fn pointwise_programs_conform() {
    conform("pointwise_programs_conform", &|op| matches!(op, Op::Pointwise { .. }));
}

/// Counters of 64 bits are for more groups of neighbours than a GPU of today holds, so no shipped spec has them: here the
/// kernels get them for small samples.
#[test]
fn kernels_with_wide_counters_conform() {
    if !can_build("tests", "kernels_with_wide_counters_conform") {
        return;
    }
    let forms = |op: &Op| match op {
        Op::Pointwise { program } => program.inputs.contains(&InputForm::Column),
        _ => false,
    };
    let conform = |family, wanted: &dyn Fn(&Op) -> bool| {
        let wide = Fault { family, from: "#define INDEX u32", to: "#define INDEX u64" };
        let make = |plan: Arc<Plan>| -> Box<dyn Executor> {
            let shim = Shim::new(Products::Loops, 1).with(wide);
            Box::new(DeviceExecutor::new(plan, shim).expect("a plan of one operation"))
        };
        conformance::check(&make, Arithmetic::Bf16Factors, wanted);
    };
    conform(Family::Pointwise, &forms);
    conform(Family::Rope, &|op| matches!(op, Op::Rope { .. }));
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
        let make = make(Products::Loops, 1, LARGE);
        conformance::check_turned_back(&make, Arithmetic::Bf16Factors, &[DType::F32, DType::Bf16]);
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
