//! Why a plan cannot run on a GPU.
//!
//! Owns the errors of construction. Must not know how operations are computed.

use colac_plan::op::TypeError;
use thiserror::Error;

use crate::cpu::{LayoutProblem, OperationProblem};

/// A plan that the CUDA executor does not take, or a machine that cannot run it.
#[derive(Debug, Error)]
pub enum CudaError {
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
