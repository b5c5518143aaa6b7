//! Backward operations against finite differences of their forward operations, on the reference interpreter in f64.
//!
//! The objective is `Σ c · y` over the forward operation's first result with fixed random `c`, which is then the
//! backward operation's `dy`. Central differences of fourth order with a step of 2⁻¹⁰ of the operand's size have a
//! truncation error near 1e-12, so derivatives must agree to a relative 1e-6: in every element of small operands, and
//! along random directions for all.

use colac_plan::pointwise::{Binary, Builder, InputForm, Program};
use colac_plan::{DType, Op, Shape, TensorType};

use super::samples::{self, Sample, draw};
use crate::reference::{Value, evaluate};

/// Largest relative difference allowed.
const TOLERANCE: f64 = 1e-6;
/// Operands with at most this many elements are checked element by element.
const SMALL: usize = 150;
/// Random directions tried for each operand.
const DIRECTIONS: usize = 3;

/// A forward operation with the gradients that its backward operations give.
struct Derivative {
    name: String,
    forward: Op,
    operands: Vec<Value>,
    /// Weights of the first result in the objective.
    weights: Vec<f64>,
    /// Operand and the gradient of the objective with respect to it.
    gradients: Vec<(usize, Vec<f64>)>,
}

impl Derivative {
    fn objective(&self, operands: &[Value]) -> f64 {
        let y = &evaluate(&self.forward, operands, &[])[0];
        y.iter().zip(&self.weights).map(|(y, c)| y * c).sum()
    }

    /// The derivative along `direction` of operand `operand` by a central difference of fourth order.
    fn slope(&self, operand: usize, direction: &[f64]) -> f64 {
        let largest = |values: &[f64]| values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let size = largest(&self.operands[operand].elements).max(1e-3);
        let step = size / 1024.0 / largest(direction);
        let at = |factor: f64| {
            let mut operands = self.operands.clone();
            for (element, d) in operands[operand].elements.iter_mut().zip(direction) {
                *element += factor * step * d;
            }
            self.objective(&operands)
        };
        (8.0 * (at(1.0) - at(-1.0)) - (at(2.0) - at(-2.0))) / (12.0 * step)
    }

    fn check(&self) {
        for (operand, gradient) in &self.gradients {
            let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
            let count = gradient.len();
            assert_eq!(count, self.operands[*operand].elements.len(), "{}", self.name);
            for trial in 0..DIRECTIONS {
                let direction = draw(&format!("{} {operand} {trial}", self.name), count, 1.0);
                let expected: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
                let length = direction.iter().map(|d| d * d).sum::<f64>().sqrt();
                let found = self.slope(*operand, &direction);
                // A direction may be nearly orthogonal to the gradient: relative to the gradient's length then.
                let scale = norm * length / (count as f64).sqrt();
                assert!(
                    (found - expected).abs() <= TOLERANCE * scale.max(1e-3),
                    "{}, operand {operand}: {expected} along a direction, but differences give {found}",
                    self.name
                );
            }
            if count <= SMALL {
                let differences: Vec<f64> = (0..count)
                    .map(|i| {
                        let mut direction = vec![0.0; count];
                        direction[i] = 1.0;
                        self.slope(*operand, &direction)
                    })
                    .collect();
                let error = differences
                    .iter()
                    .zip(gradient)
                    .map(|(d, g)| (d - g) * (d - g))
                    .sum::<f64>()
                    .sqrt();
                assert!(
                    error <= TOLERANCE * norm.max(1e-3),
                    "{}, operand {operand}: off by {error} of {norm}",
                    self.name
                );
            }
        }
    }
}

fn value(extents: &[usize], elements: Vec<f64>) -> Value {
    let extents: Vec<u64> = extents.iter().map(|&e| e as u64).collect();
    Value::new(&Shape::of(&extents), elements)
}

