//! One GPU for many small plans, one after the other: contexts, modules and choices of products are made once.
//!
//! Owns that sharing, and compiling the kernels of all plans beforehand. Must not know operations.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use colac_plan::Plan;

use crate::cuda::attention::{AttentionKernels, AttentionShape};
use crate::cuda::collect::Collector;
use crate::cuda::device::Device;
use crate::cuda::driver::{Gpu, Prepared};
use crate::cuda::error::CudaError;
use crate::cuda::executor::DeviceExecutor;
use crate::cuda::launch::{Kernel, Step};

/// A GPU that several executors use, one after the other.
#[derive(Clone)]
pub(crate) struct SharedGpu {
    gpu: Rc<RefCell<Gpu>>,
    multiprocessors: u64,
}

impl SharedGpu {
    /// Opens the GPU of that number and compiles what the plans need, our own attention too where a library is asked
    /// for: it may not take all.
    pub(crate) fn new(
        ordinal: i32,
        attention: AttentionKernels,
        plans: impl IntoIterator<Item = Arc<Plan>>,
    ) -> Result<SharedGpu, CudaError> {
        let gpu = Gpu::new(ordinal, None, attention)?;
        let multiprocessors = gpu.multiprocessors();
        let shared = SharedGpu { gpu: Rc::new(RefCell::new(gpu)), multiprocessors };
        shared.compile_for(plans)?;
        Ok(shared)
    }

    /// The same GPU with the kernels that one of so many multiprocessors gets, compiled for what some plans need.
    pub(crate) fn like(
        &self,
        multiprocessors: u64,
        plans: impl IntoIterator<Item = Arc<Plan>>,
    ) -> Result<SharedGpu, CudaError> {
        let shared = SharedGpu { multiprocessors, ..self.clone() };
        shared.compile_for(plans)?;
        Ok(shared)
    }

    fn compile_for(&self, plans: impl IntoIterator<Item = Arc<Plan>>) -> Result<(), CudaError> {
        let mut collector = Collector::new(self.multiprocessors);
        for plan in plans {
            DeviceExecutor::new(plan, &mut collector)?;
        }
        let kernels: Vec<Kernel> = collector.kernels.into_iter().collect();
        self.gpu.borrow_mut().compile(&kernels)
    }

    /// An executor of a plan. It takes the memory of the one before it, which must be gone.
    pub(crate) fn executor(&self, plan: Arc<Plan>) -> Result<DeviceExecutor<SharedGpu>, CudaError> {
        self.gpu.borrow_mut().forget_plan();
        DeviceExecutor::new(plan, self.clone())
    }

    /// Bytes of the device in use by everybody.
    pub(crate) fn memory_in_use(&self) -> Result<u64, CudaError> {
        Ok(self.gpu.borrow().memory_in_use()?.0)
    }
}

impl Device for SharedGpu {
    type Prepared = Prepared;

    fn multiprocessors(&self) -> u64 {
        self.multiprocessors
    }

    fn allocate(&mut self, bytes: u64, purpose: &'static str) -> Result<u64, CudaError> {
        self.gpu.borrow_mut().allocate(bytes, purpose)
    }

    fn fill_with_noise(&mut self, _: u64, _: u64) -> Result<(), CudaError> {
        Ok(())
    }

    fn reserve_copies(&mut self, up: u64, down: u64) -> Result<(), CudaError> {
        self.gpu.borrow_mut().reserve_copies(up, down)
    }

    fn clear(&mut self, address: u64, bytes: u64) -> Result<(), CudaError> {
        self.gpu.borrow_mut().clear(address, bytes)
    }

    fn compile(&mut self, kernels: &[Kernel]) -> Result<(), CudaError> {
        self.gpu.borrow_mut().compile(kernels)
    }

    fn attention_workspace(&self, shape: &AttentionShape) -> Result<Option<u64>, CudaError> {
        self.gpu.borrow().attention_workspace(shape)
    }

    fn prepare(&mut self, step: &Step) -> Result<Prepared, CudaError> {
        self.gpu.borrow_mut().prepare(step)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        self.gpu.borrow_mut().write(address, bytes);
    }

    fn read(&self, address: u64, bytes: &mut [u8]) {
        self.gpu.borrow().read(address, bytes);
    }

    fn queue_read(&mut self, address: u64, bytes: usize) {
        self.gpu.borrow_mut().queue_read(address, bytes);
    }

    fn fetch(&mut self, bytes: &mut [u8]) {
        self.gpu.borrow_mut().fetch(bytes);
    }

    fn discard_reads(&mut self) {
        self.gpu.borrow_mut().discard_reads();
    }

    fn run(&mut self, key: usize, steps: &[Prepared], flags: &[bool]) {
        self.gpu.borrow_mut().run(key, steps, flags);
    }

    fn run_timed(
        &mut self,
        steps: &[Prepared],
        flags: &[bool],
        groups: &[usize],
        ends: &mut [u64],
    ) {
        self.gpu.borrow_mut().run_timed(steps, flags, groups, ends);
    }
}
