//! Pointwise programs over tiles that stay in the first-level cache.
//!
//! A program is compiled once to a list of steps. Each step is a vector loop over a tile, whose intermediate values lie
//! in a few registers of [`TILE`] numbers private to the thread; f32 inputs are read where they lie, others are brought
//! to a register first; outputs are stored when the whole tile is computed, so that an output may lie on an input. Must not know what any program means.

use colac_plan::DType;
use colac_plan::pointwise::{Binary, InputForm, Instruction, Program, Unary};

use crate::cpu::kernel::{Context, Kernel, span};
use crate::cpu::stored::Stored;
use crate::cpu::vector::{Source, binary, select, to_bf16, unary};

/// Elements in a tile: 4 KiB.
const TILE: usize = 1024;
/// Elements in a task, about.
const TASK_ELEMENTS: usize = 16 * TILE;

/// Where a step finds a value.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Register(usize),
    Operand(usize),
    Constant(f32),
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Copy(Place),
    /// Brings an operand to f32.
    Load(usize),
    Unary(Unary, Place),
    Binary(Binary, Place, Place),
    Select(Place, Place, Place),
    Bf16(Place),
}

/// [`colac_plan::Op::Pointwise`].
#[derive(Debug)]
pub(crate) struct Pointwise {
    /// Each step with the register it writes.
    steps: Vec<(Step, usize)>,
    registers: usize,
    operands: Vec<(InputForm, Stored)>,
    outputs: Vec<(usize, Stored)>,
    rows: usize,
    width: usize,
}

/// Assigns registers while a program is turned into steps.
struct Compiler<'a> {
    forms: &'a [InputForm],
    operands: &'a [Stored],
    /// By instruction: where its value lies, once computed.
    places: Vec<Place>,
    /// By instruction: the last instruction that reads it; none reads outputs last.
    last_use: Vec<usize>,
    free: Vec<usize>,
    registers: usize,
    steps: Vec<(Step, usize)>,
}

impl Compiler<'_> {
    fn allocate(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.registers += 1;
            self.registers - 1
        })
    }

    /// The same value as a slice: one number is spread over a register, which is noted in `temporary`.
    fn slice(&mut self, place: Place, temporary: &mut Vec<usize>) -> Place {
        let single = match place {
            Place::Register(_) => false,
            Place::Operand(operand) => {
                matches!(self.forms[operand], InputForm::Column | InputForm::Scalar)
            }
            Place::Constant(_) => true,
        };
        if !single {
            return place;
        }
        let register = self.allocate();
        self.steps.push((Step::Copy(place), register));
        temporary.push(register);
        Place::Register(register)
    }

    /// Where an input is read: single numbers and what is f32 where they lie.
    fn input(&mut self, operand: usize) {
        let single = matches!(self.forms[operand], InputForm::Column | InputForm::Scalar);
        if single || self.operands[operand].is_f32() {
            return self.places.push(Place::Operand(operand));
        }
        let register = self.allocate();
        self.steps.push((Step::Load(operand), register));
        self.places.push(Place::Register(register));
    }

    fn instruction(&mut self, index: usize, instruction: Instruction) {
        let place = |compiler: &Self, register: u16| compiler.places[usize::from(register)];
        let mut temporary = Vec::new();
        let step = match instruction {
            Instruction::Input(operand) => return self.input(operand.into()),
            Instruction::Constant(literal) => {
                return self.places.push(Place::Constant(literal.value() as f32));
            }
            Instruction::Unary(function, x) => {
                let x = place(self, x);
                Step::Unary(function, self.slice(x, &mut temporary))
            }
            Instruction::Binary(function, a, b) => {
                Step::Binary(function, place(self, a), place(self, b))
            }
            Instruction::Select(c, a, b) => {
                let (c, a, b) = (place(self, c), place(self, a), place(self, b));
                let (c, a) = (self.slice(c, &mut temporary), self.slice(a, &mut temporary));
                Step::Select(c, a, self.slice(b, &mut temporary))
            }
            Instruction::Round(DType::Bf16, x) => {
                let x = place(self, x);
                Step::Bf16(self.slice(x, &mut temporary))
            }
            Instruction::Round(DType::F32 | DType::I32, x) => Step::Copy(place(self, x)),
        };
        // Taken before the arguments' registers are given back: a step never writes what it reads.
        let register = self.allocate();
        self.steps.push((step, register));
        self.places.push(Place::Register(register));
        let mut given_back = temporary;
        for argument in instruction.arguments() {
            if self.last_use[usize::from(argument)] == index
                && let Place::Register(register) = self.places[usize::from(argument)]
                && !given_back.contains(&register)
            {
                given_back.push(register);
            }
        }
        self.free.extend(given_back);
    }
}

