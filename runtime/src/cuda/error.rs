//! Why a plan cannot run on a GPU.
//!
//! Owns the errors of construction. Must not know how operations are computed.

use std::path::PathBuf;

use thiserror::Error;

use crate::contract::OperationError;

/// A plan that the CUDA executor does not take, or a machine that cannot run it.
#[derive(Debug, Error)]
pub enum CudaError {
    /// A library of NVIDIA's is not there.
    #[error("{name} was not found: {install}")]
    Library {
        /// What it is called.
        name: &'static str,
        /// What to do.
        install: &'static str,
    },
    /// A library of NVIDIA's is another version than the one that is needed.
    #[error("{name} at {} has no {function}: {install}", path.display())]
    Incomplete {
        /// What it is called.
        name: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What was looked for in it.
        function: &'static str,
        /// What to do.
        install: &'static str,
    },
    /// A library of NVIDIA's is older than what is needed.
    #[error("{name} {found} at {} is too old: {needed} is needed; {install}", path.display())]
    Outdated {
        /// What it is called.
        name: &'static str,
        /// Where it is.
        path: PathBuf,
        /// Its version.
        found: String,
        /// The oldest that is used.
        needed: String,
        /// What to do.
        install: &'static str,
    },
    /// There is a driver, and no such device.
    #[error("there is no GPU {ordinal}: the driver knows {count} of them")]
    NoDevice {
        /// The number asked for, from 0.
        ordinal: i32,
        /// How many there are.
        count: i32,
    },
    /// The device lacks instructions that the kernels need.
    #[error("{name} has compute capability {}.{}: 8.0 is needed", capability.0, capability.1)]
    TooOld {
        /// The device.
        name: String,
        /// What it can.
        capability: (i32, i32),
    },
    /// The device has no room.
    #[error(
        "cannot allocate {bytes} bytes of the GPU for {purpose}: {message}; use a smaller micro-batch or another recompute policy (`colac fit` shows what fits)"
    )]
    Memory {
        /// What it is for.
        purpose: &'static str,
        /// How many bytes.
        bytes: u64,
        /// What the driver said.
        message: String,
    },
    /// The driver refused or failed.
    #[error("{doing}: {message}")]
    Driver {
        /// What was being done.
        doing: &'static str,
        /// What the driver said.
        message: String,
    },
    /// A kernel's text was refused.
    #[error("a kernel cannot be compiled: {0}")]
    Compiler(String),
    /// The algorithms chosen for a run cannot be written down.
    #[error("cannot write {file}: {message}")]
    Choices {
        /// The file in the run's folder.
        file: String,
        /// What the system said.
        message: String,
    },
    /// cuBLASLt refused or failed.
    #[error("cuBLASLt: {0}")]
    Products(String),
    /// cuDNN refused or failed.
    #[error("cuDNN, {doing}: {message}")]
    Cudnn {
        /// What was being done.
        doing: &'static str,
        /// What the library said.
        message: String,
    },
    /// An operation that contradicts its definition or its plan.
    #[error(transparent)]
    Operation(#[from] OperationError),
}
