//! Text to token ids and back.
//!
//! Owns the one way in which colac uses a tokenizer: `tokenizer.json` files of Hugging Face, without truncation and
//! padding, and with text taken as text. Which special tokens there are stands in `special`, threads in `encode`. Must
//! not know where texts come from or what becomes of the ids.

mod encode;
mod special;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokenizers::tokenizer::step_decode_stream;
use tokenizers::{DecoderWrapper, ModelWrapper, PreTokenizerWrapper};

use crate::data::error::{DataError, one_line};
use crate::data::files::{PartialFile, parent};
pub use special::SpecialTokens;

/// The largest vocabulary that is accepted. Real ones stay below 300,000 entries; a larger id is a damaged file, and
/// tables are made with one row per id.
pub(crate) const MAX_VOCAB_SIZE: usize = 1 << 24;

/// Text is tokenized in pieces of about this many bytes where that gives the same ids.
const PIECE_BYTES: usize = 1 << 15;

/// What the ids of a tokenizer mean: the BLAKE3 hash of its vocabulary.
///
/// Hashed are the bytes `colac vocabulary 1`, then for each id in ascending order the id and the length of the token as
/// 32-bit little-endian numbers and the token's UTF-8 bytes. Names of tokenizers are not to be trusted, and a hash of
/// the file would change with its line breaks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VocabularyHash(pub [u8; 32]);

impl fmt::Display for VocabularyHash {
    /// Hexadecimal digits; a precision such as `{:.12}` shortens them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for VocabularyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VocabularyHash({self})")
    }
}

impl FromStr for VocabularyHash {
    type Err = blake3::HexError;

    /// Reads the 64 hexadecimal digits that `Display` writes.
    fn from_str(digits: &str) -> Result<Self, Self::Err> {
        blake3::Hash::from_hex(digits).map(|hash| Self(*hash.as_bytes()))
    }
}

