//! Samples of norms, and of sums and softmax of rows.

use colac_plan::pointwise::{Binary, Builder, InputForm, Program};
use colac_plan::{DType, Op, Real, TensorType};

use crate::reference::evaluate;

use super::{Sample, given, real, with};

/// Leading axes, width, magnitude of x.
const NORMS: [(&[u64], u64, f64); 8] = [
    (&[1], 1, 1.0),
    (&[], 17, 1.0),
    (&[1, 1], 129, 1.0),
    (&[2, 65], 17, 1.0),
    (&[2, 131], 3, 1.0),
    (&[300], 129, 1.0),
    (&[5], 65, 1e4),
    (&[5], 65, 1e-4),
];

/// Rows of whole groups of eight, for several groups a lane, for several warps, and too long to be kept in registers.
const WIDE: [(&[u64], u64, f64); 3] = [(&[5], 264, 1.0), (&[3], 1104, 1.0), (&[2], 8200, 1.0)];

/// Widths of models, which a GPU shares out among threads in ways of their own.
const OF_MODELS: [u64; 4] = [768, 1024, 2048, 4096];

/// `a + (b + c)` of two values and a row: a bias and a residual addition, as they stand before a norm.
fn residual() -> Program {
    let mut builder = Builder::new();
    let (a, b) = (builder.input(InputForm::Elements), builder.input(InputForm::Elements));
    let c = builder.input(InputForm::Row);
    let inner = builder.binary(Binary::Add, b, c);
    let sum = builder.binary(Binary::Add, a, inner);
    builder.finish(&[(sum, DType::F32)])
}

/// `b + a · c` of the gradient `a`, the residual's and a number for each row.
fn residual_gradient() -> Program {
    let mut builder = Builder::new();
    let (a, b) = (builder.input(InputForm::Elements), builder.input(InputForm::Elements));
    let c = builder.input(InputForm::Column);
    let product = builder.binary(Binary::Multiply, a, c);
    let sum = builder.binary(Binary::Add, b, product);
    builder.finish(&[(sum, DType::F32)])
}

/// The sample with [`residual`] before the norm: its `x` becomes three operands, and their sum a result.
fn with_prologue(mut sample: Sample) -> Sample {
    let x = sample.operands.remove(0);
    let extents = x.ty.shape.extents();
    let magnitude = x.values.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let width = x.ty.shape.width();
    let inputs = [x, real("other", &extents, magnitude), real("row", &[width], magnitude)];
    sample.operands.splice(0..0, inputs);
    sample.results.push(TensorType::f32(&extents));
    match &mut sample.op {
        Op::RmsNorm { prologue, .. } | Op::LayerNorm { prologue, .. } => {
            *prologue = Some(residual());
        }
        _ => panic!("a norm"),
    }
    sample.name.push_str(", of a sum");
    sample
}

/// The sample with [`residual_gradient`] after the derivative.
fn with_epilogue(mut sample: Sample) -> Sample {
    let extents = sample.operands[0].ty.shape.extents();
    let leading = &extents[..extents.len() - 1];
    sample.operands.push(real("residual", &extents, 1.0));
    sample.operands.push(real("column", leading, 1.0));
    match &mut sample.op {
        Op::RmsNormBackward { epilogue, .. } | Op::LayerNormBackward { epilogue, .. } => {
            *epilogue = Some(residual_gradient());
        }
        _ => panic!("the derivative of a norm"),
    }
    sample.name.push_str(", and a sum");
    sample
}

pub(super) fn rms_norm() -> Vec<Sample> {
    let mut samples = plain_rms_norm();
    samples.extend(plain_rms_norm().into_iter().map(with_prologue));
    samples
}

/// Rows of heads and none of a gain, beside what every norm must take.
fn plain_rms_norm() -> Vec<Sample> {
    let sample = |leading: &[u64], width: u64, magnitude: f64, gain: bool| {
        let mut operands = vec![real("x", &with(leading, width), magnitude)];
        operands.extend(gain.then(|| real("w", &[width], 2.0)));
        let results = vec![TensorType::f32(&with(leading, width)), TensorType::f32(leading)];
        let op = Op::RmsNorm { epsilon: Real::new(1e-6), gain, prologue: None };
        let name = if gain { "" } else { ", no gain" };
        let name = format!("{leading:?}, width {width}, up to {magnitude}{name}");
        Sample::new(name, op, operands, results)
    };
    let mut samples: Vec<Sample> = NORMS.iter().map(|&(l, w, m)| sample(l, w, m, true)).collect();
    samples.extend(WIDE.iter().map(|&(l, w, m)| sample(l, w, m, true)));
    // A number of rows that no block has whole.
    samples.extend(OF_MODELS.map(|width| sample(&[13], width, 1.0, true)));
    // More rows than partial sums have, of whole groups: of one a lane up to four.
    samples.extend([16, 264, 768, 1024].map(|width| sample(&[260], width, 1.0, true)));
    samples.extend(NORMS.iter().skip(1).step_by(2).map(|&(l, w, m)| sample(l, w, m, false)));
    samples.extend([true, false].map(|gain| sample(&[2, 5, 3], 8, 1.0, gain)));
    samples
}

