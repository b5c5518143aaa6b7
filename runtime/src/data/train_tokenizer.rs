//! Trains a tokenizer from text.
//!
//! Owns the shape of the tokenizers colac makes: byte-level BPE with `<|endoftext|>` as id 0 and the 256 bytes behind
//! it, so that every text can be written and comes back unchanged. Must not know which texts are good ones.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerImpl,
};

use crate::data::error::{DataError, one_line};
use crate::data::prepare::{PrepareProgress, is_held_out};
use crate::data::source::{BadRecords, FileReader, InputFile, Next, ReadOptions, list_inputs};
use crate::data::tokenizer::{MAX_VOCAB_SIZE, Tokenizer, pieces};

/// The special token of the tokenizers made here; it ends a document.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Entries that every tokenizer made here has: the special token and the bytes.
const SMALLEST: usize = 1 + 256;

/// Texts are handed to the counting of words in parts of this many bytes.
const PIECE_BYTES: usize = 1 << 16;

/// Held-out documents are told from their whole text; a longer one is taken to be none of them.
const MAX_HELD_BYTES: usize = 64 << 20;

/// How far a training has read.
pub type Progress<'a> = dyn FnMut(PrepareProgress) -> ControlFlow<()> + Send + 'a;

/// Trains a byte-level BPE tokenizer of exactly `vocab_size` entries on files and folders of them (see
/// [`list_inputs`]), without the documents that `validation_fraction` holds out ([`is_held_out`]).
///
/// Words are split off as by the tokenizer itself and counted; then the most frequent pair of neighbouring tokens
/// becomes a token, of equally frequent ones the pair with the smaller ids, until the vocabulary is full (Sennrich,
/// Haddow and Birch, 2016). Equal texts give equal tokenizers, down to the bytes of [`Tokenizer::to_json`]. Texts are
/// read in parts; in memory are the different words.
///
/// # Errors
///
/// If a text cannot be read, `progress` ends it, or the texts do not contain enough different words for a vocabulary of
/// this size.
pub fn train_bpe(
    inputs: &[PathBuf],
    vocab_size: usize,
    reading: &ReadOptions,
    validation_fraction: f64,
    progress: &mut Progress<'_>,
) -> Result<Tokenizer, DataError> {
    let wrong_size = |reason: String| DataError::VocabularySize { wanted: vocab_size, reason };
    if !(SMALLEST..=MAX_VOCAB_SIZE).contains(&vocab_size) {
        return Err(wrong_size(format!(
            "a byte-level vocabulary has {SMALLEST} to {MAX_VOCAB_SIZE} entries"
        )));
    }
    let files = list_inputs(inputs, &reading.extensions)?;
    let mut bytes_total = 0;
    for file in &files {
        let metadata = std::fs::metadata(&file.path).map_err(DataError::io("open", &file.path))?;
        bytes_total += metadata.len();
    }

    let byte_level = ByteLevel::new(false, true, true);
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        // A pair that occurs once says nothing about the language.
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let mut tokenizer = TokenizerImpl::<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >::new(BPE::default());
    tokenizer
        .with_pre_tokenizer(Some(PreTokenizerWrapper::ByteLevel(byte_level)))
        .with_decoder(Some(DecoderWrapper::ByteLevel(byte_level)));
    let failure = Mutex::new(None);
    let texts = Texts {
        files: files.into_iter(),
        reader: None,
        reading,
        validation_fraction,
        bad: BadRecords::default(),
        held: Vec::new(),
        held_bytes: 0,
        hasher: blake3::Hasher::new(),
        ready: VecDeque::new(),
        bytes_before: 0,
        bytes_total,
        progress,
        failure: &failure,
    };
    let trained = tokenizer.train(&mut trainer, texts);
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    trained.map_err(|error| wrong_size(one_line(error)))?;

    // Reading its own text back gives the trained tokenizer the form of one that was read from a file.
    let json = tokenizer.to_string(false).map_err(|error| wrong_size(one_line(error)))?;
    let trained = Tokenizer::from_bytes(json.as_bytes(), Path::new("tokenizer.json"))?;
    if trained.vocab_size() < vocab_size {
        return Err(wrong_size(format!(
            "the text is too short and gives only {} entries",
            trained.vocab_size()
        )));
    }
    Ok(trained)
}

/// The texts to count words in, as an iterator that ends early when something is wrong.
struct Texts<'a> {
    files: std::vec::IntoIter<InputFile>,
    reader: Option<FileReader>,
    reading: &'a ReadOptions,
    validation_fraction: f64,
    bad: BadRecords,
    /// Parts of a document of which it is not known whether it is held out.
    held: Vec<String>,
    held_bytes: usize,
    hasher: blake3::Hasher,
    ready: VecDeque<String>,
    bytes_before: u64,
    bytes_total: u64,
    progress: &'a mut Progress<'a>,
    failure: &'a Mutex<Option<DataError>>,
}

