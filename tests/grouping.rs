//! Models with linears that read the same value computed as one, against the same models with each by itself: the same
//! bits forwards, gradients that differ in rounding, training that stays together, checkpoints that fit both.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use colac_plan::parameter::Parameter;
use colac_plan::pointwise::Instruction;
use colac_plan::{Op, Plan, ProgramKind, Segment, hash};
use colac_runtime::cpu::{ArenaPlacement, CpuExecutor, CpuOptions};
use colac_runtime::executor::Executor;
use colac_runtime::host::initialize;
use colac_runtime::reference::ReferenceExecutor;
use colac_runtime::train::checkpoint;
use colac_runtime::train::error::CheckpointError;
use colac_runtime::train::observer::Silent;
use colac_runtime::train::options::{Options, Rows, Start};
use colac_runtime::train::rows::TrainingRows;
use colac_runtime::train::run::train;
use colac_runtime::train::trainer::Trainer;
use common::FixedRows;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Makes a shipped model small enough to train in a test; the widths fill no tile of a product.
const SMALL: [&str; 9] = [
    "model.vocab_size=203",
    "model.hidden_size=96",
    "model.num_attention_heads=6",
    "cola.rank=20",
    "train.sequence_length=43",
    "train.micro_batch=2",
    "train.global_batch=4",
    "evaluation.batch=3",
    "data.train=[\"unused\"]",
];

/// A model in both ways: grouped and not.
struct Pair {
    name: String,
    grouped: Arc<Plan>,
    apart: Arc<Plan>,
}

impl Pair {
    fn new(spec: &str, settings: &[&str], full_rank: bool) -> Pair {
        let plan = |group: &str| common::plan(spec, &[settings, &[group]].concat(), full_rank);
        let form = if full_rank { "full-rank" } else { "CoLA" };
        Pair {
            name: format!("{spec} {settings:?} ({form})"),
            grouped: plan("compiler.group=true"),
            apart: plan("compiler.group=false"),
        }
    }
}

/// The shipped architectures in both forms, in small.
fn shipped() -> Vec<Pair> {
    let mut pairs = Vec::new();
    for full_rank in [false, true] {
        pairs.push(Pair::new("llama-nano", &SMALL, full_rank));
        pairs.push(Pair::new("gpt2-nano", &SMALL, full_rank));
        let shared = [&SMALL[..], &["model.num_key_value_heads=2", "model.intermediate_size=173"]];
        pairs.push(Pair::new("llama-nano", &shared.concat(), full_rank));
    }
    pairs
}

/// Every architecture of the tests, in both forms.
fn published() -> Vec<Pair> {
    let mut pairs = Vec::new();
    for folder in ["operations", "architectures"] {
        let folder = common::repository("tests/cases").join(folder);
        let entries = std::fs::read_dir(&folder).expect("the folder of the cases");
        let names = entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"));
        let mut names: Vec<String> = names.filter(|name| name.ends_with(".toml")).collect();
        names.sort();
        for name in names.iter().filter(|name| *name != "spec.toml") {
            let spec = folder.join("spec.toml");
            let architecture = format!("architecture=./{name}");
            for full_rank in [false, true] {
                let spec = spec.to_str().expect("the repository's path is UTF-8");
                pairs.push(Pair::new(spec, &[&architecture], full_rank));
            }
        }
    }
    pairs
}

fn products(plan: &Plan, kind: ProgramKind) -> usize {
    let operations = &plan.program(kind).operations;
    operations.iter().filter(|o| o.op == Op::Linear).count()
}

fn rows(plan: &Plan) -> FixedRows {
    FixedRows::patterned(16, plan.recipe.sequence_length as usize, plan.vocab_size as u32, 3)
}

/// What a model computes from its start values, by name.
type Found = BTreeMap<String, Vec<f64>>;

