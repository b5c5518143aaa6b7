//! For tests: what a graph computes, operation by operation, as the library's documentation defines each.
//!
//! In f64 and without the roundings of formats, so that a graph must equal the reference to the last few digits. Owns the
//! meaning of operations and layouts. Must not know attention.

use super::graph::{Graph, Layout, Operation, Place, Scalar, Tensor, Value};
use super::names;

/// Memory behind the tensors that are given: elements, as layouts count them.
pub(super) struct Memory {
    /// By [`Place::Heads`]: which of the buffers, and the element that it starts at.
    pub(super) heads: Vec<(usize, usize)>,
    pub(super) buffers: Vec<Vec<f64>>,
    pub(super) logarithms: Vec<f64>,
    pub(super) row_sums: Vec<f64>,
    pub(super) scale: f64,
    /// Of intermediates, by tensor.
    within: Vec<Vec<f64>>,
}

impl Memory {
    pub(super) fn new(heads: Vec<(usize, usize)>, buffers: Vec<Vec<f64>>, rows: usize) -> Memory {
        let (logarithms, row_sums) = (vec![f64::NAN; rows], vec![f64::NAN; rows]);
        Memory { heads, buffers, logarithms, row_sums, scale: 1.0, within: Vec::new() }
    }

    /// The numbers behind a tensor, from its first element on.
    fn of(&mut self, index: usize, tensor: &Tensor) -> &mut [f64] {
        match tensor.place {
            Some(Place::Heads(heads)) => {
                let (buffer, start) = self.heads[heads];
                &mut self.buffers[buffer][start..]
            }
            Some(Place::Logarithms) => &mut self.logarithms,
            Some(Place::RowSums) => &mut self.row_sums,
            Some(Place::Scalar(_)) | None => &mut self.within[index],
        }
    }
}

/// Every position of some extents.
fn positions(extents: [i64; 4]) -> impl Iterator<Item = [i64; 4]> {
    let [a, b, c, d] = extents;
    (0..a * b * c * d).map(move |i| [i / (b * c * d), i / (c * d) % b, i / d % c, i % d])
}

/// The element at a position; axes of one element are repeated, heads shared by neighbours.
fn element(layout: &Layout, at: [i64; 4], heads: i64) -> usize {
    let place = |axis: usize| match axis {
        1 => at[1] / (heads / layout.extents[1]),
        _ if layout.extents[axis] == 1 => 0,
        _ => at[axis],
    };
    (0..4).map(|axis| place(axis) * layout.strides[axis]).sum::<i64>() as usize
}

/// Runs a graph over memory.
pub(super) fn evaluate(graph: &Graph, memory: &mut Memory) {
    let span = |layout: &Layout| {
        let last = layout.extents.iter().zip(layout.strides).map(|(e, s)| (e - 1) * s);
        last.sum::<i64>() as usize + 1
    };
    memory.within = graph.tensors.iter().map(|t| vec![f64::NAN; span(&t.layout)]).collect();
    for (index, tensor) in graph.tensors.iter().enumerate() {
        match tensor.place {
            Some(Place::Scalar(Scalar::Scale)) => memory.within[index] = vec![memory.scale],
            Some(Place::Scalar(Scalar::Value(value))) => memory.within[index] = vec![value.into()],
            _ => {}
        }
    }
    for operation in &graph.operations {
        step(graph, operation, memory);
    }
}

fn step(graph: &Graph, operation: &Operation, memory: &mut Memory) {
    let tensor = |Value(index): Value| &graph.tensors[index];
    let read = |memory: &mut Memory, value: Value, at: [i64; 4], heads: i64| {
        let place = element(&tensor(value).layout, at, heads);
        memory.of(value.0, tensor(value))[place]
    };
    match *operation {
        Operation::Pointwise { mode, axis, x, b, t, y, .. } => {
            let to = *tensor(y);
            for at in positions(to.layout.extents) {
                let heads = to.layout.extents[1];
                let mut operand = |value: Option<Value>| {
                    value.map_or(f64::NAN, |value| read(memory, value, at, heads))
                };
                let (x, b, t) = (operand(Some(x)), operand(b), operand(t));
                let value = match mode {
                    names::POINTWISE_GEN_INDEX => at[axis.expect("an axis") as usize] as f64,
                    names::POINTWISE_ADD => x + b,
                    names::POINTWISE_SUB => x - b,
                    names::POINTWISE_MUL => x * b,
                    names::POINTWISE_DIV => x / b,
                    names::POINTWISE_EXP => x.exp(),
                    names::POINTWISE_LOG => x.ln(),
                    names::POINTWISE_CMP_GE => f64::from(x >= b),
                    names::POINTWISE_CMP_GT => f64::from(x > b),
                    names::POINTWISE_BINARY_SELECT => {
                        if t != 0.0 {
                            x
                        } else {
                            b
                        }
                    }
                    other => panic!("pointwise mode {other}"),
                };
                memory.of(y.0, &to)[element(&to.layout, at, heads)] = value;
            }
        }
        Operation::Product { a, b, y } => {
            let to = *tensor(y);
            let inner = tensor(a).layout.extents[3];
            assert_eq!(inner, tensor(b).layout.extents[2], "what is added up");
            for at in positions(to.layout.extents) {
                let [batch, head, row, column] = at;
                let heads = to.layout.extents[1];
                let sum = (0..inner)
                    .map(|k| {
                        read(memory, a, [batch, head, row, k], heads)
                            * read(memory, b, [batch, head, k, column], heads)
                    })
                    .sum();
                memory.of(y.0, &to)[element(&to.layout, at, heads)] = sum;
            }
        }
        Operation::Reduction { operator, x, y } => {
            let (from, to) = (*tensor(x), *tensor(y));
            let heads = from.layout.extents[1];
            let start = match operator {
                names::REDUCE_TENSOR_ADD => 0.0,
                names::REDUCE_TENSOR_MAX => f64::NEG_INFINITY,
                other => panic!("reduction {other}"),
            };
            for at in positions(to.layout.extents) {
                memory.of(y.0, &to)[element(&to.layout, at, to.layout.extents[1])] = start;
            }
            for at in positions(from.layout.extents) {
                let value = read(memory, x, at, heads);
                let place = element(&to.layout, at, heads);
                let sum = &mut memory.of(y.0, &to)[place];
                *sum = if operator == names::REDUCE_TENSOR_ADD {
                    *sum + value
                } else {
                    sum.max(value)
                };
            }
        }
        Operation::Reshape { x, y } => {
            let seen = memory.of(x.0, tensor(x)).to_vec();
            for at in positions(tensor(y).layout.extents) {
                let place = element(&tensor(y).layout, at, tensor(y).layout.extents[1]);
                memory.of(y.0, tensor(y))[place] = seen[place];
            }
        }
    }
}
