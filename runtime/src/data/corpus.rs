//! A tokenized corpus: one or more files of ids seen as one stream of tokens and one list of documents.
//!
//! Owns the order of the files and the checks that they, a tokenizer and a model belong together. The files are our own
//! shards or those of other trainers. Must not know how samples are ordered or batches filled.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use colac_plan::recipe::TokenDType;

use crate::data::error::DataError;
use crate::data::shard::{EXTENSION, MAGIC, Manifest, TokenShard};
use crate::data::token_file::{self, TokenFile, begins_as_token_file};
use crate::data::tokenizer::{Tokenizer, VocabularyHash};

/// What is known of files of ids beyond what they say themselves.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions<'a> {
    /// Format of the ids in files without a header.
    pub token_dtype: Option<TokenDType>,
    /// The tokenizer that the ids of other trainers' files are taken to be from: it tells where documents end and how
    /// much text an id stands for. Our own shards say that themselves.
    pub tokenizer: Option<&'a Tokenizer>,
}

/// A file of ids.
#[derive(Debug)]
enum Shard {
    Own(TokenShard),
    Foreign(TokenFile),
}

impl Shard {
    fn open(path: &Path, options: &OpenOptions<'_>) -> Result<Self, DataError> {
        if is_foreign(path)? {
            let end_of_text = options.tokenizer.and_then(Tokenizer::end_of_text);
            return Ok(Self::Foreign(TokenFile::open(path, options.token_dtype, end_of_text)?));
        }
        Ok(Self::Own(TokenShard::open(path)?))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Own(shard) => shard.path(),
            Self::Foreign(file) => file.path(),
        }
    }

    fn token_count(&self) -> u64 {
        match self {
            Self::Own(shard) => shard.token_count(),
            Self::Foreign(file) => file.token_count(),
        }
    }

    fn document_count(&self) -> u64 {
        match self {
            Self::Own(shard) => shard.document_count(),
            Self::Foreign(file) => file.document_count(),
        }
    }

    fn document_start(&self, document: u64) -> u64 {
        match self {
            Self::Own(shard) => shard.document_start(document),
            Self::Foreign(file) => file.document_start(document),
        }
    }

    fn max_id(&self) -> u32 {
        match self {
            Self::Own(shard) => shard.max_id(),
            Self::Foreign(file) => file.max_id(),
        }
    }

    fn copy_ids(&self, start: u64, ids: &mut [i32]) {
        match self {
            Self::Own(shard) => shard.copy_ids(start, ids),
            Self::Foreign(file) => file.copy_ids(start, ids),
        }
    }
}

/// What the ids of a corpus are from.
#[derive(Debug)]
struct Vocabulary {
    /// `None` for files that do not say.
    hash: Option<VocabularyHash>,
    size: usize,
    end_of_text: Option<u32>,
    /// For each id the bytes of text it stands for, where that is known.
    byte_lengths: Option<Vec<u16>>,
}

/// The files of a corpus, mapped and checked.
#[derive(Debug)]
pub struct TokenCorpus {
    shards: Vec<Shard>,
    /// First token of each shard in the stream, and the number of all tokens behind them.
    token_starts: Vec<u64>,
    /// First document of each shard in the list, and the number of all documents behind them.
    document_starts: Vec<u64>,
    vocabulary: Vocabulary,
    /// Sum of the byte lengths over all tokens.
    token_bytes: u64,
    content_hash: [u8; 32],
}

impl TokenCorpus {
    /// As [`TokenCorpus::open_with`], knowing nothing but the files.
    ///
    /// # Errors
    ///
    /// As for [`TokenCorpus::open_with`].
    pub fn open(paths: &[PathBuf]) -> Result<Self, DataError> {
        Self::open_with(paths, &OpenOptions::default())
    }

