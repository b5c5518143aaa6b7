//! A device for tests: the kernels' own sources, compiled by the C++ compiler, run on the CPU.
//!
//! The launcher, the arguments, the texts are those of the GPU; only the execution model is that of `cushim.h`. Products are
//! plain loops, or the fallback kernel. Owns the building of shared libraries from sources; they are kept under the
//! build's folder by the hash of their text.

mod build;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use colac_plan::{DType, Plan};

use crate::cuda::device::Device;
use crate::cuda::driver::slot;
use crate::cuda::error::CudaError;
use crate::cuda::executor::DeviceExecutor;
use crate::cuda::launch::{Factor, Kernel, Launch, Product, Step, WriteMode};
use crate::cuda::lower;
use crate::cuda::signature;
use crate::cuda::source::Family;
use crate::executor::Executor;

use build::Function;

/// What is missing here to build kernels for the CPU.
pub fn missing() -> Option<&'static str> {
    build::missing()
}

/// A plan on the shim, its products by the kernel for what the library does not take. Threads of a block run in an order
/// that `seed` decides.
///
/// # Errors
/// Without a C++ compiler, or as on a GPU.
pub fn executor(plan: Arc<Plan>, seed: u32) -> Result<impl Executor, CudaError> {
    DeviceExecutor::new(plan, Shim::new(Products::Fallback, seed))
}

/// How the shim computes products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Products {
    /// Plain loops, sums in f32.
    Loops,
    /// The kernel for what the library does not take.
    Fallback,
}

/// A mistake put into a file of kernels on purpose, to see that tests find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    /// Whose kernels have it.
    pub(crate) family: Family,
    /// What is replaced; stands once in their texts.
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
}

/// A CPU that runs kernels.
pub(crate) struct Shim {
    memory: Vec<Vec<Line>>,
    products: Products,
    seed: u32,
    multiprocessors: u64,
    fault: Option<Fault>,
    readings: VecDeque<Vec<u8>>,
}

