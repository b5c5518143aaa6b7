//! A program makes a value again that is a function of what it reads anyway.
//!
//! ```text
//! before   %1 = pointwise %0 { a * sigmoid(a) }          after   %1 = pointwise %0 { a * sigmoid(a) }
//!          %2 = linear %1, @w                                    %2 = linear %1, @w
//!          %3 = pointwise %0, %1, %2 { a + b + c }               %3 = pointwise %0, %2 { a + a * sigmoid(a) + b }
//! ```
//!
//! One value less is read, and if no other reader is left, it is not kept between the two. So the backward pass of a
//! gated activation reads the gate before the activation alone. Nothing lives longer, since the program reads nothing
//! new but rows and numbers of the model; this holds across regions as well.

use colac_plan::pointwise::{InputForm, Program, Register};
use colac_plan::{DType, Op};

use crate::graph::{NodeId, NodeKind, Value};
use crate::passes::fuse::Fusion;
use crate::passes::fuse::join::{Joined, part};

/// Most instructions that a program may grow by: beyond that reading is cheaper.
const MOST_INSTRUCTIONS: u64 = 12;

/// Programs with a result that this program could make itself.
pub(super) fn partners(fusion: &Fusion, reader: NodeId) -> Vec<NodeId> {
    let mut partners: Vec<NodeId> = Vec::new();
    let Some((_, operands)) = fusion.pointwise(reader) else { return partners };
    for &value in &operands {
        if !partners.contains(&value.node) && makes_again(fusion, reader, value).is_some() {
            partners.push(value.node);
        }
    }
    partners
}

/// The program that makes an operand of `reader`, if the reader has what it needs.
fn makes_again(fusion: &Fusion, reader: NodeId, value: Value) -> Option<(Program, Vec<Value>)> {
    let (program, operands) = fusion.pointwise(reader)?;
    let (source, read) = fusion.pointwise(value.node)?;
    let whole = |v: Value| {
        let mut forms = operands.iter().zip(&program.inputs).filter(|(o, _)| **o == v);
        forms.any(|(_, form)| *form == InputForm::Elements)
    };
    if !whole(value) || fusion.graph.holds_back(value.node) {
        return None;
    }
    let (made, needed) = part(source, &read, value.result as usize);
    let of_the_model = |v: Value| {
        let kind = &fusion.graph.node(v.node).kind;
        matches!(kind, NodeKind::Parameter(_) | NodeKind::Input(_) | NodeKind::Constant(_))
    };
    let available = needed.iter().zip(&made.inputs).all(|(&v, form)| match form {
        InputForm::Elements => v != value && whole(v),
        InputForm::Row | InputForm::Scalar => of_the_model(v),
        InputForm::Column => false,
    });
    available.then_some((made, needed))
}

/// Makes `reader` make again what it reads of `source`.
pub(super) fn join(fusion: &mut Fusion, reader: NodeId, source: NodeId) -> bool {
    let Some((program, operands)) = fusion.pointwise(reader) else { return false };
    let before = program.arithmetic();
    let mut joined = Joined::default();
    let mut known: Vec<(Value, Register)> = Vec::new();
    for &value in operands.iter().filter(|v| v.node == source) {
        if let Some((made, needed)) = makes_again(fusion, reader, value) {
            let register = joined.apply(&made, &needed)[0];
            known.push((value, joined.stored(register, made.outputs[0].dtype)));
        }
    }
    let again = |value: Value| known.iter().find(|(v, _)| *v == value).map(|&(_, r)| r);
    let results = joined.apply_with(program, &operands, again);
    let outputs: Vec<_> =
        results.iter().zip(&program.outputs).map(|(&r, o)| (r, o.dtype)).collect();
    let formats: Vec<DType> = outputs.iter().map(|&(_, dtype)| dtype).collect();
    let Some((program, operands)) = joined.finish(&outputs) else { return false };
    if known.is_empty() || program.arithmetic() > before + MOST_INSTRUCTIONS {
        return false;
    }
    fusion.rewrite(reader, Op::Pointwise { program }, &operands, &formats);
    fusion.drop_unread(source);
    true
}
