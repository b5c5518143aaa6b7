//! Tables that a plan names and the host computes: the rotary embedding's cosines and sines, positions.
//!
//! Owns the formulas. Computed in f64, rounded once to f32; an executor rounds to the tensor's storage.

use colac_plan::parameter::{Constant, ConstantContent};
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
    match constant.content {
        ConstantContent::RopeCos { theta } => {
            Table::Real(rope_table(rows, width, theta, libm::cos))
        }
        ConstantContent::RopeSin { theta } => {
            Table::Real(rope_table(rows, width, theta, libm::sin))
        }
        ConstantContent::Positions => {
            Table::Integer((0..rows).flat_map(|_| 0..width as i32).collect())
        }
    }
}

/// `function(position · theta^(-2i/head_dim))`, `[positions, pairs]` with `head_dim = 2 · pairs`; arXiv 2104.09864.
fn rope_table(positions: u64, pairs: u64, theta: Real, function: fn(f64) -> f64) -> Vec<f32> {
    let frequencies: Vec<f64> = (0..pairs)
        .map(|i| libm::pow(theta.get(), -2.0 * i as f64 / (2.0 * pairs as f64)))
        .collect();
    let angles =
        (0..positions).flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
    angles.map(|angle| function(angle) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_are_the_papers() {
        let theta = Real::new(10_000.0);
        let (cos, sin) = (rope_table(3, 2, theta, libm::cos), rope_table(3, 2, theta, libm::sin));
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
        let table = rope_table(positions, pairs, Real::new(500_000.0), libm::sin);
        let position = positions - 1;
        for pair in 0..pairs {
            let angle = position as f64 * 500_000.0f64.powf(-(pair as f64) / pairs as f64);
            let found = f64::from(table[(position * pairs + pair) as usize]);
            assert!((found - angle.sin()).abs() < 1e-7, "pair {pair}: {found} for {}", angle.sin());
        }
    }
}
