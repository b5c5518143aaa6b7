//! The layer language: expressions, selectors, activations, and architecture files.
//!
//! Owns everything from the text of an architecture to its syntax tree and its resolved configuration. Must not know
//! what a graph is.

pub mod activation;
pub mod codes;
pub mod expression;
mod grammar;
mod lexer;
pub mod selector;
pub mod syntax;
mod tokens;
