//! Programs that read the same values become one with the results of both.
//!
//! ```text
//! before   %4 = pointwise %1 { a * sigmoid(a) } after %2     recompute
//!          %5 = pointwise %1, %3 { a * b }                   backward
//! after    %5 = pointwise %1, %3 { a * b; a * sigmoid(a) } after %2
//! ```
//!
//! One of the two must read nothing that the other does not, so that no value has to wait for a stranger. They belong to
//! one region, or one to a recompute region whose value only the backward pass reads, like the σ(z) that a weight's
//! gradient needs in the example: then the result belongs to the backward pass. The later one may read the earlier one,
//! but nothing else that depends on it.

use colac_plan::Op;
use colac_plan::pointwise::InputForm;
use colac_plan::program::Phase;

use crate::graph::{NodeId, Value};
use crate::passes::fuse::Fusion;
use crate::passes::fuse::join::Joined;

/// Programs that stand before this one and read nothing else, or all of it and more.
pub(super) fn partners(fusion: &Fusion, later: NodeId) -> Vec<NodeId> {
    let Some(read) = elements(fusion, later) else { return Vec::new() };
    let mut partners: Vec<NodeId> = Vec::new();
    for &value in &read {
        for (other, _) in fusion.graph.uses(value) {
            let joins = other != later
                && !partners.contains(&other)
                && fusion.order.before(other, later)
                && fusion.graph.node(other).scope == fusion.graph.node(later).scope
                && fusion.same_shape(other, later)
                && together(fusion, other, later).is_some()
                && elements(fusion, other).is_some_and(|others| {
                    let within = |a: &[Value], b: &[Value]| a.iter().all(|v| b.contains(v));
                    within(&others, &read) || within(&read, &others)
                })
                && fusion.order.joins(&fusion.graph, other, later);
            if joins {
                partners.push(other);
            }
        }
    }
    partners
}

/// The values that a program reads element by element.
fn elements(fusion: &Fusion, id: NodeId) -> Option<Vec<Value>> {
    let (program, operands) = fusion.pointwise(id)?;
    let whole = operands.iter().zip(&program.inputs).filter(|(_, f)| **f == InputForm::Elements);
    Some(whole.map(|(&v, _)| v).collect())
}

/// The region of the two as one.
fn together(fusion: &Fusion, one: NodeId, other: NodeId) -> Option<Phase> {
    let phases = [one, other].map(|id| fusion.graph.node(id).phase);
    let only_backward_reads = |id: NodeId| {
        let results = 0..fusion.graph.node(id).results.len() as u16;
        results
            .flat_map(|result| fusion.graph.uses(Value { node: id, result }))
            .all(|(reader, _)| fusion.graph.node(reader).phase == Phase::Backward)
    };
    match phases {
        [a, b] if a == b => Some(a),
        [Phase::Recompute(_), Phase::Backward] if only_backward_reads(one) => Some(Phase::Backward),
        [Phase::Backward, Phase::Recompute(_)] if only_backward_reads(other) => {
            Some(Phase::Backward)
        }
        _ => None,
    }
}

/// Puts `earlier` beside `later`.
pub(super) fn join(fusion: &mut Fusion, later: NodeId, earlier: NodeId) -> bool {
    let (Some((program, operands)), Some((beside, read))) =
        (fusion.pointwise(later), fusion.pointwise(earlier))
    else {
        return false;
    };
    let Some(phase) = together(fusion, earlier, later) else { return false };
    let mut joined = Joined::default();
    let others = joined.apply(beside, &read);
    // The later program may read the earlier one too: a gradient reads what is made again for it.
    let stored = joined.all_stored(&others, &beside.outputs);
    let known = |value: Value| (value.node == earlier).then(|| stored[value.result as usize]);
    let own = joined.apply_with(program, &operands, known);
    let further = fusion.read_elsewhere(earlier, later);
    let moved: Vec<(u16, u16)> = further.iter().copied().zip(own.len() as u16..).collect();
    let own = own.iter().zip(&program.outputs).map(|(&r, o)| (r, o.dtype));
    let further = further.iter().map(|&r| (others[r as usize], beside.outputs[r as usize].dtype));
    let outputs: Vec<_> = own.chain(further).collect();
    let Some((program, operands)) = joined.finish(&outputs) else { return false };
    let done = fusion.absorb(earlier, later, Op::Pointwise { program }, &operands, &moved);
    if done {
        fusion.graph.set_phase(later, phase);
    }
    done
}
