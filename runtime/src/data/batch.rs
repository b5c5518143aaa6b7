//! Rows of token ids from a corpus.
//!
//! Owns what a row is in the two batching modes, and which rows an evaluation takes; those of training stand in
//! [`crate::data::training_batches`]. Must not know what a model does with them. Rows are written into buffers of the
//! caller; nothing is allocated.

use std::ops::Range;
use std::sync::Arc;

use colac_plan::recipe::BatchMode;

use crate::data::corpus::TokenCorpus;
use crate::data::error::DataError;
use crate::train::rows::{IGNORED_LABEL, ValidationRows};

/// The rows of a corpus in the order of its text.
///
/// A row is `sequence_length` ids and as many labels; the label of a place is the id that follows, or
/// [`IGNORED_LABEL`].
///
/// - [`BatchMode::Pack`]: the corpus is one stream, documents one behind the other. Row r has the ids `r·S .. r·S + S`
///   of the stream and the labels `r·S + 1 .. r·S + S + 1`. Every token but the first of the corpus is a label once.
/// - [`BatchMode::Pad`]: row r is document r. One that is longer than S ids is cut so that the id that ends it still
///   stands last: its first S - 1 ids and that one. This is what a tokenizer gives the published training code, which
///   truncates first and appends the end of the text then. The last id of a row predicts nothing, not even an id that
///   was cut off: S - 1 predictions from S ids, as that code has it.
///
/// Places without an id hold the end-of-text id, or 0 if there is none, under the label [`IGNORED_LABEL`]; causal
/// attention keeps them from everything before them.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    pub(super) corpus: Arc<TokenCorpus>,
    pub(super) mode: BatchMode,
    pub(super) sequence_length: usize,
    filler: i32,
}

impl Rows {
    pub(super) fn new(
        corpus: Arc<TokenCorpus>,
        mode: BatchMode,
        sequence_length: usize,
    ) -> Result<Self, DataError> {
        if sequence_length == 0 {
            return Err(DataError::ZeroSize { what: "the sequence length" });
        }
        if mode == BatchMode::Pad && !corpus.knows_documents() {
            return Err(DataError::NoDocuments { path: corpus.path().to_owned() });
        }
        let filler = corpus.end_of_text().map_or(0, |id| id as i32);
        Ok(Self { corpus, mode, sequence_length, filler })
    }

    /// Rows that are full in mode `Pack`, all documents in mode `Pad`.
    pub(super) fn full_rows(&self) -> u64 {
        match self.mode {
            BatchMode::Pack => (self.corpus.token_count() - 1) / self.sequence_length as u64,
            BatchMode::Pad => self.corpus.document_count(),
        }
    }

    /// Rows with anything in them; in mode `Pack` the last one may be short.
    pub(super) fn all_rows(&self) -> u64 {
        match self.mode {
            BatchMode::Pack => {
                (self.corpus.token_count() - 1).div_ceil(self.sequence_length as u64)
            }
            BatchMode::Pad => self.corpus.document_count(),
        }
    }

    /// The ids of a row, as a range of the stream.
    pub(super) fn ids(&self, row: u64) -> Range<u64> {
        let length = self.sequence_length as u64;
        let (start, end) = match self.mode {
            BatchMode::Pack => (row * length, self.corpus.token_count() - 1),
            BatchMode::Pad => {
                let document = self.corpus.document(row);
                (document.start, document.end)
            }
        };
        start..end.min(start + length)
    }

    /// Number of labels of a row that are not ignored.
    pub(super) fn valid_labels(&self, row: u64) -> u64 {
        let ids = self.ids(row);
        match self.mode {
            BatchMode::Pack => ids.end - ids.start,
            BatchMode::Pad => ids.end - ids.start - 1,
        }
    }

    pub(super) fn fill(&self, row: u64, tokens: &mut [i32], labels: &mut [i32]) {
        let range = self.ids(row);
        let (ids, fillers) = tokens.split_at_mut((range.end - range.start) as usize);
        self.corpus.copy_ids(range.start, ids);
        fillers.fill(self.filler);
        let (valid, ignored) = labels.split_at_mut(self.valid_labels(row) as usize);
        self.corpus.copy_ids(range.start + 1, valid);
        ignored.fill(IGNORED_LABEL);
        if let Some(end) = self.cut_off_end(row) {
            for last in [ids.last_mut(), valid.last_mut()].into_iter().flatten() {
                *last = end;
            }
        }
    }

