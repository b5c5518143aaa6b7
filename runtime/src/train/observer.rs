//! How a run tells what it is doing while it does it.
//!
//! Owns the interface for progress. Must not know who shows it: the library prints nothing.

use std::path::Path;
use std::time::Duration;

use crate::train::error::CheckpointError;
use crate::train::evaluate::EvaluationReport;
use crate::train::non_finite::NonFiniteUpdate;
use crate::train::spikes::Spike;
use crate::train::trainer::StepReport;

/// Where a run begins and where it will end.
#[derive(Clone, Debug, PartialEq)]
pub struct Begin {
    /// Updates already done: not 0 after a resume.
    pub step: u64,
    /// Updates after which this call stops.
    pub stop_at: u64,
    /// The schedule's horizon in updates.
    pub horizon: u64,
    /// Positions with a label seen so far.
    pub tokens: u64,
}

/// One update.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress<'a> {
    /// What the update did.
    pub report: &'a StepReport,
    /// Positions with a label seen so far, this update included.
    pub tokens: u64,
    /// Time this update took.
    pub elapsed: Duration,
    /// Positions with a label per second of this update.
    pub tokens_per_second: f64,
}

/// Is told what a run does. Every method has an empty default.
pub trait Observer {
    /// Weights are in place, the first update follows.
    fn begin(&mut self, begin: &Begin) {
        let _ = begin;
    }

    /// An update is done. One whose batch had no labels changed nothing: its loss is `None`.
    fn step(&mut self, progress: &Progress<'_>) {
        let _ = progress;
    }

    /// An evaluation begins and will take a while.
    fn evaluating(&mut self, step: u64) {
        let _ = step;
    }

    /// An evaluation is done.
    fn evaluated(&mut self, step: u64, report: &EvaluationReport) {
        let _ = (step, report);
    }

    /// The loss or the gradient norm of an update jumped.
    fn spike(&mut self, step: u64, spike: &Spike) {
        let _ = (step, spike);
    }

    /// An update was not finite and is skipped; or, with a checkpoint, the run returns to it.
    fn not_finite(&mut self, update: &NonFiniteUpdate, returns_to: Option<&Path>) {
        let _ = (update, returns_to);
    }

    /// A damaged checkpoint was put aside, and the run goes on from an earlier one.
    fn set_aside(&mut self, damage: &CheckpointError, aside: &Path) {
        let _ = (damage, aside);
    }

    /// A checkpoint is on the disk, whole.
    fn saved(&mut self, step: u64, checkpoint: &Path) {
        let _ = (step, checkpoint);
    }
}

/// Ignores everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}