/// A tokenizer, ready for use.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    vocab_size: usize,
    end_of_text: Option<u32>,
    hash: VocabularyHash,
    splits_at_line_ends: bool,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("path", &self.path)
            .field("vocab_size", &self.vocab_size)
            .field("end_of_text", &self.end_of_text)
            .field("hash", &self.hash)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is no tokenizer.
    pub fn from_file(path: &Path) -> Result<Self, DataError> {
        if path.is_dir() {
            let reason = "it is a folder".to_owned();
            return Err(DataError::NotTokenizer { path: path.to_owned(), reason });
        }
        let bytes = fs::read(path).map_err(DataError::io("read the tokenizer", path))?;
        Self::from_bytes(&bytes, path)
    }

    /// Reads the bytes of a `tokenizer.json`; `path` names them in error messages.
    ///
    /// # Errors
    ///
    /// If the bytes are no tokenizer.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, DataError> {
        let wrong = |reason: String| DataError::NotTokenizer { path: path.to_owned(), reason };
        // The tokenizer's own parser answers a file of another kind with a list of all the variants it tried.
        let json: serde_json::Value = serde_json::from_slice(bytes)
            .map_err(|error| wrong(format!("it is not JSON ({})", one_line(error))))?;
        if !json.get("model").is_some_and(serde_json::Value::is_object) {
            return Err(wrong("it is JSON, but has no object `model`".to_owned()));
        }
        let mut inner =
            tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| wrong(one_line(error)))?;
        // Both occur in published files and would cut and fill documents without a word.
        inner.with_truncation(None).map_err(|error| wrong(one_line(error)))?;
        inner.with_padding(None);
        // Text that looks like a special token is text; only the program itself places special tokens.
        inner.set_encode_special_tokens(true);

        let vocabulary = inner.get_vocab(true);
        let vocab_size = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
        if vocab_size == 0 || vocab_size > MAX_VOCAB_SIZE {
            return Err(wrong(format!(
                "a vocabulary of {vocab_size} entries is not between 1 and {MAX_VOCAB_SIZE}"
            )));
        }
        let end_of_text = special::end_of_text(&inner);
        let hash = hash_vocabulary(&inner, vocab_size);
        let splits_at_line_ends = splits_at_line_ends(&inner);
        Ok(Self {
            inner,
            path: path.to_owned(),
            vocab_size,
            end_of_text,
            hash,
            splits_at_line_ends,
        })
    }

    /// The file the tokenizer came from, or the name it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ids are below this number. Not every smaller number needs to be an id.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Identifies what the ids mean.
    pub fn hash(&self) -> VocabularyHash {
        self.hash
    }

    /// The id that ends a document, if the tokenizer has a token of one of the usual names for it.
    pub fn end_of_text(&self) -> Option<u32> {
        self.end_of_text
    }

    /// The id of a token, special or not.
    ///
    /// # Errors
    ///
    /// If there is no such token.
    pub fn token_id(&self, token: &str) -> Result<u32, DataError> {
        self.inner.token_to_id(token).ok_or_else(|| DataError::NoSuchToken {
            path: self.path.clone(),
            token: token.to_owned(),
        })
    }

    /// The text of a sequence of ids, special tokens included. Bytes that form no character become U+FFFD, ids without
    /// a token nothing.
    ///
    /// # Errors
    ///
    /// If the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        self.inner
            .decode(ids, false)
            .map_err(|error| DataError::Encode { path: self.path.clone(), reason: one_line(error) })
    }

    /// A decoder that takes ids one by one, for showing text while it is generated.
    pub fn streaming_decoder(&self) -> StreamingDecoder<'_> {
        StreamingDecoder {
            tokenizer: self,
            ids: Vec::new(),
            prefix: String::new(),
            prefix_index: 0,
        }
    }

    /// For each id below [`Tokenizer::vocab_size`] the bytes of text it stands for; 0 for special tokens and ids
    /// without a token.
    ///
    /// Exact for byte-level tokenizers. Others may add or drop spaces, so that sums over a text differ a little from
    /// its size.
    pub fn token_byte_lengths(&self) -> Vec<u16> {
        let byte_level = matches!(self.inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
        let continuation = match self.inner.get_model() {
            ModelWrapper::WordPiece(model) => model.continuing_subword_prefix.as_str(),
            _ => "",
        };
        let added = self.inner.get_added_tokens_decoder();
        (0..self.vocab_size as u32)
            .map(|id| {
                let length = match (added.get(&id), self.inner.id_to_token(id)) {
                    (_, None) => 0,
                    (Some(added), _) if added.special => 0,
                    (Some(added), _) => added.content.len(),
                    // The byte-level alphabet writes every byte as one character.
                    (None, Some(token)) if byte_level => token.chars().count(),
                    (None, Some(token)) if is_byte_token(&token) => 1,
                    (None, Some(token)) => {
                        let token = token.strip_prefix(continuation).unwrap_or(&token);
                        // SentencePiece writes a space as U+2581.
                        token.chars().map(|c| if c == '\u{2581}' { 1 } else { c.len_utf8() }).sum()
                    }
                };
                u16::try_from(length).unwrap_or(u16::MAX)
            })
            .collect()
    }

    /// The tokenizer as the text of a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// If the format cannot express it; that does not happen to a tokenizer that was read from a file.
    pub fn to_json(&self) -> Result<String, DataError> {
        self.inner.to_string(true).map(|json| json + "\n").map_err(|error| {
            DataError::NotTokenizer { path: self.path.clone(), reason: one_line(error) }
        })
    }

    /// Writes a `tokenizer.json`, complete or not at all.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), DataError> {
        use std::io::Write;

        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let mut partial = PartialFile::create(parent(path), &name)?;
        let json = self.to_json()?;
        partial.file().write_all(json.as_bytes()).map_err(DataError::io("write", path))?;
        partial.commit(path)
    }
}

/// Text from ids that arrive one by one. A character whose bytes are spread over several tokens appears with the last
/// of them; special tokens are left out.
pub struct StreamingDecoder<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    prefix: String,
    prefix_index: usize,
}

impl fmt::Debug for StreamingDecoder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamingDecoder").field("ids", &self.ids).finish_non_exhaustive()
    }
}

