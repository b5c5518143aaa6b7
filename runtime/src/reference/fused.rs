//! Programs inside norms: what is computed before a norm of rows, and after its derivative.

use std::borrow::Cow;

use colac_plan::pointwise::{InputForm, Program};

use super::{pointwise, value::Value};

/// What a norm is taken of, with the operands behind it: the first operand, or what the prologue makes of the first few.
pub(super) fn before<'a>(
    prologue: Option<&Program>,
    operands: &'a [Value],
) -> (Cow<'a, Value>, &'a [Value]) {
    let Some(program) = prologue else { return (Cow::Borrowed(&operands[0]), &operands[1..]) };
    let (inputs, rest) = operands.split_at(program.inputs.len());
    let whole = program.inputs.iter().position(|form| *form == InputForm::Elements);
    let shape = &inputs[whole.expect("a checked program has an input of that form")];
    let elements = pointwise::run(program, inputs).remove(0);
    (Cow::Owned(Value { extents: shape.extents.clone(), elements }), rest)
}

/// What the epilogue makes of the gradient `dx` of `x`: itself where there is none.
pub(super) fn after(
    epilogue: Option<&Program>,
    dx: Vec<f64>,
    x: &Value,
    operands: &[Value],
) -> Vec<f64> {
    let Some(program) = epilogue else { return dx };
    let mut inputs = vec![Value { extents: x.extents.clone(), elements: dx }];
    inputs.extend_from_slice(operands);
    pointwise::run(program, &inputs).remove(0)
}
