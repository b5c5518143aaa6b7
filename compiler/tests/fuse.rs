//! What the pass fuse promises on graphs made by hand: the examples in the headers of its rules, and what they must leave
//! alone. Random graphs are in `fuse_random.rs`.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

#[path = "common/hand.rs"]
mod hand;
#[path = "common/meaning.rs"]
mod meaning;

use colac_compiler::graph::{Graph, PrintOptions, Scope, Value, View};
use colac_compiler::passes::fuse::{self, Outcome};
use colac_compiler::spec::FuseRule;
use colac_plan::Op;
use colac_plan::op::Real;
use colac_plan::pointwise::Program;
use colac_plan::program::Phase;
use hand::{Hand, bias, causal, outputs, product_gradients, rms_norm, sigmoid, silu};
use meaning::meanings;

const RECOMPUTE: Phase = Phase::Recompute(0);

/// The lines of a graph without types and comments.
fn lines(graph: &Graph) -> Vec<String> {
    graph.verify().unwrap();
    let text = graph.print(PrintOptions::default());
    let operations = text.lines().filter(|line| line.starts_with('%'));
    operations.map(|line| line.split(" : ").next().unwrap().to_owned()).collect()
}

fn fused(hand: &Hand, rules: &[FuseRule]) -> (Vec<String>, Vec<Outcome>) {
    let mut graph = hand.graph.clone();
    let outcomes = fuse::run(&mut graph, rules);
    assert_eq!(meanings(&graph), meanings(&hand.graph), "an output means something else");
    (lines(&graph), outcomes)
}

// --- vertical -------------------------------------------------------------------------------

/// The example of the rule's header.
#[test]
fn a_bias_and_an_activation_become_one_program() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let y = hand.linear(x, 4);
    let b = hand.parameter(&[4]);
    let biased = hand.pointwise(bias(), &[y, b]);
    let active = hand.pointwise(silu(), &[biased]);
    let end = hand.linear(active, 3);
    outputs(&mut hand, &[end]);
    let before = lines(&hand.graph);
    assert_eq!(
        before[2..4],
        ["%2 = pointwise %1, @p3.weight { a + b }", "%3 = pointwise %2 { a * sigmoid(a) }"]
    );
    let (after, outcomes) = fused(&hand, &[FuseRule::Vertical]);
    assert_eq!(
        after,
        [
            "%0 = embedding $tokens, @p1.weight",
            "%1 = linear %0, @p2.weight",
            "%2 = pointwise %1, @p3.weight { (a + b) * sigmoid(a + b) }",
            "%3 = linear %2, @p4.weight",
        ]
    );
    assert_eq!((outcomes.len(), outcomes[0].places), (1, 1));
}

#[test]
fn what_others_read_becomes_one_more_result() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let sum = hand.pointwise(sigmoid(), &[x]);
    let active = hand.pointwise(silu(), &[sum]);
    let (a, b) = (hand.linear(active, 3), hand.linear(sum, 3));
    outputs(&mut hand, &[a, b]);
    let (after, _) = fused(&hand, &[FuseRule::Vertical]);
    assert_eq!(after[1], "%1 = pointwise %0 { sigmoid(a) * sigmoid(sigmoid(a)); sigmoid(a) }");
    assert_eq!(after[2..], ["%2 = linear %1.0, @p2.weight", "%3 = linear %1.1, @p3.weight"]);
}

/// The reader depends on another reader: as one they would wait for themselves.
#[test]
fn programs_with_something_between_them_stay_two() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let first = hand.pointwise(sigmoid(), &[x]);
    let between = hand.linear(first, 4);
    let second = hand.add(first, between);
    outputs(&mut hand, &[second]);
    let (after, outcomes) = fused(&hand, &FuseRule::ALL);
    assert_eq!(after, lines(&hand.graph));
    assert_eq!(outcomes, []);
}

#[test]
fn programs_of_different_regions_stay_two() {
    for (first, second) in [(Phase::Forward, Phase::Backward), (Phase::Forward, RECOMPUTE)] {
        let mut hand = Hand::new();
        let x = hand.source(4);
        let y = hand.ops(Op::Pointwise { program: sigmoid() }, &[x], first)[0];
        let z = hand.ops(Op::Pointwise { program: silu() }, &[y], second)[0];
        outputs(&mut hand, &[z]);
        assert_eq!(fused(&hand, &FuseRule::ALL).0, lines(&hand.graph));
    }
}

