//! Start values: parameters from their distributions, tables, an optimizer that has seen nothing.
//!
//! Owns the rule from (seed, path, element) to value. Element `k` counts the logical, row-major `[out, in]` elements of
//! the stored tensor; grouping and padding do not change it, because each member of a group is a parameter of its own. Values
//! are drawn in f32 and rounded to what stores them, so that plans of every precision start from the same numbers.

use std::num::NonZero;
use std::thread;

use colac_plan::parameter::{Initialization, Parameter};

use crate::executor::Executor;
use crate::host::constants::write_constants;
use crate::host::random::Stream;

/// Makes an executor ready for the first step of its plan's recipe.
pub fn initialize(executor: &mut dyn Executor) {
    let seed = executor.plan().recipe.seed;
    write_parameters(executor, seed);
    write_constants(executor);
    write_fresh_optimizer_state(executor);
}

/// Writes the start value of every parameter, one tensor at a time through one buffer.
pub fn write_parameters(executor: &mut dyn Executor, seed: u64) {
    let mut buffer = Vec::new();
    for index in 0..executor.plan().parameters.len() {
        let plan = executor.plan();
        let parameter = &plan.parameters[index];
        buffer.resize(plan.tensor(parameter.tensor).ty.shape.elements() as usize, 0.0);
        start_values(parameter, seed, &mut buffer);
        write_parameter(executor, index, &buffer);
    }
}

/// Sets a parameter, by its position in the plan: what the optimizer keeps of it and, where that is another tensor, the
/// copy that operations read. Values are in logical order.
pub fn write_parameter(executor: &mut dyn Executor, index: usize, values: &[f32]) {
    let parameter = &executor.plan().parameters[index];
    let (tensor, master) = (parameter.tensor, parameter.master);
    executor.write_f32(tensor, values);
    if let Some(master) = master {
        executor.write_f32(master, values);
    }
}

/// Sets both moments and the count of updates to zero.
pub fn write_fresh_optimizer_state(executor: &mut dyn Executor) {
    let roles = &executor.plan().roles;
    let (moments, step) = ([roles.first_moment, roles.second_moment], roles.step);
    moments.into_iter().for_each(|moment| executor.clear(moment));
    executor.write_i32(step, &[0]);
}

/// Elements that one thread fills at least: below, starting a thread costs more than it saves.
const ELEMENTS_PER_THREAD: usize = 1 << 16;

/// The start values of a parameter in logical order, computed in f64 and rounded to f32. `values` holds all of its
/// elements.
pub fn start_values(parameter: &Parameter, seed: u64, values: &mut [f32]) {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    start_values_with_threads(parameter, seed, values, threads);
}

fn start_values_with_threads(parameter: &Parameter, seed: u64, values: &mut [f32], threads: usize) {
    let stream = Stream::new(seed, &parameter.path, 0);
    // Even, because random numbers come in pairs.
    let share = values.len().div_ceil(threads).max(ELEMENTS_PER_THREAD).next_multiple_of(2);
    thread::scope(|scope| {
        let mut shares = values.chunks_mut(share).enumerate();
        let own = shares.next();
        for (index, part) in shares {
            scope.spawn(move || {
                fill(parameter.initialization, &stream, (index * share) as u64, part)
            });
        }
        if let Some((_, part)) = own {
            fill(parameter.initialization, &stream, 0, part);
        }
    });
}

/// Fills `values`, which begin at element `first` (even) of the parameter.
fn fill(initialization: Initialization, stream: &Stream, first: u64, values: &mut [f32]) {
    let pairs = values.chunks_mut(2).zip(first / 2..);
    match initialization {
        Initialization::Normal { std } => {
            for (values, pair) in pairs {
                store(values, stream.normal_pair(pair).map(|x| x * std.get()));
            }
        }
        Initialization::Uniform { bound } => {
            for (values, pair) in pairs {
                store(values, stream.uniform_pair(pair).map(|x| (2.0 * x - 1.0) * bound.get()));
            }
        }
        Initialization::Constant { value } => values.fill(value.get() as f32),
    }
}

fn store(values: &mut [f32], pair: [f64; 2]) {
    for (value, number) in values.iter_mut().zip(pair) {
        *value = number as f32;
    }
}

#[cfg(test)]
mod tests {
    use colac_plan::parameter::{CheckpointName, Role};
    use colac_plan::{Real, TensorId};

    use super::*;

    fn parameter(path: &str, initialization: Initialization) -> Parameter {
        Parameter {
            path: path.into(),
            checkpoint: CheckpointName { name: path.into(), transposed: false, part: None },
            tensor: TensorId(0),
            master: None,
            gradient: TensorId(1),
            initialization,
            role: Role::Matrix,
        }
    }

    fn values(parameter: &Parameter, seed: u64, count: usize, threads: usize) -> Vec<f32> {
        let mut values = vec![f32::NAN; count];
        start_values_with_threads(parameter, seed, &mut values, threads);
        values
    }

    #[test]
    fn threads_do_not_change_a_value() {
        let normal =
            parameter("layers.0.mlp.weight", Initialization::Normal { std: Real::new(0.02) });
        let count = 2 * ELEMENTS_PER_THREAD + 12_345;
        let one = values(&normal, 7, count, 1);
        assert!(one.iter().all(|x| x.is_finite()));
        for threads in [2, 3, 5] {
            assert!(
                values(&normal, 7, count, threads) == one,
                "{threads} threads give other values"
            );
        }
    }

    /// An element depends on its index alone: a shorter tensor of the same path is a prefix.
    #[test]
    fn elements_do_not_depend_on_the_size() {
        let uniform = parameter("embed", Initialization::Uniform { bound: Real::new(0.5) });
        let long = values(&uniform, 3, 1001, 1);
        assert_eq!(values(&uniform, 3, 17, 1), long[..17]);
        assert!(long.iter().all(|x| x.abs() <= 0.5));
        assert!(long.iter().any(|&x| x < -0.4) && long.iter().any(|&x| x > 0.4));
    }

    #[test]
    fn standard_deviation_and_constants_are_the_plans() {
        let normal = parameter("w", Initialization::Normal { std: Real::new(0.02) });
        let drawn = values(&normal, 1, 100_000, 1);
        let square =
            drawn.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / drawn.len() as f64;
        // Five standard deviations of the mean square: 5 · sqrt(2/n) = 2.2 %.
        assert!((square / 4e-4 - 1.0).abs() < 0.0224, "{square}");
        let gain = parameter("norm", Initialization::Constant { value: Real::new(1.0) });
        assert_eq!(values(&gain, 1, 5, 2), [1.0; 5]);
    }

    /// Part of what "equal seed, equal run" means: a change of the rule must be noticed. The numbers were
    /// computed from the description by a second program, in Python with the platform's logarithm and cosine.
    #[test]
    fn the_rule_is_pinned() {
        let normal = parameter(
            "layers.0.self_attn.q_proj.weight",
            Initialization::Normal { std: Real::new(1.0) },
        );
        assert_eq!(values(&normal, 42, 4, 1), PINNED);
    }

    const PINNED: [f32; 4] = [-0.013133687, -0.35436335, 0.19006556, -0.45291105];
}
