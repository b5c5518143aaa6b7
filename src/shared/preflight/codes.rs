//! The codes of what can be wrong with a run before it begins, beside the spec.
//!
//! Owns the one table. Every code has a case under `tests/cases/data/` or `tests/cases/train/`; a test compares the lists.

/// Declares codes and the table of all of them.
macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal;)+) => {
        $($(#[doc = $doc])+ pub(crate) const $name: &str = $code;)+

        /// Every code with its meaning, in the order of this file.
        pub(crate) const ALL: &[(&str, &str)] = &[$(($name, concat!($($doc),+))),+];
    };
}

codes! {
    /// Neither the spec nor the command line names anything to train on.
    NONE_NAMED = "data::none_named";
    /// A file or folder of the data, or the tokenizer, does not exist.
    NOT_FOUND = "data::not_found";
    /// Data that exists and cannot be used: damaged shards, files that are not UTF-8, folders without text.
    UNREADABLE = "data::unreadable";
    /// Token shards and text in one list.
    MIXED = "data::mixed";
    /// Text without a tokenizer to read it with.
    NO_TOKENIZER = "data::no_tokenizer";
    /// A tokenizer that is none.
    BAD_TOKENIZER = "data::bad_tokenizer";
    /// Token shards made with another tokenizer than the one named, or than the other shards.
    TOKENIZER_MISMATCH = "data::tokenizer_mismatch";
    /// Token ids for which the model has no row.
    ID_OUT_OF_VOCABULARY = "data::id_out_of_vocabulary";
    /// A tokenizer with more entries than the model has rows.
    TOKENIZER_TOO_LARGE = "data::tokenizer_too_large";
    /// A model with many more rows than the tokenizer has entries.
    VOCABULARY_TOO_LARGE = "data::vocabulary_too_large";
    /// Fewer tokens than one row holds.
    TOO_SHORT = "data::too_short";
    /// A schedule that goes over the same data many times.
    REPEATS = "data::repeats";
    /// No data to evaluate on.
    NO_VALIDATION = "data::no_validation";
    /// Data that is both trained and evaluated on.
    VALIDATION_IS_TRAINING = "data::validation_is_training";
    /// The run cannot go into the folder that was chosen for it.
    RUN_FOLDER = "train::run_folder";
    /// The run folder cannot be written.
    NOT_WRITABLE = "train::not_writable";
    /// Another process works in the run folder.
    IN_USE = "train::in_use";
    /// More memory is needed than the machine has left.
    MEMORY = "train::memory";
    /// More disk space is needed for checkpoints than is free.
    DISK_SPACE = "train::disk_space";
    /// Nothing is saved before the end of the run.
    NO_CHECKPOINT = "train::no_checkpoint";
    /// Evaluation needs more memory than training.
    EVALUATION_MEMORY = "train::evaluation_memory";
}
