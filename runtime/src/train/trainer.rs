//! One optimizer update.
//!
//! Owns the protocol between the host and the programs `forward_backward` and `update`: which scalars are set when, how
//! row losses become a mean, what happens when a number is not finite. Must not know folders, logs or schedules of
//! evaluations. Nothing here allocates after construction.

use colac_plan::recipe::{LossNormalization, Recipe};
use colac_plan::{Plan, ProgramKind};

use crate::executor::Executor;
use crate::host::random::dropout_draw;
use crate::train::error::TrainError;
use crate::train::non_finite::{NonFiniteNumber, NonFiniteUpdate, diagnose};
use crate::train::rows::{TrainingRows, valid_labels};
use crate::train::schedule::learning_rate;

/// What an update did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// The update, counted from 1: the number of updates done with it.
    pub step: u64,
    /// Mean over the labels of the global batch, in nats; `None` if it had no label, and then nothing was run.
    pub loss: Option<f64>,
    /// Norm of the whole gradient before clipping; `None` if the global batch had no label.
    pub gradient_norm: Option<f32>,
    /// Learning rate that the schedule gives this update.
    pub learning_rate: f64,
    /// Positions with a label in the global batch.
    pub tokens: u64,
}

/// An update and the rows that it learns from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The update, counted from 0.
    pub update: u64,
    /// The global batch, counted from 0; the same as the update unless batches were passed over.
    pub batch: u64,
}

impl Turn {
    /// The update on the global batch of the same number.
    pub fn of(update: u64) -> Turn {
        Turn { update, batch: update }
    }
}

/// A turn whose `forward_backward` was asked for, and whose row losses are to be fetched.
#[derive(Clone, Copy, Debug)]
struct Begun {
    turn: Turn,
    learning_rate: f64,
    /// Positions with a label in the global batch; nothing was run without any.
    tokens: u64,
}

impl Begun {
    fn report(&self, loss: Option<f64>, gradient_norm: Option<f32>) -> StepReport {
        let &Begun { turn: Turn { update, .. }, learning_rate, tokens } = self;
        StepReport { step: update + 1, loss, gradient_norm, learning_rate, tokens }
    }
}

/// Does updates with buffers of its own.
#[derive(Debug)]
pub struct Trainer {
    tokens: Vec<i32>,
    labels: Vec<i32>,
    /// Of all rows of the global batch.
    row_losses: Vec<f32>,
    micro_batches: usize,
    /// What a device was given to do beyond the last update.
    ahead: Option<Begun>,
}

impl Trainer {
    /// A trainer for the batches of a plan.
    ///
    /// # Errors
    ///
    /// If the global batch is not a positive multiple of the micro-batch, or rows are empty.
    pub fn new(plan: &Plan) -> Result<Trainer, TrainError> {
        let &Recipe { global_batch, micro_batch, sequence_length, .. } = &plan.recipe;
        if micro_batch == 0 || global_batch == 0 || !global_batch.is_multiple_of(micro_batch) {
            return Err(TrainError::BatchSizes { global_batch, micro_batch });
        }
        if sequence_length == 0 {
            return Err(TrainError::ZeroSetting { setting: "sequence_length" });
        }
        let elements = global_batch as usize * sequence_length as usize;
        Ok(Trainer {
            tokens: vec![0; elements],
            labels: vec![0; elements],
            row_losses: vec![0.0; global_batch as usize],
            micro_batches: (global_batch / micro_batch) as usize,
            ahead: None,
        })
    }

    /// Does the update with index `update`, counted from 0: one `forward_backward` for each micro-batch, then `update`.
    ///
    /// The gradient is that of the mean loss over all labels of the global batch
    /// ([`LossNormalization::GlobalToken`]), or of the mean over micro-batches of their mean losses
    /// ([`LossNormalization::MicroBatch`], where a micro-batch without labels counts as 0). The loss reported is the
    /// former in both cases: row losses are summed in f64 in row order, so it does not depend on the micro-batch.
    ///
    /// A global batch without any label runs no program and changes nothing, not even the moments: there is no gradient
    /// to follow.
    ///
    /// # Errors
    ///
    /// If the rows cannot be read, or with [`TrainError::NotFinite`] if gradient or loss is not finite. Weights, moments
    /// and the count of updates are then as they were: the device does not apply such a gradient, and for such a loss
    /// `update` is not run.
    pub fn step(
        &mut self,
        executor: &mut dyn Executor,
        rows: &mut dyn TrainingRows,
        update: u64,
    ) -> Result<StepReport, TrainError> {
        self.turn(executor, rows, Turn::of(update), None)
    }

