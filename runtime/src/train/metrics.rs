//! The log of a run: `metrics.jsonl`, one JSON object per line.
//!
//! Owns the records and what of an old log a resumed run keeps. Must not know when something is logged.
//!
//! A training record: `{"kind":"train","step","loss","learning_rate","grad_norm","tokens","tokens_per_second"}`; an
//! evaluation record: `{"kind":"evaluation","step","loss","perplexity","perplexity_reference_compatible",
//! "bits_per_byte","tokens","evaluated_tokens"}`; before the training record of an update in which something jumped:
//! `{"kind":"spike","step","quantity","value","mean","standard_deviation","z_score"}`; for an update whose loss or gradient
//! was not finite: `{"kind":"non_finite","step","action","what","parameter","parameters","at_step","rows","restarts_at"}`.
//! `docs/how-to/runs.md` explains them to users.
//!
//! - `step` counts updates from 1; an evaluation has the number of updates done before it.
//! - `loss` is the mean over all labels of the global batch, or of the evaluation, in nats per token.
//! - `grad_norm` is that of the whole gradient before clipping.
//! - `tokens` counts the positions with a label of all updates so far: in `pack` mode all inputs, in `pad` mode those
//!   that are not filled up.
//! - `tokens_per_second` is over this update alone. It is the only field that depends on time: all others are the same
//!   when a run is repeated, or interrupted and resumed.
//! - A number that is missing or not finite is `null`.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::train::error::TrainError;
use crate::train::evaluate::EvaluationReport;
use crate::train::non_finite::NonFiniteUpdate;
use crate::train::spikes::Spike;
use crate::train::trainer::StepReport;

/// Name of the log in a run folder.
pub const METRICS_FILE: &str = "metrics.jsonl";

#[derive(Serialize)]
struct TrainRecord {
    kind: &'static str,
    step: u64,
    loss: Option<f64>,
    learning_rate: f64,
    grad_norm: Option<f32>,
    tokens: u64,
    tokens_per_second: f64,
}

#[derive(Serialize)]
struct EvaluationRecord {
    kind: &'static str,
    step: u64,
    loss: f64,
    perplexity: f64,
    perplexity_reference_compatible: f64,
    bits_per_byte: Option<f64>,
    tokens: u64,
    evaluated_tokens: u64,
}

#[derive(Serialize)]
struct SpikeRecord {
    kind: &'static str,
    step: u64,
    quantity: &'static str,
    value: f64,
    mean: f64,
    standard_deviation: f64,
    z_score: f64,
}

#[derive(Serialize)]
struct NonFiniteRecord<'a> {
    kind: &'static str,
    step: u64,
    action: &'static str,
    what: &'static str,
    parameter: Option<&'a str>,
    parameters: usize,
    at_step: u64,
    rows: (u64, u64),
    restarts_at: Option<u64>,
}

/// What every record has, and the loss of those that have one.
#[derive(Deserialize)]
struct AnyRecord<'a> {
    kind: &'a str,
    step: u64,
    loss: Option<f64>,
}

/// Appends records to the log of a run.
#[derive(Debug)]
pub struct MetricsLog {
    file: File,
    path: PathBuf,
    line: Vec<u8>,
    last_evaluation: Option<u64>,
    kept_evaluations: Vec<(u64, f64)>,
}

