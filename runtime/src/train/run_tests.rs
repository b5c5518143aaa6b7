//! Whole runs of the small model in their folders.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use colac_plan::Plan;
use serde_json::Value;

use crate::executor::Executor;
use crate::train::checkpoint;
use crate::train::error::{CheckpointError, TrainError};
use crate::train::evaluate::EvaluationReport;
use crate::train::lock::RunLock;
use crate::train::non_finite::NonFiniteNumber;
use crate::train::observer::{Begin, Observer, Progress, Silent};
use crate::train::options::{Options, Outcome, Rows, Start, Summary};
use crate::train::run::train;
use crate::train::testing::{Bigram, TestRows, VOCAB, plan};

fn training_rows() -> TestRows {
    // Update 16 has no labels at all.
    TestRows { empty: (64..68).collect(), name: "rows".to_owned(), ..TestRows::default() }
}

fn validation_rows() -> TestRows {
    TestRows { count: 8, byte_lengths: Some(vec![2; VOCAB]), ..TestRows::default() }
}

fn options(run_dir: &Path, start: Start, stop_at: Option<u64>) -> Options {
    Options {
        run_dir: run_dir.to_owned(),
        start,
        stop_at,
        deadline: None,
        tensorboard: true,
        tokenizer_json: Some("{}".to_owned()),
    }
}

fn run_with(
    executor: &mut Bigram,
    options: &Options,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Summary, TrainError> {
    let (mut training, mut validation) = (training_rows(), validation_rows());
    let rows = Rows { training: &mut training, validation: Some(&mut validation) };
    train(executor, rows, options, stop, observer)
}

fn run(options: &Options) -> Result<Summary, TrainError> {
    run_plan(plan(), options)
}

fn run_plan(plan: Plan, options: &Options) -> Result<Summary, TrainError> {
    run_with(&mut Bigram::initialized(plan), options, &AtomicBool::new(false), &mut Silent)
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
        })
        .collect()
}

/// The log without its one field that depends on time.
fn log(run_dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap();
    let records = text.lines().map(|line| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("tokens_per_second");
        record
    });
    records.collect()
}

fn steps(run_dir: &Path, kind: &str) -> Vec<u64> {
    let of_kind = log(run_dir).into_iter().filter(|record| record["kind"] == kind);
    of_kind.map(|record| record["step"].as_u64().unwrap()).collect()
}

fn saved(run_dir: &Path) -> Vec<u64> {
    checkpoint::list(run_dir).unwrap().into_iter().map(|(step, _)| step).collect()
}

#[test]
fn a_run_logs_evaluates_and_saves_as_its_recipe_says() {
    let directory = tempfile::tempdir().unwrap();
    let run_dir = directory.path().join("runs/one");
    let summary = run(&options(&run_dir, Start::Fresh, None)).unwrap();
    assert_eq!((summary.outcome, summary.step, summary.started_at), (Outcome::Finished, 40, 0));
    assert_eq!(steps(&run_dir, "train"), (1..=40).collect::<Vec<_>>());
    assert_eq!(steps(&run_dir, "evaluation"), [8, 16, 24, 32, 40]);
    assert_eq!(saved(&run_dir), [30, 40]);
    assert_eq!(summary.checkpoint, run_dir.join("checkpoints/step-000040"));

    let log = log(&run_dir);
    let train: Vec<&Value> = log.iter().filter(|record| record["kind"] == "train").collect();
    assert_eq!(train[0]["learning_rate"], 0.0);
    assert_eq!(train[16]["loss"], Value::Null);
    assert_eq!(train[16]["tokens"], train[15]["tokens"]);
    let tokens =
        (0..160).map(|position| crate::train::rows::valid_labels(&training_rows().row(position).1));
    assert_eq!(train[39]["tokens"], tokens.sum::<u64>());
    assert_eq!(summary.tokens, train[39]["tokens"]);
    assert_eq!(summary.loss.unwrap(), train[39]["loss"]);
    let evaluations: Vec<&Value> =
        log.iter().filter(|record| record["kind"] == "evaluation").collect();
    assert_eq!(summary.evaluation.unwrap().perplexity, evaluations[4]["perplexity"]);
    assert!(evaluations[4]["loss"].as_f64() < evaluations[0]["loss"].as_f64());
}

