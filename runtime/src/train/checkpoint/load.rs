//! Reading checkpoints and files of weights.
//!
//! Owns the checks: nothing reaches an executor before names, shapes, formats and hashes agree with its plan. A damaged
//! file is an error with one line, never a panic. Must not know when runs resume.

use std::path::Path;

use colac_plan::{TensorId, hash};
use safetensors::Dtype as FileDtype;

use crate::executor::Executor;
use crate::host::{write_constants, write_parameter};
use crate::train::checkpoint::layout::{MOMENTS, STEP, items, rows, span};
use crate::train::checkpoint::tensor_file::{Entry, TensorFile, file_dtype};
use crate::train::checkpoint::{MODEL_FILE, OPTIMIZER_FILE, STATE_FILE, State};
use crate::train::error::CheckpointError;

/// Whether a file's numbers may be stored otherwise than in the plan.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Formats {
    /// A run goes on bit for bit only from what it had.
    Same,
    /// f32 and bf16 for each other: weights from elsewhere.
    AnyReal,
}

/// Loads the weights of a checkpoint folder, or of a bare safetensors file, and writes the plan's constants: all that
/// evaluation and generation need. The recipe may be another one, and f32 and bf16 are converted into each other. A
/// folder without `state.json`, as other programs make them, is accepted; with it, the weights' hash is checked. A file may
/// hold copies of the plan's tensors under other names, as of weights that the model shares.
///
/// # Errors
///
/// If something cannot be read, is damaged, or belongs to another model.
pub fn load_weights(executor: &mut dyn Executor, path: &Path) -> Result<(), CheckpointError> {
    let file = if path.is_dir() {
        if path.join(STATE_FILE).exists() {
            let state = State::read(path)?;
            state.check_file(path, MODEL_FILE)?;
        }
        path.join(MODEL_FILE)
    } else {
        path.to_owned()
    };
    read_weights(executor, &file, Formats::AnyReal)?;
    write_constants(executor);
    Ok(())
}

/// Loads a checkpoint to go on with its run: weights, moments, count of updates, constants. Every file is checked
/// against its hash first.
///
/// # Errors
///
/// If something cannot be read, is damaged, or belongs to another model or another run.
pub fn resume(executor: &mut dyn Executor, checkpoint: &Path) -> Result<State, CheckpointError> {
    let state = State::read(checkpoint)?;
    for name in state.files.keys() {
        // A name with a path in it would lead out of the folder.
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(CheckpointError::damaged(
                &checkpoint.join(STATE_FILE),
                format!("it names a file {name:?}"),
            ));
        }
        state.check_file(checkpoint, name)?;
    }
    let plan = executor.plan();
    let (model, numerics) = (hash::model(plan).to_string(), hash::numerics(plan).to_string());
    let model_file = checkpoint.join(MODEL_FILE);
    if state.model_hash != model {
        // The comparison by tensors says what differs; the hash alone does not.
        check_model(executor, &mut TensorFile::open(&model_file)?, &model_file, Formats::Same)?;
        let difference =
            "its parameters have the plan's names and shapes, in another order or orientation, or joined otherwise"
                .to_owned();
        return Err(CheckpointError::DifferentModel { path: checkpoint.to_owned(), difference });
    }
    if state.numerics_hash != numerics {
        return Err(CheckpointError::DifferentNumerics {
            path: checkpoint.to_owned(),
            expected: short(&numerics),
            found: short(&state.numerics_hash),
        });
    }
    read_weights(executor, &model_file, Formats::Same)?;
    read_optimizer(executor, &checkpoint.join(OPTIMIZER_FILE))?;
    write_constants(executor);
    Ok(state)
}

/// The first digits of a hash, enough to tell two apart.
fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}

fn read_weights(
    executor: &mut dyn Executor,
    path: &Path,
    formats: Formats,
) -> Result<(), CheckpointError> {
    let mut file = TensorFile::open(path)?;
    check_model(executor, &mut file, path, formats)?;
    let plan = executor.plan();
    let mut values = Vec::new();
    for item in items(plan) {
        values.resize(item.elements(), 0.0);
        file.reals(&item.name, &mut values, item.exchange)?;
        for (first, index) in item.parameters {
            let (_, kept) = executor.plan().parameter(index);
            let elements = kept.ty.shape.elements() as usize;
            write_parameter(executor, index, &values[first..first + elements]);
        }
    }
    Ok(())
}

fn check_model(
    executor: &dyn Executor,
    file: &mut TensorFile,
    path: &Path,
    formats: Formats,
) -> Result<(), CheckpointError> {
    let entries: Vec<Entry> = items(executor.plan())
        .iter()
        .map(|item| item.entry(item.name.clone(), item.dtype))
        .collect();
    check_entries(&entries, file, path, formats)
}

/// Names that a message lists before it only counts.
const MOST_NAMES: usize = 8;

