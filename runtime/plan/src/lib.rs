//! The plan: the one thing that passes from the compiler to the runtime.
//!
//! A [`Plan`] states every operation, its order, every tensor's element format, shape and place, every cost, and the
//! recipe of the run. It is device-neutral: an executor may choose algorithms, never bytes, formats, shapes or order.
//!
//! Owns the definition of operations ([`op`], [`pointwise`]), types ([`dtype`], [`shape`]), layout ([`tensor`]),
//! programs ([`program`]), parameters ([`parameter`]), the recipe ([`recipe`]), the file format ([`mod@file`]) and the
//! verifier ([`verify`]). Beside the plan it owns what is computed from plans alone: how long one takes on a device
//! ([`predict`]) whose rates are known ([`profile`]). Must not know specs, graphs, passes, devices or files other than its
//! own.

pub mod dtype;
pub mod file;
pub mod hash;
pub mod op;
pub mod parameter;
pub mod plan;
pub mod pointwise;
pub mod predict;
pub mod profile;
pub mod program;
pub mod recipe;
pub mod shape;
pub mod tensor;
pub mod verify;

pub use dtype::DType;
pub use op::{Cost, Op, Real};
pub use plan::Plan;
pub use program::{Operation, Program, ProgramKind};
pub use shape::{Axis, Shape, TensorType};
pub use tensor::{Segment, Tensor, TensorId};
