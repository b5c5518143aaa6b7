//! Bounds for the loss of the output projection.

use super::{ELEMENTARY, FLUSH, Old, SECOND_ORDER, UNIT, roundings};
use crate::reference::Value;

/// One valid position: its logits with their errors, and its log-sum-exp with its error.
struct Position {
    row: usize,
    label: usize,
    /// (logit, error).
    logits: Vec<(f64, f64)>,
    lse: f64,
    lse_error: f64,
}

/// A logit is off by `e = (n + 2)u · Σ|x||w|`. With `m` the largest logit and `E` the largest `e`, the log-sum-exp is off
/// by `E + Σ p(e + E + u(m - l) + exponential) + V u`, a logarithm, and roundings of `m` and of itself.
fn positions(x: &Value, w: &Value, labels: &Value) -> Vec<Position> {
    let width = x.extents[2];
    let vocab = w.extents[0];
    let valid = (0..labels.elements.len()).filter(|&row| labels.elements[row] != -100.0);
    valid
        .map(|row| {
            let logits: Vec<(f64, f64)> = (0..vocab)
                .map(|token| {
                    let products = (0..width)
                        .map(|c| x.elements[row * width + c] * w.elements[token * width + c]);
                    let (sum, size) =
                        products.fold((0.0, 0.0), |(s, a), p: f64| (s + p, a + p.abs()));
                    (sum, roundings(width + 2) * size)
                })
                .collect();
            let maximum = logits.iter().fold(f64::NEG_INFINITY, |m, l| m.max(l.0));
            let worst = logits.iter().fold(0.0f64, |m, l| m.max(l.1));
            let lse = maximum + libm::log(logits.iter().map(|l| libm::exp(l.0 - maximum)).sum());
            let spread: f64 = logits
                .iter()
                .map(|(l, e)| libm::exp(l - lse) * (e + worst + UNIT * (maximum - l) + ELEMENTARY))
                .sum();
            let lse_error = worst
                + spread
                + roundings(vocab)
                + ELEMENTARY * ((lse - maximum).abs() + 1.0)
                + roundings(2) * (maximum.abs() + lse.abs());
            Position { row, label: labels.elements[row] as usize, logits, lse, lse_error }
        })
        .collect()
}

/// A position's loss is off by the errors of its log-sum-exp and of its label's logit and by the rounding of their
/// difference; the sum is kept in f64 and rounded once.
pub(super) fn forward(o: &[Value], expected: &[Vec<f64>]) -> Vec<f64> {
    let (batch, seq) = (o[0].extents[0], o[0].extents[1]);
    let mut bounds: Vec<f64> = (0..batch).map(|b| UNIT * expected[0][b].abs()).collect();
    for position in positions(&o[0], &o[1], &o[2]) {
        let (logit, error) = position.logits[position.label];
        bounds[position.row / seq] +=
            position.lse_error + error + roundings(1) * (position.lse.abs() + logit.abs()) + FLUSH;
    }
    bounds.iter().map(|b| SECOND_ORDER * b).collect()
}

/// A probability is off by the relative `r =` errors of logit and log-sum-exp `+ u(|l| + |lse|) +` an exponential,
/// `dlogit = scale(p - onehot)` by `scale(p r + 2u(p + onehot))`; `dx` sums over the vocabulary, `dw` over positions.
pub(super) fn with_gradient(o: &[Value], old: &Old<'_>, expected: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let [x, w, labels, scale] = o else { panic!("four operands") };
    let (width, vocab, scale) = (x.extents[2], w.extents[0], scale.elements[0].abs());
    let rows = labels.elements.len();
    let mut dx = vec![0.0; x.elements.len()];
    let mut dw: Vec<f64> = (0..w.elements.len()).map(|i| roundings(rows + 4) * old.at(i)).collect();
    for position in positions(x, w, labels) {
        for (token, &(logit, error)) in position.logits.iter().enumerate() {
            let target = if token == position.label { 1.0 } else { 0.0 };
            let p = libm::exp(logit - position.lse);
            let r =
                error + position.lse_error + UNIT * (logit.abs() + position.lse.abs()) + ELEMENTARY;
            let dlogit = scale * (p - target).abs();
            let error = scale * (p * r + roundings(2) * (p + target));
            for c in 0..width {
                let (at_x, at_w) = (position.row * width + c, token * width + c);
                dx[at_x] += w.elements[at_w].abs() * (error + roundings(vocab + 4) * dlogit);
                dw[at_w] += x.elements[at_x].abs() * (error + roundings(rows + 4) * dlogit);
            }
        }
    }
    let finish = |bounds: Vec<f64>| bounds.iter().map(|b| SECOND_ORDER * b + FLUSH).collect();
    vec![forward(o, expected), finish(dx), finish(dw)]
}
