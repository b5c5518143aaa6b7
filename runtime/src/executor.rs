//! What every executor offers: tensors in, programs run, tensors out.
//!
//! Owns the interface between the training loop and the devices. Must not know any device.

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

    /// Reads a real tensor.
    fn read_f32(&self, tensor: TensorId, values: &mut [f32]);

    /// Reads an integer tensor.
    fn read_i32(&self, tensor: TensorId, values: &mut [i32]);

    /// Runs a program once. Operations marked for the last micro-batch run only if `last_micro_batch`.
    fn run(&mut self, program: ProgramKind, last_micro_batch: bool);
}
