//! A tokenized corpus: one or more shards seen as one stream of tokens and one list of documents.
//!
//! Owns the order of the shards and the checks that they, a tokenizer and a model belong together.
//! Must not know how samples are ordered or batches filled.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::data::error::DataError;
use crate::data::shard::{EXTENSION, MAGIC, TokenShard};
use crate::data::tokenizer::VocabularyHash;

/// The shards of a corpus, mapped and checked.
#[derive(Debug)]
pub struct TokenCorpus {
    shards: Vec<TokenShard>,
    /// First token of each shard in the stream, and the number of all tokens behind them.
    token_starts: Vec<u64>,
    /// First document of each shard in the list, and the number of all documents behind them.
    document_starts: Vec<u64>,
    /// For each id the bytes of text it stands for.
    byte_lengths: Vec<u16>,
    /// Sum of these lengths over all tokens.
    token_bytes: u64,
    content_hash: [u8; 32],
}

impl TokenCorpus {
    /// Opens shards, and directories with all shards of one corpus, and checks every byte of them.
    /// The stream runs through the paths in their order, and through the shards of a directory in the order of their
    /// names.
    ///
    /// # Errors
    ///
    /// If a path has no shards, a part of a directory's corpus is missing, a shard is damaged, or they were made with
    /// different tokenizers.
    pub fn open(paths: &[PathBuf]) -> Result<Self, DataError> {
        let mut shards = Vec::new();
        for path in paths {
            if is_directory(path)? {
                let files = list_shards(path)?;
                if files.is_empty() {
                    return Err(DataError::NoShards { path: path.clone() });
                }
                let parts = files
                    .iter()
                    .map(|file| TokenShard::open(file))
                    .collect::<Result<Vec<_>, _>>()?;
                check_complete(path, &parts)?;
                shards.extend(parts);
            } else {
                shards.push(TokenShard::open(path)?);
            }
        }
        if shards.is_empty() {
            return Err(DataError::NoShards { path: PathBuf::new() });
        }
        check_together(&shards)?;
        let byte_lengths: Vec<u16> =
            (0..shards[0].vocab_size() as u32).map(|id| shards[0].byte_length(id)).collect();
        let mut corpus = Self {
            token_starts: running_sum(shards.iter().map(TokenShard::token_count)),
            document_starts: running_sum(shards.iter().map(TokenShard::document_count)),
            shards,
            byte_lengths,
            token_bytes: 0,
            content_hash: [0; 32],
        };
        corpus.scan();
        Ok(corpus)
    }

    /// Where the corpus begins: what messages about all of it name.
    pub fn path(&self) -> &Path {
        self.shards[0].path()
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

    /// Identifies the ids and the places where documents begin, whatever shards they lie in: a run that goes on with
    /// the same hash sees the same data.
    pub fn content_hash(&self) -> [u8; 32] {
        self.content_hash
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
                path: self.path().to_owned(),
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
            Err(DataError::TokenizerMismatch { path: self.path().to_owned(), expected, found })
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

    /// For each id the bytes of text it stands for: what bits per byte are computed from.
    ///
    /// Exact for byte-level tokenizers. Others add or drop spaces, letters' cases or accents; `None` if the lengths of
    /// all tokens miss the size of the text by more than one percent.
    pub fn token_byte_lengths(&self) -> Option<&[u16]> {
        let missed = self.token_bytes.abs_diff(self.text_bytes());
        (missed <= self.text_bytes() / 100).then_some(&self.byte_lengths)
    }

    /// Computes what depends on all tokens.
    fn scan(&mut self) {
        let mut hasher = blake3::Hasher::new();
        let mut ids = vec![0; 1 << 14];
        let mut start = 0;
        while start < self.token_count() {
            let count =
                ids.len().min(usize::try_from(self.token_count() - start).unwrap_or(usize::MAX));
            let ids = &mut ids[..count];
            self.copy_ids(start, ids);
            self.token_bytes +=
                ids.iter().map(|&id| u64::from(self.byte_lengths[id as usize])).sum::<u64>();
            for id in &mut *ids {
                *id = id.to_le();
            }
            hasher.update(bytemuck::cast_slice(ids));
            start += count as u64;
        }
        for document in 0..self.document_count() {
            hasher.update(&self.document(document).start.to_le_bytes());
        }
        self.content_hash = *hasher.finalize().as_bytes();
    }
}

/// Whether a path stands for tokens: it begins like a token shard, or is a directory in which shards lie. Otherwise it
/// stands for text.
///
/// # Errors
///
/// If it cannot be read.
pub fn holds_shards(path: &Path) -> Result<bool, DataError> {
    if is_directory(path)? {
        return Ok(!list_shards(path)?.is_empty());
    }
    let mut beginning = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut beginning))
        .map_err(DataError::io("read", path))?;
    Ok(beginning == MAGIC)
}

