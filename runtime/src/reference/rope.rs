//! Rotary positions; arXiv 2104.09864.

use super::value::Value;

/// Rotates pairs of `x[B, S, H, D]` by the angle of the position, or back: with as many pairs `R` as the tables have
/// columns `(x[i], x[i + R])`, or `(x[2i], x[2i + 1])` where interleaved. The rest stays.
pub(super) fn rotate(
    x: &Value,
    cos: &Value,
    sin: &Value,
    inverse: bool,
    interleaved: bool,
) -> Vec<f64> {
    let [batch, seq, heads, dim] = x.extents[..] else {
        unreachable!("the shape rule asks for four axes")
    };
    let pairs = cos.width();
    let mut y = x.elements.clone();
    for b in 0..batch {
        for position in 0..seq {
            for head in 0..heads {
                let start = ((b * seq + position) * heads + head) * dim;
                for i in 0..pairs {
                    let (left, right) = match interleaved {
                        true => (start + 2 * i, start + 2 * i + 1),
                        false => (start + i, start + i + pairs),
                    };
                    let c = cos.row(position)[i];
                    let s = if inverse { -sin.row(position)[i] } else { sin.row(position)[i] };
                    y[left] = x.elements[left] * c - x.elements[right] * s;
                    y[right] = x.elements[left] * s + x.elements[right] * c;
                }
            }
        }
    }
    y
}
