//! Perplexity over validation rows.
//!
//! Owns both definitions of perplexity and bits per byte. Must not know when evaluations happen or where they are
//! logged. Nothing here allocates after construction.

use std::sync::atomic::{AtomicBool, Ordering};

use colac_plan::{Plan, ProgramKind};

use crate::executor::Executor;
use crate::train::error::TrainError;
use crate::train::rows::{IGNORED_LABEL, ValidationRows, valid_labels};

/// Result of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationReport {
    /// Mean over all evaluated labels, in nats.
    pub loss: f64,
    /// `exp(loss)`.
    pub perplexity: f64,
    /// As the published evaluation code computes it: rows are taken in batches of `reference_batch`, the mean losses of
    /// the `m` batches are added and divided by `m + 1`, and the exponential is taken. It is lower than the exact
    /// perplexity and depends on the batch; it serves comparison with published tables only.
    pub perplexity_reference_compatible: f64,
    /// Loss of all evaluated labels in bits, divided by the bytes of text that they stand for; `None` where those are
    /// not known.
    pub bits_per_byte: Option<f64>,
    /// Evaluated labels.
    pub tokens: u64,
    /// Evaluated rows.
    pub rows: u64,
}

/// Evaluates with buffers of its own.
#[derive(Debug)]
pub struct Evaluator {
    tokens: Vec<i32>,
    labels: Vec<i32>,
    /// Of the batch before.
    labels_before: Vec<i32>,
    row_losses: Vec<f32>,
    sequence_length: usize,
    token_limit: u64,
    reference_batch: u32,
}

impl Evaluator {
    /// An evaluator for the recipe of a plan.
    ///
    /// # Errors
    ///
    /// If one of the recipe's evaluation batches or the length of rows is 0.
    pub fn new(plan: &Plan) -> Result<Evaluator, TrainError> {
        let recipe = &plan.recipe;
        for (setting, value) in [
            ("sequence_length", recipe.sequence_length),
            ("evaluation batch", recipe.evaluation.batch),
            ("evaluation reference_batch", recipe.evaluation.reference_batch),
        ] {
            if value == 0 {
                return Err(TrainError::ZeroSetting { setting });
            }
        }
        let elements = recipe.evaluation.batch as usize * recipe.sequence_length as usize;
        Ok(Evaluator {
            tokens: vec![0; elements],
            labels: vec![0; elements],
            labels_before: vec![0; elements],
            row_losses: vec![0.0; recipe.evaluation.batch as usize],
            sequence_length: recipe.sequence_length as usize,
            token_limit: recipe.evaluation.tokens,
            reference_batch: recipe.evaluation.reference_batch,
        })
    }

    /// Evaluates the weights in the executor on rows in their order, up to and including the reference batch with which
    /// more than the recipe's number of labels are evaluated. Both perplexities are over the same rows. Row losses are
    /// added in f64 in row order, so the result depends on the executed batch only through the rounding of row losses.
    ///
    /// Returns `None` if `stop` was set meanwhile.
    ///
    /// # Errors
    ///
    /// If rows cannot be read, or none of them has a label.
    pub fn evaluate(
        &mut self,
        executor: &mut dyn Executor,
        rows: &mut dyn ValidationRows,
        stop: &AtomicBool,
    ) -> Result<Option<EvaluationReport>, TrainError> {
        let (inputs, losses) =
            (executor.plan().roles.evaluate.clone(), executor.plan().roles.evaluate_loss);
        let batch = self.row_losses.len() as u64;
        let row_count = rows.row_count();
        // A device that works beside the host computes a batch while the losses of the one before are added up.
        let beside = executor.queued_reads().map(|reads| reads.discard_reads()).is_some();
        let mut sums = Sums::default();
        let (mut first, mut waiting) = (0, 0);
        loop {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let filled = (row_count - first).min(batch) as usize;
            std::mem::swap(&mut self.labels, &mut self.labels_before);
            if filled > 0 {
                let (tokens, rest) = self.tokens.split_at_mut(filled * self.sequence_length);
                rest.fill(0);
                let (labels, rest) = self.labels.split_at_mut(filled * self.sequence_length);
                rest.fill(IGNORED_LABEL);
                rows.fill(first, tokens, labels)?;
                executor.write_i32(inputs.tokens, &self.tokens);
                executor.write_i32(inputs.labels, &self.labels);
                executor.run(ProgramKind::Evaluate, true);
                match executor.queued_reads() {
                    Some(reads) => reads.queue_read(losses),
                    None => executor.read_f32(losses, &mut self.row_losses),
                }
            }
            let (labels, counted) = match beside {
                true => (&self.labels_before, std::mem::replace(&mut waiting, filled)),
                false => (&self.labels, filled),
            };
            if let Some(reads) = executor.queued_reads().filter(|_| counted > 0) {
                reads.fetch(&mut self.row_losses);
            }
            let bytes = rows.token_byte_lengths();
            let labels = labels.chunks_exact(self.sequence_length);
            let mut counted = labels.zip(&self.row_losses).take(counted);
            let enough = counted.any(|(labels, &loss)| {
                sums.add_row(f64::from(loss), labels, bytes);
                let closed = sums.batch_rows == self.reference_batch;
                if closed {
                    sums.finish_batch();
                }
                closed && self.token_limit != 0 && sums.tokens > self.token_limit
            });
            if enough || filled == 0 {
                break;
            }
            first += filled as u64;
        }
        sums.finish_batch();
        let bytes_known = rows.token_byte_lengths().is_some();
        sums.report(bytes_known).map(Some).ok_or(TrainError::NothingToEvaluate)
    }
}

