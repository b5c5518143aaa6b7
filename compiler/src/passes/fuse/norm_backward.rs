//! The addition of the residual's gradient joins the derivative of the norm before it.
//!
//! ```text
//! before   %5 = rms_norm_backward %4, %3, @w, %2           after   %6 = rms_norm_backward %4, %3, @w, %2, %1 dx={ b + a }
//!          %6 = pointwise %1, %5.0 { a + b }
//! ```
//!
//! The gradient through the norm is not written at all. It must have no other reader, and the format in which it would
//! have been stored must be that of the result, because an executor rounds it in the result's place.

use colac_plan::Op;
use colac_plan::pointwise::{InputForm, Program, Register};

use crate::graph::{NodeId, NodeKind, Value};
use crate::passes::fuse::Fusion;
use crate::passes::fuse::join::Joined;

/// The derivative with a program behind it.
fn with_epilogue(op: &Op, program: Program) -> Option<Op> {
    let epilogue = Some(program);
    match *op {
        Op::RmsNormBackward { gain, epilogue: None } => {
            Some(Op::RmsNormBackward { gain, epilogue })
        }
        Op::LayerNormBackward { gain, bias, epilogue: None } => {
            Some(Op::LayerNormBackward { gain, bias, epilogue })
        }
        _ => None,
    }
}

/// Derivatives of norms whose gradient only this program reads.
pub(super) fn partners(fusion: &Fusion, reader: NodeId) -> Vec<NodeId> {
    let Some((program, operands)) = fusion.pointwise(reader) else { return Vec::new() };
    if program.outputs.len() != 1 {
        return Vec::new();
    }
    let graph = &fusion.graph;
    let joins = |(&value, form): (&Value, &InputForm)| {
        let source = graph.node(value.node);
        let plain = matches!(
            &source.kind,
            NodeKind::Op(
                Op::RmsNormBackward { epilogue: None, .. }
                    | Op::LayerNormBackward { epilogue: None, .. }
            )
        );
        plain
            && value.result == 0
            && *form == InputForm::Elements
            && source.phase == graph.node(reader).phase
            && source.results[0].dtype == program.outputs[0].dtype
            && !fusion.read_elsewhere(value.node, reader).contains(&0)
    };
    let read = operands.iter().zip(&program.inputs).filter(|pair| joins(*pair));
    read.map(|(value, _)| value.node).take(1).collect()
}

/// Puts the program `reader` behind the derivative `source`.
pub(super) fn join(fusion: &mut Fusion, reader: NodeId, source: NodeId) -> bool {
    let Some((program, operands)) = fusion.pointwise(reader) else { return false };
    let node = fusion.graph.node(source);
    let NodeKind::Op(op) = &node.kind else { return false };
    let mut joined = Joined::default();
    let gradient: Register = joined.given();
    let known = |value: Value| (value == Value::of(source)).then_some(gradient);
    let made = joined.apply_with(program, &operands, known);
    let output = (made[0], program.outputs[0].dtype);
    let Some((program, further)) = joined.finish_epilogue(output) else { return false };
    let Some(op) = with_epilogue(op, program) else { return false };
    let mut operands = fusion.graph.operands(source);
    operands.extend(further);
    let moved: Vec<(u16, u16)> = (1..node.results.len() as u16).map(|r| (r, r)).collect();
    fusion.absorb(source, reader, op, &operands, &moved)
}
