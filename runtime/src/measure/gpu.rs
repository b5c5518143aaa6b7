//! What one large product reaches on a GPU: the rate that everything else is compared with.
//!
//! Owns its size and how long it is kept up. Must not know plans of models.

use std::sync::Arc;
use std::time::Instant;

use colac_plan::{DType, Op, ProgramKind, Shape, TensorType};

use crate::cuda::{CudaError, CudaExecutor};
use crate::executor::{OperationSpan, TimedExecutor};
use crate::measure::Summary;
use crate::measure::single::{fill, measured};

/// Rows, columns and depth of the product.
const EDGE: u64 = 8192;

/// FLOP/s of an 8192 × 8192 × 8192 product of bf16 numbers, sustained for about `seconds`: the median, since a GPU that is
/// warm reaches less than one that was idle.
///
/// # Errors
/// Without a GPU, or without what it needs.
pub fn product_rate(ordinal: i32, seconds: f64) -> Result<f64, CudaError> {
    let square = || TensorType::new(DType::Bf16, Shape::of(&[EDGE, EDGE]));
    let measured = measured(&Op::Linear, &[square(), square()])
        .map_err(|source| CudaError::Type { path: "a measured operation".to_owned(), source })?;
    let mut executor = CudaExecutor::new(Arc::clone(&measured.plan), ordinal, None)?;
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
