//! The real device: NVIDIA's driver, compiler and library of products.
//!
//! Owns every call into them. [`Gpu`] is the device that the executor drives: one context, one stream. Must not know
//! operations or plans.

pub(crate) mod compile;
mod gpu;
pub(crate) mod libraries;
mod product;

pub use gpu::GpuDescription;
pub(crate) use gpu::{Gpu, free_memory, slot};
