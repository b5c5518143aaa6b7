//! Pictures hold everything once, add up, and fold only what is the same.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use colac_compiler::compile::{Request, compile};
use colac_compiler::diagnostics::Sources;
use colac_compiler::pictures::Stages;
use colac_compiler::spec::{SpecInput, shipped};
use colac_compiler::view::Inspection;
use colac_compiler::view::compare::Comparison;
use colac_compiler::view::draw::{dot, explorer, figure, tree, tree_pair};
use colac_compiler::view::page;
use colac_compiler::view::picture::model::{Box, BoxKind, Stage, Total, Use};
use colac_compiler::view::picture::{Picture, StageName};
use colac_plan::Plan;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

fn plan(input: SpecInput, settings: &[&str]) -> Plan {
    let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
    let request = Request { input, settings, full_rank: false, dump: None };
    compile(request, &mut Sources::default()).unwrap_or_else(|e| panic!("{e:?}")).plan
}

fn shipped_plan(spec: &str, settings: &[&str]) -> Plan {
    plan(SpecInput::from_argument(spec), settings)
}

fn picture(spec: &str, settings: &[&str]) -> Picture {
    let stages = Stages::new(&shipped_plan(spec, settings)).map_err(|(e, _)| e).unwrap();
    stages.picture(&StageName::ALL, None).unwrap()
}

/// Architectures that do not ship: other norms, shared turns, repeats in repeats, several inputs of a block.
fn foreign() -> Vec<(String, Plan)> {
    let folder = common::repository("tests/cases/architectures");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "spec.toml")
        .collect();
    names.sort();
    let spec = folder.join("spec.toml");
    let compiled = |name: String| {
        let setting = format!("architecture=\"./{name}\"");
        let plan = plan(SpecInput::Path(spec.clone()), &[&setting]);
        (name, plan)
    };
    names.into_iter().map(compiled).collect()
}

/// Every node and every value of a graph or plan is drawn once, values are what their nodes make, and boxes stand behind
/// those around them.
fn holds_everything_once(name: &str, plan: &Plan) {
    let stages = Stages::new(plan).map_err(|(e, _)| e).unwrap();
    for stage in StageName::ALL {
        let drawn = stages.unfolded(stage);
        let expected: usize = match stages.graph(stage) {
            Some(graph) => {
                assert_eq!(drawn.nodes.len(), graph.len(), "{name}, {}", drawn.name);
                graph.nodes().map(|node| node.results.len()).sum()
            }
            None => {
                let operations = plan.programs.iter().map(|p| p.operations.len()).sum::<usize>();
                let placed = drawn.nodes.iter().filter(|node| node.position.is_some()).count();
                assert_eq!(placed, operations, "{name}");
                plan.tensors.len()
            }
        };
        assert_eq!(drawn.values.len(), expected, "{name}, {}", drawn.name);
        is_sound(name, &drawn);
        let positions: BTreeSet<_> = drawn.nodes.iter().map(|n| (n.program, n.position)).collect();
        if stage == StageName::Plan {
            assert!(positions.len() > plan.programs.iter().map(|p| p.operations.len()).sum());
        }
    }
}

/// What every stage must be, folded or not.
fn is_sound(name: &str, stage: &Stage) {
    let name = format!("{name}, {}", stage.name);
    assert_eq!(stage.boxes[0].kind, BoxKind::Model, "{name}");
    for (index, one) in stage.boxes.iter().enumerate().skip(1) {
        assert!(one.parent.unwrap() < index, "{name}: {} stands before its parent", one.path);
    }
    let mut made = vec![0; stage.values.len()];
    for (index, node) in stage.nodes.iter().enumerate() {
        assert!(node.parent < stage.boxes.len(), "{name}");
        for &value in &node.results {
            made[value] += usize::from(stage.values[value].node == index);
        }
        node.operands.iter().for_each(|used| exists(stage, used));
    }
    assert!(made.iter().all(|&times| times == 1), "{name}: a value is not of its node");
}