/// Running sums of an evaluation.
#[derive(Default)]
struct Sums {
    nats: f64,
    tokens: u64,
    rows: u64,
    bytes: u64,
    batch_nats: f64,
    batch_tokens: u64,
    batch_rows: u32,
    batch_means: f64,
    batches: u64,
}

impl Sums {
    fn add_row(&mut self, nats: f64, labels: &[i32], byte_lengths: Option<&[u16]>) {
        let tokens = valid_labels(labels);
        self.nats += nats;
        self.batch_nats += nats;
        self.tokens += tokens;
        self.batch_tokens += tokens;
        self.rows += 1;
        self.batch_rows += 1;
        if let Some(lengths) = byte_lengths {
            let length = |&label: &i32| usize::try_from(label).ok().and_then(|id| lengths.get(id));
            self.bytes +=
                labels.iter().filter_map(length).map(|&length| u64::from(length)).sum::<u64>();
        }
    }

    /// Closes a reference batch. One without labels has no mean and does not count.
    fn finish_batch(&mut self) {
        if self.batch_tokens > 0 {
            self.batch_means += self.batch_nats / self.batch_tokens as f64;
            self.batches += 1;
        }
        (self.batch_nats, self.batch_tokens, self.batch_rows) = (0.0, 0, 0);
    }