    /// Opens files of ids, and folders with all shards of one corpus or with `.bin` files, and checks every byte of
    /// them. The stream runs through the paths in their order, and through the files of a folder in the order of their
    /// names.
    ///
    /// # Errors
    ///
    /// If a path has no tokens, a part of a folder's corpus is missing, a file is damaged, or they were made with
    /// different tokenizers.
    pub fn open_with(paths: &[PathBuf], options: &OpenOptions<'_>) -> Result<Self, DataError> {
        let mut shards = Vec::new();
        for path in paths {
            if !is_directory(path)? {
                shards.push(Shard::open(path, options)?);
                continue;
            }
            let files = list_tokens(path)?;
            if files.is_empty() {
                return Err(DataError::NoShards { path: path.clone() });
            }
            let parts = files
                .iter()
                .map(|file| Shard::open(file, options))
                .collect::<Result<Vec<_>, _>>()?;
            check_complete(path, &parts)?;
            shards.extend(parts);
        }
        if shards.is_empty() {
            return Err(DataError::NoShards { path: PathBuf::new() });
        }
        check_together(&shards)?;
        let vocabulary = vocabulary(&shards, options.tokenizer)?;
        let mut corpus = Self {
            token_starts: running_sum(shards.iter().map(Shard::token_count)),
            document_starts: running_sum(shards.iter().map(Shard::document_count)),
            shards,
            vocabulary,
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

    /// Number of files.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// What our own shards tell of their making, in the order of the stream.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.shards.iter().filter_map(|shard| match shard {
            Shard::Own(shard) => Some(shard.manifest()),
            Shard::Foreign(_) => None,
        })
    }

    /// What the files are called: `token shard`, `token file of llm.c` …
    pub fn format(&self) -> &'static str {
        match &self.shards[0] {
            Shard::Own(_) => "token shard",
            Shard::Foreign(file) => file.header().kind.name(),
        }
    }

    /// Number of tokens; at least one.
    pub fn token_count(&self) -> u64 {
        last(&self.token_starts)
    }

    /// Number of documents; at least one.
    pub fn document_count(&self) -> u64 {
        last(&self.document_starts)
    }

    /// Whether it is known where documents begin. It is not in other trainers' files without a tokenizer that has a
    /// token at the end of documents; each file is then one document.
    pub fn knows_documents(&self) -> bool {
        self.vocabulary.end_of_text.is_some()
            || self.shards.iter().all(|shard| matches!(shard, Shard::Own(_)))
    }

    /// Bytes of the text that was tokenized; for other trainers' files what their ids stand for, or 0 without a
    /// tokenizer.
    pub fn text_bytes(&self) -> u64 {
        self.shards
            .iter()
            .map(|shard| match shard {
                Shard::Own(shard) => Some(shard.text_bytes()),
                Shard::Foreign(_) => None,
            })
            .sum::<Option<u64>>()
            .unwrap_or(self.token_bytes)
    }

    /// The largest id that occurs.
    pub fn max_id(&self) -> u32 {
        self.shards.iter().map(Shard::max_id).max().unwrap_or(0)
    }

    /// Number of entries of the tokenizer's vocabulary; where it is not known, one more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.size
    }

    /// The id behind the last token of every document, if there is one.
    pub fn end_of_text(&self) -> Option<u32> {
        self.vocabulary.end_of_text
    }

    /// Which tokenizer made the ids; other trainers' files do not say.
    pub fn vocabulary_hash(&self) -> Option<VocabularyHash> {
        self.vocabulary.hash
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
        check_ids(self.path(), self.max_id(), vocab_size)
    }

    /// Checks that the ids mean what a tokenizer, another corpus or a checkpoint says they mean, as far as the files
    /// say.
    ///
    /// # Errors
    ///
    /// If the corpus was made with another tokenizer.
    pub fn check_tokenizer(&self, expected: VocabularyHash) -> Result<(), DataError> {
        match self.vocabulary_hash() {
            Some(found) if found != expected => {
                Err(DataError::TokenizerMismatch { path: self.path().to_owned(), expected, found })
            }
            _ => Ok(()),
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
    /// all tokens miss the size of the text by more than one percent, or nothing is known of the tokenizer.
    pub fn token_byte_lengths(&self) -> Option<&[u16]> {
        let missed = self.token_bytes.abs_diff(self.text_bytes());
        let lengths = self.vocabulary.byte_lengths.as_deref()?;
        (missed <= self.text_bytes() / 100).then_some(lengths)
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
            if let Some(lengths) = &self.vocabulary.byte_lengths {
                self.token_bytes +=
                    ids.iter().map(|&id| u64::from(lengths[id as usize])).sum::<u64>();
            }
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

/// What the ids are from: as the shards say, or as the given tokenizer has it.
fn vocabulary(shards: &[Shard], tokenizer: Option<&Tokenizer>) -> Result<Vocabulary, DataError> {
    if let Shard::Own(shard) = &shards[0] {
        let size = shard.vocab_size();
        return Ok(Vocabulary {
            hash: Some(shard.vocabulary_hash()),
            size,
            end_of_text: shard.end_of_text(),
            byte_lengths: Some((0..size as u32).map(|id| shard.byte_length(id)).collect()),
        });
    }
    let largest = shards.iter().max_by_key(|shard| shard.max_id()).unwrap_or(&shards[0]);
    let Some(tokenizer) = tokenizer else {
        let size = largest.max_id() as usize + 1;
        return Ok(Vocabulary { hash: None, size, end_of_text: None, byte_lengths: None });
    };
    let size = tokenizer.vocab_size();
    if largest.max_id() as usize >= size {
        return Err(DataError::IdOutOfTokenizer {
            path: largest.path().to_owned(),
            max_id: largest.max_id(),
            tokenizer: tokenizer.path().to_owned(),
            vocab_size: size as u64,
        });
    }
    Ok(Vocabulary {
        hash: None,
        size,
        end_of_text: tokenizer.end_of_text(),
        byte_lengths: Some(tokenizer.token_byte_lengths()),
    })
}

/// Checks that a model with this many ids has one for each that occurs.
pub(crate) fn check_ids(path: &Path, max_id: u32, vocab_size: u64) -> Result<(), DataError> {
    if u64::from(max_id) < vocab_size {
        return Ok(());
    }
    Err(DataError::IdOutOfVocabulary { path: path.to_owned(), max_id, vocab_size })
}

/// Whether a path stands for tokens: it begins like a token shard or like a token file of another trainer, its name
/// ends in `.bin`, or it is a folder in which such files lie. Otherwise it stands for text.
///
/// # Errors
///
/// If it cannot be read.
pub fn holds_tokens(path: &Path) -> Result<bool, DataError> {
    if is_directory(path)? {
        return Ok(!list_tokens(path)?.is_empty());
    }
    let beginning = beginning(path)?;
    Ok(beginning == MAGIC || is_foreign(path)?)
}

/// Whether a file of tokens is of another trainer.
pub(crate) fn is_foreign(path: &Path) -> Result<bool, DataError> {
    let beginning = beginning(path)?;
    let named = path.extension().is_some_and(|extension| extension == token_file::EXTENSION);
    Ok(begins_as_token_file(&beginning) || (named && beginning != MAGIC))
}

fn beginning(path: &Path) -> Result<Vec<u8>, DataError> {
    let mut beginning = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut beginning))
        .map_err(DataError::io("read", path))?;
    Ok(beginning)
}

fn is_directory(path: &Path) -> Result<bool, DataError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(DataError::NoShards { path: path.to_owned() })
        }
        metadata => Ok(metadata.map_err(DataError::io("open", path))?.is_dir()),
    }
}

