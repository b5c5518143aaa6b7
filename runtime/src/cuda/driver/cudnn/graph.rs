//! A graph of operations: tensors, and what is computed between them.
//!
//! Owns the words for it, in the kinds of operations that the library knows; `describe` hands them to the library, and
//! tests compute what they say. Must not know attention.

use crate::cuda::driver::cudnn::names;

/// Extents of a tensor and elements from each to the next, in the library's order: batch, heads, rows, columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) extents: [i64; 4],
    pub(super) strides: [i64; 4],
}

impl Layout {
    /// Without gaps.
    pub(super) fn packed(extents: [i64; 4]) -> Layout {
        let [_, b, c, d] = extents;
        Layout { extents, strides: [b * c * d, c * d, d, 1] }
    }

    /// With rows and columns exchanged: the same elements.
    pub(super) fn transposed(self) -> Layout {
        let exchange = |[a, b, c, d]: [i64; 4]| [a, b, d, c];
        Layout { extents: exchange(self.extents), strides: exchange(self.strides) }
    }
}

/// A number that operations take by value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar {
    /// What products of queries and keys are multiplied by; differs from attention to attention of one shape.
    Scale,
    Value(f32),
}

/// What lies behind a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    /// A tensor of heads, by its place in the list.
    Heads(usize),
    Logarithms,
    RowSums,
    Scalar(Scalar),
}

/// A tensor of a graph, by its place in the graph's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value(pub(super) usize);

/// What is known of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tensor {
    /// One of the library's formats.
    pub(super) format: i32,
    pub(super) layout: Layout,
    /// `None` for an intermediate, which is never stored.
    pub(super) place: Option<Place>,
}

/// One operation; `y` is what it gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Operation {
    /// One of the library's pointwise modes, of one to three tensors; those with one element along an axis are repeated.
    Pointwise {
        mode: i32,
        /// The format that is computed in.
        precision: i32,
        axis: Option<i64>,
        x: Value,
        b: Option<Value>,
        t: Option<Value>,
        y: Value,
    },
    /// `y = a b` of the matrices of each head; where `b` has fewer heads, neighbours of `a` share one.
    Product { a: Value, b: Value, y: Value },
    /// `y` = the sum or maximum of `x` along the axes on which `y` is shorter; where those are heads, of each group of
    /// neighbours.
    Reduction { operator: i32, x: Value, y: Value },
    /// `y` = the elements of `x`, seen in another layout.
    Reshape { x: Value, y: Value },
}

/// A graph in the making, or made.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Graph {
    pub(super) tensors: Vec<Tensor>,
    /// In the order in which they are computed.
    pub(super) operations: Vec<Operation>,
}

impl Graph {
    fn tensor(&mut self, format: i32, layout: Layout, place: Option<Place>) -> Value {
        self.tensors.push(Tensor { format, layout, place });
        Value(self.tensors.len() - 1)
    }

    /// A tensor in memory.
    pub(super) fn given(&mut self, format: i32, layout: Layout, place: Place) -> Value {
        self.tensor(format, layout, Some(place))
    }

    /// A number.
    pub(super) fn scalar(&mut self, scalar: Scalar) -> Value {
        self.given(names::DATA_FLOAT, Layout::packed([1; 4]), Place::Scalar(scalar))
    }

    /// An intermediate.
    pub(super) fn within(&mut self, format: i32, layout: Layout) -> Value {
        self.tensor(format, layout, None)
    }

    /// `y = f(x)`.
    pub(super) fn unary(&mut self, mode: i32, x: Value, y: Value) {
        let precision = names::DATA_FLOAT;
        let (axis, b, t) = (None, None, None);
        self.operations.push(Operation::Pointwise { mode, precision, axis, x, b, t, y });
    }

    /// `y = f(x, b)`.
    pub(super) fn binary(&mut self, mode: i32, [x, b]: [Value; 2], y: Value) {
        let precision = names::DATA_FLOAT;
        let (axis, b, t) = (None, Some(b), None);
        self.operations.push(Operation::Pointwise { mode, precision, axis, x, b, t, y });
    }

    /// `y` = the position along `axis`, of every element of `x`.
    pub(super) fn positions(&mut self, axis: i64, x: Value, y: Value) {
        let (mode, precision) = (names::POINTWISE_GEN_INDEX, names::DATA_FLOAT);
        let (axis, b, t) = (Some(axis), None, None);
        self.operations.push(Operation::Pointwise { mode, precision, axis, x, b, t, y });
    }

    /// `y = x + b` of positions along `axis`.
    pub(super) fn add_to_positions(&mut self, axis: i64, [x, b]: [Value; 2], y: Value) {
        let (mode, precision) = (names::POINTWISE_ADD, names::DATA_FLOAT);
        let (axis, b, t) = (Some(axis), Some(b), None);
        self.operations.push(Operation::Pointwise { mode, precision, axis, x, b, t, y });
    }

    /// `y` = whether `x` compares with `b`.
    pub(super) fn compare(&mut self, mode: i32, [x, b]: [Value; 2], y: Value) {
        let precision = names::DATA_BOOLEAN;
        let (axis, b, t) = (None, Some(b), None);
        self.operations.push(Operation::Pointwise { mode, precision, axis, x, b, t, y });
    }

    /// `y` = `x` where `condition` holds, else `b`.
    pub(super) fn select(&mut self, [x, b, condition]: [Value; 3], y: Value) {
        let (mode, precision) = (names::POINTWISE_BINARY_SELECT, names::DATA_FLOAT);
        let (axis, b, t) = (None, Some(b), Some(condition));
        self.operations.push(Operation::Pointwise { mode, precision, axis, x, b, t, y });
    }

    pub(super) fn product(&mut self, [a, b]: [Value; 2], y: Value) {
        self.operations.push(Operation::Product { a, b, y });
    }

    pub(super) fn reduce(&mut self, operator: i32, x: Value, y: Value) {
        self.operations.push(Operation::Reduction { operator, x, y });
    }

    pub(super) fn reshape(&mut self, x: Value, y: Value) {
        self.operations.push(Operation::Reshape { x, y });
    }
}
