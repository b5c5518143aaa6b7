//! CUDA source of a pointwise program.
//!
//! Owns the text of programs and the arguments that carry their operands. The text defines
//!
//! - `OUTPUTS`, the number of outputs;
//! - `PROGRAM_PARAMS` and `PROGRAM_ARGS`, which end a parameter and an argument list (each begins with a comma);
//! - `IN_ROW`, unless it is defined: how many neighbours from `column` on are inside of the row;
//! - `program(row, column, given, out PROGRAM_ARGS)`, which computes `VEC` neighbours from `column` on of a row. `given`
//!   holds the first input where that comes in registers.
//!
//! Every instruction rounds once, as the CPU's and the reference's do. Must not know which kernel the program is part of.

use std::fmt::Write;

use colac_plan::pointwise::{Binary, InputForm, Instruction, Program, Unary};
use colac_plan::{DType, Tensor};

use crate::cuda::error::CudaError;
use crate::cuda::launch::Argument;
use crate::cuda::lower::Lowering;
use crate::cuda::source::type_name;
use crate::cuda::view::Rows;

/// A program's text, what its parameters are bound to, and whether eight neighbours can be read at once.
#[derive(Clone, Debug)]
pub(crate) struct Generated {
    pub(crate) text: String,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) wide: bool,
    /// Whether eight neighbours of some input can be read at once by a kernel that computes what pads rows, too.
    pub(crate) some_wide: bool,
}

/// How a program reads an input.
#[derive(Clone, Copy, Debug)]
struct Input {
    form: InputForm,
    rows: Rows,
    /// Rows of the block that repeats; 0 where every row has its own.
    repeat: u64,
}

impl Input {
    fn is_wide(&self, with_padding: bool) -> bool {
        match self.form {
            InputForm::Elements | InputForm::Row if with_padding => {
                self.rows.is_wide_with_padding()
            }
            InputForm::Elements | InputForm::Row => self.rows.is_wide(),
            InputForm::Column | InputForm::Scalar => true,
        }
    }

    /// The expression that is the address of this input's first element of a group.
    fn place(&self, name: &str) -> String {
        let row = match self.repeat {
            0 => "row".to_owned(),
            1 => "0".to_owned(),
            repeat => format!("(row % {repeat})"),
        };
        match self.form {
            InputForm::Elements | InputForm::Row => {
                format!("{name} + {row} * {name}_stride + column")
            }
            InputForm::Column => format!("{name} + {row}"),
            InputForm::Scalar => name.to_owned(),
        }
    }
}

impl Lowering<'_> {
    /// Source and arguments of a program whose inputs are operands from `first` on; with `given` its first input comes in
    /// registers and has no operand. `rows` is how many rows the outputs have.
    pub(crate) fn program(
        &self,
        program: &Program,
        first: usize,
        given: bool,
        rows: u64,
    ) -> Result<Generated, CudaError> {
        let mut inputs = Vec::new();
        for (index, form) in program.inputs.iter().enumerate().skip(usize::from(given)) {
            let operand = first + index - usize::from(given);
            inputs.push((index, self.input(*form, operand, rows)?));
        }
        let mut arguments = Vec::new();
        let (mut params, mut names) = (String::new(), String::new());
        for (index, input) in &inputs {
            let name = type_name(input.rows.dtype);
            let _ = write!(params, ", const {name}* p{index}, u64 p{index}_stride");
            let _ = write!(names, ", p{index}, p{index}_stride");
            arguments.push(Argument::Address(input.rows.address));
            arguments.push(Argument::U64(input.rows.stride));
        }
        let wide = inputs.iter().all(|(_, input)| input.is_wide(false));
        let elements = |input: &Input| input.form == InputForm::Elements && input.is_wide(true);
        let some_wide = inputs.iter().any(|(_, input)| elements(input));
        let mut text = format!(
            "#define OUTPUTS {}\n#define PROGRAM_PARAMS {params}\n#define PROGRAM_ARGS {names}\n",
            program.outputs.len()
        );
        text.push_str("#ifndef IN_ROW\n#define IN_ROW VEC\n#endif\n");
        text.push_str(
            "DEVICE void program(u64 row, u64 column, const float (&given)[VEC], float (&out)[OUTPUTS][VEC] PROGRAM_PARAMS) {\n",
        );
        for (index, input) in &inputs {
            let (name, place) = (format!("p{index}"), input.place(&format!("p{index}")));
            match input.form {
                InputForm::Elements | InputForm::Row => {
                    let load = match input.is_wide(true) {
                        true => format!("load({place}, i{index})"),
                        false => format!("load_each({place}, i{index}, IN_ROW)"),
                    };
                    let _ = writeln!(text, "    float i{index}[VEC];\n    {load};");
                }
                InputForm::Column | InputForm::Scalar => {
                    let _ = writeln!(text, "    float i{index} = to_f32(*({place}));");
                }
            }
            debug_assert!(place.starts_with(&name));
        }
        text.push_str("#pragma unroll\n    for (int lane = 0; lane < VEC; lane++) {\n");
        let spread = |index: usize| match program.inputs[index] {
            _ if given && index == 0 => "given[lane]".to_owned(),
            InputForm::Elements | InputForm::Row => format!("i{index}[lane]"),
            InputForm::Column | InputForm::Scalar => format!("i{index}"),
        };
        text.push_str(&body(program, &spread, "        "));
        for (index, output) in program.outputs.iter().enumerate() {
            let _ = writeln!(text, "        out[{index}][lane] = r{};", output.register);
        }
        text.push_str("    }\n}\n");
        Ok(Generated { text, arguments, wide, some_wide })
    }

    fn input(&self, form: InputForm, operand: usize, rows: u64) -> Result<Input, CudaError> {
        let tensor: &Tensor = self.operands[operand];
        let view = match form {
            // One row stands for all elements where there are no gaps.
            InputForm::Elements if rows == 1 && tensor.ty.shape.rows() > 1 => {
                self.packed_operand(operand)?
            }
            InputForm::Elements | InputForm::Row => self.operand(operand)?,
            InputForm::Column | InputForm::Scalar => self.packed_operand(operand)?,
        };
        // How many rows or numbers there are before they repeat.
        let own = match form {
            InputForm::Elements | InputForm::Scalar => 0,
            InputForm::Row => view.rows,
            InputForm::Column => tensor.ty.shape.elements(),
        };
        let repeat = if own == rows && own != 1 { 0 } else { own };
        Ok(Input { form, rows: view, repeat })
    }
}