    /// The id that ends the text of a row's document, if the row in mode `Pad` is too short for it.
    fn cut_off_end(&self, row: u64) -> Option<i32> {
        if self.mode != BatchMode::Pad {
            return None;
        }
        let document = self.corpus.document(row);
        if document.end <= self.ids(row).end {
            return None;
        }
        let mut last = [0];
        self.corpus.copy_ids(document.end - 1, &mut last);
        // Where the end of a text stands before the next one, as in files of llm.c, documents do not end with it.
        (Some(last[0] as u32) == self.corpus.end_of_text()).then_some(last[0])
    }

    /// Splits the buffers of a batch into rows.
    pub(super) fn of_batch<'a>(
        &self,
        tokens: &'a mut [i32],
        labels: &'a mut [i32],
    ) -> impl Iterator<Item = (&'a mut [i32], &'a mut [i32])> {
        assert!(
            tokens.len() == labels.len() && tokens.len().is_multiple_of(self.sequence_length),
            "buffers of {} tokens and {} labels for rows of {}",
            tokens.len(),
            labels.len(),
            self.sequence_length
        );
        tokens
            .chunks_exact_mut(self.sequence_length)
            .zip(labels.chunks_exact_mut(self.sequence_length))
    }
}

/// Rows for evaluation: all of the corpus, in the order of its text.
#[derive(Clone, Debug)]
pub struct EvaluationBatches {
    rows: Rows,
}

impl EvaluationBatches {
    /// Batches of a corpus.
    ///
    /// # Errors
    ///
    /// If the sequence length is 0, or the corpus has no token that follows another.
    pub fn new(
        corpus: Arc<TokenCorpus>,
        mode: BatchMode,
        sequence_length: usize,
    ) -> Result<Self, DataError> {
        let rows = Rows::new(corpus, mode, sequence_length)?;
        if rows.all_rows() == 0 {
            return Err(too_short(&rows));
        }
        Ok(Self { rows })
    }

    /// Number of rows.
    pub fn row_count(&self) -> u64 {
        self.rows.all_rows()
    }

    /// Number of labels that are not ignored in a range of rows.
    ///
    /// # Panics
    ///
    /// If there are not so many rows.
    pub fn valid_labels(&self, rows: Range<u64>) -> u64 {
        rows.map(|row| self.rows.valid_labels(row)).sum()
    }

    /// Bytes of text that the labels stand for, or `None` where the tokenizer does not say (see
    /// [`TokenCorpus::token_byte_lengths`]).
    pub fn label_bytes(&self, labels: &[i32]) -> Option<u64> {
        let lengths = self.rows.corpus.token_byte_lengths()?;
        let ids = labels.iter().filter(|&&label| label != IGNORED_LABEL);
        Some(ids.map(|&id| u64::from(lengths[id as usize])).sum())
    }

    /// Fills rows `first`, `first + 1`, … until the buffers, which hold whole rows, are full. Rows behind the last one
    /// have ignored labels only.
    ///
    /// # Panics
    ///
    /// If the buffers differ in length or do not hold whole rows.
    pub fn fill(&self, first: u64, tokens: &mut [i32], labels: &mut [i32]) {
        let row_count = self.row_count();
        for (row, (tokens, labels)) in (first..).zip(self.rows.of_batch(tokens, labels)) {
            if row < row_count {
                self.rows.fill(row, tokens, labels);
            } else {
                tokens.fill(self.rows.filler);
                labels.fill(IGNORED_LABEL);
            }
        }
    }
}

impl ValidationRows for EvaluationBatches {
    fn row_count(&self) -> u64 {
        Self::row_count(self)
    }

    fn fill(
        &mut self,
        first: u64,
        tokens: &mut [i32],
        labels: &mut [i32],
    ) -> Result<(), DataError> {
        Self::fill(self, first, tokens, labels);
        Ok(())
    }

    fn token_byte_lengths(&self) -> Option<&[u16]> {
        self.rows.corpus.token_byte_lengths()
    }
}