fn exists(stage: &Stage, used: &Use) {
    assert!(used.value < stage.values.len());
    if let Some(carried) = &used.carried {
        exists(stage, &carried.outside);
    }
}

/// The total of every box is the sum of its nodes and the boxes in it, each as often as it stands there; and folding
/// loses nothing.
fn adds_up(name: &str, plan: &Plan) {
    let stages = Stages::new(plan).map_err(|(e, _)| e).unwrap();
    let folded = stages.picture(&StageName::ALL, None).unwrap();
    assert_eq!(folded.note, None, "{name}: its spec makes the plan again");
    for (name_of_stage, stage) in StageName::ALL.into_iter().zip(&folded.stages) {
        is_sound(name, stage);
        let mut sums = vec![Total::default(); stage.boxes.len()];
        for (index, node) in stage.nodes.iter().enumerate() {
            sums[node.parent] += stage.total_of(index) * stage.boxes[node.parent].times;
        }
        for index in (1..stage.boxes.len()).rev() {
            let inner = sums[index];
            sums[stage.boxes[index].parent.unwrap()] += inner;
        }
        for (one, sum) in stage.boxes.iter().zip(sums) {
            assert_eq!(one.total, sum, "{name}, {}: {}", stage.name, one.path);
        }
        let unfolded = stages.unfolded(name_of_stage);
        assert_eq!(unfolded.boxes[0].total, stage.boxes[0].total, "{name}, {}", stage.name);
        let instances = |stage: &Stage| -> u64 {
            stage.nodes.iter().map(|node| stage.boxes[node.parent].times).sum()
        };
        assert_eq!(instances(stage), unfolded.nodes.len() as u64, "{name}, {}", stage.name);
    }
}

/// Folding forgets nothing of who reads what: from the first turn and the uses, the wiring of every turn comes back. For
/// models without repeats in repeats.
fn unfolds(name: &str, plan: &Plan) {
    let stages = Stages::new(plan).map_err(|(e, _)| e).unwrap();
    let folded = stages.picture(&StageName::ALL, None).unwrap();
    for (name_of_stage, stage) in StageName::ALL.into_iter().zip(&folded.stages) {
        let whole = stages.unfolded(name_of_stage);
        // By outermost turn, or none: nodes in order.
        let whole_nodes = by_turn(&whole);
        let mut value_of = BTreeMap::new();
        let mut pairs = Vec::new();
        for (turn, nodes) in by_turn(stage) {
            let fold = turn.and_then(|turn| fold_of(stage, turn));
            let turns = match (turn, fold) {
                (Some(_), Some(fold)) => {
                    (fold.first.unwrap()..=fold.last.unwrap()).map(Some).collect()
                }
                (turn, _) => vec![turn],
            };
            for turn in turns {
                assert_eq!(nodes.len(), whole_nodes[&turn].len(), "{name}, {}", stage.name);
                for (&node, &original) in nodes.iter().zip(&whole_nodes[&turn]) {
                    let made = stage.nodes[node].results.iter().zip(&whole.nodes[original].results);
                    for (&value, &original) in
                        made.filter(|(value, _)| stage.values[**value].node == node)
                    {
                        value_of.insert((turn, value), original);
                    }
                    pairs.push((turn, node, original));
                }
            }
        }
        let turn_of = |value: usize| turn_of(stage, stage.values[value].node);
        // A turn that stands alone is the only one it can be.
        let is_made = |used: &Use, turn: Option<u64>| {
            let own = turn_of(used.value);
            let folded = own.is_some_and(|own| fold_of(stage, own).is_some());
            let made_in = match used.of.as_slice() {
                [of] => Some(*of),
                _ if folded => turn,
                _ => own,
            };
            value_of.get(&(made_in, used.value)).copied()
        };
        for (turn, node, original) in pairs {
            for (used, expected) in
                stage.nodes[node].operands.iter().zip(&whole.nodes[original].operands)
            {
                let found = match &used.carried {
                    None => is_made(used, turn),
                    Some(carried) => {
                        let fold = fold_of(stage, turn.unwrap()).unwrap();
                        let from = turn.unwrap() as i64 + i64::from(carried.turn);
                        match fold.first <= Some(from as u64) && Some(from as u64) <= fold.last {
                            true => value_of.get(&(Some(from as u64), used.value)).copied(),
                            false => is_made(&carried.outside, None),
                        }
                    }
                };
                assert_eq!(
                    found,
                    Some(expected.value),
                    "{name}, {}: {}",
                    stage.name,
                    stage.nodes[node].path
                );
            }
        }
    }
}

