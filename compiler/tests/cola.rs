//! What the header of the pass `cola` promises, on the architecture `data/parallel.toml`.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

use std::path::Path;

use colac_compiler::diagnostics::{Diagnostics, Rendered, Sources};
use colac_compiler::graph::{Graph, NodeId, NodeKind, ParameterInfo, PrintOptions, Value};
use colac_compiler::language::activation::Activation;
use colac_compiler::lower::{self, Model};
use colac_compiler::passes::cola;
use colac_compiler::spec::{Spec, SpecInput};
use colac_plan::Op;
use colac_plan::parameter::{CheckpointName, Initialization, Role};
use colac_plan::plan::{Decision, LinearReport};
use colac_plan::pointwise::InputForm;

/// The spec of `data/parallel.toml` with a `[cola]`, lowered.
fn lowered(cola: &str, sources: &mut Sources) -> (Spec, Model) {
    let text = format!(
        "name = \"test\"\narchitecture = \"parallel.toml\"\n[model]\nvocab_size = 40\nhidden_size = 12\n\
         num_hidden_layers = 2\nnum_attention_heads = 2\n{cola}\n[train]\nsequence_length = 16\nmicro_batch = 3\n\
         steps = 1\n[optimizer]\nlearning_rate = 0.001\n"
    );
    let rendered = |errors: &Diagnostics, sources: &Sources| -> String {
        errors
            .iter()
            .map(|d| format!("{:?}\n", miette::Report::new(Rendered::new(d, sources))))
            .collect()
    };
    let input = SpecInput::Text { name: "spec.toml".into(), text };
    let loaded = Spec::load(input, &[], false, sources);
    let (mut spec, _) = loaded.unwrap_or_else(|errors| panic!("{}", rendered(&errors, sources)));
    spec.folder = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data"));
    let model = lower::model(&spec, sources)
        .unwrap_or_else(|errors| panic!("{}", rendered(&errors, sources)));
    (spec, model)
}

/// The graph after the pass, the report, and the graph before.
fn rewritten(cola: &str) -> (Graph, Vec<LinearReport>, Graph) {
    let mut sources = Sources::default();
    let (spec, Model { config, mut graph, .. }) = lowered(cola, &mut sources);
    let before = graph.clone();
    let mut diagnostics = Diagnostics::default();
    let report =
        cola::run(&mut graph, spec.cola.as_ref(), spec.full_rank, &config, &mut diagnostics);
    assert!(!diagnostics.has_errors(), "{diagnostics:?}");
    graph.verify().unwrap();
    (graph, report, before)
}

fn node(graph: &Graph, path: &str) -> NodeId {
    let found: Vec<NodeId> = graph
        .nodes()
        .filter(|n| n.origin.path == path && matches!(n.kind, NodeKind::Op(_)))
        .map(|n| n.id)
        .collect();
    assert_eq!(found.len(), 1, "operations called {path}");
    found[0]
}

/// The product of a linear that is listed; its bias is a node of the same path.
fn dense(graph: &Graph, path: &str) -> NodeId {
    graph
        .linears
        .iter()
        .find(|site| site.path == path)
        .unwrap_or_else(|| panic!("no linear {path}"))
        .node
}

fn op(graph: &Graph, id: NodeId) -> &Op {
    match &graph.node(id).kind {
        NodeKind::Op(op) => op,
        other => panic!("{other:?} is no operation"),
    }
}

fn parameter<'g>(graph: &'g Graph, path: &str) -> Option<&'g ParameterInfo> {
    graph.parameters().map(|(_, info)| info).find(|info| info.path == path)
}

/// Path of the parameter that a value is.
fn parameter_path(graph: &Graph, value: Value) -> &str {
    match graph.node(value.node).kind {
        NodeKind::Parameter(id) => &graph.parameter_info(id).path,
        ref other => panic!("{other:?} is no parameter"),
    }
}

fn decision<'r>(report: &'r [LinearReport], path: &str) -> &'r Decision {
    &report
        .iter()
        .find(|l| l.path == path)
        .unwrap_or_else(|| panic!("{path} is not in the report"))
        .decision
}

fn rank(report: &[LinearReport], path: &str) -> u64 {
    match decision(report, path) {
        Decision::Rewritten { rank, .. } => *rank,
        Decision::KeptDense { reason } => panic!("{path} is dense: {reason}"),
    }
}

