//! What joined operations store between their parts; programs inside norms: what is computed before a norm of rows, and
//! after its derivative.

use std::borrow::Cow;

use colac_plan::DType;
use colac_plan::pointwise::{InputForm, Program};

use super::{nearest_bf16, pointwise, value::Value};

/// What a norm is taken of, with the operands behind it: the first operand, or what the prologue makes of the first few.
pub(super) fn before<'a>(
    prologue: Option<&Program>,
    operands: &'a [Value],
    rounds: bool,
) -> (Cow<'a, Value>, &'a [Value]) {
    let Some(program) = prologue else { return (Cow::Borrowed(&operands[0]), &operands[1..]) };
    let (inputs, rest) = operands.split_at(program.inputs.len());
    let whole = program.inputs.iter().position(|form| *form == InputForm::Elements);
    let shape = &inputs[whole.expect("a checked program has an input of that form")];
    // The norm is taken of what is stored.
    let made = pointwise::run(program, inputs, rounds).remove(0);
    let elements = stored(made, rounds.then_some(program.outputs[0].dtype));
    (Cow::Owned(Value { extents: shape.extents.clone(), elements }), rest)
}

/// What the epilogue makes of the gradient `dx` of `x`: itself where there is none.
pub(super) fn after(
    epilogue: Option<&Program>,
    dx: Vec<f64>,
    x: &Value,
    operands: &[Value],
    rounds: bool,
) -> Vec<f64> {
    let Some(program) = epilogue else { return dx };
    let elements = stored(dx, rounds.then_some(program.outputs[0].dtype));
    let mut inputs = vec![Value { extents: x.extents.clone(), elements }];
    inputs.extend_from_slice(operands);
    pointwise::run(program, &inputs, rounds).remove(0)
}

/// Numbers as they are stored in a format; without one they are not rounded.
pub(super) fn stored(mut elements: Vec<f64>, format: Option<DType>) -> Vec<f64> {
    if format == Some(DType::Bf16) {
        elements.iter_mut().for_each(|element| *element = nearest_bf16(*element));
    }
    elements
}
