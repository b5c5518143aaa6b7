//! How far an executor that computes in f32 may be from the exact result, derived operation by operation.
//!
//! The unit is `u = 2⁻²⁴`, the relative error of one rounding. Rules used throughout:
//!
//! - A sum of `k` products, in any order, fused or not, is off by at most `(k + 1) · u · Σ|a||b|`; adding it to an old
//!   value counts as one more term. `Σ|a||b|` is the same operation on absolute values.
//! - An elementary function (exponential, logarithm …) is off by [`ELEMENTARY`], four units in the last place, which the
//!   tests of pointwise primitives check.
//! - Terms of second order in `u` are covered by [`SECOND_ORDER`].
//! - Numbers below f32's smallest normal number may be flushed to zero: [`FLUSH`].
//!
//! Attributes are f64 in the plan and rounded once by an executor. Everything here is elementwise: a bound for each
//! element of each result.

mod attention;
mod head_loss;
mod norm;
pub(super) mod pointwise;

use colac_plan::Op;

use super::samples::Sample;
use crate::reference::{Value, evaluate};

/// Relative error of one rounding to f32.
const UNIT: f64 = 1.0 / (1u64 << 24) as f64;
/// Relative error of an elementary function.
const ELEMENTARY: f64 = 8.0 * UNIT;
/// Factor that covers products of errors.
const SECOND_ORDER: f64 = 1.05;
/// What flushing to zero loses.
const FLUSH: f64 = f32::MIN_POSITIVE as f64;

/// Relative error of a sum of so many terms, or of so many roundings one after the other.
fn roundings(count: usize) -> f64 {
    count as f64 * UNIT
}

fn absolute(value: &Value) -> Value {
    Value {
        extents: value.extents.clone(),
        elements: value.elements.iter().map(|v| v.abs()).collect(),
    }
}

/// The operation on absolute values: `Σ|a||b|` of every element.
fn magnitudes(op: &Op, operands: &[Value]) -> Vec<f64> {
    evaluate(op, &operands.iter().map(absolute).collect::<Vec<_>>(), &[]).remove(0)
}

/// The sums of absolute values of both products for what is turned by tables, there or back.
fn turned_magnitudes(operands: &[Value], interleaved: bool) -> Vec<f64> {
    let there = magnitudes(&Op::Rope { inverse: false, interleaved }, operands);
    let back = magnitudes(&Op::Rope { inverse: true, interleaved }, operands);
    there.iter().zip(&back).map(|(a, b)| a.abs().max(b.abs())).collect()
}

/// What accumulating into `old` adds to a magnitude: nothing where the result overwrites.
struct Old<'a>(Option<&'a [f64]>);

impl Old<'_> {
    fn at(&self, index: usize) -> f64 {
        self.0.map_or(0.0, |old| old[index].abs())
    }
}

/// Bounds on every element of every result. `old` is what accumulating results are added to, where they are; `expected`
/// the exact results; `inner` the relative error of a factor that the operation makes itself and rounds before it is
/// multiplied: probabilities and gradients of scores in attention, gradients of logits in the loss.
pub(super) fn of(
    sample: &Sample,
    old: Option<&[Vec<f64>]>,
    expected: &[Vec<f64>],
    inner: f64,
) -> Vec<Vec<f64>> {
    let o = sample.values();
    let op = &sample.op;
    let old = |result: usize| Old(old.and_then(|old| old.get(result)).map(|old| &old[..]));
    let summed = |terms: usize, magnitudes: Vec<f64>, old: &Old<'_>| {
        let each = magnitudes.iter().enumerate();
        each.map(|(i, m)| SECOND_ORDER * (roundings(terms + 2) * (m + old.at(i)) + FLUSH))
            .collect::<Vec<_>>()
    };
    let width = |i: usize| o[i].extents.last().copied().unwrap_or(1);
    let rows = |i: usize| o[i].elements.len() / width(i);
    match op {
        // Sums over the input width, the output width, the rows.
        Op::Linear => vec![summed(width(0), magnitudes(op, &o), &Old(None))],
        Op::LinearBackwardInput => vec![summed(width(0), magnitudes(op, &o), &Old(None))],
        Op::LinearBackwardWeight => vec![summed(rows(0), magnitudes(op, &o), &old(0))],
        Op::ColumnSum => vec![summed(rows(0), magnitudes(op, &o), &old(0))],
        // Copies.
        Op::Embedding => vec![vec![0.0; expected[0].len()]],
        // At most all rows meet in one.
        Op::EmbeddingBackward { .. } => vec![summed(rows(1), magnitudes(op, &o), &old(0))],
        Op::RmsNorm { epsilon, gain, prologue } => {
            let (x, rest) = norm::before(prologue.as_ref(), &o, expected.last());
            norm::rms_norm(&x, gain.then(|| &rest[0]), epsilon.get(), expected)
        }
        Op::RmsNormBackward { gain, epilogue } => {
            let bounds = norm::rms_norm_backward(&o, *gain, &old(1));
            let plain = Op::RmsNormBackward { gain: *gain, epilogue: None };
            norm::after(epilogue.as_ref(), &plain, &o, 3 + usize::from(*gain), bounds)
        }
        Op::LayerNorm { epsilon, gain, bias, prologue } => {
            let (x, rest) = norm::before(prologue.as_ref(), &o, expected.last());
            let w = gain.then(|| &rest[0]);
            let b = bias.then(|| &rest[usize::from(*gain)]);
            norm::layer_norm(&x, w, b, epsilon.get())
        }
        Op::LayerNormBackward { gain, bias, epilogue } => {
            let (old_gain, old_bias) = (old(1), old(1 + usize::from(*gain)));
            let bounds = norm::layer_norm_backward(&o, *gain, *bias, &old_gain, &old_bias);
            let plain = Op::LayerNormBackward { gain: *gain, bias: *bias, epilogue: None };
            norm::after(epilogue.as_ref(), &plain, &o, 4 + usize::from(*gain), bounds)
        }
        // A sum, and for the mean a quotient.
        Op::RowSum { .. } => vec![summed(width(0), magnitudes(op, &o), &Old(None))],
        Op::Softmax => vec![softmax(&o[0], &expected[0])],
        // A product with the rounded reciprocal of what is left, and zeros are exact.
        Op::Dropout { .. } => {
            vec![expected[0].iter().map(|y| SECOND_ORDER * roundings(2) * y.abs()).collect()]
        }
        // Two products and their sum; one of the two directions adds their absolute values.
        Op::Rope { interleaved, .. } => {
            vec![summed(2, turned_magnitudes(&o, *interleaved), &Old(None))]
        }
        Op::Attention { scores } => attention::forward(&o, scores, expected, inner),
        Op::AttentionBackward { scores, turned_back } => {
            let bounds = attention::backward(&o[..6], scores, inner);
            match turned_back {
                None => bounds,
                Some(turned) => {
                    let format = sample.results[0].dtype;
                    attention::turned_back(&o, scores, *turned, format, bounds)
                }
            }
        }
        Op::Pointwise { program } => pointwise::of(program, &o),
        Op::HeadLoss { bias, transform, .. } => {
            let head = head_loss::Head { bias: bias.then_some(3), function: transform.as_ref() };
            vec![head_loss::forward(&o, &head, expected)]
        }
        Op::HeadLossWithGradient { bias, transform, .. } => {
            let function = transform.as_ref().map(|transform| &transform.function);
            let head = head_loss::Head { bias: bias.then_some(4), function };
            let derivative = transform.as_ref().map(|transform| &transform.derivative);
            let old = [&old(2), &old(3)];
            head_loss::with_gradient(&o, &head, derivative, old, expected, inner)
        }
        // Copies.
        Op::Slice { .. } | Op::Concat { .. } | Op::Shift { .. } => {
            vec![vec![0.0; expected[0].len()]]
        }
        // Accumulated in f64: the rounding of the result is all but nothing.
        Op::Sum => {
            let size = magnitudes(op, &o)[0] + old(0).at(0);
            vec![vec![SECOND_ORDER * UNIT * expected[0][0].abs() + 1e-12 * size + FLUSH]]
        }
        // Accumulated in f64: the rounding of the result is all. The flag is exact.
        Op::GradientNorm => {
            vec![vec![1.01 * UNIT * expected[0][0] + f64::from(f32::from_bits(1))], vec![0.0]]
        }
        Op::AdamW { .. } => adamw(sample, &o, expected),
    }
}

