//! Pointwise programs: everything between the heavy operations.
//!
//! A [`Program`] computes each element of its outputs from the elements of its inputs at the same place. SiLU, SwiGLU,
//! bias, residual addition, a user's own activation and all their derivatives are programs, so none of them needs code
//! of its own in an executor: the CPU runs a program over tiles that stay in cache, CUDA generates its source from it.
//!
//! Owns the instruction set, the builder with its local simplifications, and printing. Must not know graphs or devices.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::dtype::DType;

/// How an input's elements meet the elements of the outputs, which are rows of `n` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum InputForm {
    /// One element for each element of the output: the output's shape.
    Elements,
    /// One row `[n]`, the same for all rows: a bias, a gain. Or a block of rows that repeats: the last axes of the output's
    /// shape, such as a table `[seq, n]` over `[batch, seq, n]`. Row `r` of the output meets row `r mod k` of its `k` rows.
    Row,
    /// One number for each row: the output's shape without its innermost axis, or with one element along it. Or one number
    /// for each row of a block that repeats: the last axes of the latter, such as `[heads, 1]` over `[.., heads, n]`. Row
    /// `r` of the output meets number `r mod k` of its `k` numbers.
    Column,
    /// One number for all: shape `[]`.
    Scalar,
}

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Unary {
    /// `-x`
    Negate,
    /// `|x|`
    Absolute,
    /// `e^x`
    Exponential,
    /// Natural logarithm.
    Logarithm,
    /// Square root.
    SquareRoot,
    /// `1 / sqrt(x)`
    ReciprocalSquareRoot,
    /// `1 / (1 + e^-x)`
    Sigmoid,
    /// Hyperbolic tangent.
    HyperbolicTangent,
    /// Gauss error function.
    ErrorFunction,
    /// Sine of an angle in radians.
    Sine,
    /// Cosine of an angle in radians.
    Cosine,
}

/// A function of two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Subtract,
    /// `a · b`
    Multiply,
    /// `a / b`
    Divide,
    /// The larger.
    Maximum,
    /// The smaller.
    Minimum,
    /// 1 where `a > b`, else 0.
    Greater,
}

/// A constant by its bits, so that programs can be compared and ordered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Literal(u64);

impl Literal {
    /// The literal of a number; -0 becomes 0.
    pub fn new(value: f64) -> Literal {
        Literal(if value == 0.0 { 0.0f64.to_bits() } else { value.to_bits() })
    }

    /// Its value.
    pub fn value(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl fmt::Debug for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.value())
    }
}

/// Names the result of an earlier instruction of the same program.
pub type Register = u16;

/// One step of a program; its result is the register of its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Instruction {
    /// The element of input number `.0`.
    Input(u16),
    /// A constant; executors round it to their arithmetic's precision.
    Constant(Literal),
    /// A function of one register.
    Unary(Unary, Register),
    /// A function of two registers.
    Binary(Binary, Register, Register),
    /// The second register where the first is not 0, else the third.
    Select(Register, Register, Register),
    /// Rounds to a storage format and back: what a fused program needs to equal its parts.
    Round(DType, Register),
}

impl Instruction {
    /// The registers it reads.
    pub fn arguments(&self) -> impl Iterator<Item = Register> {
        let (arguments, count) = match *self {
            Instruction::Input(_) | Instruction::Constant(_) => ([0; 3], 0),
            Instruction::Unary(_, a) | Instruction::Round(_, a) => ([a, 0, 0], 1),
            Instruction::Binary(_, a, b) => ([a, b, 0], 2),
            Instruction::Select(c, a, b) => ([c, a, b], 3),
        };
        arguments.into_iter().take(count)
    }

