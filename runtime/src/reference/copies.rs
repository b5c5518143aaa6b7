//! Parts of rows and rows of other positions.

use super::value::Value;

/// Elements `start..start + length` of each row.
pub(super) fn slice(x: &Value, start: usize, length: usize) -> Vec<f64> {
    (0..x.rows()).flat_map(|row| x.row(row)[start..start + length].iter().copied()).collect()
}

/// Rows of `width` elements with each part where it begins, and 0 elsewhere.
pub(super) fn concat(parts: &[Value], starts: &[u64], width: usize) -> Vec<f64> {
    let mut y = vec![0.0; parts[0].rows() * width];
    for (part, &start) in parts.iter().zip(starts) {
        for row in 0..part.rows() {
            let first = row * width + start as usize;
            y[first..first + part.width()].copy_from_slice(part.row(row));
        }
    }
    y
}

/// `y[b, s] = x[b, s - by]`, 0 where there is no such position.
pub(super) fn shift(x: &Value, by: i64) -> Vec<f64> {
    let (batch, seq) = (x.extents[0], x.extents[1]);
    let each: usize = x.extents[2..].iter().product();
    let mut y = Vec::with_capacity(x.elements.len());
    for b in 0..batch {
        for s in 0..seq {
            let source = s as i128 - i128::from(by);
            for element in 0..each {
                let inside = source >= 0 && source < seq as i128;
                y.push(match inside {
                    true => x.elements[(b * seq + source as usize) * each + element],
                    false => 0.0,
                });
            }
        }
    }
    y
}
