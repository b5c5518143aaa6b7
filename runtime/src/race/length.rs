//! How long each contender of a race trains.
//!
//! Owns the rule by which all stop, and the counts that it takes from plans. Must not know why a plan is as it is.

use colac_plan::{Plan, ProgramKind, TensorId, TensorType};
use serde::{Deserialize, Serialize};

/// Where all contenders stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// After the same number of tokens: the same batches for all.
    Tokens,
    /// After the same FLOPs: who computes less for each token sees more of them.
    Flops,
}

impl Rule {
    /// As in `stopped at equal …`.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Tokens => "tokens",
            Rule::Flops => "FLOPs",
        }
    }
}

/// What one update of a plan takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// FLOPs of matrix products and attention, forward, backward and recomputed; a multiply-add is two.
    pub flops: u64,
    /// Positions, those without a label included.
    pub tokens: u64,
}

impl Step {
    /// Counts the operations of a plan.
    pub fn of(plan: &Plan) -> Step {
        let recipe = &plan.recipe;
        let rows = u64::from(recipe.global_batch);
        let passes = rows / u64::from(recipe.micro_batch.max(1));
        Step { flops: pass_flops(plan) * passes, tokens: rows * u64::from(recipe.sequence_length) }
    }
}

/// FLOPs of one forward and backward pass over a micro-batch, as `Inspection::flops_per_token` counts them.
fn pass_flops(plan: &Plan) -> u64 {
    let operations = &plan.program(ProgramKind::ForwardBackward).operations;
    let products = operations.iter().map(|operation| {
        let operands = types(plan, &operation.operands);
        operation.op.cost(&operands, &types(plan, &operation.results)).products
    });
    products.sum()
}

fn types<'p>(plan: &'p Plan, ids: &[TensorId]) -> Vec<&'p TensorType> {
    ids.iter().map(|&id| &plan.tensor(id).ty).collect()
}

/// Steps of a contender: as many as the rule grants for what the first contender does in `first_steps`, rounded down, and
/// at least one.
pub fn steps(rule: Rule, first: Step, first_steps: u64, contender: Step) -> u64 {
    let (ours, theirs) = match rule {
        Rule::Tokens => (contender.tokens, first.tokens),
        Rule::Flops => (contender.flops, first.flops),
    };
    let granted = u128::from(theirs) * u128::from(first_steps) / u128::from(ours.max(1));
    u64::try_from(granted).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_tokens_are_equal_steps_of_equal_batches() {
        let (one, two) = (Step { flops: 700, tokens: 64 }, Step { flops: 1000, tokens: 64 });
        assert_eq!(steps(Rule::Tokens, one, 3000, two), 3000);
        assert_eq!(steps(Rule::Tokens, one, 3000, Step { flops: 1, tokens: 128 }), 1500);
    }

    #[test]
    fn equal_flops_never_exceed_those_of_the_first() {
        let (one, two) = (Step { flops: 700, tokens: 64 }, Step { flops: 1000, tokens: 64 });
        assert_eq!(steps(Rule::Flops, one, 3000, one), 3000);
        let granted = steps(Rule::Flops, one, 3001, two);
        assert_eq!(granted, 2100);
        assert!(granted * two.flops <= 3001 * one.flops);
        assert_eq!(steps(Rule::Flops, two, 2100, one), 3000);
    }

    /// The FLOPs of a long run of a large model do not fit into 64 bits.
    #[test]
    fn large_races_do_not_overflow() {
        let one = Step { flops: u64::MAX / 2, tokens: 1 };
        assert_eq!(steps(Rule::Flops, one, 1 << 20, one), 1 << 20);
        let tiny = Step { flops: 1, tokens: 1 };
        assert_eq!(steps(Rule::Flops, one, 1 << 20, tiny), u64::MAX);
        assert_eq!(steps(Rule::Flops, tiny, 10, one), 1);
    }
}
