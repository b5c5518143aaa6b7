//! A whole run in its folder.
//!
//! Owns when updates, evaluations and checkpoints happen, and how a run begins and ends. Must not know how any of them
//! works.
//!
//! After an update comes its log record, then the checkpoint if it is due, then the evaluation if it is due; so an
//! evaluation that is cut short costs no update. A resumed run drops the log's records after its checkpoint and makes up
//! for an evaluation that was due at it and is missing.
//!
//! An update that is not finite is dealt with as the recipe says. What the run remembers of it is part of its
//! checkpoints, and a run returns only to a checkpoint that its recipe asks for at that update, whenever else it was
//! saved: so it goes the same way if it is interrupted or killed in between.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use colac_plan::recipe::{NonFinite, NonFinitePolicy, Recipe};

use crate::executor::Executor;
use crate::host::initialize;
use crate::train::checkpoint::evaluations::Evaluations;
use crate::train::checkpoint::retain::{Retention, discard_after, is_regular, retain};
use crate::train::checkpoint::save::{Position, save_through};
use crate::train::checkpoint::{self, State};
use crate::train::error::{CheckpointError, TrainError};
use crate::train::evaluate::{EvaluationReport, Evaluator};
use crate::train::file_system::{Disk, FileSystem};
use crate::train::lock::RunLock;
use crate::train::metrics::MetricsLog;
use crate::train::non_finite::{NonFiniteNumber, NonFiniteUpdate};
use crate::train::observer::{Begin, Observer, Progress};
use crate::train::options::{Options, Outcome, Rows, Start, Summary};
use crate::train::rows::{TrainingRows, ValidationRows};
use crate::train::tensorboard::EventLog;
use crate::train::time_limit::TimeLimit;
use crate::train::trainer::{StepReport, Trainer, Turn};

