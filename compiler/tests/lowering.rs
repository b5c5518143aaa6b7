//! Lowering: shipped specs give verified graphs, and an architecture that uses all of the language gives the graph that
//! its text describes.

use std::path::Path;

use colac_compiler::diagnostics::{Diagnostics, Rendered, Sources};
use colac_compiler::graph::{ColaPermission, Graph, NodeKind, Output, PrintOptions};
use colac_compiler::language::huggingface::Form;
use colac_compiler::lower::{self, Model};
use colac_compiler::spec::{Spec, SpecInput, shipped};
use colac_plan::Op;
use colac_plan::op::Mask;
use colac_plan::parameter::{Initialization, Role};

const SPEC: &str = r#"
name = "test"
architecture = "parallel.toml"
[model]
vocab_size = 40
hidden_size = 12
num_hidden_layers = 2
num_attention_heads = 2
[train]
sequence_length = 16
micro_batch = 3
steps = 1
[optimizer]
learning_rate = 0.001
"#;

fn rendered(diagnostics: &Diagnostics, sources: &Sources) -> String {
    diagnostics
        .iter()
        .map(|d| format!("{:?}\n", miette::Report::new(Rendered::new(d, sources))))
        .collect()
}

fn load(input: SpecInput, settings: &[&str]) -> Model {
    let mut sources = Sources::default();
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    let loaded = Spec::load(input, &settings, false, &mut sources);
    let (mut spec, _) = loaded.unwrap_or_else(|errors| panic!("{}", rendered(&errors, &sources)));
    spec.folder = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data"));
    lower::model(&spec, &mut sources)
        .unwrap_or_else(|errors| panic!("{}", rendered(&errors, &sources)))
}

fn parallel(settings: &[&str]) -> Model {
    load(SpecInput::Text { name: "spec.toml".into(), text: SPEC.into() }, settings)
}

fn parameter<'g>(graph: &'g Graph, path: &str) -> &'g colac_compiler::graph::ParameterInfo {
    let found = graph.parameters().find(|(_, info)| info.path == path);
    found.unwrap_or_else(|| panic!("no parameter {path}")).1
}

fn ops(graph: &Graph) -> Vec<&Op> {
    let nodes = graph.order().into_iter().map(|id| &graph.node(id).kind);
    nodes.filter_map(|kind| if let NodeKind::Op(op) = kind { Some(op) } else { None }).collect()
}

fn attention_masks(graph: &Graph) -> Vec<Mask> {
    let mask = |op: &Op| if let Op::Attention { scores } = op { Some(scores.mask) } else { None };
    ops(graph).into_iter().filter_map(mask).collect()
}

#[test]
fn shipped_specs_give_verified_graphs_with_both_outputs() {
    for (name, _) in shipped::specs() {
        let model = load(SpecInput::from_argument(name), &[]);
        model.graph.verify().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(model.graph.output(Output::Loss).is_some(), "{name}");
        assert!(model.graph.output(Output::Logits).is_some(), "{name}");
        let dense =
            model.graph.linears.iter().filter(|site| site.permission != ColaPermission::Allowed);
        assert_eq!(dense.count(), 1, "{name}: only the head is kept dense");
        assert!(!model.graph.bypassable.is_empty(), "{name}");
    }
}

#[test]
fn shipped_architectures_have_a_config_json_for_both_forms() {
    for (name, _) in shipped::specs() {
        let model = load(SpecInput::from_argument(name), &[]);
        let names = |name: &str| match name {
            "sequence_length" => Some(colac_compiler::language::expression::Value::Integer(256)),
            "rank" => Some(colac_compiler::language::expression::Value::Integer(64)),
            "bypassed" => Some(colac_compiler::language::expression::Value::Boolean(true)),
            _ => None,
        };
        let huggingface = &model.architecture.huggingface;
        for form in [Form::FullRank, Form::Cola] {
            let json = huggingface
                .config_json(&model.config, form, &names)
                .expect("has a value")
                .expect("is given");
            // Each setting under its own name or another, and what the form adds.
            let settings = model.config.iter().count();
            assert!(json.len() >= settings + 2, "{name}: config.json lacks a setting: {json:?}");
            assert!(json.contains_key("vocab_size"), "{name}");
            assert!(json["model_type"].is_string() && json["architectures"].is_array(), "{name}");
            assert_eq!(json.contains_key("rank"), form == Form::Cola);
        }
    }
}

