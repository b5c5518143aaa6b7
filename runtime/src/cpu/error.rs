//! Why an executor cannot be made for a plan.
//!
//! Owns the errors of construction; running has none. Must not know how operations are computed.

use colac_plan::op::TypeError;
use colac_plan::{DType, Segment};
use thiserror::Error;

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
    /// Operands or results do not have the types that the operation's rule gives.
    #[error("operation {path}: {source}")]
    Type {
        /// Path of the operation.
        path: String,
        /// What does not fit.
        source: TypeError,
    },
    /// A tensor's place or strides are not what the operation takes.
    #[error("operation {path}: {operand} of {op} {problem}")]
    Layout {
        /// Path of the operation.
        path: String,
        /// Printed name of the operation.
        op: &'static str,
        /// `operand 1`, `result 0`.
        operand: String,
        /// What is wrong with it.
        problem: LayoutProblem,
    },
    /// The operation as a whole contradicts its definition.
    #[error("operation {path}: {op} {problem}")]
    Operation {
        /// Path of the operation.
        path: String,
        /// Printed name of the operation.
        op: &'static str,
        /// What is wrong.
        problem: OperationProblem,
    },
}

/// What is wrong with a tensor's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LayoutProblem {
    /// Another element format.
    #[error("must be {expected}, not {found}")]
    ElementFormat {
        /// What it must be.
        expected: DType,
        /// What it is.
        found: DType,
    },
    /// Part of it is outside.
    #[error("lies outside the {0} segment")]
    OutsideSegment(Segment),
    /// Its rows do not step evenly, or it must be packed and is not.
    #[error("has strides that this operation does not take")]
    Strides,
    /// It does not start at a whole element.
    #[error("starts between two elements")]
    Alignment,
    /// The operation names a tensor that the plan does not have.
    #[error("names a tensor that the plan does not have")]
    Missing,
}

/// What is wrong with an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OperationProblem {
    /// A result lies where an operand or another result lies.
    #[error("writes a result onto bytes that it still needs")]
    Overlap,
    /// Results or ways of writing are missing or too many.
    #[error("has another number of results than its rule gives")]
    ResultCount,
    /// A result's type is not what the rule gives.
    #[error("has a result of another type than its rule gives")]
    ResultType,
    /// A result that cannot accumulate is marked to be added.
    #[error("adds to a result that cannot accumulate")]
    Accumulation,
    /// The workspace it was given is smaller than it needs.
    #[error("has less workspace than it needs")]
    Workspace,
}