/// Trains from `options.start` to the schedule's horizon or `options.stop_at`, or until `stop` is set or time is up, with
/// evaluations and checkpoints as the plan's recipe says; the final state is always saved, and evaluated unless the run
/// was interrupted or out of time.
///
/// A resumed run goes on bit for bit: its checkpoints equal those of a run that was never interrupted. A checkpoint that
/// is damaged is put aside, and the run goes on from the newest that is whole.
///
/// # Errors
///
/// If the folder is in use or holds another run, the checkpoint to resume from does not belong to plan and rows, data or
/// disk fail, or loss or gradient are not finite and the recipe does not let that pass. Checkpoints that were saved
/// before an error stay as they are.
pub fn train(
    executor: &mut dyn Executor,
    rows: Rows<'_>,
    options: &Options,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Summary, TrainError> {
    train_on(&Disk, executor, rows, options, stop, observer)
}

/// As [`train`], with checkpoints on a disk of one's own.
pub(crate) fn train_on(
    disk: &dyn FileSystem,
    executor: &mut dyn Executor,
    rows: Rows<'_>,
    options: &Options,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Summary, TrainError> {
    let plan = executor.plan();
    let mut trainer = Trainer::new(plan)?;
    let validation = match rows.validation {
        Some(validation) => Some((Evaluator::new(plan)?, validation)),
        None => None,
    };
    let horizon = plan.recipe.schedule.steps;
    let stop_at = options.stop_at.unwrap_or(horizon).min(horizon);
    let settings = Settings::of(&plan.recipe);
    let evaluated_rows =
        validation.as_ref().map_or(0.0, |(_, rows)| evaluated(&plan.recipe, &**rows));
    let time = TimeLimit::new(
        options.deadline,
        checkpoint::bytes(plan),
        evaluated_rows / f64::from(plan.recipe.global_batch),
    );

    fs::create_dir_all(&options.run_dir).map_err(TrainError::io("create", &options.run_dir))?;
    let _lock = RunLock::acquire(&options.run_dir)?;
    checkpoint::clean(&options.run_dir)?;
    let beginning = begin(disk, executor, &*rows.training, options, observer)?;
    let started_at = beginning.position.step;
    let mut run = Run {
        disk,
        executor,
        validation,
        options,
        settings,
        stop_at,
        stop,
        observer,
        log: beginning.log,
        events: beginning.events,
        position: beginning.position,
        saved: beginning.saved,
        evaluations: beginning.evaluations,
        last_report: None,
        time,
        saved_before: false,
        rotates: true,
        out_of_time: false,
    };
    let begin = Begin { step: started_at, stop_at, horizon, tokens: run.position.tokens };
    run.observer.begin(&begin);

    if run.saved.is_some()
        && run.evaluation_is_due()
        && run.log.last_evaluation() != Some(started_at)
    {
        run.evaluate_in_time()?;
    }
    let mut loss = None;
    while run.position.step < stop_at && !run.stopped() && run.has_time() {
        let Some(report) = run.update(&mut trainer, rows.training)? else { continue };
        loss = report.loss.or(loss);
        if run.is_due(run.settings.save_every) && !run.save_or_return(&report)? {
            continue;
        }
        if run.evaluation_is_due() {
            run.evaluate_in_time()?;
        }
    }
    let outcome = match run.position.step {
        step if step >= horizon => Outcome::Finished,
        step if step >= stop_at => Outcome::Stopped,
        _ if run.stopped() => Outcome::Interrupted,
        _ => Outcome::OutOfTime,
    };
    let checkpoint = run.save()?;
    let evaluation = match outcome {
        Outcome::Finished | Outcome::Stopped => run.evaluate_in_time()?,
        Outcome::Interrupted | Outcome::OutOfTime => None,
    };
    run.sync()?;
    Ok(Summary {
        outcome,
        step: run.position.step,
        tokens: run.position.tokens,
        started_at,
        loss,
        skipped: run.position.recovery.skipped,
        rollbacks: run.position.recovery.rollbacks,
        evaluation,
        checkpoint,
    })
}

/// About how many rows an evaluation takes.
fn evaluated(recipe: &Recipe, rows: &dyn ValidationRows) -> f64 {
    let all = rows.row_count() as f64;
    match recipe.evaluation.tokens {
        0 => all,
        limit => all.min(limit as f64 / f64::from(recipe.sequence_length) + 1.0),
    }
}

/// What a run begins with.
struct Beginning {
    position: Position,
    /// Its newest checkpoint.
    saved: Option<PathBuf>,
    log: MetricsLog,
    events: Option<EventLog>,
    evaluations: Evaluations,
}

/// Puts weights into the executor; returns where the run stands.
fn begin(
    disk: &dyn FileSystem,
    executor: &mut dyn Executor,
    rows: &dyn TrainingRows,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Beginning, TrainError> {
    let run_dir = &options.run_dir;
    let data = rows.identity();
    if options.start == Start::Resume {
        let (newest, state) = resume_newest(executor, run_dir, &data, observer)?;
        let State { step, tokens, recovery, spikes, .. } = state;
        let log = MetricsLog::resume(run_dir, step)?;
        let mut evaluations = Evaluations::read(run_dir);
        evaluations.forget_after(step);
        for &(step, loss) in log.kept_evaluations() {
            evaluations.record(step, loss);
        }
        evaluations.write(disk, run_dir)?;
        let events = match options.tensorboard {
            true => Some(EventLog::resume(run_dir, step)?),
            false => None,
        };
        let position = Position { step, tokens, data, recovery, spikes };
        return Ok(Beginning { position, saved: Some(newest), log, events, evaluations });
    }
    if let Some((step, _)) = checkpoint::list(run_dir)?.pop() {
        return Err(TrainError::NotFresh { run_dir: run_dir.clone(), step });
    }
    initialize(executor);
    if let Start::Weights(path) = &options.start {
        checkpoint::load_weights(executor, path)?;
    }
    let events = match options.tensorboard {
        true => Some(EventLog::create(run_dir)?),
        false => None,
    };
    // The names of a new run folder and of those around it: best effort, since not every folder on the way may be opened.
    for folder in run_dir.ancestors().skip(1).take(2) {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let _ = Disk.sync_directory(folder);
    }
    Ok(Beginning {
        position: Position { data, ..Position::default() },
        saved: None,
        log: MetricsLog::create(run_dir)?,
        events,
        evaluations: Evaluations::default(),
    })
}

/// Loads the newest checkpoint that is whole. What comes after it and is damaged is put aside: the updates since are
/// done again, bit for bit.
fn resume_newest(
    executor: &mut dyn Executor,
    run_dir: &Path,
    data: &str,
    observer: &mut dyn Observer,
) -> Result<(PathBuf, State), TrainError> {
    let mut damaged: Vec<(PathBuf, CheckpointError)> = Vec::new();
    for (_, path) in checkpoint::list(run_dir)?.into_iter().rev() {
        let loaded =
            State::read(&path).and_then(|State { data: expected, .. }| match expected == data {
                true => checkpoint::resume(executor, &path).map(Ok),
                false => Ok(Err(expected)),
            });
        match loaded {
            Ok(Ok(state)) => {
                for (path, damage) in &damaged {
                    let aside = checkpoint::set_aside(path)?;
                    observer.set_aside(damage, &aside);
                }
                return Ok((path, state));
            }
            Ok(Err(expected)) => {
                let found = data.to_owned();
                return Err(TrainError::DifferentData { checkpoint: path, expected, found });
            }
            Err(damage) if damage.is_damage() => damaged.push((path, damage)),
            Err(error) => return Err(error.into()),
        }
    }
    let newest = damaged.into_iter().next().map(|(_, damage)| damage);
    Err(newest
        .unwrap_or_else(|| CheckpointError::NoCheckpoint { run_dir: run_dir.to_owned() })
        .into())
}

/// What the recipe says about when things happen. How often is in updates; 0 is "only at the end".
struct Settings {
    evaluate_every: u64,
    save_every: u64,
    retention: Retention,
    non_finite: NonFinite,
    global_batch: u64,
}

impl Settings {
    fn of(recipe: &Recipe) -> Settings {
        Settings {
            evaluate_every: recipe.evaluation.every,
            save_every: recipe.checkpoint.every,
            retention: Retention::of(recipe),
            non_finite: recipe.non_finite,
            global_batch: u64::from(recipe.global_batch),
        }
    }
}

/// A run between two updates.
struct Run<'a, 'rows> {
    disk: &'a dyn FileSystem,
    executor: &'a mut dyn Executor,
    validation: Option<(Evaluator, &'rows mut dyn ValidationRows)>,
    options: &'a Options,
    settings: Settings,
    /// The update that is the last of this call.
    stop_at: u64,
    stop: &'a AtomicBool,
    observer: &'a mut dyn Observer,
    log: MetricsLog,
    events: Option<EventLog>,
    position: Position,
    /// The newest checkpoint.
    saved: Option<PathBuf>,
    /// Validation losses of the checkpoints.
    evaluations: Evaluations,
    /// The newest evaluation of this call, and the update it belongs to.
    last_report: Option<(u64, EvaluationReport)>,
    time: TimeLimit,
    /// Whether this call has saved.
    saved_before: bool,
    /// Whether old checkpoints may go: not while the newest evaluation is not finite.
    rotates: bool,
    out_of_time: bool,
}

impl Run<'_, '_> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn is_due(&self, every: u64) -> bool {
        is_regular(self.position.step, every)
    }

    fn evaluation_is_due(&self) -> bool {
        self.is_due(self.settings.evaluate_every)
    }

    /// Whether an evaluation and a checkpoint are due after so many updates.
    fn follow(&self, step: u64) -> [bool; 2] {
        let evaluates = self.validation.is_some() && is_regular(step, self.settings.evaluate_every);
        [evaluates, is_regular(step, self.settings.save_every)]
    }

    /// Whether another update fits in the time that is left.
    fn has_time(&mut self) -> bool {
        let [evaluates, saves] = self.follow(self.position.step + 1);
        self.out_of_time |= !self.time.allows_update(Instant::now(), evaluates, saves);
        !self.out_of_time
    }

    fn turn(&self, update: u64) -> Turn {
        Turn { update, batch: update + self.position.recovery.passed_over }
    }

    /// The turn behind the next update, if nothing is to be done in between that needs the device.
    fn next_turn(&self) -> Option<Turn> {
        let step = self.position.step + 1;
        let [evaluates, saves] = self.follow(step);
        let [then_evaluates, then_saves] = self.follow(step + 1);
        let begins = step < self.stop_at && !evaluates && !saves && !self.stopped();
        let has_time =
            || self.time.allows_update_behind(Instant::now(), then_evaluates, then_saves);
        (begins && has_time()).then(|| self.turn(step))
    }

    /// Does an update. `None` if it was not finite and the run has turned back.
    fn update(
        &mut self,
        trainer: &mut Trainer,
        rows: &mut dyn TrainingRows,
    ) -> Result<Option<StepReport>, TrainError> {
        let begin = Instant::now();
        let (turn, next) = (self.turn(self.position.step), self.next_turn());
        let report = match trainer.turn(self.executor, rows, turn, next) {
            Ok(report) => {
                self.position.recovery.skipped_in_a_row = 0;
                report
            }
            Err(TrainError::NotFinite(update)) => match self.settings.non_finite.policy {
                NonFinitePolicy::Halt => return Err(TrainError::NotFinite(update)),
                NonFinitePolicy::Skip => self.skip(update)?,
                NonFinitePolicy::Rollback => {
                    self.turn_back(update)?;
                    return Ok(None);
                }
            },
            Err(error) => return Err(error),
        };
        let elapsed = begin.elapsed();
        self.time.updated(elapsed);
        self.position.step = report.step;
        self.position.tokens += report.tokens;
        for spike in self.position.spikes.add(report.loss, report.gradient_norm) {
            self.log.spike(report.step, &spike)?;
            self.observer.spike(report.step, &spike);
        }
        let tokens_per_second = report.tokens as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        self.log.train(&report, self.position.tokens, tokens_per_second)?;
        if let Some(events) = &mut self.events {
            events.train(&report, tokens_per_second)?;
        }
        self.observer.step(&Progress {
            report: &report,
            tokens: self.position.tokens,
            elapsed,
            tokens_per_second,
        });
        Ok(Some(report))
    }

    /// Passes over an update that changed nothing.
    fn skip(&mut self, update: Box<NonFiniteUpdate>) -> Result<StepReport, TrainError> {
        let recovery = &mut self.position.recovery;
        if recovery.skipped_in_a_row >= self.settings.non_finite.limit {
            let passed = format!("{} updates before it were skipped", recovery.skipped_in_a_row);
            return Err(TrainError::NotFiniteAgain { update, passed });
        }
        recovery.skipped_in_a_row += 1;
        recovery.skipped += 1;
        self.log.non_finite(&update, None)?;
        self.observer.not_finite(&update, None);
        Ok(StepReport {
            step: update.step,
            loss: None,
            gradient_norm: None,
            learning_rate: update.learning_rate,
            tokens: update.tokens,
        })
    }

    /// Returns to the newest regular checkpoint, and passes over the rows from there to those of the update: to do the
    /// same updates once more would lead to the same place.
    fn turn_back(&mut self, update: Box<NonFiniteUpdate>) -> Result<(), TrainError> {
        let run_dir = &self.options.run_dir;
        let regular = checkpoint::list(run_dir)?
            .into_iter()
            .rev()
            .find(|&(step, _)| step < update.step && is_regular(step, self.settings.save_every));
        let Some((step, path)) = regular else {
            return Err(TrainError::NothingToRollBackTo { update });
        };
        let mut recovery = self.position.recovery;
        if recovery.rollbacks_in_a_row >= self.settings.non_finite.limit {
            let times = recovery.rollbacks_in_a_row;
            let passed = format!("the run has returned to {} {times} times", path.display());
            return Err(TrainError::NotFiniteAgain { update, passed });
        }
        recovery.rollbacks_in_a_row += 1;
        recovery.rollbacks += 1;
        recovery.passed_over += update.step - step;

        let state = checkpoint::resume(self.executor, &path)?;
        discard_after(self.disk, run_dir, step)?;
        self.log = MetricsLog::resume(run_dir, step)?;
        if let Some(events) = &mut self.events {
            events.turn_back(step)?;
        }
        self.evaluations.forget_after(step);
        self.evaluations.write(self.disk, run_dir)?;
        self.last_report = self.last_report.take().filter(|(done, _)| *done <= step);
        self.position.step = step;
        self.position.tokens = state.tokens;
        self.position.spikes = state.spikes;
        self.position.recovery = recovery;
        self.log.non_finite(&update, Some(step))?;
        self.observer.not_finite(&update, Some(&path));
        self.saved = Some(path);
        Ok(())
    }

    /// Evaluates if there is time for it.
    fn evaluate_in_time(&mut self) -> Result<Option<EvaluationReport>, TrainError> {
        if self.validation.is_some() && !self.time.allows_evaluation(Instant::now()) {
            self.out_of_time = true;
            return Ok(None);
        }
        self.evaluate()
    }

    /// Evaluates the current weights and logs it once. `None` without validation rows, or when stopped meanwhile.
    fn evaluate(&mut self) -> Result<Option<EvaluationReport>, TrainError> {
        let step = self.position.step;
        if let Some((done, report)) = &self.last_report
            && *done == step
        {
            return Ok(Some(report.clone()));
        }
        let Some((evaluator, rows)) = &mut self.validation else { return Ok(None) };
        self.observer.evaluating(step);
        let begin = Instant::now();
        let Some(report) = evaluator.evaluate(self.executor, &mut **rows, self.stop)? else {
            return Ok(None);
        };
        self.time.evaluated(begin.elapsed());
        if self.log.last_evaluation() != Some(step) {
            self.log.evaluation(step, self.position.tokens, &report)?;
            if let Some(events) = &mut self.events {
                events.evaluation(step, &report)?;
            }
        }
        self.rotates = report.loss.is_finite();
        self.evaluations.record(step, report.loss);
        if self.saved_at(step) {
            self.rotate()?;
        }
        self.observer.evaluated(step, &report);
        self.last_report = Some((step, report.clone()));
        Ok(Some(report))
    }

    /// Whether the newest checkpoint is of this update.
    fn saved_at(&self, step: u64) -> bool {
        self.saved.as_ref().is_some_and(|saved| checkpoint::step_of(saved) == Some(step))
    }

    /// Saves the current state unless that is done, then deletes what is not to be kept.
    fn save(&mut self) -> Result<PathBuf, TrainError> {
        let step = self.position.step;
        if let Some(saved) = &self.saved
            && self.saved_at(step)
        {
            return Ok(saved.clone());
        }
        let begin = Instant::now();
        self.sync()?;
        let mut position = self.position.clone();
        if self.is_due(self.settings.save_every) {
            position.recovery.rollbacks_in_a_row = 0;
        }
        let run_dir: &Path = &self.options.run_dir;
        let tokenizer = self.options.tokenizer_json.as_deref();
        let path = save_through(self.disk, self.executor, run_dir, &position, tokenizer)?;
        self.position = position;
        self.saved = Some(path.clone());
        self.rotate()?;
        self.time.saved(begin.elapsed(), !self.saved_before);
        self.saved_before = true;
        self.observer.saved(step, &path);
        Ok(path)
    }

    /// Saves after an update. Returns whether the run goes on from here: if the state is not finite, it may turn back.
    fn save_or_return(&mut self, report: &StepReport) -> Result<bool, TrainError> {
        let name = match self.save() {
            Ok(_) => return Ok(true),
            Err(TrainError::Checkpoint(CheckpointError::NotFinite { name }))
                if self.settings.non_finite.policy == NonFinitePolicy::Rollback =>
            {
                name
            }
            Err(error) => return Err(error),
        };
        let first =
            (report.step - 1 + self.position.recovery.passed_over) * self.settings.global_batch;
        self.turn_back(Box::new(NonFiniteUpdate {
            step: report.step,
            what: NonFiniteNumber::State,
            loss: report.loss.unwrap_or(f64::NAN),
            gradient_norm: report.gradient_norm.map_or(f64::NAN, f64::from),
            parameter: Some(name),
            parameters: (1, self.executor.plan().parameters.len()),
            rows: (first, first + self.settings.global_batch),
            tokens: report.tokens,
            learning_rate: report.learning_rate,
        }))?;
        Ok(false)
    }

    /// Writes down which checkpoint is the best, then deletes those that do not stay.
    fn rotate(&mut self) -> Result<(), TrainError> {
        let run_dir = &self.options.run_dir;
        self.evaluations.write(self.disk, run_dir)?;
        if self.rotates {
            retain(self.disk, run_dir, &self.settings.retention, &self.evaluations)?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), TrainError> {
        self.log.sync()?;
        self.events.as_mut().map_or(Ok(()), EventLog::sync)
    }
}
