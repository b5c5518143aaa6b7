//! The real device: NVIDIA's driver, compiler, library of products and, where it is asked for, library of attention.
//!
//! Owns every call into them. [`Gpu`] is the device that the executor drives: one context, one
//! stream that computes. Must not know
//! operations or plans.

pub(crate) mod compile;
pub(crate) mod cudnn;
mod gpu;
pub(crate) mod libraries;
mod product;
mod ring;
mod transfers;

pub use gpu::GpuDescription;
#[cfg(any(test, feature = "cuda-shim"))]
pub(crate) use gpu::slot;
pub(crate) use gpu::{Gpu, Prepared, free_memory, probe};
pub use libraries::{Library, PATH_VARIABLE};

use crate::cuda::error::CudaError;

/// Where a library is, in words.
fn at(library: &Library) -> String {
    match library.path.is_absolute() {
        true => library.path.display().to_string(),
        false => format!("{} (the system's)", library.path.display()),
    }
}

/// Opens cuDNN, which only [`AttentionKernels::Cudnn`] needs, and says what it is or why it cannot be used.
///
/// [`AttentionKernels::Cudnn`]: crate::cuda::AttentionKernels::Cudnn
pub fn cudnn_found() -> Result<String, CudaError> {
    let (version, library) = cudnn::described()?;
    Ok(format!("{version}, {}", at(library)))
}

/// Opens every library that the executor needs, and says what each is or why it is not there.
pub fn libraries_found() -> Vec<(&'static str, Result<String, CudaError>)> {
    let nvrtc = || {
        let (major, minor) = compile::version()?;
        Ok(format!("{major}.{minor}, {}", at(libraries::nvrtc()?)))
    };
    let cublaslt = || Ok(format!("{}, {}", product::version()?, at(libraries::cublaslt()?)));
    vec![("CUDA driver", libraries::driver().map(at)), ("NVRTC", nvrtc()), ("cuBLASLt", cublaslt())]
}
