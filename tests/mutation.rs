//! Damaged plans with a hash made good again: compiled plans, as an attacker or a bad disk would have them.

#[path = "../runtime/plan/tests/common/mutate.rs"]
mod mutate;

mod common;

/// Together with the hand-built plans of the plan crate more than 10⁵ mutations are tried.
#[test]
fn mutated_plans_are_refused_or_verified() {
    let settings = [
        "model.num_hidden_layers=1",
        "model.hidden_size=16",
        "model.intermediate_size=24",
        "cola.rank=4",
    ];
    let plan = common::plan("llama-nano", &settings, false);
    let count = 20_000;
    let outcome = mutate::run(&plan, count, 99);
    assert_eq!(outcome.refused + outcome.accepted, count);
    assert!(outcome.refused > count / 2, "{outcome:?}");
}
