//! Plans in bf16, end to end: what is stored how, whole models on the CPU against a reference that rounds as they do,
//! training beside f32, the state of a run on disk.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use colac_plan::op::Op;
use colac_plan::pointwise::InputForm;
use colac_plan::program::Phase;
use colac_plan::verify::{Rule, verify};
use colac_plan::{DType, Operation, Plan, ProgramKind, Segment, TensorId};
use colac_runtime::cpu::{CpuExecutor, CpuOptions};
use colac_runtime::executor::Executor;
use colac_runtime::host::random::dropout_draw;
use colac_runtime::host::{initialize, write_fresh_optimizer_state};
use colac_runtime::reference::ReferenceExecutor;
use colac_runtime::train::checkpoint::load_weights;
use colac_runtime::train::observer::Silent;
use colac_runtime::train::options::{Options, Rows, Start};
use colac_runtime::train::rows::TrainingRows;
use colac_runtime::train::run::train;
use colac_runtime::train::trainer::Trainer;
use common::FixedRows;

/// Precisions with bf16, and how they store gradients of parameters.
const PRECISIONS: [(&str, DType); 2] = [("bf16", DType::F32), ("bf16-pure", DType::Bf16)];

/// Every architecture of the tests of operations, small, in a precision.
fn models(precision: &str) -> Vec<(String, Arc<Plan>)> {
    let mut models = Vec::new();
    for folder in ["operations", "architectures"] {
        let path = common::repository("tests/cases").join(folder);
        let entries = std::fs::read_dir(&path).expect("the folder of the cases");
        let names = entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8"));
        let mut names: Vec<String> =
            names.filter(|name| name.ends_with(".toml") && name != "spec.toml").collect();
        names.sort();
        assert!(names.len() >= 3, "{folder}: {names:?}");
        for name in names {
            let settings =
                [format!("architecture=./{name}"), format!("train.precision={precision}")];
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            let spec = format!("tests/cases/{folder}/spec.toml");
            let plan = common::plan_of_file(&spec, &settings, false);
            models.push((format!("{name} in {precision}"), plan));
        }
    }
    models
}

/// Whether a result reduces rows: a statistic by the table of precisions.
fn reduces_rows(op: &Op, result: usize) -> bool {
    matches!(
        (op, result),
        (Op::RmsNorm { .. } | Op::Attention { .. }, 1)
            | (Op::LayerNorm { .. }, 1 | 2)
            | (Op::RowSum { .. }, 0)
    )
}

/// Activations are bf16 except statistics, and what is computed from these alone with its gradients; parameters are bf16;
/// gradients, moments and masters are as the table says.
#[test]
fn values_are_stored_by_the_table() {
    for (precision, gradients) in PRECISIONS {
        for (what, plan) in models(precision) {
            let dtype = |id: TensorId| plan.tensor(id).ty.dtype;
            for parameter in &plan.parameters {
                let formats = (dtype(parameter.tensor), dtype(parameter.gradient));
                assert_eq!(formats, (DType::Bf16, gradients), "{what}: {}", parameter.path);
                assert_eq!(
                    parameter.master.map(dtype),
                    (precision == "bf16").then_some(DType::F32)
                );
            }
            let roles = &plan.roles;
            assert_eq!([roles.first_moment, roles.second_moment].map(dtype), [gradients; 2]);
            assert_eq!(roles.master.is_some(), precision == "bf16", "{what}");
            let operations = plan.programs.iter().flat_map(|program| &program.operations);
            for operation in operations {
                check_storage(&plan, operation, &what);
            }
        }
    }
}

