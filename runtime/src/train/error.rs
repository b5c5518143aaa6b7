//! What can go wrong in a run.
//!
//! Owns the error types of this module tree; every message is one line that says where and, where there is one, the way
//! out. Must not know who prints it.

use std::io;
use std::path::{Path, PathBuf};

use crate::data::error::DataError;
use crate::train::file_system::is_full;
use crate::train::non_finite::NonFiniteUpdate;

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

    /// There is no room for what a run writes.
    #[error(
        "there is no room to write {} ({cause}): make room or raise the limit, then resume the run; its earlier checkpoints \
         are as they were",
        .path.display()
    )]
    Full {
        /// What should have been written.
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

    /// Loss or gradient is infinite or not a number. Nothing was changed and nothing saved.
    #[error(
        "{0}; training stops and nothing is saved over the earlier checkpoints: lower the learning rate, lengthen the \
         warm-up or tighten clipping, or resume the run with `on_non_finite` set to skip or rollback"
    )]
    NotFinite(Box<NonFiniteUpdate>),

    /// As [`TrainError::NotFinite`], at the limit of what the recipe lets pass.
    #[error(
        "{update}; {passed}, which is the recipe's limit: lower the learning rate, lengthen the warm-up or tighten clipping"
    )]
    NotFiniteAgain {
        /// The update.
        update: Box<NonFiniteUpdate>,
        /// What was tried.
        passed: String,
    },

    /// There is no checkpoint to roll back to.
    #[error(
        "{update}; the run should roll back, and it has no regular checkpoint yet: lower the learning rate, lengthen the \
         warm-up or set checkpoint.every lower"
    )]
    NothingToRollBackTo {
        /// The update.
        update: Box<NonFiniteUpdate>,
    },

    /// The validation rows have nothing to predict.
    #[error("the validation data has no rows with labels: give more text, or none at all")]
    NothingToEvaluate,
}

impl TrainError {
    /// Closure for `map_err` that wraps an error of the operating system.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| match is_full(&cause) {
            true => Self::Full { path: path.to_owned(), cause },
            false => Self::Io { action, path: path.to_owned(), cause },
        }
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

    /// There is no room for a checkpoint.
    #[error(
        "there is no room to write {} ({cause}): make room or raise the limit, then resume the run; its earlier checkpoints \
         are as they were",
        .path.display()
    )]
    Full {
        /// What should have been written.
        path: PathBuf,
        /// The operating system's reason.
        cause: io::Error,
    },

    /// The state to be saved has numbers that are infinite or not numbers.
    #[error(
        "nothing is saved: {name} has numbers that are not finite; lower the learning rate, lengthen the warm-up or tighten \
         clipping, and go on from an earlier checkpoint"
    )]
    NotFinite {
        /// The first tensor that has them.
        name: String,
    },

    /// A run folder has no checkpoint at whose step the model was evaluated.
    #[error(
        "no checkpoint in {} is known to be the best: the model was not evaluated at any that is left; name one yourself",
        .run_dir.display()
    )]
    NotEvaluated {
        /// The run folder.
        run_dir: PathBuf,
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
        move |cause| match is_full(&cause) {
            true => Self::Full { path: path.to_owned(), cause },
            false => Self::Io { action, path: path.to_owned(), cause },
        }
    }

    /// Whether it says that a file of a checkpoint is damaged or missing, rather than that it belongs to something else.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Io { cause, .. } => cause.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// A file whose content fails a check.
    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), reason: reason.into() }
    }
}
