//! The specs of `docs/how-to/activation-placements.md` give the graphs that the page says.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use colac_compiler::compile::{Dump, Request, compile};
use colac_compiler::diagnostics::Sources;
use colac_compiler::graph::PrintOptions;
use colac_compiler::spec::SpecInput;
use colac_compiler::view::Inspection;
use colac_compiler::view::inspection::Rewritten;

/// Layers of the model that the page's specs extend.
const LAYERS: usize = 4;
/// Linears of a layer.
const LINEARS: usize = 7;

/// The graph after the cola pass and the report, by the name of the spec.
fn compiled() -> BTreeMap<String, (String, Inspection)> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/how-to/activation-placements.md");
    let page = std::fs::read_to_string(path).unwrap();
    let blocks = page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let compiled = blocks.map(|text| {
        let request = Request {
            input: SpecInput::Text { name: "block.toml".into(), text: text.into() },
            settings: Vec::new(),
            full_rank: false,
            dump: Some(Dump { pass: "cola".into(), options: PrintOptions::default() }),
        };
        let compiled = compile(request, &mut Sources::default())
            .unwrap_or_else(|errors| panic!("{text}\n{:?}", errors.iter().next()));
        assert!(compiled.warnings.is_empty(), "{text}");
        let name = compiled.plan.name.clone();
        (name, (compiled.dump.unwrap(), Inspection::new(&compiled.plan)))
    });
    compiled.collect()
}

/// Nodes whose path ends so.
fn nodes<'g>(graph: &'g str, ending: &str) -> Vec<&'g str> {
    graph.lines().filter(|line| line.starts_with('%') && line.ends_with(ending)).collect()
}

#[test]
fn each_placement_gives_the_graph_it_promises() {
    let compiled = compiled();
    for (name, inner, outer) in [
        ("both", LINEARS, 1),
        ("low-rank-only", LINEARS, 0),
        ("reduced", 1, 0),
        ("outer-only", 0, 1),
    ] {
        let (graph, inspection) = &compiled[name];
        let middle = nodes(graph, "_proj.activation");
        assert_eq!(middle.len(), inner * LAYERS, "{name}");
        assert!(middle.iter().all(|line| line.contains("sigmoid")), "{name}");
        if inner == 1 {
            assert!(middle.iter().all(|line| line.ends_with(".mlp.gate_proj.activation")));
        }
        let gate = nodes(graph, ".mlp.act_fn");
        assert_eq!(gate.len(), outer * LAYERS, "{name}");
        // Every linear of the layers is a pair in all of them: only the nonlinearities move.
        assert_eq!(nodes(graph, "_proj.up").len(), LINEARS * LAYERS, "{name}");
        assert_eq!(inspection.rewritten.len(), LINEARS * LAYERS);
        let silu = inspection.rewritten.iter().filter(|row| row.activation == "silu").count();
        assert_eq!(silu, inner * LAYERS, "{name}");
    }
    let weights = |name: &str| compiled[name].1.parameters.total;
    assert_eq!(weights("both"), weights("outer-only"));
}

#[test]
fn overrides_reach_the_layers_and_projections_they_name() {
    let compiled = compiled();
    let rows = |name: &str, wanted: &dyn Fn(&str) -> bool| -> Vec<Rewritten> {
        let rows = compiled[name].1.rewritten.iter();
        rows.filter(|row| wanted(&row.path)).cloned().collect()
    };
    let first = rows("per-layer", &|path| path.starts_with("layers.0."));
    let second = rows("per-layer", &|path| path.starts_with("layers.1."));
    assert_eq!((first.len(), second.len()), (LINEARS, LINEARS));
    assert!(first.iter().zip(&second).all(|(a, b)| 2 * a.rank == 3 * b.rank));
    assert!(rows("per-layer", &|path| path.starts_with("layers.3.")).is_empty());
    let dense = compiled["per-layer"].1.kept_dense.iter();
    let dense = dense.filter(|row| row.reason == "an override keeps it dense").count();
    assert_eq!(dense, LINEARS);

    let narrow = |path: &str| path.ends_with(".q_proj") || path.ends_with(".k_proj");
    for row in rows("per-projection", &narrow) {
        assert_eq!((row.rank, row.activation.as_str()), (row.outputs / 8, "identity"));
    }
    let down = rows("per-projection", &|path| path.ends_with(".down_proj"));
    assert!(down.len() == LAYERS && down.iter().all(|row| row.activation.contains("1.7")));
    let others = |path: &str| !narrow(path) && !path.ends_with(".down_proj");
    assert!(rows("per-projection", &others).iter().all(|row| row.activation == "silu"));
}