/// A function of numbers, `name(a, b, …)`, for programs of one output all of whose inputs are elements.
pub(crate) fn scalar_function(name: &str, program: &Program) -> String {
    let parameters: Vec<String> =
        (0..program.inputs.len()).map(|index| format!("float i{index}")).collect();
    let mut text = format!("DEVICE float {name}({}) {{\n", parameters.join(", "));
    text.push_str(&body(program, &|index| format!("i{index}"), "    "));
    let _ = writeln!(text, "    return r{};\n}}", program.outputs[0].register);
    text
}

/// Instructions as statements; register `n` is the variable `rn`.
fn body(program: &Program, input: &dyn Fn(usize) -> String, indent: &str) -> String {
    let mut text = String::new();
    for (index, instruction) in program.instructions.iter().enumerate() {
        let value = match *instruction {
            Instruction::Input(n) => input(usize::from(n)),
            // The bits of the nearest f32, so that nothing depends on how a number is printed.
            Instruction::Constant(literal) => {
                format!("bits_to_f32(0x{:08x}u)", (literal.value() as f32).to_bits())
            }
            Instruction::Unary(function, a) => unary(function, a),
            Instruction::Binary(function, a, b) => binary(function, a, b),
            Instruction::Select(c, a, b) => format!("r{c} != 0.0f ? r{a} : r{b}"),
            Instruction::Round(DType::Bf16, a) => format!("round_bf16(r{a})"),
            Instruction::Round(_, a) => format!("r{a}"),
        };
        let _ = writeln!(text, "{indent}float r{index} = {value};");
    }
    text
}

fn unary(function: Unary, a: u16) -> String {
    match function {
        Unary::Negate => format!("-r{a}"),
        Unary::Absolute => format!("fabsf(r{a})"),
        Unary::Exponential => format!("expf(r{a})"),
        Unary::Logarithm => format!("logf(r{a})"),
        Unary::SquareRoot => format!("sqrtf(r{a})"),
        Unary::ReciprocalSquareRoot => format!("1.0f / sqrtf(r{a})"),
        Unary::Sigmoid => format!("1.0f / (1.0f + expf(-r{a}))"),
        Unary::HyperbolicTangent => format!("tanhf(r{a})"),
        Unary::ErrorFunction => format!("erff(r{a})"),
        Unary::Sine => format!("sinf(r{a})"),
        Unary::Cosine => format!("cosf(r{a})"),
    }
}

fn binary(function: Binary, a: u16, b: u16) -> String {
    match function {
        Binary::Add => format!("r{a} + r{b}"),
        Binary::Subtract => format!("r{a} - r{b}"),
        Binary::Multiply => format!("r{a} * r{b}"),
        Binary::Divide => format!("r{a} / r{b}"),
        Binary::Maximum => format!("fmaxf(r{a}, r{b})"),
        Binary::Minimum => format!("fminf(r{a}, r{b})"),
        Binary::Greater => format!("r{a} > r{b} ? 1.0f : 0.0f"),
    }
}