/// The fold that a turn is in.
fn fold_of(stage: &Stage, turn: u64) -> Option<&Box> {
    let is_fold = |one: &&Box| one.kind == BoxKind::Fold;
    let has = |one: &&Box| one.first <= Some(turn) && Some(turn) <= one.last;
    stage.boxes.iter().filter(is_fold).find(has)
}

/// The number of the outermost turn that a node lies in.
fn turn_of(stage: &Stage, node: usize) -> Option<u64> {
    let mut around = Some(stage.nodes[node].parent);
    let mut found = None;
    while let Some(index) = around {
        if matches!(stage.boxes[index].kind, BoxKind::Turn) {
            found = stage.boxes[index].first;
        }
        around = stage.boxes[index].parent;
    }
    found
}

fn by_turn(stage: &Stage) -> BTreeMap<Option<u64>, Vec<usize>> {
    let mut turns: BTreeMap<Option<u64>, Vec<usize>> = BTreeMap::new();
    for node in 0..stage.nodes.len() {
        turns.entry(turn_of(stage, node)).or_default().push(node);
    }
    turns
}

/// The numbers are those of `colac inspect`: of the model, and of every layer.
fn equals_inspection(name: &str, plan: &Plan) {
    let stages = Stages::new(plan).map_err(|(e, _)| e).unwrap();
    let inspection = Inspection::new(plan);
    let tokens = u64::from(plan.recipe.micro_batch) * u64::from(plan.recipe.sequence_length);
    for stage in [StageName::Fused, StageName::Plan] {
        let drawn = stages.unfolded(stage);
        let total = drawn.boxes[0].total;
        assert_eq!(total.parameters, inspection.parameters.total, "{name}");
        let flops = inspection.flops_per_token;
        let each = |n: u64| n / tokens;
        assert_eq!(
            (each(total.forward), each(total.backward), each(total.recompute)),
            (flops.forward, flops.backward, flops.recompute),
            "{name}, {}",
            drawn.name
        );
    }
    let drawn = stages.unfolded(StageName::Plan);
    let paths: BTreeSet<&str> = plan.scopes.iter().map(String::as_str).collect();
    // Turns that share their parameters share a path, and the inspection cannot tell them apart.
    if paths.len() == plan.scopes.len() {
        let layers = inspection.per_layer.iter().filter(|layer| layer.path != "rest");
        for layer in layers {
            let turn = drawn.boxes.iter().find(|one| one.path == layer.path).unwrap();
            let (total, flops) = (turn.total, layer.flops_per_token);
            assert_eq!(
                (total.parameters, total.kept, total.forward / tokens, total.backward / tokens),
                (layer.parameters, layer.kept_bytes, flops.forward, flops.backward),
                "{name}: {}",
                layer.path
            );
        }
    }
    let count = |programs: &[colac_plan::ProgramKind]| -> u64 {
        programs.iter().map(|&kind| plan.program(kind).operations.len() as u64).sum()
    };
    use colac_plan::ProgramKind::{ForwardBackward, Update};
    let total = drawn.boxes[0].total;
    assert_eq!(total.operations, count(&[ForwardBackward, Update]), "{name}");
    let moved = colac_compiler::view::MemoryReport::new(plan).bytes_moved;
    let all = moved.forward + moved.backward + moved.recompute + moved.update;
    assert_eq!(total.bytes, all, "{name}");
}

