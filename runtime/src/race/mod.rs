//! Comparing models that were trained on the same batches.
//!
//! Contenders train with the same seeds, so that seed for seed each of them sees the same rows in the same order, and
//! stop at equal tokens or equal FLOPs. Each keeps its own learning-rate schedule, which ends with its last step: a model
//! that is stopped in the middle of a longer schedule cannot be compared with one that ended.
//!
//! Owns how long each contender trains ([`length`]), and what the results allow to claim ([`standings`],
//! [`statistics`]). Must not know specs, folders or printing.

pub mod length;
pub mod standings;
pub mod statistics;
