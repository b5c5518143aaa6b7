//! What the headers of simplify, autodiff, schedule and memory promise, on small graphs and random ones. The pass cola
//! is in `cola.rs`.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

use std::cell::Cell;

use colac_compiler::graph::{
    Graph, Input, NodeId, NodeKind, Origin, Output, ParameterInfo, PrintOptions, Value, View,
};
use colac_compiler::passes::{autodiff, codes, memory, precision, schedule, simplify};
use colac_compiler::spec::Precision;
use colac_plan::op::Real;
use colac_plan::parameter::{CheckpointName, Initialization, Role};
use colac_plan::pointwise::{Binary, Builder, InputForm, Program, Unary};
use colac_plan::program::Phase;
use colac_plan::{DType, Op, Shape, TensorType};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

// --- graphs made by hand --------------------------------------------------------------------

/// A graph under construction whose values are `[2, 3, width]`.
struct Hand {
    graph: Graph,
    parameters: usize,
}

impl Hand {
    fn new() -> Hand {
        Hand { graph: Graph::new(), parameters: 0 }
    }

    fn origin() -> Origin {
        Origin { path: String::new(), span: None, pass: "test" }
    }

    fn parameter(&mut self, extents: &[u64]) -> Value {
        self.parameters += 1;
        let path = format!("p{}.weight", self.parameters);
        let info = ParameterInfo {
            path: path.clone(),
            ty: TensorType::f32(extents),
            initialization: Initialization::Constant { value: Real::new(0.0) },
            role: Role::Matrix,
            checkpoint: CheckpointName { name: path, transposed: false, part: None },
            unjoined: None,
            scope: None,
        };
        self.graph.parameter(info, Hand::origin()).1
    }

    fn ops(&mut self, op: Op, operands: &[Value], phase: Phase) -> Vec<Value> {
        self.graph.op(op, operands, Hand::origin(), phase, None).unwrap()
    }

    fn op(&mut self, op: Op, operands: &[Value]) -> Value {
        self.ops(op, operands, Phase::Forward)[0]
    }

    /// Rows of a table: a value that needs an operation.
    fn source(&mut self, width: u64) -> Value {
        let ids = TensorType::new(DType::I32, Shape::of(&[2, 3]));
        let tokens = self.graph.input(Input::Tokens, ids, Hand::origin());
        let table = self.parameter(&[5, width]);
        self.op(Op::Embedding, &[tokens, table])
    }

    fn linear(&mut self, x: Value, width: u64) -> Value {
        let inputs = self.graph.ty(x).shape.width();
        let weight = self.parameter(&[width, inputs]);
        self.op(Op::Linear, &[x, weight])
    }

    fn pointwise(&mut self, program: Program, operands: &[Value]) -> Value {
        self.op(Op::Pointwise { program }, operands)
    }

    fn add(&mut self, a: Value, b: Value) -> Value {
        self.pointwise(Program::sum(2), &[a, b])
    }

    fn view(&mut self, view: View, x: Value) -> Value {
        self.graph.view(view, x, Hand::origin(), Phase::Forward, None).unwrap()
    }
}

fn sigmoid() -> Program {
    Program::unary(|builder, x| builder.unary(Unary::Sigmoid, x))
}

// --- simplify -------------------------------------------------------------------------------

/// The example of the pass's header.
#[test]
fn simplify_merges_what_is_computed_twice() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let w = hand.parameter(&[4]);
    let epsilon = Real::new(1e-6);
    let first = hand.op(Op::RmsNorm { epsilon, gain: true, prologue: None }, &[x, w]);
    let second = hand.op(Op::RmsNorm { epsilon, gain: true, prologue: None }, &[x, w]);
    let other =
        hand.op(Op::RmsNorm { epsilon: Real::new(1e-5), gain: true, prologue: None }, &[x, w]);
    let sum = hand.pointwise(Program::sum(3), &[first, second, other]);
    hand.graph.add_output(Output::Logits, sum);
    simplify::run(&mut hand.graph);
    hand.graph.verify().unwrap();
    assert_eq!(hand.graph.operands(sum.node), [first, first, other]);
    assert!(!hand.graph.contains(second.node));
}

