//! What the headers of the passes group and place promise, on architectures written for it.

use colac_compiler::diagnostics::{Diagnostics, Rendered, Sources};
use colac_compiler::graph::{Graph, Home, NodeKind, Output, PrintOptions, Value, View};
use colac_compiler::language::architecture::Architecture;
use colac_compiler::language::config::Config;
use colac_compiler::lower::{self, Batch};
use colac_compiler::passes::{autodiff, group, memory, place, schedule, simplify};
use colac_compiler::spec::{Spec, SpecInput};
use colac_plan::Op;
use colac_plan::op::cost::aligned;
use colac_plan::program::Phase;

const SPEC: &str = r#"
name = "group"
architecture = "group.toml"
[train]
sequence_length = 8
micro_batch = 2
steps = 1
[optimizer]
learning_rate = 0.001
"#;

/// Bytes of a value `[2, 8, width]`.
fn bytes(width: u64) -> u64 {
    aligned(2 * 8 * width * 4)
}

fn rendered(diagnostics: &Diagnostics, sources: &Sources) -> String {
    let report = |d| format!("{:?}\n", miette::Report::new(Rendered::new(d, sources)));
    diagnostics.iter().map(report).collect()
}

/// A model whose block `part` has this body, over a value `x` of width 12.
fn lowered(part: &str) -> Graph {
    let text = format!(
        "language = 1\nabout = \"group\"\nobjective = \"next-token\"\n[config]\n[body]\ntext = '''\n\
         use normal(0, 0.1) for linear, embedding\nuse zeros for bias\n\
         model(tokens: ids[batch, seq]) {{\n  x = embed: embedding(tokens, 31, 12)\n\
         repeat layers[1] {{\n    x = x + part(norm: rms_norm(x, 1e-6))\n  }}\n\
         return head: linear(x, 31, cola = never)\n}}\nblock part(x) {{\n{part}\n}}\n'''\n"
    );
    let mut sources = Sources::default();
    let input = SpecInput::Text { name: "spec.toml".into(), text: SPEC.into() };
    let (spec, _) = Spec::load(input, &[], false, &mut sources).expect("the spec is right");
    let source = sources.add("group.toml", text);
    let graph = Architecture::parse(source, &mut sources).and_then(|architecture| {
        let config =
            Config::resolve(&architecture, &lower::settings(&spec.model), spec.model_section)?;
        lower::lower(&architecture, &config, Batch { rows: 2, sequence_length: 8, place: None })
    });
    let mut graph = graph.unwrap_or_else(|errors| panic!("{}", rendered(&errors, &sources)));
    simplify::run(&mut graph);
    graph
}

fn grouped(part: &str) -> Graph {
    let mut graph = lowered(part);
    group::run(&mut graph);
    graph
        .verify()
        .unwrap_or_else(|error| panic!("{error}\n{}", graph.print(PrintOptions::default())));
    graph
}

/// The training program with everything placed.
fn placed(part: &str) -> Graph {
    let mut graph = grouped(part);
    graph.retain_outputs(|output| output == Output::Loss);
    simplify::remove_dead(&mut graph);
    autodiff::run(&mut graph).expect("everything has a derivative");
    simplify::run(&mut graph);
    place::run(&mut graph);
    graph
        .verify()
        .unwrap_or_else(|error| panic!("{error}\n{}", graph.print(PrintOptions::default())));
    graph
}

/// Paths of the linears inside the block, with the width of each.
fn linears(graph: &Graph) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for id in graph.order() {
        let node = graph.node(id);
        let path = &node.origin.path;
        if node.kind == NodeKind::Op(Op::Linear) && path.starts_with("layers.") {
            let path = path.strip_prefix("layers.0.").unwrap_or(path).to_owned();
            found.push((path, node.results[0].shape.width()));
        }
    }
    found
}

/// Operations of a kind and phase.
fn count(graph: &Graph, name: &str, phase: Phase) -> usize {
    let kind = |kind: &NodeKind| matches!(kind, NodeKind::Op(op) if op.name() == name);
    graph.nodes().filter(|node| kind(&node.kind) && node.phase == phase).count()
}

fn names(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|&(path, width)| (path.to_owned(), width)).collect()
}

// --- group ----------------------------------------------------------------------------------