#[test]
fn shipped_specs_are_drawn_whole() {
    for (spec, _) in shipped::specs() {
        for policy in ["none", "cola-m"] {
            let plan = shipped_plan(spec, &[&format!("recompute.policy={policy}")]);
            holds_everything_once(spec, &plan);
            adds_up(spec, &plan);
            unfolds(spec, &plan);
            equals_inspection(spec, &plan);
        }
    }
}

#[test]
fn foreign_architectures_are_drawn_whole() {
    for (name, plan) in foreign() {
        holds_everything_once(&name, &plan);
        adds_up(&name, &plan);
        equals_inspection(&name, &plan);
    }
}

/// Any choice of ranks and policies: what is drawn adds up, and a layer folds only with layers of its own ranks.
#[test]
fn any_choice_of_ranks_is_drawn_whole() {
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let ranks = proptest::collection::vec(1u32..4, 6);
    runner
        .run(&(ranks, prop_oneof!["none", "cola-m", "block"]), |(ranks, policy)| {
            // One override for each rank, so that layers of one rank have their decision in common.
            let of_rank = |rank: u32| {
                let layers = (0..ranks.len()).filter(|&layer| ranks[layer] == rank);
                let paths = layers.map(|layer| format!("\"layers.{layer}.mlp.up_proj\""));
                let paths: Vec<String> = paths.collect();
                (!paths.is_empty())
                    .then(|| format!("{{targets=[{}], rank={}}}", paths.join(", "), 8 * rank))
            };
            let overrides: Vec<String> = (1..4).filter_map(of_rank).collect();
            let settings = [
                "model.num_hidden_layers=6".to_owned(),
                format!("cola.override=[{}]", overrides.join(", ")),
                format!("recompute.policy={policy}"),
            ];
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            let plan = shipped_plan("llama-nano", &settings);
            holds_everything_once("ranks", &plan);
            adds_up("ranks", &plan);
            unfolds("ranks", &plan);
            let stages = Stages::new(&plan).map_err(|(e, _)| e).unwrap();
            for stage in stages.picture(&StageName::ALL, None).unwrap().stages.iter().skip(1) {
                let folds = stage.boxes.iter().filter(|one| one.kind == BoxKind::Fold);
                for fold in folds {
                    let (first, last) = (fold.first.unwrap(), fold.last.unwrap());
                    let folded = &ranks[first as usize..=last as usize];
                    prop_assert!(folded.iter().all(|rank| *rank == folded[0]), "{}", fold.path);
                }
            }
            Ok(())
        })
        .unwrap();
}

fn folds(stage: &Stage) -> Vec<&str> {
    let outermost = stage.boxes.iter().filter(|one| one.parent == Some(0));
    let turns = outermost.filter(|one| matches!(one.kind, BoxKind::Fold | BoxKind::Turn));
    turns.map(|one| one.path.as_str()).collect()
}

#[test]
fn a_layer_of_another_rank_stands_alone() {
    let rank = "cola.override=[{targets=[\"layers.7.self_attn.v_proj\"], rank=256}]";
    let picture = picture("llama-7b", &[rank]);
    // Before the rewrite, too: there it is the linear that will be another pair.
    for stage in &picture.stages[..2] {
        assert_eq!(folds(stage), ["layers.0-6", "layers.7", "layers.8-31"]);
    }
    let shown = picture.stages[1].boxes.iter();
    let other = shown.clone().find(|one| one.path == "layers.7.self_attn.v_proj").unwrap();
    assert_eq!(other.pair.as_ref().unwrap().rank, 256);
    let lines: Vec<&str> = picture.spec.text.lines().collect();
    let decided = |path: &str| {
        let node = picture.stages[1].nodes.iter().find(|node| node.path == path).unwrap();
        lines[node.spec_line.unwrap() as usize - 1]
    };
    assert!(decided("layers.7.self_attn.v_proj.down").contains("256"));
    assert!(decided("layers.7.self_attn.q_proj.down").contains("hidden_size / 4"));
}