impl Pointwise {
    /// Compiles a checked program over operands and results of matching shapes.
    pub(crate) fn new(program: &Program, operands: Vec<Stored>, results: &[Stored]) -> Pointwise {
        Pointwise::by_rows(program, operands, results).flattened()
    }

    /// As [`Pointwise::new`], to be run row by row with [`Pointwise::row`].
    pub(crate) fn by_rows(
        program: &Program,
        operands: Vec<Stored>,
        results: &[Stored],
    ) -> Pointwise {
        let mut last_use = vec![0; program.instructions.len()];
        for (index, instruction) in program.instructions.iter().enumerate() {
            instruction.arguments().for_each(|argument| last_use[usize::from(argument)] = index);
        }
        program
            .outputs
            .iter()
            .for_each(|output| last_use[usize::from(output.register)] = usize::MAX);
        let (places, free, steps) = (Vec::new(), Vec::new(), Vec::new());
        let mut compiler = Compiler {
            forms: &program.inputs,
            operands: &operands,
            places,
            last_use,
            free,
            registers: 0,
            steps,
        };
        for (index, instruction) in program.instructions.iter().enumerate() {
            compiler.instruction(index, *instruction);
        }
        let mut outputs = Vec::new();
        for (output, result) in program.outputs.iter().zip(results) {
            let register = match compiler.places[usize::from(output.register)] {
                Place::Register(register) => register,
                // An output that is an input goes through a register: its place may be overwritten by another output.
                place => {
                    let register = compiler.allocate();
                    compiler.steps.push((Step::Copy(place), register));
                    register
                }
            };
            outputs.push((register, *result));
        }
        let (steps, registers) = (compiler.steps, compiler.registers);
        let operands: Vec<_> = program.inputs.iter().copied().zip(operands).collect();
        let (rows, width) = (results[0].rows, results[0].width);
        Pointwise { steps, registers, operands, outputs, rows, width }
    }

    /// All rows as one, where they follow each other without gaps and no input depends on where a row ends.
    fn flattened(self) -> Pointwise {
        let one_row = self.operands.iter().all(|(form, rows)| match form {
            InputForm::Elements => rows.is_packed(),
            InputForm::Row | InputForm::Column => false,
            InputForm::Scalar => true,
        });
        if !one_row || self.outputs.iter().any(|(_, rows)| !rows.is_packed()) {
            return self;
        }
        let Pointwise { steps, registers, operands, outputs, rows, width } = self;
        let flat = |(form, rows): (InputForm, Stored)| match form {
            InputForm::Elements => (form, rows.flat()),
            InputForm::Row | InputForm::Column | InputForm::Scalar => (form, rows),
        };
        let operands = operands.into_iter().map(flat).collect();
        let outputs = outputs.into_iter().map(|(register, rows)| (register, rows.flat())).collect();
        Pointwise { steps, registers, operands, outputs, rows: 1, width: rows * width }
    }

    /// Runs the program over one row. `scratch` holds [`Kernel::scratch`] numbers.
    ///
    /// # Safety
    /// While this runs, nobody writes the operands of the row, and nobody else reads or writes its results.
    pub(crate) unsafe fn row(&self, row: usize, scratch: &mut [f32]) {
        let registers = scratch.as_chunks_mut::<TILE>().0;
        for tile in 0..self.width.div_ceil(TILE) {
            self.tile(row, span(tile, TILE, self.width), registers);
        }
    }

