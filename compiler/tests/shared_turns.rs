//! Repeats whose turns share their parameters, and what learned tables and scaled positions become.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

use colac_compiler::diagnostics::{Diagnostics, Sources};
use colac_compiler::graph::{Graph, NodeKind, Value};
use colac_compiler::language::architecture::Architecture;
use colac_compiler::language::config::Config;
use colac_compiler::lower::{self, Batch};
use colac_compiler::passes::{cola, simplify};
use colac_compiler::spec::{Spec, SpecInput};
use colac_plan::parameter::{ConstantContent, RopeScaling};
use colac_plan::plan::Decision;

const SPEC: &str = r#"
name = "test"
architecture = "given.toml"
[cola]
rank = 3
activation = "silu"
[train]
sequence_length = 6
micro_batch = 2
steps = 1
[optimizer]
learning_rate = 0.001
"#;

const HEAD: &str = r#"
language = 1
about = "a test"
objective = "next-token"
[config]
vocabulary = 40
width = 8
[body]
text = '''
use normal(0, 0.02) for linear, embedding, parameter
"#;

/// A body that looks at tokens through `statements`, which turn `x` into another `x`.
fn lowered(statements: &str) -> Result<(Spec, Config, Graph), Diagnostics> {
    let mut sources = Sources::default();
    let input = SpecInput::Text { name: "spec.toml".into(), text: SPEC.into() };
    let (spec, _) = Spec::load(input, &[], false, &mut sources)?;
    let text = format!(
        "{HEAD}model(tokens: ids[batch, seq]) {{\n x = embed: embedding(tokens, vocabulary, width)\n{statements}\n return \
         head: linear(x, vocabulary, cola = never)\n}}\n'''\n"
    );
    let source = sources.add("given.toml", text);
    let architecture = Architecture::parse(source, &mut sources)?;
    let config = Config::resolve(&architecture, &[], spec.model_section)?;
    let batch = Batch { rows: 2, sequence_length: 6, place: None };
    let graph = lower::lower(&architecture, &config, batch)?;
    graph.verify().unwrap();
    Ok((spec, config, graph))
}

fn paths(graph: &Graph) -> Vec<&str> {
    graph.parameters().map(|(_, info)| info.path.as_str()).collect()
}

const LOOP: &str = "
 repeat outer[2] {
   repeat turn[3] shared as t {
     repeat layers[2] {
       x = x + y: linear(norm: rms_norm(x, 1e-6), width, bias = true)
     }
     x = x + last: linear(x, width) if t == 2 else x
   }
 }";

#[test]
fn all_turns_have_the_parameters_of_the_first() {
    let (_, _, graph) = lowered(LOOP).unwrap();
    let mut expected = vec!["embed.weight".to_owned()];
    for outer in 0..2 {
        for layer in 0..2 {
            let path = format!("outer.{outer}.turn.layers.{layer}");
            expected
                .extend(["norm.weight", "y.weight", "y.bias"].map(|name| format!("{path}.{name}")));
        }
        expected.push(format!("outer.{outer}.turn.last.weight"));
    }
    expected.push("head.weight".to_owned());
    assert_eq!(paths(&graph), expected);

    // What only a later turn has is made there.
    let uses: Vec<(&str, usize)> =
        graph.linears.iter().map(|site| (site.path.as_str(), site.nodes().count())).collect();
    assert_eq!(uses.len(), 2 * 3 + 1);
    assert_eq!(uses[0], ("outer.0.turn.layers.0.y", 3));
    assert_eq!(uses[2], ("outer.0.turn.last", 1));

    // Turns are told apart by their scopes.
    let mut scopes: Vec<&str> = graph.scopes().iter().map(|scope| scope.path.as_str()).collect();
    let count = scopes.len();
    scopes.sort_unstable();
    scopes.dedup();
    assert_eq!((count, scopes.len()), (2 + 2 * 3 + 2 * 3 * 2, count));
    assert!(scopes.contains(&"outer.1.turn.2.layers.1"), "{scopes:?}");
}