/// The files of tokens that lie in a folder, sorted by name: shards, or if there are none files named `.bin`.
pub(crate) fn list_tokens(directory: &Path) -> Result<Vec<PathBuf>, DataError> {
    let shards = list_shards(directory)?;
    if !shards.is_empty() {
        return Ok(shards);
    }
    list_by_extension(directory, token_file::EXTENSION)
}

/// The shards that lie in a directory, sorted by name.
pub(crate) fn list_shards(directory: &Path) -> Result<Vec<PathBuf>, DataError> {
    list_by_extension(directory, EXTENSION)
}

fn list_by_extension(directory: &Path, wanted: &str) -> Result<Vec<PathBuf>, DataError> {
    let mut files = fs::read_dir(directory)
        .and_then(|entries| {
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()
        })
        .map_err(DataError::io("list", directory))?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == wanted));
    files.sort_unstable();
    Ok(files)
}

/// Checks that all files speak of the same vocabulary.
fn check_together(shards: &[Shard]) -> Result<(), DataError> {
    let first = &shards[0];
    for shard in &shards[1..] {
        let what = match (first, shard) {
            (Shard::Foreign(_), Shard::Foreign(_)) => continue,
            (Shard::Own(first), Shard::Own(shard)) => {
                if shard.vocabulary_hash() != first.vocabulary_hash() {
                    "tokenizers"
                } else if shard.vocab_size() != first.vocab_size() {
                    "vocabulary sizes"
                } else if shard.end_of_text() != first.end_of_text() {
                    "end-of-text tokens"
                } else {
                    continue;
                }
            }
            _ => "formats",
        };
        let (first, second) = (first.path().to_owned(), shard.path().to_owned());
        return Err(DataError::MixedShards { first, second, what });
    }
    Ok(())
}

