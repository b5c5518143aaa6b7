//! The folders of runs, `runs/NAME-K`.
//!
//! Owns their names and what the command line keeps in them beside what training does: the plan, the resolved spec and
//! tokenized text; and how such files are replaced. Must not know checkpoints or logs.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use colac_plan::{Plan, file as plan_file};

use crate::shared::failure::Failure;
use crate::shared::files;

/// The plan of a run.
pub(crate) const PLAN_FILE: &str = "plan.bin";
/// The spec of a run with every setting written out.
pub(crate) const SPEC_FILE: &str = "spec.toml";
/// Tokens of the training text, where the run was given text.
pub(crate) const TRAINING_TOKENS: &str = "data/train";
/// Tokens of the validation text.
pub(crate) const VALIDATION_TOKENS: &str = "data/validation";

/// Where runs without `--out` lie.
const RUNS: &str = "runs";

/// The runs of a name, oldest first.
pub(crate) fn existing(name: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(RUNS) else { return Vec::new() };
    let mut runs: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let number = path.file_name()?.to_str()?.strip_prefix(name)?.strip_prefix('-')?;
            let number = number.parse().ok()?;
            path.join(PLAN_FILE).is_file().then_some((number, path))
        })
        .collect();
    runs.sort();
    runs.into_iter().map(|(_, path)| path).collect()
}

/// The folder `runs/NAME-K` that [`create_next`] would make.
pub(crate) fn next(name: &str) -> PathBuf {
    let path = |number: u64| Path::new(RUNS).join(format!("{name}-{number}"));
    (1..)
        .map(path)
        .find(|path| !path.exists())
        .expect("a folder cannot hold an entry for every number")
}

/// Makes the folder `runs/NAME-K` with the lowest K that is free.
pub(crate) fn create_next(name: &str) -> Result<PathBuf, Failure> {
    let runs = Path::new(RUNS);
    files::make_folder(runs)?;
    for number in 1.. {
        let path = runs.join(format!("{name}-{number}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(files::cannot("create", &path, &error)),
        }
    }
    unreachable!("a folder cannot hold an entry for every number")
}

/// Keeps the plan and its resolved spec in a run folder.
pub(crate) fn store_plan(run_dir: &Path, plan: &Plan) -> Result<(), Failure> {
    plan_file::write_to_path(plan, &run_dir.join(PLAN_FILE))?;
    write_atomically(&run_dir.join(SPEC_FILE), plan.origin.resolved_spec.as_bytes())
}

/// Replaces a file whole or not at all, whenever the machine stops.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let partial = path.with_extension("partial");
    let written = File::create(&partial)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&partial, path));
    if let Err(error) = written {
        // The error that matters is the first one.
        let _ = fs::remove_file(&partial);
        return Err(files::cannot("write", path, &error));
    }
    // The new name lasts once its folder is synced; where folders cannot be opened as files there is no such call.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
        folder
            .sync_all()
            .map_err(|error| Failure::line(format!("cannot sync {}: {error}", path.display())))?;
    }
    Ok(())
}
