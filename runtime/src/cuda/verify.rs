//! The conformance suite on a GPU, which serves all cases: plans of one operation each.

use crate::conformance::{self, Arithmetic, Verdict};
use crate::cuda::error::CudaError;
use crate::cuda::shared::SharedGpu;

/// See [`crate::cuda::verify`].
pub(super) fn on_gpu(ordinal: i32) -> Result<Vec<Verdict>, CudaError> {
    let gpu = SharedGpu::new(ordinal, conformance::plans(&|_| true))?;
    let make = |plan| -> Box<dyn crate::executor::Executor> {
        match gpu.executor(plan) {
            Ok(executor) => Box::new(executor),
            Err(error) => panic!("a plan of one operation cannot be prepared: {error}"),
        }
    };
    Ok(conformance::verify(&make, Arithmetic::Bf16Factors, &|_| true))
}
