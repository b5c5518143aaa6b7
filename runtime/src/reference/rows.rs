//! Sums and softmax of rows.

use super::value::Value;

/// The sum of each row, or its mean.
pub(super) fn sum(x: &Value, mean: bool) -> Vec<f64> {
    let divisor = if mean { x.width() as f64 } else { 1.0 };
    (0..x.rows()).map(|row| x.row(row).iter().sum::<f64>() / divisor).collect()
}

/// `exp(x - max(x)) / Σ exp(x - max(x))` for each row.
pub(super) fn softmax(x: &Value) -> Vec<f64> {
    let mut y = Vec::with_capacity(x.elements.len());
    for row in 0..x.rows() {
        let maximum = x.row(row).iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let terms: Vec<f64> = x.row(row).iter().map(|x| libm::exp(x - maximum)).collect();
        let sum: f64 = terms.iter().sum();
        y.extend(terms.iter().map(|term| term / sum));
    }
    y
}
