//! Bounds for pointwise programs: the error of every register is carried along with its value.

use colac_plan::DType;
use colac_plan::pointwise::{Binary, InputForm, Instruction, Program, Unary};

use super::{ELEMENTARY, FLUSH, UNIT};
use crate::reference::{Value, binary, unary};

/// A register: the exact value and how far f32 arithmetic may be from it; infinite where f32 decides by chance (a
/// comparison of nearly equal numbers, an overflow, a pole).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Approximate {
    pub(crate) value: f64,
    pub(crate) error: f64,
}

impl Approximate {
    /// With the rounding of the result added; without a bound where f32 overflows.
    fn rounded(value: f64, error: f64, rounding: f64) -> Approximate {
        let total = error + rounding * (value.abs() + error) + FLUSH;
        let fits = value.abs() + total < f64::from(f32::MAX);
        Approximate { value, error: if fits { total } else { f64::INFINITY } }
    }

    fn exact(value: f64, error: f64) -> Approximate {
        Approximate { value, error: if value.is_finite() { error } else { f64::INFINITY } }
    }
}

/// Bounds on all elements of all outputs.
pub(super) fn of(program: &Program, operands: &[Value]) -> Vec<Vec<f64>> {
    let first = program.inputs.iter().position(|form| *form == InputForm::Elements);
    let shape = &operands[first.expect("a checked program has an input of that form")];
    let width = shape.extents.last().copied().unwrap_or(1);
    let mut bounds = vec![Vec::new(); program.outputs.len()];
    for element in 0..shape.elements.len() {
        let inputs: Vec<f64> = (program.inputs.iter().zip(operands))
            .map(|(form, operand)| match form {
                InputForm::Elements => operand.elements[element],
                InputForm::Row => operand.elements[element % operand.elements.len()],
                InputForm::Column => operand.elements[element / width % operand.elements.len()],
                InputForm::Scalar => operand.elements[0],
            })
            .collect();
        let registers = registers(program, &inputs);
        for (output, bounds) in program.outputs.iter().zip(&mut bounds) {
            let register = registers[output.register as usize];
            bounds.push(rounded_to(output.dtype, register).error);
        }
    }
    bounds
}

/// Every register for one element.
pub(crate) fn registers(program: &Program, inputs: &[f64]) -> Vec<Approximate> {
    let inputs: Vec<Approximate> =
        inputs.iter().map(|&input| Approximate::exact(input, 0.0)).collect();
    approximate_registers(program, &inputs)
}

/// The first output for one element of inputs that are off themselves.
pub(super) fn output(program: &Program, inputs: &[Approximate]) -> Approximate {
    approximate_registers(program, inputs)[program.outputs[0].register as usize]
}

fn approximate_registers(program: &Program, inputs: &[Approximate]) -> Vec<Approximate> {
    let mut registers: Vec<Approximate> = Vec::new();
    for instruction in &program.instructions {
        let at = |register: u16| registers[register as usize];
        let register = match *instruction {
            Instruction::Input(n) => inputs[n as usize],
            Instruction::Constant(c) => Approximate::exact(c.value(), UNIT * c.value().abs()),
            Instruction::Unary(function, a) => of_unary(function, at(a)),
            Instruction::Binary(function, a, b) => of_binary(function, at(a), at(b)),
            Instruction::Select(c, a, b) => select(at(c), at(a), at(b)),
            Instruction::Round(dtype, a) => rounded_to(dtype, at(a)),
        };
        registers.push(register);
    }
    registers
}

pub(super) fn rounded_to(dtype: DType, a: Approximate) -> Approximate {
    match dtype {
        // Eight significant bits.
        DType::Bf16 => Approximate::rounded(a.value, a.error, 1.0 / 256.0),
        DType::F32 | DType::I32 => a,
    }
}

/// Monotone functions: an argument off by `e` gives something between the values at `x - e` and `x + e`.
fn of_unary(function: Unary, a: Approximate) -> Approximate {
    let value = unary(function, a.value);
    let rounding = match function {
        // Not monotone, but no steeper than 1.
        Unary::Sine | Unary::Cosine => {
            let error = if value.is_finite() { a.error.min(2.0) } else { f64::INFINITY };
            return Approximate::rounded(value, error, ELEMENTARY);
        }
        Unary::Negate | Unary::Absolute => return Approximate::exact(value, a.error),
        Unary::SquareRoot => UNIT,
        Unary::Exponential
        | Unary::Logarithm
        | Unary::ReciprocalSquareRoot
        | Unary::Sigmoid
        | Unary::HyperbolicTangent
        | Unary::ErrorFunction => ELEMENTARY,
    };
    let off = [a.value - a.error, a.value + a.error].map(|x| (unary(function, x) - value).abs());
    if !a.error.is_finite() || off.iter().any(|off| off.is_nan()) {
        return Approximate { value, error: f64::INFINITY };
    }
    Approximate::rounded(value, off[0].max(off[1]), rounding)
}

fn of_binary(function: Binary, a: Approximate, b: Approximate) -> Approximate {
    let value = binary(function, a.value, b.value);
    let (x, y) = (a.value.abs(), b.value.abs());
    let undecided = Approximate { value, error: f64::INFINITY };
    if !(a.error + b.error).is_finite() {
        return undecided;
    }
    match function {
        Binary::Add | Binary::Subtract => Approximate::rounded(value, a.error + b.error, UNIT),
        Binary::Multiply => {
            Approximate::rounded(value, x * b.error + y * a.error + a.error * b.error, UNIT)
        }
        Binary::Divide if y <= b.error => undecided,
        Binary::Divide => {
            Approximate::rounded(value, (a.error + x / y * b.error) / (y - b.error), UNIT)
        }
        Binary::Maximum | Binary::Minimum => Approximate::exact(value, a.error.max(b.error)),
        Binary::Greater => {
            let exact = a.error + b.error == 0.0;
            let apart = (a.value - b.value).abs() > a.error + b.error;
            if exact || apart { Approximate::exact(value, 0.0) } else { undecided }
        }
    }
}

fn select(condition: Approximate, then: Approximate, otherwise: Approximate) -> Approximate {
    let chosen = if condition.value != 0.0 { then } else { otherwise };
    let decided = condition.error == 0.0 || condition.value.abs() > condition.error;
    Approximate { value: chosen.value, error: if decided { chosen.error } else { f64::INFINITY } }
}
