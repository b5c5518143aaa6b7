//! For tests, without a GPU: what cuDNN makes of the attention of plans, for a device that is described to it.
//!
//! Plans are lowered and prepared as on a GPU, so shapes and layouts are those of training; nothing is run. Must not know
//! which plans are tested.

use std::cell::Cell;
use std::sync::Arc;

use colac_plan::op::Mask;
use colac_plan::{DType, Op, Plan};

use crate::conformance;
use crate::cuda::attention::{AttentionShape, AttentionUse, Pass};
use crate::cuda::device::Device;
use crate::cuda::driver::cudnn::{Cudnn, PreparedAttention};
use crate::cuda::driver::libraries;
use crate::cuda::error::CudaError;
use crate::cuda::executor::DeviceExecutor;
use crate::cuda::launch::{Kernel, Step};
use crate::cuda::lower::LARGE;
use crate::cuda::memory;
use crate::cuda::view::Heads;

/// What computes a plan's attention, and with how much workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Operations by what computes them.
    pub attention: AttentionUse,
    /// Bytes of the library's workspace.
    pub workspace: u64,
}

/// An attention whose queries, keys and values are parts of the same rows, as where one product makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Rows of the batch.
    pub batch: u64,
    /// Positions.
    pub seq: u64,
    /// Heads of queries.
    pub heads: u64,
    /// Heads of keys and values.
    pub groups: u64,
    /// Width of a head.
    pub dim: u64,
    /// Which keys are seen.
    pub mask: Mask,
}

impl Joined {
    /// Of both passes.
    fn shapes(self) -> [AttentionShape; 2] {
        let Joined { batch, seq, heads, groups, dim, mask } = self;
        let rows = |heads: u64, row: u64| Heads {
            address: 256,
            dtype: DType::Bf16,
            batch,
            seq,
            heads,
            dim,
            strides: [seq * row, row, dim],
        };
        let joined = (heads + 2 * groups) * dim;
        let (q, k) = (rows(heads, joined), rows(groups, joined));
        let out = rows(heads, heads * dim);
        let of = |pass, tensors: &[&Heads]| AttentionShape::of(pass, mask, &q, &k, tensors);
        [
            of(Pass::Forward, &[&q, &k, &k, &out]),
            of(Pass::Backward, &[&out, &q, &k, &k, &out, &q, &k, &k]),
        ]
    }
}

/// A GPU that is not there.
pub struct DescribedGpu {
    cudnn: Cudnn,
}

impl DescribedGpu {
    /// A GPU of a compute capability, described by JSON as the library writes it. It looks for the driver and NVRTC when it
    /// prepares an attention.
    ///
    /// # Errors
    /// Without the libraries, or if the description is refused.
    pub fn new(json: &str, capability: (i32, i32)) -> Result<DescribedGpu, CudaError> {
        libraries::driver()?;
        libraries::nvrtc()?;
        Ok(DescribedGpu { cudnn: Cudnn::described(json, capability)? })
    }

    /// Lowers a plan and prepares its attention.
    ///
    /// # Errors
    /// As on a GPU.
    pub fn attention_of(&self, plan: Arc<Plan>) -> Result<Described, CudaError> {
        let workspace = Cell::new(0);
        let device = Stand { cudnn: &self.cudnn, workspace: &workspace, end: 256 };
        let attention = DeviceExecutor::new(plan, device)?.attention();
        Ok(Described { attention, workspace: workspace.get() })
    }

    /// Bytes of workspace with which the library computes an attention and its derivative; `None` where it does not.
    ///
    /// # Errors
    /// As on a GPU.
    pub fn workspaces(&self, attention: Joined) -> Result<[Option<u64>; 2], CudaError> {
        let [forward, backward] = attention.shapes();
        Ok([self.cudnn.workspace(&forward)?, self.cudnn.workspace(&backward)?])
    }

    /// What [`BesidePlan`](crate::cuda::BesidePlan) counts for the same.
    pub fn estimates(&self, attention: Joined) -> [Option<u64>; 2] {
        attention.shapes().map(|shape| memory::attention_workspace(&shape))
    }

    /// What computes the conformance suite's samples of attention, all together.
    ///
    /// # Errors
    /// As on a GPU.
    pub fn attention_of_the_suite(&self) -> Result<Described, CudaError> {
        let mut all = Described::default();
        let attention = |op: &Op| matches!(op, Op::Attention { .. } | Op::AttentionBackward { .. });
        for plan in conformance::plans(&attention) {
            let found = self.attention_of(plan)?;
            all.attention.library += found.attention.library;
            all.attention.own += found.attention.own;
            all.workspace = all.workspace.max(found.workspace);
        }
        Ok(all)
    }
}

/// A device that prepares attention and nothing else.
struct Stand<'a> {
    cudnn: &'a Cudnn,
    workspace: &'a Cell<u64>,
    /// The end of the memory that was never there.
    end: u64,
}

impl Device for Stand<'_> {
    type Prepared = Option<PreparedAttention>;

    fn multiprocessors(&self) -> u64 {
        LARGE
    }

    fn allocate(&mut self, bytes: u64, _: &'static str) -> Result<u64, CudaError> {
        let start = self.end;
        self.end += bytes.next_multiple_of(256);
        Ok(start)
    }

    fn fill_with_noise(&mut self, _: u64, _: u64) -> Result<(), CudaError> {
        Ok(())
    }

    fn clear(&mut self, _: u64, _: u64) -> Result<(), CudaError> {
        Ok(())
    }

    fn compile(&mut self, _: &[Kernel]) -> Result<(), CudaError> {
        Ok(())
    }

    fn attention_workspace(&self, shape: &AttentionShape) -> Result<Option<u64>, CudaError> {
        let needed = self.cudnn.workspace(shape)?;
        self.workspace.set(self.workspace.get().max(needed.unwrap_or(0)));
        Ok(needed)
    }

    fn prepare(&mut self, step: &Step) -> Result<Option<PreparedAttention>, CudaError> {
        match step {
            Step::Attention(attention) => self.cudnn.prepare(attention).map(Some),
            Step::Launch(_) | Step::Product(_) => Ok(None),
        }
    }

    fn write(&mut self, _: u64, _: &[u8]) {}

    fn read(&self, _: u64, _: &mut [u8]) {}

    fn queue_read(&mut self, _: u64, _: usize) {}

    fn fetch(&mut self, _: &mut [u8]) {}

    fn discard_reads(&mut self) {}

    fn run(&mut self, _: usize, _: &[Option<PreparedAttention>], _: &[bool]) {}

    fn run_timed(
        &mut self,
        _: &[Option<PreparedAttention>],
        _: &[bool],
        _: &[usize],
        _: &mut [u64],
    ) {
    }
}
