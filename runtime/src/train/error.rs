//! What can go wrong in a run.
//!
//! Owns the error types of this module tree; every message is one line that says where and, where there is one, the way
//! out. Must not know who prints it.

use std::io;
use std::path::{Path, PathBuf};

use crate::data::error::DataError;

/// An error of a run.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Rows could not be read.
    #[error(transparent)]
    Data(#[from] DataError),

    /// A checkpoint could not be written or read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),

    /// The operating system refused to read or write something in the run folder.
    #[error("cannot {action} {}: {cause}", .path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or folder it was attempted on.
        path: PathBuf,
        /// The operating system's reason.
        cause: io::Error,
    },

    /// The global batch cannot be made of micro-batches.
    #[error(
        "the global batch of {global_batch} rows is not a positive multiple of the micro-batch of {micro_batch}"
    )]
    BatchSizes {
        /// Rows in a global batch.
        global_batch: u32,
        /// Rows in a micro-batch.
        micro_batch: u32,
    },

    /// A setting of the recipe is zero where something must be there.
    #[error("the recipe's {setting} must be at least 1")]
    ZeroSetting {
        /// Its name.
        setting: &'static str,
    },

    /// Another process works in the run folder.
    #[error(
        "{} is in use by another run (process {process}): wait for it to end, or train into another folder",
        .run_dir.display()
    )]
    InUse {
        /// The run folder.
        run_dir: PathBuf,
        /// Its number as far as it is known.
        process: String,
    },

    /// A fresh run was asked for in a folder that holds one.
    #[error(
        "{} already holds a run, saved after update {step}: resume it, or train into another folder",
        .run_dir.display()
    )]
    NotFresh {
        /// The run folder.
        run_dir: PathBuf,
        /// Update of its newest checkpoint.
        step: u64,
    },

    /// The run was trained on other rows.
    #[error(
        "{} was trained on other data ({expected}; now: {found}): resume with the same data, or start a new run",
        .checkpoint.display()
    )]
    DifferentData {
        /// The checkpoint.
        checkpoint: PathBuf,
        /// Identity of the rows in the checkpoint.
        expected: String,
        /// Identity of the rows given.
        found: String,
    },

    /// Loss or gradient is infinite or not a number. Nothing was saved; a non-finite gradient was not applied either.
    #[error(
        "update {step}: the {what} is not finite (loss {loss}, gradient norm {gradient_norm}); training stops and nothing is \
         saved over the earlier checkpoints: lower the learning rate, lengthen the warm-up or tighten clipping"
    )]
    NotFinite {
        /// The update, counted from 1.
        step: u64,
        /// `gradient` or `loss`.
        what: &'static str,
        /// Mean loss of the global batch in nats per token.
        loss: f64,
        /// Norm of the gradient before clipping.
        gradient_norm: f32,
    },

    /// The validation rows have nothing to predict.
    #[error("the validation data has no rows with labels: give more text, or none at all")]
    NothingToEvaluate,
}

impl TrainError {
    /// Closure for `map_err` that wraps an error of the operating system.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Io { action, path: path.to_owned(), cause }
    }
}

/// An error of writing or reading a checkpoint, or a file of weights.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused to read or write something.
    #[error("cannot {action} {}: {cause}", .path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or folder it was attempted on.
        path: PathBuf,
        /// The operating system's reason.
        cause: io::Error,
    },

    /// A run folder has no checkpoint.
    #[error("no checkpoint in {}: it holds no folder checkpoints/step-NNNNNN", .run_dir.display())]
    NoCheckpoint {
        /// The run folder.
        run_dir: PathBuf,
    },

    /// There already is a checkpoint for this update.
    #[error("{} already exists and is not overwritten", .path.display())]
    Exists {
        /// The checkpoint.
        path: PathBuf,
    },

    /// A file is cut, changed, or not what its name says.
    #[error("{} is damaged ({reason}): use another copy of it, or an earlier checkpoint", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },

    /// A checkpoint of a newer program.
    #[error("{} has checkpoint format {found}, and this program reads format {supported}: update colac", .path.display())]
    Newer {
        /// The state file.
        path: PathBuf,
        /// Its format version.
        found: u64,
        /// The newest format version this program reads.
        supported: u64,
    },

    /// The weights are of another model.
    #[error("{} holds another model: {difference}", .path.display())]
    DifferentModel {
        /// The file or folder.
        path: PathBuf,
        /// The first thing that differs.
        difference: String,
    },

    /// The model is the same, but the run is not.
    #[error(
        "{} belongs to a run with another recipe or other programs (numerics {found}, the plan's {expected}): resume with the \
         plan it was trained with; evaluating and generating work with any plan of the model",
        .path.display()
    )]
    DifferentNumerics {
        /// The checkpoint.
        path: PathBuf,
        /// Numerics hash of the plan.
        expected: String,
        /// Numerics hash in the checkpoint.
        found: String,
    },
}

impl CheckpointError {
    /// Closure for `map_err` that wraps an error of the operating system.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Io { action, path: path.to_owned(), cause }
    }

    /// A file whose content fails a check.
    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), reason: reason.into() }
    }
}
