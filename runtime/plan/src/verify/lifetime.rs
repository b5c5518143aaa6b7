//! When activations live, and how many bytes that needs at least.
//!
//! Owns the definition of a lifetime, which executors' checking modes, reports and the compiler's memory pass share.
//! Must not judge: a lifetime is what the program says, legal or not.

use crate::plan::Plan;
use crate::program::{Operation, Program, Write};
use crate::tensor::{Segment, Tensor, TensorId};

use crate::op::cost::aligned;

/// When the bytes of an activation are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// A tensor without parent. Its views and slices live and die with it.
    pub root: TensorId,
    /// Position of the first operation that touches it.
    pub first: usize,
    /// Position of the last operation that touches it. A result may lie on the bytes of an operand whose life ends
    /// there, if the operation allows it.
    pub last: usize,
}

/// The tensor whose bytes a tensor looks at: the end of its chain of parents. The tensors of the plan must exist and
/// parents must not form a ring, as in every verified plan.
pub fn root(plan: &Plan, mut id: TensorId) -> TensorId {
    while let Some(parent) = plan.tensor(id).parent {
        id = parent;
    }
    id
}

/// Roots of all tensors, by position in the table.
pub(crate) fn roots(plan: &Plan) -> Vec<TensorId> {
    let mut roots: Vec<Option<TensorId>> = vec![None; plan.tensors.len()];
    let mut chain = Vec::new();
    for start in 0..plan.tensors.len() {
        let mut id = TensorId(start as u32);
        let found = loop {
            if let Some(found) = roots[id.index()] {
                break found;
            }
            chain.push(id);
            match plan.tensor(id).parent {
                Some(parent) => id = parent,
                None => break id,
            }
        };
        for id in chain.drain(..) {
            roots[id.index()] = Some(found);
        }
    }
    roots.into_iter().map(|root| root.expect("every tensor was visited")).collect()
}

/// Every tensor that an operation touches: operands, results, and the scalars that say whether to add.
pub(crate) fn touched(operation: &Operation) -> impl Iterator<Item = TensorId> {
    let scalars = operation.writes.iter().filter_map(|write| match write {
        Write::AddIf(scalar) => Some(*scalar),
        Write::Overwrite | Write::Add => None,
    });
    operation.operands.iter().chain(&operation.results).copied().chain(scalars)
}

/// Lifetimes of the activations that a program uses, ordered by first use. The plan's tensor ids must be in range and
/// its parents must not form a ring, as in every verified plan.
pub fn lifetimes(plan: &Plan, program: &Program) -> Vec<Lifetime> {
    lifetimes_with(plan, program, &roots(plan))
}

pub(crate) fn lifetimes_with(plan: &Plan, program: &Program, roots: &[TensorId]) -> Vec<Lifetime> {
    let mut position: Vec<u32> = vec![u32::MAX; plan.tensors.len()];
    let mut lifetimes: Vec<Lifetime> = Vec::new();
    for (index, operation) in program.operations.iter().enumerate() {
        for id in touched(operation) {
            let root = roots[id.index()];
            if plan.tensor(root).segment != Segment::Activations {
                continue;
            }
            let position = &mut position[root.index()];
            if *position == u32::MAX {
                *position = lifetimes.len() as u32;
                lifetimes.push(Lifetime { root, first: index, last: index });
            }
            lifetimes[*position as usize].last = index;
        }
    }
    lifetimes
}

/// Whether two tensors have the same element size, extents and strides: element by element on the same bytes if they
/// start at the same byte.
pub(crate) fn same_layout(a: &Tensor, b: &Tensor) -> bool {
    a.ty.dtype.bytes() == b.ty.dtype.bytes()
        && a.ty.shape.same_extents(&b.ty.shape)
        && a.strides == b.strides
}

/// The activations in use during one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alive {
    /// Their bytes together. Saturates at `u64::MAX`.
    pub bytes: u64,
    /// Of the operation's results those that take the place of an operand, whose bytes therefore count once.
    pub in_place: Vec<TensorId>,
}

/// What is alive during each operation of a program, in order.
///
/// Each root counts with its span rounded up to [`crate::op::cost::ALIGNMENT`]. Where a result may take the place of an operand
/// ([`crate::Op::in_place`], the same layout, both roots, the operand's life ends and the result's begins here), both
/// count once; each operand serves at most one result, in the order of results.
pub fn alive(plan: &Plan, program: &Program) -> Vec<Alive> {
    let roots = roots(plan);
    alive_with(plan, program, &lifetimes_with(plan, program, &roots))
}

/// The most bytes of activations alive during one operation ([`alive`]): no placement can need less.
pub fn arena_lower_bound(plan: &Plan, program: &Program) -> u64 {
    let roots = roots(plan);
    lower_bound_with(plan, program, &lifetimes_with(plan, program, &roots))
}

pub(crate) fn lower_bound_with(plan: &Plan, program: &Program, lifetimes: &[Lifetime]) -> u64 {
    alive_with(plan, program, lifetimes).iter().map(|alive| alive.bytes).max().unwrap_or(0)
}

/// The bytes that a root takes in an arena. Saturates at `u64::MAX`.
pub fn arena_bytes(plan: &Plan, root: TensorId) -> u64 {
    let span = plan.tensor(root).span_bytes().unwrap_or(u64::MAX);
    if span > u64::MAX - crate::op::cost::ALIGNMENT { u64::MAX } else { aligned(span) }
}

fn alive_with(plan: &Plan, program: &Program, lifetimes: &[Lifetime]) -> Vec<Alive> {
    let bytes = |id: TensorId| u128::from(arena_bytes(plan, id));
    let count = program.operations.len();
    let mut born = vec![0u128; count + 1];
    let mut dead = vec![0u128; count + 1];
    let mut life: Vec<Option<Lifetime>> = vec![None; plan.tensors.len()];
    for lifetime in lifetimes {
        born[lifetime.first] += bytes(lifetime.root);
        dead[lifetime.last + 1] += bytes(lifetime.root);
        life[lifetime.root.index()] = Some(*lifetime);
    }
    let mut alive = 0u128;
    let mut all = Vec::with_capacity(count);
    for (index, operation) in program.operations.iter().enumerate() {
        alive = alive + born[index] - dead[index];
        let mut taken = vec![false; operation.operands.len()];
        let (mut saved, mut in_place) = (0, Vec::new());
        for (r, &result) in operation.results.iter().enumerate() {
            let begins = life[result.index()].is_some_and(|l| l.first == index);
            let place = begins.then(|| {
                operation.operands.iter().enumerate().position(|(o, &operand)| {
                    !taken[o]
                        && operand != result
                        && operation.op.in_place(o, r)
                        && life[operand.index()].is_some_and(|l| l.last == index && l.first < index)
                        && same_layout(plan.tensor(operand), plan.tensor(result))
                })
            });
            if let Some(place) = place.flatten() {
                for (o, &operand) in operation.operands.iter().enumerate() {
                    taken[o] |= operand == operation.operands[place];
                }
                saved += bytes(result);
                in_place.push(result);
            }
        }
        let bytes = u64::try_from(alive.saturating_sub(saved)).unwrap_or(u64::MAX);
        all.push(Alive { bytes, in_place });
    }
    all
}
