//! Runs in which numbers are not finite, checkpoints are damaged, or time is up.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use colac_plan::Plan;
use colac_plan::recipe::{NonFinite, NonFinitePolicy};
use serde_json::Value;

use crate::train::checkpoint;
use crate::train::error::{CheckpointError, TrainError};
use crate::train::non_finite::{NonFiniteNumber, NonFiniteUpdate};
use crate::train::observer::{Observer, Progress, Silent};
use crate::train::options::{Options, Outcome, Rows, Start, Summary};
use crate::train::run::train;
use crate::train::spikes::Spike;
use crate::train::tensorboard::record::{Event, Reader};
use crate::train::tensorboard::{TRAIN_TAGS, files};
use crate::train::testing::{Bigram, Poison, TestRows, VOCAB, plan};

/// Evaluates and saves at every fifth of 40 updates.
fn recipe(policy: NonFinitePolicy, limit: u32) -> Plan {
    let mut plan = plan();
    (plan.recipe.checkpoint.every, plan.recipe.evaluation.every) = (5, 5);
    plan.recipe.non_finite = NonFinite { policy, limit };
    plan
}

fn options(run_dir: &Path, start: Start) -> Options {
    Options {
        run_dir: run_dir.to_owned(),
        start,
        stop_at: None,
        deadline: None,
        tensorboard: true,
        tokenizer_json: None,
    }
}

/// Runs with gradients poisoned in the given global batches.
fn run_poisoned(
    plan: Plan,
    batches: &[u64],
    number: NonFiniteNumber,
    options: &Options,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Summary, TrainError> {
    let mut executor = Bigram::initialized(plan);
    executor.poison = Some(Poison { number, updates: batches.iter().copied().collect() });
    let mut training = TestRows { name: "rows".to_owned(), ..TestRows::default() };
    let mut validation = TestRows { count: 4, ..TestRows::default() };
    let rows = Rows { training: &mut training, validation: Some(&mut validation) };
    train(&mut executor, rows, options, stop, observer)
}

fn run(plan: Plan, batches: &[u64], options: &Options) -> Result<Summary, TrainError> {
    let (stop, number) = (AtomicBool::new(false), NonFiniteNumber::Gradient);
    run_poisoned(plan, batches, number, options, &stop, &mut Silent)
}

fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into(), fs::read(entry.path()).unwrap())).collect()
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

fn of_kind(run_dir: &Path, kind: &str) -> Vec<Value> {
    log(run_dir).into_iter().filter(|record| record["kind"] == kind).collect()
}

fn saved(run_dir: &Path) -> Vec<u64> {
    checkpoint::list(run_dir).unwrap().into_iter().map(|(step, _)| step).collect()
}

/// Sets the stop flag after some update, the first time it is done.
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

/// Interrupts a run after each of the given updates, and goes on each time.
fn interrupted(plan: &Plan, batches: &[u64], run_dir: &Path, at: &[u64]) -> Summary {
    let mut start = Start::Fresh;
    for &at in at {
        let stop = AtomicBool::new(false);
        let mut interrupt = Interrupt { at, stop: &stop };
        let options = options(run_dir, start);
        let number = NonFiniteNumber::Gradient;
        let summary =
            run_poisoned(plan.clone(), batches, number, &options, &stop, &mut interrupt).unwrap();
        assert_eq!((summary.outcome, summary.step), (Outcome::Interrupted, at));
        start = Start::Resume;
    }
    run(plan.clone(), batches, &options(run_dir, start)).unwrap()
}