    /// The same instruction over other registers.
    fn renamed(self, at: impl Fn(Register) -> Register) -> Instruction {
        match self {
            Instruction::Input(_) | Instruction::Constant(_) => self,
            Instruction::Unary(function, a) => Instruction::Unary(function, at(a)),
            Instruction::Binary(function, a, b) => Instruction::Binary(function, at(a), at(b)),
            Instruction::Select(c, a, b) => Instruction::Select(at(c), at(a), at(b)),
            Instruction::Round(dtype, a) => Instruction::Round(dtype, at(a)),
        }
    }
}

/// One result of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Output {
    /// The register stored.
    pub register: Register,
    /// Storage it is rounded to.
    pub dtype: DType,
}

/// A pointwise program in single-assignment form: every instruction reads only registers before it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Program {
    /// How each operand is read.
    pub inputs: Vec<InputForm>,
    /// Instructions in order.
    pub instructions: Vec<Instruction>,
    /// Results in order; at least one.
    pub outputs: Vec<Output>,
}

/// Longest expression that is printed as one.
const MAX_PRINTED_NODES: u64 = 200;

/// Most instructions a program may have: executors keep one tile per register.
pub const MAX_INSTRUCTIONS: usize = 256;

impl Program {
    /// What makes the program ill-formed, if anything: registers out of order, missing inputs, no output.
    pub fn check(&self) -> Result<(), String> {
        if self.instructions.len() > MAX_INSTRUCTIONS {
            return Err(format!(
                "{} instructions, more than {MAX_INSTRUCTIONS}",
                self.instructions.len()
            ));
        }
        if self.outputs.is_empty() {
            return Err("no output".into());
        }
        if !self.inputs.contains(&InputForm::Elements) {
            return Err("no input has the shape of the outputs".into());
        }
        for (i, instruction) in self.instructions.iter().enumerate() {
            if let Some(register) = instruction.arguments().find(|&r| r as usize >= i) {
                return Err(format!(
                    "instruction {i} reads register {register}, which is not computed yet"
                ));
            }
            match instruction {
                Instruction::Input(n) if *n as usize >= self.inputs.len() => {
                    return Err(format!(
                        "instruction {i} reads input {n} of {}",
                        self.inputs.len()
                    ));
                }
                Instruction::Round(DType::I32, _) => {
                    return Err(format!("instruction {i} rounds to an integer"));
                }
                _ => {}
            }
        }
        match self
            .outputs
            .iter()
            .find(|o| o.register as usize >= self.instructions.len() || !o.dtype.is_float())
        {
            Some(output) => Err(format!("output of register {} cannot be stored", output.register)),
            None => Ok(()),
        }
    }

    /// Arithmetic instructions for each element.
    pub fn arithmetic(&self) -> u64 {
        let counts =
            |i: &&Instruction| !matches!(i, Instruction::Input(_) | Instruction::Constant(_));
        self.instructions.iter().filter(counts).count() as u64
    }

    /// Most values that are alive at once while the instructions run in order, inputs and constants not counted: what an
    /// executor must hold for each element.
    pub fn pressure(&self) -> usize {
        let mut last = vec![0; self.instructions.len()];
        for (i, instruction) in self.instructions.iter().enumerate() {
            instruction.arguments().for_each(|a| last[a as usize] = i);
        }
        self.outputs.iter().for_each(|o| last[o.register as usize] = self.instructions.len());
        let computed = |i: usize| {
            !matches!(self.instructions[i], Instruction::Input(_) | Instruction::Constant(_))
        };
        let alive = |at: usize| (0..=at).filter(|&i| computed(i) && last[i] >= at).count();
        (0..self.instructions.len()).map(alive).max().unwrap_or(0)
    }

    /// The program of one input and one f32 output made by `build`.
    pub fn unary(build: impl FnOnce(&mut Builder, Register) -> Register) -> Program {
        let mut builder = Builder::new();
        let x = builder.input(InputForm::Elements);
        let y = build(&mut builder, x);
        builder.finish(&[(y, DType::F32)])
    }

