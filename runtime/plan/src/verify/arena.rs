//! The arena: who lies where while alive, its end, and the lower bound.

use std::collections::BTreeMap;

use crate::program::Program;
use crate::tensor::{Segment, TensorId};

use super::context::{Checked, Context, at_operation, demand};
use super::lifetime::{Lifetime, lifetimes_with, lower_bound_with};
use super::operations::same_place;
use super::rule::{Place, Rule};

pub(super) fn check(cx: &Context<'_>, program: &Program) -> Checked {
    let lifetimes = lifetimes_with(cx.plan, program, &cx.roots);
    let (arena, segment) = (program.arena_bytes, cx.plan.bytes(Segment::Activations));
    let place = || Place::Program(program.kind);
    demand(arena <= segment, Rule::Arena, place, || {
        format!("its arena of {arena} bytes exceeds the {segment} of the segment")
    })?;
    for lifetime in &lifetimes {
        let end = cx.tensor(lifetime.root).range().expect("bounds are checked").end;
        demand(
            end <= arena,
            Rule::Arena,
            || at_operation(program, lifetime.first),
            || {
                format!(
                    "{} ends at {end}, beyond the arena of {arena} bytes",
                    cx.named(lifetime.root)
                )
            },
        )?;
    }
    conflicts(cx, program, &lifetimes)?;
    let (stated, bound) =
        (program.arena_lower_bound, lower_bound_with(cx.plan, program, &lifetimes));
    demand(stated == bound && bound <= arena, Rule::LowerBound, place, || {
        format!(
            "its lower bound is given as {stated} but is {bound}, and its arena has {arena} bytes"
        )
    })
}

/// A sweep over operations with the roots alive, by first byte. Those in the map never overlap.
fn conflicts(cx: &Context<'_>, program: &Program, lifetimes: &[Lifetime]) -> Checked {
    let mut dying: Vec<Vec<TensorId>> = vec![Vec::new(); program.operations.len()];
    let mut alive: BTreeMap<u64, (u64, Lifetime)> = BTreeMap::new();
    let mut born = lifetimes.iter().peekable();
    for index in 0..program.operations.len() {
        if index > 0 {
            for root in dying[index - 1].drain(..) {
                let start = cx.tensor(root).offset;
                if alive.get(&start).is_some_and(|(_, l)| l.root == root) {
                    alive.remove(&start);
                }
            }
        }
        while let Some(&lifetime) = born.next_if(|l| l.first == index) {
            let range = cx.tensor(lifetime.root).range().expect("bounds are checked");
            let met: Vec<(u64, Lifetime)> = alive
                .range(..range.end)
                .rev()
                .take_while(|(_, (end, _))| *end > range.start)
                .map(|(&start, &(_, other))| (start, other))
                .collect();
            for (start, other) in met {
                demand(
                    replaces(cx, program, index, other, lifetime),
                    Rule::Lifetimes,
                    || at_operation(program, index),
                    || {
                        format!(
                            "{} shares bytes with {}, which is alive until operation {}",
                            cx.named(lifetime.root),
                            cx.named(other.root),
                            other.last
                        )
                    },
                )?;
                alive.remove(&start);
            }
            alive.insert(range.start, (range.end, lifetime));
            dying[lifetime.last].push(lifetime.root);
        }
    }
    Ok(())
}

/// Whether operation `index` writes `new` in place of `old`.
fn replaces(
    cx: &Context<'_>,
    program: &Program,
    index: usize,
    old: Lifetime,
    new: Lifetime,
) -> bool {
    let operation = &program.operations[index];
    let operand = operation.operands.iter().position(|&id| id == old.root);
    let result = operation.results.iter().position(|&id| id == new.root);
    let (Some(operand), Some(result)) = (operand, result) else { return false };
    old.last == index
        && operation.op.in_place(operand, result)
        && same_place(cx, old.root, new.root)
}
