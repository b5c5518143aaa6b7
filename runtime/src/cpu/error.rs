//! Why an executor cannot be made for a plan.
//!
//! Owns the errors of construction; running has none. Must not know how operations are computed.

use thiserror::Error;

use crate::contract::OperationError;

/// A plan that the CPU executor does not take, or a machine that cannot run it.
#[derive(Debug, Error)]
pub enum CpuError {
    /// The environment names vector instructions that do not exist.
    #[error(
        "{variable} is `{value}`: write avx512, avx2 or baseline, or unset it for the widest there are"
    )]
    Vectors {
        /// Name of the environment variable.
        variable: &'static str,
        /// What it says.
        value: String,
    },
    /// The memory for a segment cannot be had.
    #[error(
        "cannot allocate {bytes} bytes for {purpose}: {source}; use a smaller batch or a machine with more memory"
    )]
    Memory {
        /// What it is for.
        purpose: &'static str,
        /// How many bytes.
        bytes: u64,
        /// What the system said.
        source: std::io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread of {threads}: {source}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// An operation that contradicts its definition or its plan.
    #[error(transparent)]
    Operation(#[from] OperationError),
}