/// The example of the pass's header, with three members of different widths.
#[test]
fn products_and_activations_of_one_input_become_one() {
    let graph = grouped(
        "q = silu(q_proj: linear(x, 8))\nk = silu(k_proj: linear(x, 4))\nv = silu(v_proj: linear(x, 6))\n\
         return out: linear(concat(q, k, v), 12)",
    );
    assert_eq!(linears(&graph), names(&[("{q_proj,k_proj,v_proj}", 18), ("out", 12)]));
    let lines = graph.print(PrintOptions::default());
    let shows = |text: &str| assert!(lines.contains(text), "no `{text}` in\n{lines}");
    shows("linear %1.0, @layers.0.{q_proj,k_proj,v_proj}.weight : f32[batch=2, seq=8, 18]");
    shows("pointwise %2 { a * sigmoid(a) } : f32[batch=2, seq=8, 18]");
    shows("view.columns %3 start=0 : f32[batch=2, seq=8, 8]");
    shows("view.columns %3 start=8 : f32[batch=2, seq=8, 4]");
    shows("view.columns %3 start=12 : f32[batch=2, seq=8, 6]");
    let rows: Vec<u64> = graph
        .stacks()
        .flat_map(|(_, members)| members)
        .map(|&member| graph.parameter_info(member).ty.shape.rows())
        .collect();
    assert_eq!(rows, [8, 4, 6], "members keep their shapes");
    let paths: Vec<&str> = graph.parameters().map(|(_, info)| info.path.as_str()).collect();
    assert!(paths.contains(&"layers.0.k_proj.weight"), "members stay parameters: {paths:?}");
}

#[test]
fn other_activations_stay_behind_their_own_columns() {
    let graph = grouped(
        "g = silu(gate: linear(x, 8))\nu = up: linear(x, 8)\nreturn down: linear(g * u, 12)",
    );
    assert_eq!(linears(&graph), names(&[("{gate,up}", 16), ("down", 12)]));
    let silu =
        graph.nodes().find(|n| n.origin.path == "layers.0" && n.results[0].shape.width() == 8);
    assert!(silu.is_some(), "the activation of one member reads its columns alone");
}

#[test]
fn what_is_read_elsewhere_stays_alone() {
    let tied = grouped(
        "a = a: linear(x, 12)\nb = b: linear(x, 12)\nc = c: linear(tanh(a), 12, weight = a)\nreturn b + c",
    );
    assert_eq!(linears(&tied).len(), 3, "a weight with two readers has one place only");
    let chain = grouped("a = a: linear(x, 12)\nreturn b: linear(a, 12)");
    assert_eq!(linears(&chain).len(), 2, "two inputs");
    let logits = grouped("return a: linear(x, 12)");
    assert!(logits.output(Output::Logits).is_some());
    assert_eq!(count(&logits, "linear", Phase::Forward), 2, "the head is not in the block's group");
}

/// Norms of heads read rows that step evenly, which heads within wider rows do not; a number for each row lies packed.
#[test]
fn readers_that_cannot_take_columns_keep_their_linear_alone() {
    let graph = grouped(
        "q = q_norm: rms_norm(heads(q: linear(x, 8), 4), 1e-6)\nk = k: linear(x, 8)\nv = v: linear(x, 8)\n\
         g = g: linear(x, 1)\n\
         return out: linear(g * merge_heads(q) + k * v, 12)",
    );
    let found = linears(&graph);
    assert!(found.contains(&("q".into(), 8)), "{found:?}");
    assert!(found.contains(&("{k,v}".into(), 16)), "{found:?}");
}

// --- place ----------------------------------------------------------------------------------

/// One product for all weights, one for the input; the gradients of the members are made within one value.
#[test]
fn gradients_of_a_group_need_no_addition_and_no_copy() {
    let part = "q = silu(q_proj: linear(x, 8))\nk = silu(k_proj: linear(x, 4))\n\
                return a: linear(q, 12) + b: linear(k, 12)";
    let graph = placed(part);
    assert_eq!(count(&graph, "concat", Phase::Backward), 0);
    assert_eq!(count(&graph, "linear_backward_weight", Phase::Backward), 3);
    assert_eq!(count(&graph, "linear_backward_input", Phase::Backward), 3);
    let join = graph.nodes().find(|node| node.kind == NodeKind::View(View::Join)).expect("a join");
    let (whole, parts) = (Value::of(join.id), graph.operands(join.id));
    let homes: Vec<Option<Home>> = parts.iter().map(|&part| graph.home(part)).collect();
    let at = |start| Some(Home::Join { whole, start });
    assert_eq!(homes, [at(0), at(8)]);
    let order = schedule::run(&graph);
    let offsets = memory::run(&graph, &order).offsets;
    assert!(offsets.contains_key(&whole));
    assert!(
        parts.iter().all(|part| !offsets.contains_key(part)),
        "parts have no bytes of their own"
    );
}

