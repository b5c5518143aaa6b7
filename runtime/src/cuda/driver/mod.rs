//! The real device: NVIDIA's driver, compiler and library of products.
//!
//! Owns every call into them. [`Gpu`] is the device that the executor drives: one context, one stream. Must not know
//! operations or plans.

pub(crate) mod compile;
pub(crate) mod libraries;
mod gpu;
mod product;

pub(crate) use gpu::{Gpu, slot};
pub use gpu::GpuDescription;