/// Memory comes in pieces of the alignment that the GPU's allocations have.
#[derive(Clone, Copy)]
#[repr(align(256))]
struct Line(#[expect(dead_code, reason = "read through addresses")] [u8; 256]);

/// A step with everything resolved.
pub(crate) enum Prepared {
    Kernel { function: Function, launch: Launch },
    Product(Product),
}

impl Shim {
    /// Fibers run in an order that `seed` decides.
    pub(crate) fn new(products: Products, seed: u32) -> Shim {
        let (memory, readings) = (Vec::new(), VecDeque::new());
        Shim { memory, products, seed, multiprocessors: 1, fault: None, readings }
    }

    /// With the kernels that a device of so many multiprocessors gets; one block after the other runs in any case.
    #[cfg(test)]
    pub(crate) fn like(self, multiprocessors: u64) -> Shim {
        Shim { multiprocessors, ..self }
    }

    /// With kernels that have a mistake.
    #[cfg(test)]
    pub(crate) fn with(self, fault: Fault) -> Shim {
        Shim { fault: Some(fault), ..self }
    }

    fn step(&self, step: &Prepared) {
        match step {
            Prepared::Product(product) => multiply(product),
            Prepared::Kernel { function, launch } => {
                let values: Vec<u64> = launch.arguments.iter().map(|a| slot(*a)).collect();
                let mut pointers: Vec<*mut c_void> =
                    values.iter().map(|value| ptr::from_ref(value).cast_mut().cast()).collect();
                let grid = u32::try_from(launch.grid).expect("tests are small");
                // SAFETY: the function was built for this kernel, and its arguments were compared with its parameters.
                unsafe {
                    function(grid, launch.threads, launch.shared, self.seed, pointers.as_mut_ptr());
                }
            }
        }
    }
}

fn load(dtype: DType, address: u64, index: u64) -> f32 {
    // SAFETY: products come from lowered plans, whose views lie in our memory.
    unsafe {
        match dtype {
            DType::Bf16 => {
                let bits = *(address as *const u16).add(index as usize);
                f32::from_bits(u32::from(bits) << 16)
            }
            DType::F32 | DType::I32 => *(address as *const f32).add(index as usize),
        }
    }
}

/// The definition of a product.
fn multiply(Product { a, b, c, write }: &Product) {
    let (rows, inner) = a.extents();
    let columns = b.extents().1;
    let adds = match write {
        WriteMode::Overwrite => false,
        WriteMode::Add => true,
        WriteMode::AddIf(condition) => load(DType::F32, *condition, 0) != 0.0,
    };
    let place = |factor: &Factor, i: u64, j: u64| match factor.transposed {
        false => i * factor.stride + j,
        true => j * factor.stride + i,
    };
    for i in 0..rows {
        for j in 0..columns {
            let old = if adds { load(c.dtype, c.address, i * c.stride + j) } else { 0.0 };
            let mut sum = 0.0;
            for k in 0..inner {
                sum += load(a.dtype, a.address, place(a, i, k))
                    * load(b.dtype, b.address, place(b, k, j));
            }
            let value = old + sum;
            // SAFETY: as for reading.
            unsafe {
                let index = (i * c.stride + j) as usize;
                match c.dtype {
                    DType::Bf16 => {
                        *(c.address as *mut u16).add(index) =
                            crate::cuda::executor::bf16_bits(value);
                    }
                    DType::F32 | DType::I32 => *(c.address as *mut f32).add(index) = value,
                }
            }
        }
    }
}

impl Device for Shim {
    type Prepared = Prepared;

    fn multiprocessors(&self) -> u64 {
        self.multiprocessors
    }

    fn allocate(&mut self, bytes: u64, _: &'static str) -> Result<u64, CudaError> {
        let lines = vec![Line([0; 256]); (bytes as usize).div_ceil(256)];
        self.memory.push(lines);
        Ok(self.memory.last().map_or(0, |lines| lines.as_ptr() as u64))
    }

    fn fill_with_noise(&mut self, address: u64, bytes: u64) -> Result<(), CudaError> {
        // Results must not depend on what is there: not a number.
        // SAFETY: a range of ours.
        unsafe { ptr::write_bytes(address as *mut u8, 0xff, bytes as usize) };
        Ok(())
    }

    fn clear(&mut self, address: u64, bytes: u64) -> Result<(), CudaError> {
        // SAFETY: a range of ours.
        unsafe { ptr::write_bytes(address as *mut u8, 0, bytes as usize) };
        Ok(())
    }

    fn compile(&mut self, kernels: &[Kernel]) -> Result<(), CudaError> {
        build::all(kernels, self.fault).map_err(CudaError::Compiler)
    }

    fn prepare(&mut self, step: &Step) -> Result<Prepared, CudaError> {
        let launch = match step {
            Step::Launch(launch) => launch.clone(),
            Step::Product(product) if self.products == Products::Loops => {
                return Ok(Prepared::Product(*product));
            }
            Step::Product(product) => lower::product::fallback(product),
            Step::Attention(_) => unreachable!("there is no library of attention here"),
        };
        self.compile(&[launch.kernel()])?;
        signature::check(&launch).map_err(CudaError::Compiler)?;
        Ok(Prepared::Kernel { function: build::function(&launch.kernel(), self.fault), launch })
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        // SAFETY: a range of ours.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
    }

    fn read(&self, address: u64, bytes: &mut [u8]) {
        // SAFETY: a range of ours.
        unsafe { ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len()) };
    }

    fn queue_read(&mut self, address: u64, bytes: usize) {
        let mut read = vec![0; bytes];
        self.read(address, &mut read);
        self.readings.push_back(read);
    }

    fn fetch(&mut self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.readings.pop_front().expect("what is fetched was asked for"));
    }

    fn discard_reads(&mut self) {
        self.readings.clear();
    }

    fn run(&mut self, _: usize, steps: &[Prepared], flags: &[bool]) {
        for (step, flag) in steps.iter().zip(flags) {
            if *flag {
                self.step(step);
                self.seed = self.seed.wrapping_mul(48_271).wrapping_add(11);
            }
        }
    }

    fn run_timed(&mut self, steps: &[Prepared], flags: &[bool], _: &[usize], ends: &mut [u64]) {
        self.run(0, steps, flags);
        ends.fill(0);
    }
}
