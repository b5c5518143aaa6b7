//! Models of every operation, end to end: the gradients of a whole model against differences in f64, the CPU against
//! the reference, training, dropout.
//!
//! Every file of `tests/cases/operations/` but `spec.toml` is an architecture that is compiled as a CoLA model and as a
//! dense one.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use colac_plan::{Op, Plan, ProgramKind};
use colac_runtime::cpu::{ArenaPlacement, CpuExecutor, CpuOptions};
use colac_runtime::executor::Executor;
use colac_runtime::host::initialize;
use colac_runtime::host::random::{Stream, dropout_draw};
use colac_runtime::reference::ReferenceExecutor;
use colac_runtime::train::observer::Silent;
use colac_runtime::train::options::{Options, Rows, Start};
use colac_runtime::train::rows::TrainingRows;
use colac_runtime::train::run::train;
use colac_runtime::train::trainer::Trainer;
use common::FixedRows;

/// Names of the architectures.
fn architectures() -> Vec<String> {
    let folder = common::repository("tests/cases/operations");
    let entries = std::fs::read_dir(folder).expect("the folder of the cases");
    let names = entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<String> = names
        .filter_map(|name| name.strip_suffix(".toml").map(str::to_owned))
        .filter(|name| name != "spec")
        .collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

fn plan(architecture: &str, full_rank: bool) -> Arc<Plan> {
    let setting = format!("architecture=./{architecture}.toml");
    common::plan_of_file("tests/cases/operations/spec.toml", &[&setting], full_rank)
}

fn rows(plan: &Plan) -> FixedRows {
    FixedRows::patterned(16, plan.recipe.sequence_length as usize, plan.vocab_size as u32, 3)
}

/// Sets all that one micro-batch reads.
fn prepare(executor: &mut dyn Executor) {
    initialize(executor);
    let plan = executor.plan();
    let (roles, recipe) = (plan.roles.clone(), &plan.recipe);
    let elements = (recipe.micro_batch * recipe.sequence_length) as usize;
    let (mut tokens, mut labels) = (vec![0; elements], vec![0; elements]);
    rows(plan).fill(0, &mut tokens, &mut labels).expect("rows in memory");
    let seed = recipe.seed;
    executor.write_i32(roles.train.tokens, &tokens);
    executor.write_i32(roles.train.labels, &labels);
    if let Some(draw) = roles.dropout_draw {
        executor.write_i32(draw, &dropout_draw(seed, 5, 1));
    }
    executor.write_f32(roles.loss_scale, &[1.0]);
    executor.write_f32(roles.accumulate, &[0.0]);
}

fn loss(executor: &mut ReferenceExecutor) -> f64 {
    executor.run(ProgramKind::ForwardBackward, true);
    executor.read_f64(executor.plan().roles.train_loss).iter().sum()
}

/// For every parameter, the slope of the loss along a random direction in that parameter is what its gradient says.
/// Central differences of fourth order in f64: rounding is about 1e-7.
#[test]
fn gradients_of_whole_models_are_slopes() {
    for name in architectures() {
        for full_rank in [false, true] {
            let plan = plan(&name, full_rank);
            let mut executor = ReferenceExecutor::new(Arc::clone(&plan));
            prepare(&mut executor);
            loss(&mut executor);
            let gradients: Vec<Vec<f64>> =
                plan.parameters.iter().map(|p| executor.read_f64(p.gradient)).collect();
            for (parameter, gradient) in plan.parameters.iter().zip(&gradients) {
                let start = executor.read_f64(parameter.tensor);
                let stream = Stream::new(1, &parameter.path, 99);
                let direction: Vec<f64> =
                    (0..).flat_map(|i| stream.normal_pair(i)).take(start.len()).collect();
                let mut at = |step: f64| {
                    let moved: Vec<f64> =
                        start.iter().zip(&direction).map(|(x, d)| x + step * d).collect();
                    executor.write_f64(parameter.tensor, &moved);
                    loss(&mut executor)
                };
                // Short, because clamps and maxima have kinks, which few elements may cross.
                let step = 2e-6;
                let slope = (8.0 * (at(step) - at(-step)) - (at(2.0 * step) - at(-2.0 * step)))
                    / (12.0 * step);
                at(0.0);
                let expected: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
                let size = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
                assert!(
                    (slope - expected).abs() <= 1e-5 * size.max(1e-2),
                    "{name}, full_rank={full_rank}, {}: slope {slope}, gradient {expected}",
                    parameter.path
                );
            }
        }
    }
}

/// Loss and gradient of every parameter, `‖Δ‖/‖reference‖ ≤ 1e-4`; the logits of both.
#[test]
fn the_cpu_agrees_with_the_reference() {
    for name in architectures() {
        for full_rank in [false, true] {
            let plan = plan(&name, full_rank);
            let mut reference = ReferenceExecutor::new(Arc::clone(&plan));
            prepare(&mut reference);
            reference.run(ProgramKind::ForwardBackward, true);
            let options = CpuOptions {
                threads: 2,
                checking: true,
                arena: ArenaPlacement::BeforeProtectedPage,
            };
            let mut cpu =
                CpuExecutor::new(Arc::clone(&plan), options).expect("the CPU runs f32 plans");
            prepare(&mut cpu);
            cpu.run(ProgramKind::ForwardBackward, true);
            let mut tensors = vec![("loss", plan.roles.train_loss)];
            tensors.extend(plan.parameters.iter().map(|p| (p.path.as_str(), p.gradient)));
            for (what, tensor) in tensors {
                let expected = reference.read_f64(tensor);
                let mut found = vec![0.0; expected.len()];
                cpu.read_f32(tensor, &mut found);
                let off: f64 =
                    found.iter().zip(&expected).map(|(f, e)| (f64::from(*f) - e).powi(2)).sum();
                let size: f64 = expected.iter().map(|e| e * e).sum();
                assert!(
                    off.sqrt() <= 1e-4 * size.sqrt().max(1e-3),
                    "{name}, full_rank={full_rank}: {what} is off by {} of {}",
                    off.sqrt(),
                    size.sqrt()
                );
            }
        }
    }
}

/// Losses of some updates and the bits of all weights after them.
fn train_on(plan: &Arc<Plan>, threads: usize, updates: u64) -> (Vec<f64>, Vec<u32>) {
    let options = CpuOptions { threads, ..CpuOptions::default() };
    let mut executor = CpuExecutor::new(Arc::clone(plan), options).expect("f32 plans run");
    initialize(&mut executor);
    let (mut trainer, mut rows) = (Trainer::new(plan).expect("right batches"), rows(plan));
    let losses = (0..updates).map(|update| {
        let report = trainer.step(&mut executor, &mut rows, update).expect("the step runs");
        report.loss.expect("labels")
    });
    let losses = losses.collect();
    let mut weights = vec![0.0; plan.tensor(plan.roles.parameters).ty.shape.elements() as usize];
    executor.read_f32(plan.roles.parameters, &mut weights);
    (losses, weights.into_iter().map(f32::to_bits).collect())
}

#[test]
fn every_model_learns_and_threads_do_not_change_a_bit() {
    for name in architectures() {
        for full_rank in [false, true] {
            let plan = plan(&name, full_rank);
            let (losses, weights) = train_on(&plan, 1, 40);
            let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
            let (first, last) = (mean(&losses[..4]), mean(&losses[36..]));
            assert!(last < first - 0.3, "{name}, full_rank={full_rank}: {first} to {last}");
            let (other_losses, other_weights) = train_on(&plan, 3, 40);
            assert!(
                losses == other_losses && weights == other_weights,
                "{name}, full_rank={full_rank}: three threads give other bits"
            );
        }
    }
}

fn has_dropout(plan: &Plan, kind: ProgramKind) -> bool {
    let operations = &plan.program(kind).operations;
    operations.iter().any(|o| matches!(o.op, Op::Dropout { .. }))
}

/// Each dropout of a model has a key of its own, the backward pass draws as the forward pass did, and what is not
/// training has none.
#[test]
fn dropout_is_for_training_alone() {
    let plan = plan("layer-norm", false);
    assert!(has_dropout(&plan, ProgramKind::ForwardBackward));
    assert!(!has_dropout(&plan, ProgramKind::Evaluate) && !has_dropout(&plan, ProgramKind::Logits));
    let mut keys: Vec<u64> = Vec::new();
    for operation in &plan.program(ProgramKind::ForwardBackward).operations {
        if let Op::Dropout { key, .. } = operation.op {
            keys.push(key);
        }
    }
    keys.sort_unstable();
    let (all, pairs) = (keys.len(), keys.chunks(2).all(|pair| pair[0] == pair[1]));
    keys.dedup();
    // Embeddings, and in two layers the attention's result and two in the MLP.
    assert_eq!((all, keys.len(), pairs), (14, 7, true));
    let without = common::plan_of_file(
        "tests/cases/operations/spec.toml",
        &["model.dropout=0.0", "architecture=./layer-norm.toml"],
        false,
    );
    let left = without.program(ProgramKind::ForwardBackward).operations.iter();
    let left = left.filter(|o| matches!(o.op, Op::Dropout { .. })).count();
    assert_eq!(left, 4, "the two of the configuration's own probability");
}

/// Updates, micro-batches and seeds draw anew; the same ones draw the same.
#[test]
fn draws_depend_on_seed_update_and_micro_batch() {
    let plan = plan("layer-norm", false);
    let mut executor = ReferenceExecutor::new(Arc::clone(&plan));
    prepare(&mut executor);
    let mut at = |seed: u64, update: u64, micro_batch: usize| {
        let draw = plan.roles.dropout_draw.expect("the model has dropouts");
        executor.write_i32(draw, &dropout_draw(seed, update, micro_batch));
        loss(&mut executor)
    };
    let first = at(1, 0, 0);
    let others = [at(2, 0, 0), at(1, 1, 0), at(1, 0, 1)];
    assert!(others.iter().all(|other| *other != first), "{first} {others:?}");
    assert!(others[1] != others[2]);
    assert_eq!(at(1, 0, 0), first);
}

/// Forty updates in one go, and twenty and twenty: the same weights to the last bit, because masks depend on the index
/// of the update and nothing else.
#[test]
fn a_resume_draws_what_the_whole_run_drew() {
    let plan = plan("layer-norm", false);
    let part = |run_dir: &Path, start: Start, stop_at: Option<u64>, threads: usize| {
        let options = CpuOptions { threads, ..CpuOptions::default() };
        let mut executor = CpuExecutor::new(Arc::clone(&plan), options).expect("f32 plans run");
        let mut rows = rows(&plan);
        let options = Options {
            run_dir: run_dir.to_path_buf(),
            start,
            stop_at,
            deadline: None,
            tensorboard: false,
            tokenizer_json: None,
        };
        let rows = Rows { training: &mut rows, validation: None };
        train(&mut executor, rows, &options, &AtomicBool::new(false), &mut Silent)
            .expect("the run ends well");
    };
    let (whole, parts) =
        (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    part(whole.path(), Start::Fresh, None, 2);
    part(parts.path(), Start::Fresh, Some(20), 1);
    part(parts.path(), Start::Resume, None, 2);
    let weights = |run_dir: &Path| {
        let file = run_dir.join("checkpoints").join("step-000040").join("model.safetensors");
        std::fs::read(file).expect("the checkpoint is there")
    };
    assert!(weights(whole.path()) == weights(parts.path()));
}
