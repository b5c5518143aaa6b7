//! A whole run in its folder.
//!
//! Owns when updates, evaluations and checkpoints happen, and how a run begins and ends. Must not know how any of them
//! works.
//!
//! After an update comes its log record, then the checkpoint if it is due, then the evaluation if it is due; so an
//! evaluation that is cut short costs no update. A resumed run drops the log's records after its checkpoint and makes up
//! for an evaluation that was due at it and is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::executor::Executor;
use crate::host::initialize;
use crate::train::checkpoint::save::Position;
use crate::train::checkpoint::{self, State};
use crate::train::error::TrainError;
use crate::train::evaluate::{EvaluationReport, Evaluator};
use crate::train::lock::RunLock;
use crate::train::metrics::MetricsLog;
use crate::train::observer::{Begin, Observer, Progress};
use crate::train::options::{Options, Outcome, Rows, Start, Summary};
use crate::train::rows::TrainingRows;
use crate::train::trainer::{StepReport, Trainer};

/// Trains from `options.start` to the schedule's horizon or `options.stop_at`, or until `stop` is set, with evaluations
/// and checkpoints as the plan's recipe says; the final state is always saved, and evaluated unless interrupted.
///
/// A resumed run goes on bit for bit: its checkpoints equal those of a run that was never interrupted.
///
/// # Errors
///
/// If the folder is in use or holds another run, the checkpoint to resume from does not belong to plan and rows, data or
/// disk fail, or loss or gradient are not finite. Checkpoints that were saved before an error stay as they are.
pub fn train(
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
    let settings = Settings {
        evaluate_every: plan.recipe.evaluation.every,
        save_every: plan.recipe.checkpoint.every,
        keep: plan.recipe.checkpoint.keep,
    };

    fs::create_dir_all(&options.run_dir).map_err(TrainError::io("create", &options.run_dir))?;
    let _lock = RunLock::acquire(&options.run_dir)?;
    checkpoint::clean(&options.run_dir)?;
    let (position, saved, log) = begin(executor, &*rows.training, options)?;
    let started_at = position.step;
    let mut run = Run {
        executor,
        validation,
        options,
        settings,
        stop,
        observer,
        log,
        position,
        saved,
        last_report: None,
    };
    let begin = Begin { step: started_at, stop_at, horizon, tokens: run.position.tokens };
    run.observer.begin(&begin);

    if run.saved.is_some()
        && run.evaluation_is_due()
        && run.log.last_evaluation() != Some(started_at)
    {
        run.evaluate()?;
    }
    let mut loss = None;
    while run.position.step < stop_at && !run.stopped() {
        loss = run.update(&mut trainer, rows.training)?.loss.or(loss);
        if run.is_due(run.settings.save_every) {
            run.save()?;
        }
        if run.evaluation_is_due() {
            run.evaluate()?;
        }
    }
    let outcome = match run.position.step {
        step if step >= horizon => Outcome::Finished,
        step if step >= stop_at => Outcome::Stopped,
        _ => Outcome::Interrupted,
    };
    let checkpoint = run.save()?;
    let evaluation = if outcome == Outcome::Interrupted { None } else { run.evaluate()? };
    run.log.sync()?;
    Ok(Summary {
        outcome,
        step: run.position.step,
        tokens: run.position.tokens,
        started_at,
        loss,
        evaluation,
        checkpoint,
    })
}

/// Puts weights into the executor; returns where the run stands, its newest checkpoint and its log.
fn begin(
    executor: &mut dyn Executor,
    rows: &dyn TrainingRows,
    options: &Options,
) -> Result<(Position, Option<PathBuf>, MetricsLog), TrainError> {
    let run_dir = &options.run_dir;
    let data = rows.identity();
    if options.start == Start::Resume {
        let newest = checkpoint::latest(run_dir)?;
        let State { data: expected, .. } = State::read(&newest)?;
        if expected != data {
            return Err(TrainError::DifferentData { checkpoint: newest, expected, found: data });
        }
        let State { step, tokens, .. } = checkpoint::resume(executor, &newest)?;
        let log = MetricsLog::resume(run_dir, step)?;
        return Ok((Position { step, tokens, data }, Some(newest), log));
    }
    if let Some((step, _)) = checkpoint::list(run_dir)?.pop() {
        return Err(TrainError::NotFresh { run_dir: run_dir.clone(), step });
    }
    initialize(executor);
    if let Start::Weights(path) = &options.start {
        checkpoint::load_weights(executor, path)?;
    }
    Ok((Position { step: 0, tokens: 0, data }, None, MetricsLog::create(run_dir)?))
}

/// How often things happen, in updates; 0 is "only at the end".
struct Settings {
    evaluate_every: u64,
    save_every: u64,
    keep: u32,
}

/// A run between two updates.
struct Run<'a, 'rows> {
    executor: &'a mut dyn Executor,
    validation: Option<(Evaluator, &'rows mut dyn crate::train::rows::ValidationRows)>,
    options: &'a Options,
    settings: Settings,
    stop: &'a AtomicBool,
    observer: &'a mut dyn Observer,
    log: MetricsLog,
    position: Position,
    /// The newest checkpoint.
    saved: Option<PathBuf>,
    /// The newest evaluation of this call, and the update it belongs to.
    last_report: Option<(u64, EvaluationReport)>,
}

impl Run<'_, '_> {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn is_due(&self, every: u64) -> bool {
        every != 0 && self.position.step != 0 && self.position.step.is_multiple_of(every)
    }

    fn evaluation_is_due(&self) -> bool {
        self.is_due(self.settings.evaluate_every)
    }

    fn update(
        &mut self,
        trainer: &mut Trainer,
        rows: &mut dyn TrainingRows,
    ) -> Result<StepReport, TrainError> {
        let begin = Instant::now();
        let report = trainer.step(self.executor, rows, self.position.step)?;
        let elapsed = begin.elapsed();
        self.position.step = report.step;
        self.position.tokens += report.tokens;
        let tokens_per_second = report.tokens as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        self.log.train(&report, self.position.tokens, tokens_per_second)?;
        self.observer.step(&Progress {
            report: &report,
            tokens: self.position.tokens,
            elapsed,
            tokens_per_second,
        });
        Ok(report)
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
        let Some(report) = evaluator.evaluate(self.executor, &mut **rows, self.stop)? else {
            return Ok(None);
        };
        if self.log.last_evaluation() != Some(step) {
            self.log.evaluation(step, self.position.tokens, &report)?;
        }
        self.observer.evaluated(step, &report);
        self.last_report = Some((step, report.clone()));
        Ok(Some(report))
    }

    /// Saves the current state unless that is done, then deletes what is not to be kept.
    fn save(&mut self) -> Result<PathBuf, TrainError> {
        let step = self.position.step;
        if let Some(saved) = &self.saved
            && checkpoint::step_of(saved) == Some(step)
        {
            return Ok(saved.clone());
        }
        self.log.sync()?;
        let run_dir: &Path = &self.options.run_dir;
        let path = checkpoint::save(
            self.executor,
            run_dir,
            &self.position,
            self.options.tokenizer_json.as_deref(),
        )?;
        checkpoint::retain(run_dir, self.settings.keep)?;
        self.observer.saved(step, &path);
        self.saved = Some(path.clone());
        Ok(path)
    }
}
