//! Writing a checkpoint.
//!
//! Owns the order of writes that makes a checkpoint whole or absent. The tensors of a file, and the parts of the moments
//! that belong to a parameter, pass one by one through buffers: so saving takes as much memory as the largest tensor of a
//! file, twice, beside the executor's own. What is not finite is not saved. Must not know when checkpoints are due.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use colac_plan::{DType, Plan, hash};

use crate::executor::Executor;
use crate::train::checkpoint::layout::{MOMENTS, STEP, items, rows, span};
use crate::train::checkpoint::state::FORMAT_VERSION;
use crate::train::checkpoint::tensor_file::{Entry, TensorWriter};
use crate::train::checkpoint::{
    CHECKPOINTS, CHOICES_FILE, CONFIG_FILE, MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, State,
    TOKENIZER_FILE, checkpoint_path, partial_path, sync,
};
use crate::train::error::CheckpointError;
use crate::train::file_system::{Disk, FileSystem, remove_tree};
use crate::train::non_finite::Recovery;
use crate::train::spikes::SpikeDetector;

/// What a checkpoint says of the run beside the executor's tensors and plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Position {
    /// Updates done.
    pub step: u64,
    /// Positions with a label in all of them.
    pub tokens: u64,
    /// Identity of the training rows.
    pub data: String,
    /// What the run remembers of updates that were not finite.
    pub recovery: Recovery,
    /// Statistics by which jumps are found.
    pub spikes: SpikeDetector,
}

/// Writes the checkpoint of a run folder after `position.step` updates; returns its path. When this returns, the
/// checkpoint is on the disk; when it fails, there is none and older ones are as they were.
///
/// # Errors
///
/// If there already is a checkpoint of this update, or something cannot be written.
pub fn save(
    executor: &dyn Executor,
    run_dir: &Path,
    position: &Position,
    tokenizer_json: Option<&str>,
) -> Result<PathBuf, CheckpointError> {
    // A run's own folder is there already; a caller's may not be.
    std::fs::create_dir_all(run_dir).map_err(CheckpointError::io("create", run_dir))?;
    save_through(&Disk, executor, run_dir, position, tokenizer_json)
}

/// As [`save`], on a disk of one's own.
pub(crate) fn save_through(
    disk: &dyn FileSystem,
    executor: &dyn Executor,
    run_dir: &Path,
    position: &Position,
    tokenizer_json: Option<&str>,
) -> Result<PathBuf, CheckpointError> {
    let written = write(disk, executor, run_dir, position, tokenizer_json);
    if written.is_err() {
        // The error to report is the one that led here; what stays is removed when the run starts again.
        let _ = remove_tree(disk, &partial_path(run_dir, position.step));
    }
    written
}

fn write(
    disk: &dyn FileSystem,
    executor: &dyn Executor,
    run_dir: &Path,
    position: &Position,
    tokenizer_json: Option<&str>,
) -> Result<PathBuf, CheckpointError> {
    let plan = executor.plan();
    let (path, partial) =
        (checkpoint_path(run_dir, position.step), partial_path(run_dir, position.step));
    if path.exists() {
        return Err(CheckpointError::Exists { path });
    }
    let directory = run_dir.join(CHECKPOINTS);
    if !directory.is_dir() {
        disk.create_directory(&directory).map_err(CheckpointError::io("create", &directory))?;
    }
    disk.create_directory(&partial).map_err(CheckpointError::io("create", &partial))?;

    let mut files = BTreeMap::new();
    let mut written =
        |name: &str, hash: blake3::Hash| files.insert(name.to_owned(), hash.to_string());
    written(MODEL_FILE, write_model(disk, executor, &partial.join(MODEL_FILE))?);
    written(OPTIMIZER_FILE, write_optimizer(disk, executor, &partial.join(OPTIMIZER_FILE))?);
    let config = &plan.origin.checkpoint_config;
    written(CONFIG_FILE, write_text(disk, &partial.join(CONFIG_FILE), config)?);
    if let Some(json) = tokenizer_json {
        written(TOKENIZER_FILE, write_text(disk, &partial.join(TOKENIZER_FILE), json)?);
    }
    if let Some(choices) = executor.choices() {
        written(CHOICES_FILE, write_text(disk, &partial.join(CHOICES_FILE), &choices)?);
    }
    let state = state(plan, position, files).to_json();
    write_text(disk, &partial.join(STATE_FILE), &state)?;

    // The files are on the disk; their names follow before the folder gets its own, and that one last.
    sync(disk, &partial)?;
    disk.rename(&partial, &path).map_err(CheckpointError::io("create", &path))?;
    sync(disk, &directory)?;
    sync(disk, run_dir)?;
    Ok(path)
}

