//! The rates of a device, for its profile: this machine's CPU, or a GPU.
//!
//! Owns what is made of the times. What is measured is in `tasks`, how a device takes the time of one operation in
//! `measure::single` and `measure::gpu`. Must not know how a profile is kept or printed.

mod tasks;

use std::sync::Arc;

use colac_plan::profile::{
    AttentionRate, Basis, DeviceKind, Evidence, Figure, ProductRate, Profile, StreamRate,
};
use colac_plan::{Cost, Op, Plan, TensorType};

use crate::cpu::CpuError;
use crate::cuda::CudaError;
use crate::measure::Summary;
use crate::measure::gpu::{self, GpuClock};
use crate::measure::single::Single;

use tasks::{Role, Task};

/// What a calibration may spend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Seconds for each measurement, if its rounds take less.
    pub patience: f64,
    /// Rounds of each measurement at least.
    pub rounds: usize,
}

impl Default for Effort {
    /// About half a minute in all on two cores.
    fn default() -> Effort {
        Effort { patience: 0.1, rounds: 3 }
    }
}

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// What was measured, in words.
    pub name: String,
    /// Seconds of one execution.
    pub seconds: Summary,
    /// FLOP/s, where products are counted; this and the next from the lower quartile of the seconds.
    pub flops_per_second: Option<f64>,
    /// Bytes a second.
    pub bytes_per_second: f64,
}

/// A profile and what it was made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// The profile.
    pub profile: Profile,
    /// Every measurement, in order.
    pub points: Vec<Point>,
}

/// How a device is called in the profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Short name.
    pub name: String,
    /// The device in words.
    pub device: String,
    /// Bytes of memory, if that is known.
    pub memory: Option<u64>,
    /// Date, command, machine.
    pub facts: Vec<(String, String)>,
}

/// Measures the CPU with so many threads. `observe` is told how many measurements are done, and of how many.
///
/// # Errors
/// If the machine has no memory or threads for it.
pub fn calibrate(
    identity: Identity,
    threads: usize,
    effort: Effort,
    observe: &mut dyn FnMut(usize, usize),
) -> Result<Calibration, CpuError> {
    let mut time = |task: &Task| -> Result<Timed, CpuError> {
        let mut single = Single::new(&task.op, &task.operands, threads)?;
        Ok(Timed { seconds: single.time(effort.rounds, effort.patience), cost: single.cost })
    };
    let reserved =
        (Figure::new(RESERVED, Basis::Assumed), "program, threads and data beside the plan");
    let mut profile = empty(identity, DeviceKind::Cpu, reserved);
    profile.threads = u32::try_from(threads).ok();
    measure(profile, &tasks::of_cpu(), &mut time, observe)
}

/// Measures the GPU of that number, after all kernels that this needs are compiled. `observe` as for [`calibrate`].
///
/// # Errors
/// Without a GPU, or without what it needs.
pub fn calibrate_gpu(
    identity: Identity,
    ordinal: i32,
    effort: Effort,
    observe: &mut dyn FnMut(usize, usize),
) -> Result<Calibration, CudaError> {
    let tasks = tasks::of_gpu();
    let mut clock = GpuClock::new(ordinal, plans(&tasks)?)?;
    let reserved = Figure::new(clock.context_bytes()?, Basis::Measured);
    let profile = empty(identity, DeviceKind::Cuda, (reserved, ""));
    let mut time = |task: &Task| {
        let of_overhead = matches!(task.role, Role::Overhead);
        clock.time(&task.op, &task.operands, effort, of_overhead)
    };
    measure(profile, &tasks, &mut time, observe)
}

/// The plan of each task on a GPU.
fn plans(tasks: &[Task]) -> Result<Vec<Arc<Plan>>, CudaError> {
    tasks.iter().map(|task| gpu::plan_of(&task.op, &task.operands)).collect()
}

/// The plans that a GPU is measured with, for tests of their kernels.
#[cfg(test)]
pub(crate) fn plans_of_gpu() -> Result<Vec<Arc<Plan>>, CudaError> {
    plans(&tasks::of_gpu())
}

/// A profile before anything is measured. What stands behind `reserved` is said where it is not measured.
fn empty(identity: Identity, kind: DeviceKind, reserved: (Figure, &str)) -> Profile {
    let (reserved, reason) = reserved;
    let mut evidence = vec![Evidence { basis: Basis::Measured, facts: identity.facts }];
    if reserved.basis == Basis::Assumed {
        let facts = vec![("reserved".to_owned(), reason.to_owned())];
        evidence.push(Evidence { basis: Basis::Assumed, facts });
    }
    Profile {
        name: identity.name,
        device: identity.device,
        kind,
        threads: None,
        memory: identity.memory.map(|bytes| Figure::new(bytes, Basis::Measured)),
        reserved,
        overhead: Figure::new(0, Basis::Measured),
        arithmetic: Figure::new(1, Basis::Measured),
        functions: Figure::new(1, Basis::Measured),
        products: Vec::new(),
        attention: Vec::new(),
        streams: Vec::new(),
        attainable: None,
        evidence,
    }
}