/// Checks that a directory of shards holds parts 1 to n of one corpus.
fn check_complete(directory: &Path, shards: &[Shard]) -> Result<(), DataError> {
    let parts: Vec<(u32, u32)> = shards
        .iter()
        .filter_map(|shard| match shard {
            Shard::Own(shard) => Some(shard.part()),
            Shard::Foreign(_) => None,
        })
        .collect();
    check_parts(directory, &parts)
}

/// Checks that numbers and counts of parts are those of one complete corpus; files of other trainers have none.
pub(crate) fn check_parts(directory: &Path, parts: &[(u32, u32)]) -> Result<(), DataError> {
    let Some(&(_, expected)) = parts.first() else { return Ok(()) };
    let complete = parts.len() == expected as usize
        && parts.iter().zip(1..).all(|(part, number)| *part == (number, expected));
    if complete {
        return Ok(());
    }
    let path = directory.to_owned();
    Err(DataError::IncompleteCorpus { path, found: parts.len(), expected })
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
        let manifest = Manifest { sources: vec![source], ..Manifest::default() };
        let mut writer = ShardWriter::create(path.parent().unwrap(), "shard", &vocabulary).unwrap();
        for document in documents {
            writer.push(document, 3, 0).unwrap();
        }
        let finished = writer.finish(&vocabulary).unwrap();
        finished.commit(path, (part, part_count), &manifest).unwrap();
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
        assert!(!holds_tokens(&text).unwrap());
        assert!(holds_tokens(&shard).unwrap());
        assert!(!holds_tokens(directory.path()).unwrap());
        fs::rename(&shard, directory.path().join("1.tokens")).unwrap();
        assert!(holds_tokens(directory.path()).unwrap());
        // Shards come first; without them, files of other trainers are what a folder holds.
        fs::remove_file(directory.path().join("1.tokens")).unwrap();
        fs::write(directory.path().join("1.bin"), [1, 0, 2, 0]).unwrap();
        assert!(holds_tokens(directory.path()).unwrap());
    }

    /// Ids of other trainers are a corpus like any other, and a tokenizer tells what they do not say.
    #[test]
    fn files_of_other_trainers_are_a_corpus() {
        let directory = tempfile::tempdir().unwrap();
        let tokenizer =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/corpus/tokenizer-4096.json");
        let tokenizer = Tokenizer::from_file(&tokenizer).unwrap();
        let paths = [directory.path().to_owned()];
        let open = |tokenizer| {
            let token_dtype = Some(TokenDType::U16);
            TokenCorpus::open_with(&paths, &OpenOptions { token_dtype, tokenizer })
        };
        let write = |name: &str, ids: &[u16]| {
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            fs::write(directory.path().join(name), bytes).unwrap();
        };
        write("a.bin", &[5, 6, 0, 7]);
        write("b.bin", &[8, 0]);
        let plain = open(None).unwrap();
        assert_eq!((plain.token_count(), plain.document_count(), plain.max_id()), (6, 2, 8));
        assert_eq!((plain.vocab_size(), plain.vocabulary_hash()), (9, None));
        assert!(!plain.knows_documents() && plain.token_byte_lengths().is_none());
        plain.check_tokenizer(VocabularyHash([1; 32])).unwrap();
        let known = open(Some(&tokenizer)).unwrap();
        let documents: Vec<Range<u64>> =
            (0..known.document_count()).map(|index| known.document(index)).collect();
        assert_eq!(documents, [0..3, 3..4, 4..6]);
        assert!(known.knows_documents() && known.token_byte_lengths().is_some());
        assert_eq!((known.text_bytes(), known.end_of_text()), (4, Some(0)));
        write("b.bin", &[4096]);
        let error = open(Some(&tokenizer)).unwrap_err().to_string();
        assert!(error.contains("id 4096") && error.contains("tokenizer-4096.json"), "{error}");
        assert!(TokenCorpus::open(&paths).unwrap_err().to_string().contains("data.token_dtype"));
    }
}