impl StreamingDecoder<'_> {
    /// Takes the next id and returns the text that became complete with it, which may be empty.
    ///
    /// # Errors
    ///
    /// If the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String, DataError> {
        step_decode_stream(
            &self.tokenizer.inner,
            vec![id],
            true,
            &mut self.ids,
            &mut self.prefix,
            &mut self.prefix_index,
        )
        .map(Option::unwrap_or_default)
        .map_err(|error| self.failed(error))
    }

    /// The rest of the text, where it ends within a character.
    ///
    /// # Errors
    ///
    /// If the tokenizer's decoder fails.
    pub fn finish(self) -> Result<String, DataError> {
        let text =
            self.tokenizer.inner.decode(&self.ids, true).map_err(|error| self.failed(error))?;
        Ok(text.strip_prefix(&self.prefix).unwrap_or_default().to_owned())
    }

    fn failed(&self, error: impl ToString) -> DataError {
        DataError::Encode { path: self.tokenizer.path.clone(), reason: one_line(error) }
    }
}

/// See [`VocabularyHash`].
fn hash_vocabulary(inner: &tokenizers::Tokenizer, vocab_size: usize) -> VocabularyHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"colac vocabulary 1");
    for id in 0..vocab_size as u32 {
        if let Some(token) = inner.id_to_token(id) {
            hasher.update(&id.to_le_bytes());
            hasher.update(&(token.len() as u32).to_le_bytes());
            hasher.update(token.as_bytes());
        }
    }
    VocabularyHash(*hasher.finalize().as_bytes())
}

/// Whether the token is SentencePiece's notation for a byte, `<0x0A>`.
fn is_byte_token(token: &str) -> bool {
    token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).is_some_and(|digits| {
        digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    })
}

