//! Full-rank checkpoints under transformers: it loads them as the models they say they are, and computes our logits, loss
//! and gradients; and what it saves we load.
//!
//! Needs a Python with torch and transformers, `python3` or the one that `COLAC_PYTHON` names; skipped without.

mod common;
#[path = "common/fixture.rs"]
mod fixture;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use colac_plan::Plan;
use colac_runtime::cpu::{CpuExecutor, CpuOptions};
use colac_runtime::data::error::DataError;
use colac_runtime::host::initialize;
use colac_runtime::train::checkpoint::load::load_weights;
use colac_runtime::train::evaluate::Evaluator;
use colac_runtime::train::observer::Silent;
use colac_runtime::train::options::{Options, Rows, Start};
use colac_runtime::train::rows::{TrainingRows, ValidationRows};
use colac_runtime::train::run::train;
use common::FixedRows;
use fixture::{Fixture, deviations, read_tensor};

const SEQUENCE: usize = 16;
const VOCABULARY: u32 = 64;
const ROWS: usize = 8;

/// The rows as validation rows.
struct Validation(FixedRows);

impl ValidationRows for Validation {
    fn row_count(&self) -> u64 {
        ROWS as u64
    }

    fn fill(
        &mut self,
        first: u64,
        tokens: &mut [i32],
        labels: &mut [i32],
    ) -> Result<(), DataError> {
        TrainingRows::fill(&mut self.0, first, tokens, labels)
    }

    fn token_byte_lengths(&self) -> Option<&[u16]> {
        None
    }
}

