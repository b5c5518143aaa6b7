//! Derivatives of pointwise programs: reverse mode over the instructions, giving another pointwise program.
//!
//! ```text
//! program      a * sigmoid(a)
//! derivative   inputs a, and d (the gradient of the output):  d * sigmoid(a) + d * a * sigmoid(a) * (1 - sigmoid(a))
//! ```

use colac_plan::DType;
use colac_plan::pointwise::{Binary, Builder, InputForm, Instruction, Program, Register, Unary};

/// The gradient of some inputs of a program.
#[derive(Clone, Debug)]
pub(super) struct Derivative {
    /// Inputs are the program's inputs, then one gradient for each of its outputs. One output for each entry of
    /// `wanted` that has a gradient, in that order.
    pub(super) program: Program,
    /// For each wanted input the position of its gradient among the program's outputs; `None` where the outputs do not
    /// depend on it.
    pub(super) position: Vec<Option<usize>>,
}

/// Differentiates with respect to the inputs `wanted`. `None` if nothing depends on any of them.
pub(super) fn derive(program: &Program, wanted: &[usize]) -> Option<Derivative> {
    let mut b = Builder::new();
    let inputs: Vec<Register> = program.inputs.iter().map(|&form| b.input(form)).collect();
    let seeds: Vec<Register> =
        program.outputs.iter().map(|_| b.input(InputForm::Elements)).collect();
    // Registers of the program within the builder, one for each instruction.
    let mut map: Vec<Register> = Vec::with_capacity(program.instructions.len());
    for instruction in &program.instructions {
        let at = |r: Register| map[r as usize];
        let register = match *instruction {
            Instruction::Input(n) => inputs[n as usize],
            Instruction::Constant(literal) => b.constant(literal.value()),
            Instruction::Unary(function, x) => b.unary(function, at(x)),
            Instruction::Binary(function, x, y) => b.binary(function, at(x), at(y)),
            Instruction::Select(c, x, y) => b.select(at(c), at(x), at(y)),
            Instruction::Round(dtype, x) => b.round(dtype, at(x)),
        };
        map.push(register);
    }
    let mut gradients: Vec<Option<Register>> = vec![None; program.instructions.len()];
    for (output, &seed) in program.outputs.iter().zip(&seeds) {
        add(&mut b, &mut gradients, output.register, seed);
    }
    for (i, instruction) in program.instructions.iter().enumerate().rev() {
        let Some(d) = gradients[i] else { continue };
        let y = map[i];
        let at = |r: Register| map[r as usize];
        match *instruction {
            Instruction::Input(_) | Instruction::Constant(_) => {}
            Instruction::Unary(function, x) => {
                let dx = unary(&mut b, function, at(x), y, d);
                add(&mut b, &mut gradients, x, dx);
            }
            Instruction::Binary(function, left, right) => {
                let (dl, dr) = binary(&mut b, function, at(left), at(right), d);
                if let Some(dl) = dl {
                    add(&mut b, &mut gradients, left, dl);
                }
                if let Some(dr) = dr {
                    add(&mut b, &mut gradients, right, dr);
                }
            }
            Instruction::Select(c, x, z) => {
                let zero = b.constant(0.0);
                let (dx, dz) = (b.select(at(c), d, zero), b.select(at(c), zero, d));
                add(&mut b, &mut gradients, x, dx);
                add(&mut b, &mut gradients, z, dz);
            }
            // Rounding is treated as the identity: its own derivative is 0 almost everywhere.
            Instruction::Round(_, x) => add(&mut b, &mut gradients, x, d),
        }
    }
    let gradient_of_input = |input: usize| {
        let reads = |i: &Instruction| *i == Instruction::Input(input as u16);
        program.instructions.iter().position(reads).and_then(|i| gradients[i])
    };
    let mut outputs = Vec::new();
    let mut position = Vec::with_capacity(wanted.len());
    for &input in wanted {
        position.push(gradient_of_input(input).map(|gradient| {
            outputs.push((gradient, DType::F32));
            outputs.len() - 1
        }));
    }
    (!outputs.is_empty()).then(|| Derivative { program: b.finish(&outputs), position })
}

/// Adds a contribution to the gradient of an instruction.
fn add(b: &mut Builder, gradients: &mut [Option<Register>], of: Register, contribution: Register) {
    let slot = &mut gradients[of as usize];
    *slot = Some(match *slot {
        None => contribution,
        Some(sum) => b.binary(Binary::Add, sum, contribution),
    });
}

