//! Plan in, trained weights out.
//!
//! An [`executor`] runs the programs of a plan. Must not know specs, TOML, spans or graphs: the plan is all that
//! crosses from the compiler.

mod bare_plan;
pub mod conformance;
mod contract;
pub mod cpu;
pub mod cuda;
pub mod data;
pub mod executor;
pub mod generate;
pub mod host;
pub mod measure;
pub mod plot;
pub mod race;
pub mod reference;
pub mod train;

// The whole repository's tests skip alike.
#[cfg(test)]
#[path = "../../tests/common/skip.rs"]
mod skip;
