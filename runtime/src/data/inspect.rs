//! What a path holds, as far as that is known without reading all of it.
//!
//! Owns cheap looks at data: sizes, headers, footers. What is said here is for planning and for messages; it is checked
//! when the data is opened. Must not open texts or map files.

use std::fs;
use std::path::{Path, PathBuf};

use colac_plan::recipe::TokenDType;

use crate::data::corpus::{check_ids, check_parts, holds_tokens, is_foreign, list_tokens};
use crate::data::error::DataError;
use crate::data::shard::ShardHeader;
use crate::data::source::{Format, list_inputs};
use crate::data::token_file::TokenFileHeader;
use crate::data::tokenizer::VocabularyHash;

/// What a path holds. Numbers are `None` where only reading everything would tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceInfo {
    /// The path that was looked at.
    pub path: PathBuf,
    /// What it is: `token shard`, `token file of llm.c`, `text`, `JSON Lines`, `Parquet`, `Arrow`; the first one where
    /// there are several.
    pub format: &'static str,
    /// Whether it holds ids, so that no tokenizer is needed.
    pub is_tokens: bool,
    /// Number of files.
    pub files: u64,
    /// Size of the files, compressed ones as they lie.
    pub bytes: u64,
    /// Number of ids.
    pub tokens: Option<u64>,
    /// Number of documents.
    pub documents: Option<u64>,
    /// Bytes of the text that was tokenized.
    pub text_bytes: Option<u64>,
    /// The largest id, from the headers of our own shards.
    pub max_id: Option<u32>,
    /// Number of entries of the vocabulary that the ids are from.
    pub vocab_size: Option<u64>,
    /// Which vocabulary the ids are from.
    pub vocabulary_hash: Option<VocabularyHash>,
    /// Name of the file of the tokenizer that made the ids.
    pub tokenizer: Option<String>,
}

impl SourceInfo {
    /// Checks that a model has an embedding for every id, as far as the headers say.
    ///
    /// # Errors
    ///
    /// If `vocab_size`, the model's, is not larger than the largest id.
    pub fn check_fits(&self, vocab_size: u64) -> Result<(), DataError> {
        self.max_id.map_or(Ok(()), |max_id| check_ids(&self.path, max_id, vocab_size))
    }

    /// Checks that the ids are from a vocabulary, as far as the headers say.
    ///
    /// # Errors
    ///
    /// If they are from another one.
    pub fn check_tokenizer(&self, expected: VocabularyHash) -> Result<(), DataError> {
        match self.vocabulary_hash {
            Some(found) if found != expected => {
                Err(DataError::TokenizerMismatch { path: self.path.clone(), expected, found })
            }
            _ => Ok(()),
        }
    }
}

/// Looks at a file or folder: at the headers of token files, at the footers of Parquet files, at the sizes of texts.
/// Reads a few hundred bytes of each file at the most, and the manifests of shards.
///
/// # Errors
///
/// If there is nothing, nothing that can be used, a header contradicts the size of its file, or shards do not belong
/// together.
pub fn inspect(
    path: &Path,
    extensions: &[String],
    dtype: Option<TokenDType>,
) -> Result<SourceInfo, DataError> {
    if holds_tokens(path)? {
        let files = match path.is_dir() {
            true => list_tokens(path)?,
            false => vec![path.to_owned()],
        };
        return inspect_tokens(path, &files, dtype);
    }
    let files = list_inputs(&[path.to_owned()], extensions)?;
    let mut bytes = 0;
    let mut documents = Some(0);
    for file in &files {
        let metadata = fs::metadata(&file.path).map_err(DataError::io("open", &file.path))?;
        bytes += metadata.len();
        documents = documents.zip(rows(file.format, &file.path)?).map(|(sum, rows)| sum + rows);
    }
    Ok(SourceInfo {
        path: path.to_owned(),
        format: files[0].format.name(),
        is_tokens: false,
        files: files.len() as u64,
        bytes,
        tokens: None,
        documents,
        text_bytes: None,
        max_id: None,
        vocab_size: None,
        vocabulary_hash: None,
        tokenizer: None,
    })
}

/// Documents of a file whose format counts them.
fn rows(format: Format, path: &Path) -> Result<Option<u64>, DataError> {
    match format {
        #[cfg(feature = "arrow")]
        Format::Parquet => crate::data::source::parquet_rows(path).map(Some),
        #[cfg(not(feature = "arrow"))]
        Format::Parquet | Format::Arrow => {
            Err(DataError::FeatureMissing { path: path.to_owned(), format: format.name() })
        }
        _ => Ok(None),
    }
}

fn inspect_tokens(
    path: &Path,
    files: &[PathBuf],
    dtype: Option<TokenDType>,
) -> Result<SourceInfo, DataError> {
    let mut bytes = 0;
    let mut foreign = Vec::new();
    let mut own = Vec::new();
    for file in files {
        bytes += fs::metadata(file).map_err(DataError::io("open", file))?.len();
        match is_foreign(file)? {
            true => foreign.push(TokenFileHeader::read(file, dtype)?),
            false => own.push((file, ShardHeader::read(file)?)),
        }
    }
    if path.is_dir() {
        let parts: Vec<_> = own.iter().map(|(_, shard)| shard.part).collect();
        check_parts(path, &parts)?;
    }
    let mixed = |second: &Path, what| DataError::MixedShards {
        first: files[0].clone(),
        second: second.to_owned(),
        what,
    };
    let tokens = own.iter().map(|(_, shard)| shard.token_count);
    let tokens = tokens.chain(foreign.iter().map(|file| file.token_count)).sum();
    let mut info = SourceInfo {
        path: path.to_owned(),
        format: "token shard",
        is_tokens: true,
        files: files.len() as u64,
        bytes,
        tokens: Some(tokens),
        documents: None,
        text_bytes: None,
        max_id: None,
        vocab_size: None,
        vocabulary_hash: None,
        tokenizer: None,
    };
    if let Some(first) = foreign.first() {
        if let Some((second, _)) = own.first() {
            return Err(mixed(second, "formats"));
        }
        info.format = first.kind.name();
        info.vocab_size = first.vocab_size.map(u64::from);
        return Ok(info);
    }
    let Some((_, first)) = own.first() else { return Ok(info) };
    for (file, shard) in &own {
        if shard.vocabulary_hash != first.vocabulary_hash {
            return Err(mixed(file, "tokenizers"));
        }
    }
    info.documents = Some(own.iter().map(|(_, shard)| shard.document_count).sum());
    info.text_bytes = Some(own.iter().map(|(_, shard)| shard.text_bytes).sum());
    info.max_id = own.iter().map(|(_, shard)| shard.max_id).max();
    info.vocab_size = Some(first.vocab_size.into());
    info.vocabulary_hash = Some(first.vocabulary_hash);
    info.tokenizer = Some(first.manifest.tokenizer.clone()).filter(|name| !name.is_empty());
    Ok(info)
}
