//! Rows for training, from one corpus or mixed from several.
//!
//! Owns which row lies at which position. Must not know what a row is made of: that is [`crate::data::batch`]'s.

use std::ops::Range;
use std::sync::Arc;

use colac_plan::recipe::BatchMode;

use crate::data::batch::{Rows, too_short};
use crate::data::corpus::TokenCorpus;
use crate::data::error::DataError;
use crate::data::mixture::Mixture;
use crate::data::order::SampleOrder;
use crate::train::rows::TrainingRows;

/// Rows for training: endless, shuffled anew in every epoch.
///
/// Slot `s` of update `u` has position `u · global_batch + s`, and which row lies there depends on seed, weights and
/// position only ([`Mixture`], [`SampleOrder`]). So a global batch is the same however it is split into micro-batches
/// or over workers, and a run resumes anywhere: the position is all there is to know.
#[derive(Clone, Debug)]
pub struct TrainingBatches {
    sources: Vec<Source>,
    mixture: Mixture,
    seed: u64,
}

/// One corpus of a mixture.
#[derive(Clone, Debug)]
struct Source {
    name: String,
    weight: f64,
    rows: Rows,
    order: SampleOrder,
}

/// A corpus with its part in a mixture.
#[derive(Clone, Debug)]
pub struct MixedCorpus {
    /// What reports call it.
    pub name: String,
    /// Its tokens.
    pub corpus: Arc<TokenCorpus>,
    /// Its share of the rows, relative to the other weights; above 0 and finite.
    pub weight: f64,
}

/// Where a row comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowOrigin<'a> {
    /// What the source is called; empty where nothing is mixed.
    pub source: &'a str,
    /// How often the source was gone through before, from 0.
    pub epoch: u64,
    /// Number of the row in the order of the source's text.
    pub row: u64,
}

/// How often a source is gone through.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceShare {
    /// What the source is called; empty where nothing is mixed.
    pub name: String,
    /// Rows that it gives.
    pub rows: u64,
    /// Rows that it has.
    pub rows_per_epoch: u64,
    /// The first divided by the second.
    pub epochs: f64,
}

impl TrainingBatches {
    /// Batches of one corpus. In mode `Pack` the tokens behind the last full row are not trained on.
    ///
    /// # Errors
    ///
    /// If the sequence length is 0, in mode `Pack` the corpus has not one full row, or in mode `Pad` it does not say
    /// where documents begin.
    pub fn new(
        corpus: Arc<TokenCorpus>,
        mode: BatchMode,
        sequence_length: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        let only = MixedCorpus { name: String::new(), corpus, weight: 1.0 };
        Self::mixed(vec![only], mode, sequence_length, seed)
    }

    /// Batches of several corpora, whose rows alternate by their weights. Each is shuffled by itself, and anew when it
    /// is through.
    ///
    /// # Errors
    ///
    /// As for [`TrainingBatches::new`], for any of them, or if they do not share a tokenizer.
    ///
    /// # Panics
    ///
    /// If there is no corpus.
    pub fn mixed(
        corpora: Vec<MixedCorpus>,
        mode: BatchMode,
        sequence_length: usize,
        seed: u64,
    ) -> Result<Self, DataError> {
        let weights: Vec<f64> = corpora.iter().map(|source| source.weight).collect();
        let mixture = Mixture::new(&weights);
        if let Some(first) = corpora.iter().find_map(|source| source.corpus.vocabulary_hash()) {
            for source in &corpora {
                source.corpus.check_tokenizer(first)?;
            }
        }
        let mut sources = Vec::with_capacity(corpora.len());
        for (number, MixedCorpus { name, corpus, weight }) in (0..).zip(corpora) {
            let rows = Rows::new(corpus, mode, sequence_length)?;
            if rows.full_rows() == 0 {
                return Err(too_short(&rows));
            }
            // Sources of equal size must not be gone through in the same order.
            let order = SampleOrder::new(rows.full_rows(), seed ^ (number << 48));
            sources.push(Source { name, weight, rows, order });
        }
        Ok(Self { sources, mixture, seed })
    }

    /// Tokens in a row.
    pub fn sequence_length(&self) -> usize {
        self.sources[0].rows.sequence_length
    }

    /// Rows in one epoch, over all sources.
    pub fn rows_per_epoch(&self) -> u64 {
        self.sources.iter().map(|source| source.order.sample_count()).sum()
    }

    /// What each source gives to the first `positions` rows.
    pub fn shares(&self, positions: u64) -> Vec<SourceShare> {
        let counts = self.mixture.counts(positions);
        let share = |(source, rows): (&Source, u64)| {
            let rows_per_epoch = source.order.sample_count();
            let epochs = rows as f64 / rows_per_epoch as f64;
            SourceShare { name: source.name.clone(), rows, rows_per_epoch, epochs }
        };
        self.sources.iter().zip(counts).map(share).collect()
    }

    /// Where the row at a position comes from.
    pub fn origin(&self, position: u64) -> RowOrigin<'_> {
        let (source, index) = self.mixture.at(position);
        let Source { name, order, .. } = &self.sources[source];
        let epoch = index / order.sample_count();
        RowOrigin { source: name, epoch, row: order.sample(index) }
    }

    /// Number of labels that are not ignored in the rows at `positions`, without making the rows.
    pub fn valid_labels(&self, positions: Range<u64>) -> u64 {
        let labels = positions.map(|position| {
            let (rows, row) = self.row(position);
            rows.valid_labels(row)
        });
        labels.sum()
    }

    fn row(&self, position: u64) -> (&Rows, u64) {
        let (source, index) = self.mixture.at(position);
        let Source { rows, order, .. } = &self.sources[source];
        (rows, order.sample(index))
    }

    /// Fills the rows at positions `first`, `first + 1`, … until the buffers, which hold whole rows, are full.
    ///
    /// # Panics
    ///
    /// If the buffers differ in length or do not hold whole rows.
    pub fn fill(&self, first: u64, tokens: &mut [i32], labels: &mut [i32]) {
        let rows = self.sources[0].rows.of_batch(tokens, labels);
        for (position, (tokens, labels)) in (first..).zip(rows) {
            let (rows, row) = self.row(position);
            rows.fill(row, tokens, labels);
        }
    }
}

impl TrainingRows for TrainingBatches {
    fn fill(
        &mut self,
        first: u64,
        tokens: &mut [i32],
        labels: &mut [i32],
    ) -> Result<(), DataError> {
        Self::fill(self, first, tokens, labels);
        Ok(())
    }

    fn identity(&self) -> String {
        let rows = &self.sources[0].rows;
        let mode = match rows.mode {
            BatchMode::Pack => "pack",
            BatchMode::Pad => "pad",
        };
        let content =
            |source: &Source| blake3::Hash::from_bytes(source.rows.corpus.content_hash()).to_hex();
        let content = match self.sources.as_slice() {
            [only] => format!("content {}", content(only)),
            several => {
                let parts = several
                    .iter()
                    .map(|source| format!("{} of {}", source.weight, content(source)));
                format!("mixture {}", parts.collect::<Vec<_>>().join(" + "))
            }
        };
        format!("{mode} {} tokens a row, seed {}, {content}", rows.sequence_length, self.seed)
    }
}