fn is_directory(path: &Path) -> Result<bool, DataError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(DataError::NoShards { path: path.to_owned() })
        }
        metadata => Ok(metadata.map_err(DataError::io("open", path))?.is_dir()),
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

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;
    use crate::data::shard::{ShardWriter, Source, Vocabulary};

    fn write(path: &Path, ids: &[u32], hash: u8, part: u32, part_count: u32) {
        let documents: Vec<&[u32]> = ids.chunks(3).collect();
        write_documents(path, &documents, hash, part, part_count);
    }

    fn write_documents(path: &Path, documents: &[&[u32]], hash: u8, part: u32, part_count: u32) {
        let vocabulary = Vocabulary {
            hash: VocabularyHash([hash; 32]),
            end_of_text: None,
            byte_lengths: vec![1; 50],
        };
        let source = Source { name: "a".to_owned(), bytes: 0, blake3: String::new(), documents: 0 };
        let mut writer = ShardWriter::create(path.parent().unwrap(), 0, &vocabulary).unwrap();
        for document in documents {
            writer.push(document, 3, &source).unwrap();
        }
        writer.finish(&vocabulary).unwrap().commit(path, part, part_count).unwrap();
    }

    #[test]
    fn shards_are_one_stream() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (directory.path().join("1.tokens"), directory.path().join("2.tokens"));
        write(&one, &[1, 2, 3, 4], 7, 1, 2);
        write(&two, &[5, 6, 7, 8, 9], 7, 2, 2);
        let corpus = TokenCorpus::open(&[directory.path().to_owned()]).unwrap();
        let documents: Vec<Range<u64>> =
            (0..corpus.document_count()).map(|index| corpus.document(index)).collect();
        assert_eq!(documents, [0..3, 3..4, 4..7, 7..9]);
        for start in 0..9 {
            for end in start..=9 {
                let mut ids = vec![0; end - start];
                corpus.copy_ids(start as u64, &mut ids);
                assert!(ids.iter().copied().eq(start as i32 + 1..=end as i32));
            }
        }
        // Given one by one, in an order of the user's own.
        let turned = TokenCorpus::open(&[two, one]).unwrap();
        let mut ids = [0; 9];
        turned.copy_ids(0, &mut ids);
        assert_eq!(ids, [5, 6, 7, 8, 9, 1, 2, 3, 4]);
        assert_ne!(turned.content_hash(), corpus.content_hash());

        // What the ids are cut into does not matter, but where documents begin does.
        let (whole, other) = (directory.path().join("whole"), directory.path().join("other"));
        write_documents(&whole, &[&[1, 2, 3], &[4], &[5, 6, 7], &[8, 9]], 7, 1, 1);
        assert_eq!(TokenCorpus::open(&[whole]).unwrap().content_hash(), corpus.content_hash());
        write_documents(&other, &[&[1, 2, 3], &[4, 5, 6, 7], &[8, 9]], 7, 1, 1);
        assert_ne!(TokenCorpus::open(&[other]).unwrap().content_hash(), corpus.content_hash());
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let open = || TokenCorpus::open(&[directory.path().to_owned()]);
        assert!(matches!(open(), Err(DataError::NoShards { .. })));
        assert!(matches!(TokenCorpus::open(&[path("missing")]), Err(DataError::NoShards { .. })));
        assert!(matches!(TokenCorpus::open(&[]), Err(DataError::NoShards { .. })));
        write(&path("1.tokens"), &[1, 2], 7, 1, 2);
        assert!(matches!(open(), Err(DataError::IncompleteCorpus { found: 1, expected: 2, .. })));
        write(&path("2.tokens"), &[1, 49], 8, 2, 2);
        assert!(matches!(open(), Err(DataError::MixedShards { what: "tokenizers", .. })));
        write(&path("2.tokens"), &[1, 49], 7, 2, 2);
        let corpus = open().unwrap();
        assert!(matches!(
            corpus.check_fits(49),
            Err(DataError::IdOutOfVocabulary { max_id: 49, .. })
        ));
        corpus.check_fits(50).unwrap();
        corpus.check_tokenizer(VocabularyHash([7; 32])).unwrap();
        let mismatch = corpus.check_tokenizer(VocabularyHash([0xab; 32])).unwrap_err().to_string();
        assert!(
            mismatch.contains("with vocabulary 070707070707, not with abababababab: "),
            "{mismatch}"
        );
        write(&path("3.tokens"), &[1, 2], 7, 1, 1);
        assert!(matches!(open(), Err(DataError::IncompleteCorpus { found: 3, expected: 2, .. })));
    }

    #[test]
    fn lengths_that_miss_the_text_are_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("1.tokens");
        write(&path, &[1, 2, 3], 7, 1, 1);
        assert_eq!(
            TokenCorpus::open(from_ref(&path)).unwrap().token_byte_lengths(),
            Some(&[1; 50][..])
        );
        // One token, and three bytes of text according to the header.
        write(&path, &[1], 7, 1, 1);
        assert_eq!(TokenCorpus::open(&[path]).unwrap().token_byte_lengths(), None);
    }

    #[test]
    fn tokens_are_told_from_text() {
        let directory = tempfile::tempdir().unwrap();
        let (text, shard) = (directory.path().join("a.txt"), directory.path().join("odd-name"));
        fs::write(&text, "COLAC").unwrap();
        write(&shard, &[1], 7, 1, 1);
        assert!(!holds_shards(&text).unwrap());
        assert!(holds_shards(&shard).unwrap());
        assert!(!holds_shards(directory.path()).unwrap());
        fs::rename(&shard, directory.path().join("1.tokens")).unwrap();
        assert!(holds_shards(directory.path()).unwrap());
    }
}
