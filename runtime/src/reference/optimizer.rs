//! Norm of the gradient and AdamW; arXiv 1711.05101.

use colac_plan::op::UpdateRange;

use super::value::{Value, dot};

/// The Euclidean norm, and 1 where every element is finite, else 0.
pub(super) fn gradient_norm(gradients: &Value) -> [Vec<f64>; 2] {
    let g = &gradients.elements;
    let finite = if g.iter().all(|g| g.is_finite()) { 1.0 } else { 0.0 };
    [vec![dot(g, g).sqrt()], vec![finite]]
}

/// AdamW's numbers.
pub(super) struct Constants {
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) epsilon: f64,
    pub(super) clip_norm: f64,
}

/// Parameters, first moments, second moments and the count of updates after one update, and behind them master parameters
/// where `current` has them. `operands` are gradients, norm, finite and learning rate, `current` is what the results were
/// before. Elements outside all ranges (padding) stay.
pub(super) fn adamw(
    constants: &Constants,
    ranges: &[UpdateRange],
    operands: &[Value],
    current: &[Value],
) -> Vec<Vec<f64>> {
    let Constants { beta1, beta2, epsilon, clip_norm } = *constants;
    let gradients = &operands[0].elements;
    let (norm, finite) = (operands[1].elements[0], operands[2].elements[0]);
    let learning_rate = operands[3].elements[0];
    let mut results: Vec<Vec<f64>> = current.iter().map(|value| value.elements.clone()).collect();
    if finite == 0.0 {
        return results;
    }
    let (copies, state) = results.split_at_mut(1);
    let (m, rest) = state.split_at_mut(1);
    let (v, rest) = rest.split_at_mut(1);
    let (step, masters) = rest.split_at_mut(1);
    let (copy, m, v, step) = (&mut copies[0], &mut m[0], &mut v[0], &mut step[0]);
    step[0] += 1.0;
    let clip = if clip_norm == 0.0 { 1.0 } else { (clip_norm / (norm + 1e-6)).min(1.0) };
    let correction1 = 1.0 - libm::pow(beta1, step[0]);
    let correction2 = 1.0 - libm::pow(beta2, step[0]);
    for range in ranges {
        let rate = learning_rate * range.learning_rate_factor.get();
        for i in range.start as usize..(range.start + range.length) as usize {
            let g = clip * gradients[i];
            m[i] = beta1 * m[i] + (1.0 - beta1) * g;
            v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
            let direction = (m[i] / correction1) / ((v[i] / correction2).sqrt() + epsilon);
            let old = masters.first().map_or(copy[i], |master| master[i]);
            let p = old * (1.0 - rate * range.weight_decay.get()) - rate * direction;
            copy[i] = p;
            if let Some(master) = masters.first_mut() {
                master[i] = p;
            }
        }
    }
    results
}
