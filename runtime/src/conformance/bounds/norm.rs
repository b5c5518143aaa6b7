//! Bounds on the norms and their derivatives.

use super::{ELEMENTARY, FLUSH, Old, SECOND_ORDER, UNIT, roundings};
use crate::reference::Value;

/// `mean(x²)` is a sum of positive terms: relative error `n + 2` roundings, with `epsilon` one more; the root halves it,
/// root and quotient add two. `y = x · rstd · w` adds two products.
pub(super) fn rms_norm(x: &Value, expected: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let width = x.extents.last().copied().unwrap_or(1);
    let rstd = (roundings(width + 3) / 2.0 + ELEMENTARY) * SECOND_ORDER;
    let relative =
        |factor: f64, values: &[f64]| values.iter().map(|v| factor * v.abs() + FLUSH).collect();
    vec![relative(rstd + roundings(3), &expected[0]), relative(rstd + roundings(1), &expected[1])]
}

/// With `M = Σ|g x|/n`: the mean is off by `(n + 3)u·M`, `dx = rstd(g - x·rstd²·mean)` by that times `|x| rstd³` and by
/// seven roundings of `rstd(|g| + |x| rstd² M)`; `dw` is a sum over rows of products of three.
pub(super) fn rms_norm_backward(o: &[Value], gain: bool, old: &Old<'_>) -> Vec<Vec<f64>> {
    let (dy, x, rstd) = (&o[0], &o[1], &o[2 + usize::from(gain)]);
    let w = |column: usize| if gain { o[2].elements[column] } else { 1.0 };
    let width = x.extents.last().copied().unwrap_or(1);
    let rows = x.elements.len() / width;
    let (mut dx, mut dw) = (Vec::new(), vec![0.0; width]);
    for row in 0..rows {
        let at = |column: usize| row * width + column;
        let r = rstd.elements[row];
        let g = |column: usize| (dy.elements[at(column)] * w(column)).abs();
        let mean = (0..width).map(|c| g(c) * x.elements[at(c)].abs()).sum::<f64>() / width as f64;
        for (column, dw) in dw.iter_mut().enumerate() {
            let x = x.elements[at(column)].abs();
            dx.push(
                SECOND_ORDER * roundings(width + 10) * r * (g(column) + x * r * r * mean) + FLUSH,
            );
            *dw += dy.elements[at(column)].abs() * x * r;
        }
    }
    let dw = dw.iter().enumerate();
    let dw = dw
        .map(|(i, m)| SECOND_ORDER * roundings(rows + 5) * (m + if gain { old.at(i) } else { 0.0 }))
        .map(|bound| bound + FLUSH)
        .collect();
    [dx].into_iter().chain(gain.then_some(dw)).collect()
}

/// The mean of `n` terms is off by `δ = n·u·Σ|x|/n`, a difference `c = x - mean` by `e = δ + u(|c| + δ)`. The variance
/// is a sum of squares of such: off by `2·Σ|c|e/n + Σe²/n + (n + 3)u·var`. `rstd = 1/sqrt(var + ε)` is off by half of
/// that relative to `var + ε` where it is small against it, and by two roundings. `y` multiplies `c`, `rstd` and `w`,
/// and adds `b`.
pub(super) fn layer_norm(
    x: &Value,
    w: Option<&Value>,
    b: Option<&Value>,
    epsilon: f64,
) -> Vec<Vec<f64>> {
    let width = x.extents.last().copied().unwrap_or(1);
    let n = width as f64;
    let (mut y, mut means, mut rstds) = (Vec::new(), Vec::new(), Vec::new());
    for row in x.elements.chunks(width) {
        let mean = row.iter().sum::<f64>() / n;
        let delta = roundings(width) * row.iter().map(|x| x.abs()).sum::<f64>() / n;
        let difference = |x: &f64| {
            let c = (x - mean).abs();
            (c, delta + UNIT * (c + delta))
        };
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
        let off: f64 = row.iter().map(difference).map(|(c, e)| 2.0 * c * e + e * e).sum();
        let relative = (off / n + roundings(width + 3) * variance) / (variance + epsilon) / 2.0;
        let rstd = 1.0 / (variance + epsilon).sqrt();
        let rstd_relative = relative + roundings(2);
        for (column, x) in row.iter().enumerate() {
            let (c, e) = difference(x);
            let w = w.map_or(1.0, |w| w.elements[column].abs());
            let product = c * rstd * w;
            let bias = b.map_or(0.0, |b| b.elements[column].abs());
            let bound = e * rstd * w + (rstd_relative + roundings(2)) * product;
            y.push(SECOND_ORDER * (bound + UNIT * (product + bias)) + FLUSH);
        }
        means.push(SECOND_ORDER * delta + FLUSH);
        rstds.push(SECOND_ORDER * rstd_relative * rstd + FLUSH);
    }
    vec![y, means, rstds]
}

/// The mean is given, so a difference `c = x - mean` has one rounding, and so have `z = c · rstd` and `g = dy · w` one
/// more each. With `G = Σ|g|/n` and `M = Σ|g z|/n`, the means are off by `(n + 2)u·G` and `(n + 5)u·M`, and
/// `dx = rstd(g - mean(g) - z·mean(g z))` by that and by eight roundings of `rstd(|g| + G + |z|M)`. `dw` and `db` are
/// sums over rows.
pub(super) fn layer_norm_backward(
    o: &[Value],
    gain: bool,
    bias: bool,
    old_gain: &Old<'_>,
    old_bias: &Old<'_>,
) -> Vec<Vec<f64>> {
    let first = 2 + usize::from(gain);
    let (dy, x, mean, rstd) = (&o[0], &o[1], &o[first], &o[first + 1]);
    let width = x.extents.last().copied().unwrap_or(1);
    let rows = x.elements.len() / width;
    let (mut dx, mut dw, mut db) = (Vec::new(), vec![0.0; width], vec![0.0; width]);
    for row in 0..rows {
        let r = rstd.elements[row];
        let at = |column: usize| row * width + column;
        let z = |column: usize| ((x.elements[at(column)] - mean.elements[row]) * r).abs();
        let g = |column: usize| {
            let w = if gain { o[2].elements[column].abs() } else { 1.0 };
            dy.elements[at(column)].abs() * w
        };
        let mean_g = (0..width).map(g).sum::<f64>() / width as f64;
        let mean_gz = (0..width).map(|c| g(c) * z(c)).sum::<f64>() / width as f64;
        for column in 0..width {
            let size = g(column) + mean_g + z(column) * mean_gz;
            dx.push(SECOND_ORDER * roundings(width + 13) * r * size + FLUSH);
            dw[column] += dy.elements[at(column)].abs() * z(column);
            db[column] += dy.elements[at(column)].abs();
        }
    }
    let summed = |there: bool, sums: Vec<f64>, old: &Old<'_>| -> Option<Vec<f64>> {
        there.then(|| {
            let each = sums.iter().enumerate();
            each.map(|(i, m)| SECOND_ORDER * roundings(rows + 6) * (m + old.at(i)) + FLUSH)
                .collect()
        })
    };
    let (dw, db) = (summed(gain, dw, old_gain), summed(bias, db, old_bias));
    [dx].into_iter().chain(dw).chain(db).collect()
}
