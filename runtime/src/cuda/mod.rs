//! The CUDA executor: plans on an NVIDIA GPU.
//!
//! The way of an operation: [`lower`] turns it into steps (launches of kernels, products) over addresses in one arena;
//! [`source`] puts a kernel's text together; a device compiles and runs them. Must not know the training loop.

mod error;
mod launch;
mod lower;
mod program;
mod source;
mod view;

pub use error::CudaError;
