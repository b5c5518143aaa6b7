//! Views: other shapes, parts and rows of parts of bytes that are there already.
//!
//! Owns their shape rule and where their elements lie. Must not know graphs.

use colac_plan::op::TypeError;
use colac_plan::{Axis, Op, Shape, TensorType};

/// A look at the bytes of other values, which moves none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// `[.., heads · head_dim] → [.., heads, head_dim]`.
    SplitHeads {
        /// Extent of the new innermost axis.
        head_dim: u64,
    },
    /// `[.., heads, head_dim] → [.., heads · head_dim]`.
    MergeHeads,
    /// `[.., n] → [.., length]`: elements `start..start + length` of each row.
    Columns {
        /// First element of a row.
        start: u64,
        /// Elements of a row.
        length: u64,
    },
    /// `[.., nᵢ], … → [.., Σ nᵢ]`: the one view whose bytes are its own. Its operands lie in it side by side, each made
    /// in its place ([`crate::graph::Home::Join`]).
    Join,
}

impl View {
    /// The printed name.
    pub fn name(&self) -> &'static str {
        match self {
            View::SplitHeads { .. } => "split_heads",
            View::MergeHeads => "merge_heads",
            View::Columns { .. } => "columns",
            View::Join => "join",
        }
    }

    /// Attributes for a printed line that the types do not show.
    pub fn attributes(&self) -> String {
        match self {
            View::Columns { start, .. } => format!("start={start}"),
            View::SplitHeads { .. } | View::MergeHeads | View::Join => String::new(),
        }
    }

    /// Type of the view.
    ///
    /// # Errors
    /// Where the operands do not have the form that the view needs.
    pub fn infer(&self, operands: &[&TensorType]) -> Result<TensorType, TypeError> {
        let &[operand] = operands else {
            if *self == View::Join {
                return join(operands);
            }
            let reason = format!("a view shows one value, not {}", operands.len());
            return Err(TypeError::Rule { op: self.name(), reason });
        };
        let shape = &operand.shape;
        let axes = match *self {
            View::SplitHeads { head_dim } => {
                let width = shape.width();
                if shape.ndim() == 0 || head_dim == 0 || !width.is_multiple_of(head_dim) {
                    let reason =
                        format!("a width of {width} does not divide into heads of {head_dim}");
                    return Err(TypeError::Rule { op: "heads", reason });
                }
                let mut axes = shape.leading().to_vec();
                axes.push(Axis::new("heads", width / head_dim));
                axes.push(Axis::new("head_dim", head_dim));
                axes
            }
            View::MergeHeads => {
                if shape.ndim() < 2 {
                    let found = shape.clone();
                    let expected = "[.., heads, head_dim]";
                    return Err(TypeError::Form { op: "merge_heads", operand: 0, expected, found });
                }
                let mut axes = shape.0[..shape.ndim() - 2].to_vec();
                axes.push(Axis::anonymous(shape.0[shape.ndim() - 2].extent * shape.width()));
                axes
            }
            View::Columns { start, length } => {
                return Ok(Op::Slice { start, length }.infer(operands)?.remove(0));
            }
            View::Join => return join(operands),
        };
        Ok(TensorType::new(operand.dtype, Shape(axes)))
    }

    /// Where the view's elements lie, if those of its operand have these strides: elements before the first, and its own
    /// strides. `None` where heads lie apart and cannot be seen as one row.
    pub fn strides(&self, operand: &Shape, strides: &[u64]) -> Option<(u64, Vec<u64>)> {
        let (&innermost, leading) = strides.split_last()?;
        match *self {
            View::SplitHeads { head_dim } => {
                Some((0, [leading, &[head_dim * innermost, innermost]].concat()))
            }
            View::MergeHeads => {
                let (&heads, leading) = leading.split_last()?;
                let (count, head_dim) = (operand.0[operand.ndim() - 2].extent, operand.width());
                let even = count == 1 || heads == head_dim * innermost;
                even.then(|| (0, [leading, &[innermost]].concat()))
            }
            View::Columns { start, .. } => Some((start * innermost, strides.to_vec())),
            View::Join => None,
        }
    }
}

/// Type of values side by side, without gaps.
fn join(parts: &[&TensorType]) -> Result<TensorType, TypeError> {
    let (mut starts, mut width) = (Vec::with_capacity(parts.len()), 0);
    for part in parts {
        starts.push(width);
        width += part.shape.width();
    }
    Ok(Op::Concat { width, starts }.infer(parts)?.remove(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns of wider rows as heads, and back as one row.
    #[test]
    fn views_of_views_compose() {
        let whole = Shape::of(&[2, 3, 20]);
        let (start, columns) =
            View::Columns { start: 8, length: 12 }.strides(&whole, &[60, 20, 1]).expect("fits");
        assert_eq!((start, &columns[..]), (8, &[60, 20, 1][..]));
        let split = View::SplitHeads { head_dim: 4 };
        let (start, heads) = split.strides(&Shape::of(&[2, 3, 12]), &columns).expect("fits");
        assert_eq!((start, &heads[..]), (0, &[60, 20, 4, 1][..]));
        let merged = View::MergeHeads.strides(&Shape::of(&[2, 3, 3, 4]), &heads);
        assert_eq!(merged, Some((0, columns)));
    }

    #[test]
    fn heads_that_lie_apart_are_no_row() {
        let narrow = View::MergeHeads.strides(&Shape::of(&[2, 3, 4]), &[30, 10, 1]);
        assert_eq!(narrow, None);
        let single = View::MergeHeads.strides(&Shape::of(&[2, 1, 4]), &[30, 10, 1]);
        assert_eq!(single, Some((0, vec![30, 1])));
    }
}
