//! The verifier: what an executor may rely on without looking again.
//!
//! [`Rule`] lists everything that is enforced, grouped: the table of tensors, each operation alone, what is written and
//! read when, the arena, the model, the recipe. Reader and writer of plan files both call [`verify`]; the compiler does
//! so through the writer.
//!
//! Owns the rules and the definition of lifetimes. Must not know the file format, nor trust it: every id, extent and
//! length comes from outside, so nothing here may panic, overflow, recurse along the data or take time beyond
//! n·log n (slices of one tensor are the exception and therefore limited in number).

mod arena;
mod context;
mod flow;
pub mod layout;
mod lifetime;
mod model;
mod operations;
mod recipe;
mod region;
mod rule;
mod table;

pub use lifetime::{Alive, Lifetime, alive, arena_bytes, arena_lower_bound, lifetimes, root};
pub use rule::{Place, Rule, VerifyError};

use crate::plan::Plan;

use context::Context;

/// Checks every [`Rule`]; the error names the first that is found broken.
///
/// # Errors
/// The rule, where it is broken, and what shows it.
pub fn verify(plan: &Plan) -> Result<(), VerifyError> {
    // Later checks index by ids, follow parents and add up bytes without looking again.
    table::texts(plan)?;
    table::ids(plan)?;
    table::rings(plan)?;
    table::sizes(plan)?;
    table::tensors(plan)?;
    table::parents(plan)?;
    let cx = Context { plan, roots: lifetime::roots(plan) };
    table::disjoint(&cx)?;
    operations::programs(&plan.programs)?;
    recipe::numbers(&plan.recipe)?;
    model::roles(&cx)?;
    recipe::batches(&cx)?;
    model::scalars(&cx)?;
    model::parameters(&cx)?;
    model::constants(&cx)?;
    let handed = flow::handed(&cx);
    for program in &plan.programs {
        operations::check(&cx, program)?;
        model::interface(&cx, program)?;
        recipe::vocabulary(&cx, program)?;
        flow::check(&cx, program, &handed)?;
        arena::check(&cx, program)?;
    }
    model::update(&cx)
}
