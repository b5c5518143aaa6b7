//! That `auto` finds what trying everything finds.

use std::collections::BTreeSet;

use crate::compile;
use crate::graph::{Graph, NodeId, Value};
use crate::passes::recompute::auto::choose;
use crate::passes::recompute::blocks::Blocks;
use crate::passes::recompute::keep::{Keep, needed};
use crate::passes::recompute::{rebuild, total_price};
use crate::passes::{memory, place, schedule, simplify};

/// Two blocks with few results to choose among.
const TWO_BLOCKS: &str = r#"
language = 1
about = "Two gated layers"
objective = "next-token"

[config]
required = ["vocab_size", "hidden_size"]

[body]
text = '''
use normal(0, 0.02) for linear, embedding

model(tokens: ids[batch, seq]) {
  x = embed: embedding(tokens, vocab_size, hidden_size)
  repeat layers[2] {
    a = silu(gate: linear(x, 3 * hidden_size, cola = never))
    x = x + down: linear(a, hidden_size, cola = never)
  }
  return head: linear(x, vocab_size, cola = never)
}
'''
"#;

fn bytes(graph: &Graph) -> u64 {
    let mut graph = graph.clone();
    place::run(&mut graph);
    let order = schedule::run(&graph);
    memory::run(&graph, &order).bytes
}

/// Bytes and price of every choice of results that live, in both blocks independently.
fn everything(graph: &Graph) -> Vec<(u64, u64)> {
    let blocks = Blocks::of(graph);
    let may: Vec<Value> = needed(graph, &blocks)
        .into_iter()
        .filter(|&value| !blocks.is_fixed(value) && !blocks.crosses(value))
        .collect();
    let makers: BTreeSet<NodeId> = may.iter().map(|value| value.node).collect();
    let makers: Vec<NodeId> = makers.into_iter().collect();
    assert!((4..=12).contains(&makers.len()), "{} results to choose among", makers.len());
    let mut found = Vec::new();
    for bits in 0..1u32 << makers.len() {
        let mut keep = Keep::default();
        for &id in blocks.forward() {
            let results = 0..graph.node(id).results.len() as u16;
            keep.lives.extend(results.map(|result| Value { node: id, result }).filter(|&value| {
                let chosen = makers.iter().position(|&maker| maker == id);
                blocks.is_fixed(value)
                    || blocks.crosses(value)
                    || chosen.is_some_and(|at| bits >> at & 1 == 1)
            }));
        }
        let mut graph = graph.clone();
        rebuild::run(&mut graph, &blocks, &keep);
        simplify::remove_dead(&mut graph);
        graph.verify().expect("clones take what their originals took");
        found.push((bytes(&graph), total_price(&graph)));
    }
    found
}

#[test]
fn auto_is_as_good_as_trying_everything() {
    let graph = compile::training_graph(TWO_BLOCKS, &["vocab_size=96", "hidden_size=32"]);
    let everything = everything(&graph);
    let least = everything.iter().map(|one| one.0).min().expect("choices");
    let most = bytes(&graph);
    assert!(most > least + 20);
    let mut last = u64::MAX;
    for step in 0..20 {
        let budget = least + (most - least) * step / 19;
        let fits = everything.iter().filter(|(bytes, _)| *bytes <= budget);
        let best = fits.map(|(_, price)| *price).min().expect("the least fits");
        let chosen = choose(&graph, budget, &mut bytes).expect("the least fits");
        assert!(chosen.bytes <= budget);
        assert_eq!(chosen.price, best, "in {budget} of {most} bytes: {}", chosen.description);
        assert!(chosen.price <= last, "more memory must not mean more work");
        last = chosen.price;
    }
}

#[test]
fn what_does_not_fit_says_what_would() {
    let graph = compile::training_graph(TWO_BLOCKS, &["vocab_size=96", "hidden_size=32"]);
    let smallest = choose(&graph, 10, &mut bytes).expect_err("ten bytes are too few").0;
    assert!(smallest.bytes <= everything(&graph).into_iter().map(|one| one.0).min().expect("some"));
    assert!(choose(&graph, smallest.bytes, &mut bytes).is_ok());
}