    /// The sum of `count` inputs of the same shape, added from left to right.
    pub fn sum(count: usize) -> Program {
        let mut builder = Builder::new();
        let inputs: Vec<Register> =
            (0..count).map(|_| builder.input(InputForm::Elements)).collect();
        let mut sum = inputs[0];
        for &input in &inputs[1..] {
            sum = builder.binary(Binary::Add, sum, input);
        }
        builder.finish(&[(sum, DType::F32)])
    }

    /// `factor` times the number of each row, in every place of the row: the derivative of a row's sum. Inputs are rows
    /// of the wanted width, which are not read, and the numbers.
    pub fn spread(factor: f64) -> Program {
        let mut builder = Builder::new();
        builder.input(InputForm::Elements);
        let (number, factor) = (builder.input(InputForm::Column), builder.constant(factor));
        let product = builder.binary(Binary::Multiply, number, factor);
        builder.finish(&[(product, DType::F32)])
    }

    /// `y · (dy - s)` of `y`, `dy` and a number `s` for each row: the derivative of a softmax `y`, where `s` is the row's
    /// sum of `y · dy`.
    pub fn softmax_gradient() -> Program {
        let mut builder = Builder::new();
        let (y, dy) = (builder.input(InputForm::Elements), builder.input(InputForm::Elements));
        let sum = builder.input(InputForm::Column);
        let difference = builder.binary(Binary::Subtract, dy, sum);
        let product = builder.binary(Binary::Multiply, y, difference);
        builder.finish(&[(product, DType::F32)])
    }

    /// The product of two inputs of the same shape.
    pub fn product() -> Program {
        let mut builder = Builder::new();
        let (a, b) = (builder.input(InputForm::Elements), builder.input(InputForm::Elements));
        let product = builder.binary(Binary::Multiply, a, b);
        builder.finish(&[(product, DType::F32)])
    }

    /// The program as one expression per output, e.g. `a * sigmoid(a)`; inputs are `a`, `b`, `c` … A program that
    /// shares registers so much that an expression would repeat itself beyond reading is only counted.
    pub fn expression(&self, output: usize) -> String {
        let register = self.outputs[output].register;
        let nodes = self.tree_sizes()[register as usize];
        if nodes > MAX_PRINTED_NODES {
            return format!("{} instructions", self.instructions.len());
        }
        self.render(register, 0)
    }

    /// Nodes of each register's expression when written as a tree; saturating, because sharing makes it exponential.
    fn tree_sizes(&self) -> Vec<u64> {
        let mut sizes: Vec<u64> = Vec::with_capacity(self.instructions.len());
        for instruction in &self.instructions {
            let below = instruction.arguments().map(|a| sizes[a as usize]);
            sizes.push(below.fold(1, u64::saturating_add));
        }
        sizes
    }

    fn render(&self, register: Register, outer: u8) -> String {
        let (text, strength) = match self.instructions[register as usize] {
            Instruction::Input(n) => (input_name(n), 9),
            Instruction::Constant(literal) => (format!("{}", literal.value()), 9),
            Instruction::Unary(Unary::Negate, a) => (format!("-{}", self.render(a, 3)), 3),
            Instruction::Unary(function, a) => (format!("{function}({})", self.render(a, 0)), 9),
            Instruction::Binary(function, a, b) => match function {
                Binary::Add => (format!("{} + {}", self.render(a, 1), self.render(b, 2)), 1),
                Binary::Subtract => (format!("{} - {}", self.render(a, 1), self.render(b, 2)), 1),
                Binary::Multiply => (format!("{} * {}", self.render(a, 2), self.render(b, 3)), 2),
                Binary::Divide => (format!("{} / {}", self.render(a, 2), self.render(b, 3)), 2),
                Binary::Greater => (format!("({} > {})", self.render(a, 0), self.render(b, 0)), 9),
                Binary::Maximum => {
                    (format!("max({}, {})", self.render(a, 0), self.render(b, 0)), 9)
                }
                Binary::Minimum => {
                    (format!("min({}, {})", self.render(a, 0), self.render(b, 0)), 9)
                }
            },
            Instruction::Select(c, a, b) => (
                format!(
                    "select({}, {}, {})",
                    self.render(c, 0),
                    self.render(a, 0),
                    self.render(b, 0)
                ),
                9,
            ),
            Instruction::Round(dtype, a) => (format!("{dtype}({})", self.render(a, 0)), 9),
        };
        if strength < outer { format!("({text})") } else { text }
    }
}

