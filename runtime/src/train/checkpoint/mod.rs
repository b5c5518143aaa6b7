//! The state of a run on disk.
//!
//! A checkpoint is a folder `checkpoints/step-NNNNNN` of the run folder, named by the number of updates done. It is
//! written beside under a hidden name, brought to the disk file by file, and renamed: it is there whole or not at all.
//!
//! - `model.safetensors`: the parameters under their checkpoint names and in their checkpoint orientation,
//! - `optimizer.safetensors`: `first_moment.NAME` and `second_moment.NAME` for every parameter, in the orientation of
//!   the model file, and `step`, the number of updates applied (those skipped for want of labels not counted),
//! - `config.json`: the model's configuration as the plan states it,
//! - `tokenizer.json`: if the run has one,
//! - `state.json`: everything else that a run needs to go on, and the BLAKE3 hash of each other file ([`state`]).
//!
//! Nothing in a checkpoint depends on time or on the machine's speed: equal runs leave equal bytes.
//!
//! Owns names, files and checks. Must not know when checkpoints are due.

mod layout;
pub mod load;
pub mod save;
pub mod state;
pub(crate) mod tensor_file;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::train::error::CheckpointError;

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
/// File of the run's state and the hashes of the other files.
pub const STATE_FILE: &str = "state.json";

/// Asked before each access that changes the disk; tests refuse one after the other.
pub(crate) type Gate<'a> = &'a mut dyn FnMut(&Path) -> io::Result<()>;

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

/// Removes what a run that was killed left half written or half deleted. Call it only while holding the run's lock.
///
/// # Errors
///
/// If something cannot be removed.
pub fn clean(run_dir: &Path) -> Result<(), CheckpointError> {
    for path in entries(&run_dir.join(CHECKPOINTS))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(".step-") && name.ends_with(".partial") {
            fs::remove_dir_all(&path).map_err(CheckpointError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Deletes the oldest checkpoints but for the newest `keep`; 0 keeps all.
///
/// # Errors
///
/// If a checkpoint cannot be deleted.
pub fn retain(run_dir: &Path, keep: u32) -> Result<(), CheckpointError> {
    retain_through(run_dir, keep, &mut |_| Ok(()))
}

fn retain_through(run_dir: &Path, keep: u32, gate: Gate<'_>) -> Result<(), CheckpointError> {
    if keep == 0 {
        return Ok(());
    }
    let checkpoints = list(run_dir)?;
    let surplus = checkpoints.len().saturating_sub(keep as usize);
    for (step, path) in &checkpoints[..surplus] {
        // Hidden first, so that a crash in between leaves no folder that looks whole and is not.
        let hidden = partial_path(run_dir, *step);
        gate(path)
            .and_then(|()| fs::rename(path, &hidden))
            .map_err(CheckpointError::io("delete", path))?;
        gate(&hidden)
            .and_then(|()| fs::remove_dir_all(&hidden))
            .map_err(CheckpointError::io("delete", &hidden))?;
    }
    Ok(())
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
fn sync_directory(directory: &Path) -> Result<(), CheckpointError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(CheckpointError::io("sync", directory))
}
