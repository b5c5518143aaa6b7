//! Losses and gradients that are infinite or not a number.
//!
//! Owns what is found out about such an update, and what a run remembers of them. Must not know files or when updates
//! happen: [`crate::train::run`] acts on it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::executor::Executor;

/// Which number was not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonFiniteNumber {
    /// An element of the gradient, or its norm.
    Gradient,
    /// The loss, while the gradient is finite.
    Loss,
    /// A weight or moment that the update left: loss and gradient were finite, and the step was too large. Found when
    /// the state should be saved.
    State,
}

impl NonFiniteNumber {
    /// `gradient`, `loss` or `state`.
    pub fn name(self) -> &'static str {
        match self {
            NonFiniteNumber::Gradient => "gradient",
            NonFiniteNumber::Loss => "loss",
            NonFiniteNumber::State => "state",
        }
    }
}

/// An update whose loss or gradient is not finite, and which changed nothing; or after which the state is not.
#[derive(Clone, Debug, PartialEq)]
pub struct NonFiniteUpdate {
    /// The update, counted from 1.
    pub step: u64,
    /// What was not finite.
    pub what: NonFiniteNumber,
    /// Mean loss of the global batch in nats per token.
    pub loss: f64,
    /// Norm of the whole gradient before clipping.
    pub gradient_norm: f64,
    /// Path of the first parameter, in the plan's order, whose gradient is not finite.
    pub parameter: Option<String>,
    /// How many parameters have such a gradient, and how many there are.
    pub parameters: (usize, usize),
    /// Positions of its rows in the endless sequence of epochs: the first, and one behind the last.
    pub rows: (u64, u64),
    /// Positions with a label in them.
    pub tokens: u64,
    /// Learning rate that the schedule gives this update.
    pub learning_rate: f64,
}

impl fmt::Display for NonFiniteUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NonFiniteUpdate { step, loss, gradient_norm, rows, .. } = self;
        write!(
            f,
            "update {step}: the {} is not finite (loss {loss}, gradient norm {gradient_norm}",
            self.what.name()
        )?;
        if let Some(parameter) = &self.parameter {
            let (affected, all) = self.parameters;
            write!(f, "; first in {parameter}, {affected} of {all} parameters")?;
        }
        write!(f, "; rows {} to {})", rows.0, rows.1.saturating_sub(1))
    }
}

/// What the gradients in an executor look like where they are not finite.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Diagnosis {
    /// Path of the first parameter whose gradient is not finite.
    pub(crate) parameter: Option<String>,
    /// How many parameters are so.
    pub(crate) affected: usize,
    /// Norm over all parameters, in f64.
    pub(crate) norm: f64,
}

/// Reads the gradient of every parameter.
pub(crate) fn diagnose(executor: &dyn Executor) -> Diagnosis {
    let plan = executor.plan();
    let mut diagnosis = Diagnosis { parameter: None, affected: 0, norm: 0.0 };
    let mut values = Vec::new();
    for parameter in &plan.parameters {
        let elements = plan.tensor(parameter.gradient).ty.shape.elements();
        values.resize(elements as usize, 0.0);
        executor.read_f32(parameter.gradient, &mut values);
        let squares: f64 = values.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
        diagnosis.norm += squares;
        if values.iter().any(|value| !value.is_finite()) {
            diagnosis.affected += 1;
            diagnosis.parameter.get_or_insert_with(|| parameter.path.clone());
        }
    }
    diagnosis.norm = diagnosis.norm.sqrt();
    diagnosis
}

/// What a run remembers of such updates; part of every checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// Global batches that were passed over by returns to a checkpoint: update `u`, counted from 0, takes the rows of
    /// global batch `u + passed_over`.
    pub passed_over: u64,
    /// Updates skipped in all.
    pub skipped: u64,
    /// Updates skipped since the last that was not.
    pub skipped_in_a_row: u32,
    /// Returns to a checkpoint in all.
    pub rollbacks: u64,
    /// Returns to the newest regular checkpoint.
    pub rollbacks_in_a_row: u32,
}