#[test]
fn halt_ends_the_run_and_saves_nothing() {
    for number in [NonFiniteNumber::Gradient, NonFiniteNumber::Loss] {
        let directory = tempfile::tempdir().unwrap();
        let fresh = options(directory.path(), Start::Fresh);
        let stop = AtomicBool::new(false);
        let halt = recipe(NonFinitePolicy::Halt, 1);
        let error = run_poisoned(halt, &[12], number, &fresh, &stop, &mut Silent).unwrap_err();
        let text = error.to_string();
        let TrainError::NotFinite(update) = error else { panic!("{text}") };
        assert_eq!((update.step, update.what, update.rows), (13, number, (48, 52)));
        let named = (number == NonFiniteNumber::Gradient).then_some("bias");
        assert_eq!(update.parameter.as_deref(), named);
        assert!(text.contains("resume the run with `on_non_finite`") && !text.contains('\n'));
        assert_eq!(saved(directory.path()), [5, 10]);
        assert_eq!(of_kind(directory.path(), "train").len(), 12);
        // Another policy takes it from there.
        let summary =
            run(recipe(NonFinitePolicy::Skip, 1), &[12], &options(directory.path(), Start::Resume));
        assert_eq!(summary.unwrap().skipped, 1);
    }
}

#[test]
fn skip_passes_over_the_update_and_counts_it() {
    let directory = tempfile::tempdir().unwrap();
    let run_dir = directory.path();
    let batches = [12, 13, 30];
    let summary =
        run(recipe(NonFinitePolicy::Skip, 2), &batches, &options(run_dir, Start::Fresh)).unwrap();
    assert_eq!((summary.outcome, summary.step), (Outcome::Finished, 40));
    assert_eq!((summary.skipped, summary.rollbacks), (3, 0));
    let records = of_kind(run_dir, "non_finite");
    let field = |name: &str| records.iter().map(|r| r[name].clone()).collect::<Vec<_>>();
    assert_eq!(field("step"), [13, 14, 31]);
    assert_eq!(field("at_step"), [13, 14, 31]);
    assert_eq!(field("action"), ["skip"; 3]);
    assert_eq!(field("what"), ["gradient"; 3]);
    assert_eq!(field("parameter"), ["bias"; 3]);
    assert_eq!(records[0]["rows"], serde_json::json!([48, 52]));
    let updates = of_kind(run_dir, "train");
    assert_eq!(updates.len(), 40);
    let without_loss: Vec<_> = updates.iter().filter(|r| r["loss"].is_null()).collect();
    assert_eq!(without_loss.iter().map(|r| r["step"].clone()).collect::<Vec<_>>(), [13, 14, 31]);
    // The optimizer has seen 37 updates.
    let optimizer = fs::read(summary.checkpoint.join("optimizer.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&optimizer).unwrap();
    assert_eq!(tensors.tensor("step").unwrap().data(), 37_i32.to_le_bytes());

    // A third in a row is one too many, wherever the run was interrupted.
    for at in [&[][..], &[12], &[13], &[13, 14]] {
        let directory = tempfile::tempdir().unwrap();
        let skip = recipe(NonFinitePolicy::Skip, 2);
        if !at.is_empty() {
            let mut start = Start::Fresh;
            for &at in at {
                let stop = AtomicBool::new(false);
                let mut interrupt = Interrupt { at, stop: &stop };
                let options = options(directory.path(), start);
                let (batches, number) = ([12, 13, 14], NonFiniteNumber::Loss);
                run_poisoned(skip.clone(), &batches, number, &options, &stop, &mut interrupt)
                    .unwrap();
                start = Start::Resume;
            }
        }
        let start = if at.is_empty() { Start::Fresh } else { Start::Resume };
        let error = run(skip, &[12, 13, 14], &options(directory.path(), start)).unwrap_err();
        let text = error.to_string();
        let TrainError::NotFiniteAgain { update, .. } = error else { panic!("{text}") };
        assert_eq!(update.step, 15);
        assert!(text.contains("2 updates before it were skipped, which is the recipe's limit"));
    }
}

#[test]
fn a_skipping_run_is_the_same_wherever_it_is_interrupted() {
    let directory = tempfile::tempdir().unwrap();
    let skip = recipe(NonFinitePolicy::Skip, 3);
    let batches = [7, 12, 13];
    let whole = directory.path().join("whole");
    let at_once = run(skip.clone(), &batches, &options(&whole, Start::Fresh)).unwrap();
    let pieces = directory.path().join("pieces");
    let resumed = interrupted(&skip, &batches, &pieces, &[7, 8, 13, 15, 22]);
    assert_eq!(contents(&resumed.checkpoint), contents(&at_once.checkpoint));
    assert_eq!(log(&pieces), log(&whole));
}

/// Remembers what it is told of updates that are not finite.
#[derive(Default)]
struct Told(Vec<(u64, Option<String>)>);

impl Observer for Told {
    fn not_finite(&mut self, update: &NonFiniteUpdate, returns_to: Option<&Path>) {
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        self.0.push((update.step, returns_to.map(name)));
    }
}

#[test]
fn rollback_returns_and_passes_over_the_rows_between() {
    let directory = tempfile::tempdir().unwrap();
    let run_dir = directory.path();
    let rollback = recipe(NonFinitePolicy::Rollback, 3);
    let (stop, mut told) = (AtomicBool::new(false), Told::default());
    let fresh = options(run_dir, Start::Fresh);
    let number = NonFiniteNumber::Gradient;
    let summary = run_poisoned(rollback, &[12], number, &fresh, &stop, &mut told).unwrap();
    assert_eq!((summary.outcome, summary.step), (Outcome::Finished, 40));
    assert_eq!((summary.skipped, summary.rollbacks), (0, 1));
    assert_eq!(told.0, [(13, Some("step-000010".to_owned()))]);
    let records = of_kind(run_dir, "non_finite");
    assert_eq!(records.len(), 1);
    assert_eq!((&records[0]["action"], &records[0]["step"]), (&"rollback".into(), &11.into()));
    assert_eq!((&records[0]["at_step"], &records[0]["restarts_at"]), (&13.into(), &10.into()));
    let steps: Vec<_> = of_kind(run_dir, "train").iter().map(|r| r["step"].clone()).collect();
    assert_eq!(steps, (1..=40).collect::<Vec<u64>>());

    // The same as a run whose rows 40 to 51 are not there.
    let by_hand = directory.path().join("by-hand");
    let mut executor = Bigram::initialized(recipe(NonFinitePolicy::Halt, 1));
    struct Without(TestRows);
    impl crate::train::rows::TrainingRows for Without {
        fn fill(
            &mut self,
            first: u64,
            tokens: &mut [i32],
            labels: &mut [i32],
        ) -> Result<(), crate::data::error::DataError> {
            let first = if first >= 40 { first + 12 } else { first };
            crate::train::rows::TrainingRows::fill(&mut self.0, first, tokens, labels)
        }
        fn identity(&self) -> String {
            "rows".to_owned()
        }
    }
    let mut validation = TestRows { count: 4, ..TestRows::default() };
    let mut training = Without(TestRows::default());
    let rows = Rows { training: &mut training, validation: Some(&mut validation) };
    let other =
        train(&mut executor, rows, &options(&by_hand, Start::Fresh), &stop, &mut Silent).unwrap();
    for name in ["model.safetensors", "optimizer.safetensors"] {
        let read = |summary: &Summary| fs::read(summary.checkpoint.join(name)).unwrap();
        assert_eq!(read(&summary), read(&other), "{name}");
    }

    // TensorBoard's events have every update once.
    let mut shown = Vec::new();
    for path in files(run_dir).unwrap() {
        for stamped in Reader::new(&fs::read(path).unwrap()) {
            if let Event::Scalars(scalars) = stamped.event
                && scalars[0].0 == TRAIN_TAGS[0]
            {
                shown.push(stamped.step);
            }
        }
    }
    assert_eq!(shown, (1..=40).collect::<Vec<u64>>());
}

/// Interrupted before, at and behind the poisoned update and the regular checkpoints: always the same end.
#[test]
fn a_run_that_rolls_back_is_the_same_wherever_it_is_interrupted() {
    let directory = tempfile::tempdir().unwrap();
    let rollback = recipe(NonFinitePolicy::Rollback, 3);
    // Counted from 0: after the first return update 10 takes batch 13 and update 13 batch 16; after the second, update 10
    // takes batch 17 and update 21 batch 28.
    let batches = [12, 16, 28];
    let whole = directory.path().join("whole");
    let at_once = run(rollback.clone(), &batches, &options(&whole, Start::Fresh)).unwrap();
    assert_eq!(at_once.rollbacks, 3);
    for at in [&[3][..], &[10], &[11], &[12], &[13], &[11, 12, 13], &[17], &[22], &[12, 24]] {
        let pieces = directory.path().join(format!("{at:?}"));
        let resumed = interrupted(&rollback, &batches, &pieces, at);
        assert_eq!(contents(&resumed.checkpoint), contents(&at_once.checkpoint), "{at:?}");
        assert_eq!(log(&pieces), log(&whole), "{at:?}");
    }
}

#[test]
fn rollback_has_limits() {
    let directory = tempfile::tempdir().unwrap();
    // Every batch from the twelfth on: each return passes over one more.
    let batches: Vec<u64> = (12..200).collect();
    let rollback = recipe(NonFinitePolicy::Rollback, 2);
    let error = run(rollback, &batches, &options(directory.path(), Start::Fresh)).unwrap_err();
    let text = error.to_string();
    let TrainError::NotFiniteAgain { update, .. } = error else { panic!("{text}") };
    assert_eq!(update.step, 11);
    assert!(text.contains("step-000010 2 times, which is the recipe's limit"), "{text}");
    assert_eq!(saved(directory.path()), [5, 10]);

    let directory = tempfile::tempdir().unwrap();
    let rollback = recipe(NonFinitePolicy::Rollback, 2);
    let error = run(rollback, &[3], &options(directory.path(), Start::Fresh)).unwrap_err();
    assert!(matches!(error, TrainError::NothingToRollBackTo { .. }), "{error}");
    assert!(saved(directory.path()).is_empty());
}

/// An update with a finite gradient that leaves an infinite weight, right where the run saves.
#[test]
fn a_state_that_is_not_finite_is_not_saved() {
    struct Overflowing {
        inner: Bigram,
        /// At which updates of the executor, counted from 1.
        at: Vec<usize>,
    }
    impl crate::executor::Executor for Overflowing {
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
            let update = colac_plan::ProgramKind::Update;
            let updates = self.inner.runs.iter().filter(|run| run.0 == update).count();
            if program == update && self.at.contains(&updates) {
                let bias = self.inner.plan().parameters[1].tensor;
                self.inner.write_f32(bias, &[f32::INFINITY; VOCAB]);
            }
        }
    }
    for (policy, at, outcome) in [
        (NonFinitePolicy::Halt, vec![10], Err(1)),
        (NonFinitePolicy::Skip, vec![10], Err(1)),
        (NonFinitePolicy::Rollback, vec![10], Ok(1)),
        // Each return does updates 6 to 10 once more.
        (NonFinitePolicy::Rollback, vec![10, 15, 20], Err(3)),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut executor = Overflowing { inner: Bigram::initialized(recipe(policy, 2)), at };
        let mut training = TestRows::default();
        let rows = Rows { training: &mut training, validation: None };
        let fresh = options(directory.path(), Start::Fresh);
        let stop = AtomicBool::new(false);
        match (train(&mut executor, rows, &fresh, &stop, &mut Silent), outcome) {
            (Ok(summary), Ok(rollbacks)) => {
                assert_eq!((summary.step, summary.rollbacks), (40, rollbacks));
                let record = &of_kind(directory.path(), "non_finite")[0];
                assert_eq!(
                    (&record["what"], &record["parameter"]),
                    (&"state".into(), &"bias".into())
                );
            }
            (Err(TrainError::Checkpoint(CheckpointError::NotFinite { name })), Err(1)) => {
                assert_eq!((name.as_str(), saved(directory.path())), ("bias", vec![5]));
            }
            (Err(TrainError::NotFiniteAgain { .. }), Err(3)) => {
                assert_eq!(saved(directory.path()), [5]);
            }
            (result, expected) => panic!("{policy:?}: {result:?}, not {expected:?}"),
        }
    }
}

/// The newest checkpoint is damaged: the one before takes its place, and the run ends as if nothing had happened.
#[test]
fn a_damaged_checkpoint_is_put_aside() {
    let directory = tempfile::tempdir().unwrap();
    let plan = recipe(NonFinitePolicy::Halt, 1);
    let whole = directory.path().join("whole");
    let at_once = run(plan.clone(), &[], &options(&whole, Start::Fresh)).unwrap();
    let run_dir = directory.path().join("damaged");
    let stopped = Options { stop_at: Some(12), ..options(&run_dir, Start::Fresh) };
    run(plan.clone(), &[], &stopped).unwrap();
    assert_eq!(saved(&run_dir), [10, 12]);
    let model = run_dir.join("checkpoints/step-000012/model.safetensors");
    let mut bytes = fs::read(&model).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&model, bytes).unwrap();

    #[derive(Default)]
    struct Told(Vec<String>);
    impl Observer for Told {
        fn set_aside(&mut self, damage: &CheckpointError, aside: &Path) {
            self.0.push(format!("{damage} → {}", aside.display()));
        }
    }
    let (stop, mut told) = (AtomicBool::new(false), Told::default());
    let resume = options(&run_dir, Start::Resume);
    let number = NonFiniteNumber::Loss;
    let resumed = run_poisoned(plan.clone(), &[], number, &resume, &stop, &mut told).unwrap();
    assert_eq!(resumed.started_at, 10);
    assert_eq!(told.0.len(), 1);
    assert!(told.0[0].contains("model.safetensors is damaged"), "{}", told.0[0]);
    assert!(told.0[0].ends_with("step-000012.damaged-1"), "{}", told.0[0]);
    assert_eq!(contents(&resumed.checkpoint), contents(&at_once.checkpoint));

    // If none is whole, that is the error, and nothing is moved.
    for (_, path) in checkpoint::list(&run_dir).unwrap() {
        fs::write(path.join("state.json"), "{").unwrap();
    }
    let before = saved(&run_dir);
    let error = run(plan, &[], &options(&run_dir, Start::Resume)).unwrap_err();
    assert!(error.to_string().contains("step-000040/state.json is damaged"), "{error}");
    assert_eq!(saved(&run_dir), before);
}

