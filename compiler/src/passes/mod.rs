//! Passes over the graph, in the order of [`PASSES`]. A pass is one function in one file, whose header says what it
//! does on a small example, what it assumes and what it guarantees. The verifier runs after each.
//!
//! Must not know TOML or plans' files: passes see graphs, and the sections of the spec that concern them.

pub mod autodiff;
pub mod codes;
pub mod cola;
pub mod dropout;
pub mod fuse;
pub mod group;
pub mod memory;
pub mod place;
pub mod precision;
pub mod recompute;
pub mod schedule;
pub mod simplify;

/// A row of the pass table.
#[derive(Clone, Copy, Debug)]
pub struct PassInfo {
    /// Name, as in `--dump NAME`.
    pub name: &'static str,
    /// What the graph is after it.
    pub about: &'static str,
}

/// Every stage whose graph can be printed, in order.
pub const PASSES: [PassInfo; 9] = [
    PassInfo { name: "lower", about: "the forward graph as the architecture says" },
    PassInfo { name: "cola", about: "selected linears are low-rank pairs" },
    PassInfo { name: "simplify", about: "dead nodes and common subexpressions are gone" },
    PassInfo { name: "group", about: "linears that read the same value are one" },
    PassInfo { name: "precision", about: "every value has its storage format" },
    PassInfo {
        name: "autodiff",
        about: "the training program with its backward graph, simplified again",
    },
    PassInfo {
        name: "recompute",
        about: "what does not live until the backward pass is made again there",
    },
    PassInfo { name: "fuse", about: "operations are joined with their neighbours" },
    PassInfo {
        name: "schedule",
        about: "the training program in the order of execution, with places in the arena",
    },
];
