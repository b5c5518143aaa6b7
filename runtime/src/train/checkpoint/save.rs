//! Writing a checkpoint.
//!
//! Owns the order of writes that makes a checkpoint whole or absent. The tensors of a file pass one by one through a buffer
//! of the size of the largest; a moment, which is one tensor of the plan, is read whole. So saving takes as much memory as one
//! moment beside the executor's own. Must not know when checkpoints are due.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use colac_plan::{DType, Plan, hash};

use crate::executor::Executor;
use crate::train::checkpoint::layout::{MOMENTS, STEP, items};
use crate::train::checkpoint::state::FORMAT_VERSION;
use crate::train::checkpoint::tensor_file::{Entry, TensorWriter};
use crate::train::checkpoint::{
    CHECKPOINTS, CONFIG_FILE, Gate, MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, State, TOKENIZER_FILE,
    checkpoint_path, partial_path, sync_directory,
};
use crate::train::error::CheckpointError;

/// What a checkpoint says of the run beside the executor's tensors and plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Updates done.
    pub step: u64,
    /// Positions with a label in all of them.
    pub tokens: u64,
    /// Identity of the training rows.
    pub data: String,
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
    save_through(executor, run_dir, position, tokenizer_json, &mut |_| Ok(()))
}

pub(super) fn save_through(
    executor: &dyn Executor,
    run_dir: &Path,
    position: &Position,
    tokenizer_json: Option<&str>,
    gate: Gate<'_>,
) -> Result<PathBuf, CheckpointError> {
    let written = write(executor, run_dir, position, tokenizer_json, gate);
    if written.is_err() {
        // The error to report is the one that led here; what stays is removed when the run starts again.
        let _ = fs::remove_dir_all(partial_path(run_dir, position.step));
    }
    written
}

/// As [`save`], but leaves a half-written folder where it fails, as a crash does.
pub(super) fn write(
    executor: &dyn Executor,
    run_dir: &Path,
    position: &Position,
    tokenizer_json: Option<&str>,
    gate: Gate<'_>,
) -> Result<PathBuf, CheckpointError> {
    let plan = executor.plan();
    let (path, partial) =
        (checkpoint_path(run_dir, position.step), partial_path(run_dir, position.step));
    if path.exists() {
        return Err(CheckpointError::Exists { path });
    }
    let directory = run_dir.join(CHECKPOINTS);
    gate(&directory)
        .and_then(|()| fs::create_dir_all(&directory))
        .map_err(CheckpointError::io("create", &directory))?;
    gate(&partial)
        .and_then(|()| fs::create_dir(&partial))
        .map_err(CheckpointError::io("create", &partial))?;

    let mut files = BTreeMap::new();
    let mut written =
        |name: &str, hash: blake3::Hash| files.insert(name.to_owned(), hash.to_string());
    written(MODEL_FILE, write_model(executor, &partial.join(MODEL_FILE), gate)?);
    written(OPTIMIZER_FILE, write_optimizer(executor, &partial.join(OPTIMIZER_FILE), gate)?);
    written(
        CONFIG_FILE,
        write_text(&partial.join(CONFIG_FILE), &plan.origin.checkpoint_config, gate)?,
    );
    if let Some(json) = tokenizer_json {
        written(TOKENIZER_FILE, write_text(&partial.join(TOKENIZER_FILE), json, gate)?);
    }
    write_text(&partial.join(STATE_FILE), &state(plan, position, files).to_json(), gate)?;

    sync_directory(&partial)?;
    gate(&path)
        .and_then(|()| fs::rename(&partial, &path))
        .map_err(CheckpointError::io("create", &path))?;
    sync_directory(&directory)?;
    sync_directory(run_dir)?;
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
        files,
        blake3: String::new(),
    };
    state.seal();
    state
}

fn write_model(
    executor: &dyn Executor,
    path: &Path,
    gate: Gate<'_>,
) -> Result<blake3::Hash, CheckpointError> {
    let items = items(executor.plan());
    let entries: Vec<Entry> =
        items.iter().map(|item| item.entry(item.name.clone(), item.dtype)).collect();
    gate(path).map_err(CheckpointError::io("create", path))?;
    let mut file = TensorWriter::create(path, &entries)?;
    let mut values = Vec::new();
    for item in &items {
        gate(path).map_err(CheckpointError::io("write", path))?;
        values.resize(item.elements(), 0.0);
        for &(first, id) in &item.parameters {
            let elements = executor.plan().tensor(id).ty.shape.elements() as usize;
            executor.read_f32(id, &mut values[first..first + elements]);
        }
        file.reals(item.dtype, &values, item.exchange)?;
    }
    file.finish(gate)
}

fn write_optimizer(
    executor: &dyn Executor,
    path: &Path,
    gate: Gate<'_>,
) -> Result<blake3::Hash, CheckpointError> {
    let plan = executor.plan();
    let items = items(plan);
    let moments = [plan.roles.first_moment, plan.roles.second_moment];
    let mut entries = vec![Entry { name: STEP.to_owned(), dtype: DType::I32, extents: Vec::new() }];
    for (moment, id) in MOMENTS.iter().zip(moments) {
        let dtype = plan.tensor(id).ty.dtype;
        entries.extend(items.iter().map(|item| item.entry(item.moment_name(moment), dtype)));
    }
    gate(path).map_err(CheckpointError::io("create", path))?;
    let mut file = TensorWriter::create(path, &entries)?;
    let mut step = [0];
    executor.read_i32(plan.roles.step, &mut step);
    file.integers(&step)?;
    let (mut flat, mut values) = (Vec::new(), Vec::new());
    for id in moments {
        let tensor = plan.tensor(id);
        flat.resize(tensor.ty.shape.elements() as usize, 0.0);
        executor.read_f32(id, &mut flat);
        for item in &items {
            gate(path).map_err(CheckpointError::io("write", path))?;
            values.resize(item.elements(), 0.0);
            item.rows(plan, |place, packed, width| {
                values[packed..packed + width].copy_from_slice(&flat[place..place + width]);
            });
            file.reals(tensor.ty.dtype, &values, item.exchange)?;
        }
    }
    file.finish(gate)
}

fn write_text(path: &Path, text: &str, gate: Gate<'_>) -> Result<blake3::Hash, CheckpointError> {
    gate(path)
        .and_then(|()| File::create_new(path))
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            gate(path)?;
            file.sync_all()
        })
        .map_err(CheckpointError::io("write", path))?;
    Ok(blake3::hash(text.as_bytes()))
}