/// Whether a text may be cut before any line feed that follows a visible ASCII character, and its parts tokenized one
/// by one, without changing the ids.
///
/// This holds for the byte-level pre-tokenizer with its regular expression
/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`: none of its matches contains a line
/// feed behind a character that is not white space, so a match ends at the cut in any case; the one look-ahead is only
/// evaluated behind white space, so not at the cut; nothing looks behind. A normalizer could join characters across the
/// cut, a prefix space would be added to every part, and an added token could span the cut: with any of these the text
/// is tokenized whole.
fn splits_at_line_ends(inner: &tokenizers::Tokenizer) -> bool {
    let byte_level = match inner.get_pre_tokenizer() {
        Some(PreTokenizerWrapper::ByteLevel(byte_level)) => {
            !byte_level.add_prefix_space && byte_level.use_regex
        }
        _ => false,
    };
    let added_tokens_stay_apart = inner.get_added_tokens_decoder().values().all(|token| {
        token.special
            || !(token.lstrip || token.rstrip || token.content.contains(char::is_whitespace))
    });
    byte_level && inner.get_normalizer().is_none() && added_tokens_stay_apart
}

/// Cuts a text before line feeds that follow a visible ASCII character, into pieces of at least `size` bytes but for
/// the last.
pub(crate) fn pieces(text: &str, size: usize) -> Vec<&str> {
    let bytes = text.as_bytes();
    let mut pieces = Vec::with_capacity(text.len() / size + 1);
    let mut start = 0;
    let mut position = size;
    while position < bytes.len() {
        // The byte before a line feed being ASCII, the cut lies between two characters.
        if position > start && bytes[position] == b'\n' && bytes[position - 1].is_ascii_graphic() {
            pieces.push(&text[start..position]);
            start = position;
            position += size;
        } else {
            position += 1;
        }
    }
    if start < bytes.len() {
        pieces.push(&text[start..]);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    fn corpus(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/corpus").join(path)
    }

    fn shipped() -> &'static Tokenizer {
        static SHIPPED: LazyLock<Tokenizer> =
            LazyLock::new(|| Tokenizer::from_file(&corpus("tokenizer-4096.json")).unwrap());
        &SHIPPED
    }

    fn threads(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    #[test]
    fn the_corpus_comes_back_unchanged() {
        for name in ["tokenizer-4096.json", "tokenizer-8192.json"] {
            let tokenizer = Tokenizer::from_file(&corpus(name)).unwrap();
            let lengths = tokenizer.token_byte_lengths();
            for text in ["validation/persuasion.txt", "train/mansfield-park.txt"] {
                let text = fs::read_to_string(corpus(text)).unwrap();
                let ids = tokenizer.encode_all(&[&text], threads(2)).unwrap().remove(0);
                assert_eq!(tokenizer.decode(&ids).unwrap(), text);
                assert_eq!(
                    ids.iter().map(|&id| usize::from(lengths[id as usize])).sum::<usize>(),
                    text.len()
                );
            }
        }
    }

    #[test]
    fn a_novel_in_pieces_has_the_ids_of_the_whole() {
        let tokenizer = shipped();
        assert!(tokenizer.splits_at_line_ends);
        let text = fs::read_to_string(corpus("train/sense-and-sensibility.txt")).unwrap();
        let whole = tokenizer.encode_piece(&text).unwrap();
        assert!(pieces(&text, PIECE_BYTES).len() > 10);
        for count in [1, 2, 3, 64] {
            assert_eq!(tokenizer.encode_all(&["", &text], threads(count)).unwrap()[1], whole);
        }
    }

    #[test]
    fn special_tokens_in_a_text_are_text() {
        let tokenizer = shipped();
        let text = "The end.<|endoftext|>Chapter 1";
        let ids = tokenizer.encode(text).unwrap();
        assert!(!ids.contains(&tokenizer.end_of_text().unwrap()));
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }

    #[test]
    fn streams_hold_back_half_characters() {
        let tokenizer = shipped();
        let text = "A naïve £5 – 漢字\n\nindeed 🦀!";
        let ids = tokenizer.encode(text).unwrap();
        let mut decoder = tokenizer.streaming_decoder();
        let mut shown = String::new();
        for &id in &ids {
            let part = decoder.push(id).unwrap();
            assert!(!part.contains('\u{fffd}'), "{part:?}");
            shown += &part;
        }
        assert_eq!(shown + &decoder.finish().unwrap(), text);

        let crab = tokenizer.encode("🦀").unwrap();
        let mut decoder = tokenizer.streaming_decoder();
        for &id in &crab[..crab.len() - 1] {
            assert_eq!(decoder.push(id).unwrap(), "");
        }
        assert_eq!(decoder.finish().unwrap(), "\u{fffd}");
    }

    #[test]
    fn truncation_and_padding_are_cleared() {
        let json = fs::read_to_string(corpus("tokenizer-4096.json")).unwrap();
        let truncation = r#""truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}"#;
        let padding = r#""padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"}"#;
        let cut = json.replacen("\"truncation\": null", truncation, 1).replacen(
            "\"padding\": null",
            padding,
            1,
        );
        assert_ne!(cut.len(), json.len());
        let tokenizer = Tokenizer::from_bytes(cut.as_bytes(), Path::new("cut")).unwrap();
        let text = "It is a truth universally acknowledged";
        assert_eq!(tokenizer.encode(text).unwrap(), shipped().encode(text).unwrap());
        assert_eq!(tokenizer.hash(), shipped().hash());
    }

    #[test]
    fn the_hash_is_one_of_meanings() {
        let json = fs::read_to_string(corpus("tokenizer-4096.json")).unwrap();
        let compact = serde_json::from_str::<serde_json::Value>(&json).unwrap().to_string();
        let same = Tokenizer::from_bytes(compact.as_bytes(), Path::new("compact")).unwrap();
        assert_eq!(same.hash(), shipped().hash());
        let renamed = json.replace("<|endoftext|>", "<|endofbook|>");
        let other = Tokenizer::from_bytes(renamed.as_bytes(), Path::new("renamed")).unwrap();
        assert_ne!(other.hash(), shipped().hash());
        assert_eq!(other.end_of_text(), None);
        assert_eq!(
            shipped().hash().to_string().parse::<VocabularyHash>().unwrap(),
            shipped().hash()
        );
        assert_eq!(format!("{:.12}", shipped().hash()), shipped().hash().to_string()[..12]);
    }

    #[test]
    fn files_of_other_kinds_are_told_apart() {
        let message = |bytes: &[u8]| {
            Tokenizer::from_bytes(bytes, Path::new("t.json")).unwrap_err().to_string()
        };
        assert!(message(b"\x0a\x0e").starts_with("t.json is not a tokenizer.json: it is not JSON"));
        assert!(
            message(b"{\"hidden_size\": 3}").ends_with("it is JSON, but has no object `model`")
        );
        assert!(
            message(b"{\"model\": {\"type\": \"BPE\"}}")
                .starts_with("t.json is not a tokenizer.json: ")
        );
        assert!(!message(b"{\"model\": {\"type\": \"BPE\"}}").contains('\n'));
        let missing = Tokenizer::from_file(Path::new("missing/tokenizer.json")).unwrap_err();
        assert!(
            missing.to_string().starts_with("cannot read the tokenizer missing/tokenizer.json: ")
        );
    }

    #[test]
    fn saved_tokenizers_are_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokenizer.json");
        shipped().save(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), fs::read(corpus("tokenizer-4096.json")).unwrap());
    }

    /// Tokenizers that are not byte-level: their own marks stand for no bytes or for one, and texts are not cut.
    #[test]
    fn marks_of_other_models_are_no_text() {
        let read =
            |json: &str| Tokenizer::from_bytes(json.as_bytes(), Path::new("other.json")).unwrap();
        let word_piece = read(
            r###"{"added_tokens": [{"id": 0, "content": "[UNK]", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "Whitespace"}, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "un": 1, "##able": 2, "ü": 4}}}"###,
        );
        assert_eq!(word_piece.token_byte_lengths(), [0, 2, 4, 0, 2]);
        assert!(!word_piece.splits_at_line_ends);
        assert_eq!(word_piece.encode("unable\nü x").unwrap(), [1, 2, 4, 0]);
        let sentence_piece = read(
            r#"{"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
            "model": {"type": "BPE", "byte_fallback": true, "merges": ["▁ a"],
                "vocab": {"<0x0A>": 0, "▁": 1, "a": 2, "▁a": 3, "<0xC3>": 4, "<0xBC>": 5}}}"#,
        );
        assert_eq!(sentence_piece.token_byte_lengths(), [1, 1, 1, 2, 1, 1]);
        assert!(!sentence_piece.splits_at_line_ends);
        let ids = sentence_piece.encode("a a\nü").unwrap();
        assert_eq!(ids, [2, 3, 0, 4, 5]);
        assert_eq!(sentence_piece.decode(&ids).unwrap(), "a a\nü");
        let mut decoder = sentence_piece.streaming_decoder();
        let parts: Vec<String> = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
        assert_eq!(parts, ["a", " a", "\n", "", "ü"]);
        assert_eq!(decoder.finish().unwrap(), "");
    }

    #[test]
    fn damaged_tokenizers_are_errors_or_tokenizers() {
        let json = fs::read(corpus("tokenizer-4096.json")).unwrap();
        // The settings lie in front of the vocabulary; of the vocabulary and the merges a few places will do.
        for place in (0..1000).chain((1000..json.len()).step_by(9973)) {
            let mut damaged = json.clone();
            damaged[place] ^= 0x11;
            if let Ok(tokenizer) = Tokenizer::from_bytes(&damaged, Path::new("damaged")) {
                tokenizer.encode("It is a truth\nuniversally acknowledged <|endoftext|>").unwrap();
            }
        }
    }

    #[test]
    fn impossible_ids_are_refused() {
        let json = r#"{"model": {"type": "WordLevel", "unk_token": "a", "vocab": {"a": 0, "b": 4294967295}}}"#;
        let error =
            Tokenizer::from_bytes(json.as_bytes(), Path::new("t.json")).unwrap_err().to_string();
        assert!(
            error.contains("a vocabulary of 4294967296 entries is not between 1 and"),
            "{error}"
        );
    }

    proptest! {
        /// An untrained model says anything: bytes that begin, go on and end where no character does.
        #[test]
        fn streams_show_what_decoding_at_once_gives(ids in prop::collection::vec(prop_oneof![1_u32..4096, 95_u32..257], 0..40)) {
            let tokenizer = shipped();
            let mut decoder = tokenizer.streaming_decoder();
            let mut shown = String::new();
            for &id in &ids {
                shown += &decoder.push(id).unwrap();
            }
            shown += &decoder.finish().unwrap();
            prop_assert_eq!(shown, tokenizer.decode(&ids).unwrap());
        }

        /// Letters, digits, signs, contractions and white space of all kinds around the cuts.
        #[test]
        fn pieces_have_the_ids_of_the_whole(text in "([a-cé1'!_]|'s|'ll|[ \n\r\t\u{a0}\u{2003}漢]|\n\n|\\.\n){0,60}", size in 1_usize..12) {
            let tokenizer = shipped();
            let parts = pieces(&text, size);
            prop_assert_eq!(parts.concat(), text.clone());
            let mut ids = Vec::new();
            for part in parts {
                ids.extend(tokenizer.encode_piece(part).unwrap());
            }
            prop_assert_eq!(&ids, &tokenizer.encode_piece(&text).unwrap());
            prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
    }
}
