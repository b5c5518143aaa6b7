//! Where a run's rows come from, as far as training needs to know.
//!
//! Owns the two interfaces between the training loop and the data. Must not know texts, tokenizers or files.
//!
//! A row is `sequence_length` tokens and as many labels; label `i` is what the model should predict from the tokens up
//! to `i`, or [`IGNORED_LABEL`] where there is nothing to predict.

use crate::data::error::DataError;

/// The label of a position that does not count.
pub const IGNORED_LABEL: i32 = -100;

/// Rows to train on, in the order in which they are visited.
pub trait TrainingRows {
    /// Fills whole rows: those at positions `first..first + n` of the endless sequence of epochs, where `n` is the
    /// number of rows that the slices hold. Slot `s` of update `u` (counted from 0) is position
    /// `u · global_batch + s`, so the content of a row must be a pure function of its position.
    ///
    /// # Errors
    ///
    /// If the data cannot be read.
    fn fill(&mut self, first: u64, tokens: &mut [i32], labels: &mut [i32])
    -> Result<(), DataError>;

    /// Identifies content and order of the rows: a run resumes only on rows of the same identity.
    fn identity(&self) -> String;
}

/// Rows to evaluate on, in a fixed order.
pub trait ValidationRows {
    /// Number of rows.
    fn row_count(&self) -> u64;

    /// Fills whole rows: `first..first + n`, all of them below [`ValidationRows::row_count`].
    ///
    /// # Errors
    ///
    /// If the data cannot be read.
    fn fill(&mut self, first: u64, tokens: &mut [i32], labels: &mut [i32])
    -> Result<(), DataError>;

    /// For each token id the bytes of text it stands for, if that is known: what bits per byte are computed from.
    fn token_byte_lengths(&self) -> Option<&[u16]>;
}

/// Positions that count.
pub(crate) fn valid_labels(labels: &[i32]) -> u64 {
    labels.iter().filter(|&&label| label != IGNORED_LABEL).count() as u64
}