/// Runs evaluation, logits, and one micro-batch of training.
fn computed(executor: &mut dyn Executor) -> (Found, Found) {
    initialize(executor);
    let plan = executor.plan().clone();
    let roles = &plan.roles;
    let read = |executor: &dyn Executor, id| {
        let mut values = vec![0.0; executor.plan().tensor(id).ty.shape.elements() as usize];
        executor.read_f32(id, &mut values);
        values.into_iter().map(f64::from).collect::<Vec<f64>>()
    };
    let fill = |executor: &mut dyn Executor, batch: &colac_plan::plan::BatchInputs| {
        let elements = executor.plan().tensor(batch.tokens).ty.shape.elements() as usize;
        let (mut tokens, mut labels) = (vec![0; elements], vec![0; elements]);
        rows(executor.plan()).fill(0, &mut tokens, &mut labels).expect("rows in memory");
        executor.write_i32(batch.tokens, &tokens);
        executor.write_i32(batch.labels, &labels);
        tokens
    };
    let mut forward = Found::new();
    let tokens = fill(executor, &roles.evaluate);
    executor.run(ProgramKind::Evaluate, true);
    forward.insert("evaluation".into(), read(executor, roles.evaluate_loss));
    executor.write_i32(roles.logits_tokens, &tokens[..plan.recipe.sequence_length as usize]);
    executor.run(ProgramKind::Logits, true);
    forward.insert("logits".into(), read(executor, roles.logits));
    fill(executor, &roles.train);
    if let Some(draw) = roles.dropout_draw {
        executor.write_i32(draw, &[5, 1, 7, 2]);
    }
    executor.write_f32(roles.loss_scale, &[0.02]);
    executor.write_f32(roles.accumulate, &[0.0]);
    executor.run(ProgramKind::ForwardBackward, true);
    forward.insert("loss".into(), read(executor, roles.train_loss));
    let gradient = |p: &Parameter| (p.path.clone(), read(executor, p.gradient));
    (forward, plan.parameters.iter().map(gradient).collect())
}

fn cpu(plan: &Arc<Plan>, threads: usize) -> CpuExecutor {
    let options =
        CpuOptions { threads, checking: true, arena: ArenaPlacement::BeforeProtectedPage };
    CpuExecutor::new(Arc::clone(plan), options).expect("the CPU runs f32 plans")
}

/// Largest `‖Δ‖/‖b‖` of the tensors; those that are 0 but for rounding are compared with a thousandth of the largest.
fn distance(a: &Found, b: &Found) -> f64 {
    assert!(a.keys().eq(b.keys()), "the same tensors");
    let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
    let largest = b.values().map(|values| norm(values)).fold(0.0, f64::max);
    let off = |(a, b): (&Vec<f64>, &Vec<f64>)| {
        let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        norm(&difference) / norm(b).max(1e-3 * largest)
    };
    a.values().zip(b.values()).map(off).fold(0.0, f64::max)
}

/// Both ways on the CPU, in a guarded arena: forwards the same bits, gradients within `tolerance`.
fn check(pair: &Pair, tolerance: f64) {
    check_within(pair, 0.0, tolerance);
}

fn check_within(pair: &Pair, forwards: f64, backwards: f64) {
    let [(forward, gradients), (other_forward, other_gradients)] =
        [&pair.grouped, &pair.apart].map(|plan| computed(&mut cpu(plan, 2)));
    let off = distance(&forward, &other_forward);
    assert!(off <= forwards, "{}: forwards off by {off:e}", pair.name);
    let off = distance(&gradients, &other_gradients);
    assert!(off <= backwards, "{}: gradients off by {off:e}", pair.name);
    let single = computed(&mut cpu(&pair.grouped, 1));
    assert!(single == (forward, gradients), "{}: one thread gives other bits", pair.name);
}

/// Both ways in f64: results are the same sums, gradients differ in the order of additions.
fn check_reference(pair: &Pair, tolerance: f64) {
    let values = |plan: &Arc<Plan>| {
        let mut executor = ReferenceExecutor::new(Arc::clone(plan));
        computed(&mut executor);
        let gradient = |p: &Parameter| (p.path.clone(), executor.read_f64(p.gradient));
        let logits = executor.read_f64(plan.roles.logits);
        (logits, plan.parameters.iter().map(gradient).collect::<Found>())
    };
    let ((logits, gradients), (other_logits, other_gradients)) =
        (values(&pair.grouped), values(&pair.apart));
    assert!(logits == other_logits, "{}: other logits", pair.name);
    let off = distance(&gradients, &other_gradients);
    assert!(off <= tolerance, "{}: gradients off by {off:e}", pair.name);
}

#[test]
fn shipped_models_compute_the_same() {
    for pair in shipped() {
        assert!(
            products(&pair.grouped, ProgramKind::ForwardBackward)
                < products(&pair.apart, ProgramKind::ForwardBackward),
            "{}: nothing is grouped",
            pair.name
        );
        check(&pair, 1e-5);
    }
}