#[test]
fn twenty_updates_resumed_for_twenty_more_are_forty() {
    let directory = tempfile::tempdir().unwrap();
    let [whole, halves] = ["whole", "halves"].map(|name| directory.path().join(name));
    let at_once = run(&options(&whole, Start::Fresh, None)).unwrap();
    let first = run(&options(&halves, Start::Fresh, Some(20))).unwrap();
    assert_eq!((first.outcome, first.step), (Outcome::Stopped, 20));
    let second = run(&options(&halves, Start::Resume, None)).unwrap();
    assert_eq!((second.outcome, second.started_at), (Outcome::Finished, 20));

    let files_of = |summary: &Summary| files(&summary.checkpoint);
    assert_eq!(files_of(&second), files_of(&at_once));
    assert_eq!(files_of(&second).len(), 5);
    assert_eq!(
        (second.evaluation, second.loss, second.tokens),
        (at_once.evaluation, at_once.loss, at_once.tokens)
    );
    // The stop at 20 was evaluated; all else is the same.
    let mut log_of_halves = log(&halves);
    log_of_halves.retain(|record| record["kind"] != "evaluation" || record["step"] != 20);
    assert_eq!(log_of_halves, log(&whole));
}

/// Sets the stop flag in the middle of update `at`.
struct Interrupt<'a> {
    at: u64,
    stop: &'a AtomicBool,
}

