//! Samples of attention and of the rotation of its queries and keys.

use colac_plan::op::{Mask, Scores, TurnedBack};
use colac_plan::{Op, Real, TensorType};

use crate::reference::evaluate;

use super::{Operand, Sample, draw, given, real};

pub(super) fn rope() -> Vec<Sample> {
    let mut samples = Vec::new();
    // Axes, pairs that are turned.
    let cases = [
        ([1, 1, 1, 2], 1),
        ([2, 65, 3, 6], 3),
        ([1, 17, 2, 64], 32),
        ([2, 129, 1, 10], 5),
        ([2, 33, 3, 10], 2),
        ([1, 5, 2, 7], 3),
    ];
    for (extents, pairs) in cases {
        for (inverse, interleaved) in [(false, false), (true, false), (false, true), (true, true)] {
            let [cos, sin] = tables(extents[1], pairs);
            let operands = vec![real("x", &extents, 1.0), cos, sin];
            let results = vec![TensorType::f32(&extents)];
            let op = Op::Rope { inverse, interleaved };
            let name = format!("{extents:?}, {pairs} pairs {}", op.attributes());
            samples.push(Sample::new(name, op, operands, results));
        }
    }
    samples
}

/// Cosines and sines of angles for each position and pair.
fn tables(positions: u64, pairs: u64) -> [Operand; 2] {
    let angles = draw("angles", (positions * pairs) as usize, std::f64::consts::PI);
    [libm::cos as fn(f64) -> f64, libm::sin].map(|function| {
        given(&[positions, pairs], angles.iter().map(|&angle| function(angle)).collect())
    })
}

/// Batch, sequence, heads, key/value heads, head_dim, mask, magnitude of q and k.
const ATTENTIONS: [([u64; 5], Mask, f64); 23] = [
    ([1, 1, 1, 1, 1], Mask::Causal, 1.0),
    ([1, 1, 3, 1, 2], Mask::Full, 1.0),
    ([1, 2, 1, 1, 17], Mask::Causal, 1.0),
    ([2, 5, 4, 2, 3], Mask::Causal, 1.0),
    ([2, 65, 4, 2, 16], Mask::Causal, 1.0),
    ([2, 65, 3, 3, 5], Mask::Full, 1.0),
    ([1, 65, 6, 1, 8], Mask::Causal, 1.0),
    ([1, 129, 2, 1, 33], Mask::Causal, 1.0),
    ([1, 130, 1, 1, 64], Mask::Full, 1.0),
    ([1, 65, 2, 2, 8], Mask::Window(1), 1.0),
    ([1, 65, 2, 1, 8], Mask::Window(5), 1.0),
    ([1, 129, 2, 1, 8], Mask::Window(64), 1.0),
    ([1, 17, 2, 1, 4], Mask::Window(1000), 1.0),
    // More key/value heads than an executor may want for tasks, and more than two blocks of keys.
    ([4, 65, 8, 4, 6], Mask::Causal, 1.0),
    ([2, 130, 8, 8, 4], Mask::Window(70), 1.0),
    ([1, 300, 2, 1, 4], Mask::Window(3), 1.0),
    ([1, 65, 2, 1, 8], Mask::Causal, 8.0),
    // Widths that matrix units take, and some more rows than a block has.
    ([1, 140, 2, 1, 32], Mask::Causal, 1.0),
    ([1, 65, 2, 2, 64], Mask::Causal, 1.0),
    ([1, 150, 1, 1, 64], Mask::Window(70), 1.0),
    ([1, 70, 2, 1, 96], Mask::Causal, 1.0),
    ([1, 70, 1, 1, 128], Mask::Causal, 1.0),
    ([1, 33, 2, 1, 128], Mask::Full, 4.0),
];

pub(super) fn attention() -> Vec<Sample> {
    ATTENTIONS.iter().map(plain_attention).chain(SHAPED.iter().map(shaped_attention)).collect()
}

fn plain_attention(&([b, s, h, g, d], mask, magnitude): &([u64; 5], Mask, f64)) -> Sample {
    let scale = Real::new(1.0 / (d as f64).sqrt());
    let q = real("q", &[b, s, h, d], magnitude);
    let (k, v) = (real("k", &[b, s, g, d], magnitude), real("v", &[b, s, g, d], 1.0));
    let results = vec![q.ty.clone(), TensorType::f32(&[b, h, s])];
    let name = format!("batch {b}, seq {s}, heads {h}/{g}, dim {d}, {mask}, up to {magnitude}");
    let op = Op::Attention { scores: Scores::new(mask, scale) };
    Sample::new(name, op, vec![q, k, v], results)
}

