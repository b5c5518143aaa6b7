//! A device that only collects the kernels that plans need, so that they are compiled at once, and compares the arguments of
//! every launch with its kernel's parameters.

use std::collections::BTreeSet;

use crate::cuda::device::Device;
use crate::cuda::error::CudaError;
use crate::cuda::launch::{Kernel, Step};
use crate::cuda::lower;
use crate::cuda::signature;

/// The kernels, and the end of the memory that was never there.
pub(crate) struct Collector {
    pub(crate) kernels: BTreeSet<Kernel>,
    multiprocessors: u64,
    end: u64,
}

impl Collector {
    /// For a device of so many multiprocessors.
    pub(crate) fn new(multiprocessors: u64) -> Collector {
        Collector { kernels: BTreeSet::new(), multiprocessors, end: 0 }
    }
}

impl Device for &mut Collector {
    type Prepared = ();

    fn multiprocessors(&self) -> u64 {
        self.multiprocessors
    }

    fn allocate(&mut self, bytes: u64, _: &'static str) -> Result<u64, CudaError> {
        let start = self.end.max(256);
        self.end = start + bytes.next_multiple_of(256);
        Ok(start)
    }

    fn fill_with_noise(&mut self, _: u64, _: u64) -> Result<(), CudaError> {
        Ok(())
    }

    fn clear(&mut self, _: u64, _: u64) -> Result<(), CudaError> {
        Ok(())
    }

    fn compile(&mut self, kernels: &[Kernel]) -> Result<(), CudaError> {
        self.kernels.extend(kernels.iter().cloned());
        Ok(())
    }

    fn prepare(&mut self, step: &Step) -> Result<(), CudaError> {
        match step {
            Step::Launch(launch) => signature::check(launch).map_err(CudaError::Compiler),
            Step::Product(product) => {
                let launch = lower::product::fallback(product);
                self.kernels.insert(launch.kernel());
                signature::check(&launch).map_err(CudaError::Compiler)
            }
            Step::Attention(_) => unreachable!("there is no library of attention here"),
        }
    }

    fn write(&mut self, _: u64, _: &[u8]) {}

    fn read(&self, _: u64, _: &mut [u8]) {}

    fn queue_read(&mut self, _: u64, _: usize) {}

    fn fetch(&mut self, _: &mut [u8]) {}

    fn discard_reads(&mut self) {}

    fn run(&mut self, _: usize, _: &[()], _: &[bool]) {}

    fn run_timed(&mut self, _: &[()], _: &[bool], _: &[usize], _: &mut [u64]) {}
}