pub(super) fn too_short(rows: &Rows) -> DataError {
    DataError::TooShort {
        path: rows.corpus.path().to_owned(),
        tokens: rows.corpus.token_count(),
        sequence_length: rows.sequence_length,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::data::shard::{Manifest, ShardWriter, Source, Vocabulary};
    use crate::data::tokenizer::VocabularyHash;
    use crate::data::training_batches::{MixedCorpus, TrainingBatches};
    use crate::train::rows::TrainingRows;

    /// A corpus of the given documents, each in a shard of its own. Id i stands for i bytes, and 9 ends a text.
    fn corpus(documents: &[&[u32]]) -> Arc<TokenCorpus> {
        let directory = tempfile::tempdir().unwrap();
        let vocabulary = Vocabulary {
            hash: VocabularyHash([1; 32]),
            end_of_text: Some(9),
            byte_lengths: (0..100).collect(),
        };
        for (ids, part) in documents.iter().zip(1..) {
            let source =
                Source { name: "a".to_owned(), bytes: 0, blake3: String::new(), documents: 0 };
            let manifest = Manifest { sources: vec![source], ..Manifest::default() };
            let mut writer = ShardWriter::create(directory.path(), "shard", &vocabulary).unwrap();
            writer.push(ids, ids.iter().map(|&id| u64::from(id)).sum(), 0).unwrap();
            let path = directory.path().join(format!("{part:05}.tokens"));
            writer
                .finish(&vocabulary)
                .unwrap()
                .commit(&path, (part, documents.len() as u32), &manifest)
                .unwrap();
        }
        // The files may go: they stay mapped.
        Arc::new(TokenCorpus::open(&[directory.path().to_owned()]).unwrap())
    }

    fn evaluate(batches: &EvaluationBatches, first: u64, rows: usize) -> (Vec<i32>, Vec<i32>) {
        let (mut tokens, mut labels) = (
            vec![77; rows * batches.rows.sequence_length],
            vec![77; rows * batches.rows.sequence_length],
        );
        batches.fill(first, &mut tokens, &mut labels);
        (tokens, labels)
    }

    fn train(batches: &TrainingBatches, first: u64, rows: usize) -> (Vec<i32>, Vec<i32>) {
        let (mut tokens, mut labels) = (
            vec![77; rows * batches.sequence_length()],
            vec![77; rows * batches.sequence_length()],
        );
        batches.fill(first, &mut tokens, &mut labels);
        (tokens, labels)
    }

    #[test]
    fn packed_rows_run_on_through_documents() {
        let corpus = corpus(&[&[10, 11, 9], &[20, 9], &[30, 31, 32, 33, 34, 9]]);
        let batches = EvaluationBatches::new(corpus, BatchMode::Pack, 4).unwrap();
        assert_eq!(batches.row_count(), 3);
        let (tokens, labels) = evaluate(&batches, 0, 4);
        assert_eq!(tokens, [10, 11, 9, 20, 9, 30, 31, 32, 33, 34, 9, 9, 9, 9, 9, 9]);
        let none = IGNORED_LABEL;
        assert_eq!(
            labels,
            [11, 9, 20, 9, 30, 31, 32, 33, 34, 9, none, none, none, none, none, none]
        );
        assert_eq!((batches.valid_labels(0..3), batches.valid_labels(2..3)), (10, 2));
        assert_eq!(
            batches.label_bytes(&labels),
            Some(11 + 9 + 20 + 9 + 30 + 31 + 32 + 33 + 34 + 9)
        );
        assert_eq!(evaluate(&batches, 1, 1).0, [9, 30, 31, 32]);
    }

    #[test]
    fn padded_rows_are_documents() {
        let corpus = corpus(&[&[10, 11, 9], &[9], &[30, 31, 32, 33, 34, 9], &[40, 41, 42, 9]]);
        let batches = EvaluationBatches::new(corpus.clone(), BatchMode::Pad, 4).unwrap();
        assert_eq!(batches.row_count(), 4);
        let (tokens, labels) = evaluate(&batches, 0, 5);
        let none = IGNORED_LABEL;
        // The third document is cut and keeps its end, the fourth fits.
        assert_eq!(tokens, [10, 11, 9, 9, 9, 9, 9, 9, 30, 31, 32, 9, 40, 41, 42, 9, 9, 9, 9, 9]);
        assert_eq!(
            labels,
            [
                11, 9, none, none, none, none, none, none, 31, 32, 9, none, 41, 42, 9, none, none,
                none, none, none
            ]
        );
        assert_eq!(
            (0..4).map(|row| batches.valid_labels(row..row + 1)).collect::<Vec<_>>(),
            [2, 0, 3, 3]
        );
        let training = TrainingBatches::new(corpus, BatchMode::Pad, 4, 3).unwrap();
        assert_eq!(
            (training.rows_per_epoch(), training.valid_labels(0..4), training.valid_labels(4..12)),
            (4, 8, 16)
        );
    }

    /// Files of llm.c have the end of a text before the next one: there is no end to keep.
    #[test]
    fn a_cut_document_without_an_end_gets_none() {
        let corpus = corpus(&[&[9, 11, 12, 13, 14], &[9, 21]]);
        let batches = EvaluationBatches::new(corpus, BatchMode::Pad, 3).unwrap();
        let (tokens, labels) = evaluate(&batches, 0, 2);
        let none = IGNORED_LABEL;
        assert_eq!(tokens, [9, 11, 12, 9, 21, 9]);
        assert_eq!(labels, [11, 12, none, 21, none, none]);
    }

    #[test]
    fn an_epoch_visits_every_full_row_once() {
        let documents: Vec<Vec<u32>> =
            (1..8).map(|first| (first * 10..first * 10 + 8).collect()).collect();
        let documents: Vec<&[u32]> = documents.iter().map(Vec::as_slice).collect();
        let corpus = corpus(&documents);
        // 56 tokens: 11 rows of 5 with their labels, and the last label is the last token.
        let batches = TrainingBatches::new(corpus.clone(), BatchMode::Pack, 5, 42).unwrap();
        assert_eq!(batches.rows_per_epoch(), 11);
        let rows = |(tokens, labels): (Vec<i32>, Vec<i32>)| -> Vec<(Vec<i32>, Vec<i32>)> {
            tokens
                .chunks(5)
                .map(<[i32]>::to_vec)
                .zip(labels.chunks(5).map(<[i32]>::to_vec))
                .collect()
        };
        let in_order = rows(evaluate(
            &EvaluationBatches::new(corpus.clone(), BatchMode::Pack, 5).unwrap(),
            0,
            11,
        ));
        for epoch in [0, 1, 1_000_000] {
            let mut visited = rows(train(&batches, epoch * 11, 11));
            assert_ne!(visited, in_order);
            // The ids of this corpus ascend, so sorting brings the rows into its order.
            visited.sort_unstable();
            assert_eq!(visited, in_order);
        }
        assert_ne!(train(&batches, 0, 11), train(&batches, 11, 11));
        let (small, large) = (
            TrainingBatches::new(corpus.clone(), BatchMode::Pack, 55, 0),
            TrainingBatches::new(corpus, BatchMode::Pack, 56, 0),
        );
        assert_eq!(small.unwrap().rows_per_epoch(), 1);
        assert!(matches!(large, Err(DataError::TooShort { tokens: 56, sequence_length: 56, .. })));
    }

    #[test]
    fn a_global_batch_is_the_same_however_it_is_split() {
        let ids: Vec<u32> = (0..97).map(|index| index % 90 + 1).collect();
        for mode in [BatchMode::Pack, BatchMode::Pad] {
            let corpus = corpus(&[&ids[..40], &ids[40..43], &ids[43..97]]);
            let batches = TrainingBatches::new(corpus, mode, 6, 5).unwrap();
            let (global_batch, step) = (12, 3);
            let whole = train(&batches, step * global_batch, 12);
            assert_eq!(
                whole.1.iter().filter(|&&label| label != IGNORED_LABEL).count() as u64,
                batches.valid_labels(step * global_batch..(step + 1) * global_batch)
            );
            for micro_batch in [1, 2, 3, 4, 6] {
                let mut joined = (Vec::new(), Vec::new());
                for first in (0..12).step_by(micro_batch) {
                    let (tokens, labels) =
                        train(&batches, step * global_batch + first as u64, micro_batch);
                    joined.0.extend(tokens);
                    joined.1.extend(labels);
                }
                assert_eq!(joined, whole);
            }
        }
    }

    #[test]
    fn the_identity_tells_rows_apart() {
        let (one, other) = (corpus(&[&[1, 2, 3, 4]]), corpus(&[&[1, 2, 3, 5]]));
        let identity = |corpus: &Arc<TokenCorpus>, mode, length, seed| {
            TrainingBatches::new(corpus.clone(), mode, length, seed).unwrap().identity()
        };
        let base = identity(&one, BatchMode::Pack, 2, 0);
        assert_eq!(base, identity(&corpus(&[&[1, 2, 3, 4]]), BatchMode::Pack, 2, 0));
        for different in [
            identity(&other, BatchMode::Pack, 2, 0),
            identity(&one, BatchMode::Pad, 2, 0),
            identity(&one, BatchMode::Pack, 3, 0),
            identity(&one, BatchMode::Pack, 2, 1),
        ] {
            assert_ne!(base, different);
        }
    }

    /// Rows of a mixture are those of its sources, each in its own order, whatever the others do.
    #[test]
    fn a_mixture_keeps_the_order_of_its_sources() {
        let documents = |first: u32, count: u32| -> Vec<Vec<u32>> {
            (0..count).map(|number| vec![first + number, 9]).collect()
        };
        let corpus = |documents: &[Vec<u32>]| {
            corpus(&documents.iter().map(Vec::as_slice).collect::<Vec<_>>())
        };
        let (books, web) = (corpus(&documents(10, 6)), corpus(&documents(50, 40)));
        let source = |name: &str, corpus: &Arc<TokenCorpus>, weight| MixedCorpus {
            name: name.to_owned(),
            corpus: corpus.clone(),
            weight,
        };
        let mix = |weight| {
            let sources = vec![source("books", &books, weight), source("web", &web, 1.0)];
            TrainingBatches::mixed(sources, BatchMode::Pad, 2, 5).unwrap()
        };
        let firsts = |batches: &TrainingBatches, from: u64, rows| -> Vec<i32> {
            train(batches, from, rows).0.iter().step_by(2).copied().collect()
        };
        let batches = mix(3.0);
        let all = firsts(&batches, 0, 48);
        let of_books: Vec<i32> = all.iter().copied().filter(|&id| id < 50).collect();
        assert_eq!(of_books.len(), 36);
        let alone = TrainingBatches::new(books.clone(), BatchMode::Pad, 2, 5).unwrap();
        assert_eq!(of_books, firsts(&alone, 0, 36));
        // Any part of it is found again from its position alone.
        assert_eq!(firsts(&batches, 17, 9), all[17..26]);
        let shares = batches.shares(48);
        assert_eq!((shares[0].rows, shares[0].epochs, shares[1].rows), (36, 6.0, 12));
        let origin = batches.origin(47);
        let place = if all[47] < 50 { ("books", 10) } else { ("web", 50) };
        assert_eq!((origin.source, origin.row as i32), (place.0, all[47] - place.1));
        // Another weight takes other rows, but the order of each source stays.
        let other: Vec<i32> = firsts(&mix(1.0), 0, 48).into_iter().filter(|&id| id < 50).collect();
        assert_eq!((other.len(), &other[..]), (24, &of_books[..24]));
        assert_ne!(mix(1.0).identity(), mix(3.0).identity());
    }

    #[test]
    fn impossible_rows_are_errors() {
        let single = corpus(&[&[5]]);
        assert!(matches!(
            EvaluationBatches::new(single.clone(), BatchMode::Pack, 4),
            Err(DataError::TooShort { .. })
        ));
        assert!(matches!(
            TrainingBatches::new(single, BatchMode::Pad, 0, 0),
            Err(DataError::ZeroSize { .. })
        ));
    }

    /// The whole way: a novel, a shipped tokenizer, shards, rows.
    #[test]
    fn evaluation_covers_a_novel_but_for_its_first_token() {
        use crate::data::prepare::{PrepareOptions, prepare};
        use crate::data::tokenizer::Tokenizer;

        let corpus_path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/corpus");
        let tokenizer = Tokenizer::from_file(&corpus_path.join("tokenizer-8192.json")).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let texts = [corpus_path.join("validation")];
        let go_on = &mut |_| std::ops::ControlFlow::Continue(());
        prepare(&texts, &tokenizer, directory.path(), &PrepareOptions::default(), go_on).unwrap();
        let corpus = Arc::new(TokenCorpus::open(&[directory.path().to_owned()]).unwrap());
        let batches = EvaluationBatches::new(corpus.clone(), BatchMode::Pack, 256).unwrap();
        let mut bytes = 0;
        for first in (0..batches.row_count()).step_by(7) {
            bytes += batches.label_bytes(&evaluate(&batches, first, 7).1).unwrap();
        }
        let mut first = [0];
        corpus.copy_ids(0, &mut first);
        assert_eq!(bytes + batches.label_bytes(&first).unwrap(), corpus.text_bytes());
        assert_eq!(
            corpus.text_bytes(),
            std::fs::metadata(corpus_path.join("validation/persuasion.txt")).unwrap().len()
        );
        assert_eq!(batches.valid_labels(0..batches.row_count()), corpus.token_count() - 1);
    }
}