#[test]
fn a_linear_of_several_turns_becomes_one_pair() {
    let (spec, config, mut graph) = lowered(LOOP).unwrap();
    let mut diagnostics = Diagnostics::default();
    let report = cola::run(&mut graph, spec.cola.as_ref(), false, &config, &mut diagnostics);
    assert!(!diagnostics.has_errors(), "{diagnostics:?}");
    graph.verify().unwrap();
    let rewritten =
        report.iter().filter(|linear| matches!(linear.decision, Decision::Rewritten { .. }));
    assert_eq!(rewritten.count(), 6);
    let pair = "outer.0.turn.layers.0.y.cola_a";
    assert_eq!(paths(&graph).iter().filter(|path| **path == pair).count(), 1);
    let (id, _) = graph.parameters().find(|(_, info)| info.path == pair).unwrap();
    let weight = graph.parameter_node(id).unwrap();
    assert_eq!(graph.uses(Value::of(weight)).len(), 3);
    simplify::remove_dead(&mut graph);
    assert!(!paths(&graph).contains(&"outer.0.turn.layers.0.y.weight"));
}

/// The first turn's linear may turn out not to be needed; the others still are.
#[test]
fn a_linear_that_only_later_turns_need_stays_a_linear() {
    let statements = "
 kept = x
 repeat turn[2] shared as t {
   y = up: linear(x, width)
   kept = kept + y if t == 1 else kept
 }
 x = kept";
    let (_, _, mut graph) = lowered(statements).unwrap();
    assert_eq!(graph.linears[0].nodes().count(), 2);
    let second = graph.linears[0].nodes().last().unwrap();
    simplify::remove_dead(&mut graph);
    assert_eq!(graph.linears[0].nodes().collect::<Vec<_>>(), [second]);
}

#[test]
fn turns_that_need_other_sizes_cannot_share() {
    let sizes = "repeat turn[2] shared as t { x = x + b: linear(a: linear(x, width + t), width) }";
    let errors = lowered(sizes).unwrap_err();
    let found: Vec<_> = errors.iter().map(|d| (d.code, d.help.is_some())).collect();
    assert_eq!(found, [("lower::shape_mismatch", true)], "{errors:?}");
}

#[test]
fn yarn_scales_what_it_turns_as_the_paper_says() {
    let turned = "h = rope(heads(x, 4), 500000, factor = 8, beta_fast = 32, beta_slow = 1, original_length = 2048)\n x = merge_heads(h)";
    let (_, _, graph) = lowered(turned).unwrap();
    let scaling = graph.nodes().find_map(|node| match node.kind {
        NodeKind::Constant(ConstantContent::RopeCos { scaling, .. }) => Some(scaling),
        _ => None,
    });
    let Some(RopeScaling::Yarn { factor, attention_factor, original_length, .. }) = scaling else {
        panic!("{scaling:?}");
    };
    assert_eq!((factor.get(), original_length), (8.0, 2048));
    // 0.1 · ln 8 + 1.
    assert!((attention_factor.get() - 1.207_944_154_167_983_6).abs() < 1e-15);
}

/// A table over positions and a number for each head meet values without an operation that spreads them.
#[test]
fn learned_tables_are_read_where_they_lie() {
    let statements = "
 x = x + places: parameter(rows = seq, width = width)
 x = merge_heads(heads(x, 2) * scale: parameter(rows = 4, width = 1))
 x = x + sinusoids(tokens, width)";
    let (_, _, graph) = lowered(statements).unwrap();
    let shape = |path: &str| {
        let (_, info) = graph.parameters().find(|(_, info)| info.path == path).unwrap();
        info.ty.shape.extents()
    };
    assert_eq!((shape("places"), shape("scale")), (vec![6, 8], vec![4, 1]));
    let kinds = graph.nodes().filter_map(|node| match &node.kind {
        NodeKind::Op(op) => Some(op.name()),
        _ => None,
    });
    let mut kinds: Vec<&str> = kinds.collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds, ["concat", "embedding", "head_loss", "linear", "pointwise"]);
}
