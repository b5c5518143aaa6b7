//! Pointwise programs, one element at a time. Rounding to a storage format is left out unless asked for.

use colac_plan::DType;
use colac_plan::pointwise::{Binary, InputForm, Instruction, Program, Unary};

use super::nearest_bf16;
use super::value::Value;

/// The outputs of a program; with `rounds` what it rounds to bf16 on the way is rounded.
pub(super) fn run(program: &Program, operands: &[Value], rounds: bool) -> Vec<Vec<f64>> {
    let first = program.inputs.iter().position(|form| *form == InputForm::Elements);
    let shape = &operands[first.expect("a checked program has an input of that form")];
    let mut outputs = vec![Vec::with_capacity(shape.elements.len()); program.outputs.len()];
    for element in 0..shape.elements.len() {
        let (row, column) = (element / shape.width(), element % shape.width());
        let inputs: Vec<f64> = program
            .inputs
            .iter()
            .zip(operands)
            .map(|(form, operand)| match form {
                InputForm::Elements => operand.elements[element],
                InputForm::Row => operand.row(row % operand.rows())[column],
                InputForm::Column => operand.elements[row % operand.elements.len()],
                InputForm::Scalar => operand.elements[0],
            })
            .collect();
        let registers = registers(program, &inputs, rounds);
        for (output, values) in program.outputs.iter().zip(&mut outputs) {
            values.push(registers[output.register as usize]);
        }
    }
    outputs
}

/// What every instruction gives for one element.
pub(super) fn registers(program: &Program, inputs: &[f64], rounds: bool) -> Vec<f64> {
    let mut registers: Vec<f64> = Vec::with_capacity(program.instructions.len());
    for instruction in &program.instructions {
        let at = |register: u16| registers[register as usize];
        let value = match *instruction {
            Instruction::Input(n) => inputs[n as usize],
            Instruction::Constant(literal) => literal.value(),
            Instruction::Unary(function, a) => unary(function, at(a)),
            Instruction::Binary(function, a, b) => binary(function, at(a), at(b)),
            Instruction::Select(c, a, b) => at(if at(c) != 0.0 { a } else { b }),
            Instruction::Round(DType::Bf16, a) if rounds => nearest_bf16(at(a)),
            Instruction::Round(_, a) => at(a),
        };
        registers.push(value);
    }
    registers
}

/// A function of one number.
pub(crate) fn unary(function: Unary, x: f64) -> f64 {
    match function {
        Unary::Negate => -x,
        Unary::Absolute => x.abs(),
        Unary::Exponential => libm::exp(x),
        Unary::Logarithm => libm::log(x),
        Unary::SquareRoot => x.sqrt(),
        Unary::ReciprocalSquareRoot => 1.0 / x.sqrt(),
        Unary::Sigmoid => 1.0 / (1.0 + libm::exp(-x)),
        Unary::HyperbolicTangent => libm::tanh(x),
        Unary::ErrorFunction => libm::erf(x),
        Unary::Sine => libm::sin(x),
        Unary::Cosine => libm::cos(x),
    }
}

/// A function of two numbers.
pub(crate) fn binary(function: Binary, a: f64, b: f64) -> f64 {
    match function {
        Binary::Add => a + b,
        Binary::Subtract => a - b,
        Binary::Multiply => a * b,
        Binary::Divide => a / b,
        Binary::Maximum => a.max(b),
        Binary::Minimum => a.min(b),
        Binary::Greater => {
            if a > b {
                1.0
            } else {
                0.0
            }
        }
    }
}