/// Rotary positions are turned within the columns of queries and keys, forwards and backwards.
#[test]
fn what_replaces_columns_does_so_in_its_place() {
    let graph = placed(
        "q = rope(heads(q: linear(x, 8), 4), theta = 100.0)\nk = rope(heads(k: linear(x, 4), 4), theta = 100.0)\n\
         v = heads(v: linear(x, 4), 4)\n\
         return o: linear(merge_heads(softmax_attention(q, k, v, mask = causal)), 12)",
    );
    let ropes: Vec<Value> = graph
        .nodes()
        .filter(|node| matches!(node.kind, NodeKind::Op(Op::Rope { .. })))
        .map(|node| Value::of(node.id))
        .collect();
    assert_eq!(ropes.len(), 4);
    for rope in ropes {
        let operand = graph.operands(rope.node)[0];
        assert_eq!(graph.home(rope), Some(Home::Operand(operand)));
        assert_eq!(graph.ty(graph.root(rope)).shape.width(), 16, "all lie in one value");
    }
    // Forwards: queries, keys and values as one, from the product to the backward pass.
    let placement = memory::run(&graph, &schedule::run(&graph));
    let wide = placement.offsets.keys().filter(|&&v| graph.ty(v).bytes() == bytes(16)).count();
    assert_eq!(wide, 2, "one value forwards, one backwards");
}

/// The gradients of gate and up are made on their bytes, unless one of them is read later.
#[test]
fn gradients_replace_the_columns_they_belong_to() {
    let graph = placed(
        "g = silu(gate: linear(x, 8))\nu = up: linear(x, 8)\nreturn down: linear(g * u, 12)",
    );
    let join = graph.nodes().find(|node| node.kind == NodeKind::View(View::Join)).expect("a join");
    let whole = Value::of(join.id);
    let product = |node: &&colac_compiler::graph::Node| node.origin.path == "layers.0.{gate,up}";
    let base = graph.nodes().find(product).map(|node| Value::of(node.id)).expect("the product");
    let order = schedule::run(&graph);
    let placement = memory::run(&graph, &order);
    assert_eq!(placement.onto.get(&whole), Some(&base));
    assert_eq!(placement.offsets[&whole], placement.offsets[&base]);
    // The activation read after the gradients were made: the gate must still be there.
    let reader = graph.uses(base).into_iter().flat_map(|(view, _)| graph.uses(Value::of(view)));
    let reader = reader.map(|(id, _)| id).find(|&id| graph.node(id).phase == Phase::Forward);
    let reader = reader.expect("the activation");
    let mut late: Vec<_> = order.iter().copied().filter(|&id| id != reader).collect();
    late.push(reader);
    assert!(memory::run(&graph, &late).onto.is_empty());
}

/// A part that is a part already, or read in the backward pass too, is copied; the others are placed all the same.
#[test]
fn parts_that_cannot_move_are_copied() {
    let join = |graph: &Graph| {
        let forward =
            |kind: &NodeKind, phase| *kind == NodeKind::View(View::Join) && phase == Phase::Forward;
        let join = graph.nodes().find(|node| forward(&node.kind, node.phase))?;
        let makers = graph.operands(join.id).into_iter().map(|v| graph.node(v.node).origin.pass);
        Some(makers.collect::<Vec<_>>())
    };
    let graph = placed("a = tanh(a: linear(x, 8))\nreturn out: linear(concat(a, a, x), 12)");
    assert_eq!(join(&graph), Some(vec!["lower", "place", "place"]));
    let graph = placed("a = a: linear(x, 12)\nreturn out: linear(concat(a * x, exp(a)), 12)");
    assert_eq!(join(&graph), Some(vec!["lower", "lower"]));
    let graph = placed("a = a: linear(x, 8)\nreturn out: linear(concat(exp(a) * a, x), 12)");
    assert_eq!(join(&graph), Some(vec!["lower", "place"]));
    let graph =
        placed("a = a: linear(x, 8)\nreturn out: linear(concat(x, a), 12) + b: linear(a * a, 12)");
    // Both are read in the backward pass, so nothing is gained.
    assert_eq!(join(&graph), None);
    assert_eq!(count(&graph, "concat", Phase::Forward), 1);
}

/// Columns that nothing fills are filled by the operation.
#[test]
fn a_concat_with_gaps_stays() {
    let graph = placed("a = a: linear(x, 8)\nreturn out: linear(tanh(slice(a, 2, 4)), 12)");
    assert_eq!(count(&graph, "concat", Phase::Backward), 1);
    assert!(graph.nodes().all(|node| node.kind != NodeKind::View(View::Join)));
}
