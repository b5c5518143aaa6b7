//! The state of a run on disk.
//!
//! A checkpoint is a folder `checkpoints/step-NNNNNN` of the run folder, named by the number of updates done. It is
//! written beside under a hidden name, brought to the disk file by file, and renamed: it is there whole or not at all.
//!
//! - `model.safetensors`: the parameters under their checkpoint names and in their checkpoint orientation; where the
//!   optimizer keeps f32 masters of bf16 parameters, the masters, from which the copies follow by rounding,
//! - `optimizer.safetensors`: `first_moment.NAME` and `second_moment.NAME` for every parameter, in the orientation of
//!   the model file, and `step`, the number of updates applied (those skipped for want of labels not counted),
//! - `config.json`: the model's configuration as the plan states it,
//! - `tokenizer.json`: if the run has one,
//! - `state.json`: everything else that a run needs to go on, and the BLAKE3 hash of each other file ([`state`]).
//!
//! Nothing in a checkpoint depends on time or on the machine's speed: equal runs leave equal bytes.
//!
//! Beside them lies `evaluations.json` ([`evaluations`]), which names the best. The disk is changed through
//! `train::file_system` alone.
//!
//! Owns names, files and checks. Must not know when checkpoints are due.

pub mod evaluations;
mod layout;
pub mod load;
pub(crate) mod retain;
pub mod save;
pub mod state;
pub(crate) mod tensor_file;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use colac_plan::Plan;

use crate::train::error::CheckpointError;
use crate::train::file_system::{Disk, FileSystem, remove_tree};

pub use evaluations::best;
pub use load::{load_weights, resume};
pub use save::save;
pub use state::State;

/// Folder of the checkpoints in a run folder.
pub const CHECKPOINTS: &str = "checkpoints";
/// File of the parameters.
pub const MODEL_FILE: &str = "model.safetensors";
/// File of the moments.
pub const OPTIMIZER_FILE: &str = "optimizer.safetensors";
/// File of the model's configuration.
pub const CONFIG_FILE: &str = "config.json";
/// File of the tokenizer.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// File of what a GPU chose ([`crate::executor::Executor::choices`]), in a checkpoint and in the folder of a run.
pub const CHOICES_FILE: &str = "cuda-products.json";
/// File of the run's state and the hashes of the other files.
pub const STATE_FILE: &str = "state.json";

/// The checkpoints of a run folder, oldest first, with the number of updates of each.
///
/// # Errors
///
/// If the folder cannot be read. A run folder without checkpoints has none.
pub fn list(run_dir: &Path) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
    let directory = run_dir.join(CHECKPOINTS);
    let mut found = Vec::new();
    for path in entries(&directory)? {
        if let Some(step) = step_of(&path)
            && path.is_dir()
        {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The number of updates that a checkpoint's name states; `None` if it is not a checkpoint's name.
pub fn step_of(checkpoint: &Path) -> Option<u64> {
    let name = checkpoint.file_name()?.to_str()?;
    let digits = name.strip_prefix("step-")?;
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// The newest checkpoint of a run folder.
///
/// # Errors
///
/// [`CheckpointError::NoCheckpoint`] if there is none, or the folder cannot be read.
pub fn latest(run_dir: &Path) -> Result<PathBuf, CheckpointError> {
    let newest = list(run_dir)?.pop();
    newest
        .map(|(_, path)| path)
        .ok_or_else(|| CheckpointError::NoCheckpoint { run_dir: run_dir.to_owned() })
}

/// Where a run's folder has lost what a GPU chose, takes it from the newest checkpoint: only with the same choices does
/// the run go on bit for bit.
///
/// # Errors
///
/// If the file cannot be copied.
pub fn restore_choices(run_dir: &Path) -> Result<(), CheckpointError> {
    let own = run_dir.join(CHOICES_FILE);
    let Some((_, newest)) = list(run_dir)?.pop().filter(|_| !own.exists()) else { return Ok(()) };
    let kept = newest.join(CHOICES_FILE);
    if kept.is_file() {
        fs::copy(&kept, &own).map_err(CheckpointError::io("copy", &kept))?;
    }
    Ok(())
}

/// Removes what a run that was killed left half written or half deleted. Call it only while holding the run's lock.
///
/// # Errors
///
/// If something cannot be removed.
pub fn clean(run_dir: &Path) -> Result<(), CheckpointError> {
    for path in entries(&run_dir.join(CHECKPOINTS))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let removed = match () {
            () if name.starts_with(".step-") && name.ends_with(".partial") => {
                remove_tree(&Disk, &path)
            }
            () if name == evaluations::PARTIAL_FILE => Disk.remove_file(&path),
            () => Ok(()),
        };
        removed.map_err(CheckpointError::io("remove", &path))?;
    }
    Ok(())
}

/// Puts a damaged checkpoint out of the way under another name, which it returns: the run can then save that update
/// again, and the user can still look at what is left.
pub(crate) fn set_aside(checkpoint: &Path) -> Result<PathBuf, CheckpointError> {
    let name = checkpoint.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for number in 1_u64.. {
        let aside = checkpoint.with_file_name(format!("{name}.damaged-{number}"));
        if !aside.exists() {
            Disk.rename(checkpoint, &aside).map_err(CheckpointError::io("rename", checkpoint))?;
            if let Some(directory) = checkpoint.parent() {
                sync(&Disk, directory)?;
            }
            return Ok(aside);
        }
    }
    unreachable!("a folder cannot hold an entry for every number")
}

/// Bytes of the tensors of a checkpoint: what it takes on a disk but for a few kilobytes and the tokenizer.
pub fn bytes(plan: &Plan) -> u64 {
    let moment = |id| plan.tensor(id).ty.dtype.bytes();
    let moments = moment(plan.roles.first_moment) + moment(plan.roles.second_moment);
    let parameters = plan.parameters.iter().map(|parameter| &plan.tensor(parameter.kept()).ty);
    parameters.map(|ty| ty.shape.elements() * (ty.dtype.bytes() + moments)).sum()
}

/// Where the checkpoint of an update lies.
fn checkpoint_path(run_dir: &Path, step: u64) -> PathBuf {
    run_dir.join(CHECKPOINTS).join(format!("step-{step:06}"))
}

/// Where it lies while it is not whole.
fn partial_path(run_dir: &Path, step: u64) -> PathBuf {
    run_dir.join(CHECKPOINTS).join(format!(".step-{step:06}.partial"))
}

/// What lies in a folder; nothing if there is no such folder.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .map_err(CheckpointError::io("read", directory)),
    }
}

/// Brings the names in a folder to the disk.
fn sync(disk: &dyn FileSystem, directory: &Path) -> Result<(), CheckpointError> {
    disk.sync_directory(directory).map_err(CheckpointError::io("sync", directory))
}