pub(super) fn rms_norm_backward() -> Vec<Sample> {
    let sample = |forward: Sample| {
        let Op::RmsNorm { gain, .. } = forward.op else { panic!("a sample of the norm") };
        let rstd = evaluate(&forward.op, &forward.values(), &[])[1].clone();
        let rstd = given(&forward.results[1].shape.extents(), rstd);
        let types: Vec<TensorType> = forward.operands.iter().map(|o| o.ty.clone()).collect();
        let dy = real("dy", &types[0].shape.extents(), 1.0);
        let operands = [dy].into_iter().chain(forward.operands).chain([rstd]).collect();
        let op = Op::RmsNormBackward { gain, epilogue: None };
        Sample::new(forward.name, op, operands, types)
    };
    let mut samples: Vec<Sample> = plain_rms_norm().into_iter().map(sample).collect();
    samples.extend(samples.clone().into_iter().map(with_epilogue));
    samples
}

/// Leading axes, width, magnitude of x, what is added to it: the mean must be taken away without losing the rest.
const LAYER_NORMS: [(&[u64], u64, f64, f64); 15] = [
    (&[1], 1, 1.0, 0.0),
    (&[], 17, 1.0, 0.0),
    (&[1, 1], 129, 1.0, 0.5),
    (&[2, 65], 17, 1.0, -2.0),
    (&[2, 131], 3, 1.0, 0.0),
    (&[300], 129, 1.0, 0.0),
    (&[2, 5, 3], 8, 1.0, 1.0),
    (&[5], 65, 1e4, 0.0),
    (&[7], 65, 1.0, 6.0),
    // As [`WIDE`].
    (&[5], 264, 1.0, 0.5),
    (&[3], 1104, 1.0, 1.0),
    (&[2], 8200, 1.0, 0.5),
    // More rows than partial sums have, of whole groups.
    (&[300], 16, 1.0, 1.0),
    // As [`OF_MODELS`].
    (&[13], 768, 1.0, 0.5),
    (&[260], 768, 1.0, 0.5),
];

pub(super) fn layer_norm() -> Vec<Sample> {
    let mut samples = plain_layer_norm();
    samples.extend(plain_layer_norm().into_iter().map(with_prologue));
    samples
}

fn plain_layer_norm() -> Vec<Sample> {
    let mut samples = Vec::new();
    for (index, &(leading, width, magnitude, offset)) in LAYER_NORMS.iter().enumerate() {
        for (gain, bias) in [(true, true), (true, false), (false, true), (false, false)] {
            // A row of one element is its own mean: only a bias is left of it.
            if (index % 2 == 0 && !(gain && bias)) || (width == 1 && !bias) {
                continue;
            }
            let mut x = real("x", &with(leading, width), magnitude);
            x.values.iter_mut().for_each(|x| *x = f64::from((*x + offset) as f32));
            let mut operands = vec![x];
            operands.extend(gain.then(|| real("w", &[width], 2.0)));
            operands.extend(bias.then(|| real("b", &[width], 1.0)));
            let statistic = TensorType::f32(leading);
            let results =
                vec![TensorType::f32(&with(leading, width)), statistic.clone(), statistic];
            // Rows of few elements may be nearly constant, where the norm is too curved for differences.
            let epsilon = Real::new(if width < 8 { 0.1 } else { 1e-5 });
            let op = Op::LayerNorm { epsilon, gain, bias, prologue: None };
            let vectors = format!("gain {gain}, bias {bias}");
            let name = format!("{leading:?}, width {width}, {offset} ± {magnitude}, {vectors}");
            samples.push(Sample::new(name, op, operands, results));
        }
    }
    samples
}

pub(super) fn layer_norm_backward() -> Vec<Sample> {
    let sample = |forward: Sample| {
        let Op::LayerNorm { gain, bias, .. } = forward.op else { panic!("a sample of the norm") };
        let results = evaluate(&forward.op, &forward.values(), &[]);
        let leading = forward.results[1].shape.extents();
        let statistics = [1, 2].map(|result: usize| given(&leading, results[result].clone()));
        let types: Vec<TensorType> = forward.operands.iter().map(|o| o.ty.clone()).collect();
        let dy = real("dy", &types[0].shape.extents(), 1.0);
        let read = forward.operands.into_iter().take(1 + usize::from(gain));
        let operands = [dy].into_iter().chain(read).chain(statistics).collect();
        let op = Op::LayerNormBackward { gain, bias, epilogue: None };
        Sample::new(forward.name, op, operands, types)
    };
    let mut samples: Vec<Sample> = plain_layer_norm().into_iter().map(sample).collect();
    samples.extend(samples.clone().into_iter().map(with_epilogue));
    samples
}

pub(super) fn row_sum() -> Vec<Sample> {
    let sample = |&(leading, width, magnitude): &(&[u64], u64, f64), mean: bool| {
        let mut operands = vec![real("x", &with(leading, width), magnitude)];
        if width > 500 {
            // Else the sum would be next to nothing beside what may be lost of it.
            let values = &mut operands[0].values;
            values.iter_mut().for_each(|x| *x = f64::from((*x + 2.0) as f32));
        }
        let results = vec![TensorType::f32(&with(leading, 1))];
        let name = format!("{leading:?}, width {width}, up to {magnitude}, mean {mean}");
        Sample::new(name, Op::RowSum { mean }, operands, results)
    };
    let cases = NORMS.iter().chain(&WIDE);
    cases.flat_map(|case| [false, true].map(|mean| sample(case, mean))).collect()
}

pub(super) fn softmax() -> Vec<Sample> {
    let sample = |&(leading, width, magnitude): &(&[u64], u64, f64)| {
        let magnitude = magnitude.min(20.0);
        let operands = vec![real("x", &with(leading, width), magnitude)];
        let results = vec![TensorType::f32(&with(leading, width))];
        let name = format!("{leading:?}, width {width}, up to {magnitude}");
        Sample::new(name, Op::Softmax, operands, results)
    };
    NORMS.iter().chain(&WIDE).map(sample).collect()
}