fn input_name(n: u16) -> String {
    match n {
        0..26 => char::from(b'a' + n as u8).to_string(),
        _ => format!("i{n}"),
    }
}

impl fmt::Display for Unary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unary::Negate => "negate",
            Unary::Absolute => "abs",
            Unary::Exponential => "exp",
            Unary::Logarithm => "log",
            Unary::SquareRoot => "sqrt",
            Unary::ReciprocalSquareRoot => "rsqrt",
            Unary::Sigmoid => "sigmoid",
            Unary::HyperbolicTangent => "tanh",
            Unary::ErrorFunction => "erf",
            Unary::Sine => "sin",
            Unary::Cosine => "cos",
        })
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for i in 0..self.outputs.len() {
            write!(f, "{}{}", if i == 0 { "" } else { "; " }, self.expression(i))?;
        }
        Ok(())
    }
}

/// Builds programs: equal instructions share a register, constants fold, neutral elements vanish.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    inputs: Vec<InputForm>,
    instructions: Vec<Instruction>,
}

impl Builder {
    /// An empty program.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Declares the next input and reads it.
    pub fn input(&mut self, form: InputForm) -> Register {
        self.inputs.push(form);
        self.push(Instruction::Input(self.inputs.len() as u16 - 1))
    }

    /// A constant.
    pub fn constant(&mut self, value: f64) -> Register {
        self.push(Instruction::Constant(Literal::new(value)))
    }

    /// A function of one register.
    pub fn unary(&mut self, function: Unary, a: Register) -> Register {
        if let Instruction::Unary(Unary::Negate, inner) = self.instructions[a as usize]
            && function == Unary::Negate
        {
            return inner;
        }
        match (self.value(a), function) {
            (Some(a), Unary::Negate) => self.constant(-a),
            (Some(a), Unary::Absolute) => self.constant(a.abs()),
            (Some(a), Unary::SquareRoot) => self.constant(a.sqrt()),
            _ => self.push(Instruction::Unary(function, a)),
        }
    }

    /// A function of two registers.
    pub fn binary(&mut self, function: Binary, a: Register, b: Register) -> Register {
        let (x, y) = (self.value(a), self.value(b));
        if let (Some(x), Some(y)) = (x, y) {
            return self.constant(match function {
                Binary::Add => x + y,
                Binary::Subtract => x - y,
                Binary::Multiply => x * y,
                Binary::Divide => x / y,
                Binary::Maximum => x.max(y),
                Binary::Minimum => x.min(y),
                Binary::Greater => f64::from(u8::from(x > y)),
            });
        }
        match (function, x, y) {
            (Binary::Add, Some(0.0), _) | (Binary::Multiply, Some(1.0), _) => b,
            (Binary::Add | Binary::Subtract, _, Some(0.0)) => a,
            (Binary::Multiply | Binary::Divide, _, Some(1.0)) => a,
            (Binary::Subtract, Some(0.0), _) => self.unary(Unary::Negate, b),
            (Binary::Multiply, Some(-1.0), _) => self.unary(Unary::Negate, b),
            (Binary::Multiply, _, Some(-1.0)) => self.unary(Unary::Negate, a),
            _ => self.push(Instruction::Binary(function, a, b)),
        }
    }

