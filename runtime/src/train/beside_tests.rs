//! Runs on a device that works beside the host.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use colac_plan::recipe::{NonFinite, NonFinitePolicy};
use colac_plan::{Plan, ProgramKind, TensorId};
use serde_json::Value;

use crate::data::error::DataError;
use crate::executor::{Executor, QueuedReads};
use crate::train::checkpoint;
use crate::train::error::TrainError;
use crate::train::non_finite::NonFiniteNumber;
use crate::train::observer::{Observer, Progress};
use crate::train::options::{Options, Rows, Start, Summary};
use crate::train::rows::TrainingRows;
use crate::train::run::train;
use crate::train::testing::{Bigram, Poison, TestRows, plan};
use crate::train::trainer::{Trainer, Turn};

enum Command {
    WriteReals(TensorId, Vec<f32>),
    WriteIntegers(TensorId, Vec<i32>),
    Run(ProgramKind, bool),
    Read(TensorId),
}

/// A device as slow as it may be: it does nothing before somebody waits for it, and then no more than it has to.
struct Beside {
    plan: Plan,
    device: RefCell<Bigram>,
    commands: RefCell<VecDeque<Command>>,
    done: RefCell<VecDeque<Vec<f32>>>,
    /// Readings that were asked for, and neither fetched nor forgotten.
    readings: usize,
    /// Programs that still waited when a reading was fetched, the most of all readings.
    ahead: Cell<usize>,
}

impl Beside {
    fn new(device: Bigram) -> Beside {
        Beside {
            plan: device.plan().clone(),
            device: RefCell::new(device),
            commands: RefCell::default(),
            done: RefCell::default(),
            readings: 0,
            ahead: Cell::new(0),
        }
    }

    /// Goes on until nothing is left, or there is a reading to fetch.
    fn work(&self, until_read: bool) {
        let (mut device, mut commands) = (self.device.borrow_mut(), self.commands.borrow_mut());
        while !until_read || self.done.borrow().is_empty() {
            match commands.pop_front() {
                Some(Command::WriteReals(tensor, values)) => device.write_f32(tensor, &values),
                Some(Command::WriteIntegers(tensor, values)) => device.write_i32(tensor, &values),
                Some(Command::Run(program, last)) => device.run(program, last),
                Some(Command::Read(tensor)) => {
                    self.done.borrow_mut().push_back(device.reals(tensor));
                }
                None => return,
            }
        }
    }
}

impl Executor for Beside {
    fn plan(&self) -> &Plan {
        &self.plan
    }
    fn write_f32(&mut self, tensor: TensorId, values: &[f32]) {
        self.commands.borrow_mut().push_back(Command::WriteReals(tensor, values.to_vec()));
    }
    fn write_i32(&mut self, tensor: TensorId, values: &[i32]) {
        self.commands.borrow_mut().push_back(Command::WriteIntegers(tensor, values.to_vec()));
    }
    fn read_f32(&self, tensor: TensorId, values: &mut [f32]) {
        self.work(false);
        self.device.borrow().read_f32(tensor, values);
    }
    fn read_i32(&self, tensor: TensorId, values: &mut [i32]) {
        self.work(false);
        self.device.borrow().read_i32(tensor, values);
    }
    fn run(&mut self, program: ProgramKind, last_micro_batch: bool) {
        self.commands.borrow_mut().push_back(Command::Run(program, last_micro_batch));
    }
    fn queued_reads(&mut self) -> Option<&mut dyn QueuedReads> {
        Some(self)
    }
}

impl QueuedReads for Beside {
    fn queue_read(&mut self, tensor: TensorId) {
        self.readings += 1;
        self.commands.borrow_mut().push_back(Command::Read(tensor));
    }
    fn fetch(&mut self, values: &mut [f32]) {
        self.readings = self.readings.checked_sub(1).expect("what is fetched was asked for");
        self.work(true);
        values.copy_from_slice(&self.done.borrow_mut().pop_front().expect("a reading"));
        let commands = self.commands.borrow();
        let waiting = commands.iter().filter(|command| matches!(command, Command::Run(..)));
        self.ahead.set(self.ahead.get().max(waiting.count()));
    }
    fn discard_reads(&mut self) {
        self.work(false);
        self.done.borrow_mut().clear();
        self.readings = 0;
    }
}

