//! Layer norm; arXiv 1607.06450.

use super::value::Value;

/// `y = (x - mean) · rstd · w + b`, the mean and `rstd = 1/sqrt(mean((x - mean)²) + epsilon)`.
pub(super) fn forward(
    x: &Value,
    w: Option<&Value>,
    b: Option<&Value>,
    epsilon: f64,
) -> [Vec<f64>; 3] {
    let width = x.width() as f64;
    let (mut y, mut means, mut rstds) = (Vec::new(), Vec::new(), Vec::new());
    for row in 0..x.rows() {
        let mean = x.row(row).iter().sum::<f64>() / width;
        let variance = x.row(row).iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / width;
        let rstd = 1.0 / (variance + epsilon).sqrt();
        for (column, x) in x.row(row).iter().enumerate() {
            y.push((x - mean) * rstd * element(w, column, 1.0) + element(b, column, 0.0));
        }
        means.push(mean);
        rstds.push(rstd);
    }
    [y, means, rstds]
}

/// With `z = (x - mean) · rstd` and `g = dy · w`: `dx = rstd · (g - mean(g) - z · mean(g · z))`, `dw = Σ dy · z`,
/// `db = Σ dy`.
pub(super) fn backward(
    dy: &Value,
    x: &Value,
    w: Option<&Value>,
    mean: &Value,
    rstd: &Value,
) -> [Vec<f64>; 3] {
    let width = x.width();
    let (mut dx, mut dw, mut db) = (Vec::new(), vec![0.0; width], vec![0.0; width]);
    for row in 0..x.rows() {
        let (mean, rstd) = (mean.elements[row], rstd.elements[row]);
        let z: Vec<f64> = x.row(row).iter().map(|x| (x - mean) * rstd).collect();
        let g: Vec<f64> =
            dy.row(row).iter().enumerate().map(|(c, dy)| dy * element(w, c, 1.0)).collect();
        let mean_g = g.iter().sum::<f64>() / width as f64;
        let mean_gz = g.iter().zip(&z).map(|(g, z)| g * z).sum::<f64>() / width as f64;
        for column in 0..width {
            dx.push(rstd * (g[column] - mean_g - z[column] * mean_gz));
            dw[column] += dy.row(row)[column] * z[column];
            db[column] += dy.row(row)[column];
        }
    }
    [dx, dw, db]
}

/// An element of a vector that may be missing.
fn element(vector: Option<&Value>, column: usize, missing: f64) -> f64 {
    vector.map_or(missing, |vector| vector.elements[column])
}
