//! Tables that a plan names and the host computes: the rotary embedding's cosines and sines, positions.
//!
//! Owns the formulas. Computed in f64, rounded once to f32; an executor rounds to the tensor's storage.

use colac_plan::parameter::{Constant, ConstantContent, RopeScaling};
use colac_plan::{Plan, Real};

use crate::executor::Executor;

/// Writes every table of the executor's plan.
pub fn write_constants(executor: &mut dyn Executor) {
    for index in 0..executor.plan().constants.len() {
        let constant = executor.plan().constants[index].clone();
        match constant_values(executor.plan(), &constant) {
            Table::Real(values) => executor.write_f32(constant.tensor, &values),
            Table::Integer(values) => executor.write_i32(constant.tensor, &values),
        }
    }
}

/// The elements of one table.
#[derive(Clone, Debug, PartialEq)]
pub enum Table {
    /// Of a table of real numbers.
    Real(Vec<f32>),
    /// Of a table of whole numbers.
    Integer(Vec<i32>),
}

/// The elements of one table, in logical order.
pub fn constant_values(plan: &Plan, constant: &Constant) -> Table {
    let shape = &plan.tensor(constant.tensor).ty.shape;
    let (rows, width) = (shape.rows(), shape.width());
    let (theta, scaling, function): (_, _, fn(f64) -> f64) = match constant.content {
        ConstantContent::RopeCos { theta, scaling } => (theta, scaling, libm::cos),
        ConstantContent::RopeSin { theta, scaling } => (theta, scaling, libm::sin),
        ConstantContent::Positions => {
            return Table::Integer((0..rows).flat_map(|_| 0..width as i32).collect());
        }
    };
    let factor = match scaling {
        RopeScaling::Yarn { attention_factor, .. } => attention_factor.get(),
        RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Bands { .. } => 1.0,
    };
    let frequencies = frequencies(theta.get(), width, scaling);
    Table::Real(rope_table(rows, &frequencies, |angle| factor * function(angle)))
}

/// `theta^(-i/pairs)` for each pair, scaled; arXiv 2104.09864.
fn frequencies(theta: f64, pairs: u64, scaling: RopeScaling) -> Vec<f64> {
    let own = |i: u64| libm::pow(theta, -2.0 * i as f64 / (2.0 * pairs as f64));
    if let RopeScaling::Yarn { factor, beta_fast, beta_slow, original_length, .. } = scaling {
        let turns = |beta: Real| original_length as f64 / (beta.get() * std::f64::consts::TAU);
        let number = |beta| pairs as f64 * libm::log(turns(beta)) / libm::log(theta);
        let first = number(beta_fast).floor().max(0.0);
        let last = number(beta_slow).ceil().min(2.0 * pairs as f64 - 1.0);
        // A ramp without any length is a step, as in published code.
        let length = if first == last { 0.001 } else { last - first };
        let divided = |i: u64| ((i as f64 - first) / length).clamp(0.0, 1.0);
        return (0..pairs).map(|i| mixed(own(i), factor, 1.0 - divided(i))).collect();
    }
    (0..pairs).map(|i| scaled(own(i), scaling)).collect()
}

/// A frequency of which so much is kept, while the rest is divided.
fn mixed(frequency: f64, factor: Real, kept: f64) -> f64 {
    (1.0 - kept) * (frequency / factor.get()) + kept * frequency
}

/// A frequency as [`RopeScaling`] changes it by its wavelength alone.
fn scaled(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        // It goes by the number of the frequency, not by its wavelength.
        RopeScaling::None | RopeScaling::Yarn { .. } => frequency,
        RopeScaling::Linear { factor } => frequency / factor.get(),
        RopeScaling::Bands {
            factor,
            low_frequency_factor,
            high_frequency_factor,
            original_length,
        } => {
            let (low, high) = (low_frequency_factor.get(), high_frequency_factor.get());
            let turns = original_length as f64 * frequency / std::f64::consts::TAU;
            // Below `low` nothing of the frequency itself stays, above `high` all of it.
            let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            mixed(frequency, factor, kept)
        }
    }
}