fn state(plan: &Plan, position: &Position, files: BTreeMap<String, String>) -> State {
    let mut state = State {
        format: FORMAT_VERSION,
        colac_version: env!("CARGO_PKG_VERSION").to_owned(),
        compiler_version: plan.origin.compiler_version.clone(),
        name: plan.name.clone(),
        model_hash: hash::model(plan).to_string(),
        numerics_hash: hash::numerics(plan).to_string(),
        seed: plan.recipe.seed,
        data: position.data.clone(),
        step: position.step,
        tokens: position.tokens,
        recovery: position.recovery,
        spikes: position.spikes,
        files,
        blake3: String::new(),
    };
    state.seal();
    state
}

fn write_model(
    disk: &dyn FileSystem,
    executor: &dyn Executor,
    path: &Path,
) -> Result<blake3::Hash, CheckpointError> {
    let items = items(executor.plan());
    let entries: Vec<Entry> =
        items.iter().map(|item| item.entry(item.name.clone(), item.dtype)).collect();
    let mut file = TensorWriter::create(disk, path, &entries)?;
    let mut values = Vec::new();
    for item in &items {
        values.resize(item.elements(), 0.0);
        for &(first, index) in &item.parameters {
            let (parameter, kept) = executor.plan().parameter(index);
            let values = &mut values[first..first + kept.ty.shape.elements() as usize];
            executor.read_f32(parameter.kept(), values);
            check_finite(values, || parameter.path.clone())?;
        }
        file.reals(item.dtype, &values, item.exchange)?;
    }
    file.finish()
}

/// Refuses to save what no run could go on from.
fn check_finite(values: &[f32], name: impl FnOnce() -> String) -> Result<(), CheckpointError> {
    match values.iter().all(|value| value.is_finite()) {
        true => Ok(()),
        false => Err(CheckpointError::NotFinite { name: name() }),
    }
}

fn write_optimizer(
    disk: &dyn FileSystem,
    executor: &dyn Executor,
    path: &Path,
) -> Result<blake3::Hash, CheckpointError> {
    let plan = executor.plan();
    let items = items(plan);
    let moments = [plan.roles.first_moment, plan.roles.second_moment];
    let mut entries = vec![Entry { name: STEP.to_owned(), dtype: DType::I32, extents: Vec::new() }];
    for (moment, id) in MOMENTS.iter().zip(moments) {
        let dtype = plan.tensor(id).ty.dtype;
        entries.extend(items.iter().map(|item| item.entry(item.moment_name(moment), dtype)));
    }
    let mut file = TensorWriter::create(disk, path, &entries)?;
    let mut step = [0];
    executor.read_i32(plan.roles.step, &mut step);
    file.integers(&step)?;
    let (mut part, mut values) = (Vec::new(), Vec::new());
    for (moment, id) in MOMENTS.iter().zip(moments) {
        let tensor = plan.tensor(id);
        for item in &items {
            values.resize(item.elements(), 0.0);
            for &(first, parameter) in &item.parameters {
                let places = span(plan, parameter);
                part.resize(places.len(), 0.0);
                executor.read_f32_range(id, places.start, &mut part);
                rows(plan, parameter, |place, packed, width| {
                    let (place, packed) = (place - places.start, first + packed);
                    values[packed..packed + width].copy_from_slice(&part[place..place + width]);
                });
                check_finite(&part, || {
                    format!("the {moment} of {}", plan.parameters[parameter].path)
                })?;
            }
            file.reals(tensor.ty.dtype, &values, item.exchange)?;
        }
    }
    file.finish()
}

fn write_text(
    disk: &dyn FileSystem,
    path: &Path,
    text: &str,
) -> Result<blake3::Hash, CheckpointError> {
    disk.create_file(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync()
        })
        .map_err(CheckpointError::io("write", path))?;
    Ok(blake3::hash(text.as_bytes()))
}
