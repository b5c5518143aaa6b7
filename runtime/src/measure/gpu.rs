//! Times on a GPU: of single operations, and the rate of one large product, with which everything else is compared.
//!
//! Owns how such times are taken: as part of a captured graph that runs several times before anybody waits for it, as
//! operations of a training step do. Must not know plans of models, nor what is made of the times.

use std::sync::Arc;
use std::time::Instant;

use colac_plan::{DType, Op, Plan, ProgramKind, Shape, TensorType};

use crate::cuda::{AttentionKernels, CudaError, CudaExecutor, SharedGpu};
use crate::executor::{Executor, OperationSpan, TimedExecutor};
use crate::measure::Summary;
use crate::measure::calibrate::{Effort, Timed};
use crate::measure::single::{MeasuredPlan, fill, measured};

/// Rows, columns and depth of the product.
const EDGE: u64 = 8192;

/// Executions of an operation in one run of its program.
const COPIES: u64 = 8;

/// The same of the operation that takes nothing but its overhead: starting the graph should not count.
const COPIES_OF_NOTHING: u64 = 256;

/// Seconds after which somebody waits for the runs that were begun.
const ROUND: f64 = 0.004;

/// FLOP/s of an 8192 × 8192 × 8192 product of bf16 numbers, sustained for about `seconds`: the median, since a GPU that is
/// warm reaches less than one that was idle.
///
/// # Errors
/// Without a GPU, or without what it needs.
pub fn product_rate(ordinal: i32, seconds: f64) -> Result<f64, CudaError> {
    let square = || TensorType::new(DType::Bf16, Shape::of(&[EDGE, EDGE]));
    let measured = plan(&Op::Linear, &[square(), square()], COPIES)?;
    let mut executor =
        CudaExecutor::new(Arc::clone(&measured.plan), ordinal, None, AttentionKernels::Own)?;
    for id in &measured.inputs {
        fill(&mut executor, *id);
    }
    let now = Instant::now();
    let operations = measured.plan.program(ProgramKind::ForwardBackward).operations.len();
    let mut spans = vec![OperationSpan { began: now, ended: now }; operations];
    let mut times = Vec::new();
    while times.len() < 20 || now.elapsed().as_secs_f64() < seconds {
        executor.run_timed(ProgramKind::ForwardBackward, true, &mut spans);
        times.extend(spans.iter().map(|span| span.nanoseconds() as f64 * 1e-9));
    }
    Ok(measured.cost.products as f64 / Summary::of(&times).median.max(1e-9))
}

/// Takes the times of single operations on one GPU.
pub(super) struct GpuClock {
    gpu: SharedGpu,
    /// Seconds that an operation takes beside its work, once that is known; in the others' times it is left out, because
    /// a prediction adds it.
    overhead: f64,
}

impl GpuClock {
    /// Opens the GPU of that number and compiles what the plans need ([`plan_of`]).
    pub(super) fn new(ordinal: i32, plans: Vec<Arc<Plan>>) -> Result<GpuClock, CudaError> {
        Ok(GpuClock { gpu: SharedGpu::new(ordinal, AttentionKernels::Own, plans)?, overhead: 0.0 })
    }

    /// Bytes of the device that are taken before any plan has its own: the context, kernels, workspace of the library of
    /// products, and what other programs hold.
    pub(super) fn context_bytes(&self) -> Result<u64, CudaError> {
        self.gpu.memory_in_use()
    }

    /// Seconds of one execution, and its cost. The time of an operation `of_overhead` is kept for those after it.
    pub(super) fn time(
        &mut self,
        op: &Op,
        operands: &[TensorType],
        effort: Effort,
        of_overhead: bool,
    ) -> Result<Timed, CudaError> {
        let copies = if of_overhead { COPIES_OF_NOTHING } else { COPIES };
        let MeasuredPlan { plan, inputs, copies, cost } = plan(op, operands, copies)?;
        let program = ProgramKind::ForwardBackward;
        let result = plan.program(program).operations[0].results[0];
        let mut executor = self.gpu.executor(plan)?;
        for id in inputs {
            fill(&mut executor, id);
        }
        // Reading a number waits for everything that was begun.
        let mut seconds_of = |runs: usize| {
            let began = Instant::now();
            (0..runs).for_each(|_| executor.run(program, true));
            executor.read_f32_range(result, 0, &mut [0.0]);
            began.elapsed().as_secs_f64()
        };
        // The first run captures the graph.
        seconds_of(1);
        let each = seconds_of(2) / 2.0;
        let runs = ((ROUND / each.max(1e-7)).ceil() as usize).clamp(1, 1000);
        let (began, mut seconds) = (Instant::now(), Vec::new());
        while seconds.len() < effort.rounds || began.elapsed().as_secs_f64() < effort.patience {
            let each = seconds_of(runs) / (runs * copies) as f64;
            // Nothing is faster than a tenth of its time because of what it is spared.
            seconds.push((each - self.overhead).max(each * 0.1));
        }
        let seconds = Summary::of(&seconds);
        if of_overhead {
            self.overhead = seconds.lower;
        }
        Ok(Timed { seconds, cost })
    }
}

/// The plan by which an operation is measured.
pub(super) fn plan_of(op: &Op, operands: &[TensorType]) -> Result<Arc<Plan>, CudaError> {
    Ok(plan(op, operands, COPIES)?.plan)
}

/// The plan of an operation that stands in it several times.
fn plan(op: &Op, operands: &[TensorType], copies: u64) -> Result<MeasuredPlan, CudaError> {
    Ok(measured(op, operands, copies)?)
}