/// An override that names a layer is a decision, also where it decides what would have been.
#[test]
fn a_layer_with_a_decision_of_its_own_stands_alone() {
    let rank = "cola.override=[{targets=[\"layers.2.mlp.up_proj\"], rank=32}]";
    let picture = picture("llama-nano", &[rank]);
    assert_eq!(folds(&picture.stages[1]), ["layers.0-1", "layers.2", "layers.3"]);
}

#[test]
fn turns_read_from_the_turn_before() {
    let picture = picture("llama-nano", &[]);
    let stage = &picture.stages[1];
    let norm = stage.nodes.iter().find(|node| node.path == "layers.0.input_layernorm").unwrap();
    let used = norm.operands.iter().find(|used| used.carried.is_some()).unwrap();
    let carried = used.carried.as_ref().unwrap();
    assert_eq!(carried.turn, -1);
    let maker = |value: usize| stage.nodes[stage.values[value].node].path.as_str();
    assert_eq!((maker(used.value), maker(carried.outside.value)), ("layers.0", "embed_tokens"));
    // What comes out of the fold is that of the last layer.
    let last =
        stage.nodes.iter().find(|node| node.path == "norm" && node.op == "rms_norm").unwrap();
    let used = last.operands.iter().find(|used| !used.of.is_empty()).unwrap();
    assert_eq!((maker(used.value), used.of.as_slice()), ("layers.0", &[3][..]));
}

#[test]
fn one_layer_alone_is_that_layer() {
    let stages = Stages::new(&shipped_plan("llama-nano", &[])).map_err(|(e, _)| e).unwrap();
    let picture = stages.picture(&StageName::ALL, Some(2)).unwrap();
    for (name, stage) in StageName::ALL.into_iter().zip(&picture.stages) {
        assert_eq!(folds(stage), ["layers.2"]);
        let whole = stages.unfolded(name);
        let turn = whole.boxes.iter().find(|one| one.path == "layers.2").unwrap();
        assert_eq!((stage.boxes[0].total, stage.boxes[1].total), (turn.total, turn.total));
        is_sound("layer 2", stage);
    }
    let error = stages.picture(&[StageName::Cola], Some(4)).unwrap_err();
    assert_eq!(error.to_string(), "there is no layer 4: the layers are 0 to 3");
}

#[test]
fn what_is_made_again_is_in_a_region() {
    let picture = picture("llama-nano", &["recompute.policy=cola-m"]);
    let stage = picture.stages.iter().find(|stage| stage.name == "recompute").unwrap();
    let again: Vec<_> = stage.nodes.iter().filter(|node| node.phase == "recompute").collect();
    assert!(!again.is_empty() && again.iter().all(|node| node.region.is_some()));
    assert!(stage.boxes[0].total.recompute > 0);
}

/// Markup in a name is text in every format.
#[test]
fn markup_stays_text() {
    const HOSTILE: &str = "</script><script>alert(\"1\")</script>&amp;\\N<!--";
    let mut picture = picture("llama-nano", &[]);
    picture.name = HOSTILE.to_owned();
    for stage in &mut picture.stages {
        for one in &mut stage.boxes {
            one.label = format!("{HOSTILE}{}", one.label);
            one.path = format!("{HOSTILE}{}", one.path);
        }
        for node in &mut stage.nodes {
            node.label = format!("{HOSTILE}{}", node.label);
            node.path = format!("{HOSTILE}{}", node.path);
        }
    }
    let stage = &picture.stages[1];
    let page = page::page(&picture);
    assert!(!page.contains("<script>alert"));
    let svg = figure::svg(&picture, stage);
    assert!(!svg.contains("<script") && svg.contains("&lt;script&gt;"));
    assert!(svg.contains("&amp;amp;"));
    let dot = dot::text(&picture, stage);
    assert!(dot.contains("&lt;") || dot.contains("<script>"), "the name is in it");
    for line in dot.lines() {
        let quotes = line.replace("\\\\", "").replace("\\\"", "").matches('"').count();
        assert!(quotes.is_multiple_of(2), "a text ends early: {line}");
    }
    let json: serde_json::Value = serde_json::from_str(&explorer::json(&picture)).unwrap();
    assert!(json["label"].as_str().unwrap().starts_with(HOSTILE));
    assert!(tree::text(&picture).contains(HOSTILE));
}