#[test]
fn an_architecture_that_uses_all_of_the_language() {
    let model = parallel(&[]);
    model.graph.verify().expect("lowering leaves a right graph");
    insta::assert_snapshot!(model.graph.print(PrintOptions::default()));
}

#[test]
fn masks_follow_the_repeat_index() {
    assert_eq!(attention_masks(&parallel(&[]).graph), [Mask::Window(8), Mask::Causal]);
    // A window over the whole row sees what the causal mask sees.
    assert_eq!(attention_masks(&parallel(&["model.sliding_window=16"]).graph), [Mask::Causal; 2]);
}

#[test]
fn a_shared_weight_is_one_parameter_until_a_setting_parts_it() {
    let shared = parallel(&[]);
    assert!(shared.graph.parameters().all(|(_, info)| info.path != "head.weight"));
    let head = shared.graph.linears.last().expect("the head is a linear");
    assert_eq!(shared.graph.parameter_info(head.weight).path, "embeddings.word.weight");
    assert!(matches!(&head.permission, ColaPermission::Never(_)));
    let apart = parallel(&["model.share_embeddings=false"]);
    assert_eq!(parameter(&apart.graph, "head.weight").role, Role::Matrix);
    assert_eq!(apart.graph.parameters().count(), shared.graph.parameters().count() + 1);
}

#[test]
fn conditions_on_settings_add_and_remove_parameters() {
    let with = parallel(&[]);
    assert_eq!(parameter(&with.graph, "h.1.attn.query.bias").role, Role::Vector);
    let without = parallel(&["model.attention_bias=false"]);
    assert!(without.graph.parameters().all(|(_, info)| !info.path.ends_with(".bias")));
}

#[test]
fn paths_start_values_and_names_in_checkpoints() {
    let Model { graph, config, .. } = parallel(&[]);
    assert_eq!(
        config.get("intermediate_size").and_then(|v| v.as_integer()),
        Some(32),
        "8 * 12 / 3 is 32 already"
    );
    let std = |path: &str| match parameter(&graph, path).initialization {
        Initialization::Normal { std } => std.get(),
        other => panic!("{path} starts {other:?}"),
    };
    assert_eq!(std("embeddings.word.weight"), 0.02);
    assert_eq!(std("h.0.attn.value.weight"), 1.0 / 12f64.sqrt());
    assert_eq!(std("h.0.mlp.down.weight"), 0.02 * (1.0 / 4f64.sqrt()));
    let bias = parameter(&graph, "h.0.attn.query.bias");
    assert!(
        matches!(bias.initialization, Initialization::Uniform { bound } if bound.get() == 1.0 / 12f64.sqrt())
    );
    let gain = parameter(&graph, "h.1.attn.q_norm.weight");
    assert!(
        matches!(gain.initialization, Initialization::Constant { value } if value.get() == 1.0)
    );
    assert_eq!(gain.ty.shape.extents(), [6], "heads are normed one by one");

    let named = |path: &str| parameter(&graph, path).checkpoint.clone();
    assert_eq!(named("h.1.attn.query.weight").name, "blocks.1.attention.q.weight");
    assert!(named("h.1.attn.query.weight").transposed);
    assert!(!named("h.1.attn.query.bias").transposed, "a vector has no second axis");
    assert_eq!(
        named("h.0.mlp.up.weight").name,
        "h.0.mlp.up.weight",
        "a rule without a name keeps the path"
    );
    assert_eq!(named("h.0.mlp.down.weight").name, "blocks.0.mlp.down.weight");
    assert!(!named("h.0.mlp.down.weight").transposed);
    assert_eq!(named("embeddings.word.weight").name, "words.weight");
    assert_eq!(named("final.norm.weight").name, "final.norm.weight", "no rule speaks of it");
}

