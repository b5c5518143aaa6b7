//! The graph of attention: `softmax(scale · q kᵀ) v`, and the logarithm of each row's sum of exponentials.
//!
//! The logarithms are natural ones of the scaled and masked scores, `max + log Σ exp(score − max)`: what our own kernels
//! store, so that either kind may run backward from what the other wrote.

use crate::cuda::attention::{AttentionShape, forward};
use crate::cuda::driver::cudnn::attention::{Layouts, heads, masked, scaled_products};
use crate::cuda::driver::cudnn::graph::{Graph, Place, Scalar};
use crate::cuda::driver::cudnn::names;

/// The graph for a shape.
pub(super) fn graph(shape: &AttentionShape) -> Graph {
    let mut graph = Graph::default();
    let layouts = Layouts::of(shape);
    let &AttentionShape { heads: of_queries, groups, .. } = shape;
    let (float, rows, scores) = (names::DATA_FLOAT, layouts.rows(), layouts.scores());

    let q = heads(&mut graph, layouts.heads(forward::Q, of_queries), forward::Q);
    let k = heads(&mut graph, layouts.heads(forward::K, groups).transposed(), forward::K);
    let v = heads(&mut graph, layouts.heads(forward::V, groups), forward::V);
    let out = heads(&mut graph, layouts.heads(forward::OUT, of_queries), forward::OUT);
    let logarithms = graph.given(float, rows, Place::Logarithms);
    let scale = graph.scalar(Scalar::Scale);

    let products = scaled_products(&mut graph, &layouts, [q, k, scale]);
    let masked = masked(&mut graph, &layouts, products);
    let maxima = graph.within(float, rows);
    graph.reduce(names::REDUCE_TENSOR_MAX, masked, maxima);
    let below = graph.within(float, scores);
    graph.binary(names::POINTWISE_SUB, [masked, maxima], below);
    let exponentials = graph.within(float, scores);
    graph.unary(names::POINTWISE_EXP, below, exponentials);
    let sums = graph.within(float, rows);
    graph.reduce(names::REDUCE_TENSOR_ADD, exponentials, sums);
    let logarithms_of_sums = graph.within(float, rows);
    graph.unary(names::POINTWISE_LOG, sums, logarithms_of_sums);
    graph.binary(names::POINTWISE_ADD, [maxima, logarithms_of_sums], logarithms);
    // Tensor cores take probabilities in the format of the values.
    let probabilities = graph.within(names::DATA_BFLOAT16, scores);
    graph.binary(names::POINTWISE_DIV, [exponentials, sums], probabilities);
    graph.product([probabilities, v], out);
    graph
}
