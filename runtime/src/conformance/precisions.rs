//! The samples as plans of other precisions store them.
//!
//! Owns which operands and results of an operation are bf16 in `bf16` and `bf16-pure` plans, and what that adds to a
//! bound. Operands are rounded first, so they are exact bf16 numbers, and arithmetic is f32 whatever the storage: the bound
//! of f32 holds for each result before it is stored. Storing it in bf16 rounds once more, by [`BF16_UNIT`] of what is
//! rounded. Must not know how an executor computes.

use colac_plan::pointwise::InputForm;
use colac_plan::{DType, Op, TensorType};

use super::bounds;
use super::samples::{Operand, Sample};

/// Relative error of one rounding to bf16, which has eight significant bits.
pub(crate) const BF16_UNIT: f64 = 1.0 / 256.0;

/// How parameters' gradients, and with them the optimizer's state, are stored beside bf16 operands.
const GRADIENTS: [(&str, DType); 2] = [("bf16", DType::F32), ("bf16-pure", DType::Bf16)];

/// The nearest number in a format, ties to even; infinite where f32 rounding overflows.
pub(crate) fn rounded(dtype: DType, value: f64) -> f64 {
    match dtype {
        DType::Bf16 if value.is_finite() => {
            let bits = (value as f32).to_bits();
            // What is dropped decides, and on a tie the last bit that stays.
            let up = (bits & 0xffff) + ((bits >> 16) & 1) > 0x8000;
            f64::from(f32::from_bits(((bits >> 16) + u32::from(up)) << 16))
        }
        DType::Bf16 | DType::F32 | DType::I32 => value,
    }
}

/// Whether an operand is f32 in every plan: a statistic, a table, a scalar of the host.
fn stays_f32(op: &Op, operand: usize) -> bool {
    match op {
        _ if op.program_input(operand) == Some(InputForm::Column) => true,
        Op::RmsNormBackward { gain, .. } => operand == 2 + usize::from(*gain),
        Op::LayerNormBackward { gain, .. } => {
            operand >= 2 + usize::from(*gain) && operand < 4 + usize::from(*gain)
        }
        Op::AttentionBackward { .. } => operand >= 5,
        Op::Rope { .. } => operand >= 1,
        Op::HeadLossWithGradient { .. } => operand == 3,
        Op::AdamW { master, .. } => operand >= 1 || *master,
        _ => false,
    }
}

/// A sample as plans in bf16 store it: with gradients of parameters in f32, and all in bf16.
pub(crate) fn of(sample: &Sample) -> Vec<Sample> {
    let forms = GRADIENTS.map(|(precision, gradients)| {
        let mut op = sample.op.clone();
        match &mut op {
            Op::AdamW { master, .. } => *master = gradients == DType::F32,
            Op::Pointwise { program }
            | Op::RmsNorm { prologue: Some(program), .. }
            | Op::LayerNorm { prologue: Some(program), .. }
            | Op::RmsNormBackward { epilogue: Some(program), .. }
            | Op::LayerNormBackward { epilogue: Some(program), .. } => {
                program.outputs.iter_mut().for_each(|output| output.dtype = DType::Bf16);
            }
            _ => {}
        }
        stored(sample, op, precision, gradients)
    });
    let mut forms = Vec::from(forms);
    if !(0..sample.results.len()).any(|result| sample.op.accumulates(result))
        && !matches!(sample.op, Op::AdamW { .. })
    {
        // Without gradients both are the same.
        forms.truncate(1);
    }
    forms
}

fn stored(sample: &Sample, op: Op, precision: &str, gradients: DType) -> Sample {
    let operand = |(index, operand): (usize, &Operand)| {
        let mut operand = operand.clone();
        if operand.ty.dtype.is_float() && !stays_f32(&op, index) {
            operand.ty.dtype = DType::Bf16;
        }
        let dtype = operand.ty.dtype;
        operand.values.iter_mut().for_each(|value| *value = rounded(dtype, *value));
        operand
    };
    let operands: Vec<Operand> = sample.operands.iter().enumerate().map(operand).collect();
    let types: Vec<&TensorType> = operands.iter().map(|operand| &operand.ty).collect();
    let mut results = op.infer(&types).expect("an operation takes every precision");
    for (index, ty) in results.iter_mut().enumerate().filter(|(index, _)| op.accumulates(*index)) {
        let inferred = ty.clone();
        ty.dtype = gradients;
        assert!(op.gives(index, &inferred, ty));
    }
    let mut current = sample.current.clone();
    if let Some(current) = &mut current {
        if let Op::AdamW { master: true, .. } = op {
            current.push(current[0].clone());
        }
        for (values, ty) in current.iter_mut().zip(&results) {
            values.iter_mut().for_each(|value| *value = rounded(ty.dtype, *value));
        }
    }
    let name = format!("{} in {precision}", sample.name);
    Sample { name, op, operands, results, current }
}

/// Bounds on every element of every result of a sample of any precision, as [`bounds::of`]; factors that the operation
/// makes itself may be off by the relative `inner`.
pub(super) fn bounds_of(
    sample: &Sample,
    old: Option<&[Vec<f64>]>,
    expected: &[Vec<f64>],
    inner: f64,
) -> Vec<Vec<f64>> {
    let mut bounds = bounds::of(sample, old, expected, inner);
    // The bounds of programs round each output as the program says.
    if matches!(sample.op, Op::Pointwise { .. }) {
        return bounds;
    }
    for ((bounds, expected), ty) in bounds.iter_mut().zip(expected).zip(&sample.results) {
        if ty.dtype != DType::Bf16 {
            continue;
        }
        for (bound, expected) in bounds.iter_mut().zip(expected) {
            // What is neither computed nor off stays what it is.
            if *bound != 0.0 || rounded(ty.dtype, *expected) != *expected {
                *bound += BF16_UNIT * (expected.abs() + *bound) + f64::from(f32::MIN_POSITIVE);
            }
        }
    }
    bounds
}

#[test]
fn rounding_is_to_the_nearest_and_on_ties_to_even() {
    let round = |x: f64| rounded(DType::Bf16, x);
    // The reference rounds from f64 by arithmetic instead of bits.
    for i in 0..20_000 {
        let x = f64::from(f32::from_bits(0x3f12_3456_u32.wrapping_add(i * 40_503)));
        assert_eq!(crate::reference::nearest_bf16(x), round(x), "{x}");
    }
    assert_eq!(round(1.0 + 1.0 / 256.0), 1.0);
    assert_eq!(round(1.0 + 3.0 / 256.0), 1.015_625);
    assert_eq!(round(-1.004), -1.007_812_5);
    assert_eq!(round(f64::from(f32::MAX)), f64::INFINITY);
    assert!(round(f64::NAN).is_nan());
}