    fn report(&self, bytes_known: bool) -> Option<EvaluationReport> {
        if self.tokens == 0 {
            return None;
        }
        let loss = self.nats / self.tokens as f64;
        let bits = self.nats / std::f64::consts::LN_2;
        Some(EvaluationReport {
            loss,
            perplexity: libm::exp(loss),
            perplexity_reference_compatible: libm::exp(
                self.batch_means / (self.batches + 1) as f64,
            ),
            bits_per_byte: (bytes_known && self.bytes > 0).then(|| bits / self.bytes as f64),
            tokens: self.tokens,
            rows: self.rows,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::testing::{Bigram, SEQUENCE, TestRows, plan};

    static GO: AtomicBool = AtomicBool::new(false);

    /// The executor's own row losses, one row at a time, with the labels of each row.
    fn row_losses(executor: &mut Bigram, rows: &TestRows) -> Vec<(f64, f64)> {
        let roles = executor.plan().roles.clone();
        let batch = executor.plan().recipe.evaluation.batch as usize;
        (0..rows.count)
            .map(|position| {
                let (tokens, labels) = rows.row(position);
                let mut batch_tokens = vec![0; batch * SEQUENCE];
                let mut batch_labels = vec![IGNORED_LABEL; batch * SEQUENCE];
                batch_tokens[..SEQUENCE].copy_from_slice(&tokens);
                batch_labels[..SEQUENCE].copy_from_slice(&labels);
                executor.write_i32(roles.evaluate.tokens, &batch_tokens);
                executor.write_i32(roles.evaluate.labels, &batch_labels);
                executor.run(ProgramKind::Evaluate, true);
                (executor.reals(roles.evaluate_loss)[0].into(), valid_labels(&labels) as f64)
            })
            .collect()
    }

    fn executor(batch: u32, reference_batch: u32, tokens: u64) -> Bigram {
        let mut plan = plan();
        // The batch of the plan's tensors stays 3: smaller ones would need another plan.
        assert_eq!(batch, plan.recipe.evaluation.batch);
        plan.recipe.evaluation.reference_batch = reference_batch;
        plan.recipe.evaluation.tokens = tokens;
        Bigram::initialized(plan)
    }

    fn evaluate(
        executor: &mut Bigram,
        rows: &mut TestRows,
    ) -> Result<Option<EvaluationReport>, TrainError> {
        Evaluator::new(executor.plan()).unwrap().evaluate(executor, rows, &GO)
    }

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{found}, not {expected}");
    }

    /// Reference batches that do and do not divide the executed batch and the rows; row 4 has no label.
    #[test]
    fn both_perplexities_and_bits_per_byte() {
        let mut rows = TestRows {
            empty: [4].into(),
            count: 11,
            byte_lengths: Some(vec![3, 1, 4, 1, 5, 9, 2]),
            ..TestRows::default()
        };
        for reference_batch in [1, 2, 3, 4, 11, 50] {
            let mut executor = executor(3, reference_batch, 0);
            let losses = row_losses(&mut executor, &rows);
            let (nats, tokens) =
                losses.iter().fold((0.0, 0.0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
            let means: Vec<f64> = losses
                .chunks(reference_batch as usize)
                .map(|batch| {
                    batch.iter().fold((0.0, 0.0), |sum, row| (sum.0 + row.0, sum.1 + row.1))
                })
                .filter(|batch| batch.1 > 0.0)
                .map(|batch| batch.0 / batch.1)
                .collect();
            let lengths = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0];
            let labels =
                (0..11).flat_map(|position| rows.row(position).1).filter(|&label| label >= 0);
            let bytes: f64 = labels.map(|label| lengths[label as usize]).sum();

            let report = evaluate(&mut executor, &mut rows).unwrap().unwrap();
            near(report.loss, nats / tokens);
            near(report.perplexity, (nats / tokens).exp());
            near(
                report.perplexity_reference_compatible,
                (means.iter().sum::<f64>() / (means.len() + 1) as f64).exp(),
            );
            near(report.bits_per_byte.unwrap(), nats / 2f64.ln() / bytes);
            assert_eq!((report.tokens as f64, report.rows), (tokens, 11));
        }
    }

    /// The published loop looks at its count before each batch, and goes on while it is not above the limit.
    #[test]
    fn it_stops_with_the_reference_batch_that_exceeds_the_limit() {
        let mut rows = TestRows { count: 40, ..TestRows::default() };
        for limit in [1, 7, 20, 33, 60] {
            for reference_batch in [1, 2, 5] {
                let (mut tokens, mut expected_rows) = (0, 0);
                while tokens <= limit {
                    for _ in 0..reference_batch {
                        tokens += valid_labels(&rows.row(expected_rows).1);
                        expected_rows += 1;
                    }
                }
                let report =
                    evaluate(&mut executor(3, reference_batch, limit), &mut rows).unwrap().unwrap();
                assert_eq!(
                    (report.tokens, report.rows),
                    (tokens, expected_rows),
                    "{limit} {reference_batch}"
                );
            }
        }
    }

    #[test]
    fn without_bytes_there_are_no_bits_per_byte() {
        let mut rows = TestRows { count: 2, ..TestRows::default() };
        assert_eq!(
            evaluate(&mut executor(3, 2, 0), &mut rows).unwrap().unwrap().bits_per_byte,
            None
        );
    }

    #[test]
    fn nothing_to_evaluate_is_an_error() {
        for (count, empty) in [(0, 0), (5, 5)] {
            let mut rows = TestRows { count, empty: (0..empty).collect(), ..TestRows::default() };
            let result = evaluate(&mut executor(3, 2, 0), &mut rows);
            assert!(matches!(result, Err(TrainError::NothingToEvaluate)));
        }
        let mut plan = plan();
        plan.recipe.evaluation.reference_batch = 0;
        assert!(matches!(Evaluator::new(&plan), Err(TrainError::ZeroSetting { .. })));
    }

    #[test]
    fn it_can_be_stopped() {
        let mut rows = TestRows { count: 9, ..TestRows::default() };
        let mut executor = executor(3, 2, 0);
        let stopped = Evaluator::new(executor.plan()).unwrap().evaluate(
            &mut executor,
            &mut rows,
            &AtomicBool::new(true),
        );
        assert_eq!(stopped.unwrap(), None);
        assert_eq!(executor.runs, []);
    }
}