fn check_storage(plan: &Plan, operation: &Operation, what: &str) {
    let ty = |id: TensorId| &plan.tensor(id).ty;
    let activation = |id: &&TensorId| plan.tensor(**id).segment == Segment::Activations;
    for (index, id) in operation.results.iter().enumerate().filter(|(_, id)| activation(id)) {
        let statistic = match &operation.op {
            // One number a row of such alone: a statistic, its gradient, or either rounded for what takes activations.
            Op::Pointwise { program } if ty(*id).shape.width() == 1 => {
                let operands = operation.operands.iter().zip(&program.inputs);
                let mut elements = operands.filter(|(_, form)| **form == InputForm::Elements);
                let rounds = program.arithmetic() == 0;
                let alone = elements.all(|(&id, _)| ty(id).dtype == DType::F32) && !rounds;
                let given = ty(*id).dtype == DType::F32 && !rounds;
                (alone && operation.phase == Phase::Forward) || given
            }
            Op::Pointwise { .. } => false,
            // A sum over rows on its way into a gradient is stored as what it is a gradient of: statistic or activation.
            Op::ColumnSum | Op::Sum => ty(*id).dtype == DType::F32,
            op => reduces_rows(op, index),
        };
        let expected = if statistic { DType::F32 } else { DType::Bf16 };
        assert_eq!(
            ty(*id).dtype,
            expected,
            "{what}: {} of {}",
            operation.path,
            operation.op.name()
        );
    }
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

fn reals(executor: &dyn Executor, tensor: TensorId) -> Vec<f32> {
    let mut values = vec![0.0; executor.plan().tensor(tensor).ty.shape.elements() as usize];
    executor.read_f32(tensor, &mut values);
    values
}

/// Losses and gradients of whole models, `‖Δ‖ ≤ 0.02 ‖reference‖` against the reference that rounds what is stored in bf16.
/// Where the CPU's f32 falls on the other side of a tie than f64, a number differs by a 256th, and what follows from it a
/// little: one rounding too many or too few for each value would be seen. Gradients that are 0 but for rounding, such as
/// that of a bias of keys, are compared with the largest of the model.
#[test]
fn the_cpu_agrees_with_a_reference_that_rounds() {
    for (precision, _) in PRECISIONS {
        for (what, plan) in models(precision) {
            let mut reference = ReferenceExecutor::rounding(Arc::clone(&plan));
            prepare(&mut reference);
            reference.run(ProgramKind::ForwardBackward, true);
            let options = CpuOptions { threads: 2, checking: true, ..CpuOptions::default() };
            let mut cpu = CpuExecutor::new(Arc::clone(&plan), options).expect("the CPU runs it");
            prepare(&mut cpu);
            cpu.run(ProgramKind::ForwardBackward, true);
            let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
            let gradients = plan.parameters.iter().map(|p| norm(&reference.read_f64(p.gradient)));
            let largest = gradients.fold(0.0, f64::max);
            let mut tensors = vec![("loss", plan.roles.train_loss)];
            tensors.extend(plan.parameters.iter().map(|p| (p.path.as_str(), p.gradient)));
            for (path, tensor) in tensors {
                let expected = reference.read_f64(tensor);
                let found = reals(&cpu, tensor);
                let off: Vec<f64> =
                    found.iter().zip(&expected).map(|(f, e)| f64::from(*f) - e).collect();
                let (off, size) = (norm(&off), norm(&expected));
                assert!(
                    off <= 0.02 * size.max(0.02 * largest),
                    "{what}: {path} is off by {off} of {size}"
                );
            }
        }
    }
}

fn nano(precision: &str) -> Arc<Plan> {
    let precision = format!("train.precision={precision}");
    let settings = [
        "model.vocab_size=256",
        "model.hidden_size=64",
        "model.intermediate_size=176",
        "model.num_hidden_layers=2",
        "train.sequence_length=64",
        "train.micro_batch=4",
        "train.global_batch=8",
        "train.steps=80",
        "schedule.warmup_steps=8",
        "optimizer.learning_rate=0.003",
        "evaluation.every=0",
        "checkpoint.every=40",
        precision.as_str(),
    ];
    common::plan("llama-nano", &settings, false)
}

fn executor(plan: &Arc<Plan>) -> CpuExecutor {
    let options = CpuOptions { threads: 2, ..CpuOptions::default() };
    CpuExecutor::new(Arc::clone(plan), options).expect("the CPU runs it")
}

/// Losses of a whole run.
fn losses(executor: &mut CpuExecutor, plan: &Plan) -> Vec<f64> {
    initialize(executor);
    let (mut trainer, mut rows) = (Trainer::new(plan).expect("right batches"), rows(plan));
    let loss = |update| trainer.step(executor, &mut rows, update).expect("the step runs").loss;
    (0..plan.recipe.schedule.steps).map(loss).map(|loss| loss.expect("labels")).collect()
}

/// With masters a run follows that in f32; all in bf16 it learns. Weights stay copies of their masters to the bit.
#[test]
fn training_in_bf16_follows_f32() {
    let curve = |precision: &str| {
        let plan = nano(precision);
        let mut executor = executor(&plan);
        let losses = losses(&mut executor, &plan);
        if let Some(master) = plan.roles.master {
            let masters = reals(&executor, master);
            let copies = reals(&executor, plan.roles.parameters);
            executor.write_f32(plan.roles.parameters, &masters);
            let rounded = reals(&executor, plan.roles.parameters);
            assert!(copies == rounded && copies != masters, "copies are masters rounded");
        }
        losses
    };
    let exact = curve("f32");
    let (first, last) = (exact[0], exact[exact.len() - 1]);
    assert!(last < first - 1.0, "{first} to {last}");
    let mixed = curve("bf16");
    for (update, (f32, bf16)) in exact.iter().zip(&mixed).enumerate() {
        assert!((f32 - bf16).abs() <= 0.04 * f32, "update {update}: {bf16}, in f32 {f32}");
    }
    let pure = curve("bf16-pure");
    assert!(pure[pure.len() - 1] < first - 0.75, "{first} to {}", pure[pure.len() - 1]);
}

fn save(plan: &Arc<Plan>, run_dir: &Path) {
    let mut rows = rows(plan);
    let options = Options {
        run_dir: run_dir.to_path_buf(),
        start: Start::Fresh,
        stop_at: Some(3),
        deadline: None,
        tensorboard: false,
        tokenizer_json: None,
    };
    let rows = Rows { training: &mut rows, validation: None };
    train(&mut executor(plan), rows, &options, &AtomicBool::new(false), &mut Silent)
        .expect("the run ends well");
}

/// Checkpoints hold masters in f32 where there are any, else weights as they are stored; plans of every precision start
/// from either.
#[test]
fn weights_go_from_one_precision_to_another() {
    for (precision, format) in [("f32", "F32"), ("bf16", "F32"), ("bf16-pure", "BF16")] {
        let folder = tempfile::tempdir().expect("a folder");
        let plan = nano(precision);
        save(&plan, folder.path());
        let file = folder.path().join("checkpoints/step-000003/model.safetensors");
        let bytes = std::fs::read(&file).expect("the checkpoint is there");
        let length = u64::from_le_bytes(*bytes.first_chunk().expect("a header")) as usize;
        let header: serde_json::Value =
            serde_json::from_slice(&bytes[8..8 + length]).expect("a JSON header");
        for (name, entry) in header.as_object().expect("an object") {
            if name != "__metadata__" {
                assert_eq!(entry["dtype"], format, "{name} in {precision}");
            }
        }
        for other in ["f32", "bf16", "bf16-pure"] {
            let other_plan = nano(other);
            let mut executor = executor(&other_plan);
            load_weights(&mut executor, &file).expect("any precision takes them");
            write_fresh_optimizer_state(&mut executor);
            let loaded = reals(&executor, other_plan.parameters[0].kept());
            let mut origin = self::executor(&plan);
            load_weights(&mut origin, &file).expect("its own precision takes them");
            let expected = reals(&origin, plan.parameters[0].kept());
            // Masters and f32 take f32 as it is; bf16 rounds it.
            if other != "bf16-pure" || precision == "bf16-pure" {
                assert!(loaded == expected, "{precision} to {other}");
            } else {
                let close = |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() / 256.0;
                assert!(loaded.iter().zip(&expected).all(close), "{precision} to {other}");
            }
        }
    }
}

/// In bf16 a second moment stays where it is when there is no gradient: a step takes away less than half the distance to
/// the number below. With masters it shrinks.
#[test]
fn a_second_moment_in_bf16_does_not_shrink() {
    for (precision, shrinks) in [("bf16", true), ("bf16-pure", false)] {
        let plan = nano(precision);
        assert_eq!(plan.recipe.optimizer.beta2, 0.999);
        let mut executor = executor(&plan);
        initialize(&mut executor);
        let moment = plan.roles.second_moment;
        let ones = vec![1.0; plan.tensor(moment).ty.shape.elements() as usize];
        executor.write_f32(moment, &ones);
        executor.write_f32(plan.roles.gradients, &vec![0.0; ones.len()]);
        executor.write_f32(plan.roles.learning_rate, &[1e-3]);
        for _ in 0..3 {
            executor.run(ProgramKind::Update, true);
        }
        let after = reals(&executor, moment)[0];
        assert_eq!(after < 1.0, shrinks, "{precision}: {after}");
    }
}

/// The verifier knows where masters belong.
#[test]
fn plans_with_misplaced_masters_are_refused() {
    let refused = |change: &dyn Fn(&mut Plan)| {
        let mut plan = Plan::clone(&nano("bf16"));
        verify(&plan).expect("the compiler's plan is sound");
        change(&mut plan);
        verify(&plan).expect_err("the change breaks a rule").rule
    };
    assert_eq!(refused(&|plan| plan.parameters[0].master = None), Rule::Parameters);
    let next = |plan: &mut Plan| plan.parameters[0].master = plan.parameters[1].master;
    assert_eq!(refused(&next), Rule::Parameters);
    let forgotten = |plan: &mut Plan| {
        plan.roles.master = None;
        plan.parameters.iter_mut().for_each(|parameter| parameter.master = None);
    };
    assert_eq!(refused(&forgotten), Rule::Update);
    let twice = |plan: &mut Plan| plan.roles.master = Some(plan.roles.first_moment);
    assert_eq!(refused(&twice), Rule::Roles);
}
