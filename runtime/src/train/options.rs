//! What a run is asked to do beyond its plan, and what it says at the end.
//!
//! Owns the arguments and the result of [`crate::train::run::train`]. Must not know the command line.

use std::path::PathBuf;
use std::time::Instant;

use crate::train::evaluate::EvaluationReport;
use crate::train::rows::{TrainingRows, ValidationRows};

/// How a run starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// From the start values that the plan states.
    Fresh,
    /// From weights in a checkpoint folder or a safetensors file, with fresh optimizer state, at update 0.
    Weights(PathBuf),
    /// From the newest checkpoint of the run folder.
    Resume,
}

/// Where a run lies and how far it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The run folder; it is made if it does not exist.
    pub run_dir: PathBuf,
    /// How the run starts.
    pub start: Start,
    /// Number of updates after which to stop, counted from the beginning of the run, before the schedule's horizon.
    /// The schedule does not change. `None` goes to the horizon; a number beyond it does too.
    pub stop_at: Option<u64>,
    /// When the run must be over. It stops, saved, before an update after which there might not be time to save.
    pub deadline: Option<Instant>,
    /// Whether the log is also written for TensorBoard.
    pub tensorboard: bool,
    /// The text of the `tokenizer.json` that goes into every checkpoint.
    pub tokenizer_json: Option<String>,
}

/// The rows of a run.
pub struct Rows<'a> {
    /// Rows to train on.
    pub training: &'a mut dyn TrainingRows,
    /// Rows to evaluate on; without them nothing is evaluated.
    pub validation: Option<&'a mut dyn ValidationRows>,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The schedule's horizon is reached.
    Finished,
    /// [`Options::stop_at`] is reached.
    Stopped,
    /// The stop flag was set; the update in progress was finished and saved.
    Interrupted,
    /// [`Options::deadline`] leaves no time for another update.
    OutOfTime,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Why.
    pub outcome: Outcome,
    /// Updates since the beginning of the run, those before a resume included.
    pub step: u64,
    /// Positions with a label in all of them.
    pub tokens: u64,
    /// Update that this call continued from: 0 for a run that did not resume.
    pub started_at: u64,
    /// Mean loss of the last global batch in nats per token, if this call did an update.
    pub loss: Option<f64>,
    /// Updates skipped because they were not finite, those before a resume included.
    pub skipped: u64,
    /// Returns to a checkpoint for the same reason.
    pub rollbacks: u64,
    /// The evaluation of the final weights; `None` without validation rows, or when interrupted or out of time.
    pub evaluation: Option<EvaluationReport>,
    /// The checkpoint that holds the final state.
    pub checkpoint: PathBuf,
}