/// Gradient of the argument `x` of `y = function(x)`, given the gradient `d` of `y`.
fn unary(b: &mut Builder, function: Unary, x: Register, y: Register, d: Register) -> Register {
    let multiply = |b: &mut Builder, l, r| b.binary(Binary::Multiply, l, r);
    let one = b.constant(1.0);
    match function {
        Unary::Negate => b.unary(Unary::Negate, d),
        Unary::Absolute => {
            let (zero, minus_one) = (b.constant(0.0), b.constant(-1.0));
            let (positive, negative) =
                (b.binary(Binary::Greater, x, zero), b.binary(Binary::Greater, zero, x));
            let negative = b.select(negative, minus_one, zero);
            let sign = b.select(positive, one, negative);
            multiply(b, d, sign)
        }
        Unary::Exponential => multiply(b, d, y),
        Unary::Logarithm => b.binary(Binary::Divide, d, x),
        Unary::SquareRoot => {
            let half = b.constant(0.5);
            let d = multiply(b, d, half);
            b.binary(Binary::Divide, d, y)
        }
        Unary::ReciprocalSquareRoot => {
            let factor = b.constant(-0.5);
            let square = multiply(b, y, y);
            let cube = multiply(b, square, y);
            let slope = multiply(b, factor, cube);
            multiply(b, d, slope)
        }
        Unary::Sigmoid => {
            let rest = b.binary(Binary::Subtract, one, y);
            let slope = multiply(b, y, rest);
            multiply(b, d, slope)
        }
        Unary::HyperbolicTangent => {
            let square = multiply(b, y, y);
            let slope = b.binary(Binary::Subtract, one, square);
            multiply(b, d, slope)
        }
        Unary::ErrorFunction => {
            let factor = b.constant(std::f64::consts::FRAC_2_SQRT_PI);
            let square = multiply(b, x, x);
            let exponent = b.unary(Unary::Negate, square);
            let bell = b.unary(Unary::Exponential, exponent);
            let slope = multiply(b, factor, bell);
            multiply(b, d, slope)
        }
        Unary::Sine => {
            let slope = b.unary(Unary::Cosine, x);
            multiply(b, d, slope)
        }
        Unary::Cosine => {
            let sine = b.unary(Unary::Sine, x);
            let slope = b.unary(Unary::Negate, sine);
            multiply(b, d, slope)
        }
    }
}

