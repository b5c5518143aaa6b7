//! What every executor offers: tensors in, programs run, tensors out.
//!
//! Owns the interface between the training loop and the devices. Must not know any device.

use std::time::Instant;

use colac_plan::{Plan, ProgramKind, TensorId};

/// Runs the programs of one plan. Construction allocates every segment; nothing here allocates again.
///
/// Values cross the interface packed and in logical order, as f32 or i32 whatever the storage. A tensor of the wrong
/// element kind or a slice of the wrong length is a bug of the caller and panics.
pub trait Executor {
    /// The plan being executed.
    fn plan(&self) -> &Plan;

    /// Sets a real tensor, rounding to its storage.
    fn write_f32(&mut self, tensor: TensorId, values: &[f32]);

    /// Sets an integer tensor.
    fn write_i32(&mut self, tensor: TensorId, values: &[i32]);

    /// Sets every number of a real tensor to 0. Moments are as large as a model and zeros need no bus, so an executor
    /// with memory of its own should not copy them there as this default does.
    fn clear(&mut self, tensor: TensorId) {
        // Zeroed pages that are only read take no memory, so the size of this slice does not matter.
        let zeros = vec![0.0; self.plan().tensor(tensor).ty.shape.elements() as usize];
        self.write_f32(tensor, &zeros);
    }

    /// Reads a real tensor.
    fn read_f32(&self, tensor: TensorId, values: &mut [f32]);

    /// Reads elements `first..first + values.len()` of a real tensor, counted in logical order. What goes to a
    /// checkpoint is read in such parts, so an executor whose tensors are large should not read the whole as this default
    /// does.
    fn read_f32_range(&self, tensor: TensorId, first: usize, values: &mut [f32]) {
        let mut whole = vec![0.0; self.plan().tensor(tensor).ty.shape.elements() as usize];
        self.read_f32(tensor, &mut whole);
        values.copy_from_slice(&whole[first..first + values.len()]);
    }

    /// Writes elements `first..first + values.len()` of a real tensor, counted in logical order; the others stay.
    fn write_f32_range(&mut self, tensor: TensorId, first: usize, values: &[f32]) {
        let mut whole = vec![0.0; self.plan().tensor(tensor).ty.shape.elements() as usize];
        self.read_f32(tensor, &mut whole);
        whole[first..first + values.len()].copy_from_slice(values);
        self.write_f32(tensor, &whole);
    }

    /// Reads an integer tensor.
    fn read_i32(&self, tensor: TensorId, values: &mut [i32]);

    /// What the device chose when this executor was made and what its bits depend on, as text: it goes along with
    /// checkpoints, so that a run goes on with the same choices. `None` where a plan leaves nothing to choose.
    fn choices(&self) -> Option<String> {
        None
    }

    /// Runs a program once. Operations marked for the last micro-batch run only if `last_micro_batch`.
    fn run(&mut self, program: ProgramKind, last_micro_batch: bool);

    /// Reading without waiting, from a device that works beside the host: its `run` returns before the program has run,
    /// and writes and programs take effect in the order in which they were asked for. `None` where `run` returns when
    /// everything is done.
    fn queued_reads(&mut self) -> Option<&mut dyn QueuedReads> {
        None
    }
}

/// Readings in the order in which they are asked for; the device goes on between the asking and the fetching.
pub trait QueuedReads {
    /// Asks for the values that a tensor of packed f32 has when everything asked for before is done.
    fn queue_read(&mut self, tensor: TensorId);

    /// Fetches the oldest reading that was asked for, and waits for the device to have come that far, not farther. The
    /// slice is as long as the tensor; to fetch more than was asked for is a bug of the caller and panics.
    fn fetch(&mut self, values: &mut [f32]);

    /// Forgets every reading that was not fetched.
    fn discard_reads(&mut self);
}

/// When an operation ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationSpan {
    /// Its start.
    pub began: Instant,
    /// Its end; equal to the start where the operation did not take part in the run.
    pub ended: Instant,
}

impl OperationSpan {
    /// Nanoseconds between start and end.
    pub fn nanoseconds(&self) -> u64 {
        u64::try_from((self.ended - self.began).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// An executor that can say when each operation ran. [`Executor::run`] is not slower for it: the clock is read here only.
pub trait TimedExecutor: Executor {
    /// Runs a program as [`Executor::run`] and sets the span of each of its operations, of which `times` has as many as
    /// there are operations. Allocates nothing.
    fn run_timed(
        &mut self,
        program: ProgramKind,
        last_micro_batch: bool,
        times: &mut [OperationSpan],
    );
}