/// What becomes equal by a merge is merged too.
#[test]
fn simplify_merges_chains() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let w = hand.parameter(&[4, 4]);
    let chain = |hand: &mut Hand| {
        let y = hand.op(Op::Linear, &[x, w]);
        let z = hand.pointwise(sigmoid(), &[y]);
        hand.pointwise(sigmoid(), &[z])
    };
    let (a, b) = (chain(&mut hand), chain(&mut hand));
    let sum = hand.add(a, b);
    hand.graph.add_output(Output::Logits, sum);
    let before = hand.graph.len();
    simplify::run(&mut hand.graph);
    assert_eq!(hand.graph.operands(sum.node), [a, a]);
    assert_eq!(hand.graph.len(), before - 3);
}

#[test]
fn simplify_keeps_phases_apart() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let w = hand.parameter(&[4, 4]);
    let mut linear = |phase| hand.ops(Op::Linear, &[x, w], phase)[0];
    let values = [
        linear(Phase::Forward),
        linear(Phase::Recompute(0)),
        linear(Phase::Recompute(1)),
        linear(Phase::Recompute(1)),
        linear(Phase::Backward),
    ];
    let sum = hand.ops(Op::Pointwise { program: Program::sum(5) }, &values, Phase::Backward)[0];
    hand.graph.add_output(Output::Logits, sum);
    simplify::run(&mut hand.graph);
    let [forward, zero, one, _, backward] = values;
    assert_eq!(hand.graph.operands(sum.node), [forward, zero, one, one, backward]);
}

#[test]
fn simplify_keeps_what_waits_for_different_nodes_apart() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let gate = hand.linear(x, 4);
    let (a, b) = (hand.pointwise(sigmoid(), &[x]), hand.pointwise(sigmoid(), &[x]));
    hand.graph.add_control(gate.node, b.node);
    let sum = hand.pointwise(Program::sum(3), &[a, b, gate]);
    hand.graph.add_output(Output::Logits, sum);
    simplify::run(&mut hand.graph);
    assert_eq!(hand.graph.operands(sum.node), [a, b, gate]);
}

#[test]
fn simplify_removes_programs_that_do_nothing_and_nodes_that_nobody_needs() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let same = hand.pointwise(Program::unary(|builder, x| builder.binary(Binary::Add, x, x)), &[x]);
    let nothing = hand.pointwise(Program::unary(|_, x| x), &[same]);
    let unread = hand.linear(x, 7);
    let result = hand.pointwise(sigmoid(), &[nothing]);
    hand.graph.add_output(Output::Logits, result);
    hand.graph.add_output(Output::Loss, nothing);
    simplify::run(&mut hand.graph);
    hand.graph.verify().unwrap();
    assert_eq!(hand.graph.operands(result.node), [same]);
    assert_eq!(hand.graph.outputs(), [(Output::Logits, result), (Output::Loss, same)]);
    assert!(!hand.graph.contains(nothing.node) && !hand.graph.contains(unread.node));
    assert_eq!(hand.graph.parameters().count(), 1, "the weight of what nobody needs is gone");
}

/// A program that hands one number of a row to all of it is no identity.
#[test]
fn simplify_keeps_programs_that_spread_a_row() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let w = hand.parameter(&[4]);
    let mut builder = Builder::new();
    builder.input(InputForm::Elements);
    let row = builder.input(InputForm::Row);
    let spread = hand.pointwise(builder.finish(&[(row, DType::F32)]), &[x, w]);
    hand.graph.add_output(Output::Logits, spread);
    simplify::run(&mut hand.graph);
    assert_eq!(hand.graph.output(Output::Logits), Some(spread));
}

// --- autodiff -------------------------------------------------------------------------------

