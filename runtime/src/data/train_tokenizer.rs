//! Trains a tokenizer from text.
//!
//! Owns the shape of the tokenizers colac makes: byte-level BPE with `<|endoftext|>` as id 0 and the 256 bytes behind
//! it, so that every text can be written and comes back unchanged. Must not know which texts are good ones.

use std::path::{Path, PathBuf};

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerImpl,
};

use crate::data::error::{DataError, one_line};
use crate::data::files::{list_text_files, read_text};
use crate::data::tokenizer::{MAX_VOCAB_SIZE, Tokenizer, pieces};

/// The special token of the tokenizers made here; it ends a document.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Entries that every tokenizer made here has: the special token and the bytes.
const SMALLEST: usize = 1 + 256;

/// Texts are handed to the counting of words in parts of this many bytes.
const PIECE_BYTES: usize = 1 << 16;

/// Trains a byte-level BPE tokenizer of exactly `vocab_size` entries on text files and directories of them
/// (see [`list_text_files`]).
///
/// Words are split off as by the tokenizer itself and counted; then the most frequent pair of neighbouring tokens
/// becomes a token, of equally frequent ones the pair with the smaller ids, until the vocabulary is full (Sennrich,
/// Haddow and Birch, 2016). Equal texts give equal tokenizers, down to the bytes of [`Tokenizer::to_json`].
///
/// # Errors
///
/// If a text cannot be read, or the texts do not contain enough different words for a vocabulary of this size.
pub fn train_bpe(inputs: &[PathBuf], vocab_size: usize) -> Result<Tokenizer, DataError> {
    let wrong_size = |reason: String| DataError::VocabularySize { wanted: vocab_size, reason };
    if !(SMALLEST..=MAX_VOCAB_SIZE).contains(&vocab_size) {
        return Err(wrong_size(format!(
            "a byte-level vocabulary has {SMALLEST} to {MAX_VOCAB_SIZE} entries"
        )));
    }
    let texts = list_text_files(inputs)?
        .iter()
        .map(|file| read_text(&file.path))
        .collect::<Result<Vec<String>, DataError>>()?;

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
    // These cuts do not change which words there are; `splits_at_line_ends` in the tokenizer's module says why.
    let parts: Vec<&str> = texts.iter().flat_map(|text| pieces(text, PIECE_BYTES)).collect();
    tokenizer
        .train(&mut trainer, parts.into_iter())
        .map_err(|error| wrong_size(one_line(error)))?;

    // Reading its own text back gives the trained tokenizer the form of one that was read from a file.
    let json = tokenizer.to_string(false).map_err(|error| wrong_size(one_line(error)))?;
    let trained = Tokenizer::from_bytes(json.as_bytes(), Path::new("the trained tokenizer"))?;
    if trained.vocab_size() < vocab_size {
        return Err(wrong_size(format!(
            "the text is too short and gives only {} entries",
            trained.vocab_size()
        )));
    }
    Ok(trained)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn corpus(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/corpus").join(path)
    }

    /// The committed tokenizers come from this code and these texts, and training them again gives the same bytes.
    #[test]
    fn the_shipped_tokenizers_are_reproduced_to_the_byte() {
        for vocab_size in [4096, 8192] {
            let trained = train_bpe(&[corpus("train")], vocab_size).unwrap();
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
        let tokenizer = train_bpe(&[path], SMALLEST + 3).unwrap();
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
            let error = train_bpe(std::slice::from_ref(&path), vocab_size).unwrap_err();
            assert!(matches!(error, DataError::VocabularySize { .. }), "{error}");
        }
    }
}
