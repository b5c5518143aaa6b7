//! What the host computes for any executor before the first step: start values and tables.
//!
//! Owns counter-based randomness ([`random`]), the start values of parameters ([`mod@initialize`]) and the tables that a
//! plan names ([`constants`]). All of it is the same on every machine: integer arithmetic, correctly rounded float
//! operations and the transcendental functions of the `libm` crate, never those of the platform. Must not know any
//! device: values go through [`crate::executor::Executor`].

pub mod constants;
pub mod initialize;
pub mod random;

pub use constants::write_constants;
pub use initialize::{initialize, write_fresh_optimizer_state, write_parameter, write_parameters};
