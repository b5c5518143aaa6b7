//! One optimizer update.
//!
//! Owns the protocol between the host and the programs `forward_backward` and `update`: which scalars are set when, how
//! row losses become a mean, what happens when a number is not finite. Must not know folders, logs or schedules of
//! evaluations. Nothing here allocates after construction.

use colac_plan::recipe::{LossNormalization, Recipe};
use colac_plan::{Plan, ProgramKind};

use crate::executor::Executor;
use crate::train::error::TrainError;
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

/// Does updates with buffers of its own.
#[derive(Debug)]
pub struct Trainer {
    tokens: Vec<i32>,
    labels: Vec<i32>,
    row_losses: Vec<f32>,
    micro_batches: usize,
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
            row_losses: vec![0.0; micro_batch as usize],
            micro_batches: (global_batch / micro_batch) as usize,
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
    /// If the rows cannot be read, or with [`TrainError::NotFinite`] if gradient or loss is not finite. The device does
    /// not apply a gradient that is not finite.
    pub fn step(
        &mut self,
        executor: &mut dyn Executor,
        rows: &mut dyn TrainingRows,
        update: u64,
    ) -> Result<StepReport, TrainError> {
        let recipe = &executor.plan().recipe;
        let first_row = update * u64::from(recipe.global_batch);
        let (normalization, learning_rate) =
            (recipe.loss_normalization, learning_rate(&recipe.schedule, update));
        rows.fill(first_row, &mut self.tokens, &mut self.labels)?;

        let tokens = valid_labels(&self.labels);
        let step = update + 1;
        if tokens == 0 {
            return Ok(StepReport { step, loss: None, gradient_norm: None, learning_rate, tokens });
        }
        let loss = self.accumulate_gradient(executor, normalization, tokens) / tokens as f64;

        let roles = &executor.plan().roles;
        let (rate, norm, finite) =
            (roles.learning_rate, roles.gradient_norm, roles.gradient_finite);
        executor.write_f32(rate, &[learning_rate as f32]);
        executor.run(ProgramKind::Update, true);
        let (mut gradient_norm, mut gradient_finite) = ([0.0], [0.0]);
        executor.read_f32(norm, &mut gradient_norm);
        executor.read_f32(finite, &mut gradient_finite);
        let [gradient_norm] = gradient_norm;
        let not_finite = |what| TrainError::NotFinite { step, what, loss, gradient_norm };
        if gradient_finite == [0.0] {
            return Err(not_finite("gradient"));
        }
        if !loss.is_finite() {
            return Err(not_finite("loss"));
        }
        Ok(StepReport {
            step,
            loss: Some(loss),
            gradient_norm: Some(gradient_norm),
            learning_rate,
            tokens,
        })
    }

    /// Runs `forward_backward` on every micro-batch of the buffers; returns the sum of all row losses.
    fn accumulate_gradient(
        &mut self,
        executor: &mut dyn Executor,
        normalization: LossNormalization,
        global_tokens: u64,
    ) -> f64 {
        let roles = &executor.plan().roles;
        let (inputs, losses) = (roles.train.clone(), roles.train_loss);
        let (scale, accumulate) = (roles.loss_scale, roles.accumulate);
        let elements = self.tokens.len() / self.micro_batches;
        let batches = self.tokens.chunks_exact(elements).zip(self.labels.chunks_exact(elements));
        let mut sum = 0.0;
        for (index, (tokens, labels)) in batches.enumerate() {
            let divisor = match normalization {
                LossNormalization::GlobalToken => global_tokens as f64,
                LossNormalization::MicroBatch => {
                    valid_labels(labels) as f64 * self.micro_batches as f64
                }
            };
            // Without labels the loss is 0 whatever the scale, and a scale of 1/0 would make its gradient 0 · ∞.
            let loss_scale = if divisor == 0.0 { 0.0 } else { 1.0 / divisor };
            executor.write_i32(inputs.tokens, tokens);
            executor.write_i32(inputs.labels, labels);
            executor.write_f32(scale, &[loss_scale as f32]);
            executor.write_f32(accumulate, &[if index == 0 { 0.0 } else { 1.0 }]);
            executor.run(ProgramKind::ForwardBackward, index + 1 == self.micro_batches);
            executor.read_f32(losses, &mut self.row_losses);
            sum = self.row_losses.iter().fold(sum, |sum, &loss| sum + f64::from(loss));
        }
        sum
    }
}
