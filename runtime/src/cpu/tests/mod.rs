//! Kernels against naive f64 loops, on awkward shapes, with every way of writing, strides and numbers of threads.

mod executor;
mod heavy;
mod light;
mod plans;
mod vectors;

use std::sync::Arc;

use colac_plan::program::Write;
use colac_plan::{DType, Op, ProgramKind, Segment, Shape, Tensor, TensorType};

use crate::cpu::{CpuExecutor, CpuOptions};
use crate::executor::Executor;

pub(crate) use plans::{PlanBuilder, numbers};

/// An operand: extents and packed values.
#[derive(Clone)]
enum Value {
    F32(Vec<u64>, Vec<f32>),
    I32(Vec<u64>, Vec<i32>),
}

impl Value {
    fn numbers(seed: u64, extents: &[u64]) -> Value {
        Value::F32(extents.to_vec(), numbers(seed, extents.iter().product::<u64>() as usize))
    }

    fn f64(&self) -> Vec<f64> {
        match self {
            Value::F32(_, values) => values.iter().map(|v| f64::from(*v)).collect(),
            Value::I32(_, values) => values.iter().map(|v| f64::from(*v)).collect(),
        }
    }
}

/// One operation on given operands and what it should give.
struct Case {
    op: Op,
    operands: Vec<Value>,
    /// By result; an empty list is not compared.
    want: Vec<Vec<f64>>,
    tolerance: f64,
    /// Operands and results that the operation takes packed only.
    packed_operands: Vec<usize>,
    packed_results: Vec<usize>,
}

impl Case {
    fn new(op: Op, operands: Vec<Value>, want: Vec<Vec<f64>>) -> Case {
        Case {
            op,
            operands,
            want,
            tolerance: 2e-6,
            packed_operands: Vec::new(),
            packed_results: Vec::new(),
        }
    }

    fn tolerance(self, tolerance: f64) -> Case {
        Case { tolerance, ..self }
    }

    fn packed(self, operands: &[usize], results: &[usize]) -> Case {
        Case { packed_operands: operands.to_vec(), packed_results: results.to_vec(), ..self }
    }

    /// Runs the operation once; gives its results.
    fn run(&self, threads: usize, padding: u64, write: Write, old: f32) -> Vec<Vec<f32>> {
        let mut plan = PlanBuilder::default();
        let strides = |ty: &TensorType, packed: bool| {
            let mut strides = Tensor::packed_strides(ty);
            // Rows of heads are padded behind the last head, other rows behind the last element.
            let axis = if strides.len() == 4 { 1 } else { strides.len().saturating_sub(2) };
            if !packed && strides.len() >= 2 {
                strides[axis] += padding;
                for outer in (0..axis).rev() {
                    strides[outer] = strides[outer + 1] * ty.shape.0[outer + 1].extent;
                }
            }
            strides
        };
        let ty = |value: &Value| match value {
            Value::F32(extents, _) => TensorType::new(DType::F32, Shape::of(extents)),
            Value::I32(extents, _) => TensorType::new(DType::I32, Shape::of(extents)),
        };
        let types: Vec<TensorType> = self.operands.iter().map(ty).collect();
        let mut operands = Vec::new();
        for (i, ty) in types.iter().enumerate() {
            let packed = self.packed_operands.contains(&i) || ty.dtype == DType::I32;
            operands.push(plan.strided(Segment::Inputs, ty.clone(), strides(ty, packed)));
        }
        let inferred = self.op.infer(&types.iter().collect::<Vec<_>>()).unwrap();
        let (mut results, mut writes) = (Vec::new(), Vec::new());
        let accumulate = plan.tensor(Segment::Scalars, DType::F32, &[]);
        for (i, ty) in inferred.iter().enumerate() {
            results.push(plan.strided(
                Segment::Outputs,
                ty.clone(),
                strides(ty, self.packed_results.contains(&i)),
            ));
            let write = if let Write::AddIf(_) = write { Write::AddIf(accumulate) } else { write };
            writes.push(if self.op.accumulates(i) { write } else { Write::Overwrite });
        }
        plan.operation(self.op.clone(), &operands, &results, &writes);
        let options = CpuOptions { threads, checking: true, ..CpuOptions::default() };
        let mut executor = CpuExecutor::new(Arc::new(plan.build(&results)), options).unwrap();
        for (id, value) in operands.iter().zip(&self.operands) {
            match value {
                Value::F32(_, values) => executor.write_f32(*id, values),
                Value::I32(_, values) => executor.write_i32(*id, values),
            }
        }
        if let Write::AddIf(chosen) = write {
            executor.write_f32(accumulate, &[chosen.0 as f32]);
        }
        for (i, (id, ty)) in results.iter().zip(&inferred).enumerate() {
            let old = if self.op.accumulates(i) { old } else { f32::NAN };
            if ty.dtype == DType::F32 {
                executor.write_f32(*id, &vec![old; ty.shape.elements() as usize]);
            }
        }
        executor.run(ProgramKind::ForwardBackward, true);
        let read = |(id, ty): (&colac_plan::TensorId, &TensorType)| {
            let mut values = vec![0.0; ty.shape.elements() as usize];
            executor.read_f32(*id, &mut values);
            values
        };
        results.iter().zip(&inferred).map(read).collect()
    }

    /// Compares with what is wanted, for every number of threads, layout and way of writing.
    fn check(&self, what: &str) {
        use colac_plan::TensorId;
        // The number in `AddIf` says which value the scalar gets.
        let ways: &[(Write, f32)] = &[
            (Write::Overwrite, f32::NAN),
            (Write::Add, 0.5),
            (Write::AddIf(TensorId(0)), f32::NAN),
            (Write::AddIf(TensorId(1)), 0.5),
        ];
        let accumulates = (0..self.want.len()).any(|i| self.op.accumulates(i));
        for (write, old) in &ways[..if accumulates { 4 } else { 1 }] {
            for padding in [0, 3] {
                let got = self.run(1, padding, *write, *old);
                for (i, (got, want)) in got.iter().zip(&self.want).enumerate() {
                    let before =
                        if self.op.accumulates(i) && !old.is_nan() { f64::from(*old) } else { 0.0 };
                    let largest =
                        want.iter().fold(1e-6, |largest: f64, w| largest.max(w.abs())) + before;
                    for (j, (got, want)) in got.iter().zip(want).enumerate() {
                        let error = (f64::from(*got) - want - before).abs() / largest;
                        assert!(
                            error <= self.tolerance,
                            "{what}, {write:?}, padding {padding}: result {i}[{j}] is {got}, not {}",
                            want + before
                        );
                    }
                }
                for threads in [2, 3] {
                    let other = self.run(threads, padding, *write, *old);
                    let bits = |results: &[Vec<f32>]| {
                        results.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>()
                    };
                    assert!(
                        bits(&got) == bits(&other),
                        "{what}: {threads} threads give other bits"
                    );
                }
            }
        }
    }
}