/// A difference from the maximum is off by a rounding of itself, which is the relative error of its exponential, beside
/// that of the function; the sum of positive terms has the largest of these and its roundings, its reciprocal and the
/// product add two.
fn softmax(x: &Value, expected: &[f64]) -> Vec<f64> {
    let width = x.extents.last().copied().unwrap_or(1);
    let mut bounds = Vec::new();
    for (row, expected) in x.elements.chunks(width).zip(expected.chunks(width)) {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let range = row.iter().fold(0.0f64, |range, x| range.max(largest - x));
        let relative = 2.0 * (UNIT * range + ELEMENTARY) + roundings(width + 3);
        bounds.extend(expected.iter().map(|y| SECOND_ORDER * relative * y + FLUSH));
    }
    bounds
}

/// `g` carries three roundings (the factor, its quotient, the product), a moment three more of its magnitude
/// `β|m| + (1 - β)|g|`; the second moment is a sum of positive terms, so its relative error is bounded. The direction
/// `(m/c₁)/(sqrt(v/c₂) + ε)` adds some ten roundings. Where `finite` is 0, or outside the ranges, nothing may change.
fn adamw(sample: &Sample, o: &[Value], expected: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let Op::AdamW { beta1, beta2, epsilon, clip_norm, ranges, master } = &sample.op else {
        panic!("AdamW")
    };
    let old = sample.current.as_ref().expect("AdamW updates in place");
    let (norm, finite, rate) = (o[1].elements[0], o[2].elements[0], o[3].elements[0]);
    let mut bounds: Vec<Vec<f64>> = expected.iter().map(|values| vec![0.0; values.len()]).collect();
    if finite == 0.0 {
        return bounds;
    }
    let clip = if clip_norm.get() == 0.0 { 1.0 } else { (clip_norm.get() / norm).min(1.0) };
    let step = expected[3][0];
    let (correction1, correction2) = (1.0 - beta1.get().powf(step), 1.0 - beta2.get().powf(step));
    for range in ranges {
        let rate = rate * range.learning_rate_factor.get();
        for i in range.start as usize..(range.start + range.length) as usize {
            let g = clip * o[0].elements[i].abs();
            let m = beta1.get() * old[1][i].abs() + (1.0 - beta1.get()) * g;
            let v = expected[2][i];
            let denominator = (v / correction2).sqrt() + epsilon.get();
            bounds[1][i] = roundings(8) * m + FLUSH;
            bounds[2][i] = roundings(12) * v + FLUSH;
            let direction = roundings(8 + 6 + 10) * m / correction1 / denominator;
            let read = if *master { 4 } else { 0 };
            let before = old[read][i].abs();
            bounds[0][i] =
                rate * direction + roundings(4) * (before + expected[0][i].abs()) + FLUSH;
        }
    }
    // Copies of masters are these rounded, which the storage adds.
    if *master {
        bounds[4] = bounds[0].clone();
    }
    bounds
}
