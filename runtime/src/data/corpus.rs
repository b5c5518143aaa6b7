//! A tokenized corpus: one or more shards seen as one stream of tokens and one list of documents.
//!
//! Owns the order of the shards and the checks that they, a tokenizer and a model belong together.
//! Must not know how samples are ordered or batches filled.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::data::error::DataError;
use crate::data::shard::{EXTENSION, TokenShard};
use crate::data::tokenizer::VocabularyHash;

/// The shards of a corpus, mapped and checked.
#[derive(Debug)]
pub struct TokenCorpus {
    path: PathBuf,
    shards: Vec<TokenShard>,
    /// First token of each shard in the stream, and the number of all tokens behind them.
    token_starts: Vec<u64>,
    /// First document of each shard in the list, and the number of all documents behind them.
    document_starts: Vec<u64>,
    /// Bytes of text per byte that the tokens stand for; 1 with a byte-level tokenizer.
    bytes_per_token_byte: f64,
}

impl TokenCorpus {
    /// Opens a shard, or all shards of a directory in the order of their names, and checks every byte of them.
    ///
    /// # Errors
    ///
    /// If there are no shards, a part of the corpus is missing, a shard is damaged, or they were made with different tokenizers.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(DataError::NoShards { path: path.to_owned() });
            }
            metadata => metadata.map_err(DataError::io("open", path))?,
        };
        let is_directory = metadata.is_dir();
        let files = if is_directory { list_shards(path)? } else { vec![path.to_owned()] };
        if files.is_empty() {
            return Err(DataError::NoShards { path: path.to_owned() });
        }
        let shards =
            files.iter().map(|file| TokenShard::open(file)).collect::<Result<Vec<_>, _>>()?;
        check_together(&shards)?;
        if is_directory {
            check_complete(path, &shards)?;
        }
        let token_starts = running_sum(shards.iter().map(TokenShard::token_count));
        let document_starts = running_sum(shards.iter().map(TokenShard::document_count));
        let mut corpus = Self {
            path: path.to_owned(),
            shards,
            token_starts,
            document_starts,
            bytes_per_token_byte: 1.0,
        };
        let token_bytes = corpus.count_token_bytes();
        if token_bytes > 0 {
            corpus.bytes_per_token_byte = corpus.text_bytes() as f64 / token_bytes as f64;
        }
        Ok(corpus)
    }

    /// The directory or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The shards in the order of the stream.
    pub fn shards(&self) -> &[TokenShard] {
        &self.shards
    }

    /// Number of tokens; at least one.
    pub fn token_count(&self) -> u64 {
        last(&self.token_starts)
    }

    /// Number of documents; at least one.
    pub fn document_count(&self) -> u64 {
        last(&self.document_starts)
    }

    /// Bytes of the text that was tokenized.
    pub fn text_bytes(&self) -> u64 {
        self.shards.iter().map(TokenShard::text_bytes).sum()
    }

    /// The largest id that occurs.
    pub fn max_id(&self) -> u32 {
        self.shards.iter().map(TokenShard::max_id).max().unwrap_or(0)
    }

    /// Number of entries of the tokenizer's vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.shards[0].vocab_size()
    }

    /// The id behind the last token of every document, if the tokenizer has one.
    pub fn end_of_text(&self) -> Option<u32> {
        self.shards[0].end_of_text()
    }

    /// Which tokenizer made the ids.
    pub fn vocabulary_hash(&self) -> VocabularyHash {
        self.shards[0].vocabulary_hash()
    }

    /// Identifies the tokens: a run that goes on with the same hash sees the same data.
    pub fn content_hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for shard in &self.shards {
            hasher.update(&shard.payload_hash());
        }
        *hasher.finalize().as_bytes()
    }

    /// Checks that a model has an embedding for every id.
    ///
    /// # Errors
    ///
    /// If `vocab_size`, the model's, is not larger than the largest id.
    pub fn check_fits(&self, vocab_size: u64) -> Result<(), DataError> {
        if u64::from(self.max_id()) < vocab_size {
            Ok(())
        } else {
            Err(DataError::IdOutOfVocabulary {
                path: self.path.clone(),
                max_id: self.max_id(),
                vocab_size,
            })
        }
    }

    /// Checks that the ids mean what a tokenizer, another corpus or a checkpoint says they mean.
    ///
    /// # Errors
    ///
    /// If the corpus was made with another tokenizer.
    pub fn check_tokenizer(&self, expected: VocabularyHash) -> Result<(), DataError> {
        let found = self.vocabulary_hash();
        if found == expected {
            Ok(())
        } else {
            Err(DataError::TokenizerMismatch { path: self.path.clone(), expected, found })
        }
    }

    /// The tokens of a document, as a range of the stream.
    ///
    /// # Panics
    ///
    /// If there is no such document.
    pub fn document(&self, document: u64) -> Range<u64> {
        let index = containing(&self.document_starts, document);
        let (shard, local) = (&self.shards[index], document - self.document_starts[index]);
        let end = if local + 1 < shard.document_count() {
            shard.document_start(local + 1)
        } else {
            shard.token_count()
        };
        let offset = self.token_starts[index];
        offset + shard.document_start(local)..offset + end
    }

    /// Copies the ids from token `start` of the stream on until `ids` is full, across shards. Allocates nothing.
    ///
    /// # Panics
    ///
    /// If the stream ends before that.
    pub fn copy_ids(&self, start: u64, mut ids: &mut [i32]) {
        let mut start = start;
        while !ids.is_empty() {
            let index = containing(&self.token_starts, start);
            let available = self.token_starts[index + 1] - start;
            let (part, rest) =
                ids.split_at_mut(ids.len().min(usize::try_from(available).unwrap_or(usize::MAX)));
            self.shards[index].copy_ids(start - self.token_starts[index], part);
            start += part.len() as u64;
            ids = rest;
        }
    }

    /// Bytes of text that tokens stand for, for bits per byte. Ids that are negative count nothing, so that labels may be given.
    ///
    /// Every token counts the bytes its entry in the vocabulary declares. With tokenizers that are not byte-level the sum over the
    /// corpus may differ from the size of the text; it is scaled so that the corpus as a whole is right.
    ///
    /// # Panics
    ///
    /// If an id is not below [`TokenCorpus::vocab_size`].
    pub fn text_bytes_of(&self, ids: &[i32]) -> f64 {
        let shard = &self.shards[0];
        let token_bytes: u64 = ids
            .iter()
            .filter_map(|&id| u32::try_from(id).ok())
            .map(|id| u64::from(shard.byte_length(id)))
            .sum();
        token_bytes as f64 * self.bytes_per_token_byte
    }

    fn count_token_bytes(&self) -> u64 {
        let mut ids = vec![0; 1 << 14];
        let mut token_bytes = 0;
        for shard in &self.shards {
            let mut start = 0;
            while start < shard.token_count() {
                let count = ids
                    .len()
                    .min(usize::try_from(shard.token_count() - start).unwrap_or(usize::MAX));
                shard.copy_ids(start, &mut ids[..count]);
                token_bytes += ids[..count]
                    .iter()
                    .map(|&id| u64::from(shard.byte_length(id as u32)))
                    .sum::<u64>();
                start += count as u64;
            }
        }
        token_bytes
    }
}