    /// As [`Trainer::step`], on any global batch. `next` is the turn that will come after this one if nothing happens:
    /// a device that works beside the host then computes its gradient while the host looks at this one's loss, so that
    /// it never waits for the host. Weights, moments and the count of updates are those after this turn in any case.
    /// Results are the same with and without. The executor is always the same one.
    ///
    /// # Errors
    ///
    /// As [`Trainer::step`].
    pub fn turn(
        &mut self,
        executor: &mut dyn Executor,
        rows: &mut dyn TrainingRows,
        turn: Turn,
        next: Option<Turn>,
    ) -> Result<StepReport, TrainError> {
        let begun = match self.ahead.take().filter(|ahead| ahead.turn == turn) {
            Some(ahead) => ahead,
            None => self.begin(executor, rows, turn)?,
        };
        if begun.tokens == 0 {
            return Ok(begun.report(None, None));
        }
        let Some(next) = next.filter(|_| executor.queued_reads().is_some()) else {
            return self.finish(executor, begun);
        };
        // Whether the update is to be made the device finds out: a loss that is not finite has such a gradient, too.
        update(executor, begun.learning_rate);
        let roles = &executor.plan().roles;
        let (norm, finite) = (roles.gradient_norm, roles.gradient_finite);
        if let Some(reads) = executor.queued_reads() {
            reads.queue_read(norm);
            reads.queue_read(finite);
        }
        // If its rows cannot be read, that will be an error when their turn has come.
        let ahead = self.begin_behind(executor, rows, next).ok();
        let loss = self.loss(executor, &begun);
        let (mut gradient_norm, mut gradient_finite) = ([0.0], [0.0]);
        if let Some(reads) = executor.queued_reads() {
            reads.fetch(&mut gradient_norm);
            reads.fetch(&mut gradient_finite);
        }
        if gradient_finite != [0.0] && loss.is_finite() {
            self.ahead = ahead;
            return Ok(begun.report(Some(loss), Some(gradient_norm[0])));
        }
        // Nothing was changed, but the gradient is that of the next turn by now: once more, to look at it.
        let begun = self.begin(executor, rows, turn)?;
        self.finish(executor, begun)
    }

    /// Asks for the gradient of a turn, when nothing else is to be fetched.
    fn begin(
        &mut self,
        executor: &mut dyn Executor,
        rows: &mut dyn TrainingRows,
        turn: Turn,
    ) -> Result<Begun, TrainError> {
        if let Some(reads) = executor.queued_reads() {
            reads.discard_reads();
        }
        self.begin_behind(executor, rows, turn)
    }

    fn begin_behind(
        &mut self,
        executor: &mut dyn Executor,
        rows: &mut dyn TrainingRows,
        turn: Turn,
    ) -> Result<Begun, TrainError> {
        let recipe = &executor.plan().recipe;
        let learning_rate = learning_rate(&recipe.schedule, turn.update);
        let first_row = turn.batch * u64::from(recipe.global_batch);
        rows.fill(first_row, &mut self.tokens, &mut self.labels)?;
        let begun = Begun { turn, learning_rate, tokens: valid_labels(&self.labels) };
        if begun.tokens > 0 {
            self.accumulate_gradient(executor, begun);
        }
        Ok(begun)
    }

