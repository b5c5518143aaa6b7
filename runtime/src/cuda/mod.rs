//! The CUDA executor: plans on an NVIDIA GPU.
//!
//! The way of an operation: [`lower`] turns it into steps (launches of kernels, products) over addresses in one arena;
//! [`source`] puts a kernel's text together; a [`device`] compiles and runs them: the real one in [`driver`], or in tests
//! a CPU that runs the same kernels' sources. Nothing of CUDA is needed to build or to start. Must not know the training
//! loop.

mod device;
mod driver;
mod error;
mod executor;
mod launch;
mod lower;
mod order;
mod program;
#[cfg(test)]
mod shim;
mod source;
mod view;

pub use driver::GpuDescription;
pub use error::CudaError;
pub use executor::CudaExecutor;

/// Bytes of a GPU's memory that nobody uses, less what a context and the library of products take.
///
/// # Errors
/// Without driver or device.
pub fn free_memory(ordinal: i32) -> Result<u64, CudaError> {
    driver::free_memory(ordinal)
}
