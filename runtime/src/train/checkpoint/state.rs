//! `state.json`: what a checkpoint knows beyond its tensors.
//!
//! Owns the file's fields, its own hash, and reading it without belief. Must not know what the other files hold.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::train::checkpoint::STATE_FILE;
use crate::train::error::CheckpointError;
use crate::train::non_finite::Recovery;
use crate::train::spikes::SpikeDetector;

/// Version of the format that this module writes, and the newest that it reads.
pub const FORMAT_VERSION: u64 = 2;

/// The content of `state.json`. It has no field that depends on time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Format version.
    pub format: u64,
    /// Version of colac that wrote the checkpoint.
    pub colac_version: String,
    /// Version of the compiler that made the plan.
    pub compiler_version: String,
    /// Name of the spec.
    pub name: String,
    /// Hash of the plan's parameters: names, shapes, formats.
    pub model_hash: String,
    /// Hash of everything that decides the numbers of the run.
    pub numerics_hash: String,
    /// Seed of start values and data order.
    pub seed: u64,
    /// Identity of the training rows.
    pub data: String,
    /// Updates done.
    pub step: u64,
    /// Positions with a label in all of them.
    pub tokens: u64,
    /// What the run remembers of updates that were not finite; format 1 has no such field, nor the next.
    #[serde(default, skip_serializing_if = "is_default")]
    pub recovery: Recovery,
    /// Statistics by which jumps of loss and gradient norm are found.
    #[serde(default, skip_serializing_if = "is_default")]
    pub spikes: SpikeDetector,
    /// BLAKE3 hash of each other file of the checkpoint, by name.
    pub files: BTreeMap<String, String>,
    /// BLAKE3 hash of this object's compact JSON with this field empty.
    pub blake3: String,
}

/// Fields that say nothing are left out, so that files of format 1 keep their hash.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl State {
    /// Fills in the hash over all other fields.
    pub(crate) fn seal(&mut self) {
        self.blake3 = self.own_hash();
    }

    fn own_hash(&self) -> String {
        let unsealed = State { blake3: String::new(), ..self.clone() };
        let json =
            serde_json::to_vec(&unsealed).expect("numbers and strings always have a JSON form");
        blake3::hash(&json).to_string()
    }

    /// The file's text.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and strings always have a JSON form")
            + "\n"
    }

    /// Reads the state of a checkpoint folder.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, was written by a newer program, or is damaged.
    pub fn read(checkpoint: &Path) -> Result<State, CheckpointError> {
        /// The one field that every version has.
        #[derive(Deserialize)]
        struct AnyVersion {
            format: u64,
        }
        let path = checkpoint.join(STATE_FILE);
        let text = fs::read(&path).map_err(CheckpointError::io("read", &path))?;
        let not_json =
            |error: serde_json::Error| CheckpointError::damaged(&path, error.to_string());
        let AnyVersion { format } = serde_json::from_slice(&text).map_err(not_json)?;
        if format > FORMAT_VERSION {
            return Err(CheckpointError::Newer { path, found: format, supported: FORMAT_VERSION });
        }
        let state: State = serde_json::from_slice(&text).map_err(not_json)?;
        if state.blake3 != state.own_hash() {
            return Err(CheckpointError::damaged(
                &path,
                "its content does not have the hash in its field blake3",
            ));
        }
        Ok(state)
    }

    /// Checks that a file of the checkpoint has the hash that stands here.
    pub(crate) fn check_file(&self, checkpoint: &Path, name: &str) -> Result<(), CheckpointError> {
        let path = checkpoint.join(name);
        let state = checkpoint.join(STATE_FILE);
        let expected = self.files.get(name).ok_or_else(|| {
            CheckpointError::damaged(&state, format!("it does not mention {name}"))
        })?;
        let mut hasher = blake3::Hasher::new();
        fs::File::open(&path)
            .and_then(|file| hasher.update_reader(file).map(|_| ()))
            .map_err(CheckpointError::io("read", &path))?;
        if hasher.finalize().to_string() == *expected {
            Ok(())
        } else {
            Err(CheckpointError::damaged(
                &path,
                format!("its content does not have the hash in {STATE_FILE}"),
            ))
        }
    }
}
