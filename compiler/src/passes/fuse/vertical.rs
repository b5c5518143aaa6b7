//! A pointwise program joins the one that reads it.
//!
//! ```text
//! before   %1 = linear %0, @w             after   %1 = linear %0, @w
//!          %2 = pointwise %1, @b { a + b }        %3 = pointwise %1, @b { (a + b) * sigmoid(a + b) }
//!          %3 = pointwise %2 { a * sigmoid(a) }
//! ```
//!
//! The value between them is not written where nothing else reads it; else it is one more result, and at least not read
//! again by this reader. That second form stays within one turn of a repeat, because the other readers have to wait.

use colac_plan::Op;
use colac_plan::pointwise::{InputForm, Register};

use crate::graph::{NodeId, Value};
use crate::passes::fuse::Fusion;
use crate::passes::fuse::join::Joined;

/// Programs whose results this program reads element by element.
pub(super) fn partners(fusion: &Fusion, reader: NodeId) -> Vec<NodeId> {
    let Some((program, operands)) = fusion.pointwise(reader) else { return Vec::new() };
    let mut partners: Vec<NodeId> = Vec::new();
    for (&operand, form) in operands.iter().zip(&program.inputs) {
        let source = operand.node;
        let joins = *form == InputForm::Elements
            && !partners.contains(&source)
            && fusion.is_pointwise(source)
            && fusion.graph.node(source).phase == fusion.graph.node(reader).phase
            && (fusion.graph.node(source).scope == fusion.graph.node(reader).scope
                || fusion.read_elsewhere(source, reader).is_empty());
        if joins {
            partners.push(source);
        }
    }
    partners
}

/// Puts `source` into `reader`.
pub(super) fn join(fusion: &mut Fusion, reader: NodeId, source: NodeId) -> bool {
    let (Some((program, operands)), Some((inner, read))) =
        (fusion.pointwise(reader), fusion.pointwise(source))
    else {
        return false;
    };
    let mut joined = Joined::default();
    let made = joined.apply(inner, &read);
    let stored: Vec<Register> = joined.all_stored(&made, &inner.outputs);
    let known = |value: Value| (value.node == source).then(|| stored[value.result as usize]);
    let results = joined.apply_with(program, &operands, known);
    let own = results.iter().zip(&program.outputs).map(|(&r, o)| (r, o.dtype));
    let further = fusion.read_elsewhere(source, reader);
    let others = further.iter().map(|&r| (made[r as usize], inner.outputs[r as usize].dtype));
    let outputs: Vec<_> = own.chain(others).collect();
    let moved: Vec<(u16, u16)> = further.iter().copied().zip(results.len() as u16..).collect();
    let Some((program, operands)) = joined.finish(&outputs) else { return false };
    fusion.absorb(source, reader, Op::Pointwise { program }, &operands, &moved)
}