    /// Runs the steps over some columns of a row.
    fn tile(&self, row: usize, columns: std::ops::Range<usize>, registers: &mut [[f32; TILE]]) {
        let length = columns.len();
        for (step, register) in &self.steps {
            let (before, rest) = registers.split_at_mut(*register);
            let Some((target, after)) = rest.split_first_mut() else { return };
            let y = &mut target[..length];
            let source = |place: Place| match place {
                // A step never reads the register it writes.
                Place::Register(i) if i < *register => Source::Slice(&before[i][..length]),
                Place::Register(i) => Source::Slice(&after[i - *register - 1][..length]),
                Place::Constant(value) => Source::Splat(value),
                Place::Operand(operand) => {
                    let (form, rows) = &self.operands[operand];
                    // SAFETY: these slices end before the outputs of this tile are written, and no other task writes
                    // these elements.
                    unsafe {
                        match form {
                            InputForm::Elements => {
                                Source::Slice(rows.part(row, columns.clone(), &mut []))
                            }
                            InputForm::Row => Source::Slice(rows.part(
                                row % rows.rows,
                                columns.clone(),
                                &mut [],
                            )),
                            InputForm::Column => Source::Splat(rows.number(0, row % rows.width)),
                            InputForm::Scalar => Source::Splat(rows.number(0, 0)),
                        }
                    }
                }
            };
            let slice = |place: Place| match source(place) {
                Source::Slice(slice) => slice,
                Source::Splat(_) => &[],
            };
            match *step {
                Step::Copy(x) => match source(x) {
                    Source::Slice(x) => y.copy_from_slice(x),
                    Source::Splat(x) => y.fill(x),
                },
                Step::Load(operand) => {
                    let (form, rows) = &self.operands[operand];
                    let row = if *form == InputForm::Row { row % rows.rows } else { row };
                    // SAFETY: as above. What is not f32 is converted into the register that it is loaded to.
                    unsafe { rows.part(row, columns.clone(), y) };
                }
                Step::Unary(function, x) => unary(function, slice(x), y),
                Step::Binary(function, a, b) => binary(function, source(a), source(b), y),
                Step::Select(c, a, b) => select(slice(c), slice(a), slice(b), y),
                Step::Bf16(x) => to_bf16(slice(x), y),
            }
        }
        for (register, rows) in &self.outputs {
            let register = &registers[*register][..length];
            // SAFETY: these elements belong to this task and no slice of them is alive.
            unsafe { rows.set(row, columns.start, register) };
        }
    }
}

impl Kernel for Pointwise {
    fn run(&self, context: &Context<'_>) {
        if self.width == 0 {
            return;
        }
        let across = self.width.div_ceil(TILE);
        let tiles = self.rows * across;
        let each = TASK_ELEMENTS.div_ceil(self.width.min(TILE));
        context.pool.run(tiles.div_ceil(each), &|task, thread| {
            // SAFETY: the task takes its thread's scratch once.
            let scratch = unsafe { context.scratch.of(thread, self.scratch()) };
            let registers = scratch.as_chunks_mut::<TILE>().0;
            for tile in span(task, each, tiles) {
                self.tile(tile / across, span(tile % across, TILE, self.width), registers);
            }
        });
    }

    fn scratch(&self) -> usize {
        self.registers * TILE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::view::Rows;
    use colac_plan::pointwise::Builder;

    #[test]
    fn registers_are_given_back() {
        let mut builder = Builder::new();
        let mut x = builder.input(InputForm::Elements);
        for i in 1..100 {
            let constant = builder.constant(f64::from(i));
            x = builder.binary(Binary::Add, x, constant);
        }
        let program = builder.finish(&[(x, DType::F32)]);
        let rows = Stored::from(Rows::over(std::ptr::null_mut(), 1, 8));
        assert_eq!(Pointwise::new(&program, vec![rows], &[rows]).registers, 2);
    }
}
