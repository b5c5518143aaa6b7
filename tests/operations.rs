//! Models of every operation, end to end: the gradients of a whole model against differences in f64, the CPU against
//! the reference, training, dropout.
//!
//! Every file of `tests/cases/operations/` and `tests/cases/architectures/` but `spec.toml` is an architecture that is
//! compiled as a CoLA model and as a dense one, and where it has a labelled activation before a gate, as a CoLA model
//! without that one. Those of the second folder are published models in small, and what else one may want to write.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use colac_plan::parameter::Parameter;
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

/// Folders of architectures: those that use every operation, and those of published models.
const FOLDERS: [&str; 2] = ["operations", "architectures"];

/// One way of compiling an architecture.
#[derive(Clone, Debug)]
struct Case {
    folder: &'static str,
    name: String,
    full_rank: bool,
    /// Whether the activation labelled `act_fn` gives way to that of the pairs.
    bypass: bool,
}

impl Case {
    fn plan(&self) -> Arc<Plan> {
        let architecture = format!("architecture=./{}.toml", self.name);
        let mut settings = vec![architecture.as_str()];
        if self.bypass {
            settings.push("cola.bypass=**.act_fn");
        }
        let spec = format!("tests/cases/{}/spec.toml", self.folder);
        common::plan_of_file(&spec, &settings, self.full_rank)
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let form = match (self.full_rank, self.bypass) {
            (true, _) => "full-rank",
            (false, false) => "CoLA",
            (false, true) => "CoLA with bypass",
        };
        write!(f, "{} ({form})", self.name)
    }
}

/// Every architecture in every form.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for folder in FOLDERS {
        let path = common::repository("tests/cases").join(folder);
        let entries = std::fs::read_dir(&path).expect("the folder of the cases");
        let names = entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"));
        let mut names: Vec<String> = names
            .filter_map(|name| name.strip_suffix(".toml").map(str::to_owned))
            .filter(|name| name != "spec")
            .collect();
        names.sort();
        assert!(names.len() >= 3, "{folder}: {names:?}");
        for name in names {
            let text = std::fs::read_to_string(path.join(format!("{name}.toml")));
            let gated = text.expect("it was just listed").contains("act_fn:");
            let case = |full_rank, bypass| Case { folder, name: name.clone(), full_rank, bypass };
            cases.extend([case(false, false), case(true, false)]);
            cases.extend(gated.then(|| case(false, true)));
        }
    }
    cases
}

/// An architecture of the operations.
fn plan(architecture: &str, full_rank: bool) -> Arc<Plan> {
    let (folder, name) = (FOLDERS[0], architecture.to_owned());
    Case { folder, name, full_rank, bypass: false }.plan()
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

/// A parameter's path without the indices of repeats: what all layers have alike.
fn kind(path: &str) -> String {
    let names = path.split('.').filter(|name| name.parse::<u32>().is_err());
    names.collect::<Vec<_>>().join(".")
}

/// The slope of the loss along a random direction is what the gradient says: for every parameter, those that layers have
/// alike together. Central differences in f64: rounding is about 1e-8.
#[test]
fn gradients_of_whole_models_are_slopes() {
    // What is bypassed is gone before derivatives are made.
    for case in cases().into_iter().filter(|case| !case.bypass) {
        let plan = case.plan();
        let mut executor = ReferenceExecutor::new(Arc::clone(&plan));
        prepare(&mut executor);
        loss(&mut executor);
        let mut kinds: BTreeMap<String, Vec<&Parameter>> = BTreeMap::new();
        for parameter in &plan.parameters {
            kinds.entry(kind(&parameter.path)).or_default().push(parameter);
        }
        let mut directions = Vec::new();
        for (kind, parameters) in kinds {
            let (mut expected, mut size) = (0.0, 0.0);
            let mut direction = Vec::new();
            for parameter in parameters {
                let gradient = executor.read_f64(parameter.gradient);
                let stream = Stream::new(1, &parameter.path, 99);
                let along: Vec<f64> =
                    (0..).flat_map(|i| stream.normal_pair(i)).take(gradient.len()).collect();
                expected += gradient.iter().zip(&along).map(|(g, d)| g * d).sum::<f64>();
                size += gradient.iter().map(|g| g * g).sum::<f64>();
                direction.push((parameter.tensor, executor.read_f64(parameter.tensor), along));
            }
            directions.push((kind, expected, size.sqrt(), direction));
        }
        for (kind, expected, size, direction) in directions {
            let mut move_by = |step: f64| {
                for (tensor, start, along) in &direction {
                    let moved: Vec<f64> =
                        start.iter().zip(along).map(|(x, d)| x + step * d).collect();
                    executor.write_f64(*tensor, &moved);
                }
                loss(&mut executor)
            };
            // Short, because clamps and maxima have kinks, which few elements may cross.
            let step = 2e-6;
            let slope = (move_by(step) - move_by(-step)) / (2.0 * step);
            for (tensor, start, _) in &direction {
                executor.write_f64(*tensor, start);
            }
            assert!(
                (slope - expected).abs() <= 1e-5 * size.max(1e-2),
                "{case}, {kind}: slope {slope}, gradient {expected}"
            );
        }
    }
}

/// Loss and gradient of every parameter, `‖Δ‖/‖reference‖ ≤ 1e-4`. Gradients that are 0 but for rounding, such as that of
/// a bias of keys, are compared with 0.01 instead.
#[test]
fn the_cpu_agrees_with_the_reference() {
    for case in cases() {
        let plan = case.plan();
        let mut reference = ReferenceExecutor::new(Arc::clone(&plan));
        prepare(&mut reference);
        reference.run(ProgramKind::ForwardBackward, true);
        let options =
            CpuOptions { threads: 2, checking: true, arena: ArenaPlacement::BeforeProtectedPage };
        let mut cpu = CpuExecutor::new(Arc::clone(&plan), options).expect("the CPU runs f32 plans");
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
                off.sqrt() <= 1e-4 * size.sqrt().max(1e-2),
                "{case}: {what} is off by {} of {}",
                off.sqrt(),
                size.sqrt()
            );
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
    for case in cases() {
        let plan = case.plan();
        let (losses, weights) = train_on(&plan, 1, 40);
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let (first, last) = (mean(&losses[..4]), mean(&losses[36..]));
        assert!(last < first - 0.3, "{case}: {first} to {last}");
        let (other_losses, other_weights) = train_on(&plan, 3, 40);
        assert!(
            losses == other_losses && weights == other_weights,
            "{case}: three threads give other bits"
        );
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
