//! Which checkpoints stay.
//!
//! Owns the choice and the deletion. Must not know when a run saves.
//!
//! A checkpoint is hidden by another name, and that name is on the disk, before any of its files goes: a crash in between
//! leaves no folder that looks like a checkpoint and is not. The newest checkpoint is never deleted.

use std::path::Path;

use colac_plan::recipe::{Checkpoint, NonFinitePolicy, Recipe};

use crate::train::checkpoint::evaluations::Evaluations;
use crate::train::checkpoint::{CHECKPOINTS, list, partial_path, sync};
use crate::train::error::CheckpointError;
use crate::train::file_system::{FileSystem, remove_tree};

/// Which checkpoints of a run stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    /// The newest so many; 0 for all.
    pub(crate) keep: u32,
    /// Multiples of so many updates; 0 for none.
    pub(crate) keep_every: u64,
    /// The best so many by validation loss.
    pub(crate) keep_best: u32,
    /// The newest that is a multiple of so many updates, because the run may roll back to it; 0 for none.
    pub(crate) regular: u64,
}

impl Retention {
    /// As a recipe says.
    pub(crate) fn of(recipe: &Recipe) -> Retention {
        let Checkpoint { every, keep, keep_every, keep_best } = recipe.checkpoint;
        let rolls_back = recipe.non_finite.policy == NonFinitePolicy::Rollback;
        Retention { keep, keep_every, keep_best, regular: if rolls_back { every } else { 0 } }
    }

    /// Those of the given updates, in ascending order, whose checkpoints go.
    fn surplus(&self, steps: &[u64], evaluations: &Evaluations) -> Vec<u64> {
        if self.keep == 0 {
            return Vec::new();
        }
        let best = evaluations.ranked(steps);
        let best = &best[..best.len().min(self.keep_best as usize)];
        let regular = steps.iter().rev().copied().find(|&step| is_regular(step, self.regular));
        let (older, _newest) = steps.split_at(steps.len().saturating_sub(self.keep as usize));
        let stays = |step: u64| {
            is_regular(step, self.keep_every) || best.contains(&step) || regular == Some(step)
        };
        older.iter().copied().filter(|&step| !stays(step)).collect()
    }
}

/// Whether a checkpoint after `step` updates is one that comes every `every` updates.
pub(crate) fn is_regular(step: u64, every: u64) -> bool {
    every != 0 && step != 0 && step.is_multiple_of(every)
}

/// Deletes the checkpoints of a run folder that do not stay.
///
/// # Errors
///
/// If a checkpoint cannot be deleted.
pub(crate) fn retain(
    disk: &dyn FileSystem,
    run_dir: &Path,
    retention: &Retention,
    evaluations: &Evaluations,
) -> Result<(), CheckpointError> {
    let steps: Vec<u64> = list(run_dir)?.into_iter().map(|(step, _)| step).collect();
    delete(disk, run_dir, &retention.surplus(&steps, evaluations))
}

/// Deletes the checkpoints after more than `step` updates, from which a run has turned away.
///
/// # Errors
///
/// If a checkpoint cannot be deleted.
pub(crate) fn discard_after(
    disk: &dyn FileSystem,
    run_dir: &Path,
    step: u64,
) -> Result<(), CheckpointError> {
    let steps = list(run_dir)?.into_iter().map(|(found, _)| found);
    // The newest first, so that a crash in between leaves the run with a state that it had.
    let later: Vec<u64> = steps.rev().filter(|&found| found > step).collect();
    delete(disk, run_dir, &later)
}

fn delete(disk: &dyn FileSystem, run_dir: &Path, steps: &[u64]) -> Result<(), CheckpointError> {
    let checkpoints = list(run_dir)?;
    for &step in steps {
        let Some((_, path)) = checkpoints.iter().find(|(found, _)| *found == step) else {
            continue;
        };
        let hidden = partial_path(run_dir, step);
        disk.rename(path, &hidden).map_err(CheckpointError::io("delete", path))?;
        sync(disk, &run_dir.join(CHECKPOINTS))?;
        remove_tree(disk, &hidden).map_err(CheckpointError::io("delete", &hidden))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surplus(retention: Retention, steps: &[u64], losses: &[(u64, f64)]) -> Vec<u64> {
        let mut evaluations = Evaluations::default();
        for &(step, loss) in losses {
            evaluations.record(step, loss);
        }
        retention.surplus(steps, &evaluations)
    }

    const NEWEST: Retention = Retention { keep: 2, keep_every: 0, keep_best: 0, regular: 0 };

    #[test]
    fn the_newest_stay() {
        assert_eq!(surplus(NEWEST, &[1, 2, 3, 4], &[]), [1, 2]);
        assert!(surplus(NEWEST, &[1, 2], &[]).is_empty());
        assert!(surplus(NEWEST, &[], &[]).is_empty());
        assert!(surplus(Retention { keep: 0, ..NEWEST }, &[1, 2, 3], &[]).is_empty());
    }

    #[test]
    fn multiples_stay_for_good() {
        let retention = Retention { keep: 1, keep_every: 20, ..NEWEST };
        assert_eq!(surplus(retention, &[0, 10, 20, 30, 40, 45, 50], &[]), [0, 10, 30, 45]);
    }

    #[test]
    fn the_best_stay() {
        let losses = [(10, 2.0), (20, 1.5), (30, 1.0), (40, 3.0), (50, 4.0)];
        let steps = [10, 20, 30, 40, 50];
        let best = |keep_best| Retention { keep: 1, keep_best, ..NEWEST };
        assert_eq!(surplus(best(1), &steps, &losses), [10, 20, 40]);
        assert_eq!(surplus(best(2), &steps, &losses), [10, 40]);
        assert!(surplus(best(9), &steps, &losses).is_empty());
        // What was not evaluated is not the best.
        assert_eq!(surplus(best(1), &steps, &losses[..1]), [20, 30, 40]);
        assert_eq!(surplus(best(1), &steps, &[]), [10, 20, 30, 40]);
    }

    #[test]
    fn what_a_run_rolls_back_to_stays() {
        let retention = Retention { keep: 1, regular: 10, ..NEWEST };
        assert_eq!(surplus(retention, &[10, 20, 23, 27], &[]), [10, 23]);
        assert_eq!(surplus(retention, &[3, 7], &[]), [3]);
    }
}
