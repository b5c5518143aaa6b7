//! Bounds on the norms and their derivatives.

use colac_plan::Op;
use colac_plan::pointwise::{InputForm, Program};

use super::pointwise::{self, Approximate};
use super::{ELEMENTARY, FLUSH, Old, SECOND_ORDER, UNIT, roundings};
use crate::reference::{Value, evaluate};

/// What a norm is taken of, and how far f32 may be from it where a prologue makes it.
pub(super) struct Rows {
    value: Value,
    /// For each element; all 0 for an operand.
    errors: Vec<f64>,
    made: bool,
}

/// The rows of a norm and the operands behind them. `made` are the exact rows where a prologue makes them.
pub(super) fn before<'a>(
    prologue: Option<&Program>,
    o: &'a [Value],
    made: Option<&Vec<f64>>,
) -> (Rows, &'a [Value]) {
    let Some(program) = prologue else {
        let errors = vec![0.0; o[0].elements.len()];
        return (Rows { value: o[0].clone(), errors, made: false }, &o[1..]);
    };
    let (inputs, rest) = o.split_at(program.inputs.len());
    let whole = program.inputs.iter().position(|form| *form == InputForm::Elements);
    let extents = inputs[whole.expect("a checked program has one")].extents.clone();
    let elements = made.expect("what is made is a result").clone();
    let errors = pointwise::of(program, inputs).remove(0);
    (Rows { value: Value { extents, elements }, errors, made: true }, rest)
}

/// Bounds of a norm's derivative, whose first result an epilogue makes of `dx`: the exact gradient and its bound go
/// through the program together, rounded to its storage, which is that of the result. `first` is the operand that its second input reads.
pub(super) fn after(
    epilogue: Option<&Program>,
    plain: &Op,
    o: &[Value],
    first: usize,
    mut bounds: Vec<Vec<f64>>,
) -> Vec<Vec<f64>> {
    let Some(program) = epilogue else { return bounds };
    let dx = evaluate(plain, &o[..first], &[]).remove(0);
    let width = o[1].extents.last().copied().unwrap_or(1);
    let made = dx.iter().zip(&bounds[0]).enumerate().map(|(element, (&value, &error))| {
        let dx = Approximate { value, error };
        let mut inputs = vec![pointwise::rounded_to(program.outputs[0].dtype, dx)];
        for (form, operand) in program.inputs[1..].iter().zip(&o[first..]) {
            let value = match form {
                InputForm::Elements => operand.elements[element],
                InputForm::Row => operand.elements[element % operand.elements.len()],
                InputForm::Column => operand.elements[element / width % operand.elements.len()],
                InputForm::Scalar => operand.elements[0],
            };
            inputs.push(Approximate { value, error: 0.0 });
        }
        pointwise::output(program, &inputs).error
    });
    bounds[0] = made.collect();
    bounds
}

/// `mean(x²)` is a sum of positive terms: relative error `n + 2` roundings, with `epsilon` one more; the root halves it,
/// root and quotient add two. `y = x · rstd · w` adds two products. Where `x` is off by `e`, the sum is by `Σ(2|x|e + e²)`.
pub(super) fn rms_norm(
    x: &Rows,
    w: Option<&Value>,
    epsilon: f64,
    expected: &[Vec<f64>],
) -> Vec<Vec<f64>> {
    let width = x.value.extents.last().copied().unwrap_or(1);
    let (mut y, mut rstds) = (Vec::new(), Vec::new());
    for (row, (xs, errors)) in
        x.value.elements.chunks(width).zip(x.errors.chunks(width)).enumerate()
    {
        let mean = xs.iter().map(|x| x * x).sum::<f64>() / width as f64;
        let off = xs.iter().zip(errors).map(|(x, e)| 2.0 * x.abs() * e + e * e).sum::<f64>();
        let given = off / width as f64 / (mean + epsilon).max(f64::MIN_POSITIVE) / 2.0;
        let relative = (roundings(width + 3) / 2.0 + ELEMENTARY + given) * SECOND_ORDER;
        let rstd = expected[1][row];
        for (column, e) in errors.iter().enumerate() {
            let w = w.map_or(1.0, |w| w.elements[column].abs());
            let size = expected[0][row * width + column].abs();
            y.push((relative + roundings(3)) * size + SECOND_ORDER * e * rstd * w + FLUSH);
        }
        rstds.push((relative + roundings(1)) * rstd + FLUSH);
    }
    [y, rstds].into_iter().chain(x.made.then(|| x.errors.clone())).collect()
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
/// and adds `b`. Where `x` is off itself, a difference is by that and by the mean of it.
pub(super) fn layer_norm(
    x: &Rows,
    w: Option<&Value>,
    b: Option<&Value>,
    epsilon: f64,
) -> Vec<Vec<f64>> {
    let width = x.value.extents.last().copied().unwrap_or(1);
    let n = width as f64;
    let (mut y, mut means, mut rstds) = (Vec::new(), Vec::new(), Vec::new());
    for (row, errors) in x.value.elements.chunks(width).zip(x.errors.chunks(width)) {
        let mean = row.iter().sum::<f64>() / n;
        let delta = roundings(width) * row.iter().map(|x| x.abs()).sum::<f64>() / n
            + errors.iter().sum::<f64>() / n;
        let difference = |(x, given): (&f64, &f64)| {
            let c = (x - mean).abs();
            (c, delta + given + UNIT * (c + delta))
        };
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
        let differences = row.iter().zip(errors).map(difference);
        let off: f64 = differences.map(|(c, e)| 2.0 * c * e + e * e).sum();
        let relative = (off / n + roundings(width + 3) * variance) / (variance + epsilon) / 2.0;
        let rstd = 1.0 / (variance + epsilon).sqrt();
        let rstd_relative = relative + roundings(2);
        for (column, pair) in row.iter().zip(errors).enumerate() {
            let (c, e) = difference(pair);
            let w = w.map_or(1.0, |w| w.elements[column].abs());
            let product = c * rstd * w;
            let bias = b.map_or(0.0, |b| b.elements[column].abs());
            let bound = e * rstd * w + (rstd_relative + roundings(2)) * product;
            y.push(SECOND_ORDER * (bound + UNIT * (product + bias)) + FLUSH);
        }
        means.push(SECOND_ORDER * delta + FLUSH);
        rstds.push(SECOND_ORDER * rstd_relative * rstd + FLUSH);
    }
    [y, means, rstds].into_iter().chain(x.made.then(|| x.errors.clone())).collect()
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