impl MetricsLog {
    /// Begins an empty log.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn create(run_dir: &Path) -> Result<MetricsLog, TrainError> {
        MetricsLog::open(run_dir, |_| Ok(Vec::new()))
    }

    /// Goes on with the log of a run that resumes after update `step`: keeps the records up to it and drops the rest,
    /// so that no update appears twice. Everything from the first line on that is not a whole record is dropped too:
    /// that is what a crash leaves. A missing log begins empty.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or written.
    pub fn resume(run_dir: &Path, step: u64) -> Result<MetricsLog, TrainError> {
        let (mut last_evaluation, mut evaluations) = (None, Vec::new());
        let mut log = MetricsLog::open(run_dir, |path| {
            let mut bytes = std::fs::read(path).map_err(TrainError::io("read", path))?;
            let mut kept = 0;
            for line in bytes.split_inclusive(|&byte| byte == b'\n') {
                let record = line
                    .strip_suffix(b"\n")
                    .and_then(|line| serde_json::from_slice::<AnyRecord<'_>>(line).ok());
                let Some(record) = record.filter(|record| record.step <= step) else { break };
                if record.kind == "evaluation" {
                    last_evaluation = Some(record.step);
                    evaluations.extend(record.loss.map(|loss| (record.step, loss)));
                }
                kept += line.len();
            }
            bytes.truncate(kept);
            Ok(bytes)
        })?;
        log.last_evaluation = last_evaluation;
        log.kept_evaluations = evaluations;
        Ok(log)
    }

    fn open(
        run_dir: &Path,
        keep: impl FnOnce(&Path) -> Result<Vec<u8>, TrainError>,
    ) -> Result<MetricsLog, TrainError> {
        let path = run_dir.join(METRICS_FILE);
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(TrainError::io("open", &path))?;
        let kept = keep(&path)?.len() as u64;
        file.set_len(kept)
            .and_then(|()| file.seek(SeekFrom::Start(kept)))
            .map_err(TrainError::io("write", &path))?;
        let line = Vec::with_capacity(512);
        let kept_evaluations = Vec::new();
        Ok(MetricsLog { file, path, line, last_evaluation: None, kept_evaluations })
    }

    /// Updates done before the last evaluation in the log.
    pub fn last_evaluation(&self) -> Option<u64> {
        self.last_evaluation
    }

    /// Updates and losses of the evaluations that a resumed log kept.
    pub fn kept_evaluations(&self) -> &[(u64, f64)] {
        &self.kept_evaluations
    }

    /// Logs a jump in an update; it comes before the update's own record.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn spike(&mut self, step: u64, spike: &Spike) -> Result<(), TrainError> {
        self.append(&SpikeRecord {
            kind: "spike",
            step,
            quantity: spike.quantity.field(),
            value: spike.value,
            mean: spike.mean,
            standard_deviation: spike.standard_deviation,
            z_score: spike.z_score,
        })
    }

    /// Logs what was done about an update that was not finite. `restarts_at` is the update of the checkpoint that the run
    /// returns to, `None` if it skips the update; the record belongs to the first update that follows in the log.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn non_finite(
        &mut self,
        update: &NonFiniteUpdate,
        restarts_at: Option<u64>,
    ) -> Result<(), TrainError> {
        self.append(&NonFiniteRecord {
            kind: "non_finite",
            step: restarts_at.map_or(update.step, |step| step + 1),
            action: if restarts_at.is_some() { "rollback" } else { "skip" },
            what: update.what.name(),
            parameter: update.parameter.as_deref(),
            parameters: update.parameters.0,
            at_step: update.step,
            rows: update.rows,
            restarts_at,
        })
    }

    /// Logs an update; `tokens` counts all updates so far.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn train(
        &mut self,
        report: &StepReport,
        tokens: u64,
        tokens_per_second: f64,
    ) -> Result<(), TrainError> {
        self.append(&TrainRecord {
            kind: "train",
            step: report.step,
            loss: report.loss,
            learning_rate: report.learning_rate,
            grad_norm: report.gradient_norm,
            tokens,
            tokens_per_second,
        })
    }

    /// Logs an evaluation after `step` updates with `tokens` labels.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn evaluation(
        &mut self,
        step: u64,
        tokens: u64,
        report: &EvaluationReport,
    ) -> Result<(), TrainError> {
        self.last_evaluation = Some(step);
        self.append(&EvaluationRecord {
            kind: "evaluation",
            step,
            loss: report.loss,
            perplexity: report.perplexity,
            perplexity_reference_compatible: report.perplexity_reference_compatible,
            bits_per_byte: report.bits_per_byte,
            tokens,
            evaluated_tokens: report.tokens,
        })
    }

    /// Brings the log to the disk.
    ///
    /// # Errors
    ///
    /// If the operating system cannot.
    pub fn sync(&mut self) -> Result<(), TrainError> {
        self.file.sync_data().map_err(TrainError::io("sync", &self.path))
    }

    /// One `write` for a whole line, so that a reader that follows the log sees no half records.
    fn append(&mut self, record: &impl Serialize) -> Result<(), TrainError> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, record)
            .expect("numbers and names always have a JSON form");
        self.line.push(b'\n');
        self.file.write_all(&self.line).map_err(TrainError::io("write", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(step: u64, loss: Option<f64>) -> StepReport {
        StepReport { step, loss, gradient_norm: loss.map(|_| 0.5), learning_rate: 0.25, tokens: 7 }
    }

    fn evaluation() -> EvaluationReport {
        EvaluationReport {
            loss: 1.5,
            perplexity: 4.5,
            perplexity_reference_compatible: f64::INFINITY,
            bits_per_byte: None,
            tokens: 99,
            rows: 3,
        }
    }

    fn read(directory: &Path) -> String {
        std::fs::read_to_string(directory.join(METRICS_FILE)).unwrap()
    }

    #[test]
    fn records_have_the_documented_fields() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::create(directory.path()).unwrap();
        log.train(&update(1, Some(2.0)), 7, 1000.5).unwrap();
        log.train(&update(2, None), 7, 0.0).unwrap();
        log.evaluation(2, 7, &evaluation()).unwrap();
        let expected = [
            r#"{"kind":"train","step":1,"loss":2.0,"learning_rate":0.25,"grad_norm":0.5,"tokens":7,"tokens_per_second":1000.5}"#,
            r#"{"kind":"train","step":2,"loss":null,"learning_rate":0.25,"grad_norm":null,"tokens":7,"tokens_per_second":0.0}"#,
            r#"{"kind":"evaluation","step":2,"loss":1.5,"perplexity":4.5,"perplexity_reference_compatible":null,"bits_per_byte":null,"tokens":7,"evaluated_tokens":99}"#,
        ];
        assert_eq!(read(directory.path()).lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_resumed_log_repeats_no_update() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::create(directory.path()).unwrap();
        for step in 1..=4 {
            log.train(&update(step, Some(2.0)), 7 * step, 1.0).unwrap();
            if step % 2 == 0 {
                log.evaluation(step, 7 * step, &evaluation()).unwrap();
            }
        }
        let whole = read(directory.path());
        let mut log = MetricsLog::resume(directory.path(), 3).unwrap();
        assert_eq!(log.last_evaluation(), Some(2));
        assert_eq!(read(directory.path()).lines().count(), 4);
        log.train(&update(4, Some(2.0)), 28, 1.0).unwrap();
        log.evaluation(4, 28, &evaluation()).unwrap();
        assert_eq!(read(directory.path()), whole);
        assert_eq!(MetricsLog::resume(directory.path(), 4).unwrap().last_evaluation(), Some(4));
        assert_eq!(read(directory.path()), whole);
    }

    #[test]
    fn what_a_crash_leaves_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::create(directory.path()).unwrap();
        log.train(&update(1, Some(2.0)), 7, 1.0).unwrap();
        let good = read(directory.path());
        for tail in [
            "{\"kind\":\"train\",\"step\":2",
            "\0\0\0\0\n",
            "{\"kind\":\"train\",\"step\":2}",
            "\n",
            "\u{1f}",
        ] {
            std::fs::write(directory.path().join(METRICS_FILE), format!("{good}{tail}")).unwrap();
            MetricsLog::resume(directory.path(), 9).unwrap();
            assert_eq!(read(directory.path()), good, "{tail:?}");
        }
        std::fs::remove_file(directory.path().join(METRICS_FILE)).unwrap();
        MetricsLog::resume(directory.path(), 9).unwrap();
        assert_eq!(read(directory.path()), "");
    }
}
