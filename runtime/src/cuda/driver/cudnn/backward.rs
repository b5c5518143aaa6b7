//! The graph of attention's derivative.
//!
//! The gradient of the queries is one product of all of dS with the keys. The library could add it up tile by tile
//! instead, in memory of f32 and in whatever order tiles come; that needs less workspace and is not deterministic, so it
//! is never asked for. For the workspace this means a bf16 number for each pair of a query and a key.

use crate::cuda::attention::{AttentionShape, backward};
use crate::cuda::driver::cudnn::attention::{Layouts, heads, masked, scaled_products};
use crate::cuda::driver::cudnn::graph::{Graph, Place, Scalar, Value};
use crate::cuda::driver::cudnn::names;

/// The graph for a shape.
pub(super) fn graph(shape: &AttentionShape) -> Graph {
    let mut graph = Graph::default();
    let layouts = Layouts::of(shape);
    let &AttentionShape { heads: of_queries, groups, .. } = shape;
    let (float, rows, scores) = (names::DATA_FLOAT, layouts.rows(), layouts.scores());

    let of = |index, heads| layouts.heads(index, heads);
    let dout = heads(&mut graph, of(backward::DOUT, of_queries), backward::DOUT);
    let q = heads(&mut graph, of(backward::Q, of_queries), backward::Q);
    let k = heads(&mut graph, of(backward::K, groups).transposed(), backward::K);
    let v = heads(&mut graph, of(backward::V, groups).transposed(), backward::V);
    let out = heads(&mut graph, of(backward::OUT, of_queries), backward::OUT);
    let dq = heads(&mut graph, of(backward::DQ, of_queries), backward::DQ);
    let dk = heads(&mut graph, of(backward::DK, groups), backward::DK);
    let dv = heads(&mut graph, of(backward::DV, groups), backward::DV);
    let logarithms = graph.given(float, rows, Place::Logarithms);
    let scale = graph.scalar(Scalar::Scale);

    // Row sums of dout · out.
    let both = graph.within(float, layouts.whole_heads());
    graph.binary(names::POINTWISE_MUL, [dout, out], both);
    let summed = graph.within(float, rows);
    graph.reduce(names::REDUCE_TENSOR_ADD, both, summed);
    // The pattern has a factor here, which a dropout would need.
    let one = graph.scalar(Scalar::Value(1.0));
    let row_sums = graph.given(float, rows, Place::RowSums);
    graph.binary(names::POINTWISE_MUL, [summed, one], row_sums);

    // P = exp(scores − logarithms), which is 0 where they are masked.
    let products = scaled_products(&mut graph, &layouts, [q, k, scale]);
    let below = graph.within(float, scores);
    graph.binary(names::POINTWISE_SUB, [products, logarithms], below);
    let below = masked(&mut graph, &layouts, below);
    let p = graph.within(float, scores);
    graph.unary(names::POINTWISE_EXP, below, p);
    transposed_product(&mut graph, &layouts, [p, dout], dv);

    // dS = P (dout vᵀ − row sums), scaled.
    let dp = graph.within(float, scores);
    graph.product([dout, v], dp);
    let centred = graph.within(float, scores);
    graph.binary(names::POINTWISE_SUB, [dp, row_sums], centred);
    let weighted = graph.within(float, scores);
    graph.binary(names::POINTWISE_MUL, [centred, p], weighted);
    let ds = graph.within(float, scores);
    graph.binary(names::POINTWISE_MUL, [weighted, scale], ds);
    transposed_product(&mut graph, &layouts, [ds, q], dk);

    let upright = graph.within(float, of(backward::K, groups));
    graph.reshape(k, upright);
    graph.product([ds, upright], dq);
    graph
}

/// `result = aᵀ b`, added up over the heads that share a head of `result`.
fn transposed_product(graph: &mut Graph, layouts: &Layouts<'_>, [a, b]: [Value; 2], result: Value) {
    // A view: queries and keys change places, elements do not.
    let turned = graph.within(names::DATA_BFLOAT16, layouts.scores().transposed());
    graph.reshape(a, turned);
    if layouts.is_grouped() {
        let of_each = graph.within(names::DATA_BFLOAT16, layouts.whole_heads());
        graph.product([turned, b], of_each);
        graph.reduce(names::REDUCE_TENSOR_ADD, of_each, result);
    } else {
        graph.product([turned, b], result);
    }
}
