//! Linears that lie in one tensor of a checkpoint, dense and as pairs, on the architecture `data/joined.toml`.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

use std::path::Path;

use colac_compiler::diagnostics::{Diagnostics, Rendered, Sources};
use colac_compiler::graph::Graph;
use colac_compiler::lower;
use colac_compiler::passes::cola;
use colac_compiler::spec::{Spec, SpecInput};
use colac_plan::parameter::{CheckpointName, Part};

/// The graph after lowering and the pass `cola`.
fn graph(cola_section: &str) -> Graph {
    let text = format!(
        "name = \"test\"\narchitecture = \"joined.toml\"\n[model]\nvocab_size = 40\nhidden_size = 12\n\
         num_hidden_layers = 2\nnum_attention_heads = 3\n{cola_section}\n[train]\nsequence_length = 16\n\
         micro_batch = 3\nsteps = 1\n[optimizer]\nlearning_rate = 0.001\n"
    );
    let mut sources = Sources::default();
    let load = || {
        let input = SpecInput::Text { name: "spec.toml".into(), text };
        let (mut spec, _) = Spec::load(input, &[], false, &mut sources)?;
        spec.folder = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data"));
        let model = lower::model(&spec, &mut sources)?;
        let (mut graph, mut diagnostics) = (model.graph, Diagnostics::default());
        let form = (spec.cola.as_ref(), spec.full_rank);
        cola::run(&mut graph, form.0, form.1, &model.config, &mut diagnostics);
        if diagnostics.has_errors() { Err(diagnostics) } else { Ok(graph) }
    };
    let graph = load().unwrap_or_else(|errors| {
        let rendered = errors.iter().map(|d| miette::Report::new(Rendered::new(d, &sources)));
        panic!("{:?}", rendered.collect::<Vec<_>>())
    });
    graph.verify().unwrap();
    graph
}

fn checkpoint(graph: &Graph, path: &str) -> CheckpointName {
    let found = graph.parameters().find(|(_, info)| info.path == path);
    found.unwrap_or_else(|| panic!("no parameter {path}")).1.checkpoint.clone()
}

fn part(name: &str, transposed: bool, offset: u64, extent: u64) -> CheckpointName {
    CheckpointName { name: name.into(), transposed, part: Some(Part { offset, extent }) }
}

fn alone(name: &str, transposed: bool) -> CheckpointName {
    CheckpointName { name: name.into(), transposed, part: None }
}

#[test]
fn dense_linears_lie_side_by_side() {
    let graph = graph("");
    let of = |path: &str| checkpoint(&graph, path);
    let (weight, bias) = ("model.h.1.attn.qkv.weight", "model.h.1.attn.qkv.bias");
    for (linear, offset) in [("q", 0), ("k", 12), ("v", 16)] {
        assert_eq!(of(&format!("h.1.attn.{linear}.weight")), part(weight, true, offset, 20));
        assert_eq!(of(&format!("h.1.attn.{linear}.bias")), part(bias, false, offset, 20));
    }
    assert_eq!(of("h.0.mlp.gate.weight"), part("model.h.0.gate_up.weight", false, 0, 96));
    assert_eq!(of("h.0.mlp.up.weight"), part("model.h.0.gate_up.weight", false, 48, 96));
    assert_eq!(of("h.0.attn.o.weight"), alone("model.h.0.attn.o.weight", true));
    assert_eq!(of("h.0.norm.weight"), alone("model.h.0.norm.weight", false));
}

#[test]
fn pairs_have_names_of_their_own() {
    let graph = graph("[cola]\nrank = 3\nactivation = \"silu\"");
    let of = |path: &str| checkpoint(&graph, path);
    for linear in ["q", "k", "v", "o"] {
        for factor in ["cola_a", "cola_b"] {
            let path = format!("h.1.attn.{linear}.{factor}");
            assert_eq!(of(&path), alone(&format!("model.{path}"), true));
        }
    }
    assert_eq!(of("h.0.mlp.gate.cola_a"), alone("model.h.0.mlp.gate.cola_a", true));
    // Biases stay what they are.
    assert_eq!(of("h.0.attn.k.bias"), part("model.h.0.attn.qkv.bias", false, 12, 20));
}

#[test]
fn what_is_left_of_a_joined_tensor_stands_alone() {
    let graph = graph(
        "[cola]\nrank = 3\nactivation = \"silu\"\ntargets = [\"h.0.attn.q\", \"h.1.mlp.gate\"]",
    );
    let of = |path: &str| checkpoint(&graph, path);
    assert_eq!(of("h.0.attn.q.cola_b"), alone("model.h.0.attn.q.cola_b", true));
    assert_eq!(of("h.0.attn.k.weight"), alone("model.h.0.attn.k.weight", true));
    assert_eq!(of("h.0.attn.v.weight"), alone("model.h.0.attn.v.weight", true));
    assert_eq!(of("h.0.attn.v.bias"), part("model.h.0.attn.qkv.bias", false, 16, 20));
    assert_eq!(of("h.1.attn.v.weight"), part("model.h.1.attn.qkv.weight", true, 16, 20));
    assert_eq!(of("h.1.mlp.up.weight"), alone("model.h.1.mlp.up.weight", false));
    assert_eq!(of("h.0.mlp.up.weight"), part("model.h.0.gate_up.weight", false, 48, 96));
}
