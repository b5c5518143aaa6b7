//! Cross entropy of the output projection, and its gradient.

use super::value::{Value, add_scaled, dot};

/// The label of a position, or nothing where it is ignored.
fn label(labels: &Value, position: usize) -> Option<usize> {
    let label = labels.elements[position];
    (label != -100.0).then_some(label as usize)
}

fn logits(x: &Value, w: &Value, position: usize) -> Vec<f64> {
    (0..w.rows()).map(|token| dot(x.row(position), w.row(token))).collect()
}

fn log_sum_exp(logits: &[f64]) -> f64 {
    let maximum = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    maximum + libm::log(logits.iter().map(|logit| libm::exp(logit - maximum)).sum())
}

/// For each row the sum over its valid positions of `logsumexp(x wᵀ) - (x wᵀ)[label]`.
pub(super) fn forward(x: &Value, w: &Value, labels: &Value) -> Vec<f64> {
    let (batch, seq) = (x.extents[0], x.extents[1]);
    let mut loss = vec![0.0; batch];
    for position in 0..batch * seq {
        if let Some(label) = label(labels, position) {
            let logits = logits(x, w, position);
            loss[position / seq] += log_sum_exp(&logits) - logits[label];
        }
    }
    loss
}

/// dx and dw of `scale · Σ loss`: with `dlogits = scale · (softmax(logits) - onehot(label))`, 0 where ignored,
/// `dx = dlogits w` and `dw = dlogitsᵀ x`.
pub(super) fn gradient(x: &Value, w: &Value, labels: &Value, scale: f64) -> [Vec<f64>; 2] {
    let width = x.width();
    let (mut dx, mut dw) = (vec![0.0; x.elements.len()], vec![0.0; w.elements.len()]);
    for position in 0..x.rows() {
        let Some(label) = label(labels, position) else { continue };
        let logits = logits(x, w, position);
        let log_sum = log_sum_exp(&logits);
        for (token, logit) in logits.iter().enumerate() {
            let target = if token == label { 1.0 } else { 0.0 };
            let dlogit = scale * (libm::exp(logit - log_sum) - target);
            add_scaled(&mut dx[position * width..(position + 1) * width], dlogit, w.row(token));
            add_scaled(&mut dw[token * width..(token + 1) * width], dlogit, x.row(position));
        }
    }
    [dx, dw]
}
