//! The pass fuse on random graphs: every output keeps its meaning, instruction by instruction, and the arena does not grow.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

#[path = "common/hand.rs"]
mod hand;
#[path = "common/meaning.rs"]
mod meaning;

use std::cell::Cell;

use colac_compiler::graph::{Graph, PrintOptions, Value, View};
use colac_compiler::passes::{fuse, memory, place, schedule};
use colac_compiler::spec::FuseRule;
use colac_plan::pointwise::Program;
use colac_plan::program::Phase;
use colac_plan::{DType, Op};
use hand::{Hand, bias, causal, outputs, product_gradients, rms_norm, sigmoid, silu};
use meaning::meanings;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// What a random node is, and which earlier values it reads (modulo their number).
#[derive(Clone, Debug)]
enum Step {
    Source(u64),
    Unary(usize, bool),
    /// A function of this value and the nearest earlier one of the same shape; of both results or one.
    Binary(usize, usize, bool),
    Bias(usize),
    Linear(usize, u64),
    Norm(usize, bool),
    /// The derivative of an earlier norm, and the addition of the gradient that came around it.
    NormBackward(usize, usize, bool),
    /// The derivative of attention over values of one shape, with rotations behind its gradients: none, back, or on.
    AttentionBackward([usize; 4], [u8; 2], bool),
    Control(usize, usize),
    Output(usize),
    /// From here on nodes belong to recompute regions and the backward pass.
    Backward,
}

fn step() -> impl Strategy<Value = Step> {
    let pick = || any::<usize>();
    let width = || prop::sample::select(vec![4u64, 20, 200]);
    prop_oneof![
        1 => width().prop_map(Step::Source),
        4 => (pick(), any::<bool>()).prop_map(|(x, silu)| Step::Unary(x, silu)),
        6 => (pick(), pick(), any::<bool>()).prop_map(|(a, b, two)| Step::Binary(a, b, two)),
        2 => pick().prop_map(Step::Bias),
        3 => (pick(), width()).prop_map(|(x, w)| Step::Linear(x, w)),
        2 => (pick(), any::<bool>()).prop_map(|(x, gain)| Step::Norm(x, gain)),
        2 => (pick(), pick(), any::<bool>())
            .prop_map(|(norm, dy, sum)| Step::NormBackward(norm, dy, sum)),
        2 => (any::<[usize; 4]>(), [0u8..6, 0u8..6], any::<bool>())
            .prop_map(|(read, turned, tables)| Step::AttentionBackward(read, turned, tables)),
        1 => (pick(), pick()).prop_map(|(a, b)| Step::Control(a, b)),
        1 => pick().prop_map(Step::Output),
        1 => Just(Step::Backward),
    ]
}