#[test]
fn autodiff_refuses_a_weight_that_is_computed() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let table = hand.parameter(&[4, 4]);
    let weight = hand.pointwise(sigmoid(), &[table]);
    let y = hand.op(Op::Linear, &[x, weight]);
    let head = hand.parameter(&[5, 4]);
    let ids = TensorType::new(DType::I32, Shape::of(&[2, 3]));
    let labels = hand.graph.input(Input::Labels, ids, Hand::origin());
    let loss = hand.op(Op::HeadLoss { chunk: 2, bias: false, transform: None }, &[y, head, labels]);
    hand.graph.add_output(Output::Loss, loss);
    hand.graph.verify().unwrap();
    let refusal = autodiff::run(&mut hand.graph).unwrap_err();
    assert_eq!(refusal.code, codes::NO_DERIVATIVE);
    assert!(
        refusal.message.contains("must be a parameter") && refusal.help.is_some(),
        "{refusal:?}"
    );
}

#[test]
fn autodiff_refuses_a_loss_that_feeds_something_else() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let head = hand.parameter(&[5, 4]);
    let ids = TensorType::new(DType::I32, Shape::of(&[2, 3]));
    let labels = hand.graph.input(Input::Labels, ids, Hand::origin());
    let loss = hand.op(Op::HeadLoss { chunk: 2, bias: false, transform: None }, &[x, head, labels]);
    hand.pointwise(sigmoid(), &[loss]);
    hand.graph.add_output(Output::Loss, loss);
    assert_eq!(autodiff::run(&mut hand.graph).unwrap_err().code, codes::NO_DERIVATIVE);
}

// --- precision ------------------------------------------------------------------------------

/// A statistic that meets a formula, another statistic, and an operation that is neither: it stays f32, what is made of it
/// and of its gradient is stored as each value is, and every operation gives what its rule says.
#[test]
fn precision_stores_statistics_in_f32_and_all_else_in_bf16() {
    for precision in [Precision::F32, Precision::Bf16, Precision::Bf16Pure] {
        let mut hand = Hand::new();
        let x = hand.source(4);
        let sums = hand.op(Op::RowSum { mean: true }, &[x]);
        let root = hand.pointwise(sigmoid(), &[sums]);
        let joined = hand.op(Op::Concat { width: 4, starts: vec![0, 2] }, &[root, sums]);
        let mut builder = Builder::new();
        let inputs = [InputForm::Elements, InputForm::Column, InputForm::Elements];
        let [a, b, c] = inputs.map(|form| builder.input(form));
        let product = builder.binary(Binary::Multiply, a, b);
        let sum = builder.binary(Binary::Add, product, c);
        let mixed = hand.pointwise(builder.finish(&[(sum, DType::F32)]), &[x, root, joined]);
        let head = hand.parameter(&[5, 4]);
        let ids = TensorType::new(DType::I32, Shape::of(&[2, 3]));
        let labels = hand.graph.input(Input::Labels, ids, Hand::origin());
        let loss = Op::HeadLoss { chunk: 2, bias: false, transform: None };
        let loss = hand.op(loss, &[mixed, head, labels]);
        hand.graph.add_output(Output::Loss, loss);
        let mut graph = hand.graph;
        precision::run(&mut graph, precision);
        let activation = precision::storage(precision, precision::Class::Activation);
        let formats = [x, sums, root, joined, mixed].map(|value| graph.ty(value).dtype);
        assert_eq!(formats, [activation, DType::F32, DType::F32, activation, activation]);
        autodiff::run(&mut graph).unwrap();
        precision::parameter_gradients(&mut graph, precision);
        graph.verify().unwrap();
        for id in graph.order() {
            let node = graph.node(id);
            let NodeKind::Op(op) = &node.kind else { continue };
            let operands: Vec<TensorType> =
                graph.operands(id).into_iter().map(|value| graph.ty(value).clone()).collect();
            let inferred = op.infer(&operands.iter().collect::<Vec<_>>()).unwrap();
            for (index, (inferred, found)) in inferred.iter().zip(&node.results).enumerate() {
                assert!(op.gives(index, inferred, found), "{precision:?}: {op:?} gives {found}");
            }
        }
        let gradient = precision::storage(precision, precision::Class::Gradient);
        let gradients = graph.outputs().iter().filter(|(o, _)| matches!(o, Output::Gradient(_)));
        let formats: Vec<DType> = gradients.map(|(_, value)| graph.ty(*value).dtype).collect();
        assert_eq!(formats, [gradient; 2], "{precision:?}");
    }
}

// --- schedule and memory on random graphs ---------------------------------------------------