#[test]
fn a_run_out_of_time_stops_before_an_update_and_is_saved() {
    let directory = tempfile::tempdir().unwrap();
    let plan = recipe(NonFinitePolicy::Halt, 1);
    let late =
        Options { deadline: Some(Instant::now()), ..options(directory.path(), Start::Fresh) };
    let summary = run(plan.clone(), &[], &late).unwrap();
    assert_eq!((summary.outcome, summary.step, summary.evaluation), (Outcome::OutOfTime, 0, None));
    assert_eq!(saved(directory.path()), [0]);
    let resumed = run(plan.clone(), &[], &options(directory.path(), Start::Resume)).unwrap();
    let whole = directory.path().join("whole");
    let at_once = run(plan, &[], &options(&whole, Start::Fresh)).unwrap();
    assert_eq!(contents(&resumed.checkpoint), contents(&at_once.checkpoint));
}

#[test]
fn the_best_and_every_mth_stay() {
    let directory = tempfile::tempdir().unwrap();
    let run_dir = directory.path();
    let mut plan = recipe(NonFinitePolicy::Halt, 1);
    (plan.recipe.checkpoint.keep, plan.recipe.checkpoint.keep_every) = (1, 20);
    plan.recipe.checkpoint.keep_best = 1;
    // So large that the loss soon rises again.
    plan.recipe.schedule.learning_rate = 3.0;
    run(plan, &[], &options(run_dir, Start::Fresh)).unwrap();
    let evaluations = of_kind(run_dir, "evaluation");
    let loss = |record: &Value| record["loss"].as_f64().unwrap();
    let best = evaluations.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).unwrap();
    let best = best["step"].as_u64().unwrap();
    assert!(best < 20, "{evaluations:?}");
    assert_eq!(saved(run_dir), [best, 20, 40]);
    assert_eq!(checkpoint::step_of(&checkpoint::best(run_dir).unwrap()), Some(best));
    // The index can be made again from the log.
    fs::remove_file(run_dir.join("checkpoints/evaluations.json")).unwrap();
    assert!(matches!(checkpoint::best(run_dir), Err(CheckpointError::NotEvaluated { .. })));
    let again = recipe(NonFinitePolicy::Halt, 1);
    let mut again = Plan { recipe: again.recipe.clone(), ..again };
    again.recipe.schedule.learning_rate = 3.0;
    again.recipe.checkpoint.keep = 0;
    run(again, &[], &options(run_dir, Start::Resume)).unwrap();
    assert_eq!(checkpoint::step_of(&checkpoint::best(run_dir).unwrap()), Some(best));
}

