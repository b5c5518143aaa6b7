//! What a device offers the executor.
//!
//! Owns the interface that the real GPU and the tests' CPU shim have in common. Must not know plans.

use crate::cuda::attention::AttentionShape;
use crate::cuda::error::CudaError;
use crate::cuda::launch::{Kernel, Step};

/// Memory, kernels and products, in one order of execution.
pub(crate) trait Device {
    /// A step with everything resolved; running it allocates nothing.
    type Prepared;

    /// How many blocks of threads run side by side at least: kernels are chosen by whether an operation has enough of them.
    fn multiprocessors(&self) -> u64;

    /// Bytes of zeros, from a multiple of 256 on, that live as long as the device.
    ///
    /// # Errors
    /// If there is no room.
    fn allocate(&mut self, bytes: u64, purpose: &'static str) -> Result<u64, CudaError>;

    /// Makes room for so many bytes on their way to the device and to the host at a time. Larger copies are made, too, but
    /// waited for.
    ///
    /// # Errors
    /// If there is none.
    fn reserve_copies(&mut self, _up: u64, _down: u64) -> Result<(), CudaError> {
        Ok(())
    }

    /// Fills memory with numbers such as a network has, so that what is timed while steps are prepared is timed on data.
    ///
    /// # Errors
    /// If the device fails.
    fn fill_with_noise(&mut self, address: u64, bytes: u64) -> Result<(), CudaError>;

    /// Fills memory with zeros.
    ///
    /// # Errors
    /// If the device fails.
    fn clear(&mut self, address: u64, bytes: u64) -> Result<(), CudaError>;

    /// Makes kernels runnable, many at once.
    ///
    /// # Errors
    /// A text that the compiler refuses, or a compiler that is missing.
    fn compile(&mut self, kernels: &[Kernel]) -> Result<(), CudaError>;

    /// Bytes of workspace with which a library of the device computes an attention; `None` where there is none that was
    /// asked for, or it does not take this one.
    ///
    /// # Errors
    /// If the library fails.
    fn attention_workspace(&self, _: &AttentionShape) -> Result<Option<u64>, CudaError> {
        Ok(None)
    }

    /// Resolves a step. Kernels have been compiled. May run it, and overwrites its results then.
    ///
    /// # Errors
    /// A step that the device does not take.
    fn prepare(&mut self, step: &Step) -> Result<Self::Prepared, CudaError>;

    /// Is told that every step of a plan is prepared.
    ///
    /// # Errors
    /// If what was chosen meanwhile cannot be written down.
    fn prepared(&mut self) -> Result<(), CudaError> {
        Ok(())
    }

    /// Copies into the device's memory, after what was asked for before.
    fn write(&mut self, address: u64, bytes: &[u8]);

    /// Copies out of the device's memory, after what was asked for before, and waits for it.
    fn read(&self, address: u64, bytes: &mut [u8]);

    /// Asks for bytes of the device's memory as they are after what was asked for before; does not wait.
    fn queue_read(&mut self, address: u64, bytes: usize);

    /// Waits for the oldest reading that was asked for, which has as many bytes.
    fn fetch(&mut self, bytes: &mut [u8]);

    /// Forgets what was asked for and not fetched.
    fn discard_reads(&mut self);

    /// Runs those steps whose flag is set. The same `key` always comes with the same steps and flags.
    fn run(&mut self, key: usize, steps: &[Self::Prepared], flags: &[bool]);

    /// Runs steps as [`Device::run`], and gives nanoseconds from the beginning to the end of each group of steps;
    /// `groups` are the ends of the groups, and `ends` has one number for each.
    fn run_timed(
        &mut self,
        steps: &[Self::Prepared],
        flags: &[bool],
        groups: &[usize],
        ends: &mut [u64],
    );
}
