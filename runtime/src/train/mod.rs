//! Training: from a plan, an executor and rows of tokens to checkpoints and a log.
//!
//! [`run::train`] is the whole of it: a fresh or resumed run in a folder, with evaluations, checkpoints and an orderly
//! stop. Its parts can be used alone: the learning rate ([`schedule`]), one optimizer update ([`trainer`]), an
//! evaluation ([`evaluate`]), the log ([`metrics`]), the state on disk ([`checkpoint`]).
//!
//! Owns the order in which programs run, everything that happens between two of them, and the run folder. Must not know
//! any device, where rows come from, or how progress is shown: these are [`crate::executor::Executor`],
//! [`rows::TrainingRows`] and [`observer::Observer`].
//!
//! A run folder holds `run.lock` (which process works in it), `metrics.jsonl` ([`metrics`]) and `checkpoints/`
//! ([`checkpoint`]).

#[cfg(test)]
mod beside_tests;
pub mod checkpoint;
#[cfg(test)]
mod crash_disk;
#[cfg(test)]
mod crash_tests;
pub mod error;
pub mod evaluate;
pub(crate) mod file_system;
pub mod lock;
pub mod metrics;
pub mod non_finite;
pub mod observer;
pub mod options;
#[cfg(test)]
mod recovery_tests;
pub mod rows;
pub mod run;
#[cfg(test)]
mod run_tests;
pub mod schedule;
pub mod spikes;
pub mod tensorboard;
#[cfg(test)]
pub(crate) mod testing;
mod time_limit;
pub mod trainer;