/// Batch, sequence, heads, key/value heads, width of queries and keys, width of values; mask, cap (0 for none), ALiBi,
/// magnitude of q and k.
const SHAPED: [([u64; 6], Mask, f64, bool, f64); 13] = [
    ([1, 1, 1, 1, 2, 3], Mask::Causal, 5.0, true, 1.0),
    ([2, 5, 4, 2, 3, 1], Mask::Causal, 0.0, false, 1.0),
    ([1, 65, 6, 3, 8, 5], Mask::Causal, 0.0, true, 1.0),
    ([1, 129, 3, 1, 8, 20], Mask::Full, 0.0, true, 1.0),
    ([2, 65, 4, 2, 16, 16], Mask::Causal, 2.0, false, 2.0),
    ([1, 130, 5, 5, 6, 4], Mask::Window(70), 3.0, true, 1.0),
    ([2, 65, 3, 3, 5, 7], Mask::Full, 1.0, false, 1.0),
    // Scores far beyond the cap, whose slope is almost 0 there.
    ([1, 17, 2, 1, 8, 8], Mask::Causal, 1.0, false, 3.0),
    ([4, 65, 8, 4, 6, 10], Mask::Causal, 30.0, true, 1.0),
    ([1, 300, 2, 1, 4, 6], Mask::Window(3), 0.0, true, 1.0),
    ([1, 70, 2, 1, 32, 32], Mask::Causal, 5.0, true, 1.0),
    ([1, 70, 2, 1, 64, 64], Mask::Full, 2.0, false, 2.0),
    ([1, 70, 1, 1, 128, 128], Mask::Window(9), 0.0, true, 1.0),
];

fn shaped_attention(
    &([b, s, h, g, d, e], mask, cap, alibi, magnitude): &([u64; 6], Mask, f64, bool, f64),
) -> Sample {
    let scores = Scores {
        softcap: (cap != 0.0).then(|| Real::new(cap)),
        alibi,
        ..Scores::new(mask, Real::new(1.0 / (d as f64).sqrt()))
    };
    let operands = vec![
        real("q", &[b, s, h, d], magnitude),
        real("k", &[b, s, g, d], magnitude),
        real("v", &[b, s, g, e], 1.0),
    ];
    let results = vec![TensorType::f32(&[b, s, h, e]), TensorType::f32(&[b, h, s])];
    let shape = format!("batch {b}, seq {s}, heads {h}/{g}, dims {d} and {e}");
    let name = format!("{shape}, {mask}, cap {cap}, alibi {alibi}, up to {magnitude}");
    Sample::new(name, Op::Attention { scores }, operands, results)
}

/// As [`ATTENTIONS`], with the number of pairs that are turned back, which gradients, and whether pairs are neighbours.
type Turned = ([u64; 5], Mask, u64, [bool; 2], bool);
const TURNED: [Turned; 13] = [
    ([1, 1, 1, 1, 2], Mask::Causal, 1, [true, true], false),
    ([2, 5, 4, 2, 3], Mask::Causal, 1, [true, true], true),
    ([1, 65, 6, 1, 8], Mask::Causal, 4, [true, false], true),
    ([2, 65, 3, 3, 5], Mask::Full, 2, [false, true], false),
    ([1, 129, 2, 1, 33], Mask::Window(70), 16, [true, true], false),
    ([4, 65, 8, 4, 6], Mask::Causal, 3, [true, true], false),
    // What is turned where matrix units store it: all of a head, a part of it, one of the two.
    ([2, 140, 2, 1, 32], Mask::Causal, 16, [true, true], false),
    ([1, 65, 3, 3, 32], Mask::Causal, 8, [true, true], true),
    ([1, 70, 4, 2, 64], Mask::Causal, 32, [true, true], false),
    ([1, 65, 2, 2, 64], Mask::Full, 8, [true, false], false),
    ([1, 70, 2, 1, 96], Mask::Causal, 48, [false, true], false),
    ([1, 70, 2, 1, 128], Mask::Causal, 64, [true, true], false),
    // Pairs that are no whole groups of eight.
    ([1, 65, 2, 1, 64], Mask::Causal, 20, [true, true], false),
];

pub(super) fn attention_backward() -> Vec<Sample> {
    attention().into_iter().map(backward).chain(TURNED.iter().map(turned_back)).collect()
}

/// The derivative of a sample of attention.
fn backward(forward: Sample) -> Sample {
    let Op::Attention { scores } = forward.op else { panic!("a sample of attention") };
    let results = evaluate(&forward.op, &forward.values(), &[]);
    let [q, k, v] = &forward.operands[..] else { panic!("three operands") };
    let out = given(&forward.results[0].shape.extents(), results[0].clone());
    let lse = given(&forward.results[1].shape.extents(), results[1].clone());
    let dout = real("dout", &forward.results[0].shape.extents(), 1.0);
    let types = vec![q.ty.clone(), k.ty.clone(), v.ty.clone()];
    let operands = vec![dout, q.clone(), k.clone(), v.clone(), out, lse];
    let op = Op::AttentionBackward { scores, turned_back: None };
    Sample::new(forward.name, op, operands, types)
}

/// A sample of the derivative with gradients turned back.
fn turned_back(&(extents, mask, pairs, [queries, keys], interleaved): &Turned) -> Sample {
    let sample = backward(plain_attention(&(extents, mask, 1.0)));
    let turned = TurnedBack { queries, keys, interleaved };
    let Op::AttentionBackward { scores, .. } = sample.op else { panic!("a derivative") };
    let mut operands = sample.operands;
    operands.extend(tables(operands[1].ty.shape.extents()[1], pairs));
    let op = Op::AttentionBackward { scores, turned_back: Some(turned) };
    let name =
        format!("batch, seq, heads, groups, dim {extents:?}, {mask}, {pairs} pairs {turned}");
    Sample::new(name, op, operands, sample.results)
}