/// Over the border of two turns a program joins its only reader; with another one it would make that wait.
#[test]
fn a_value_of_another_turn_joins_its_only_reader() {
    for others in [false, true] {
        let mut hand = Hand::new();
        let turn = |hand: &mut Hand, index| {
            let (path, label) = (format!("layers.{index}"), "layers".into());
            Some(hand.graph.add_scope(Scope { path, label, index, parent: None }))
        };
        let (one, two) = (turn(&mut hand, 0), turn(&mut hand, 1));
        let x = hand.source(4);
        let unary = |hand: &mut Hand, x, scope| {
            let op = Op::Pointwise { program: sigmoid() };
            hand.graph.op(op, &[x], Hand::origin(), Phase::Forward, scope).unwrap()[0]
        };
        let y = unary(&mut hand, x, one);
        let z = unary(&mut hand, y, two);
        outputs(&mut hand, &[z]);
        if others {
            let end = hand.linear(y, 2);
            outputs(&mut hand, &[end]);
        }
        let (after, _) = fused(&hand, &[FuseRule::Vertical]);
        assert_eq!(after != lines(&hand.graph), !others);
    }
}

// --- remake ---------------------------------------------------------------------------------

/// The reader has the gate, so it can make the activation again; when the forward product has taken the activation in,
/// nothing keeps it.
#[test]
fn the_backward_pass_of_a_gate_reads_the_gate_alone() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let (gate, up) = (hand.linear(x, 4), hand.linear(x, 4));
    let active = hand.pointwise(silu(), &[gate]);
    let product = hand.pointwise(Program::product(), &[active, up]);
    let end = hand.linear(product, 4);
    let both = hand.ops(
        Op::Pointwise { program: product_gradients() },
        &[active, up, end],
        Phase::Backward,
    );
    let dg =
        hand.ops(Op::Pointwise { program: Program::product() }, &[gate, both[0]], Phase::Backward)
            [0];
    outputs(&mut hand, &[dg, both[1]]);
    let (after, _) = fused(&hand, &[FuseRule::Remake, FuseRule::Vertical]);
    assert_eq!(
        after[1..],
        [
            "%1 = linear %0, @p2.weight",
            "%2 = linear %0, @p3.weight",
            "%3 = pointwise %1, %2 { a * sigmoid(a) * b }",
            "%4 = linear %3, @p4.weight",
            "%5 = pointwise %1, %2, %4 { a * (c * b); c * (a * sigmoid(a)) }",
        ]
    );
    // Alone the rule finds nothing: no program reads both the gate and what is made of it.
    assert_eq!(fused(&hand, &[FuseRule::Remake]).0, lines(&hand.graph));
}

/// The example of the rule's header.
#[test]
fn a_value_is_made_again_from_what_is_read_anyway() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let y = hand.pointwise(silu(), &[x]);
    let end = hand.linear(y, 4);
    let sum = Op::Pointwise { program: Program::sum(3) };
    let z = hand.ops(sum, &[x, y, end], Phase::Backward)[0];
    outputs(&mut hand, &[z]);
    let (after, _) = fused(&hand, &[FuseRule::Remake]);
    assert_eq!(
        after[1..],
        [
            "%1 = pointwise %0 { a * sigmoid(a) }",
            "%2 = linear %1, @p2.weight",
            "%3 = pointwise %0, %2 { a + a * sigmoid(a) + b }",
        ]
    );
}

/// Rows of the model are there for every reader.
#[test]
fn a_biased_value_is_made_again() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let b = hand.parameter(&[4]);
    let y = hand.pointwise(bias(), &[x, b]);
    let end = hand.linear(y, 4);
    let z = hand.ops(Op::Pointwise { program: Program::sum(3) }, &[x, y, end], Phase::Backward)[0];
    outputs(&mut hand, &[z]);
    let (after, _) = fused(&hand, &[FuseRule::Remake]);
    assert_eq!(after[1], "%1 = pointwise %0, @p2.weight { a + b }", "the product reads it still");
    assert_eq!(after[3], "%3 = pointwise %0, @p2.weight, %2 { a + (a + b) + c }");
}

