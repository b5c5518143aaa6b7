//! Every primitive of pointwise programs over grids of numbers, large and small and not finite, in every form of input.
//!
//! Basic arithmetic and roots must be correctly rounded: the f64 result of f32 operands, rounded to f32, is that.
//! Elementary functions must be within four units in the last place, which [`super::bounds`] builds on.

use std::sync::Arc;

use colac_plan::pointwise::{
    Binary, Builder, InputForm, Instruction, Output, Program, Register, Unary,
};
use colac_plan::{DType, Op, Plan, TensorType};

use super::executors::Make;
use super::layout::{Layout, Mode, OneOperation, Padding};
use super::samples::{Operand, Sample};
use crate::cpu::{CpuExecutor, CpuOptions};
use crate::executor::Executor;
use crate::reference::{binary, unary};

/// Four units in the last place.
const ELEMENTARY: f64 = 4.0 / (1u64 << 23) as f64;

const UNARIES: [Unary; 11] = [
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

const BINARIES: [Binary; 7] = [
    Binary::Add,
    Binary::Subtract,
    Binary::Multiply,
    Binary::Divide,
    Binary::Maximum,
    Binary::Minimum,
    Binary::Greater,
];

/// Whether a primitive must be correctly rounded, and that it is in the lists above: a new one does not compile here.
fn correctly_rounded(function: Unary) -> bool {
    match function {
        Unary::Negate | Unary::Absolute | Unary::SquareRoot => true,
        Unary::Exponential
        | Unary::Logarithm
        | Unary::ReciprocalSquareRoot
        | Unary::Sigmoid
        | Unary::HyperbolicTangent
        | Unary::ErrorFunction
        | Unary::Sine
        | Unary::Cosine => false,
    }
}

/// Runs a program over operands of the given forms on rows of the first operand's shape.
pub(super) fn run(
    make: Make<'_>,
    program: &Program,
    shape: &[u64],
    operands: &[Vec<f64>],
) -> Vec<Vec<f64>> {
    let (width, leading) = shape.split_last().expect("rows");
    let operands = (program.inputs.iter().zip(operands))
        .map(|(form, values)| {
            let ty = match form {
                InputForm::Elements => TensorType::f32(shape),
                InputForm::Row => TensorType::f32(&[*width]),
                InputForm::Column => TensorType::f32(leading),
                InputForm::Scalar => TensorType::f32(&[]),
            };
            assert_eq!(ty.shape.elements() as usize, values.len());
            Operand { ty, values: values.clone() }
        })
        .collect();
    let sample = Sample {
        name: format!("pointwise: {program}"),
        op: Op::Pointwise { program: program.clone() },
        operands,
        results: vec![TensorType::f32(shape); program.outputs.len()],
        current: None,
    };
    let one = OneOperation::new(&sample, Layout::Packed, Mode::Overwrite, None);
    let count = shape.iter().product::<u64>() as usize;
    one.run(
        make(one.plan.clone()).as_mut(),
        &sample,
        &vec![vec![0.0; count]; program.outputs.len()],
        Padding::Left,
    )
    .expect("nothing is written beside a slice")
}

fn cpu(plan: Arc<Plan>) -> Box<dyn Executor> {
    let options = CpuOptions { threads: 1, ..CpuOptions::default() };
    Box::new(CpuExecutor::new(plan, options).expect("a plan of one operation"))
}

/// A program of `inputs` and one instruction after them, unsimplified.
fn single(inputs: &[InputForm], instruction: Instruction) -> Program {
    let mut instructions: Vec<Instruction> =
        (0..inputs.len() as u16).map(Instruction::Input).collect();
    instructions.push(instruction);
    let output = Output { register: inputs.len() as Register, dtype: DType::F32 };
    Program { inputs: inputs.to_vec(), instructions, outputs: vec![output] }
}

/// Special numbers, and both signs of numbers from the smallest to the largest.
fn grid() -> Vec<f64> {
    let mut grid = vec![0.0, 1.0, 0.5, 2.0, 1e-45, 1e-38, 1.18e-38, 3.4e38, f64::INFINITY];
    grid.extend((-37..38).map(|exponent| 1.37 * 10f64.powi(exponent)));
    grid.extend([
        0.3, 0.624, 0.626, 0.999, 1.001, 3.0, 5.0, 9.0, 16.5, 17.5, 80.0, 87.0, 88.0, 89.0, 90.0,
        103.0, 105.0,
    ]);
    let negative: Vec<f64> = grid.iter().map(|x| -x).collect();
    grid.extend(negative);
    grid.push(f64::NAN);
    grid.iter().map(|&x| f64::from(x as f32)).collect()
}

/// Whether `found` is as near to `exact` as asked: by a relative tolerance, or correctly rounded where that is 0. Results
/// that are not normal numbers may be flushed to zero; overflow and NaN must be themselves.
fn close(found: f64, exact: f64, tolerance: f64) -> bool {
    let rounded = f64::from(exact as f32);
    if exact.is_nan() || rounded.is_infinite() {
        return found == rounded || (found.is_nan() && exact.is_nan());
    }
    let smallest = f64::from(f32::MIN_POSITIVE);
    if rounded.abs() < smallest {
        return (found - rounded).abs() <= smallest;
    }
    found == rounded || (found - exact).abs() <= tolerance * exact.abs()
}

#[test]
fn functions_of_one_number() {
    let mut grid = grid();
    // Where the functions bend, densely.
    grid.extend((-60_000..60_000).map(|i| f64::from(i as f32 / 600.0)));
    grid.extend(
        (0..20_000)
            .map(|i| f64::from((1.0 + i as f32 / 1e6) * if i % 2 == 0 { 1.0 } else { 0.99 })),
    );
    for function in UNARIES {
        let tolerance = if correctly_rounded(function) { 0.0 } else { ELEMENTARY };
        let program = single(&[InputForm::Elements], Instruction::Unary(function, 0));
        let found =
            run(&cpu, &program, &[grid.len() as u64], std::slice::from_ref(&grid)).remove(0);
        for (x, found) in grid.iter().zip(found) {
            let exact = unary(function, *x);
            assert!(close(found, exact, tolerance), "{function}({x}) is {found}, not {exact}");
        }
    }
}

#[test]
fn functions_of_two_numbers() {
    let grid = grid();
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for a in &grid {
        for b in &grid {
            left.push(*a);
            right.push(*b);
        }
    }
    for function in BINARIES {
        let program = single(&[InputForm::Elements; 2], Instruction::Binary(function, 0, 1));
        let shape = [grid.len() as u64; 2];
        let found = run(&cpu, &program, &shape, &[left.clone(), right.clone()]).remove(0);
        for ((a, b), found) in left.iter().zip(&right).zip(found) {
            // Which of two the larger is, is not said where one is not a number.
            if (a.is_nan() || b.is_nan()) && matches!(function, Binary::Maximum | Binary::Minimum) {
                continue;
            }
            let exact = binary(function, *a, *b);
            assert!(close(found, exact, 0.0), "{function:?}({a}, {b}) is {found}, not {exact}");
        }
    }
}

#[test]
fn selection() {
    let grid = grid();
    let program = single(&[InputForm::Elements; 3], Instruction::Select(0, 1, 2));
    let (then, otherwise) = (vec![3.0; grid.len()], vec![f64::NAN; grid.len()]);
    let operands = [grid.clone(), then, otherwise];
    let found = run(&cpu, &program, &[grid.len() as u64], &operands).remove(0);
    for (condition, found) in grid.iter().zip(found) {
        // What is not chosen does not matter, not even if it is not a number.
        assert!(
            if *condition == 0.0 { found.is_nan() } else { found == 3.0 },
            "{condition} selects {found}"
        );
    }
}

/// The neighbours in bf16 of an f32 are its upper half and the next; the nearer one counts, the even one of equals.
fn nearest_bf16(x: f32) -> f32 {
    let below = f32::from_bits(x.to_bits() & 0xffff_0000);
    if x.is_nan() || x.is_infinite() || below == x {
        return x;
    }
    let above = f32::from_bits((x.to_bits() & 0xffff_0000) + 0x1_0000);
    // Beyond the largest number stands what would be the next, 2¹²⁸.
    let above_value =
        if above.is_infinite() { 2f64.powi(128).copysign(x.into()) } else { above.into() };
    let (down, up) = ((f64::from(x) - f64::from(below)).abs(), (above_value - f64::from(x)).abs());
    match down.total_cmp(&up) {
        std::cmp::Ordering::Less => below,
        std::cmp::Ordering::Greater => above,
        std::cmp::Ordering::Equal if below.to_bits() & 0x1_0000 == 0 => below,
        std::cmp::Ordering::Equal => above,
    }
}

#[test]
fn rounding_to_storage() {
    let mut grid = grid();
    // Ties to either side and their neighbours, and numbers that round to infinity.
    for bits in [
        0x3f80_8000u32,
        0x3f81_8000,
        0x3f80_7fff,
        0x3f80_8001,
        0x7f7f_7fff,
        0x7f7f_8000,
        0x7f7f_ffff,
        0x0000_8000,
    ] {
        grid.extend([f64::from(f32::from_bits(bits)), -f64::from(f32::from_bits(bits))]);
    }
    for dtype in [DType::Bf16, DType::F32] {
        let program = single(&[InputForm::Elements], Instruction::Round(dtype, 0));
        let found =
            run(&cpu, &program, &[grid.len() as u64], std::slice::from_ref(&grid)).remove(0);
        for (x, found) in grid.iter().zip(found) {
            let exact = if dtype == DType::Bf16 { nearest_bf16(*x as f32) } else { *x as f32 };
            let same = found == f64::from(exact) || (found.is_nan() && exact.is_nan());
            assert!(same, "{dtype}({x}) is {found}, not {exact}");
        }
    }
}

/// All forms of two inputs give what the same numbers spread over the elements give.
#[test]
fn forms_of_inputs() {
    const FORMS: [InputForm; 4] =
        [InputForm::Elements, InputForm::Row, InputForm::Column, InputForm::Scalar];
    for shape in [[5u64, 1], [1, 9], [7, 33], [3, 1500]] {
        let (rows, width) = (shape[0] as usize, shape[1] as usize);
        let spread = |form: InputForm, values: &[f64]| -> Vec<f64> {
            let element = |i: usize| match form {
                InputForm::Elements => values[i],
                InputForm::Row => values[i % width],
                InputForm::Column => values[i / width],
                InputForm::Scalar => values[0],
            };
            (0..rows * width).map(element).collect()
        };
        for left in FORMS {
            for right in FORMS {
                let values = |form: InputForm, seed: f64| -> Vec<f64> {
                    let count = match form {
                        InputForm::Elements => rows * width,
                        InputForm::Row => width,
                        InputForm::Column => rows,
                        InputForm::Scalar => 1,
                    };
                    (0..count).map(|i| f64::from((seed + i as f64 * 0.37) as f32)).collect()
                };
                let (a, b) = (values(left, -3.0), values(right, 0.5));
                let (wide_a, wide_b) = (spread(left, &a), spread(right, &b));
                for function in [Binary::Subtract, Binary::Divide, Binary::Greater] {
                    // An input that nothing reads gives the shape.
                    let mut builder = Builder::new();
                    let (a_register, b_register) = (builder.input(left), builder.input(right));
                    builder.input(InputForm::Elements);
                    let result = builder.binary(function, a_register, b_register);
                    let program = builder.finish(&[(result, DType::F32), (a_register, DType::F32)]);
                    let shape_only = vec![f64::NAN; rows * width];
                    let found = run(&cpu, &program, &shape, &[a.clone(), b.clone(), shape_only]);
                    for i in 0..rows * width {
                        let exact = binary(function, wide_a[i], wide_b[i]);
                        let near = close(found[0][i], exact, 0.0) && found[1][i] == wide_a[i];
                        assert!(
                            near,
                            "{function:?} of {left:?} and {right:?}, {shape:?}, element {i}"
                        );
                    }
                }
            }
        }
    }
}