    /// `then` where `condition` is not 0, else `otherwise`.
    pub fn select(&mut self, condition: Register, then: Register, otherwise: Register) -> Register {
        if then == otherwise {
            return then;
        }
        match self.value(condition) {
            Some(0.0) => otherwise,
            Some(_) => then,
            None => self.push(Instruction::Select(condition, then, otherwise)),
        }
    }

    /// Rounds to a storage format.
    pub fn round(&mut self, dtype: DType, a: Register) -> Register {
        self.push(Instruction::Round(dtype, a))
    }

    /// Appends another program, its inputs bound to registers of this one; gives the registers of its outputs.
    pub fn inline(&mut self, program: &Program, inputs: &[Register]) -> Vec<Register> {
        let mut map: Vec<Register> = Vec::with_capacity(program.instructions.len());
        for instruction in &program.instructions {
            map.push(match *instruction {
                Instruction::Input(n) => inputs[n as usize],
                Instruction::Constant(literal) => self.constant(literal.value()),
                Instruction::Unary(function, a) => self.unary(function, map[a as usize]),
                Instruction::Binary(function, a, b) => {
                    self.binary(function, map[a as usize], map[b as usize])
                }
                Instruction::Select(c, a, b) => {
                    self.select(map[c as usize], map[a as usize], map[b as usize])
                }
                Instruction::Round(dtype, a) => self.round(dtype, map[a as usize]),
            });
        }
        program.outputs.iter().map(|o| map[o.register as usize]).collect()
    }

    /// Appends another program as [`Builder::inline`] does, but instruction by instruction: nothing is folded, because
    /// arithmetic that rounds does not give what folding in f64 gives. Equal instructions still share a register.
    pub fn append(&mut self, program: &Program, inputs: &[Register]) -> Vec<Register> {
        let mut map: Vec<Register> = Vec::with_capacity(program.instructions.len());
        for instruction in &program.instructions {
            map.push(match *instruction {
                Instruction::Input(n) => inputs[n as usize],
                other => self.push(other.renamed(|r| map[r as usize])),
            });
        }
        program.outputs.iter().map(|o| map[o.register as usize]).collect()
    }

    /// The constant in a register, if it is one.
    pub fn value(&self, register: Register) -> Option<f64> {
        match self.instructions[register as usize] {
            Instruction::Constant(literal) => Some(literal.value()),
            _ => None,
        }
    }

    /// The number of the input a register reads, if it only reads one.
    pub fn input_of(&self, register: Register) -> Option<u16> {
        match self.instructions[register as usize] {
            Instruction::Input(n) => Some(n),
            _ => None,
        }
    }

    /// The finished program without unused instructions. Inputs stay even where unused, so that operands keep their
    /// positions; [`Program::used_inputs`] tells which are read.
    pub fn finish(self, outputs: &[(Register, DType)]) -> Program {
        let mut used = vec![false; self.instructions.len()];
        for &(register, _) in outputs {
            used[register as usize] = true;
        }
        for i in (0..self.instructions.len()).rev() {
            if used[i] {
                for argument in self.instructions[i].arguments() {
                    used[argument as usize] = true;
                }
            }
        }
        let mut map = vec![0; self.instructions.len()];
        let mut instructions = Vec::new();
        for (i, instruction) in self.instructions.into_iter().enumerate().filter(|&(i, _)| used[i])
        {
            let renamed = instruction.renamed(|r| map[r as usize]);
            map[i] = instructions.len() as Register;
            instructions.push(renamed);
        }
        let outputs =
            outputs.iter().map(|&(r, dtype)| Output { register: map[r as usize], dtype }).collect();
        Program { inputs: self.inputs, instructions, outputs }
    }

    fn push(&mut self, instruction: Instruction) -> Register {
        if let Some(found) = self.instructions.iter().position(|i| *i == instruction) {
            return found as Register;
        }
        self.instructions.push(instruction);
        self.instructions.len() as Register - 1
    }
}

