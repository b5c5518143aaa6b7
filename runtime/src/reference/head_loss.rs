//! Cross entropy of the output projection, and its gradient.

use colac_plan::op::LogitTransform;
use colac_plan::pointwise::Program;

use super::pointwise::registers;
use super::value::{Value, add_scaled, dot};

/// The label of a position, or nothing where it is ignored.
fn label(labels: &Value, position: usize) -> Option<usize> {
    let label = labels.elements[position];
    (label != -100.0).then_some(label as usize)
}

/// `x wᵀ + b` of one position.
fn products(x: &Value, w: &Value, bias: Option<&Value>, position: usize) -> Vec<f64> {
    let product = |token| dot(x.row(position), w.row(token));
    (0..w.rows())
        .map(|token| product(token) + bias.map_or(0.0, |bias| bias.elements[token]))
        .collect()
}

/// The only output of a program.
fn output(program: &Program, inputs: &[f64]) -> f64 {
    registers(program, inputs, false)[program.outputs[0].register as usize]
}

fn transformed(products: &[f64], function: Option<&Program>) -> Vec<f64> {
    products.iter().map(|&z| function.map_or(z, |function| output(function, &[z]))).collect()
}

fn log_sum_exp(logits: &[f64]) -> f64 {
    let maximum = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    maximum + libm::log(logits.iter().map(|logit| libm::exp(logit - maximum)).sum())
}

/// For each row the sum over its valid positions of `logsumexp(z) - z[label]` with `z = f(x wᵀ + b)`.
pub(super) fn forward(
    x: &Value,
    w: &Value,
    labels: &Value,
    bias: Option<&Value>,
    function: Option<&Program>,
) -> Vec<f64> {
    let (batch, seq) = (x.extents[0], x.extents[1]);
    let mut loss = vec![0.0; batch];
    for position in 0..batch * seq {
        if let Some(label) = label(labels, position) {
            let logits = transformed(&products(x, w, bias, position), function);
            loss[position / seq] += log_sum_exp(&logits) - logits[label];
        }
    }
    loss
}

/// dx, dw and, with a bias, db of `scale · Σ loss`: with `dz = scale · (softmax(z) - onehot(label))`, 0 where ignored, and
/// `dp = dz · f'(p)` at `p = x wᵀ + b`, `dx = dp w`, `dw = dpᵀ x`, `db = Σ dp`. Not a number where the loss is infinite.
pub(super) fn gradient(
    x: &Value,
    w: &Value,
    labels: &Value,
    scale: f64,
    bias: Option<&Value>,
    transform: Option<&LogitTransform>,
) -> Vec<Vec<f64>> {
    let width = x.width();
    let (mut dx, mut dw) = (vec![0.0; x.elements.len()], vec![0.0; w.elements.len()]);
    let mut db = vec![0.0; w.rows()];
    for position in 0..x.rows() {
        let Some(label) = label(labels, position) else { continue };
        let products = products(x, w, bias, position);
        let logits = transformed(&products, transform.map(|t| &t.function));
        let log_sum = log_sum_exp(&logits);
        for (token, logit) in logits.iter().enumerate() {
            let target = match token == label {
                // The loss is infinite then, and its gradient not a number.
                true if !logit.is_finite() => f64::NAN,
                true => 1.0,
                false => 0.0,
            };
            let mut d = scale * (libm::exp(logit - log_sum) - target);
            if let Some(transform) = transform {
                d = output(&transform.derivative, &[products[token], d]);
            }
            add_scaled(&mut dx[position * width..(position + 1) * width], d, w.row(token));
            add_scaled(&mut dw[token * width..(token + 1) * width], d, x.row(position));
            db[token] += d;
        }
    }
    let mut gradients = vec![dx, dw];
    if bias.is_some() {
        gradients.push(db);
    }
    gradients
}
