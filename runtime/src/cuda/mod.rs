//! The CUDA executor: plans on an NVIDIA GPU.
//!
//! The way of an operation: `lower` turns it into steps (launches of kernels, products) over addresses in one arena;
//! `source` puts a kernel's text together; a `device` compiles and runs them: the real one in `driver`, or in tests
//! a CPU that runs the same kernels' sources. Nothing of CUDA is needed to build or to start. Must not know the training
//! loop.

use crate::conformance::Verdict;

#[cfg(any(test, feature = "cuda-shim"))]
pub mod assembly;
mod attention;
mod collect;
#[cfg(any(test, feature = "cuda-shim"))]
pub mod described;
mod device;
mod driver;
mod error;
mod executor;
mod launch;
mod lower;
mod memory;
mod order;
mod program;
mod shared;
#[cfg(any(test, feature = "cuda-shim"))]
pub mod shim;
mod signature;
mod source;
mod verify;
mod view;

pub use attention::{AttentionKernels, AttentionUse};
pub use driver::{GpuDescription, Library, PATH_VARIABLE, cudnn_found, libraries_found};
pub use error::CudaError;
pub use executor::CudaExecutor;
pub use memory::BesidePlan;
pub(crate) use shared::SharedGpu;
pub use verify::VerifiedAttention;

/// What is known of a GPU without allocating anything on it.
///
/// # Errors
/// Without driver or device.
pub fn describe(ordinal: i32) -> Result<GpuDescription, CudaError> {
    Ok(driver::probe(ordinal)?.1)
}

/// Runs the conformance suite on a GPU: every operation, from awkward samples, in every precision, layout and way of
/// writing, against the reference interpreter.
///
/// # Errors
/// Without what the executor needs, or if a kernel cannot be compiled.
pub fn verify(ordinal: i32) -> Result<Vec<Verdict>, CudaError> {
    verify::on_gpu(ordinal)
}

/// Whether the kernels that are asked for can be had: our own always, cuDNN's where it is installed.
///
/// # Errors
/// Without the library, or with one that is too old.
pub fn check_attention(kernels: AttentionKernels) -> Result<(), CudaError> {
    match kernels {
        AttentionKernels::Own => Ok(()),
        AttentionKernels::Cudnn => driver::cudnn::available(),
    }
}

/// Runs the samples of attention and its derivative by cuDNN, as far as it takes them, and by our own kernels else.
///
/// # Errors
/// Without what the executor needs, or without cuDNN.
pub fn verify_attention(ordinal: i32) -> Result<VerifiedAttention, CudaError> {
    verify::attention_on_gpu(ordinal)
}

/// Bytes of a GPU's memory that nobody uses; what is needed of them beside a plan is [`BesidePlan`].
///
/// # Errors
/// Without driver or device.
pub fn free_memory(ordinal: i32) -> Result<u64, CudaError> {
    driver::free_memory(ordinal)
}