/// A random graph; `phases` decides which region a node behind [`Step::Backward`] belongs to, `narrow` which program's
/// results are stored as bf16.
fn built(steps: &[Step], phases: u64, narrow: u64) -> Graph {
    let mut hand = Hand::new();
    let mut values = vec![hand.source(4)];
    // x, gain and statistic.
    let mut norms: Vec<(Value, Option<Value>, Value)> = Vec::new();
    let mut behind = false;
    for (i, step) in steps.iter().enumerate() {
        let at = |i: &usize| values[i % values.len()];
        let alike = |hand: &Hand, a: Value, b: &usize| {
            let same = |v: &&Value| hand.graph.ty(**v).shape.same_extents(&hand.graph.ty(a).shape);
            values[..=b % values.len()].iter().rev().find(same).copied().unwrap_or(a)
        };
        let phase = match (behind, phases >> (i % 64) & 1) {
            (false, _) => Phase::Forward,
            (true, 0) => Phase::Backward,
            (true, _) => Phase::Recompute(0),
        };
        let stored = |mut program: Program| {
            if narrow >> (i % 64) & 1 == 1 {
                program.outputs.iter_mut().for_each(|output| output.dtype = DType::Bf16);
            }
            Op::Pointwise { program }
        };
        let made = match step {
            Step::Source(width) => vec![hand.source(*width)],
            Step::Unary(x, is_silu) => {
                let program = if *is_silu { silu() } else { sigmoid() };
                hand.ops(stored(program), &[at(x)], phase)
            }
            Step::Binary(a, b, two) => {
                let a = at(a);
                let b = alike(&hand, a, b);
                match two {
                    true => hand.ops(stored(product_gradients()), &[a, b, a], phase),
                    false => hand.ops(stored(Program::sum(2)), &[a, b], phase),
                }
            }
            Step::Bias(x) => {
                let x = at(x);
                let row = hand.parameter(&[hand.graph.ty(x).shape.width()]);
                hand.ops(stored(bias()), &[x, row], phase)
            }
            Step::Linear(x, width) => {
                let x = at(x);
                let weight = hand.parameter(&[*width, hand.graph.ty(x).shape.width()]);
                hand.ops(Op::Linear, &[x, weight], phase)
            }
            Step::Norm(x, gain) => {
                let x = at(x);
                let w = gain.then(|| hand.parameter(&[hand.graph.ty(x).shape.width()]));
                let read: Vec<Value> = [x].into_iter().chain(w).collect();
                let results = hand.ops(rms_norm(*gain), &read, phase);
                norms.push((x, w, results[1]));
                results[..1].to_vec()
            }
            Step::NormBackward(norm, dy, sum) => {
                if norms.is_empty() || !behind {
                    continue;
                }
                let (x, w, rstd) = norms[norm % norms.len()];
                let dy = alike(&hand, x, dy);
                let read: Vec<Value> = [dy, x].into_iter().chain(w).chain([rstd]).collect();
                let op = Op::RmsNormBackward { gain: w.is_some(), epilogue: None };
                let results = hand.ops(op, &read, Phase::Backward);
                outputs(&mut hand, &results[1..]);
                match sum {
                    true => hand.ops(stored(Program::sum(2)), &[dy, results[0]], Phase::Backward),
                    false => results[..1].to_vec(),
                }
            }
            Step::AttentionBackward([q, k, v, dout], turned, tables) => {
                if !behind {
                    continue;
                }
                let q = at(q);
                let [k, v, dout] = [k, v, dout].map(|value| alike(&hand, q, value));
                let back = Phase::Backward;
                let split = View::SplitHeads { head_dim: 4 };
                let [q, k, v, dout] = [q, k, v, dout].map(|x| hand.view_in(split, x, back));
                let forward = hand.ops(Op::Attention { scores: causal() }, &[q, k, v], back);
                let op = Op::AttentionBackward { scores: causal(), turned_back: None };
                let read = [dout, q, k, v, forward[0], forward[1]];
                let gradients = hand.ops(op, &read, back);
                let all = [2, 1].map(|pairs| hand.tables(pairs, 100.0));
                let mut made = Vec::new();
                for (i, &gradient) in gradients.iter().enumerate() {
                    // Mostly back, and mostly by the same tables.
                    let form = turned.get(i).copied().unwrap_or(0);
                    let [cos, sin] = all[usize::from(*tables && i == 1)];
                    let op = Op::Rope { inverse: form != 1, interleaved: form == 2 };
                    let turned = match form {
                        0 => gradient,
                        _ => hand.ops(op, &[gradient, cos, sin], back)[0],
                    };
                    made.push(hand.view_in(View::MergeHeads, turned, back));
                }
                outputs(&mut hand, &made[1..]);
                made
            }
            Step::Control(a, b) => {
                let (a, b) = (at(a).node, at(b).node);
                if a != b {
                    hand.graph.add_control(a.min(b), a.max(b));
                }
                continue;
            }
            Step::Output(x) => {
                let x = at(x);
                outputs(&mut hand, &[x]);
                continue;
            }
            Step::Backward => {
                behind = true;
                continue;
            }
        };
        values.extend(made);
    }
    let last = *values.last().unwrap();
    outputs(&mut hand, &[last]);
    hand.graph.verify().unwrap();
    hand.graph
}

/// On every random graph, with every subset of the rules.
#[test]
fn outputs_keep_their_meaning_and_the_arena_does_not_grow() {
    let config = Config { cases: 2000, failure_persistence: None, ..Config::default() };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let joined = FuseRule::ALL.map(|_| Cell::new(0));
    let input = (prop::collection::vec(step(), 1..60), any::<[u64; 2]>(), 0u8..64);
    runner
        .run(&input, |(steps, [phases, narrow], subset)| {
            let graph = built(&steps, phases, narrow);
            let rules: Vec<FuseRule> = (FuseRule::ALL.into_iter().enumerate())
                .filter(|(i, _)| subset >> i & 1 == 1)
                .map(|(_, rule)| rule)
                .collect();
            let mut fused = graph.clone();
            let outcomes = fuse::run(&mut fused, &rules);
            prop_assert_eq!(fused.verify(), Ok(()));
            prop_assert_eq!(meanings(&fused), meanings(&graph));
            let planned = |graph: &Graph| {
                let mut graph = graph.clone();
                place::run(&mut graph);
                memory::run(&graph, &schedule::run(&graph)).bytes
            };
            for outcome in &outcomes {
                let (place, rule) =
                    (FuseRule::ALL.iter().position(|r| *r == outcome.rule), outcome);
                prop_assert!(rules.contains(&rule.rule));
                if rule.after <= rule.before {
                    let count = &joined[place.unwrap()];
                    count.set(count.get() + rule.places);
                }
            }
            if let Some(first) = outcomes.first() {
                let mut kept = outcomes.iter().filter(|o| o.after <= o.before).map(|o| o.after);
                prop_assert!(
                    planned(&fused) <= kept.next_back().unwrap_or(first.before).min(first.before)
                );
            }
            let mut again = graph.clone();
            prop_assert_eq!(fuse::run(&mut again, &rules), outcomes);
            prop_assert_eq!(
                again.print(PrintOptions::default()),
                fused.print(PrintOptions::default())
            );
            Ok(())
        })
        .unwrap();
    let joined = joined.map(Cell::into_inner);
    assert!(joined.iter().all(|&places| places > 10), "rules hardly ever apply: {joined:?}");
}
