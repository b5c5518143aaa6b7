//! Plans of one operation, run again and again: what a single operation takes.
//!
//! Owns the making of such plans. The operation stands several times in the program, each time over tensors of its own,
//! so that its operands have left the caches when it comes round again, as they have in a training step of some size.

use std::sync::Arc;
use std::time::Instant;

use colac_plan::op::cost::aligned;
use colac_plan::program::{Operation, Phase, When, Write};
use colac_plan::{
    Cost, DType, Op, Plan, ProgramKind, Segment, Shape, Tensor, TensorId, TensorType,
};

use crate::bare_plan::bare_plan;
use crate::contract::OperationError;
use crate::cpu::{CpuError, CpuExecutor, CpuOptions};
use crate::executor::Executor;
use crate::measure::Summary;
use crate::measure::clock::Moment;

/// Bytes over which the copies of an operation are spread, about.
const SPREAD: u64 = 96 << 20;

/// Executions of an operation in one run of its program, at most.
const COPIES: u64 = 8;

/// An operation ready to be timed.
pub(super) struct Single {
    executor: CpuExecutor,
    copies: usize,
    /// Of one execution.
    pub(super) cost: Cost,
}

impl Single {
    /// Memory, threads and operands for an operation.
    ///
    /// # Errors
    /// If the machine has no memory for it, or the executor does not run operands of these types.
    pub(super) fn new(
        op: &Op,
        operands: &[TensorType],
        threads: usize,
    ) -> Result<Single, CpuError> {
        let measured = measured(op, operands, COPIES)?;
        let options = CpuOptions { threads, ..CpuOptions::default() };
        let mut executor = CpuExecutor::new(Arc::clone(&measured.plan), options)?;
        for id in measured.inputs {
            fill(&mut executor, id);
        }
        Ok(Single { executor, copies: measured.copies, cost: measured.cost })
    }

    /// Seconds of one execution, over at least `rounds` rounds and until `patience` seconds are over; by the clock that
    /// suits the number of threads ([`Moment`]).
    pub(super) fn time(&mut self, rounds: usize, patience: f64) -> Summary {
        let threads = self.executor.threads();
        self.executor.run(ProgramKind::ForwardBackward, true);
        let (began, mut seconds) = (Instant::now(), Vec::new());
        while seconds.len() < rounds
            || (began.elapsed().as_secs_f64() < patience && seconds.len() < 1000)
        {
            let round = Moment::now(threads);
            self.executor.run(ProgramKind::ForwardBackward, true);
            seconds.push(round.seconds() / self.copies as f64);
        }
        Summary::of(&seconds)
    }
}

/// The plan of an operation that stands in it several times.
pub(super) struct MeasuredPlan {
    pub(super) plan: Arc<Plan>,
    /// The operands, which are to be filled.
    pub(super) inputs: Vec<TensorId>,
    pub(super) copies: usize,
    /// Of one execution.
    pub(super) cost: Cost,
}

/// Makes it, with at most `most` executions.
///
/// # Errors
/// If the operation does not take such operands.
pub(super) fn measured(
    op: &Op,
    operands: &[TensorType],
    most: u64,
) -> Result<MeasuredPlan, OperationError> {
    let types: Vec<&TensorType> = operands.iter().collect();
    let results = op.infer(&types).map_err(|source| OperationError::Type {
        path: "a measured operation".to_owned(),
        source,
    })?;
    let made: Vec<&TensorType> = results.iter().collect();
    let cost = op.cost(&types, &made);
    let each: u64 = operands.iter().chain(&results).map(TensorType::bytes).sum();
    let copies = (SPREAD / each.max(1)).clamp(1, most);
    let mut table = Table::default();
    let mut operations = Vec::new();
    for _ in 0..copies {
        let mut place = |segment, types: &[TensorType]| -> Vec<TensorId> {
            types.iter().map(|ty| table.add(segment, ty.clone())).collect()
        };
        let read = place(Segment::Inputs, operands);
        let written = place(Segment::Outputs, &results);
        operations.push(Operation {
            op: op.clone(),
            operands: read,
            writes: vec![Write::Overwrite; written.len()],
            results: written,
            when: When::Always,
            phase: Phase::Forward,
            after: Vec::new(),
            workspace: op.workspace_bytes(&types, &made),
            path: "measured".to_owned(),
            scope: None,
            line: None,
        });
    }
    let inputs: Vec<TensorId> =
        operations.iter().flat_map(|operation| operation.operands.clone()).collect();
    let plan = Arc::new(table.plan(operations));
    Ok(MeasuredPlan { plan, inputs, copies: copies as usize, cost })
}

/// Numbers as an operand may have: ids spread over the first few thousand, reals between -1 and 1.
pub(super) fn fill(executor: &mut dyn Executor, id: TensorId) {
    let ty = executor.plan().tensor(id).ty.clone();
    let count = ty.shape.elements() as usize;
    match ty.dtype {
        DType::I32 => {
            let ids: Vec<i32> = (0..count).map(|i| (i * 37 % 4096) as i32).collect();
            executor.write_i32(id, &ids);
        }
        DType::F32 | DType::Bf16 if count == 1 => executor.write_f32(id, &[1.0]),
        DType::F32 | DType::Bf16 => {
            let number = |i: usize| (i.wrapping_mul(2_654_435_761) >> 8) % 2048;
            let part = count.min(1 << 20);
            let values: Vec<f32> = (0..part).map(|i| number(i) as f32 / 1024.0 - 1.0).collect();
            for first in (0..count).step_by(part) {
                executor.write_f32_range(id, first, &values[..part.min(count - first)]);
            }
        }
    }
}

#[derive(Default)]
struct Table {
    tensors: Vec<Tensor>,
    bytes: [u64; Segment::ALL.len()],
}

impl Table {
    fn add(&mut self, segment: Segment, ty: TensorType) -> TensorId {
        let offset = self.bytes[segment.index()];
        self.bytes[segment.index()] += aligned(ty.bytes());
        let strides = Tensor::packed_strides(&ty);
        let name = format!("{}", self.tensors.len());
        self.tensors.push(Tensor { name, ty, strides, segment, offset, parent: None });
        TensorId(self.tensors.len() as u32 - 1)
    }

    /// The plan of these operations.
    fn plan(mut self, operations: Vec<Operation>) -> Plan {
        if self.tensors.is_empty() {
            self.add(Segment::Scalars, TensorType::new(DType::F32, Shape::scalar()));
        }
        let workspace = operations.iter().map(|o| o.workspace).max().unwrap_or(0);
        self.bytes[Segment::Workspace.index()] = aligned(workspace);
        bare_plan(self.tensors, self.bytes, operations)
    }
}
