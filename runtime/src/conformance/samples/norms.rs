//! Samples of norms, and of sums and softmax of rows.

use colac_plan::{Op, Real, TensorType};

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

/// Rows of heads and none of a gain, beside what every norm must take.
pub(super) fn rms_norm() -> Vec<Sample> {
    let sample = |leading: &[u64], width: u64, magnitude: f64, gain: bool| {
        let mut operands = vec![real("x", &with(leading, width), magnitude)];
        operands.extend(gain.then(|| real("w", &[width], 2.0)));
        let results = vec![TensorType::f32(&with(leading, width)), TensorType::f32(leading)];
        let op = Op::RmsNorm { epsilon: Real::new(1e-6), gain };
        let name = if gain { "" } else { ", no gain" };
        let name = format!("{leading:?}, width {width}, up to {magnitude}{name}");
        Sample::new(name, op, operands, results)
    };
    let mut samples: Vec<Sample> = NORMS.iter().map(|&(l, w, m)| sample(l, w, m, true)).collect();
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
        Sample::new(forward.name, Op::RmsNormBackward { gain }, operands, types)
    };
    rms_norm().into_iter().map(sample).collect()
}

/// Leading axes, width, magnitude of x, what is added to it: the mean must be taken away without losing the rest.
const LAYER_NORMS: [(&[u64], u64, f64, f64); 9] = [
    (&[1], 1, 1.0, 0.0),
    (&[], 17, 1.0, 0.0),
    (&[1, 1], 129, 1.0, 0.5),
    (&[2, 65], 17, 1.0, -2.0),
    (&[2, 131], 3, 1.0, 0.0),
    (&[300], 129, 1.0, 0.0),
    (&[2, 5, 3], 8, 1.0, 1.0),
    (&[5], 65, 1e4, 0.0),
    (&[7], 65, 1.0, 6.0),
];

pub(super) fn layer_norm() -> Vec<Sample> {
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
            let op = Op::LayerNorm { epsilon, gain, bias };
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
        Sample::new(forward.name, Op::LayerNormBackward { gain, bias }, operands, types)
    };
    layer_norm().into_iter().map(sample).collect()
}

pub(super) fn row_sum() -> Vec<Sample> {
    let sample = |&(leading, width, magnitude): &(&[u64], u64, f64), mean: bool| {
        let operands = vec![real("x", &with(leading, width), magnitude)];
        let results = vec![TensorType::f32(&with(leading, 1))];
        let name = format!("{leading:?}, width {width}, up to {magnitude}, mean {mean}");
        Sample::new(name, Op::RowSum { mean }, operands, results)
    };
    NORMS.iter().flat_map(|case| [false, true].map(|mean| sample(case, mean))).collect()
}

pub(super) fn softmax() -> Vec<Sample> {
    let sample = |&(leading, width, magnitude): &(&[u64], u64, f64)| {
        let magnitude = magnitude.min(20.0);
        let operands = vec![real("x", &with(leading, width), magnitude)];
        let results = vec![TensorType::f32(&with(leading, width))];
        let name = format!("{leading:?}, width {width}, up to {magnitude}");
        Sample::new(name, Op::Softmax, operands, results)
    };
    NORMS.iter().map(sample).collect()
}