#[test]
fn labelled_functions_of_one_value_can_be_bypassed() {
    let graph = parallel(&[]).graph;
    let paths: Vec<&str> =
        graph.bypassable.iter().map(|&id| graph.node(id).origin.path.as_str()).collect();
    assert_eq!(paths, ["h.0.mlp.sharp", "h.0.mlp.act", "h.1.mlp.sharp", "h.1.mlp.act"]);
}

#[test]
fn config_json_uses_other_names_and_computed_values() {
    let model = parallel(&[]);
    let length = colac_compiler::language::expression::Value::Integer(16);
    let names = |name: &str| (name == "sequence_length").then(|| length.clone());
    let huggingface = &model.architecture.huggingface;
    let json = huggingface
        .config_json(&model.config, Form::FullRank, &names)
        .expect("has values")
        .expect("is given");
    assert_eq!(json["model_width"], 12);
    assert!(!json.contains_key("hidden_size"));
    assert_eq!(json["window"], 8);
    assert_eq!(json["context"], 32);
    assert_eq!(json["architectures"][0], "ParallelForCausalLM");
    assert!(
        huggingface.config_json(&model.config, Form::Cola, &names).expect("has values").is_none()
    );
}

#[test]
fn lowering_is_a_function_of_its_input() {
    let print = || parallel(&[]).graph.print(PrintOptions::default());
    assert_eq!(print(), print());
}

/// Architectures with a word taken away, doubled or exchanged for another: refused with a place to look at, or a right
/// graph. Nothing that is written may panic or leave a graph that the verifier refuses.
#[test]
fn damaged_architectures_are_refused_or_right() {
    use colac_compiler::language::architecture::Architecture;
    use colac_compiler::language::config::Config;
    use colac_compiler::lower::Batch;
    use proptest::prelude::*;

    let data = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parallel.toml"),
    );
    let original = data.expect("the architecture is part of the repository");
    let mut words: Vec<&str> = Vec::new();
    let mut rest = original.as_str();
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let end = rest.find(|c| is_word(c) != is_word(first)).unwrap_or(rest.len());
        let end = if is_word(first) { end } else { first.len_utf8() };
        words.push(&rest[..end]);
        rest = &rest[end..];
    }
    let numbers = prop::sample::select(vec![
        "0",
        "-1",
        "1",
        "3",
        "7",
        "1e300",
        "2147483647",
        "4294967296",
        "9223372036854775807",
    ]);
    let change = (0..words.len(), 0..words.len(), 0..4usize, numbers);
    let mut runner = prop::test_runner::TestRunner::new_with_rng(
        prop::test_runner::Config { cases: 3000, ..Default::default() },
        prop::test_runner::TestRng::deterministic_rng(prop::test_runner::RngAlgorithm::ChaCha),
    );
    let result = runner.run(&prop::collection::vec(change, 1..3), |changes| {
        let mut words = words.clone();
        for (at, from, how, number) in changes {
            match how {
                0 => words[at] = "",
                1 => words[at] = words[from],
                2 => words.insert(at, words[from]),
                _ => words[at] = number,
            }
        }
        let mut sources = Sources::default();
        let input = SpecInput::Text { name: "spec.toml".into(), text: SPEC.into() };
        let (spec, _) = Spec::load(input, &[], false, &mut sources).expect("the spec is right");
        let source = sources.add("damaged.toml", words.concat());
        let lowered = Architecture::parse(source, &mut sources).and_then(|architecture| {
            let config =
                Config::resolve(&architecture, &lower::settings(&spec.model), spec.model_section)?;
            lower::lower(
                &architecture,
                &config,
                Batch { rows: 3, sequence_length: 16, place: None },
            )
        });
        match lowered {
            Ok(graph) => prop_assert_eq!(graph.verify(), Ok(())),
            Err(errors) => {
                prop_assert!(errors.has_errors());
                prop_assert!(
                    errors.iter().all(|error| !error.labels.is_empty() && error.help.is_some())
                );
                rendered(&errors, &sources);
            }
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
