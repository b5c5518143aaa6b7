//! The conformance suite on a GPU, which serves all cases: plans of one operation each. Must not know how operations are
//! computed.

use std::cell::Cell;

use colac_plan::Op;

use crate::conformance::{self, Arithmetic, Verdict};
use crate::cuda::attention::AttentionKernels;
use crate::cuda::error::CudaError;
use crate::cuda::lower::depends_on_multiprocessors;
use crate::cuda::shared::SharedGpu;

/// What the samples of attention came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VerifiedAttention {
    /// Of attention and of its derivative.
    pub verdicts: Vec<Verdict>,
    /// Cases that cuDNN computed; our own kernels computed the others.
    pub by_library: usize,
}

/// See [`crate::cuda::verify`].
pub(super) fn on_gpu(ordinal: i32) -> Result<Vec<Verdict>, CudaError> {
    Ok(verified(ordinal, AttentionKernels::Own, &|_| true)?.0)
}

/// See [`crate::cuda::verify_attention`].
pub(super) fn attention_on_gpu(ordinal: i32) -> Result<VerifiedAttention, CudaError> {
    let attention = |op: &Op| matches!(op, Op::Attention { .. } | Op::AttentionBackward { .. });
    let (verdicts, by_library) = verified(ordinal, AttentionKernels::Cudnn, &attention)?;
    Ok(VerifiedAttention { verdicts, by_library })
}

/// What the suite says of the operations that are wanted, and how many cases a library computed.
fn verified(
    ordinal: i32,
    attention: AttentionKernels,
    wanted: &dyn Fn(&Op) -> bool,
) -> Result<(Vec<Verdict>, usize), CudaError> {
    let gpu = SharedGpu::new(ordinal, attention, conformance::plans(wanted))?;
    let by_library = Cell::new(0);
    let run = |gpu: &SharedGpu, wanted: &dyn Fn(&Op) -> bool| {
        let make = |plan| -> Box<dyn crate::executor::Executor> {
            match gpu.executor(plan) {
                Ok(executor) => {
                    by_library.set(by_library.get() + executor.attention().library);
                    Box::new(executor)
                }
                Err(error) => panic!("a plan of one operation cannot be prepared: {error}"),
            }
        };
        conformance::verify(&make, Arithmetic::Bf16Factors, wanted)
    };
    let mut verdicts = run(&gpu, wanted);
    // Samples are too small to fill a GPU: those kernels that it gets for more are run as on one that is filled by them.
    let filled = |op: &Op| wanted(op) && depends_on_multiprocessors(op);
    let small = gpu.like(1, conformance::plans(&filled))?;
    for more in run(&small, &filled) {
        match verdicts.iter_mut().find(|verdict| verdict.name == more.name) {
            Some(verdict) => verdict.add(more),
            None => verdicts.push(more),
        }
    }
    Ok((verdicts, by_library.get()))
}
