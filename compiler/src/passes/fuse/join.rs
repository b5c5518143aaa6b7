//! Pointwise programs joined to one.
//!
//! Every value that was stored between the parts is rounded to its storage format, so the joined program gives the bits
//! of its parts; where the format is that of the arithmetic there is nothing to round.

use colac_plan::DType;
use colac_plan::pointwise::{Builder, InputForm, MAX_INSTRUCTIONS, Output, Program, Register};

use crate::graph::Value;

/// Most values that a joined program may hold for an element: a tile for each has to stay in a core's cache, a register
/// for each in a thread of a GPU.
const MAX_PRESSURE: usize = 16;
/// Most values that a joined program may read or write.
const MAX_VALUES: usize = 16;

/// A program in the making with the values it reads.
#[derive(Debug, Default)]
pub(super) struct Joined {
    builder: Builder,
    /// Values read, how, and the register each is in.
    inputs: Vec<(Value, InputForm, Register)>,
}

impl Joined {
    /// The register of a value that is read from memory; read once, however often it is asked for.
    pub(super) fn read(&mut self, value: Value, form: InputForm) -> Register {
        match self.inputs.iter().find(|(v, f, _)| (*v, *f) == (value, form)) {
            Some(&(_, _, register)) => register,
            None => {
                let register = self.builder.input(form);
                self.inputs.push((value, form, register));
                register
            }
        }
    }

    /// An input that no value of the graph stands for: the gradient that an epilogue is applied to.
    pub(super) fn given(&mut self) -> Register {
        debug_assert!(self.inputs.is_empty(), "it is the first input");
        self.builder.input(InputForm::Elements)
    }

    /// Appends a program whose inputs are in registers already. Gives the registers of its outputs before rounding.
    pub(super) fn append(&mut self, program: &Program, inputs: &[Register]) -> Vec<Register> {
        self.builder.append(program, inputs)
    }

    /// Appends a program that reads values. Gives the registers of its outputs before rounding.
    pub(super) fn apply(&mut self, program: &Program, operands: &[Value]) -> Vec<Register> {
        self.apply_with(program, operands, |_| None)
    }

    /// As [`Joined::apply`], where `known` has registers for some of the values.
    pub(super) fn apply_with(
        &mut self,
        program: &Program,
        operands: &[Value],
        known: impl Fn(Value) -> Option<Register>,
    ) -> Vec<Register> {
        let inputs: Vec<Register> = operands
            .iter()
            .zip(&program.inputs)
            .map(|(&value, &form)| known(value).unwrap_or_else(|| self.read(value, form)))
            .collect();
        self.append(program, &inputs)
    }

    /// What a reader of a stored output finds.
    pub(super) fn stored(&mut self, register: Register, dtype: DType) -> Register {
        match dtype {
            DType::F32 | DType::I32 => register,
            DType::Bf16 => self.builder.round(dtype, register),
        }
    }

    /// What readers find of every output of a program, by [`Joined::stored`].
    pub(super) fn all_stored(
        &mut self,
        registers: &[Register],
        outputs: &[Output],
    ) -> Vec<Register> {
        registers.iter().zip(outputs).map(|(&r, o)| self.stored(r, o.dtype)).collect()
    }

    /// The program with its operands; `None` if it is too large to run well.
    pub(super) fn finish(self, outputs: &[(Register, DType)]) -> Option<(Program, Vec<Value>)> {
        let program = self.builder.finish(outputs);
        let (program, kept) = with_used_inputs(program);
        let operands: Vec<Value> = kept.iter().map(|&i| self.inputs[i].0).collect();
        fits(&program).then_some((program, operands))
    }

    /// The program of an epilogue, whose first input was [`Joined::given`], with its further operands.
    pub(super) fn finish_epilogue(
        self,
        output: (Register, DType),
    ) -> Option<(Program, Vec<Value>)> {
        let program = self.builder.finish(&[output]);
        let operands = self.inputs.iter().map(|&(value, ..)| value).collect();
        fits(&program).then_some((program, operands))
    }
}

/// Without the inputs that nothing reads; but one of the outputs' shape has to stay.
fn with_used_inputs(program: Program) -> (Program, Vec<usize>) {
    let (used, kept) = program.without_unused_inputs();
    if used.inputs.contains(&InputForm::Elements) {
        return (used, kept);
    }
    let all = (0..program.inputs.len()).collect();
    (program, all)
}

fn fits(program: &Program) -> bool {
    program.instructions.len() <= MAX_INSTRUCTIONS
        && program.inputs.len() + program.outputs.len() <= MAX_VALUES
        && program.pressure() <= MAX_PRESSURE
}

/// The part of a program that makes one of its outputs, with the operands that this part reads.
pub(super) fn part(program: &Program, operands: &[Value], output: usize) -> (Program, Vec<Value>) {
    let mut builder = Builder::new();
    let inputs: Vec<Register> = program.inputs.iter().map(|&form| builder.input(form)).collect();
    let registers = builder.append(program, &inputs);
    let stored = program.outputs[output].dtype;
    let (program, kept) = with_used_inputs(builder.finish(&[(registers[output], stored)]));
    (program, kept.into_iter().map(|i| operands[i]).collect())
}
