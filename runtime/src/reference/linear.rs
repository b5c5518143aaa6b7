//! Matrix products and sums over rows.

use super::value::{Value, add_scaled, dot};

/// `y = x wᵀ`.
pub(super) fn forward(x: &Value, w: &Value) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.rows() * w.rows());
    for row in 0..x.rows() {
        for output in 0..w.rows() {
            y.push(dot(x.row(row), w.row(output)));
        }
    }
    y
}

/// `dx = dy w`.
pub(super) fn backward_input(dy: &Value, w: &Value) -> Vec<f64> {
    let mut dx = Vec::with_capacity(dy.rows() * w.width());
    for row in 0..dy.rows() {
        let mut dx_row = vec![0.0; w.width()];
        for (output, &dy) in dy.row(row).iter().enumerate() {
            add_scaled(&mut dx_row, dy, w.row(output));
        }
        dx.extend(dx_row);
    }
    dx
}

/// `dw = dyᵀ x`.
pub(super) fn backward_weight(dy: &Value, x: &Value) -> Vec<f64> {
    let mut dw = vec![0.0; dy.width() * x.width()];
    for row in 0..dy.rows() {
        for (output, &dy) in dy.row(row).iter().enumerate() {
            add_scaled(&mut dw[output * x.width()..(output + 1) * x.width()], dy, x.row(row));
        }
    }
    dw
}

/// The sum of all elements.
pub(super) fn sum(x: &Value) -> Vec<f64> {
    vec![x.elements.iter().sum()]
}

/// `y = Σ` over rows.
pub(super) fn column_sum(x: &Value) -> Vec<f64> {
    let mut sums = vec![0.0; x.width()];
    for row in 0..x.rows() {
        add_scaled(&mut sums, 1.0, x.row(row));
    }
    sums
}
