//! What recompute policies and the planning after them promise for every shipped spec: the arena is hardly larger than the
//! bytes alive, the schedule no worse than the plain order, `auto` never worse than a fixed policy.

#![expect(clippy::unwrap_used, reason = "a test may end where something is not as it must be")]

use std::collections::BTreeMap;

use colac_compiler::compile::{Compiled, Request, compile};
use colac_compiler::diagnostics::{Diagnostics, Sources};
use colac_compiler::passes::recompute::auto::price_of_update;
use colac_compiler::spec::{RecomputePolicy, SpecInput};
use colac_plan::{Op, Plan, ProgramKind, Segment};

/// Shipped specs with few layers: blocks repeat, so what holds of a few holds of many, and debug builds are slow.
const SPECS: [(&str, u32); 9] = [
    ("llama-nano", 4),
    ("llama-tiny", 4),
    ("llama-60m", 8),
    ("llama-130m", 4),
    ("llama-350m", 5),
    ("llama-1b", 5),
    ("llama-7b", 5),
    ("gpt2-nano", 4),
    ("gpt2-small", 4),
];

fn attempt(spec: &str, layers: u32, full_rank: bool, more: &[String]) -> Result<Plan, Diagnostics> {
    let mut settings = vec![format!("model.num_hidden_layers={layers}")];
    settings.extend_from_slice(more);
    let input = SpecInput::from_argument(spec);
    let request = Request { input, settings, full_rank, dump: None };
    compile(request, &mut Sources::default()).map(|Compiled { plan, .. }| plan)
}

fn plan(spec: &str, layers: u32, full_rank: bool, more: &[String]) -> Plan {
    attempt(spec, layers, full_rank, more).unwrap()
}

fn policy(policy: RecomputePolicy) -> String {
    format!("recompute.policy={}", policy.name())
}

/// Most bytes of the arena that hold something at once, by the places and the first and last uses of tensors alone.
fn most_alive(plan: &Plan) -> u64 {
    let operations = &plan.program(ProgramKind::ForwardBackward).operations;
    let mut lives: BTreeMap<(u64, u64, u32), (usize, usize)> = BTreeMap::new();
    for (at, operation) in operations.iter().enumerate() {
        for mut id in operation.operands.iter().chain(&operation.results).copied() {
            while let Some(parent) = plan.tensor(id).parent {
                id = parent;
            }
            let range = plan.tensor(id).range().unwrap();
            if plan.tensor(id).segment == Segment::Activations {
                lives.entry((range.start, range.end, id.0)).or_insert((at, at)).1 = at;
            }
        }
    }
    let alive = |at: usize| {
        let mut end = 0;
        let now = lives.iter().filter(|(_, (first, last))| (*first..=*last).contains(&at));
        now.map(|(&(start, stop, _), _)| {
            let new = stop.saturating_sub(start.max(end));
            end = end.max(stop);
            new
        })
        .sum::<u64>()
    };
    (0..operations.len()).map(alive).max().unwrap()
}

#[test]
fn arenas_are_within_three_percent_of_what_lives() {
    for (spec, layers) in SPECS {
        for full_rank in [false, true] {
            for one in RecomputePolicy::ALL {
                let plan = plan(spec, layers, full_rank, &[policy(one)]);
                let (alive, arena) =
                    (most_alive(&plan), plan.program(ProgramKind::ForwardBackward).arena_bytes);
                assert!(
                    arena * 100 <= alive * 103,
                    "{spec}, full_rank={full_rank}, {}: {arena} bytes for {alive}",
                    one.name()
                );
            }
        }
    }
}

/// Under `cola-m` and `cola-m+` nothing that reads a down-projection's weight is made again.
#[test]
fn down_projections_run_once() {
    use colac_plan::parameter::Role;
    use colac_plan::program::Phase;
    for (spec, layers) in [("llama-60m", 4), ("gpt2-small", 3)] {
        for one in [RecomputePolicy::ColaM, RecomputePolicy::ColaMPlus] {
            let plan = plan(spec, layers, false, &[policy(one)]);
            let down: Vec<_> = plan
                .parameters
                .iter()
                .filter(|parameter| parameter.role == Role::LowRankDown)
                .map(|parameter| plan.tensor(parameter.tensor).range().unwrap())
                .collect();
            for operation in &plan.program(ProgramKind::ForwardBackward).operations {
                let again = matches!(operation.phase, Phase::Recompute(_));
                if again && operation.op == Op::Linear {
                    let weight = plan.tensor(operation.operands[1]).range().unwrap();
                    let is_down =
                        down.iter().any(|d| weight.start <= d.start && d.end <= weight.end);
                    assert!(!is_down, "{spec}: {} runs again", operation.path);
                }
            }
        }
    }
}

/// The bytes that a policy needs, and the price of an update under it.
fn rated(plan: &Plan) -> (u64, u64) {
    (plan.total_bytes(), price_of_update(plan))
}

/// For ever more memory: never more work, never worse than a fixed policy, and better than all of them in between.
#[test]
fn auto_is_never_worse_than_a_policy_and_often_better() {
    std::thread::scope(|scope| {
        for spec in ["llama-350m", "llama-1b", "llama-7b"] {
            scope.spawn(move || is_never_worse(spec, 6));
        }
    });
}

fn is_never_worse(spec: &str, layers: u32) {
    let fixed: Vec<(u64, u64)> = RecomputePolicy::ALL
        .into_iter()
        .map(|one| rated(&plan(spec, layers, false, &[policy(one)])))
        .collect();
    let least = fixed.iter().map(|one| one.0).min().unwrap();
    let most = fixed.iter().map(|one| one.0).max().unwrap();
    let (mut last, mut better) = (u64::MAX, 0);
    for step in 0..8 {
        let budget = least + (most - least) * step / 7;
        let settings =
            ["recompute.policy=auto".to_owned(), format!("recompute.memory=\"{budget} B\"")];
        let plan = plan(spec, layers, false, &settings);
        let (bytes, price) = rated(&plan);
        let best = fixed.iter().filter(|one| one.0 <= budget).map(|one| one.1).min().unwrap();
        assert!(bytes <= budget, "{spec}: {bytes} bytes in {budget}");
        assert!(price <= best, "{spec} in {budget}: {price} against {best}: {}", plan.recompute);
        assert!(price <= last, "{spec} in {budget}: more memory means more work");
        better += u32::from(price < best);
        last = price;
    }
    assert!(better >= 3, "{spec}: better than every policy at {better} of 8 budgets only");
}

/// The micro-batch is chosen too, and everything that the spec derives from it stays.
#[test]
fn auto_may_choose_the_micro_batch() {
    let budget = |bytes: u64| {
        vec![
            "recompute.policy=auto".to_owned(),
            format!("recompute.memory=\"{bytes} B\""),
            "recompute.choose_micro_batch=true".to_owned(),
            "train.global_batch=8".to_owned(),
        ]
    };
    let spec = plan("llama-nano", 2, false, &["train.global_batch=8".to_owned()]);
    let large = plan("llama-nano", 2, false, &budget(1 << 40));
    assert_eq!((large.recipe.micro_batch, large.recipe.global_batch), (8, 8));
    let small = plan("llama-nano", 2, false, &budget(spec.total_bytes() * 2 / 3));
    assert!(small.recipe.micro_batch < 8 && small.recipe.global_batch == 8);
    assert!(small.total_bytes() <= spec.total_bytes() * 2 / 3);
    assert_eq!(small.recipe.evaluation, spec.recipe.evaluation);
    assert!(attempt("llama-nano", 2, false, &budget(1 << 10)).is_err());
}
