//! The residual addition joins the norm that follows.
//!
//! ```text
//! before   %3 = pointwise %1, %2 { a + b }          after   %4 = rms_norm %1, %2, @w x={ a + b }
//!          %4 = rms_norm %3, @w
//! ```
//!
//! The sum is written as a further result of the norm (the stream goes on with it) and read from cache. Whatever program
//! stands before the norm, if it has one result, within one region; the norm of the next turn of a repeat counts.

use colac_plan::Op;
use colac_plan::pointwise::Program;

use crate::graph::{NodeId, NodeKind, Value};
use crate::passes::fuse::Fusion;
use crate::passes::fuse::join::Joined;

/// The norm with a program before it.
fn with_prologue(op: &Op, program: Program) -> Option<Op> {
    let prologue = Some(program);
    match *op {
        Op::RmsNorm { epsilon, gain, prologue: None } => {
            Some(Op::RmsNorm { epsilon, gain, prologue })
        }
        Op::LayerNorm { epsilon, gain, bias, prologue: None } => {
            Some(Op::LayerNorm { epsilon, gain, bias, prologue })
        }
        _ => None,
    }
}

/// The program that makes what this node is the norm of.
pub(super) fn partners(fusion: &Fusion, norm: NodeId) -> Vec<NodeId> {
    let node = fusion.graph.node(norm);
    let (NodeKind::Op(Op::RmsNorm { prologue: None, .. } | Op::LayerNorm { prologue: None, .. }),) =
        (&node.kind,)
    else {
        return Vec::new();
    };
    let source = fusion.graph.operands(norm)[0].node;
    let single = fusion.pointwise(source).is_some_and(|(program, _)| program.outputs.len() == 1);
    let joins = single && fusion.graph.node(source).phase == node.phase;
    if joins { vec![source] } else { Vec::new() }
}

/// Puts the program `source` before the norm.
pub(super) fn join(fusion: &mut Fusion, norm: NodeId, source: NodeId) -> bool {
    let (Some((program, read)), NodeKind::Op(op)) =
        (fusion.pointwise(source), &fusion.graph.node(norm).kind)
    else {
        return false;
    };
    let output = program.outputs[0].dtype;
    let mut joined = Joined::default();
    let made = joined.apply(program, &read);
    let Some((program, mut operands)) = joined.finish(&[(made[0], output)]) else { return false };
    let Some(op) = with_prologue(op, program) else { return false };
    let vectors: Vec<Value> = fusion.graph.operands(norm).split_off(1);
    operands.extend(vectors);
    let last = fusion.graph.node(norm).results.len() as u16;
    fusion.absorb(source, norm, op, &operands, &[(0, last)])
}
