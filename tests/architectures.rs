//! Architectures against PyTorch: logits, loss and gradients of given weights, dense and in CoLA form.
//!
//! `tests/pytorch/make_architecture_fixtures.py` says what a fixture holds and who computed it.

mod common;
#[path = "common/fixture.rs"]
mod fixture;

use std::sync::Arc;

use colac_plan::Plan;
use colac_runtime::cpu::{CpuExecutor, CpuOptions};
use colac_runtime::executor::Executor;
use colac_runtime::host::initialize;
use colac_runtime::reference::ReferenceExecutor;
use colac_runtime::train::checkpoint::load_weights;
use colac_runtime::train::trainer::Trainer;
use common::FixedRows;
use fixture::{Fixture, deviations};

/// Largest deviation that is accepted, norm by norm.
const TOLERANCE: f64 = 1e-4;

fn check(name: &str) {
    let plan =
        common::plan_of_file(&format!("tests/pytorch/fixtures/{name}/spec.toml"), &[], false);
    let weights = common::repository(&format!("tests/pytorch/fixtures/{name}/model.safetensors"));
    let expected = Fixture::read(&format!("{name}/expected.safetensors"));
    // Nothing that PyTorch trains is left out here.
    let mut trained: Vec<String> =
        plan.parameters.iter().map(|p| format!("grad.{}", p.checkpoint.name)).collect();
    trained.sort();
    trained.dedup();
    let theirs: Vec<&str> = expected.names().filter(|name| name.starts_with("grad.")).collect();
    assert_eq!(trained, theirs, "{name}");

    let options = CpuOptions { threads: 2, ..CpuOptions::default() };
    let cpu = CpuExecutor::new(Arc::clone(&plan), options).expect("the CPU runs f32 plans");
    let reference = ReferenceExecutor::new(Arc::clone(&plan));
    let executors: [(&str, Box<dyn Executor>); 2] =
        [("CPU", Box::new(cpu)), ("reference", Box::new(reference))];
    for (executor_name, mut executor) in executors {
        initialize(executor.as_mut());
        load_weights(executor.as_mut(), &weights).expect("the weights are the plan's");
        let sequence = plan.recipe.sequence_length as usize;
        let (tokens, labels) = (expected.integers("tokens"), expected.integers("labels"));
        let rows = FixedRows { tokens, labels, sequence };
        for (what, deviation) in deviations(executor.as_mut(), &expected, rows) {
            assert!(
                deviation <= TOLERANCE,
                "{executor_name}, {name}: {what} is off by {deviation:.1e}"
            );
        }
    }
}

#[test]
fn learned_positions_and_joined_projections_are_those_of_transformers() {
    check("gpt2");
}

#[test]
fn the_exact_activation_is_that_of_transformers() {
    check("gpt2-exact-gelu");
}

#[test]
fn learned_positions_and_joined_projections_in_cola_form() {
    check("gpt2-cola");
}

/// Sliding windows by the index of the layer, grouped heads, normed heads, sandwich norms, a gate and a cap of its own.
#[test]
fn the_architecture_of_the_examples_is_what_it_says() {
    check("duet");
}

#[test]
fn the_architecture_of_the_examples_in_cola_form() {
    check("duet-cola");
}

/// Trains the spec for some updates on rows with structure; gives the losses.
fn losses(plan: &Arc<Plan>, updates: u64) -> Vec<f64> {
    let options = CpuOptions { threads: 2, ..CpuOptions::default() };
    let mut executor = CpuExecutor::new(Arc::clone(plan), options).expect("the CPU runs f32 plans");
    initialize(&mut executor);
    let sequence = plan.recipe.sequence_length as usize;
    let vocabulary = plan.vocab_size as u32;
    let mut rows = FixedRows::patterned(16, sequence, vocabulary, 5);
    let mut trainer = Trainer::new(plan).expect("the plan's batches are right");
    let mut step = |update| trainer.step(&mut executor, &mut rows, update).expect("the step runs");
    (0..updates).map(|update| step(update).loss.expect("the rows have labels")).collect()
}

/// What is shipped under the name trains, small, with dropout.
#[test]
fn shipped_specs_with_dropout_learn_in_both_forms() {
    let settings = [
        "model.vocab_size=64",
        "model.hidden_size=32",
        "model.num_hidden_layers=2",
        "model.num_attention_heads=4",
        "model.max_position_embeddings=16",
        "train.sequence_length=16",
        "train.micro_batch=8",
        "train.steps=60",
        "schedule.warmup_steps=5",
    ];
    for full_rank in [false, true] {
        let mut trained = Vec::new();
        for dropout in ["0.0", "0.2"] {
            let dropout = format!("model.residual_dropout={dropout}");
            let mut settings = settings.to_vec();
            settings.push(&dropout);
            let losses = losses(&common::plan("gpt2-nano", &settings, full_rank), 60);
            let (first, last) = (losses[0], losses[59]);
            assert!((first - 64f64.ln()).abs() < 0.2, "full_rank={full_rank}: starts at {first}");
            assert!(last < 0.7 * first, "full_rank={full_rank} {dropout}: {first} to {last}");
            trained.push(last);
        }
        assert_ne!(trained[0], trained[1], "dropout changes what is trained");
    }
}