fn python() -> String {
    std::env::var("COLAC_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// Why transformers cannot be asked, if it cannot. Found out once: the import takes seconds.
fn missing() -> Option<String> {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    MISSING.get_or_init(ask_for_transformers).clone()
}

fn ask_for_transformers() -> Option<String> {
    let python = python();
    match Command::new(&python).args(["-c", "import torch, transformers"]).output() {
        Err(error) => Some(format!("{python} cannot be started: {error}")),
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let complaint = String::from_utf8_lossy(&output.stderr);
            let last = complaint.lines().last().unwrap_or("it says nothing").to_owned();
            Some(format!(
                "{python} cannot import torch and transformers ({last}); COLAC_PYTHON names another Python"
            ))
        }
    }
}

fn executor(plan: &Arc<Plan>) -> CpuExecutor {
    let options = CpuOptions { threads: 2, ..CpuOptions::default() };
    CpuExecutor::new(Arc::clone(plan), options).expect("the CPU runs f32 plans")
}

/// Our mean loss over the rows with the weights of a checkpoint.
fn our_loss(plan: &Arc<Plan>, checkpoint: &Path) -> f64 {
    let mut executor = executor(plan);
    load_weights(&mut executor, checkpoint).expect("the checkpoint was just written");
    let mut rows = Validation(FixedRows::patterned(ROWS, SEQUENCE, VOCABULARY, 2));
    let report = Evaluator::new(plan)
        .and_then(|mut evaluator| {
            evaluator.evaluate(&mut executor, &mut rows, &AtomicBool::new(false))
        })
        .expect("the rows can be evaluated");
    report.expect("nothing stops the evaluation").loss
}

/// What `check_transformers.py` says: mean loss and number of labels. The rest it writes into `out`.
fn their_loss(checkpoint: &Path, folder: &Path, out: &Path) -> (f64, u64) {
    let rows = FixedRows::patterned(ROWS, SEQUENCE, VOCABULARY, 2);
    let table =
        |values: &[i32]| values.chunks_exact(SEQUENCE).map(<[i32]>::to_vec).collect::<Vec<_>>();
    let json = serde_json::json!({ "tokens": table(&rows.tokens), "labels": table(&rows.labels) });
    let file = folder.join("rows.json");
    std::fs::write(&file, json.to_string()).expect("the folder is ours");
    let script = common::repository("tests/pytorch/check_transformers.py");
    let output = Command::new(python())
        .arg(script)
        .args([checkpoint, &file, out])
        .output()
        .expect("it started before");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let said: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("it prints one line of JSON");
    (said["loss"].as_f64().expect("a loss"), said["tokens"].as_u64().expect("a count"))
}

/// Our logits, loss and gradients with the weights of a checkpoint against theirs, and our weights after they saved them.
fn compare(plan: &Arc<Plan>, checkpoint: &Path, out: &Path) {
    let mut executor = executor(plan);
    load_weights(&mut executor, checkpoint).expect("the checkpoint was just written");
    let weights = |executor: &CpuExecutor| -> Vec<Vec<f64>> {
        plan.parameters.iter().map(|parameter| read_tensor(executor, parameter.tensor)).collect()
    };
    let ours = weights(&executor);
    let rows = FixedRows::patterned(ROWS, SEQUENCE, VOCABULARY, 2);
    let expected = Fixture::open(&out.join("expected.safetensors"));
    for (what, deviation) in deviations(&mut executor, &expected, rows) {
        assert!(deviation <= 1e-4, "{what} is off by {deviation:.1e}");
    }
    initialize(&mut executor);
    assert_ne!(weights(&executor), ours);
    load_weights(&mut executor, &out.join("saved")).expect("what transformers saves is loaded");
    assert_eq!(weights(&executor), ours);
}

fn check(test: &str, settings: &[&str]) {
    check_spec(
        test,
        "llama-nano",
        &[&["model.intermediate_size=48", "train.steps=16"], settings].concat(),
        &[],
    );
}

/// `still` are settings under which the model computes the same at every step.
fn check_spec(test: &str, spec: &str, settings: &[&str], still: &[&str]) {
    if let Some(reason) = missing() {
        common::skip(test, &reason);
        return;
    }
    let mut all = vec![
        "model.vocab_size=64",
        "model.hidden_size=32",
        "model.num_hidden_layers=2",
        "model.num_attention_heads=4",
        "train.sequence_length=16",
        "train.micro_batch=4",
        "train.global_batch=4",
        "schedule.warmup_steps=1",
        "optimizer.learning_rate=0.02",
        "evaluation.batch=3",
        "evaluation.tokens=1000000",
    ];
    all.extend(settings);
    let plan = common::plan(spec, &all, true);
    let folder = tempfile::tempdir().expect("a folder");
    let mut rows = FixedRows::patterned(256, SEQUENCE, VOCABULARY, 1);
    let options = Options {
        run_dir: folder.path().join("run"),
        start: Start::Fresh,
        stop_at: None,
        deadline: None,
        tensorboard: false,
        tokenizer_json: None,
    };
    let rows = Rows { training: &mut rows, validation: None };
    let summary = train(&mut executor(&plan), rows, &options, &AtomicBool::new(false), &mut Silent);
    let checkpoint = summary.expect("some updates").checkpoint;

    let ours = our_loss(&plan, &checkpoint);
    let out = folder.path().join("theirs");
    let (theirs, counted) = their_loss(&checkpoint, folder.path(), &out);
    let labels = FixedRows::patterned(ROWS, SEQUENCE, VOCABULARY, 2).labels;
    assert_eq!(counted, labels.iter().filter(|&&label| label >= 0).count() as u64);
    let untrained = f64::from(VOCABULARY).ln();
    assert!(
        ours < 0.9 * untrained,
        "the model should have learnt something: {ours} against {untrained}"
    );
    assert!((ours - theirs).abs() <= 1e-4 * theirs, "{ours} here, {theirs} under transformers");

    let whole = format!("train.micro_batch={ROWS}");
    let global = format!("train.global_batch={ROWS}");
    all.extend([whole.as_str(), &global]);
    all.extend(still);
    compare(&common::plan(spec, &all, true), &checkpoint, &out);
}

#[test]
fn transformers_gives_our_loss() {
    check("transformers_gives_our_loss", &[]);
}

#[test]
fn transformers_gives_our_loss_with_grouped_heads() {
    check("transformers_gives_our_loss_with_grouped_heads", &["model.num_key_value_heads=2"]);
}

#[test]
fn transformers_gives_our_loss_with_tied_embeddings() {
    check("transformers_gives_our_loss_with_tied_embeddings", &["model.tie_word_embeddings=true"]);
}

#[test]
fn transformers_gives_our_loss_with_biases_and_unusual_constants() {
    let settings = [
        "model.attention_bias=true",
        "model.mlp_bias=true",
        "model.hidden_act=gelu_tanh",
        "model.rms_norm_eps=1e-3",
        "model.rope_theta=300.0",
    ];
    check("transformers_gives_our_loss_with_biases_and_unusual_constants", &settings);
}

/// Learned positions, LayerNorm, biases, one tensor for three projections, dropout while training.
#[test]
fn transformers_computes_our_second_family() {
    for activation in ["gelu_tanh", "gelu"] {
        let activation = format!("model.hidden_act={activation}");
        check_spec(
            "transformers_computes_our_second_family",
            "gpt2-nano",
            &[
                "model.max_position_embeddings=24",
                "model.residual_dropout=0.1",
                "train.steps=100",
                &activation,
            ],
            &["model.residual_dropout=0.0"],
        );
    }
}
