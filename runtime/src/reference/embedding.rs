//! Rows of a table by id, and their gradient.

use super::value::{Value, add_scaled};

/// Row `ids` of the table for each id.
pub(super) fn forward(ids: &Value, table: &Value) -> Vec<f64> {
    ids.elements.iter().flat_map(|&id| table.row(id as usize)).copied().collect()
}

/// Adds each row of `dy` to row `ids` of a table of `rows` rows.
pub(super) fn backward(ids: &Value, dy: &Value, rows: usize) -> Vec<f64> {
    let width = dy.width();
    let mut table = vec![0.0; rows * width];
    for (row, &id) in ids.elements.iter().enumerate() {
        let start = id as usize * width;
        add_scaled(&mut table[start..start + width], 1.0, dy.row(row));
    }
    table
}
