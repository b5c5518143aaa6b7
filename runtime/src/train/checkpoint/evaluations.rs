//! `checkpoints/evaluations.json`: the validation losses of the checkpoints, and which of them is the best.
//!
//! Owns the file. It is an index, replaced whole or not at all, and can be made again from the log: a missing or damaged
//! one is an empty one. Must not know when a model is evaluated or which checkpoints stay.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::train::checkpoint::{CHECKPOINTS, list, sync};
use crate::train::error::CheckpointError;
use crate::train::file_system::FileSystem;

/// Name of the index in the folder of the checkpoints.
pub const EVALUATIONS_FILE: &str = "evaluations.json";

/// Where it lies while it is not whole.
pub(super) const PARTIAL_FILE: &str = ".evaluations.json.partial";

/// Version of the index's format.
const FORMAT_VERSION: u64 = 1;

/// Validation losses by the number of updates after which they were found.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Evaluations(BTreeMap<u64, f64>);

#[derive(Serialize, Deserialize)]
struct File {
    format: u64,
    /// Folder of the checkpoint with the lowest loss.
    best: Option<String>,
    evaluations: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    step: u64,
    /// In nats per token.
    loss: f64,
}

impl Evaluations {
    /// The index of a run folder.
    pub(crate) fn read(run_dir: &Path) -> Evaluations {
        let read = fs::read(run_dir.join(CHECKPOINTS).join(EVALUATIONS_FILE)).ok();
        let file = read.and_then(|bytes| serde_json::from_slice::<File>(&bytes).ok());
        let entries =
            file.filter(|file| file.format == FORMAT_VERSION).map(|file| file.evaluations);
        let mut evaluations = Evaluations::default();
        for Entry { step, loss } in entries.into_iter().flatten() {
            evaluations.record(step, loss);
        }
        evaluations
    }

    /// Remembers a loss. One that is not finite says nothing and is forgotten.
    pub(crate) fn record(&mut self, step: u64, loss: f64) {
        if loss.is_finite() {
            self.0.insert(step, loss);
        }
    }

    /// Forgets what was found after more than `step` updates.
    pub(crate) fn forget_after(&mut self, step: u64) {
        self.0.retain(|&found, _| found <= step);
    }

    /// Those of the given updates that were evaluated, lowest loss first, of equal ones the earlier first.
    pub(crate) fn ranked(&self, steps: &[u64]) -> Vec<u64> {
        let mut found: Vec<(u64, f64)> =
            steps.iter().filter_map(|step| Some((*step, *self.0.get(step)?))).collect();
        found.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        found.into_iter().map(|(step, _)| step).collect()
    }

    /// Replaces the index of a run folder by this one, as far as it is about checkpoints that are there.
    pub(crate) fn write(
        &self,
        disk: &dyn FileSystem,
        run_dir: &Path,
    ) -> Result<(), CheckpointError> {
        let checkpoints = list(run_dir)?;
        let steps: Vec<u64> = checkpoints.iter().map(|(step, _)| *step).collect();
        let name = |step: u64| {
            let path =
                checkpoints.iter().find(|(found, _)| *found == step).map(|(_, path)| path)?;
            Some(path.file_name()?.to_string_lossy().into_owned())
        };
        let file = File {
            format: FORMAT_VERSION,
            best: self.ranked(&steps).first().and_then(|&best| name(best)),
            evaluations: self
                .0
                .iter()
                .filter(|(step, _)| steps.contains(step))
                .map(|(&step, &loss)| Entry { step, loss })
                .collect(),
        };
        let text = serde_json::to_string_pretty(&file).expect("numbers and names have a JSON form");
        let directory = run_dir.join(CHECKPOINTS);
        let (path, partial) = (directory.join(EVALUATIONS_FILE), directory.join(PARTIAL_FILE));
        let written = disk
            .create_file(&partial)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.write_all(b"\n")?;
                file.sync()
            })
            .and_then(|()| disk.rename(&partial, &path))
            .map_err(CheckpointError::io("write", &path));
        if written.is_err() {
            // The error to report is the one that led here; what stays is removed when the run starts again.
            let _ = disk.remove_file(&partial);
        }
        written?;
        sync(disk, &directory)
    }
}

/// The checkpoint of a run folder with the lowest validation loss.
///
/// # Errors
///
/// [`CheckpointError::NoCheckpoint`] if there is none, [`CheckpointError::NotEvaluated`] if the model was not evaluated
/// at any, or the folder cannot be read.
pub fn best(run_dir: &Path) -> Result<PathBuf, CheckpointError> {
    let mut checkpoints = list(run_dir)?;
    if checkpoints.is_empty() {
        return Err(CheckpointError::NoCheckpoint { run_dir: run_dir.to_owned() });
    }
    let steps: Vec<u64> = checkpoints.iter().map(|(step, _)| *step).collect();
    let best = Evaluations::read(run_dir).ranked(&steps).first().copied();
    let place = best.and_then(|best| checkpoints.iter().position(|(step, _)| *step == best));
    match place {
        Some(place) => Ok(checkpoints.swap_remove(place).1),
        None => Err(CheckpointError::NotEvaluated { run_dir: run_dir.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::file_system::Disk;

    #[test]
    fn the_lowest_loss_is_the_best_and_the_earlier_of_equals() {
        let mut evaluations = Evaluations::default();
        for (step, loss) in [(1, 3.0), (2, 2.0), (3, 2.0), (4, f64::NAN), (5, f64::INFINITY)] {
            evaluations.record(step, loss);
        }
        assert_eq!(evaluations.ranked(&[1, 2, 3, 4, 5, 6]), [2, 3, 1]);
        assert_eq!(evaluations.ranked(&[1, 3]), [3, 1]);
        evaluations.forget_after(1);
        assert_eq!(evaluations.ranked(&[1, 2, 3]), [1]);
    }

    #[test]
    fn the_index_is_about_checkpoints_that_are_there() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path();
        assert!(matches!(best(run_dir), Err(CheckpointError::NoCheckpoint { .. })));
        for step in [10, 20, 30] {
            fs::create_dir_all(run_dir.join(format!("checkpoints/step-{step:06}"))).unwrap();
        }
        assert!(matches!(best(run_dir), Err(CheckpointError::NotEvaluated { .. })));
        let mut evaluations = Evaluations::default();
        for (step, loss) in [(10, 3.25), (20, 2.5), (25, 1.0), (30, 2.75)] {
            evaluations.record(step, loss);
        }
        evaluations.write(&Disk, run_dir).unwrap();
        assert_eq!(best(run_dir).unwrap(), run_dir.join("checkpoints/step-000020"));
        let path = run_dir.join("checkpoints/evaluations.json");
        let text: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(text["best"], "step-000020");
        assert_eq!(text["evaluations"].as_array().unwrap().len(), 3);
        // Deleted by hand: the next best.
        fs::remove_dir(run_dir.join("checkpoints/step-000020")).unwrap();
        assert_eq!(best(run_dir).unwrap(), run_dir.join("checkpoints/step-000030"));
        fs::write(&path, "{\"format\": 1, \"best\"").unwrap();
        assert_eq!(Evaluations::read(run_dir), Evaluations::default());
    }
}