#[test]
fn published_architectures_compute_the_same() {
    let pairs = published();
    let grouped = |pair: &&Pair| pair.grouped.programs != pair.apart.programs;
    assert!(pairs.iter().filter(grouped).count() > pairs.len() / 2, "hardly anything is grouped");
    pairs.iter().for_each(|pair| check(pair, 1e-5));
}

#[test]
fn the_reference_computes_the_same() {
    shipped().iter().for_each(|pair| check_reference(pair, 1e-12));
}

/// Nothing is copied together and nothing is added: the parts of a gradient are made where they belong.
#[test]
fn gradients_of_groups_are_made_in_place() {
    let copies = |plan: &Plan| {
        let operations = &plan.program(ProgramKind::ForwardBackward).operations;
        let copy = |op: &Op| match op {
            Op::Concat { .. } | Op::Slice { .. } => true,
            Op::Pointwise { program } => {
                let only = |i: &Instruction| matches!(i, Instruction::Input(_));
                program.instructions.iter().all(only)
            }
            _ => false,
        };
        operations.iter().filter(|o| copy(&o.op)).count()
    };
    for pair in shipped() {
        assert_eq!((copies(&pair.grouped), copies(&pair.apart)), (0, 0), "{}", pair.name);
        let operations = |plan: &Plan| plan.program(ProgramKind::ForwardBackward).operations.len();
        assert!(operations(&pair.grouped) < operations(&pair.apart), "{}", pair.name);
    }
}

/// Gate and up, queries, keys and values live and die together, which costs nothing where they did so before: what is
/// made of them takes their place.
#[test]
fn groups_take_no_more_memory() {
    for spec in ["llama-60m", "gpt2-small"] {
        for full_rank in [false, true] {
            for policy in ["recompute.policy=none", "recompute.policy=block"] {
                let pair = Pair::new(spec, &[policy, "train.micro_batch=4"], full_rank);
                let bytes = |plan: &Plan| plan.bytes(Segment::Activations) as f64;
                let (grouped, apart) = (bytes(&pair.grouped), bytes(&pair.apart));
                assert!(grouped <= 1.02 * apart, "{}: {grouped} against {apart}", pair.name);
            }
        }
    }
}

fn options(run_dir: &Path, start: Start, stop_at: u64) -> Options {
    Options {
        run_dir: run_dir.to_path_buf(),
        start,
        stop_at: Some(stop_at),
        deadline: None,
        tensorboard: false,
        tokenizer_json: None,
    }
}

/// Fifty steps of a model and of its other way: the losses differ in rounding, which training amplifies slowly.
#[test]
fn training_stays_together() {
    let losses = |plan: &Arc<Plan>| -> Vec<f64> {
        let mut executor = cpu(plan, 2);
        initialize(&mut executor);
        let (mut trainer, mut rows) = (Trainer::new(plan).expect("right batches"), rows(plan));
        let steps = (0..50).map(|update| {
            let report = trainer.step(&mut executor, &mut rows, update).expect("the step runs");
            report.loss.expect("labels")
        });
        steps.collect()
    };
    for pair in shipped() {
        let (grouped, apart) = (losses(&pair.grouped), losses(&pair.apart));
        let off = grouped.iter().zip(&apart).map(|(a, b)| (a - b).abs() / b);
        let (early, late) = (off.clone().take(20).fold(0.0, f64::max), off.fold(0.0, f64::max));
        assert!(early <= 1e-5 && late <= 1e-3, "{}: off by {early:e}, {late:e}", pair.name);
        assert!(grouped[49] < grouped[0], "{}: it does not learn", pair.name);
    }
}