/// Makes the loss jump: rows whose labels contradict what was learnt.
#[test]
fn a_jump_is_logged_and_told_once_however_the_run_is_interrupted() {
    struct Contradicting(TestRows);
    impl crate::train::rows::TrainingRows for Contradicting {
        fn fill(
            &mut self,
            first: u64,
            tokens: &mut [i32],
            labels: &mut [i32],
        ) -> Result<(), crate::data::error::DataError> {
            // Rows of the default kind, over and over, so that there is little noise.
            crate::train::rows::TrainingRows::fill(&mut self.0, 0, tokens, labels)?;
            if first == 4 * 90 {
                let turned = labels.iter_mut().filter(|label| **label >= 0);
                turned.for_each(|label| *label = (*label + 3) % VOCAB as i32);
            }
            Ok(())
        }
        fn identity(&self) -> String {
            "contradicting".to_owned()
        }
    }
    #[derive(Default)]
    struct Told(Vec<(u64, &'static str)>);
    impl Observer for Told {
        fn spike(&mut self, step: u64, spike: &Spike) {
            assert!(spike.z_score > 6.0 && spike.value > spike.mean, "{spike:?}");
            self.0.push((step, spike.quantity.field()));
        }
    }
    let mut plan = plan();
    plan.recipe.schedule.steps = 120;
    plan.recipe.checkpoint.every = 35;
    let directory = tempfile::tempdir().unwrap();
    let run = |run_dir: &Path, start, stop_at| {
        let mut executor = Bigram::initialized(plan.clone());
        let mut training = Contradicting(TestRows::default());
        let rows = Rows { training: &mut training, validation: None };
        let mut told = Told::default();
        let options = Options { stop_at, ..options(run_dir, start) };
        let stop = AtomicBool::new(false);
        let summary = train(&mut executor, rows, &options, &stop, &mut told).unwrap();
        (summary, told.0)
    };
    let [whole, pieces] = ["whole", "pieces"].map(|name| directory.path().join(name));
    let (at_once, told) = run(&whole, Start::Fresh, None);
    assert_eq!(told, [(91, "loss")]);
    let records = of_kind(&whole, "spike");
    assert_eq!(records.len(), 1);
    assert_eq!((&records[0]["step"], &records[0]["quantity"]), (&91.into(), &"loss".into()));
    run(&pieces, Start::Fresh, Some(60));
    run(&pieces, Start::Resume, Some(91));
    let (resumed, _) = run(&pieces, Start::Resume, None);
    assert_eq!(contents(&resumed.checkpoint), contents(&at_once.checkpoint));
    assert_eq!(log(&pieces), log(&whole));
}
