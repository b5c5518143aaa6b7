//! Root-mean-square norm; arXiv 1910.07467.

use super::value::{Value, dot};

/// `y = x · rstd · w` and `rstd = 1/sqrt(mean(x²) + epsilon)`.
pub(super) fn forward(x: &Value, w: Option<&Value>, epsilon: f64) -> [Vec<f64>; 2] {
    let (mut y, mut rstd) = (Vec::new(), Vec::new());
    for row in 0..x.rows() {
        let x_row = x.row(row);
        let r = 1.0 / (dot(x_row, x_row) / x.width() as f64 + epsilon).sqrt();
        y.extend(x_row.iter().enumerate().map(|(column, x)| x * r * gain(w, column)));
        rstd.push(r);
    }
    [y, rstd]
}

/// With `g = dy · w`: `dx = rstd · (g - x · rstd² · mean(g · x))`, `dw = Σ dy · x · rstd`.
pub(super) fn backward(dy: &Value, x: &Value, w: Option<&Value>, rstd: &Value) -> [Vec<f64>; 2] {
    let width = x.width();
    let (mut dx, mut dw) = (Vec::new(), vec![0.0; width]);
    for row in 0..x.rows() {
        let (dy_row, x_row, r) = (dy.row(row), x.row(row), rstd.elements[row]);
        let g: Vec<f64> =
            dy_row.iter().enumerate().map(|(column, dy)| dy * gain(w, column)).collect();
        let mean = dot(&g, x_row) / width as f64;
        for column in 0..width {
            dx.push(r * (g[column] - x_row[column] * r * r * mean));
            dw[column] += dy_row[column] * x_row[column] * r;
        }
    }
    [dx, dw]
}

/// An element of the gain; 1 where there is none.
fn gain(w: Option<&Value>, column: usize) -> f64 {
    w.map_or(1.0, |w| w.elements[column])
}
