//! Bounds for the loss of the output projection.

use colac_plan::pointwise::Program;

use super::pointwise::{Approximate, output};
use super::{ELEMENTARY, FLUSH, Old, SECOND_ORDER, UNIT, roundings};
use crate::reference::Value;

/// What stands between the product and the loss.
pub(super) struct Head<'a> {
    /// Position of the bias among the operands.
    pub(super) bias: Option<usize>,
    pub(super) function: Option<&'a Program>,
}

/// One valid position: its products and logits with their errors, and its log-sum-exp with its error.
struct Position {
    row: usize,
    label: usize,
    products: Vec<Approximate>,
    logits: Vec<Approximate>,
    lse: f64,
    lse_error: f64,
}

/// A product is off by `e = (n + 2)u · Σ|x||w|`, with a bias by one rounding more of more; a function of it carries that
/// along. With `m` the largest logit and `E` the largest error, the log-sum-exp is off by
/// `E + Σ p(e + E + u(m - l) + exponential) + V u`, a logarithm, and roundings of `m` and of itself.
fn positions(o: &[Value], head: &Head<'_>) -> Vec<Position> {
    let (x, w, labels) = (&o[0], &o[1], &o[2]);
    let width = x.extents[2];
    let vocab = w.extents[0];
    let valid = (0..labels.elements.len()).filter(|&row| labels.elements[row] != -100.0);
    valid
        .map(|row| {
            let product = |token: usize| {
                let products =
                    (0..width).map(|c| x.elements[row * width + c] * w.elements[token * width + c]);
                let (sum, size) = products.fold((0.0, 0.0), |(s, a), p: f64| (s + p, a + p.abs()));
                match head.bias.map(|bias| o[bias].elements[token]) {
                    Some(bias) if bias.is_infinite() => Approximate { value: bias, error: 0.0 },
                    Some(bias) => Approximate {
                        value: sum + bias,
                        error: roundings(width + 3) * (size + bias.abs()),
                    },
                    None => Approximate { value: sum, error: roundings(width + 2) * size },
                }
            };
            let products: Vec<Approximate> = (0..vocab).map(product).collect();
            let logits: Vec<Approximate> = products
                .iter()
                .map(|&product| head.function.map_or(product, |f| output(f, &[product])))
                .collect();
            let maximum = logits.iter().fold(f64::NEG_INFINITY, |m, l| m.max(l.value));
            let worst = logits.iter().fold(0.0f64, |m, l| m.max(l.error));
            let sum: f64 = logits.iter().map(|l| libm::exp(l.value - maximum)).sum();
            let lse = maximum + libm::log(sum);
            // What is infinitely far below has no probability at all.
            let spread: f64 = logits
                .iter()
                .filter(|l| l.value > f64::NEG_INFINITY)
                .map(|l| {
                    let off = l.error + worst + UNIT * (maximum - l.value) + ELEMENTARY;
                    libm::exp(l.value - lse) * off
                })
                .sum();
            let lse_error = worst
                + spread
                + roundings(vocab)
                + ELEMENTARY * ((lse - maximum).abs() + 1.0)
                + roundings(2) * (maximum.abs() + lse.abs());
            let label = labels.elements[row] as usize;
            Position { row, label, products, logits, lse, lse_error }
        })
        .collect()
}

/// A position's loss is off by the errors of its log-sum-exp and of its label's logit and by the rounding of their
/// difference; the sum is kept in f64 and rounded once.
pub(super) fn forward(o: &[Value], head: &Head<'_>, expected: &[Vec<f64>]) -> Vec<f64> {
    let (batch, seq) = (o[0].extents[0], o[0].extents[1]);
    let mut bounds: Vec<f64> = (0..batch).map(|b| UNIT * expected[0][b].abs()).collect();
    for position in positions(o, head) {
        let logit = position.logits[position.label];
        bounds[position.row / seq] += position.lse_error
            + logit.error
            + roundings(1) * (position.lse.abs() + logit.value.abs())
            + FLUSH;
    }
    bounds.iter().map(|b| SECOND_ORDER * b).collect()
}

/// A probability is off by the relative `r =` errors of logit and log-sum-exp `+ u(|l| + |lse|) +` an exponential,
/// `dlogit = scale(p - onehot)` by `scale(p r + 2u(p + onehot))`; the derivative of a function of the product carries
/// that along; `dx` sums over the vocabulary, `dw` and `db` over positions.
pub(super) fn with_gradient(
    o: &[Value],
    head: &Head<'_>,
    derivative: Option<&Program>,
    old: [&Old<'_>; 2],
    expected: &[Vec<f64>],
    inner: f64,
) -> Vec<Vec<f64>> {
    let (x, w, labels, scale) = (&o[0], &o[1], &o[2], o[3].elements[0].abs());
    let (width, vocab) = (x.extents[2], w.extents[0]);
    let rows = labels.elements.len();
    let begin = |count: usize, old: &Old<'_>| -> Vec<f64> {
        (0..count).map(|i| roundings(rows + 4) * old.at(i)).collect()
    };
    let mut dx = vec![0.0; x.elements.len()];
    let (mut dw, mut db) = (begin(w.elements.len(), old[0]), begin(vocab, old[1]));
    for position in positions(o, head) {
        for (token, &logit) in position.logits.iter().enumerate() {
            let target = if token == position.label { 1.0 } else { 0.0 };
            let p = libm::exp(logit.value - position.lse);
            let r = match logit.value == f64::NEG_INFINITY {
                true => 0.0,
                false => {
                    logit.error
                        + position.lse_error
                        + UNIT * (logit.value.abs() + position.lse.abs())
                        + ELEMENTARY
                }
            };
            let dlogit = Approximate {
                value: scale * (p - target),
                error: scale * (p * r + roundings(2) * (p + target)),
            };
            let d = match derivative {
                Some(derivative) => output(derivative, &[position.products[token], dlogit]),
                None => dlogit,
            };
            let (error, d) = (d.error, d.value.abs());
            for c in 0..width {
                let (at_x, at_w) = (position.row * width + c, token * width + c);
                dx[at_x] += w.elements[at_w].abs() * (error + (roundings(vocab + 4) + inner) * d);
                dw[at_w] += x.elements[at_x].abs() * (error + (roundings(rows + 4) + inner) * d);
            }
            db[token] += error + (roundings(rows + 4) + inner) * d;
        }
    }
    let finish = |bounds: Vec<f64>| bounds.iter().map(|b| SECOND_ORDER * b + FLUSH).collect();
    let mut bounds = vec![forward(o, head, expected), finish(dx), finish(dw)];
    if head.bias.is_some() {
        bounds.push(finish(db));
    }
    bounds
}