impl Observer for Interrupt<'_> {
    fn step(&mut self, progress: &Progress<'_>) {
        if progress.report.step == self.at {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// Interrupted where nothing, an evaluation, or a checkpoint is due.
#[test]
fn an_interrupted_run_goes_on_as_if_nothing_had_happened() {
    let directory = tempfile::tempdir().unwrap();
    let whole = directory.path().join("whole");
    let at_once = run(&options(&whole, Start::Fresh, None)).unwrap();
    for at in [1, 8, 10, 17, 39] {
        let run_dir = directory.path().join(at.to_string());
        let stop = AtomicBool::new(false);
        let mut interrupt = Interrupt { at, stop: &stop };
        let mut executor = Bigram::initialized(plan());
        let summary =
            run_with(&mut executor, &options(&run_dir, Start::Fresh, None), &stop, &mut interrupt)
                .unwrap();
        assert_eq!(
            (summary.outcome, summary.step, summary.evaluation),
            (Outcome::Interrupted, at, None)
        );
        assert_eq!(checkpoint::step_of(&summary.checkpoint), Some(at));
        let resumed = run(&options(&run_dir, Start::Resume, None)).unwrap();
        assert_eq!(files(&resumed.checkpoint), files(&at_once.checkpoint), "interrupted at {at}");
        assert_eq!(log(&run_dir), log(&whole), "interrupted at {at}");
    }
}

/// A killed run has logged updates that no checkpoint has, and left half a checkpoint.
#[test]
fn a_killed_run_goes_on_from_its_last_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let [whole, killed] = ["whole", "killed"].map(|name| directory.path().join(name));
    let at_once = run(&options(&whole, Start::Fresh, None)).unwrap();
    run(&options(&killed, Start::Fresh, Some(20))).unwrap();
    let log_at_20 = fs::read_to_string(killed.join("metrics.jsonl")).unwrap();
    run(&options(&killed, Start::Resume, Some(29))).unwrap();
    fs::rename(
        killed.join("checkpoints/step-000029"),
        killed.join("checkpoints/.step-000029.partial"),
    )
    .unwrap();
    fs::remove_file(killed.join("checkpoints/.step-000029.partial/state.json")).unwrap();
    assert!(fs::read_to_string(killed.join("metrics.jsonl")).unwrap().len() > log_at_20.len());
    assert_eq!(saved(&killed), [20]);

    let resumed = run(&options(&killed, Start::Resume, None)).unwrap();
    assert_eq!(resumed.started_at, 20);
    assert_eq!(files(&resumed.checkpoint), files(&at_once.checkpoint));
    assert_eq!(steps(&killed, "train"), (1..=40).collect::<Vec<_>>());
    assert_eq!(steps(&killed, "evaluation"), [8, 16, 20, 24, 32, 40]);
    // Two checkpoints and the index.
    assert_eq!(fs::read_dir(killed.join("checkpoints")).unwrap().count(), 3);
}

#[test]
fn a_finished_run_has_nothing_to_resume_and_logs_nothing_twice() {
    let directory = tempfile::tempdir().unwrap();
    let first = run(&options(directory.path(), Start::Fresh, None)).unwrap();
    let before = log(directory.path());
    for stop_at in [None, Some(3), Some(99)] {
        let again = run(&options(directory.path(), Start::Resume, stop_at)).unwrap();
        let expected = Summary { started_at: 40, loss: None, ..first.clone() };
        assert_eq!(again, expected);
        assert_eq!(log(directory.path()), before);
    }
}

#[test]
fn weights_can_be_the_start_of_a_run() {
    let directory = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
    let trained = run(&options(&first, Start::Fresh, None)).unwrap();
    let summary =
        run(&options(&second, Start::Weights(trained.checkpoint.clone()), Some(0))).unwrap();
    assert_eq!((summary.step, summary.started_at, summary.loss), (0, 0, None));
    assert_eq!(summary.evaluation.unwrap().loss, trained.evaluation.unwrap().loss);
    let (old, new) = (files(&trained.checkpoint), files(&summary.checkpoint));
    assert_eq!(old["model.safetensors"], new["model.safetensors"]);
    assert_ne!(old["optimizer.safetensors"], new["optimizer.safetensors"]);
}

#[test]
fn folders_that_do_not_fit_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let run_dir = directory.path();
    let error = run(&options(run_dir, Start::Resume, None)).unwrap_err();
    assert!(
        matches!(error, TrainError::Checkpoint(CheckpointError::NoCheckpoint { .. })),
        "{error}"
    );

    run(&options(run_dir, Start::Fresh, Some(3))).unwrap();
    let before = (log(run_dir), saved(run_dir));
    let error = run(&options(run_dir, Start::Fresh, None)).unwrap_err();
    assert!(matches!(error, TrainError::NotFresh { step: 3, .. }), "{error}");

    let held = RunLock::acquire(run_dir).unwrap();
    let error = run(&options(run_dir, Start::Resume, None)).unwrap_err();
    assert!(matches!(error, TrainError::InUse { .. }), "{error}");
    drop(held);

    let mut other = plan();
    other.recipe.optimizer.beta1 = 0.8;
    let error = run_plan(other, &options(run_dir, Start::Resume, None)).unwrap_err();
    assert!(
        matches!(error, TrainError::Checkpoint(CheckpointError::DifferentNumerics { .. })),
        "{error}"
    );

    let mut other_rows = TestRows { name: "other rows".to_owned(), ..training_rows() };
    let rows = Rows { training: &mut other_rows, validation: None };
    let (mut executor, stop) = (Bigram::initialized(plan()), AtomicBool::new(false));
    let error =
        train(&mut executor, rows, &options(run_dir, Start::Resume, None), &stop, &mut Silent)
            .unwrap_err();
    assert!(
        matches!(&error, TrainError::DifferentData { expected, .. } if expected == "rows"),
        "{error}"
    );
    assert_eq!((log(run_dir), saved(run_dir)), before);
}

/// Makes the weights infinite after update `at`, as a diverging run does.
struct Diverging {
    inner: Bigram,
    at: usize,
}

