//! Reports of a plan for people and machines.
//!
//! Owns what is counted and under which names it is reported. Reads plans only: what it says is what the runtime does.
//! Must not know specs, graphs or passes.

pub mod inspection;
pub mod text;

pub use inspection::Inspection;