// --- horizontal -----------------------------------------------------------------------------

/// The example of the rule's header: σ(z) again, for the gradient of the matrix that reads it, beside the gradient of z.
/// `held` is what must come before the clone.
fn recomputed(hand: &mut Hand, also_recompute: bool) -> Value {
    let x = hand.source(4);
    let z = hand.linear(x, 4);
    let gradient = hand.linear(x, 4);
    let clone = hand.ops(Op::Pointwise { program: silu() }, &[z], RECOMPUTE)[0];
    hand.graph.add_control(gradient.node, clone.node);
    let weight = hand.parameter(&[4, 4]);
    let d = hand.ops(Op::LinearBackwardInput, &[gradient, weight], Phase::Backward)[0];
    let dz = hand.ops(Op::Pointwise { program: Program::product() }, &[z, d], Phase::Backward)[0];
    let dw = hand.ops(Op::LinearBackwardWeight, &[gradient, clone], Phase::Backward)[0];
    outputs(hand, &[dz, dw]);
    if also_recompute {
        let again = hand.ops(Op::Linear, &[clone, weight], RECOMPUTE)[0];
        outputs(hand, &[again]);
    }
    clone
}

#[test]
fn an_activation_made_again_joins_the_program_of_its_gradient() {
    let mut hand = Hand::new();
    recomputed(&mut hand, false);
    let mut graph = hand.graph.clone();
    let outcomes = fuse::run(&mut graph, &[FuseRule::Horizontal]);
    assert_eq!(outcomes.iter().map(|o| o.places).collect::<Vec<_>>(), [1]);
    assert_eq!(
        lines(&graph)[3..],
        [
            "%3 = linear_backward_input %2, @p4.weight",
            "%4 = pointwise %1, %3 { a * b; a * sigmoid(a) }",
            "%5 = linear_backward_weight %2, %4.1",
        ]
    );
    let joined = graph.nodes().find(|n| n.results.len() == 2).unwrap();
    assert_eq!(joined.phase, Phase::Backward);
    assert_eq!(graph.controls(joined.id).len(), 1, "what held the clone back holds both");
    assert_eq!(meanings(&graph), meanings(&hand.graph));
}

/// A gradient that reads what is made again, and reads it alone, takes it in.
#[test]
fn what_only_a_gradient_reads_again_is_not_stored() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let (z, d) = (hand.linear(x, 4), hand.linear(x, 4));
    let clone = hand.ops(Op::Pointwise { program: silu() }, &[z], RECOMPUTE)[0];
    let dz = Op::Pointwise { program: Program::sum(3) };
    let dz = hand.ops(dz, &[z, clone, d], Phase::Backward)[0];
    outputs(&mut hand, &[dz]);
    let (after, _) = fused(&hand, &[FuseRule::Horizontal]);
    assert_eq!(after[3..], ["%3 = pointwise %1, %2 { a + a * sigmoid(a) + b }"]);
}

/// A value that the region goes on with must not wait for a gradient.
#[test]
fn what_a_recompute_region_goes_on_with_stays() {
    let mut hand = Hand::new();
    recomputed(&mut hand, true);
    assert_eq!(fused(&hand, &[FuseRule::Horizontal]).0, lines(&hand.graph));
}

/// The product of a gate made again, and both gradients.
#[test]
fn a_gated_product_joins_the_gradients_of_the_gate() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let (g, u, d) = (hand.linear(x, 4), hand.linear(x, 4), hand.linear(x, 4));
    let h = hand.ops(Op::Pointwise { program: Program::product() }, &[g, u], RECOMPUTE)[0];
    let both =
        hand.ops(Op::Pointwise { program: product_gradients() }, &[g, u, d], Phase::Backward);
    let dw = hand.ops(Op::LinearBackwardWeight, &[d, h], Phase::Backward)[0];
    outputs(&mut hand, &[both[0], both[1], dw]);
    let (after, _) = fused(&hand, &[FuseRule::Horizontal]);
    assert_eq!(
        after[4..],
        [
            "%4 = pointwise %1, %2, %3 { c * b; c * a; a * b }",
            "%5 = linear_backward_weight %3, %4.2"
        ]
    );
}

