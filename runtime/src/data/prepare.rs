//! Text files in, token shards out.
//!
//! Owns what a document is, and that a corpus replaces an older one only when all of it is written.
//! Must not know how tokens are used, and prints nothing: progress goes to the caller.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::data::corpus::list_shards;
use crate::data::error::DataError;
use crate::data::files::{list_text_files, read_text};
use crate::data::shard::{EXTENSION, FinishedShard, ShardWriter, Source, Vocabulary};
use crate::data::tokenizer::Tokenizer;

/// What a document is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DocumentRule {
    /// Every file is one document.
    #[default]
    File,
    /// Lines that consist of exactly this text separate the documents of a file and belong to none of them.
    /// With the empty text, blank lines separate them, so that every paragraph is a document.
    SeparatorLine(String),
}

/// How a corpus is prepared.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// What a document is.
    pub documents: DocumentRule,
    /// A shard ends behind the document with which it has this many tokens.
    pub shard_tokens: u64,
    /// Threads for tokenizing; the ids do not depend on them.
    pub threads: NonZeroUsize,
    /// Whether shards that lie in the output directory are replaced.
    pub overwrite: bool,
}

impl Default for PrepareOptions {
    /// Files are documents, shards have 2^28 tokens (half a gigabyte with two-byte ids), one thread, nothing is overwritten.
    fn default() -> Self {
        Self {
            documents: DocumentRule::default(),
            shard_tokens: 1 << 28,
            threads: NonZeroUsize::MIN,
            overwrite: false,
        }
    }
}

/// How far a preparation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrepareProgress {
    /// Bytes of the files that are done.
    pub bytes_done: u64,
    /// Bytes of all files.
    pub bytes_total: u64,
    /// Tokens so far.
    pub tokens: u64,
}

/// What a preparation made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareSummary {
    /// The shards in their order.
    pub shards: Vec<PathBuf>,
    /// Files that were read.
    pub files: u64,
    /// Documents with text in them.
    pub documents: u64,
    /// Tokens, with the token behind each document.
    pub tokens: u64,
    /// Bytes of the documents' text.
    pub text_bytes: u64,
}

/// Tokenizes text files, and directories of them (see [`list_text_files`]), into token shards in the directory `output`.
///
/// Behind the ids of each document stands the tokenizer's end-of-text token, if it has one. Documents without anything but white space
/// are left out. The shards are called `shard-00001-of-0000N.tokens` and appear when all of them are complete; equal texts, tokenizer
/// and options give equal bytes. A file is held in memory while it is tokenized.
///
/// # Errors
///
/// If a text cannot be read or tokenized, there is no text at all, `output` cannot be written to, or it holds shards already and they are not to be overwritten.
pub fn prepare(
    inputs: &[PathBuf],
    tokenizer: &Tokenizer,
    output: &Path,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(PrepareProgress),
) -> Result<PrepareSummary, DataError> {
    let files = list_text_files(inputs)?;
    let mut bytes_total = 0;
    for file in &files {
        bytes_total += fs::metadata(&file.path).map_err(DataError::io("open", &file.path))?.len();
    }
    fs::create_dir_all(output).map_err(DataError::io("create", output))?;
    let replaced = list_shards(output)?;
    if !replaced.is_empty() && !options.overwrite {
        return Err(DataError::OutputExists { path: output.to_owned() });
    }

    let mut writer = CorpusWriter {
        directory: output,
        vocabulary: Vocabulary {
            hash: tokenizer.hash(),
            end_of_text: tokenizer.end_of_text(),
            byte_lengths: tokenizer.token_byte_lengths(),
        },
        shard_tokens: options.shard_tokens,
        finished: Vec::new(),
        current: None,
        summary: PrepareSummary {
            shards: Vec::new(),
            files: files.len() as u64,
            documents: 0,
            tokens: 0,
            text_bytes: 0,
        },
    };
    let mut bytes_done = 0;
    progress(PrepareProgress { bytes_done, bytes_total, tokens: 0 });
    for file in &files {
        let text = read_text(&file.path)?;
        let source = Source {
            name: file.name.clone(),
            bytes: text.len() as u64,
            blake3: blake3::hash(text.as_bytes()).to_hex().to_string(),
            documents: 0,
        };
        for document in documents(&text, &options.documents) {
            let mut ids = tokenizer
                .encode_with_threads(document, options.threads)
                .map_err(|error| in_file(error, &file.path))?;
            ids.extend(tokenizer.end_of_text());
            writer.push(&ids, document.len() as u64, &source)?;
        }
        bytes_done += text.len() as u64;
        progress(PrepareProgress { bytes_done, bytes_total, tokens: writer.summary.tokens });
    }
    if writer.summary.documents == 0 {
        return Err(DataError::NoText { inputs: inputs.to_vec() });
    }
    writer.finish(&replaced)
}

/// Distributes documents over shards.
struct CorpusWriter<'a> {
    directory: &'a Path,
    vocabulary: Vocabulary,
    shard_tokens: u64,
    finished: Vec<FinishedShard>,
    current: Option<ShardWriter>,
    summary: PrepareSummary,
}

impl CorpusWriter<'_> {
    fn push(&mut self, ids: &[u32], text_bytes: u64, source: &Source) -> Result<(), DataError> {
        if ids.is_empty() {
            // A tokenizer may have no token for any of the characters.
            return Ok(());
        }
        let mut shard = match self.current.take() {
            Some(shard) => shard,
            None => ShardWriter::create(self.directory, self.finished.len(), &self.vocabulary)?,
        };
        shard.push(ids, text_bytes, source)?;
        self.summary.documents += 1;
        self.summary.tokens += ids.len() as u64;
        self.summary.text_bytes += text_bytes;
        if shard.token_count() >= self.shard_tokens {
            self.finished.push(shard.finish(&self.vocabulary)?);
        } else {
            self.current = Some(shard);
        }
        Ok(())
    }

    /// Names all shards and removes those of `replaced` that none of them took the place of.
    fn finish(mut self, replaced: &[PathBuf]) -> Result<PrepareSummary, DataError> {
        if let Some(shard) = self.current.take() {
            self.finished.push(shard.finish(&self.vocabulary)?);
        }
        let part_count = self.finished.len() as u32;
        for (shard, part) in self.finished.into_iter().zip(1..) {
            let path =
                self.directory.join(format!("shard-{part:05}-of-{part_count:05}.{EXTENSION}"));
            shard.commit(&path, part, part_count)?;
            self.summary.shards.push(path);
        }
        for path in replaced {
            if !self.summary.shards.contains(path) {
                fs::remove_file(path).map_err(DataError::io("remove", path))?;
            }
        }
        Ok(self.summary)
    }
}

/// The documents of a text that contain more than white space.
fn documents<'a>(text: &'a str, rule: &DocumentRule) -> Vec<&'a str> {
    let mut documents = Vec::new();
    let mut start = 0;
    if let DocumentRule::SeparatorLine(separator) = rule {
        let mut end = 0;
        for line in text.split_inclusive('\n') {
            let content = line.strip_suffix('\n').unwrap_or(line);
            if content.strip_suffix('\r').unwrap_or(content) == separator {
                documents.push(&text[start..end]);
                start = end + line.len();
            }
            end += line.len();
        }
    }
    documents.push(&text[start..]);
    documents.retain(|document| !document.trim().is_empty());
    documents
}

/// Says in which text file tokenizing failed.
fn in_file(error: DataError, path: &Path) -> DataError {
    match error {
        DataError::Encode { reason, .. } => DataError::Encode { path: path.to_owned(), reason },
        other => other,
    }
}