/// `function(position · frequency)`, `[positions, pairs]`.
fn rope_table(positions: u64, frequencies: &[f64], function: impl Fn(f64) -> f64) -> Vec<f32> {
    let angles =
        (0..positions).flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
    angles.map(|angle| function(angle) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_are_the_papers() {
        let frequencies = frequencies(10_000.0, 2, RopeScaling::None);
        let (cos, sin) =
            (rope_table(3, &frequencies, libm::cos), rope_table(3, &frequencies, libm::sin));
        // head_dim 4: frequencies 1 and 10000^(-2/4) = 0.01.
        assert_eq!(cos[..2], [1.0, 1.0]);
        assert_eq!(sin[..2], [0.0, 0.0]);
        for (position, pair, angle) in [(1, 0, 1.0f64), (1, 1, 0.01), (2, 0, 2.0), (2, 1, 0.02)] {
            assert!((f64::from(cos[position * 2 + pair]) - angle.cos()).abs() < 1e-7);
            assert!((f64::from(sin[position * 2 + pair]) - angle.sin()).abs() < 1e-7);
        }
    }

    /// Far positions lose nothing: the angle is formed in f64.
    #[test]
    fn far_positions_are_exact_to_f32() {
        let (positions, pairs) = (65_536, 4);
        let table =
            rope_table(positions, &frequencies(500_000.0, pairs, RopeScaling::None), libm::sin);
        let position = positions - 1;
        for pair in 0..pairs {
            let angle = position as f64 * 500_000.0f64.powf(-(pair as f64) / pairs as f64);
            let found = f64::from(table[(position * pairs + pair) as usize]);
            assert!((found - angle.sin()).abs() < 1e-7, "pair {pair}: {found} for {}", angle.sin());
        }
    }

    /// Numbers of transformers 4.48.3, `ROPE_INIT_FUNCTIONS`, for a base of 500000, a head_dim of 16 and the scalings
    /// `{factor 4}` and `{factor 8, low 1, high 4, original length 64}`.
    #[test]
    fn scaled_frequencies_are_those_of_published_code() {
        let linear = frequencies(500_000.0, 8, RopeScaling::Linear { factor: Real::new(4.0) });
        let bands = frequencies(
            500_000.0,
            8,
            RopeScaling::Bands {
                factor: Real::new(8.0),
                low_frequency_factor: Real::new(1.0),
                high_frequency_factor: Real::new(4.0),
                original_length: 64,
            },
        );
        let close = |found: &[f64], expected: [f64; 8]| {
            for (found, expected) in found.iter().zip(expected) {
                assert!((found / expected - 1.0).abs() < 2e-7, "{found} for {expected}");
            }
        };
        let divided = [
            0.25,
            0.0484806895,
            0.00940150768,
            0.00182316627,
            0.000353553361,
            6.85620471e-5,
            1.32957393e-5,
            2.57834631e-6,
        ];
        let mixed = [
            1.0,
            0.079403013,
            0.00470075384,
            0.000911583134,
            0.000176776681,
            3.42810235e-5,
            6.64786967e-6,
            1.28917316e-6,
        ];
        close(&linear, divided);
        close(&bands, mixed);
    }

    /// Numbers of transformers 4.48.3, `ROPE_INIT_FUNCTIONS["yarn"]`, computed again in 64 bits: head_dim 16, base 500000,
    /// factor 8, betas 32 and 1, original length 2048, where frequencies 1 to 4 make up the ramp.
    #[test]
    fn yarn_ramps_over_the_numbers_of_frequencies() {
        let scaling = RopeScaling::Yarn {
            factor: Real::new(8.0),
            beta_fast: Real::new(32.0),
            beta_slow: Real::new(1.0),
            original_length: 2048,
            attention_factor: Real::new(1.5),
        };
        let expected = [
            1.0,
            0.19392274474868576,
            0.026637605242695286,
            0.0030386103071737953,
            0.00017677669529663688,
            3.428102195952591e-05,
            6.647869871181236e-06,
            1.2891731721515574e-06,
        ];
        for (found, expected) in frequencies(500_000.0, 8, scaling).iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 1e-12, "{found} for {expected}");
        }
    }
}