/// Evaluates and saves at every fifth of 40 updates, of two micro-batches each.
fn recipe(policy: NonFinitePolicy) -> Plan {
    let mut plan = plan();
    (plan.recipe.checkpoint.every, plan.recipe.evaluation.every) = (5, 5);
    plan.recipe.non_finite = NonFinite { policy, limit: 2 };
    plan
}

/// Everything that a run leaves in its folder, but for the time it took.
#[derive(PartialEq, Eq, Debug)]
struct Left {
    log: Vec<Value>,
    checkpoints: BTreeMap<u64, BTreeMap<PathBuf, Vec<u8>>>,
}

fn left(run_dir: &Path) -> Left {
    let text = fs::read_to_string(run_dir.join("metrics.jsonl")).unwrap();
    let records = text.lines().map(|line| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("tokens_per_second");
        record
    });
    let contents = |directory: &Path| {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.file_name().into(), fs::read(entry.path()).unwrap())).collect()
    };
    let saved = checkpoint::list(run_dir).unwrap().into_iter();
    Left {
        log: records.collect(),
        checkpoints: saved.map(|(step, path)| (step, contents(&path))).collect(),
    }
}

/// Sets the stop flag after an update.
struct Interrupt<'a>(u64, &'a AtomicBool);

impl Observer for Interrupt<'_> {
    fn step(&mut self, progress: &Progress<'_>) {
        if progress.report.step == self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

fn run(
    executor: &mut dyn Executor,
    training: &mut dyn TrainingRows,
    run_dir: &Path,
    start: Start,
    interrupt: u64,
) -> Result<Summary, TrainError> {
    let options = Options {
        run_dir: run_dir.to_owned(),
        start,
        stop_at: None,
        deadline: None,
        tensorboard: false,
        tokenizer_json: None,
    };
    let stop = AtomicBool::new(false);
    let mut validation = TestRows { count: 4, ..TestRows::default() };
    let rows = Rows { training, validation: Some(&mut validation) };
    train(executor, rows, &options, &stop, &mut Interrupt(interrupt, &stop))
}

fn poisoned(plan: &Plan, batches: &[u64]) -> Bigram {
    let mut executor = Bigram::initialized(plan.clone());
    let (number, updates) = (NonFiniteNumber::Gradient, batches.iter().copied().collect());
    executor.poison = Some(Poison { number, updates });
    executor
}

fn rows() -> TestRows {
    // Update 16 has no labels at all.
    TestRows { empty: (64..68).collect(), name: "rows".to_owned(), ..TestRows::default() }
}

#[test]
fn a_run_is_the_same_as_one_that_waits() {
    use NonFinitePolicy::{Halt, Rollback, Skip};
    // Bad updates alone, in a row, before a checkpoint, behind one, and the last.
    let cases: [(NonFinitePolicy, &[u64]); 9] = [
        (Halt, &[]),
        (Halt, &[12]),
        (Skip, &[7]),
        (Skip, &[3, 4, 9, 10, 39]),
        (Skip, &[20, 21, 22]),
        (Rollback, &[7]),
        (Rollback, &[8, 14, 15]),
        (Rollback, &[2]),
        (Rollback, &[6, 7, 13]),
    ];
    for (policy, batches) in cases {
        let plan = recipe(policy);
        assert!(plan.recipe.micro_batch < plan.recipe.global_batch);
        let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [waiting, beside] = directories.each_ref().map(|directory| directory.path());
        let mut device = Beside::new(poisoned(&plan, batches));
        let ends = [
            run(&mut poisoned(&plan, batches), &mut rows(), waiting, Start::Fresh, 0),
            run(&mut device, &mut rows(), beside, Start::Fresh, 0),
        ];
        let [expected, found] = ends.map(|end| match end {
            Ok(summary) => Ok((summary.step, summary.loss, summary.skipped, summary.rollbacks)),
            Err(error) => Err(error.to_string().replace(&beside.display().to_string(), "…")),
        });
        let expected = expected.map_err(|error| error.replace(&waiting.display().to_string(), "…"));
        assert_eq!(found, expected, "{policy:?} {batches:?}");
        assert_eq!(left(beside), left(waiting), "{policy:?} {batches:?}");
        // When the first loss of an update is fetched, its second micro-batch, the update itself and both micro-batches
        // of the next one wait to be computed.
        assert_eq!(device.ahead.get(), 4, "{policy:?} {batches:?}");
    }
}

#[test]
fn a_run_that_is_interrupted_while_its_device_is_ahead_goes_on() {
    let plan = recipe(NonFinitePolicy::Skip);
    let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [waiting, beside] = directories.each_ref().map(|directory| directory.path());
    run(&mut poisoned(&plan, &[8]), &mut rows(), waiting, Start::Fresh, 0).unwrap();
    let mut start = Start::Fresh;
    for at in [3, 8, 9, 15, 31, 0] {
        let mut device = Beside::new(poisoned(&plan, &[8]));
        let summary = run(&mut device, &mut rows(), beside, start, at).unwrap();
        assert_eq!(summary.step, if at == 0 { 40 } else { at });
        start = Start::Resume;
    }
    let (expected, found) = (left(waiting), left(beside));
    assert_eq!(found.log, expected.log);
    assert_eq!(found.checkpoints.last_key_value(), expected.checkpoints.last_key_value());
}

/// Rows that end.
struct Ending(TestRows, u64);

impl TrainingRows for Ending {
    fn fill(
        &mut self,
        first: u64,
        tokens: &mut [i32],
        labels: &mut [i32],
    ) -> Result<(), DataError> {
        if first >= self.1 {
            let path = PathBuf::from("tokens.bin");
            let cause = std::io::Error::other("the disk is gone");
            return Err(DataError::Io { action: "read", path, cause });
        }
        TrainingRows::fill(&mut self.0, first, tokens, labels)
    }
    fn identity(&self) -> String {
        TrainingRows::identity(&self.0)
    }
}

#[test]
fn an_update_is_not_lost_because_the_rows_behind_it_cannot_be_read() {
    let plan = recipe(NonFinitePolicy::Halt);
    let directory = tempfile::tempdir().unwrap();
    let mut device = Beside::new(Bigram::initialized(plan.clone()));
    let mut ending = Ending(rows(), 8 * u64::from(plan.recipe.global_batch));
    let error = run(&mut device, &mut ending, directory.path(), Start::Fresh, 0).unwrap_err();
    assert!(error.to_string().contains("the disk is gone"), "{error}");
    let log = left(directory.path()).log;
    let last = log.iter().rfind(|record| record["kind"] == "train").unwrap();
    assert_eq!(last["step"], 8);
}

/// Another turn than the one that was announced is done on its own rows.
#[test]
fn what_was_begun_is_forgotten_when_the_run_turns_elsewhere() {
    let plan = recipe(NonFinitePolicy::Halt);
    let turns = [(0, 0), (1, 1), (2, 7), (3, 8)].map(|(update, batch)| Turn { update, batch });
    let states = [false, true].map(|announced| {
        let mut device = Beside::new(Bigram::initialized(plan.clone()));
        let mut trainer = Trainer::new(&plan).unwrap();
        let reports = turns.map(|turn| {
            let Turn { update, batch } = turn;
            let next = announced.then_some(Turn { update: update + 1, batch: batch + 1 });
            trainer.turn(&mut device, &mut rows(), turn, next).unwrap()
        });
        device.work(false);
        (reports, device.device.into_inner().state())
    });
    assert_eq!(states[0], states[1]);
}