/// What a random node is, and which earlier values it reads (modulo their number).
#[derive(Clone, Debug)]
enum Step {
    Source(u64),
    Unary(usize),
    /// The sum with the nearest earlier value of the same shape.
    Add(usize, usize),
    /// Two results from two operands of the same shape.
    Two(usize, usize),
    Linear(usize, u64),
    Norm(usize),
    Split(usize),
    Merge(usize),
    /// A control edge between two earlier nodes.
    Control(usize, usize),
    /// An output outside of the arena.
    Output(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let pick = || any::<usize>();
    let width = || prop::sample::select(vec![2u64, 4, 20, 100]);
    prop_oneof![
        1 => width().prop_map(Step::Source),
        3 => pick().prop_map(Step::Unary),
        4 => (pick(), pick()).prop_map(|(a, b)| Step::Add(a, b)),
        2 => (pick(), pick()).prop_map(|(a, b)| Step::Two(a, b)),
        3 => (pick(), width()).prop_map(|(x, w)| Step::Linear(x, w)),
        1 => pick().prop_map(Step::Norm),
        2 => pick().prop_map(Step::Split),
        1 => pick().prop_map(Step::Merge),
        1 => (pick(), pick()).prop_map(|(a, b)| Step::Control(a, b)),
        1 => pick().prop_map(Step::Output),
    ]
}

fn built(steps: &[Step]) -> Graph {
    let mut hand = Hand::new();
    let mut values = vec![hand.source(4)];
    for step in steps {
        let at = |i: &usize| values[i % values.len()];
        // A value of the same shape as `a`, at or before the one that `b` picks; `a` itself if there is none.
        let alike = |hand: &Hand, a: Value, b: &usize| {
            let same = |v: &&Value| hand.graph.ty(**v).shape.same_extents(&hand.graph.ty(a).shape);
            values[..=b % values.len()].iter().rev().find(same).copied().unwrap_or(a)
        };
        let made = match step {
            Step::Source(width) => vec![hand.source(*width)],
            Step::Unary(x) => {
                let x = at(x);
                vec![hand.pointwise(sigmoid(), &[x])]
            }
            Step::Add(a, b) => {
                let a = at(a);
                let b = alike(&hand, a, b);
                vec![hand.add(a, b)]
            }
            Step::Two(a, b) => {
                let a = at(a);
                let b = alike(&hand, a, b);
                let mut builder = Builder::new();
                let (p, q) =
                    (builder.input(InputForm::Elements), builder.input(InputForm::Elements));
                let (sum, product) =
                    (builder.binary(Binary::Add, p, q), builder.binary(Binary::Multiply, p, q));
                let program = builder.finish(&[(sum, DType::F32), (product, DType::F32)]);
                hand.ops(Op::Pointwise { program }, &[a, b], Phase::Forward)
            }
            Step::Linear(x, width) => {
                let x = at(x);
                vec![hand.linear(x, *width)]
            }
            Step::Norm(x) => {
                let x = at(x);
                let width = hand.graph.ty(x).shape.width();
                let w = hand.parameter(&[width]);
                // The reciprocal root is left to nobody: a result without a reader has to lie somewhere as well.
                hand.ops(
                    Op::RmsNorm { epsilon: Real::new(1e-6), gain: true, prologue: None },
                    &[x, w],
                    Phase::Forward,
                )[..1]
                    .to_vec()
            }
            Step::Split(x) => {
                let x = at(x);
                vec![hand.view(View::SplitHeads { head_dim: 2 }, x)]
            }
            Step::Merge(x) => {
                let x = at(x);
                if hand.graph.ty(x).shape.ndim() < 4 {
                    continue;
                }
                vec![hand.view(View::MergeHeads, x)]
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
                // A view of an output would have to lie outside of the arena with it.
                let viewed = hand
                    .graph
                    .uses(x)
                    .iter()
                    .any(|&(n, _)| matches!(hand.graph.node(n).kind, NodeKind::View(_)));
                if matches!(hand.graph.node(x.node).kind, NodeKind::Op(_)) && !viewed {
                    hand.graph.add_output(Output::Logits, x);
                }
                continue;
            }
        };
        values.extend(made);
    }
    hand.graph.verify().unwrap();
    hand.graph
}

/// The value whose bytes a value shows.
fn root(graph: &Graph, value: Value) -> Value {
    match graph.node(value.node).kind {
        NodeKind::View(_) => root(graph, graph.operands(value.node)[0]),
        _ => value,
    }
}

fn is_output(graph: &Graph, value: Value) -> bool {
    graph.outputs().iter().any(|&(_, output)| output == value)
}

/// Bytes that a value takes in the arena.
fn arena_bytes(graph: &Graph, value: Value) -> u64 {
    let made = matches!(graph.node(value.node).kind, NodeKind::Op(_));
    if made && !is_output(graph, value) { graph.ty(value).bytes() } else { 0 }
}

/// Most bytes of values alive at once: from the node that makes them to their last reader. A view reads.
fn peak(graph: &Graph, order: &[NodeId]) -> u64 {
    let last = |value: Value| {
        let reads = |&&id: &&NodeId| graph.operands(id).iter().any(|&v| root(graph, v) == value);
        order.iter().rposition(|id| reads(&id))
    };
    let mut alive = vec![0i64; order.len() + 1];
    for (i, &id) in order.iter().enumerate() {
        for result in 0..graph.node(id).results.len() as u16 {
            let value = Value { node: id, result };
            let bytes = arena_bytes(graph, value) as i64;
            alive[i] += bytes;
            alive[last(value).unwrap_or(i).max(i) + 1] -= bytes;
        }
    }
    let mut sum = 0;
    alive
        .into_iter()
        .map(|change| {
            sum += change;
            sum
        })
        .max()
        .unwrap_or(0) as u64
}

fn work(graph: &Graph) -> Vec<NodeId> {
    let is_work = |id: &NodeId| matches!(graph.node(*id).kind, NodeKind::Op(_) | NodeKind::View(_));
    graph.order().into_iter().filter(is_work).collect()
}

fn runner() -> TestRunner {
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

#[test]
fn schedules_are_complete_respect_what_comes_first_and_are_never_worse() {
    let better = Cell::new(0);
    runner()
        .run(&prop::collection::vec(step(), 1..60), |steps| {
            let graph = built(&steps);
            let (order, natural) = (schedule::run(&graph), work(&graph));
            let mut position = vec![None; graph.id_bound()];
            for (i, &id) in order.iter().enumerate() {
                prop_assert!(position[id.0 as usize].replace(i).is_none(), "a node stands twice");
            }
            prop_assert_eq!(order.len(), natural.len());
            for &id in &natural {
                let own = position[id.0 as usize];
                prop_assert!(own.is_some(), "a node is missing");
                let before =
                    graph.operands(id).into_iter().map(|v| v.node).chain(graph.controls(id));
                for other in before.filter(|other| natural.contains(other)) {
                    prop_assert!(position[other.0 as usize] < own);
                }
            }
            let (found, natural) = (peak(&graph, &order), peak(&graph, &natural));
            prop_assert!(found <= natural, "{found} bytes against {natural} in the natural order");
            better.set(better.get() + usize::from(found < natural));
            prop_assert_eq!(schedule::run(&graph), order);
            Ok(())
        })
        .unwrap();
    assert!(better.get() > 0, "no schedule was better than the natural order");
}

/// Two wide values made before either is read: one after the other needs half the bytes.
#[test]
fn schedules_read_a_wide_value_before_they_make_the_next() {
    let mut hand = Hand::new();
    let x = hand.source(4);
    let (a, b) = (hand.linear(x, 100), hand.linear(x, 100));
    let (c, d) = (hand.linear(a, 4), hand.linear(b, 4));
    let sum = hand.add(c, d);
    hand.graph.add_output(Output::Logits, sum);
    let order = schedule::run(&hand.graph);
    assert_eq!(order, [x, a, c, b, d, sum].map(|value| value.node));
    let row = |width: u64| 2 * 3 * width * 4;
    assert_eq!(peak(&hand.graph, &order), row(100) + 2 * row(4));
    assert_eq!(peak(&hand.graph, &work(&hand.graph)), 2 * row(100) + row(4));
}

/// Runs a program over an arena whose cells hold the value last written there.
fn execute(graph: &Graph, order: &[NodeId], placement: &memory::Placement) -> Result<(), String> {
    const CELL: u64 = 256;
    let mut cells: Vec<Option<Value>> = vec![None; (placement.bytes / CELL) as usize];
    if !placement.bytes.is_multiple_of(CELL) {
        return Err(format!("an arena of {} bytes", placement.bytes));
    }
    let range = |value: Value| {
        let offset = *placement.offsets.get(&value).ok_or(format!("{value:?} has no place"))?;
        let end = offset + graph.ty(value).bytes();
        if !offset.is_multiple_of(CELL) || end > placement.bytes {
            return Err(format!("{value:?} lies at {offset}..{end}"));
        }
        Ok((offset / CELL) as usize..end.div_ceil(CELL) as usize)
    };
    for &id in order {
        let NodeKind::Op(op) = &graph.node(id).kind else { continue };
        let operands = graph.operands(id);
        for value in operands.iter().map(|&v| root(graph, v)).filter(|&v| arena_bytes(graph, v) > 0)
        {
            if let Some(other) = cells[range(value)?].iter().find(|cell| **cell != Some(value)) {
                return Err(format!("{id:?} reads {value:?} and finds {other:?}"));
            }
        }
        for result in 0..graph.node(id).results.len() as u16 {
            let value = Value { node: id, result };
            if arena_bytes(graph, value) == 0 {
                continue;
            }
            let cells_of = range(value)?;
            for (o, &operand) in operands
                .iter()
                .enumerate()
                .filter(|(_, v)| arena_bytes(graph, root(graph, **v)) > 0)
            {
                let read = range(root(graph, operand))?;
                let apart = read.end <= cells_of.start || cells_of.end <= read.start;
                let direct = operand == root(graph, operand);
                let in_place = op.in_place(o, result as usize) && read == cells_of && direct;
                if !apart && !in_place {
                    return Err(format!("{value:?} is written over operand {o}"));
                }
            }
            if cells[cells_of.clone()].iter().flatten().any(|owner| owner.node == id) {
                return Err(format!("{value:?} shares bytes with another result"));
            }
            cells[cells_of].fill(Some(value));
        }
    }
    Ok(())
}

#[test]
fn no_value_is_overwritten_before_its_last_reader() {
    let in_place = Cell::new(0);
    runner()
        .run(&prop::collection::vec(step(), 1..60), |steps| {
            let graph = built(&steps);
            for order in [schedule::run(&graph), work(&graph)] {
                let placement = memory::run(&graph, &order);
                let executed = execute(&graph, &order, &placement);
                prop_assert!(
                    executed.is_ok(),
                    "{:?}\n{}",
                    executed,
                    graph.print(PrintOptions::default())
                );
                let padded = |v: &Value| graph.ty(*v).bytes().next_multiple_of(256);
                let sum: u64 = placement.offsets.keys().map(padded).sum();
                prop_assert!(placement.bytes <= sum);
                in_place.set(in_place.get() + usize::from(placement.bytes < sum));
            }
            Ok(())
        })
        .unwrap();
    assert!(in_place.get() > 100, "bytes are hardly ever used again");
}

/// A chain of programs over one value needs that value's bytes once; a product cannot be made in place.
#[test]
fn programs_write_onto_an_operand_that_dies() {
    let mut hand = Hand::new();
    let x = hand.source(100);
    let a = hand.pointwise(sigmoid(), &[x]);
    let b = hand.pointwise(sigmoid(), &[a]);
    let y = hand.linear(b, 100);
    let result = hand.pointwise(sigmoid(), &[y]);
    hand.graph.add_output(Output::Logits, result);
    let placement = memory::run(&hand.graph, &schedule::run(&hand.graph));
    let row: u64 = 2 * 3 * 100 * 4;
    assert_eq!([x, a, b].map(|v| placement.offsets[&v]), [0; 3]);
    assert_eq!(placement.offsets[&y], row.next_multiple_of(256));
    assert_eq!(placement.bytes, 2 * row.next_multiple_of(256));
    assert!(!placement.offsets.contains_key(&result), "an output lies elsewhere");
}