/// A checkpoint holds the members of groups under their own names: what one way wrote, the other reads. A run does not
/// go on in the other way, because it would not go on bit for bit, and says so.
#[test]
fn checkpoints_fit_both_ways() {
    for pair in shipped() {
        for (writer, reader) in [(&pair.grouped, &pair.apart), (&pair.apart, &pair.grouped)] {
            assert_eq!(hash::model(writer), hash::model(reader), "{}", pair.name);
            let folder = tempfile::tempdir().expect("a folder");
            let mut executor = cpu(writer, 2);
            let mut training = rows(writer);
            let given = Rows { training: &mut training, validation: None };
            let stop = AtomicBool::new(false);
            let options = options(folder.path(), Start::Fresh, 2);
            train(&mut executor, given, &options, &stop, &mut Silent).expect("the run ends well");
            let path = checkpoint::latest(folder.path()).expect("it left a checkpoint");
            let mut other = cpu(reader, 2);
            checkpoint::load_weights(&mut other, &path).expect("the same model");
            for (a, b) in sorted(writer).into_iter().zip(sorted(reader)) {
                assert_eq!(a.path, b.path);
                let read = |executor: &CpuExecutor, parameter: &Parameter| {
                    let ty = &executor.plan().tensor(parameter.tensor).ty;
                    let mut values = vec![0.0; ty.shape.elements() as usize];
                    executor.read_f32(parameter.tensor, &mut values);
                    values
                };
                assert!(read(&executor, a) == read(&other, b), "{}: {}", pair.name, a.path);
            }
            let refused = checkpoint::resume(&mut other, &path);
            assert!(
                matches!(refused, Err(CheckpointError::DifferentNumerics { .. })),
                "{}: {refused:?}",
                pair.name
            );
        }
    }
}

/// Parameters by path.
fn sorted(plan: &Plan) -> Vec<&Parameter> {
    let mut parameters: Vec<&Parameter> = plan.parameters.iter().collect();
    parameters.sort_by_key(|p| &p.path);
    parameters
}

/// A statement of a random block; numbers choose among the values there are so far.
#[derive(Clone, Debug)]
enum Statement {
    /// Several linears of one value, with the same activation or with their own, some with a bias, some not alone.
    Linears { from: usize, widths: Vec<u64>, activations: Vec<usize>, biases: Vec<bool> },
    /// Two values side by side.
    Concat(usize, usize),
    /// The first half of a value of even width.
    Half(usize),
    /// A linear to the width of another value, added to or multiplied with it.
    Join(usize, usize, bool),
    /// A norm with a gain.
    Norm(usize),
    /// Attention whose queries, keys and values are linears of one value, with rotary positions or not.
    Attention(usize, bool),
    /// Two linears with one weight.
    Tied(usize),
}

fn statement() -> impl Strategy<Value = Statement> {
    let value = 0..64usize;
    prop_oneof![
        3 => (
            value.clone(),
            prop::collection::vec(1u64..=7, 1..=4),
            prop::collection::vec(0..4usize, 4),
            prop::collection::vec(any::<bool>(), 4),
        )
            .prop_map(|(from, widths, activations, biases)| {
                Statement::Linears { from, widths, activations, biases }
            }),
        1 => (value.clone(), value.clone()).prop_map(|(a, b)| Statement::Concat(a, b)),
        1 => value.clone().prop_map(Statement::Half),
        2 => (value.clone(), value.clone(), any::<bool>())
            .prop_map(|(a, b, product)| Statement::Join(a, b, product)),
        1 => value.clone().prop_map(Statement::Norm),
        1 => (value.clone(), any::<bool>()).prop_map(|(x, rope)| Statement::Attention(x, rope)),
        1 => value.prop_map(Statement::Tied),
    ]
}

