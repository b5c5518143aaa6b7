//! What operations compute with: packed elements and their extents.

use colac_plan::Shape;

/// A tensor's elements in logical, row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Extents from the outermost axis to the innermost.
    pub extents: Vec<usize>,
    /// The elements; their number is the product of the extents.
    pub elements: Vec<f64>,
}

impl Value {
    /// Elements of a shape.
    pub fn new(shape: &Shape, elements: Vec<f64>) -> Value {
        Value { extents: shape.extents().iter().map(|&e| e as usize).collect(), elements }
    }

    /// Extent of the innermost axis; 1 for a single number.
    pub(super) fn width(&self) -> usize {
        self.extents.last().copied().unwrap_or(1)
    }

    /// Number of rows: the product of all extents but the innermost.
    pub(super) fn rows(&self) -> usize {
        self.extents[..self.extents.len().saturating_sub(1)].iter().product()
    }

    /// One row.
    pub(super) fn row(&self, row: usize) -> &[f64] {
        &self.elements[row * self.width()..(row + 1) * self.width()]
    }
}

/// `Σ a · b`.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Adds `factor · values` to `sums`.
pub(super) fn add_scaled(sums: &mut [f64], factor: f64, values: &[f64]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += factor * value;
    }
}
