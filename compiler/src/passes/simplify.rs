//! Removes what does not matter: dead nodes, common subexpressions, programs that do nothing.
//!
//! ```text
//! before   %1 = rms_norm %0, @w          after   %1 = rms_norm %0, @w
//!          %2 = rms_norm %0, @w                  %3 = pointwise %1.0, %1.0 { a + b }
//!          %3 = pointwise %1.0, %2.0 { a + b }
//! ```
//!
//! Common subexpressions are merged only within one phase: a recompute region's clones must stay clones, or nothing
//! would be recomputed; operations that make parameters' gradients are never merged. Guarantees: no bit of any output
//! changes; everything left is needed by an output.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use colac_plan::Op;
use colac_plan::pointwise::{InputForm, Instruction};

use crate::graph::{Graph, NodeId, NodeKind, Output, Value};

/// Runs all simplifications to the end.
pub fn run(graph: &mut Graph) {
    skip_identities(graph);
    merge_common(graph);
    remove_dead(graph);
}

/// Removes nodes that no output needs. The only simplification that may run after recompute regions exist.
pub fn remove_dead(graph: &mut Graph) {
    let mut needed = vec![false; graph.id_bound()];
    let mut stack: Vec<NodeId> = graph.outputs().iter().map(|(_, value)| value.node).collect();
    while let Some(id) = stack.pop() {
        if !std::mem::replace(&mut needed[id.0 as usize], true) {
            stack.extend(graph.operands(id).iter().map(|v| v.node));
            stack.extend(graph.controls(id));
        }
    }
    let mut dead: Vec<NodeId> =
        graph.order().into_iter().filter(|id| !needed[id.0 as usize]).collect();
    dead.reverse();
    graph.linears.retain_mut(|site| {
        let mut nodes = site.nodes().filter(|id| needed[id.0 as usize]);
        let Some(node) = nodes.next() else { return false };
        (site.node, site.further) = (node, nodes.collect());
        true
    });
    graph.bypassable.retain(|id| needed[id.0 as usize]);
    for id in dead {
        graph.remove(id);
    }
}

/// Pointwise programs that hand an operand through unchanged give way to the operand.
fn skip_identities(graph: &mut Graph) {
    for id in graph.order() {
        let NodeKind::Op(Op::Pointwise { program }) = &graph.node(id).kind else { continue };
        let [output] = program.outputs[..] else { continue };
        let Instruction::Input(input) = program.instructions[output.register as usize] else {
            continue;
        };
        let operand = graph.operands(id)[input as usize];
        let whole = program.inputs[input as usize] == InputForm::Elements;
        if whole && graph.ty(operand).dtype == output.dtype {
            graph.replace(Value::of(id), operand);
        }
    }
}

/// Operations that make a parameter's gradient. Two that are alike stay two: each parameter has memory of its own, and
/// equal contributions to one parameter both count.
fn parameter_gradients(graph: &Graph) -> BTreeSet<NodeId> {
    let gradient = |(output, value): &(Output, Value)| {
        matches!(output, Output::Gradient(_)).then_some(value.node)
    };
    graph.outputs().iter().filter_map(gradient).collect()
}

fn merge_common(graph: &mut Graph) {
    let mut seen: BTreeMap<u64, Vec<NodeId>> = BTreeMap::new();
    let gradients = parameter_gradients(graph);
    for id in graph.order() {
        let node = graph.node(id);
        if gradients.contains(&id)
            || matches!(
                node.kind,
                NodeKind::Input(_) | NodeKind::Parameter(_) | NodeKind::Constant(_)
            )
        {
            continue;
        }
        let (operands, controls) = (graph.operands(id), graph.controls(id));
        let mut hasher = DefaultHasher::new();
        (&node.kind, &operands).hash(&mut hasher);
        let candidates = seen.entry(hasher.finish()).or_default();
        let same = candidates.iter().copied().find(|&other| {
            let o = graph.node(other);
            o.kind == node.kind
                && o.phase == node.phase
                && o.results == node.results
                && graph.operands(other) == operands
                && graph.controls(other) == controls
        });
        match same {
            None => candidates.push(id),
            Some(other) => {
                for result in 0..node.results.len() as u16 {
                    graph.replace(Value { node: id, result }, Value { node: other, result });
                }
            }
        }
    }
}
