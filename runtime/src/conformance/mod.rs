//! The conformance suite: every operation, from its samples, against its definition.
//!
//! `samples` gives awkward operands for each operation. From them follow the tests: the shape rule
//! (`shape_rules`), the cost (`costs`), derivatives by finite differences on the reference interpreter
//! (`derivatives`), and executors against the reference within bounds that `bounds` derives from the arithmetic,
//! in every way of writing a result and in every precision (`executors`, `precisions`); pointwise programs have tests of
//! their own (`pointwise_primitives`, `pointwise_programs`), and so have gradients that attention turns back
//! (`turned_back`). `layout` builds the plan of a single operation in memory.
//!
//! An operation without samples does not compile: `samples::of` matches exhaustively.

mod bounds;
#[cfg(test)]
mod costs;
#[cfg(test)]
mod derivatives;
mod executors;
pub(crate) mod layout;
#[cfg(test)]
mod pointwise_primitives;
#[cfg(test)]
mod pointwise_programs;
mod precisions;
pub(crate) mod samples;
#[cfg(test)]
mod shape_rules;
#[cfg(test)]
mod turned_back;

pub use executors::Verdict;
pub(crate) use executors::{Arithmetic, plans, verify};
#[cfg(test)]
pub(crate) use executors::{check, first_failure};
#[cfg(test)]
pub(crate) use turned_back::check_turned_back;
