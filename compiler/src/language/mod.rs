//! The layer language: expressions, selectors, activations, and architecture files.
//!
//! Owns everything from the text of an architecture to its syntax tree and its resolved configuration. Must not know
//! what a graph is.

pub mod activation;
pub mod architecture;
mod body;
pub(crate) mod check;
pub mod codes;
pub mod config;
mod document;
pub mod expression;
mod grammar;
pub mod huggingface;
mod lexer;
pub(crate) mod operations;
pub mod selector;
pub mod syntax;
mod tokens;
pub mod weights;