/// Gradients of both arguments, given the gradient `d` of the result.
fn binary(
    b: &mut Builder,
    function: Binary,
    x: Register,
    y: Register,
    d: Register,
) -> (Option<Register>, Option<Register>) {
    match function {
        Binary::Add => (Some(d), Some(d)),
        Binary::Subtract => (Some(d), Some(b.unary(Unary::Negate, d))),
        Binary::Multiply => {
            (Some(b.binary(Binary::Multiply, d, y)), Some(b.binary(Binary::Multiply, d, x)))
        }
        Binary::Divide => {
            let dx = b.binary(Binary::Divide, d, y);
            let quotient = b.binary(Binary::Divide, x, y);
            let product = b.binary(Binary::Multiply, dx, quotient);
            (Some(dx), Some(b.unary(Unary::Negate, product)))
        }
        // Where both are equal the second argument takes the gradient, so that max(x, 0) has slope 0 at 0.
        Binary::Maximum | Binary::Minimum => {
            let first = match function {
                Binary::Maximum => b.binary(Binary::Greater, x, y),
                _ => b.binary(Binary::Greater, y, x),
            };
            let zero = b.constant(0.0);
            (Some(b.select(first, d, zero)), Some(b.select(first, zero, d)))
        }
        Binary::Greater => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Evaluates a program at one element in f64.
    fn evaluate(program: &Program, inputs: &[f64]) -> Vec<f64> {
        let mut registers: Vec<f64> = Vec::new();
        for instruction in &program.instructions {
            let at = |r: Register| registers[r as usize];
            registers.push(match *instruction {
                Instruction::Input(n) => inputs[n as usize],
                Instruction::Constant(literal) => literal.value(),
                Instruction::Unary(function, x) => match function {
                    Unary::Negate => -at(x),
                    Unary::Absolute => at(x).abs(),
                    Unary::Exponential => at(x).exp(),
                    Unary::Logarithm => at(x).ln(),
                    Unary::SquareRoot => at(x).sqrt(),
                    Unary::ReciprocalSquareRoot => 1.0 / at(x).sqrt(),
                    Unary::Sigmoid => 1.0 / (1.0 + (-at(x)).exp()),
                    Unary::HyperbolicTangent => at(x).tanh(),
                    Unary::ErrorFunction => error_function(at(x)),
                    Unary::Sine => at(x).sin(),
                    Unary::Cosine => at(x).cos(),
                },
                Instruction::Binary(function, x, y) => match function {
                    Binary::Add => at(x) + at(y),
                    Binary::Subtract => at(x) - at(y),
                    Binary::Multiply => at(x) * at(y),
                    Binary::Divide => at(x) / at(y),
                    Binary::Maximum => at(x).max(at(y)),
                    Binary::Minimum => at(x).min(at(y)),
                    Binary::Greater => f64::from(u8::from(at(x) > at(y))),
                },
                Instruction::Select(c, x, y) => {
                    if at(c) != 0.0 {
                        at(x)
                    } else {
                        at(y)
                    }
                }
                Instruction::Round(_, x) => at(x),
            });
        }
        program.outputs.iter().map(|o| registers[o.register as usize]).collect()
    }

    /// erf by its Taylor series, good to 1e-15 for |x| < 3.
    fn error_function(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..80 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    const UNARY: [Unary; 11] = [
        Unary::Negate,
        Unary::Absolute,
        Unary::Exponential,
        Unary::Logarithm,
        Unary::SquareRoot,
        Unary::ReciprocalSquareRoot,
        Unary::Sigmoid,
        Unary::HyperbolicTangent,
        Unary::ErrorFunction,
        Unary::Sine,
        Unary::Cosine,
    ];

    const BINARY: [Binary; 6] = [
        Binary::Add,
        Binary::Subtract,
        Binary::Multiply,
        Binary::Divide,
        Binary::Maximum,
        Binary::Minimum,
    ];

    fn check(program: &Program, point: &[f64]) {
        let wanted: Vec<usize> = (0..program.inputs.len()).collect();
        let derivative = derive(program, &wanted).expect("depends on its inputs");
        assert_eq!(derivative.program.check(), Ok(()));
        for i in wanted {
            let h = 1e-5;
            let moved = |by: f64| {
                let mut at = point.to_vec();
                at[i] += by;
                evaluate(program, &at)[0]
            };
            let numeric = (moved(h) - moved(-h)) / (2.0 * h);
            let mut inputs = point.to_vec();
            inputs.push(0.7);
            let exact =
                derivative.position[i].map_or(0.0, |p| evaluate(&derivative.program, &inputs)[p]);
            let error = (exact - 0.7 * numeric).abs();
            assert!(
                error < 1e-8 * (1.0 + numeric.abs()),
                "{program} input {i}: {exact} against {numeric}"
            );
        }
    }

    #[test]
    fn every_primitive_against_differences() {
        for function in UNARY {
            let program = Program::unary(|b, x| b.unary(function, x));
            for x in [0.3, 1.7] {
                check(&program, &[x]);
            }
        }
        for function in BINARY {
            let mut b = Builder::new();
            let (x, y) = (b.input(InputForm::Elements), b.input(InputForm::Elements));
            let z = b.binary(function, x, y);
            let program = b.finish(&[(z, DType::F32)]);
            check(&program, &[0.4, 1.3]);
            check(&program, &[1.3, 0.4]);
        }
    }

    #[test]
    fn compositions_against_differences() {
        let mut b = Builder::new();
        let (g, u) = (b.input(InputForm::Elements), b.input(InputForm::Elements));
        let s = b.unary(Unary::Sigmoid, g);
        let silu = b.binary(Binary::Multiply, g, s);
        let product = b.binary(Binary::Multiply, silu, u);
        let positive = b.binary(Binary::Greater, g, u);
        let chosen = b.select(positive, product, s);
        let program = b.finish(&[(chosen, DType::F32)]);
        check(&program, &[0.9, -0.2]);
        check(&program, &[-0.9, 0.2]);
    }

    #[test]
    fn a_sum_hands_its_gradient_through() {
        let derivative = derive(&Program::sum(2), &[0, 1]).expect("depends");
        assert_eq!(derivative.program.arithmetic(), 0);
    }
}