#[test]
fn programs_that_read_different_values_stay_apart() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let (a, b, c) = (hand.linear(x, 4), hand.linear(x, 4), hand.linear(x, 4));
    let (one, other) = (hand.add(a, b), hand.add(b, c));
    outputs(&mut hand, &[one, other]);
    assert_eq!(fused(&hand, &FuseRule::ALL).0, lines(&hand.graph));
}

// --- norms ----------------------------------------------------------------------------------

/// The example of the rule's header, for both norms.
#[test]
fn a_residual_addition_joins_the_norm_that_follows() {
    let layer_norm =
        Op::LayerNorm { epsilon: Real::new(1e-6), gain: true, bias: false, prologue: None };
    for (norm, name, stream) in
        [(rms_norm(true), "rms_norm", 2), (layer_norm, "layer_norm no_bias", 3)]
    {
        let mut hand = Hand::new();
        let x = hand.source(4);
        let y = hand.linear(x, 4);
        let sum = hand.add(x, y);
        let w = hand.parameter(&[4]);
        let normed = hand.op(norm, &[sum, w]);
        let end = hand.linear(normed, 4);
        let next = hand.add(sum, end);
        outputs(&mut hand, &[next]);
        let (after, _) = fused(&hand, &[FuseRule::Norm]);
        let (name, missing) = name
            .split_once(' ')
            .map_or((name, String::new()), |(name, missing)| (name, format!(" {missing}")));
        assert_eq!(
            after[2..],
            [
                format!("%2 = {name} %0, %1, @p3.weight epsilon=0.000001{missing} x={{ a + b }}"),
                "%3 = linear %2.0, @p4.weight".into(),
                format!("%4 = pointwise %2.{stream}, %3 {{ a + b }}"),
            ]
        );
    }
}

/// The example of the rule's header: the gradient that came around the norm, which other operations read as well.
#[test]
fn a_residual_gradient_joins_the_derivative_of_the_norm() {
    for read_elsewhere in [false, true] {
        let mut hand = Hand::new();
        let x = hand.source(4);
        let w = hand.parameter(&[4]);
        let normed = hand.ops(rms_norm(true), &[x, w], Phase::Forward);
        let around = hand.linear(x, 4);
        let back = Op::RmsNormBackward { gain: true, epilogue: None };
        let through = hand.ops(back, &[around, x, w, normed[1]], Phase::Backward);
        let sum = hand.ops(
            Op::Pointwise { program: Program::sum(2) },
            &[around, through[0]],
            Phase::Backward,
        )[0];
        outputs(&mut hand, &[sum, through[1]]);
        if read_elsewhere {
            outputs(&mut hand, &[through[0]]);
        }
        let (after, _) = fused(&hand, &[FuseRule::NormBackward]);
        let joined = "rms_norm_backward %2, %0, @p2.weight, %1.1, %2 dx={ b + a }";
        assert_eq!(after.iter().any(|line| line.ends_with(joined)), !read_elsewhere, "{after:?}");
    }
}

// --- attention-backward ---------------------------------------------------------------------

/// What differs from the example of the rule's header.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Unlike {
    Nothing,
    /// The gradients of queries or of keys are read before they are turned.
    ReadElsewhere(usize),
    /// The keys are turned by other tables.
    OtherTables,
    /// The keys are turned in other pairs.
    OtherPairs,
    /// The keys are turned on.
    Forward,
    /// The keys have not been turned.
    QueriesOnly,
    /// Turning the keys' gradient has to wait.
    Ordered,
}