impl Executor for Diverging {
    fn plan(&self) -> &Plan {
        self.inner.plan()
    }
    fn write_f32(&mut self, tensor: colac_plan::TensorId, values: &[f32]) {
        self.inner.write_f32(tensor, values);
    }
    fn write_i32(&mut self, tensor: colac_plan::TensorId, values: &[i32]) {
        self.inner.write_i32(tensor, values);
    }
    fn read_f32(&self, tensor: colac_plan::TensorId, values: &mut [f32]) {
        self.inner.read_f32(tensor, values);
    }
    fn read_i32(&self, tensor: colac_plan::TensorId, values: &mut [i32]) {
        self.inner.read_i32(tensor, values);
    }
    fn run(&mut self, program: colac_plan::ProgramKind, last_micro_batch: bool) {
        self.inner.run(program, last_micro_batch);
        let updates =
            self.inner.runs.iter().filter(|run| run.0 == colac_plan::ProgramKind::Update).count();
        if updates == self.at && program == colac_plan::ProgramKind::Update {
            let bias = self.inner.plan().parameters[1].tensor;
            self.inner.write_f32(bias, &[f32::INFINITY; VOCAB]);
        }
    }
}

#[test]
fn a_diverged_run_stops_and_keeps_its_checkpoints() {
    let directory = tempfile::tempdir().unwrap();
    let mut executor = Diverging { inner: Bigram::initialized(plan()), at: 13 };
    let mut rows = training_rows();
    let rows = Rows { training: &mut rows, validation: None };
    let stop = AtomicBool::new(false);
    let fresh = options(directory.path(), Start::Fresh, None);
    let error = train(&mut executor, rows, &fresh, &stop, &mut Silent).unwrap_err();
    let TrainError::NotFinite(update) = &error else { panic!("{error}") };
    assert_eq!((update.step, update.what), (14, NonFiniteNumber::Gradient));
    assert_eq!(saved(directory.path()), [10]);
    assert_eq!(steps(directory.path(), "train").last(), Some(&13));
    // The lock is free again, and the checkpoint good.
    let resumed = run(&options(directory.path(), Start::Resume, None)).unwrap();
    assert_eq!((resumed.started_at, resumed.outcome), (10, Outcome::Finished));
}

#[derive(Default)]
struct Recorder(Vec<String>);

impl Observer for Recorder {
    fn begin(&mut self, begin: &Begin) {
        self.0.push(format!("begin {} to {} of {}", begin.step, begin.stop_at, begin.horizon));
    }
    fn step(&mut self, progress: &Progress<'_>) {
        assert!(progress.tokens_per_second > 0.0 && progress.tokens > 0);
        self.0.push(format!("step {}", progress.report.step));
    }
    fn evaluating(&mut self, step: u64) {
        self.0.push(format!("evaluating {step}"));
    }
    fn evaluated(&mut self, step: u64, report: &EvaluationReport) {
        assert_eq!(report.rows, 8);
        self.0.push(format!("evaluated {step}"));
    }
    fn saved(&mut self, step: u64, checkpoint: &Path) {
        assert!(checkpoint.join("state.json").exists());
        self.0.push(format!("saved {step}"));
    }
}

#[test]
fn observers_are_told_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let mut plan = plan();
    (plan.recipe.checkpoint.every, plan.recipe.evaluation.every) = (2, 2);
    let mut recorder = Recorder::default();
    let fresh = options(directory.path(), Start::Fresh, Some(3));
    run_with(&mut Bigram::initialized(plan), &fresh, &AtomicBool::new(false), &mut recorder)
        .unwrap();
    let expected = [
        "begin 0 to 3 of 40",
        "step 1",
        "step 2",
        "saved 2",
        "evaluating 2",
        "evaluated 2",
        "step 3",
        "saved 3",
        "evaluating 3",
        "evaluated 3",
    ];
    assert_eq!(recorder.0, expected);
}
