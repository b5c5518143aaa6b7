//! Random pointwise programs on the CPU against the exact result with its running error bound.

use std::cell::Cell;
use std::sync::Arc;

use colac_plan::pointwise::{Binary, Builder, InputForm, Program, Register, Unary};
use colac_plan::{DType, Plan, Shape};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::bounds::pointwise::registers;
use super::pointwise_primitives::run;
use super::samples::draw;
use crate::cpu::{CpuExecutor, CpuOptions};
use crate::executor::Executor;
use crate::reference::{Value, evaluate};

/// One random step: which function, and its arguments as fractions of the registers there are.
type Step = (u8, [u16; 3], i8);

/// Rows, width, forms of the inputs after the first, steps, number of outputs, magnitude of the inputs.
type Description = ([u64; 2], Vec<u8>, Vec<Step>, usize, u8);

fn descriptions() -> impl Strategy<Value = Description> {
    let shapes = prop_oneof![[1u64..4, 1u64..70], [1u64..70, 1u64..4], [1u64..3, 1000u64..2100]];
    let step = (0u8..20, [any::<u16>(), any::<u16>(), any::<u16>()], -8i8..9);
    (
        shapes,
        prop::collection::vec(0u8..4, 0..4),
        prop::collection::vec(step, 1..14),
        1usize..4,
        0u8..3,
    )
}

fn program(forms: &[InputForm], steps: &[Step], outputs: usize) -> Program {
    let mut b = Builder::new();
    let mut registers: Vec<Register> = forms.iter().map(|&form| b.input(form)).collect();
    for (function, arguments, constant) in steps {
        let [x, y, z] = arguments.map(|a| registers[a as usize % registers.len()]);
        let register = match function {
            0 => b.unary(Unary::Negate, x),
            1 => b.unary(Unary::Absolute, x),
            2 => b.unary(Unary::Exponential, x),
            3 => b.unary(Unary::Logarithm, x),
            4 => b.unary(Unary::SquareRoot, x),
            5 => b.unary(Unary::ReciprocalSquareRoot, x),
            6 => b.unary(Unary::Sigmoid, x),
            7 => b.unary(Unary::HyperbolicTangent, x),
            8 => b.unary(Unary::ErrorFunction, x),
            9 | 10 => b.binary(Binary::Add, x, y),
            11 => b.binary(Binary::Subtract, x, y),
            12 | 13 => b.binary(Binary::Multiply, x, y),
            14 => b.binary(Binary::Divide, x, y),
            15 => b.binary(Binary::Maximum, x, y),
            16 => b.binary(Binary::Minimum, x, y),
            17 => b.binary(Binary::Greater, x, y),
            18 => b.select(x, y, z),
            _ => b.constant(f64::from(*constant) / 3.0),
        };
        registers.push(register);
    }
    let last: Vec<(Register, DType)> =
        registers.iter().rev().take(outputs).map(|&r| (r, DType::F32)).collect();
    b.finish(&last)
}

fn cpu(plan: Arc<Plan>) -> Box<dyn Executor> {
    let options = CpuOptions { threads: 2, ..CpuOptions::default() };
    Box::new(CpuExecutor::new(plan, options).expect("a plan of one operation"))
}

#[test]
fn random_programs_stay_within_their_error_bounds() {
    let (elements, decided) = (Cell::new(0u64), Cell::new(0u64));
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let config = Config { cases: 400, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new_with_rng(config, rng).run(&descriptions(), |description| {
        let (shape, others, steps, outputs, magnitude) = description;
        let mut forms = vec![InputForm::Elements];
        forms.extend(others.iter().map(|form| match form {
            0 => InputForm::Elements,
            1 => InputForm::Row,
            2 => InputForm::Column,
            _ => InputForm::Scalar,
        }));
        let program = program(&forms, &steps, outputs);
        prop_assert_eq!(program.check(), Ok(()));
        let (rows, width) = (shape[0] as usize, shape[1] as usize);
        let extents = |form: &InputForm| match form {
            InputForm::Elements => vec![shape[0], shape[1]],
            InputForm::Row => vec![shape[1]],
            InputForm::Column => vec![shape[0]],
            InputForm::Scalar => vec![],
        };
        let operands: Vec<Vec<f64>> = (forms.iter().enumerate())
            .map(|(i, form)| {
                let count = extents(form).iter().product::<u64>() as usize;
                draw(&format!("{i}"), count, 10f64.powi(i32::from(magnitude) - 1))
            })
            .collect();
        let values: Vec<Value> = (forms.iter().zip(&operands))
            .map(|(form, operand)| Value::new(&Shape::of(&extents(form)), operand.clone()))
            .collect();
        let op = colac_plan::Op::Pointwise { program: program.clone() };
        let exact = evaluate(&op, &values, &[]);
        let found = run(&cpu, &program, &shape, &operands);
        for i in 0..rows * width {
            let inputs: Vec<f64> = (forms.iter().zip(&operands))
                .map(|(form, operand)| match form {
                    InputForm::Elements => operand[i],
                    InputForm::Row => operand[i % width],
                    InputForm::Column => operand[i / width],
                    InputForm::Scalar => operand[0],
                })
                .collect();
            let registers = registers(&program, &inputs);
            for (output, stored) in program.outputs.iter().enumerate() {
                let bound = registers[stored.register as usize].error;
                let (found, exact) = (found[output][i], exact[output][i]);
                elements.set(elements.get() + 1);
                if bound.is_finite() {
                    decided.set(decided.get() + u64::from(bound <= 1e-3 * exact.abs().max(1.0)));
                    prop_assert!(
                        (found - exact).abs() <= bound,
                        "{}: element {} of output {} is {}, not {}; bound {}",
                        program,
                        i,
                        output,
                        found,
                        exact,
                        bound
                    );
                }
            }
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    // Poles, overflow and nearly equal numbers are the exception.
    let share = decided.get() as f64 / elements.get() as f64;
    assert!(share > 0.7, "only {share:.2} of the elements were compared closely");
}