    /// Waits for the losses of a turn, and updates if their mean is finite.
    fn finish(
        &mut self,
        executor: &mut dyn Executor,
        begun: Begun,
    ) -> Result<StepReport, TrainError> {
        let loss = self.loss(executor, &begun);
        if loss.is_finite() {
            update(executor, begun.learning_rate);
            let roles = &executor.plan().roles;
            let (mut gradient_norm, mut gradient_finite) = ([0.0], [0.0]);
            executor.read_f32(roles.gradient_norm, &mut gradient_norm);
            executor.read_f32(roles.gradient_finite, &mut gradient_finite);
            if gradient_finite != [0.0] {
                return Ok(begun.report(Some(loss), Some(gradient_norm[0])));
            }
        }
        let diagnosis = diagnose(executor);
        let what = match loss.is_finite() || diagnosis.affected > 0 {
            true => NonFiniteNumber::Gradient,
            false => NonFiniteNumber::Loss,
        };
        let Begun { turn, learning_rate, tokens } = begun;
        let global_batch = u64::from(executor.plan().recipe.global_batch);
        let first_row = turn.batch * global_batch;
        Err(TrainError::NotFinite(Box::new(NonFiniteUpdate {
            step: turn.update + 1,
            what,
            loss,
            gradient_norm: diagnosis.norm,
            parameter: diagnosis.parameter,
            parameters: (diagnosis.affected, executor.plan().parameters.len()),
            rows: (first_row, first_row + global_batch),
            tokens,
            learning_rate,
        })))
    }

    /// The mean loss of a turn; waits for it.
    fn loss(&mut self, executor: &mut dyn Executor, begun: &Begun) -> f64 {
        if let Some(reads) = executor.queued_reads() {
            let rows = self.row_losses.len() / self.micro_batches;
            self.row_losses.chunks_exact_mut(rows).for_each(|losses| reads.fetch(losses));
        }
        let sum = self.row_losses.iter().fold(0.0, |sum, &loss| sum + f64::from(loss));
        sum / begun.tokens as f64
    }

    /// Asks for `forward_backward` of every micro-batch in the buffers, and for its row losses.
    fn accumulate_gradient(&mut self, executor: &mut dyn Executor, begun: Begun) {
        let roles = &executor.plan().roles;
        let (inputs, losses) = (roles.train.clone(), roles.train_loss);
        let (scale, accumulate) = (roles.loss_scale, roles.accumulate);
        let recipe = &executor.plan().recipe;
        let (normalization, seed) = (recipe.loss_normalization, recipe.seed);
        let draw = roles.dropout_draw;
        let elements = self.tokens.len() / self.micro_batches;
        let rows = self.row_losses.len() / self.micro_batches;
        let batches = self.tokens.chunks_exact(elements).zip(self.labels.chunks_exact(elements));
        let batches = batches.zip(self.row_losses.chunks_exact_mut(rows));
        for (index, ((tokens, labels), row_losses)) in batches.enumerate() {
            let divisor = match normalization {
                LossNormalization::GlobalToken => begun.tokens as f64,
                LossNormalization::MicroBatch => {
                    valid_labels(labels) as f64 * self.micro_batches as f64
                }
            };
            // Without labels the loss is 0 whatever the scale, and a scale of 1/0 would make its gradient 0 · ∞.
            let loss_scale = if divisor == 0.0 { 0.0 } else { 1.0 / divisor };
            executor.write_i32(inputs.tokens, tokens);
            executor.write_i32(inputs.labels, labels);
            if let Some(draw) = draw {
                executor.write_i32(draw, &dropout_draw(seed, begun.turn.update, index));
            }
            executor.write_f32(scale, &[loss_scale as f32]);
            executor.write_f32(accumulate, &[if index == 0 { 0.0 } else { 1.0 }]);
            executor.run(ProgramKind::ForwardBackward, index + 1 == self.micro_batches);
            match executor.queued_reads() {
                Some(reads) => reads.queue_read(losses),
                None => executor.read_f32(losses, row_losses),
            }
        }
    }
}