#[test]
fn the_page_of_a_large_model_is_small() {
    for policy in ["none", "cola-m"] {
        let setting = format!("recompute.policy={policy}");
        let rank = "cola.override=[{targets=[\"layers.7.self_attn.v_proj\"], rank=256}]";
        let page = page::page(&picture("llama-7b", &[&setting, rank]));
        assert!(page.len() < 2_000_000, "{} bytes", page.len());
        assert!(!page.contains("https://") && !page.contains("src="), "it needs no network");
    }
}

/// What is drawn of a plan that this compiler would not make is not silently mixed with what it would: every stage but the
/// plan's own says so.
#[test]
fn a_plan_of_another_compiler_is_drawn_with_a_note() {
    let mut other = shipped_plan("llama-nano", &["compiler.fuse=[]"]);
    other.origin = shipped_plan("llama-nano", &[]).origin;
    other.origin.compiler_version = "0.0.9".to_owned();
    let stages = Stages::new(&other).map_err(|(e, _)| e).unwrap();
    let drawn = stages.picture(&StageName::ALL, None).unwrap();
    let note = drawn.note.clone().unwrap();
    assert!(note.starts_with("the plan was compiled by colac 0.0.9, and this colac 0."), "{note}");
    let operations: usize = other.programs.iter().map(|program| program.operations.len()).sum();
    let plan = stages.unfolded(StageName::Plan);
    let placed = plan.nodes.iter().filter(|node| node.position.is_some()).count();
    assert_eq!(placed, operations, "the plan's stage is of the file");
    for stage in &drawn.stages {
        let expected = if stage.name == "plan" { None } else { Some(&*note) };
        assert_eq!(drawn.note_on(stage), expected);
    }
    assert_eq!(tree::text(&drawn).matches(&*note).count(), StageName::ALL.len() - 1);
    let json = explorer::json(&drawn);
    assert_eq!(json.matches(&format!("\"note\":\"{note}\"")).count(), StageName::ALL.len() - 1);
    assert!(dot::text(&drawn, &drawn.stages[0]).contains(&note));
    assert!(page::page(&drawn).contains(&note));
    let both = Comparison::new(picture("llama-nano", &[]), drawn);
    assert_eq!(tree_pair::text(&both).matches(&*note).count(), 1);
    // The plan alone is the file's, and so is all that is said of it.
    assert_eq!(stages.picture(&[StageName::Plan], None).unwrap().note, None);

    other.origin.compiler_version = shipped_plan("llama-nano", &[]).origin.compiler_version;
    let stages = Stages::new(&other).map_err(|(e, _)| e).unwrap();
    let note = stages.picture(&[StageName::Cola], None).unwrap().note.unwrap();
    assert!(note.starts_with("the plan was compiled by another build of colac 0."), "{note}");
}

/// Whatever a plan was compiled with is in the spec that it carries: compiled once more it is the same.
#[test]
fn a_plan_of_this_compiler_is_drawn_without_a_note() {
    let cases: [&[&str]; 4] = [
        &["compiler.fuse=[]", "compiler.group=false"],
        &["recompute.policy=auto", "recompute.memory=\"64 MiB\""],
        &[
            "recompute.policy=auto",
            "recompute.memory=\"64 MiB\"",
            "recompute.choose_micro_batch=true",
        ],
        &["train.precision=bf16"],
    ];
    for settings in cases {
        assert_eq!(picture("llama-nano", settings).note, None, "{settings:?}");
    }
    let dense = common::plan("llama-nano", &[], true);
    let stages = Stages::new(&dense).map_err(|(e, _)| e).unwrap();
    assert_eq!(stages.picture(&[StageName::Forward], None).unwrap().note, None);
}