impl Program {
    /// Which inputs some instruction reads.
    pub fn used_inputs(&self) -> Vec<bool> {
        let mut used = vec![false; self.inputs.len()];
        for instruction in &self.instructions {
            if let Instruction::Input(n) = instruction {
                used[*n as usize] = true;
            }
        }
        used
    }

    /// The same program without the inputs that nothing reads, and the positions of those that stay.
    pub fn without_unused_inputs(&self) -> (Program, Vec<usize>) {
        let used = self.used_inputs();
        let kept: Vec<usize> = (0..used.len()).filter(|&i| used[i]).collect();
        let mut program = self.clone();
        program.inputs = kept.iter().map(|&i| self.inputs[i]).collect();
        for instruction in &mut program.instructions {
            if let Instruction::Input(n) = instruction {
                *n = kept.iter().position(|&k| k == *n as usize).expect("a read input is kept")
                    as u16;
            }
        }
        (program, kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builder_shares_folds_and_prints() {
        let silu = Program::unary(|b, x| {
            let s = b.unary(Unary::Sigmoid, x);
            let one = b.constant(1.0);
            let same = b.binary(Binary::Multiply, s, one);
            b.binary(Binary::Multiply, x, same)
        });
        assert_eq!(silu.to_string(), "a * sigmoid(a)");
        assert_eq!(silu.instructions.len(), 3);
        assert_eq!(silu.check(), Ok(()));
        assert_eq!(Program::sum(3).to_string(), "a + b + c");
    }

    /// `(0.1 + 0.2) · x`: folding would round once what f32 arithmetic rounds twice.
    #[test]
    fn appending_folds_nothing_and_shares_what_is_equal() {
        let mut b = Builder::new();
        let x = b.input(InputForm::Elements);
        let constant = b.constant(0.1);
        let made = b.finish(&[(constant, DType::F32), (x, DType::F32)]);
        let mut b = Builder::new();
        let (c, x) = (b.input(InputForm::Elements), b.input(InputForm::Elements));
        let other = b.constant(0.2);
        let sum = b.binary(Binary::Add, c, other);
        let product = b.binary(Binary::Multiply, sum, x);
        let reader = b.finish(&[(product, DType::F32)]);

        let mut joined = Builder::new();
        let x = joined.input(InputForm::Elements);
        let first = joined.append(&made, &[x]);
        let once = joined.append(&reader, &first);
        let twice = joined.append(&reader, &first);
        assert_eq!(once, twice);
        let joined = joined.finish(&[(once[0], DType::F32)]);
        assert_eq!(joined.to_string(), "(0.1 + 0.2) * a");
    }

    #[test]
    fn pressure_counts_what_is_alive() {
        // Each sum needs the one before it.
        let chain = Program::sum(9);
        assert_eq!(chain.pressure(), 2);
        let squares = {
            let mut b = Builder::new();
            let inputs: Vec<_> = (0..4).map(|_| b.input(InputForm::Elements)).collect();
            let squares: Vec<_> =
                inputs.iter().map(|&x| b.binary(Binary::Multiply, x, x)).collect();
            let outputs: Vec<_> = squares.iter().map(|&r| (r, DType::F32)).collect();
            b.finish(&outputs)
        };
        assert_eq!(squares.pressure(), 4);
    }

    #[test]
    fn printing_does_not_follow_sharing_without_end() {
        let doubled = Program::unary(|b, x| (0..200).fold(x, |y, _| b.binary(Binary::Add, y, y)));
        assert_eq!(doubled.to_string(), "201 instructions");
    }

    #[test]
    fn ill_formed_programs_are_named() {
        let mut program = Program::sum(2);
        program.instructions[2] = Instruction::Binary(Binary::Add, 0, 2);
        assert!(program.check().is_err());
        let mut program = Program::sum(2);
        program.outputs[0].register = 9;
        assert!(program.check().is_err());
    }
}