#[test]
fn cola_makes_a_pair_of_a_linear() {
    let (graph, report, before) = rewritten("[cola]\nrank = 3\nactivation = \"silu\"");
    let path = "h.1.attn.value";
    let old = parameter(&before, &format!("{path}.weight")).unwrap();
    let (a, b) = (
        parameter(&graph, &format!("{path}.cola_a")).unwrap(),
        parameter(&graph, &format!("{path}.cola_b")).unwrap(),
    );
    assert_eq!(
        (old.ty.shape.extents(), a.ty.shape.extents(), b.ty.shape.extents()),
        (vec![6, 12], vec![3, 12], vec![6, 3])
    );
    assert_eq!((a.role, b.role), (Role::LowRankDown, Role::LowRankUp));
    assert_eq!((a.scope, b.scope), (old.scope, old.scope));
    let base = old.checkpoint.name.strip_suffix(".weight").unwrap();
    for (factor, name) in [(a, "cola_a"), (b, "cola_b")] {
        assert_eq!(
            factor.checkpoint,
            CheckpointName { name: format!("{base}.{name}"), transposed: true, part: None }
        );
        let Initialization::Normal { std } = factor.initialization else {
            panic!("{:?}", factor.initialization)
        };
        let formula = 3f64.powf(-0.25) * 18f64.powf(-0.25);
        assert!((std.get() - formula).abs() < 1e-15, "{std} against {formula}");
    }
    assert!(parameter(&graph, &format!("{path}.weight")).is_none());
    assert!(!graph.linears.iter().any(|site| site.path == path));

    let [down, activation, up] =
        ["down", "activation", "up"].map(|part| node(&graph, &format!("{path}.{part}")));
    assert_eq!((op(&graph, down), op(&graph, up)), (&Op::Linear, &Op::Linear));
    let silu = Op::Pointwise { program: named_activation("silu").program() };
    assert_eq!(op(&graph, activation), &silu);
    let old_input = before.operands(dense(&before, path))[0];
    assert_eq!(graph.operands(down)[0], old_input);
    assert_eq!(parameter_path(&graph, graph.operands(down)[1]), a.path);
    assert_eq!(graph.operands(activation), [Value::of(down)]);
    assert_eq!(graph.operands(up)[0], Value::of(activation));
    assert_eq!(parameter_path(&graph, graph.operands(up)[1]), b.path);
    assert_eq!(graph.uses(Value::of(up)), before.uses(Value::of(dense(&before, path))));
    let expected = Decision::Rewritten { rank: 3, activation: "silu".into() };
    assert_eq!(decision(&report, path), &expected);
}

fn named_activation(text: &str) -> Activation {
    let mut sources = Sources::default();
    let source = sources.add("activation", text);
    Activation::parse(text, source, 0).unwrap()
}

#[test]
fn cola_reports_every_linear_in_the_order_of_the_model() {
    let (graph, report, before) = rewritten("[cola]\nrank = 3");
    let paths =
        |graph: &Graph| graph.linears.iter().map(|site| site.path.clone()).collect::<Vec<_>>();
    assert_eq!(report.iter().map(|l| l.path.clone()).collect::<Vec<_>>(), paths(&before));
    assert_eq!(paths(&graph), ["head"]);
    assert!(
        matches!(decision(&report, "head"), Decision::KeptDense { reason } if reason.contains("architecture"))
    );
    let shared = |l: &&LinearReport| matches!(l.decision, Decision::Rewritten { rank: 3, .. });
    assert_eq!(report.iter().filter(shared).count(), 2 * 7);
    let query = report.iter().find(|l| l.path == "h.0.attn.query").unwrap();
    assert_eq!((query.inputs, query.outputs), (12, 12));
}

#[test]
fn cola_keeps_the_bias_after_the_up_projection() {
    let (graph, _, before) = rewritten("[cola]\nrank = 3");
    let path = "h.0.attn.query";
    let bias_of = |graph: &Graph, value: Value| {
        let [(reader, 0)] = graph.uses(value)[..] else {
            panic!("the product has one reader, which adds the bias")
        };
        let operands = graph.operands(reader);
        assert!(
            matches!(op(graph, reader), Op::Pointwise { program } if program.inputs[1] == InputForm::Row)
        );
        assert_eq!(operands[0], value);
        (reader, parameter_path(graph, operands[1]).to_owned())
    };
    let whole = bias_of(&before, Value::of(dense(&before, path)));
    let pair = bias_of(&graph, Value::of(node(&graph, &format!("{path}.up"))));
    assert_eq!(whole, pair);
    assert_eq!(pair.1, format!("{path}.bias"));
    assert_eq!(graph.node(whole.0).origin, before.node(whole.0).origin);
    assert_eq!(parameter(&graph, &pair.1), parameter(&before, &pair.1));
}

#[test]
fn cola_without_an_activation_adds_no_operation_for_it() {
    let (graph, _, _) = rewritten("[cola]\nrank = 3\nactivation = \"identity\"");
    let path = "h.0.attn.value";
    let [down, up] = ["down", "up"].map(|part| node(&graph, &format!("{path}.{part}")));
    assert_eq!(graph.operands(up)[0], Value::of(down));
    assert!(!graph.nodes().any(|n| n.origin.path == format!("{path}.activation")));
}