/// The derivatives that backward operations claim for a forward sample; nothing for operations that are not
/// differentiated by operations of their own.
fn derivative(sample: &Sample) -> Option<Derivative> {
    let operands = sample.values();
    let results = evaluate(&sample.op, &operands, &[]);
    let shape = &sample.results[0].shape;
    let weights = draw(&format!("{} weights", sample.name), shape.elements() as usize, 1.0);
    let dy = Value::new(shape, weights.clone());
    let one = |op: Op, operands: &[&Value]| {
        let operands: Vec<Value> = operands.iter().map(|&v| v.clone()).collect();
        evaluate(&op, &operands, &[])
    };
    let o = &operands;
    let gradients: Vec<(usize, Vec<f64>)> = match &sample.op {
        Op::Linear => vec![
            (0, one(Op::LinearBackwardInput, &[&dy, &o[1]]).remove(0)),
            (1, one(Op::LinearBackwardWeight, &[&dy, &o[0]]).remove(0)),
        ],
        Op::Embedding => {
            let rows = o[1].extents[0] as u64;
            vec![(1, one(Op::EmbeddingBackward { rows }, &[&o[0], &dy]).remove(0))]
        }
        // The compiler puts programs into norms when it has their derivatives.
        Op::RmsNorm { prologue: Some(_), .. } | Op::LayerNorm { prologue: Some(_), .. } => {
            return None;
        }
        Op::RmsNorm { gain, .. } => {
            let rstd = Value::new(&sample.results[1].shape, results[1].clone());
            let read: Vec<&Value> = [&dy].into_iter().chain(o).chain([&rstd]).collect();
            let op = Op::RmsNormBackward { gain: *gain, epilogue: None };
            one(op, &read).into_iter().enumerate().collect()
        }
        Op::LayerNorm { gain, bias, .. } => {
            let statistics =
                [1, 2].map(|i: usize| Value::new(&sample.results[i].shape, results[i].clone()));
            let operands = o.iter().take(1 + usize::from(*gain));
            let read: Vec<&Value> = [&dy].into_iter().chain(operands).chain(&statistics).collect();
            let op = Op::LayerNormBackward { gain: *gain, bias: *bias, epilogue: None };
            one(op, &read).into_iter().enumerate().collect()
        }
        // The compiler makes the derivatives of these of pointwise programs and sums.
        Op::RowSum { mean } => {
            let factor = if *mean { 1.0 / *o[0].extents.last()? as f64 } else { 1.0 };
            let spread = Op::Pointwise { program: Program::spread(factor) };
            vec![(0, one(spread, &[&o[0], &dy]).remove(0))]
        }
        Op::Softmax => {
            let y = Value::new(shape, results[0].clone());
            let products = Op::Pointwise { program: Program::product() };
            let products = Value::new(shape, one(products, &[&y, &dy]).remove(0));
            let sums = one(Op::RowSum { mean: false }, &[&products]).remove(0);
            let mut extents = y.extents.clone();
            *extents.last_mut()? = 1;
            let op = Op::Pointwise { program: Program::softmax_gradient() };
            vec![(0, one(op, &[&y, &dy, &value(&extents, sums)]).remove(0))]
        }
        // The same operation on the gradient.
        Op::Dropout { .. } => vec![(0, one(sample.op.clone(), &[&dy, &o[1]]).remove(0))],
        Op::Rope { inverse, interleaved } => {
            let back = Op::Rope { inverse: !inverse, interleaved: *interleaved };
            vec![(0, one(back, &[&dy, &o[1], &o[2]]).remove(0))]
        }
        Op::Slice { start, .. } => {
            let width = *o[0].extents.last()? as u64;
            vec![(0, one(Op::Concat { width, starts: vec![*start] }, &[&dy]).remove(0))]
        }
        Op::Concat { starts, .. } => (starts.iter().zip(o).enumerate())
            .map(|(i, (&start, part))| {
                let length = part.extents.last().copied().unwrap_or(1) as u64;
                (i, one(Op::Slice { start, length }, &[&dy]).remove(0))
            })
            .collect(),
        // The smallest number has no opposite; a shift beyond both ends is one past them.
        Op::Shift { by } => {
            let by = by.checked_neg().unwrap_or(i64::MAX);
            vec![(0, one(Op::Shift { by }, &[&dy]).remove(0))]
        }
        Op::Attention { scores } => {
            let out = Value::new(shape, results[0].clone());
            let lse = Value::new(&sample.results[1].shape, results[1].clone());
            let op = Op::AttentionBackward { scores: *scores, turned_back: None };
            one(op, &[&dy, &o[0], &o[1], &o[2], &out, &lse]).into_iter().enumerate().collect()
        }
        Op::HeadLoss { .. } => {
            // The operation differentiates the plain sum, times a scale.
            let scale = -1.25;
            let scaled = value(&[], vec![scale]);
            let op = samples::with_gradient(&sample.op);
            let mut given = vec![&o[0], &o[1], &o[2], &scaled];
            given.extend(o.get(3));
            let all = one(op, &given);
            assert_eq!(all[0], results[0], "{}: the loss beside its gradient", sample.name);
            let gradients = [0, 1, 3].into_iter().zip(all.into_iter().skip(1)).collect();
            return Some(Derivative {
                name: sample.name.clone(),
                forward: sample.op.clone(),
                weights: vec![scale; weights.len()],
                operands,
                gradients,
            });
        }
        // The gradient of a broadcast row: `x + row`.
        Op::ColumnSum => {
            let mut b = Builder::new();
            let (x, row) = (b.input(InputForm::Elements), b.input(InputForm::Row));
            let sum = b.binary(Binary::Add, x, row);
            let program = b.finish(&[(sum, DType::F32)]);
            let weights = draw(&sample.name, o[0].elements.len(), 1.0);
            let dy = Value { extents: o[0].extents.clone(), elements: weights.clone() };
            let width = *o[0].extents.last()?;
            return Some(Derivative {
                name: sample.name.clone(),
                forward: Op::Pointwise { program },
                gradients: vec![(1, one(Op::ColumnSum, &[&dy]).remove(0))],
                operands: vec![o[0].clone(), value(&[width], draw("row", width, 1.0))],
                weights,
            });
        }
        // The gradient of a number shared by all: `x + number`.
        Op::Sum => {
            let mut b = Builder::new();
            let (x, number) = (b.input(InputForm::Elements), b.input(InputForm::Scalar));
            let sum = b.binary(Binary::Add, x, number);
            let program = b.finish(&[(sum, DType::F32)]);
            let weights = draw(&sample.name, o[0].elements.len(), 1.0);
            let dy = Value { extents: o[0].extents.clone(), elements: weights.clone() };
            return Some(Derivative {
                name: sample.name.clone(),
                forward: Op::Pointwise { program },
                gradients: vec![(1, one(Op::Sum, &[&dy]).remove(0))],
                operands: vec![o[0].clone(), value(&[], vec![0.6])],
                weights,
            });
        }
        // Checked from their forward operations.
        Op::LinearBackwardInput
        | Op::LinearBackwardWeight
        | Op::EmbeddingBackward { .. }
        | Op::RmsNormBackward { .. }
        | Op::LayerNormBackward { .. }
        | Op::AttentionBackward { .. }
        | Op::HeadLossWithGradient { .. } => return None,
        // The compiler differentiates programs by rules of their own and checks them there.
        Op::Pointwise { .. } => return None,
        // The optimizer has no derivative.
        Op::GradientNorm | Op::AdamW { .. } => return None,
    };
    Some(Derivative {
        name: sample.name.clone(),
        forward: sample.op.clone(),
        operands,
        weights,
        gradients,
    })
}

#[test]
fn backward_operations_are_derivatives() {
    let mut checked = Vec::new();
    for sample in samples::all() {
        // Two hundred thousand products and more say nothing new and take long.
        let types: Vec<&TensorType> = sample.operands.iter().map(|o| &o.ty).collect();
        let results: Vec<&TensorType> = sample.results.iter().collect();
        if sample.op.cost(&types, &results).products > 3_000_000 {
            continue;
        }
        if let Op::GradientNorm | Op::AdamW { .. } = sample.op {
            continue;
        }
        if let Some(derivative) = derivative(&sample) {
            derivative.check();
            checked.push(sample.op.name());
        }
    }
    checked.dedup();
    assert_eq!(
        checked,
        [
            "linear",
            "embedding",
            "rms_norm",
            "layer_norm",
            "dropout",
            "row_sum",
            "softmax",
            "rope",
            "attention",
            "column_sum",
            "head_loss",
            "slice",
            "concat",
            "shift",
            "sum"
        ],
        "operations whose derivatives were checked"
    );
}