/// The shards that lie in a directory, sorted by name.
pub(crate) fn list_shards(directory: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut files = fs::read_dir(directory)
        .and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
        })
        .map_err(DataError::io("list", directory))?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == EXTENSION));
    files.sort_unstable();
    Ok(files)
}

/// Checks that all shards speak of the same vocabulary.
fn check_together(shards: &[TokenShard]) -> Result<(), DataError> {
    let first = &shards[0];
    for shard in &shards[1..] {
        let what = if shard.vocabulary_hash() != first.vocabulary_hash() {
            "tokenizers"
        } else if shard.vocab_size() != first.vocab_size() {
            "vocabulary sizes"
        } else if shard.end_of_text() != first.end_of_text() {
            "end-of-text tokens"
        } else {
            continue;
        };
        let (first, second) = (first.path().to_owned(), shard.path().to_owned());
        return Err(DataError::MixedShards { first, second, what });
    }
    Ok(())
}

/// Checks that a directory holds parts 1 to n of one corpus.
fn check_complete(directory: &Path, shards: &[TokenShard]) -> Result<(), DataError> {
    let expected = shards[0].part().1;
    let complete = shards.len() == expected as usize
        && shards.iter().zip(1..).all(|(shard, number)| shard.part() == (number, expected));
    if complete {
        Ok(())
    } else {
        Err(DataError::IncompleteCorpus {
            path: directory.to_owned(),
            found: shards.len(),
            expected,
        })
    }
}

fn running_sum(counts: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut sum = 0;
    let mut sums = vec![0];
    for count in counts {
        sum += count;
        sums.push(sum);
    }
    sums
}

fn last(starts: &[u64]) -> u64 {
    starts[starts.len() - 1]
}

/// The part in which `position` lies, for parts that are not empty.
fn containing(starts: &[u64], position: u64) -> usize {
    assert!(position < last(starts), "position {position} of {}", last(starts));
    starts.partition_point(|&start| start <= position) - 1
}
