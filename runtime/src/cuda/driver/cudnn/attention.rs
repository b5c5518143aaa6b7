//! What the graphs of both passes have in common: layouts, scaled scores, masks.
//!
//! The library recognises attention by the operations of its graph, so their kinds and order are those that it documents
//! for it. Owns the mask: a later key gets −∞ by comparing positions, and so does one that the window has left behind.

use crate::cuda::attention::AttentionShape;
use crate::cuda::driver::cudnn::graph::{Graph, Layout, Place, Scalar, Value};
use crate::cuda::driver::cudnn::names;

/// The axes of queries and keys among scores.
const QUERIES: i64 = 2;
const KEYS: i64 = 3;

/// Layouts of an attention's tensors.
pub(super) struct Layouts<'a> {
    shape: &'a AttentionShape,
}

impl<'a> Layouts<'a> {
    pub(super) fn of(shape: &'a AttentionShape) -> Layouts<'a> {
        Layouts { shape }
    }

    /// Whether several heads of queries share one of keys and values.
    pub(super) fn is_grouped(&self) -> bool {
        self.shape.heads != self.shape.groups
    }

    /// The `index`-th tensor of heads, `[batch, heads, seq, dim]` of what is `[batch, seq, heads, dim]` in memory.
    pub(super) fn heads(&self, index: usize, heads: u64) -> Layout {
        let &AttentionShape { batch, seq, dim, ref strides, .. } = self.shape;
        let [of_batch, of_position, of_head] = strides[index];
        Layout {
            extents: [batch, heads, seq, dim].map(|extent| extent as i64),
            strides: [of_batch, of_head, of_position, 1].map(|stride| stride as i64),
        }
    }

    /// An intermediate of the queries' heads.
    pub(super) fn whole_heads(&self) -> Layout {
        let &AttentionShape { batch, seq, heads, dim, .. } = self.shape;
        Layout::packed([batch, heads, seq, dim].map(|extent| extent as i64))
    }

    /// Scores, `[batch, heads, seq, seq]`.
    pub(super) fn scores(&self) -> Layout {
        let &AttentionShape { batch, seq, heads, .. } = self.shape;
        Layout::packed([batch, heads, seq, seq].map(|extent| extent as i64))
    }

    /// A number for each query, `[batch, heads, seq, 1]`.
    pub(super) fn rows(&self) -> Layout {
        let &AttentionShape { batch, seq, heads, .. } = self.shape;
        Layout::packed([batch, heads, seq, 1].map(|extent| extent as i64))
    }
}

/// A tensor of heads.
pub(super) fn heads(graph: &mut Graph, layout: Layout, index: usize) -> Value {
    graph.given(names::DATA_BFLOAT16, layout, Place::Heads(index))
}

/// `scale · q kᵀ`; `k` is transposed.
pub(super) fn scaled_products(
    graph: &mut Graph,
    layouts: &Layouts<'_>,
    [q, k, scale]: [Value; 3],
) -> Value {
    let products = graph.within(names::DATA_FLOAT, layouts.scores());
    graph.product([q, k], products);
    let scaled = graph.within(names::DATA_FLOAT, layouts.scores());
    graph.binary(names::POINTWISE_MUL, [products, scale], scaled);
    scaled
}

/// Scores with −∞ where a query does not see a key.
pub(super) fn masked(graph: &mut Graph, layouts: &Layouts<'_>, mut scores: Value) -> Value {
    if layouts.shape.causal {
        let [queries, keys] = both_positions(graph, layouts, scores);
        scores = kept(graph, layouts, scores, names::POINTWISE_CMP_GE, [queries, keys]);
    }
    if let Some(window) = layouts.shape.window {
        let [queries, keys] = both_positions(graph, layouts, scores);
        let window = graph.scalar(Scalar::Value(window as f32));
        let ends = graph.within(names::DATA_FLOAT, layouts.scores());
        graph.add_to_positions(KEYS, [keys, window], ends);
        scores = kept(graph, layouts, scores, names::POINTWISE_CMP_GT, [ends, queries]);
    }
    scores
}

fn both_positions(graph: &mut Graph, layouts: &Layouts<'_>, scores: Value) -> [Value; 2] {
    let queries = graph.within(names::DATA_INT32, layouts.scores());
    graph.positions(QUERIES, scores, queries);
    let keys = graph.within(names::DATA_INT32, layouts.scores());
    graph.positions(KEYS, scores, keys);
    [queries, keys]
}

/// Scores where a comparison holds, −∞ elsewhere.
fn kept(
    graph: &mut Graph,
    layouts: &Layouts<'_>,
    scores: Value,
    comparison: i32,
    sides: [Value; 2],
) -> Value {
    let holds = graph.within(names::DATA_BOOLEAN, layouts.scores());
    graph.compare(comparison, sides, holds);
    let hidden = graph.scalar(Scalar::Value(f32::NEG_INFINITY));
    let masked = graph.within(names::DATA_FLOAT, layouts.scores());
    graph.select([scores, hidden, holds], masked);
    masked
}