#[test]
fn cola_takes_a_formula_and_a_rank_for_each_linear() {
    let (graph, report, _) = rewritten(
        "[cola]\nrank = \"min(in_features, out_features) / 3\"\nactivation = \"x * sigmoid(1.7 * x)\"",
    );
    assert_eq!((rank(&report, "h.0.attn.query"), rank(&report, "h.0.attn.value")), (4, 2));
    assert_eq!(parameter(&graph, "h.0.mlp.down.cola_a").unwrap().ty.shape.extents(), [4, 32]);
    let expected = Decision::Rewritten { rank: 4, activation: "x * sigmoid(1.7 * x)".into() };
    assert_eq!(decision(&report, "h.0.attn.query"), &expected);
    let formula = Op::Pointwise { program: named_activation("x * sigmoid(1.7 * x)").program() };
    assert_eq!(op(&graph, node(&graph, "h.0.attn.query.activation")), &formula);
}

#[test]
fn cola_rewrites_only_what_is_selected() {
    let (graph, report, _) =
        rewritten("[cola]\nrank = 3\ntargets = [\"h.1.attn.**\", \"h.*.mlp.up\"]");
    let chosen: Vec<&str> = report
        .iter()
        .filter(|l| matches!(l.decision, Decision::Rewritten { .. }))
        .map(|l| l.path.as_str())
        .collect();
    let attention = ["h.1.attn.query", "h.1.attn.key", "h.1.attn.value", "h.1.attn.out"];
    assert_eq!(chosen, [&["h.0.mlp.up"], &attention[..], &["h.1.mlp.up"]].concat());
    let dense = Decision::KeptDense { reason: "not selected by cola.targets".into() };
    assert_eq!(decision(&report, "h.0.attn.query"), &dense);
    assert!(parameter(&graph, "h.0.attn.query.weight").is_some());
}

/// Key by key the last override that speaks of it decides; a dense one holds unless a later one follows.
#[test]
fn cola_takes_the_last_override_that_matches() {
    let (_, report, _) = rewritten(
        r#"
        [cola]
        rank = 3
        [[cola.override]]
        targets = "h.*.mlp.**"
        rank = 5
        activation = "gelu"
        [[cola.override]]
        targets = "h.1.**"
        rank = 4
        [[cola.override]]
        targets = ["h.*.attn.key", "h.1.mlp.down"]
        dense = true
        [[cola.override]]
        targets = "h.1.attn.key"
        rank = 2
        "#,
    );
    let pair = |rank, activation: &str| Decision::Rewritten { rank, activation: activation.into() };
    let dense = Decision::KeptDense { reason: "an override keeps it dense".into() };
    assert_eq!(decision(&report, "h.0.attn.query"), &pair(3, "silu"));
    assert_eq!(decision(&report, "h.0.mlp.up"), &pair(5, "gelu"));
    assert_eq!(decision(&report, "h.1.mlp.up"), &pair(4, "gelu"));
    assert_eq!(decision(&report, "h.1.attn.query"), &pair(4, "silu"));
    assert_eq!(decision(&report, "h.0.attn.key"), &dense);
    assert_eq!(decision(&report, "h.1.mlp.down"), &dense);
    assert_eq!(decision(&report, "h.1.attn.key"), &pair(2, "silu"));
}

#[test]
fn cola_replaces_bypassed_nonlinearities_by_their_input() {
    let (graph, _, before) = rewritten("[cola]\nrank = 3\nbypass = \"h.1.mlp.act\"");
    let old = node(&before, "h.1.mlp.act");
    let (input, readers) = (before.operands(old)[0], before.uses(Value::of(old)));
    assert!(!graph.contains(old));
    assert!(!graph.bypassable.contains(&old));
    let [(reader, 0)] = readers[..] else { panic!("the nonlinearity has one reader") };
    assert_eq!(before.node(reader).origin.path, "h.1.mlp.down");
    assert_eq!(graph.operands(node(&graph, "h.1.mlp.down.down"))[0], input);
    assert!(graph.contains(node(&before, "h.0.mlp.act")), "the other layer keeps its own");
}

#[test]
fn without_cola_the_graph_stays_and_the_report_says_why() {
    let (graph, report, before) = rewritten("");
    assert_eq!(graph.print(PrintOptions::default()), before.print(PrintOptions::default()));
    let dense = Decision::KeptDense { reason: "the spec has no [cola]".into() };
    assert_eq!(report.len(), 15);
    assert!(report.iter().all(|l| l.decision == dense), "{report:?}");
}
