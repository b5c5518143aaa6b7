//! What can go wrong with texts, tokenizers and token shards.
//!
//! Owns the error type of this module tree; every message is one line that names the file and, where there is one, the
//! way out. Must not know who prints it.

use std::io;
use std::path::{Path, PathBuf};

use crate::data::tokenizer::VocabularyHash;

/// An error of the data side of a run.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused to read or write something.
    #[error("cannot {action} {}: {cause}", .path.display())]
    Io {
        /// What was attempted, as a verb: `open`, `read`, `write` …
        action: &'static str,
        /// The file or directory it was attempted on.
        path: PathBuf,
        /// The operating system's reason.
        cause: io::Error,
    },

    /// A record of a text file is not what its format says.
    #[error("{}{place}: {reason}", .path.display())]
    BadRecord {
        /// The text file.
        path: PathBuf,
        /// Where in it: `:12` for a line, `, byte 4711`, `, row 8`.
        place: String,
        /// What is wrong there.
        reason: String,
    },

    /// A file of JSON that is not made of lines.
    #[error(
        "{} is one JSON array, not JSON Lines: make one object a line of it, for example with jq -c '.[]'",
        .path.display()
    )]
    NotJsonLines {
        /// The file.
        path: PathBuf,
    },

    /// A file in a format for which this program was not built.
    #[error(
        "{} is a {format} file, which this build of colac does not read: build it with `--features arrow`, or convert the file to JSON Lines",
        .path.display()
    )]
    FeatureMissing {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: &'static str,
    },

    /// A file of columns cannot be read.
    #[error("{} cannot be read as {format}: {reason}", .path.display())]
    NotColumns {
        /// The file.
        path: PathBuf,
        /// What it should be: `Parquet` or `Arrow`.
        format: &'static str,
        /// The reason that the reader of the format gives.
        reason: String,
    },

    /// A file of columns has none of the given name.
    #[error(
        "{} has no column `{field}`, only {}: name the one with the text by data.text_field (--text-field)",
        .path.display(), .names.join(", ")
    )]
    NoField {
        /// The file.
        path: PathBuf,
        /// The column that was asked for.
        field: String,
        /// The columns there are.
        names: Vec<String>,
    },

    /// A column holds something else than text.
    #[error("the column `{field}` of {} is {what} and not text", .path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The column.
        field: String,
        /// What it is.
        what: String,
    },

    /// A folder holds several splits of a data set.
    #[error(
        "{} holds the splits {} of a data set: name the folder of one",
        .path.display(), .splits.join(", ")
    )]
    SeveralSplits {
        /// The folder.
        path: PathBuf,
        /// Their names.
        splits: Vec<String>,
    },

    /// None of the inputs contains any text.
    #[error("no text in {}: give files, or folders with files that end in {}", list(.inputs), .extensions.join(", "))]
    NoText {
        /// The inputs as given.
        inputs: Vec<PathBuf>,
        /// What files in folders have to end in.
        extensions: Vec<String>,
    },

    /// All documents went to one side of the split.
    #[error(
        "a share of {fraction} leaves no document for {side}, of {documents} in all: choose another validation fraction, \
         or divide the text into more documents (separator)"
    )]
    EmptySide {
        /// `training` or `validation`.
        side: &'static str,
        /// The share that was to be held out.
        fraction: f64,
        /// Documents on the other side.
        documents: u64,
    },

    /// The user ended a preparation.
    #[error("interrupted; {} is as it was", .path.display())]
    Interrupted {
        /// Where shards were to be written.
        path: PathBuf,
    },

    /// A token file of another trainer cannot be used.
    #[error("{} is not a token file that can be read: {reason}", .path.display())]
    NotTokenFile {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        reason: String,
    },

    /// Rows of one document each were asked of tokens that do not say where documents begin.
    #[error(
        "{} does not say where documents begin, which mode \"pad\" needs: name its tokenizer (data.tokenizer), or use mode \"pack\"",
        .path.display()
    )]
    NoDocuments {
        /// The token file.
        path: PathBuf,
    },

    /// A file is not a tokenizer in the `tokenizer.json` format.
    #[error("{} is not a tokenizer.json: {reason}", .path.display())]
    NotTokenizer {
        /// The file.
        path: PathBuf,
        /// What the parser of the format says, on one line.
        reason: String,
    },

    /// The tokenizer has no token of the given name.
    #[error("{} has no token {token:?}: name one of its vocabulary", .path.display())]
    NoSuchToken {
        /// The tokenizer's file.
        path: PathBuf,
        /// The token that was asked for.
        token: String,
    },

    /// The tokenizer failed on a text.
    #[error("cannot tokenize {}: {reason}", .path.display())]
    Encode {
        /// The text file.
        path: PathBuf,
        /// The tokenizer's reason.
        reason: String,
    },

    /// A tokenizer of the wanted size cannot be trained.
    #[error("cannot train a tokenizer of {wanted} entries: {reason}")]
    VocabularySize {
        /// The number of entries that was asked for.
        wanted: usize,
        /// Which size would do.
        reason: String,
    },

    /// A path holds no token shards.
    #[error(
        "no token shards at {}: make them with `colac data prepare TEXT --tokenizer FILE --out {}`",
        .path.display(), .path.display()
    )]
    NoShards {
        /// The file or directory that was opened.
        path: PathBuf,
    },

    /// A file does not begin like a token shard.
    #[error("{} is not a token shard: {reason}", .path.display())]
    NotShard {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        reason: String,
    },

    /// A token shard was written by a newer program.
    #[error(
        "{} has token shard format {found}, and this program reads format {supported}: prepare the text again, or update colac",
        .path.display()
    )]
    NewerShard {
        /// The shard.
        path: PathBuf,
        /// The format version in its header.
        found: u32,
        /// The newest format version this program reads.
        supported: u32,
    },

    /// A token shard was written by an older program.
    #[error("{} has token shard format {found}, which is not read any more: prepare the text again", .path.display())]
    OlderShard {
        /// The shard.
        path: PathBuf,
        /// The format version in its header.
        found: u32,
    },

    /// A token shard is cut or its bytes were changed.
    #[error("{} is damaged ({reason}): prepare the text again", .path.display())]
    DamagedShard {
        /// The shard.
        path: PathBuf,
        /// Which check failed.
        reason: String,
    },

    /// Two shards of one corpus do not belong together.
    #[error("{} and {} do not belong together: their {what} differ", .first.display(), .second.display())]
    MixedShards {
        /// The first shard.
        first: PathBuf,
        /// The shard that differs from it.
        second: PathBuf,
        /// What differs: `tokenizers`, `vocabulary sizes`.
        what: &'static str,
    },

    /// A directory does not hold exactly the parts of one corpus.
    #[error(
        "{} holds {found} of the {expected} shards of its corpus, or shards of several: prepare the text again into an empty directory",
        .path.display()
    )]
    IncompleteCorpus {
        /// The directory.
        path: PathBuf,
        /// Shards in it.
        found: usize,
        /// Shards its first one says there are.
        expected: u32,
    },

    /// The directory that shards are to be written to has some already.
    #[error("{} already holds token shards: give another directory, or allow to overwrite them", .path.display())]
    OutputExists {
        /// The directory.
        path: PathBuf,
    },

    /// Tokens were made with another tokenizer than the one a model or a run uses.
    #[error(
        "{} was tokenized with vocabulary {found:.12}, not with {expected:.12}: prepare the text again with the right tokenizer",
        .path.display()
    )]
    TokenizerMismatch {
        /// The corpus.
        path: PathBuf,
        /// Hash of the vocabulary the run uses.
        expected: VocabularyHash,
        /// Hash of the vocabulary in the shard headers.
        found: VocabularyHash,
    },

    /// A corpus contains ids for which a model has no embedding.
    #[error(
        "{} contains token id {max_id}, and the model's vocabulary has {vocab_size} entries: use the tokenizer the model was specified for",
        .path.display()
    )]
    IdOutOfVocabulary {
        /// The corpus.
        path: PathBuf,
        /// The largest id in it.
        max_id: u32,
        /// The model's vocabulary size.
        vocab_size: u64,
    },

    /// Ids of a foreign token file that the tokenizer does not have.
    #[error(
        "{} contains token id {max_id}, and {} has {vocab_size} entries: name the tokenizer it was made with, and check data.token_dtype",
        .path.display(), .tokenizer.display()
    )]
    IdOutOfTokenizer {
        /// The token file.
        path: PathBuf,
        /// The largest id in it.
        max_id: u32,
        /// The tokenizer that was named.
        tokenizer: PathBuf,
        /// Its number of entries.
        vocab_size: u64,
    },

    /// A corpus has too few tokens for one sample.
    #[error(
        "{} has {tokens} tokens, too few for one sequence of {sequence_length}: give more text, or lower train.sequence_length",
        .path.display()
    )]
    TooShort {
        /// The corpus.
        path: PathBuf,
        /// Tokens in it.
        tokens: u64,
        /// Tokens in one row of a batch.
        sequence_length: usize,
    },

    /// Sequence length or batch size is zero.
    #[error("{what} must be at least 1")]
    ZeroSize {
        /// The quantity.
        what: &'static str,
    },
}

impl DataError {
    /// Closure for `map_err` that wraps an error of the operating system.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |cause| Self::Io { action, path: path.to_owned(), cause }
    }

    /// A shard whose content fails a check.
    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::DamagedShard { path: path.to_owned(), reason: reason.into() }
    }
}

/// Joins paths for a message.
fn list(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    shown.join(", ")
}

/// Puts a foreign error message on one line.
pub(crate) fn one_line(message: impl ToString) -> String {
    message.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
