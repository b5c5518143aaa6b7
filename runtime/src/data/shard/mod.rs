//! One file of token ids, written once and mapped into memory.
//!
//! Owns the file format, which `docs/token-shards.md` specifies byte by byte: its header and layout in `format`, the
//! writer in `write`, the reader that believes nothing in `read`. Must not know how text becomes ids, nor how
//! batches are cut from them.

mod format;
mod read;
mod write;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::data::tokenizer::VocabularyHash;

pub use format::FORMAT_VERSION;
pub(crate) use format::MAGIC;
pub use read::{ShardHeader, TokenShard};
pub(crate) use write::{FinishedShard, ShardWriter};

/// How the names of token shards end.
pub const EXTENSION: &str = "tokens";

/// A file from which a shard, or a part of it, was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// File name, or path below the directory that was given.
    pub name: String,
    /// Size of the file.
    pub bytes: u64,
    /// BLAKE3 hash of the file's bytes, in hexadecimal digits.
    pub blake3: String,
    /// Documents of the file that are in this shard.
    pub documents: u64,
}

/// What a shard tells of its making.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// File name of the tokenizer.
    pub tokenizer: String,
    /// How the files were read, where that changes documents: see [`crate::data::prepare::rules`].
    pub rules: String,
    /// Identifies all files that the corpus was made of: see [`crate::data::prepare::inputs_hash`].
    pub inputs: String,
    /// The files the shard is from, in the order of its documents.
    pub sources: Vec<Source>,
}

/// The vocabulary of the ids in a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vocabulary {
    pub(crate) hash: VocabularyHash,
    pub(crate) end_of_text: Option<u32>,
    /// Bytes of text each id stands for; its length is the vocabulary size.
    pub(crate) byte_lengths: Vec<u16>,
}