/// Asks for the update by the gradient that is there.
fn update(executor: &mut dyn Executor, learning_rate: f64) {
    let rate = executor.plan().roles.learning_rate;
    executor.write_f32(rate, &[learning_rate as f32]);
    executor.run(ProgramKind::Update, true);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::testing::{Bigram, Poison, SEQUENCE, TestRows, VOCAB, plan, plan_of};

    /// Loss and gradient norm of the rows, each label's loss times the weight of its row; in f64, from scratch.
    fn expected(executor: &Bigram, rows: &TestRows, weights: &[f64]) -> (f64, f64) {
        let plan = executor.plan();
        let [table, bias] = [0, 1].map(|index| executor.reals(plan.parameters[index].tensor));
        let mut gradient = vec![0.0; VOCAB * (VOCAB + 1)];
        let (mut sum, mut count) = (0.0, 0.0);
        for (position, weight) in (0..).zip(weights) {
            let (tokens, labels) = rows.row(position);
            for (&token, &label) in tokens.iter().zip(&labels).filter(|&(_, &label)| label >= 0) {
                let (token, label) = (token as usize, label as usize);
                let exp: Vec<f64> = (0..VOCAB)
                    .map(|j| f64::from(table[token * VOCAB + j]).exp() * f64::from(bias[j]).exp())
                    .collect();
                let total: f64 = exp.iter().sum();
                sum -= (exp[label] / total).ln();
                count += 1.0;
                for j in 0..VOCAB {
                    let part = weight * (exp[j] / total - f64::from(u8::from(j == label)));
                    gradient[token * VOCAB + j] += part;
                    gradient[VOCAB * VOCAB + j] += part;
                }
            }
        }
        (sum / count, gradient.iter().map(|g| g * g).sum::<f64>().sqrt())
    }

    fn labels_of(rows: &TestRows, positions: std::ops::Range<u64>) -> f64 {
        positions.map(|position| valid_labels(&rows.row(position).1)).sum::<u64>() as f64
    }

    fn check(report: &StepReport, (loss, norm): (f64, f64)) {
        let near = |found: f64, expected: f64| (found - expected).abs() <= 1e-6 * expected.abs();
        assert!(near(report.loss.unwrap(), loss), "{report:?}: loss is {loss}");
        assert!(near(report.gradient_norm.unwrap().into(), norm), "{report:?}: norm is {norm}");
    }

    #[test]
    fn the_gradient_is_of_the_mean_over_the_global_batch() {
        let mut rows = TestRows::default();
        let tokens = labels_of(&rows, 0..4);
        for micro_batch in [1, 2, 4] {
            let mut executor =
                Bigram::initialized(plan_of(micro_batch, 4, LossNormalization::GlobalToken));
            let expected = expected(&executor, &rows, &[1.0 / tokens; 4]);
            let report =
                Trainer::new(executor.plan()).unwrap().step(&mut executor, &mut rows, 0).unwrap();
            check(&report, expected);
            assert_eq!((report.step, report.tokens as f64), (1, tokens));
            let mut runs: Vec<_> = (1..=4 / micro_batch)
                .map(|n| (ProgramKind::ForwardBackward, n == 4 / micro_batch))
                .collect();
            runs.push((ProgramKind::Update, true));
            assert_eq!(executor.runs, runs);
        }
    }

    #[test]
    fn micro_batch_means_weigh_the_same() {
        let mut rows = TestRows::default();
        let weights: Vec<f64> =
            (0..4).map(|row| 0.5 / labels_of(&rows, row / 2 * 2..row / 2 * 2 + 2)).collect();
        let mut executor = Bigram::initialized(plan_of(2, 4, LossNormalization::MicroBatch));
        let expected_norm = expected(&executor, &rows, &weights);
        let tokens = labels_of(&rows, 0..4);
        assert!(
            (expected(&executor, &rows, &[1.0 / tokens; 4]).1 / expected_norm.1 - 1.0).abs() > 1e-3
        );
        let report =
            Trainer::new(executor.plan()).unwrap().step(&mut executor, &mut rows, 0).unwrap();
        check(&report, expected_norm);
    }

    #[test]
    fn a_micro_batch_without_labels_counts_as_nothing() {
        let mut rows = TestRows { empty: [2, 3].into(), ..TestRows::default() };
        let first = 0.5 / labels_of(&rows, 0..2);
        let mut executor = Bigram::initialized(plan_of(2, 4, LossNormalization::MicroBatch));
        let expected = expected(&executor, &rows, &[first; 2]);
        let report =
            Trainer::new(executor.plan()).unwrap().step(&mut executor, &mut rows, 0).unwrap();
        check(&report, expected);
    }

    #[test]
    fn a_global_batch_without_labels_changes_nothing() {
        let mut rows = TestRows { empty: (4..8).collect(), ..TestRows::default() };
        let mut executor = Bigram::initialized(plan());
        let mut trainer = Trainer::new(executor.plan()).unwrap();
        trainer.step(&mut executor, &mut rows, 0).unwrap();
        let (state, runs) = (executor.state(), executor.runs.len());
        let report = trainer.step(&mut executor, &mut rows, 1).unwrap();
        assert_eq!(
            (report.step, report.loss, report.gradient_norm, report.tokens),
            (2, None, None, 0)
        );
        assert_eq!((executor.state(), executor.runs.len()), (state.clone(), runs));
        trainer.step(&mut executor, &mut rows, 2).unwrap();
        assert_ne!(executor.state(), state);
    }

    #[test]
    fn the_first_update_of_a_warmup_moves_no_weight() {
        let mut rows = TestRows::default();
        let mut executor = Bigram::initialized(plan());
        let mut trainer = Trainer::new(executor.plan()).unwrap();
        let weights = |executor: &Bigram| executor.reals(executor.plan().parameters[0].tensor);
        let start = weights(&executor);
        let report = trainer.step(&mut executor, &mut rows, 0).unwrap();
        assert_eq!((report.learning_rate, weights(&executor)), (0.0, start.clone()));
        let report = trainer.step(&mut executor, &mut rows, 1).unwrap();
        assert_eq!(report.learning_rate, 0.0125);
        assert_ne!(weights(&executor), start);
    }

    #[test]
    fn training_learns() {
        let mut rows = TestRows::default();
        let mut executor = Bigram::initialized(plan());
        let mut trainer = Trainer::new(executor.plan()).unwrap();
        let losses: Vec<f64> = (0..40)
            .map(|update| trainer.step(&mut executor, &mut rows, update).unwrap().loss.unwrap())
            .collect();
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        assert!(mean(&losses[30..]) < 0.7 * mean(&losses[..10]), "{losses:?}");
    }

    #[test]
    fn a_gradient_that_is_not_finite_stops_before_it_is_applied() {
        let mut rows = TestRows::default();
        let mut executor = Bigram::initialized(plan());
        let bias = executor.plan().parameters[1].tensor;
        executor.write_f32(bias, &[f32::NAN; VOCAB]);
        let state = executor.state();
        let error =
            Trainer::new(executor.plan()).unwrap().step(&mut executor, &mut rows, 6).unwrap_err();
        assert!(
            error.to_string().starts_with(
                "update 7: the gradient is not finite (loss NaN, gradient norm NaN; first in table.weight, 2 of 2 \
                 parameters; rows 24 to 27)"
            ),
            "{error}"
        );
        assert_eq!(executor.state(), state);
    }

    /// The loss of a row is infinite, and every gradient an ordinary number.
    #[test]
    fn a_loss_that_is_not_finite_is_not_learnt_from() {
        let mut rows = TestRows::default();
        let mut executor = Bigram::initialized(plan());
        executor.poison = Some(Poison { number: NonFiniteNumber::Loss, updates: [0].into() });
        let state = executor.state();
        let error =
            Trainer::new(executor.plan()).unwrap().step(&mut executor, &mut rows, 0).unwrap_err();
        let TrainError::NotFinite(update) = error else { panic!("{error}") };
        assert_eq!((update.what, update.loss), (NonFiniteNumber::Loss, f64::INFINITY));
        assert_eq!((update.parameter.as_deref(), update.parameters), (None, (0, 2)));
        assert!(update.gradient_norm.is_finite() && update.tokens > 0);
        assert_eq!(executor.state(), state);
    }

    #[test]
    fn impossible_batches_are_refused() {
        for (micro_batch, global_batch) in [(2, 3), (0, 4), (2, 0), (4, 2)] {
            let mut plan = plan();
            (plan.recipe.micro_batch, plan.recipe.global_batch) = (micro_batch, global_batch);
            assert!(matches!(Trainer::new(&plan), Err(TrainError::BatchSizes { .. })));
        }
        let mut plan = plan();
        plan.recipe.sequence_length = 0;
        assert!(Trainer::new(&plan).is_err());
        assert_eq!(SEQUENCE, 6);
    }
}