/// `it lacks 3 tensors of the plan: a, b, c`.
fn listed(verb: &str, names: &[&str], which: &str) -> String {
    let count = names.len();
    let mut list = names[..count.min(MOST_NAMES)].join(", ");
    if count > MOST_NAMES {
        list.push_str(&format!(" and {} more", count - MOST_NAMES));
    }
    format!("it {verb} {count} tensor{} {which}: {list}", if count == 1 { "" } else { "s" })
}

/// Checks that a file has exactly these tensors. Weights from elsewhere may hold copies of them under other names:
/// programs that know of no shared weights write one for each use.
fn check_entries(
    entries: &[Entry],
    file: &mut TensorFile,
    path: &Path,
    formats: Formats,
) -> Result<(), CheckpointError> {
    let differs =
        |difference: String| CheckpointError::DifferentModel { path: path.to_owned(), difference };
    for Entry { name, dtype, extents } in entries {
        // What is missing is listed below, all at once.
        let Some((found, shape)) = file.info(name) else { continue };
        if shape != extents {
            return Err(differs(format!("{name} has shape {shape:?}, the plan's {extents:?}")));
        }
        let readable = match formats {
            Formats::Same => found == file_dtype(*dtype),
            Formats::AnyReal => matches!(found, FileDtype::F32 | FileDtype::BF16),
        };
        if !readable {
            let wanted = match formats {
                Formats::Same => format!("the plan's is {}", file_dtype(*dtype)),
                Formats::AnyReal => "only F32 and BF16 can be read".to_owned(),
            };
            return Err(differs(format!("{name} is stored as {found}, and {wanted}")));
        }
    }
    let mut known: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    known.sort_unstable();
    let mut surplus = Vec::new();
    for name in file.names() {
        if known.binary_search(&name.as_str()).is_err()
            && (formats == Formats::Same || !is_copy(&name, &known, file)?)
        {
            surplus.push(name);
        }
    }
    let missing: Vec<&str> = entries
        .iter()
        .map(|entry| entry.name.as_str())
        .filter(|name| file.info(name).is_none())
        .collect();
    let mut differences = Vec::new();
    if !missing.is_empty() {
        differences.push(listed("lacks", &missing, "of the plan"));
    }
    if !surplus.is_empty() {
        let surplus: Vec<&str> = surplus.iter().map(String::as_str).collect();
        differences.push(listed("has", &surplus, "that the plan has not"));
    }
    if differences.is_empty() { Ok(()) } else { Err(differs(differences.join(", and "))) }
}

/// Whether a tensor has format, shape and bytes of a tensor that is known.
fn is_copy(name: &str, known: &[&str], file: &mut TensorFile) -> Result<bool, CheckpointError> {
    for other in known {
        if file.info(other).is_some()
            && file.info(name) == file.info(other)
            && file.same_bytes(name, other)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read_optimizer(executor: &mut dyn Executor, path: &Path) -> Result<(), CheckpointError> {
    let mut file = TensorFile::open(path)?;
    let plan = executor.plan();
    let moments = [plan.roles.first_moment, plan.roles.second_moment];
    let mut entries =
        vec![Entry { name: STEP.to_owned(), dtype: colac_plan::DType::I32, extents: Vec::new() }];
    for (moment, id) in MOMENTS.iter().zip(moments) {
        let dtype = plan.tensor(id).ty.dtype;
        entries.extend(items(plan).iter().map(|item| item.entry(item.moment_name(moment), dtype)));
    }
    check_entries(&entries, &mut file, path, Formats::Same)?;

    let mut step = [0];
    file.integers(STEP, &mut step)?;
    let (mut part, mut values) = (Vec::new(), Vec::new());
    for (moment, id) in MOMENTS.iter().zip(moments) {
        // What lies between parameters is 0 and stays 0.
        clear(executor, id);
        for item in items(executor.plan()) {
            values.resize(item.elements(), 0.0);
            file.reals(&item.moment_name(moment), &mut values, item.exchange)?;
            for (first, parameter) in item.parameters {
                let plan = executor.plan();
                let places = span(plan, parameter);
                part.clear();
                part.resize(places.len(), 0.0);
                rows(plan, parameter, |place, packed, width| {
                    let (place, packed) = (place - places.start, first + packed);
                    part[place..place + width].copy_from_slice(&values[packed..packed + width]);
                });
                executor.write_f32_range(id, places.start, &part);
            }
        }
    }
    let tensor = executor.plan().roles.step;
    executor.write_i32(tensor, &step);
    Ok(())
}

/// Sets a flat tensor to 0, part by part.
fn clear(executor: &mut dyn Executor, tensor: TensorId) {
    const PART: usize = 1 << 16;
    let elements = executor.plan().tensor(tensor).ty.shape.elements() as usize;
    for first in (0..elements).step_by(PART) {
        executor.write_f32_range(tensor, first, &[0.0; PART][..PART.min(elements - first)]);
    }
}
