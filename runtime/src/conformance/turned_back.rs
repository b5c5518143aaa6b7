//! Gradients that the derivative of attention turns back have the bits that it and a rotation behind it give, in every
//! precision and layout: that is what the compiler relies on when it joins the two.

use std::sync::Arc;

use colac_plan::op::TurnedBack;
use colac_plan::{DType, Op, TensorType};

use super::executors::{Arithmetic, Make, all_precisions};
use super::layout::{Layout, Mode, OneOperation, Padding};
use super::samples::{Operand, Sample};

/// The same without turning anything back.
fn plain(sample: &Sample) -> Option<(Sample, TurnedBack)> {
    let Op::AttentionBackward { scores, turned_back: Some(turned) } = sample.op else {
        return None;
    };
    let op = Op::AttentionBackward { scores, turned_back: None };
    let operands = sample.operands[..6].to_vec();
    Some((Sample { op, operands, ..sample.clone() }, turned))
}

/// What an executor gives for an operation, laid out so.
fn run(make: Make<'_>, padding: Padding, sample: &Sample, layout: Layout) -> Vec<Vec<f64>> {
    let one = OneOperation::new(sample, layout, Mode::Overwrite, None);
    let old: Vec<Vec<f64>> =
        sample.results.iter().map(|ty| vec![0.0; ty.shape.elements() as usize]).collect();
    let found = one.run(make(Arc::clone(&one.plan)).as_mut(), sample, &old, padding);
    found.unwrap_or_else(|beside| panic!("{beside}"))
}

/// Asserts it of an executor, for gradients of some formats.
pub(crate) fn check_turned_back(make: Make<'_>, arithmetic: Arithmetic, formats: &[DType]) {
    let mut compared = 0;
    for sample in all_precisions() {
        let Some((plain, turned)) = plain(&sample) else { continue };
        if !formats.contains(&sample.results[0].dtype) {
            continue;
        }
        for layout in [Layout::Packed, Layout::Slices] {
            let mut expected = run(make, arithmetic.padding(), &plain, layout);
            let results = turned.results().into_iter().enumerate();
            for (result, _) in results.filter(|(_, turned)| *turned) {
                let ty: &TensorType = &sample.results[result];
                let gradient = Operand { ty: ty.clone(), values: expected[result].clone() };
                let operands = [&[gradient], &sample.operands[6..]].concat();
                let (op, results) = (turned.rope(), vec![ty.clone()]);
                let rope = Sample { op, operands, results, ..plain.clone() };
                expected[result] = run(make, arithmetic.padding(), &rope, layout).remove(0);
            }
            let found = run(make, arithmetic.padding(), &sample, layout);
            let bits = |values: &[Vec<f64>]| -> Vec<u64> {
                values.concat().into_iter().map(f64::to_bits).collect()
            };
            assert!(bits(&found) == bits(&expected), "{}, {layout:?}: other bits", sample.name);
            compared += 1;
        }
    }
    assert!(compared >= 24 * formats.len(), "{compared} samples turn something back");
}

#[cfg(test)]
mod tests {
    use colac_plan::Plan;

    use super::*;
    use crate::cpu::{CpuExecutor, CpuOptions};
    use crate::executor::Executor;
    use crate::reference::ReferenceExecutor;

    #[test]
    fn the_cpu_keeps_bits() {
        let options = CpuOptions { threads: 2, ..CpuOptions::default() };
        let make = |plan: Arc<Plan>| -> Box<dyn Executor> {
            Box::new(CpuExecutor::new(plan, options).expect("a plan of one operation"))
        };
        check_turned_back(&make, Arithmetic::F32, &[DType::F32, DType::Bf16]);
    }

    /// Its numbers are wider than f32, in which they leave it.
    #[test]
    fn the_rounding_reference_keeps_bits_of_bf16() {
        let make =
            |plan: Arc<Plan>| -> Box<dyn Executor> { Box::new(ReferenceExecutor::rounding(plan)) };
        check_turned_back(&make, Arithmetic::F32, &[DType::Bf16]);
    }
}