/// An architecture with a block of random statements, repeated twice.
fn architecture(statements: &[Statement]) -> String {
    let mut body = String::new();
    let mut values = vec![("x".to_owned(), 12u64)];
    for (i, statement) in statements.iter().enumerate() {
        let pick = |at: usize| values[at % values.len()].clone();
        let mut made: Vec<(String, String, u64)> = Vec::new();
        match statement {
            Statement::Linears { from, widths, activations, biases } => {
                let (x, _) = pick(*from);
                for (j, width) in widths.iter().enumerate() {
                    let bias = if biases[j] { ", bias = true" } else { "" };
                    let linear = format!("l{i}.m{j}: linear({x}, {width}{bias})");
                    let text = match activations[j] {
                        0 | 1 => format!("silu({linear})"),
                        2 => format!("tanh({linear})"),
                        _ => linear,
                    };
                    made.push((format!("v{i}m{j}"), text, *width));
                }
            }
            Statement::Concat(a, b) => {
                let ((a, n), (b, m)) = (pick(*a), pick(*b));
                made.push((format!("v{i}"), format!("concat({a}, {b})"), n + m));
            }
            Statement::Half(x) => {
                let (x, n) = pick(*x);
                let half = n.div_ceil(2);
                made.push((format!("v{i}"), format!("slice({x}, 0, {half})"), half));
            }
            Statement::Join(a, b, product) => {
                let ((a, _), (b, n)) = (pick(*a), pick(*b));
                let sign = if *product { '*' } else { '+' };
                made.push((format!("v{i}"), format!("(j{i}: linear({a}, {n})) {sign} {b}"), n));
            }
            Statement::Norm(x) => {
                let (x, n) = pick(*x);
                made.push((format!("v{i}"), format!("n{i}: rms_norm({x}, 1e-3)"), n));
            }
            Statement::Attention(x, rope) => {
                let (x, _) = pick(*x);
                let heads = |name: &str, width: u64, rope: bool| {
                    let heads = format!("heads(a{i}.{name}: linear({x}, {width}), 4)");
                    if rope { format!("rope({heads}, theta = 100.0)") } else { heads }
                };
                let (q, k, v) = (heads("q", 8, *rope), heads("k", 4, *rope), heads("v", 4, false));
                let text = format!("merge_heads(softmax_attention({q}, {k}, {v}, mask = causal))");
                made.push((format!("v{i}"), text, 8));
            }
            Statement::Tied(x) => {
                let (x, n) = pick(*x);
                let text = format!(
                    "silu(t{i}: linear({x}, {n}, cola = never)) + \
                     (u{i}: linear({x}, {n}, cola = never, weight = t{i}))"
                );
                made.push((format!("v{i}"), text, n));
            }
        }
        for (name, text, width) in made {
            body.push_str(&format!("  {name} = {text}\n"));
            values.push((name, width));
        }
    }
    // A concat takes up to eight values.
    let mut all: Vec<String> = values.into_iter().map(|(name, _)| name).rev().collect();
    while all.len() > 1 {
        all = all
            .chunks(8)
            .map(|some| match some {
                [single] => single.clone(),
                _ => format!("concat({})", some.join(", ")),
            })
            .collect();
    }
    let all = all.remove(0);
    format!(
        "language  = 1\nabout     = \"random\"\nobjective = \"next-token\"\n\n[config]\nvocab_size = 31\n\n\
         [body]\ntext = '''\nuse normal(0, 0.4) for linear, embedding\nuse normal(0, 0.2) for bias\n\n\
         model(tokens: ids[batch, seq]) {{\n  x = embed: embedding(tokens, vocab_size, 12)\n  \
         repeat layers[2] {{\n    x = x + part: part(norm: rms_norm(x, 1e-3))\n  }}\n  \
         return head: linear(x, vocab_size, cola = never)\n}}\n\n\
         block part(x) {{\n{body}  return tanh(out: linear({all}, 12))\n}}\n'''\n"
    )
}

/// Whatever shares inputs: the same numbers, the same plan rules, in a guarded arena.
#[test]
fn random_architectures_compute_the_same() {
    let config = Config { cases: 60, failure_persistence: None, ..Config::default() };
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let grouped = std::cell::Cell::new(0);
    runner
        .run(
            &(prop::collection::vec(statement(), 1..7), any::<bool>()),
            |(statements, full_rank)| {
                let folder = tempfile::tempdir().expect("a folder");
                let text = architecture(&statements);
                std::fs::write(folder.path().join("random.toml"), &text).expect("a file");
                let spec =
                    std::fs::read_to_string(common::repository("tests/cases/operations/spec.toml"))
                        .expect("the spec of the operations")
                        .replace("./layer-norm.toml", "./random.toml");
                let path = folder.path().join("spec.toml");
                std::fs::write(&path, spec).expect("a file");
                let pair = Pair::new(path.to_str().expect("UTF-8"), &["cola.rank=3"], full_rank);
                let pair = Pair { name: text, ..pair };
                // A norm of one number is nearly its sign, so f32 loses digits of its gradient; f64 shows that nothing else
                // is lost.
                // A product with one or two columns takes another path of the library, which adds in another order.
                check_within(&pair, 1e-6, 2e-3);
                check_reference(&pair, 1e-9);
                let fewer = products(&pair.grouped, ProgramKind::Logits)
                    < products(&pair.apart, ProgramKind::Logits);
                grouped.set(grouped.get() + usize::from(fewer));
                Ok(())
            },
        )
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(grouped.get() > 30, "only {} of 60 had anything to group", grouped.get());
}
