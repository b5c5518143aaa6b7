//! The tokens that stand for no text.
//!
//! Owns the names by which they are known: `tokenizer.json` has no field that says which token begins or ends a text.

use tokenizers::{DecoderWrapper, ModelWrapper, PreTokenizerWrapper};

use super::Tokenizer;
use crate::data::error::DataError;

/// Names of the token that ends a document, most specific first.
const END_OF_TEXT: [&str; 10] = [
    "<|endoftext|>",
    "<|end_of_text|>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    "<|eos|>",
    "</s>",
    "<eos>",
    "[EOS]",
    "<EOS>",
    "<|im_end|>",
    "[SEP]",
];

/// Names of the token that begins a text.
const BEGIN_OF_TEXT: [&str; 8] = [
    "<|begin_of_text|>",
    "<|startoftext|>",
    "<\u{ff5c}begin\u{2581}of\u{2581}sentence\u{ff5c}>",
    "<|bos|>",
    "<s>",
    "<bos>",
    "[BOS]",
    "[CLS]",
];

/// The special tokens of a tokenizer, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Ends a document; the only one that colac puts into the data.
    pub end_of_text: Option<u32>,
    /// Begins a text.
    pub begin_of_text: Option<u32>,
    /// Stands for text that the tokenizer has no token for: what its model declares.
    pub unknown: Option<u32>,
}

/// The id that ends a document by its name.
pub(super) fn end_of_text(inner: &tokenizers::Tokenizer) -> Option<u32> {
    END_OF_TEXT.iter().find_map(|name| inner.token_to_id(name))
}

impl Tokenizer {
    /// The same tokenizer with another token at the end of documents.
    ///
    /// # Errors
    ///
    /// If it has no such token.
    pub fn with_end_of_text(mut self, token: &str) -> Result<Self, DataError> {
        self.end_of_text = Some(self.token_id(token)?);
        Ok(self)
    }

    /// The special tokens that are known.
    pub fn special_tokens(&self) -> SpecialTokens {
        SpecialTokens {
            end_of_text: self.end_of_text,
            begin_of_text: BEGIN_OF_TEXT.iter().find_map(|name| self.inner.token_to_id(name)),
            unknown: self.unknown(),
        }
    }

    fn unknown(&self) -> Option<u32> {
        match self.inner.get_model() {
            ModelWrapper::BPE(model) => self.inner.token_to_id(model.unk_token.as_deref()?),
            ModelWrapper::WordPiece(model) => self.inner.token_to_id(&model.unk_token),
            ModelWrapper::WordLevel(model) => self.inner.token_to_id(&model.unk_token),
            ModelWrapper::Unigram(_) => {
                // The model keeps the id to itself; these are the names that are in use.
                ["<unk>", "[UNK]", "<UNK>"].iter().find_map(|name| self.inner.token_to_id(name))
            }
        }
    }

    /// What kind of tokenizer it is: `byte-level BPE`, `WordPiece`, `Unigram` …
    pub fn kind(&self) -> &'static str {
        let byte_level = matches!(self.inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
            || matches!(self.inner.get_pre_tokenizer(), Some(PreTokenizerWrapper::ByteLevel(_)));
        match self.inner.get_model() {
            ModelWrapper::BPE(_) if byte_level => "byte-level BPE",
            ModelWrapper::BPE(_) => "BPE",
            ModelWrapper::WordPiece(_) => "WordPiece",
            ModelWrapper::WordLevel(_) => "WordLevel",
            ModelWrapper::Unigram(_) => "Unigram",
        }
    }

    /// The text of a token, as `tokenizer.json` spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether a text may be cut before a line feed that follows a visible ASCII character and its parts tokenized one
    /// by one, with the ids of the whole; otherwise documents must be tokenized as a whole.
    pub fn splits_at_line_ends(&self) -> bool {
        self.splits_at_line_ends
    }
}