/// What one execution of an operation takes, and what it is.
pub(super) struct Timed {
    pub(super) seconds: Summary,
    pub(super) cost: Cost,
}

/// Takes the time of every task and enters its rate.
fn measure<E>(
    mut profile: Profile,
    tasks: &[Task],
    time: &mut dyn FnMut(&Task) -> Result<Timed, E>,
    observe: &mut dyn FnMut(usize, usize),
) -> Result<Calibration, E> {
    let mut points = Vec::with_capacity(tasks.len());
    let measured = |value: f64| Figure::new((value.round() as u64).max(1), Basis::Measured);
    // Seconds of a plain instruction on one element.
    let mut plain = 0.0;
    for (done, task) in tasks.iter().enumerate() {
        observe(done, tasks.len());
        let Timed { seconds, cost } = time(task)?;
        let Task { name, op, operands, role } = task;
        // Other work on the machine only ever adds time, so the lower quartile is nearer to what the operation takes.
        let time = seconds.lower.max(1e-9);
        let point = Point {
            name: name.clone(),
            seconds,
            flops_per_second: (cost.products > 0).then(|| cost.products as f64 / time),
            bytes_per_second: cost.bytes as f64 / time,
        };
        match *role {
            Role::Product(product, shape) => profile.products.push(ProductRate {
                product: Some(product),
                dtype: operands[0].dtype,
                shape: Some(shape),
                rate: measured(shape.flops() as f64 / time),
            }),
            Role::Attention { backward, sequence, head_dim } => {
                profile.attention.push(AttentionRate {
                    backward,
                    dtype: operands[0].dtype,
                    sequence: Some(sequence),
                    head_dim: Some(head_dim),
                    rate: measured(cost.products as f64 / time),
                });
            }
            Role::Stream => {
                let rate = |operation: Option<&str>| StreamRate {
                    operation: operation.map(str::to_owned),
                    bytes: Some(cost.bytes),
                    rate: measured(cost.bytes as f64 / time),
                };
                profile.streams.push(rate(Some(op.name())));
                // A sum of two rows after another is the common rate: nothing but bytes.
                if matches!(op, Op::Pointwise { .. }) {
                    profile.streams.push(rate(None));
                }
            }
            Role::Overhead => profile.overhead = measured(time * 1e9),
            Role::Arithmetic { instructions } => {
                plain = time / instructions as f64;
                profile.arithmetic = measured(1.0 / plain);
            }
            // Beside what a plain instruction on each element takes, which stands for reading and writing.
            Role::Functions { elements, functions } => {
                let rest = (time - plain * elements as f64).max(time * 0.1);
                profile.functions = measured(functions as f64 / rest);
            }
        }
        points.push(point);
    }
    observe(tasks.len(), tasks.len());
    Ok(Calibration { profile, points })
}

/// FLOP/s of a large product of f32 numbers with so many threads: what other rates are compared with.
///
/// # Errors
/// As [`calibrate`].
pub fn product_rate(threads: usize, effort: Effort) -> Result<f64, CpuError> {
    let operands = [TensorType::f32(&[1024, 1024]), TensorType::f32(&[1024, 1024])];
    let mut single = Single::new(&Op::Linear, &operands, threads)?;
    let seconds = single.time(effort.rounds, effort.patience);
    // The fastest: other work on the machine only ever adds time, and this is a bound.
    Ok(single.cost.products as f64 / seconds.least.max(1e-9))
}

/// Bytes that a run takes beside its plan, about.
const RESERVED: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use colac_plan::DType;
    use colac_plan::profile::Product;

    use super::*;

    /// Every operation that is measured can be run; small stands for large, since only the time would differ.
    #[test]
    fn every_measurement_is_of_an_operation_that_runs() {
        for task in tasks::of_cpu().into_iter().chain(tasks::of_gpu()) {
            let operands: Vec<&TensorType> = task.operands.iter().collect();
            let results = task.op.infer(&operands);
            assert!(results.is_ok(), "{}: {:?}", task.name, results.err());
        }
    }

    #[test]
    fn a_single_operation_takes_time() {
        let [task, ..] = tasks::linear(DType::F32, 64, 32, 16);
        let mut single = Single::new(&task.op, &task.operands, 1).unwrap();
        let seconds = single.time(3, 0.0);
        assert!(seconds.median > 0.0 && seconds.count >= 3);
        assert_eq!(single.cost.products, 2 * 64 * 32 * 16);
        let Role::Product(Product::Forward, shape) = task.role else { panic!("a product") };
        assert_eq!(shape.flops(), single.cost.products);
    }
}