/// The lines of attention's derivative and of what is turned behind it, joined.
fn turned_back(unlike: Unlike) -> Vec<String> {
    let mut hand = Hand::new();
    let heads = |hand: &mut Hand| {
        let x = hand.source(8);
        hand.view(View::SplitHeads { head_dim: 4 }, x)
    };
    let (q, k, dout) = (heads(&mut hand), heads(&mut hand), heads(&mut hand));
    let tables = hand.tables(2, 10_000.0);
    let others = hand.tables(2, 500.0);
    let forward = hand.ops(Op::Attention { scores: causal() }, &[q, k, k], Phase::Forward);
    let back = Op::AttentionBackward { scores: causal(), turned_back: None };
    let read = [dout, q, k, k, forward[0], forward[1]];
    let gradients = hand.ops(back, &read, Phase::Backward);
    let mut ends = vec![gradients[2]];
    for (result, &gradient) in gradients[..2].iter().enumerate() {
        let keys = result == 1;
        let [cos, sin] = if keys && unlike == Unlike::OtherTables { others } else { tables };
        let op = Op::Rope {
            inverse: !(keys && unlike == Unlike::Forward),
            interleaved: keys && unlike == Unlike::OtherPairs,
        };
        if keys && unlike == Unlike::QueriesOnly {
            ends.push(gradient);
            continue;
        }
        let turned = hand.ops(op, &[gradient, cos, sin], Phase::Backward)[0];
        if unlike == Unlike::ReadElsewhere(result) {
            ends.push(gradient);
        }
        if keys && unlike == Unlike::Ordered {
            let first = hand.source(4);
            hand.graph.add_control(first.node, turned.node);
            ends.push(first);
        }
        ends.push(turned);
    }
    outputs(&mut hand, &ends);
    let (after, outcomes) = fused(&hand, &[FuseRule::AttentionBackward]);
    assert!(outcomes.iter().all(|outcome| outcome.after <= outcome.before), "{outcomes:?}");
    let behind = |line: &&String| line.contains("attention_backward") || line.contains("rope");
    let operation = |line: &String| line.split_once(" = ").unwrap().1.to_owned();
    after.iter().filter(behind).map(operation).collect()
}

/// The example of the rule's header, and how far it goes where something is unlike it.
#[test]
fn attention_turns_its_gradients_back() {
    let cases = [
        (Unlike::Nothing, "turned_back=dq,dk", None),
        (Unlike::ReadElsewhere(0), "turned_back=dk", Some("rope %9.0, %6, %7 inverse")),
        (Unlike::ReadElsewhere(1), "turned_back=dq", Some("rope %9.1, %6, %7 inverse")),
        (Unlike::OtherTables, "turned_back=dq", Some("rope %11.1, %8, %9 inverse")),
        (Unlike::OtherPairs, "turned_back=dq", Some("rope %9.1, %6, %7 inverse interleaved")),
        (Unlike::Forward, "turned_back=dq", Some("rope %9.1, %6, %7")),
        (Unlike::QueriesOnly, "turned_back=dq", None),
        (Unlike::Ordered, "turned_back=dq", Some("rope %9.1, %6, %7 inverse")),
    ];
    for (unlike, turned, apart) in cases {
        let lines = turned_back(unlike);
        let read = match unlike {
            Unlike::OtherTables => "%5, %1, %3, %3, %10.0, %10.1, %6, %7",
            _ => "%5, %1, %3, %3, %8.0, %8.1, %6, %7",
        };
        let joined = format!("attention_backward {read} mask=causal scale=0.5 {turned}");
        let expected: Vec<&str> = [joined.as_str()].into_iter().chain(apart).collect();
        assert_eq!(lines, expected, "{unlike:?}");
    }
}

// --- the pass -------------------------------------------------------------------------------

#[test]
fn without_rules_nothing_is_touched() {
    let mut hand = Hand::new();
    recomputed(&mut hand, false);
    let (after, outcomes) = fused(&hand, &[]);
    assert_eq!((after, outcomes.len()), (lines(&hand.graph), 0));
}

/// As one program both operands of the sum would have to live while the wide value does.
#[test]
fn what_needs_more_bytes_is_put_back() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let (a, b) = (hand.linear(x, 600), hand.linear(x, 600));
    let (c, d) = (hand.linear(a, 4), hand.linear(b, 4));
    let sum = hand.add(a, b);
    let both = hand.add(c, d);
    let wide = hand.linear(both, 2000);
    let late = hand.linear(wide, 600);
    let end = hand.add(sum, late);
    let last = hand.linear(end, 4);
    outputs(&mut hand, &[last]);
    let (after, outcomes) = fused(&hand, &[FuseRule::Vertical]);
    assert_eq!(after, lines(&hand.graph));
    assert!(matches!(outcomes[..], [Outcome { places: 1, before, after, .. }] if after > before));
}
