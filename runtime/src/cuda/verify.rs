//! The conformance suite on a GPU.
//!
//! One device serves all cases, which are plans of one operation each: contexts and modules are made once. Owns that
//! sharing. Must not know operations.

use std::cell::RefCell;
use std::rc::Rc;

use crate::conformance::{self, Arithmetic, Verdict};
use crate::cuda::collect::Collector;
use crate::cuda::device::Device;
use crate::cuda::driver::{Gpu, Prepared};
use crate::cuda::error::CudaError;
use crate::cuda::executor::DeviceExecutor;
use crate::cuda::launch::{Kernel, Step};

/// A GPU that several executors use, one after the other.
#[derive(Clone)]
struct Shared(Rc<RefCell<Gpu>>);

impl Device for Shared {
    type Prepared = Prepared;

    fn allocate(&mut self, bytes: u64, purpose: &'static str) -> Result<u64, CudaError> {
        self.0.borrow_mut().allocate(bytes, purpose)
    }

    fn fill_with_noise(&mut self, _: u64, _: u64) -> Result<(), CudaError> {
        Ok(())
    }

    fn clear(&mut self, address: u64, bytes: u64) -> Result<(), CudaError> {
        self.0.borrow_mut().clear(address, bytes)
    }

    fn compile(&mut self, kernels: &[Kernel]) -> Result<(), CudaError> {
        self.0.borrow_mut().compile(kernels)
    }

    fn prepare(&mut self, step: &Step) -> Result<Prepared, CudaError> {
        self.0.borrow_mut().prepare(step)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        self.0.borrow_mut().write(address, bytes);
    }

    fn read(&self, address: u64, bytes: &mut [u8]) {
        self.0.borrow().read(address, bytes);
    }

    fn run(&mut self, key: usize, steps: &[Prepared], flags: &[bool]) {
        self.0.borrow_mut().run(key, steps, flags);
    }

    fn run_timed(
        &mut self,
        steps: &[Prepared],
        flags: &[bool],
        groups: &[usize],
        ends: &mut [u64],
    ) {
        self.0.borrow_mut().run_timed(steps, flags, groups, ends);
    }
}

/// See [`crate::cuda::verify`].
pub(super) fn on_gpu(ordinal: i32) -> Result<Vec<Verdict>, CudaError> {
    let mut collector = Collector::default();
    for plan in conformance::plans(&|_| true) {
        DeviceExecutor::new(plan, &mut collector)?;
    }
    let kernels: Vec<Kernel> = collector.kernels.into_iter().collect();
    let mut gpu = Gpu::new(ordinal, None)?;
    gpu.compile(&kernels)?;
    let gpu = Shared(Rc::new(RefCell::new(gpu)));
    let make = |plan| -> Box<dyn crate::executor::Executor> {
        gpu.0.borrow_mut().forget_plan();
        match DeviceExecutor::new(plan, gpu.clone()) {
            Ok(executor) => Box::new(executor),
            Err(error) => panic!("a plan of one operation cannot be prepared: {error}"),
        }
    };
    Ok(conformance::verify(&make, Arithmetic::Bf16Factors, &|_| true))
}
