//! Spec text in, plan out.
//!
//! Data flows one way: [`spec`] reads the user's TOML, [`language`] reads the architecture, [`lower`] joins both into a
//! [`graph`], [`passes`] rewrite it, [`emit`] turns it into a plan. Opens no device, trains nothing.

pub mod compile;
pub mod device;
pub mod diagnostics;
pub mod emit;
pub mod fit;
pub mod graph;
pub mod language;
pub mod lower;
pub mod passes;
pub mod pictures;
pub mod policies;
pub mod spec;
mod toml_tree;
pub mod view;