impl Texts<'_> {
    /// Reads on until a text is ready; false at the end.
    fn read(&mut self) -> Result<bool, DataError> {
        let mut text = String::new();
        while self.ready.is_empty() {
            let Some(reader) = &mut self.reader else {
                let Some(file) = self.files.next() else { return Ok(false) };
                self.reader = Some(FileReader::open(&file, self.reading, false)?);
                continue;
            };
            let next = reader.next(&mut text, &mut self.bad)?;
            let done = self.bytes_before + reader.bytes();
            match next {
                Next::Part | Next::Last => {
                    self.hasher.update(text.as_bytes());
                    self.held_bytes += text.len();
                    self.held.push(std::mem::take(&mut text));
                    if next == Next::Last || self.held_bytes > MAX_HELD_BYTES {
                        let hash = std::mem::take(&mut self.hasher).finalize();
                        let whole = next == Next::Last && self.held_bytes <= MAX_HELD_BYTES;
                        let held = std::mem::take(&mut self.held);
                        self.held_bytes = if next == Next::Last { 0 } else { MAX_HELD_BYTES };
                        if !(whole && is_held_out(&hash, self.validation_fraction)) {
                            self.ready.extend(held);
                        }
                    }
                }
                Next::Bad { .. } => {
                    self.held.clear();
                    self.held_bytes = 0;
                    self.hasher.reset();
                }
                Next::End => {
                    self.bytes_before = done;
                    self.reader = None;
                }
            }
            let (bytes_done, bytes_total) = (done.min(self.bytes_total), self.bytes_total);
            let progress = PrepareProgress { bytes_done, bytes_total, tokens: 0 };
            if (self.progress)(progress).is_break() {
                return Err(DataError::Interrupted { path: PathBuf::from("the tokenizer") });
            }
        }
        Ok(true)
    }
}

impl Iterator for Texts<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        match self.read() {
            Ok(true) => {
                let text = self.ready.pop_front()?;
                // Cuts here do not change which words there are; `splits_at_line_ends` in the tokenizer's module says
                // why. Short texts spread better over the threads that count.
                if text.len() > PIECE_BYTES {
                    let mut parts = pieces(&text, PIECE_BYTES).into_iter().map(str::to_owned);
                    let first = parts.next();
                    for (at, part) in parts.enumerate() {
                        self.ready.insert(at, part);
                    }
                    return first;
                }
                Some(text)
            }
            Ok(false) => None,
            Err(error) => {
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn train(inputs: &[PathBuf], vocab_size: usize) -> Result<Tokenizer, DataError> {
        let go_on = &mut |_| ControlFlow::Continue(());
        train_bpe(inputs, vocab_size, &ReadOptions::default(), 0.0, go_on)
    }

    fn corpus(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/corpus").join(path)
    }

    /// The committed tokenizers come from this code and these texts, and training them again gives the same bytes.
    #[test]
    fn the_shipped_tokenizers_are_reproduced_to_the_byte() {
        for vocab_size in [4096, 8192] {
            let trained = train(&[corpus("train")], vocab_size).unwrap();
            let shipped =
                fs::read_to_string(corpus(&format!("tokenizer-{vocab_size}.json"))).unwrap();
            // `assert_eq` would print both files.
            assert!(
                trained.to_json().unwrap() == shipped,
                "tokenizer-{vocab_size}.json differs from what training gives"
            );
            assert_eq!(trained.vocab_size(), vocab_size);
        }
    }

    #[test]
    fn the_first_entries_are_the_end_of_text_and_the_bytes() {
        let tokenizer = Tokenizer::from_file(&corpus("tokenizer-4096.json")).unwrap();
        assert_eq!(tokenizer.end_of_text(), Some(0));
        assert_eq!(tokenizer.token_id(END_OF_TEXT).unwrap(), 0);
        let lengths = tokenizer.token_byte_lengths();
        assert_eq!(lengths[0], 0);
        assert!(lengths[1..SMALLEST].iter().all(|&length| length == 1));
        assert!(lengths[SMALLEST..].iter().all(|&length| length > 1));
    }

    #[test]
    fn merges_follow_the_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("text.txt");
        // Words: "abc" five times, "ab" three times, "xyz" four times; spaces are parts of the words behind them.
        fs::write(&path, "abc\nabc\nabc\nabc\nabc\nab\nab\nab\nxyz\nxyz\nxyz\nxyz\n").unwrap();
        let tokenizer = train(&[path], SMALLEST + 3).unwrap();
        // "ab" occurs eight times, "abc" five, "xy" and "yz" four times with "x" < "y".
        for (token, id) in [("ab", SMALLEST), ("abc", SMALLEST + 1), ("xy", SMALLEST + 2)] {
            assert_eq!(tokenizer.token_id(token).unwrap(), id as u32);
        }
    }

    #[test]
    fn impossible_sizes_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("text.txt");
        fs::write(&path, "one two one two").unwrap();
        for vocab_size in [0, SMALLEST - 1, 1000, usize::MAX] {
            let error = train(std::slice::from_ref(&path), vocab_size).unwrap_err();
            assert!(matches!(error, DataError::VocabularySize { .. }), "{error}");
        }
    }
}
