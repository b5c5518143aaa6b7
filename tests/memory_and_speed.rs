//! Reports about memory and speed: what they add up to, what they say of small specs, and what they agree on with the
//! plan.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod common;

use colac_compiler::compile::{Request, compile, recompile};
use colac_compiler::device;
use colac_compiler::diagnostics::Sources;
use colac_compiler::fit::{self, Search};
use colac_compiler::policies;
use colac_compiler::spec::SpecInput;
use colac_compiler::view::{
    Difference, Inspection, MemoryReport, Timeline, difference_text, memory_text,
};
use colac_plan::predict;
use colac_plan::profile::{Basis, Profile};
use colac_plan::{Plan, ProgramKind, Segment};

/// A plan, its spec named from the root of the repository.
fn plan(spec: &str, settings: &[&str], full_rank: bool) -> Plan {
    Plan::clone(&common::plan(spec, settings, full_rank))
}

fn profile(name: &str) -> Profile {
    device::load(name, None, &mut Sources::default()).unwrap()
}

/// Plans of every policy, and dense ones.
fn plans() -> Vec<(String, Plan)> {
    let mut plans = Vec::new();
    for spec in ["llama-nano", "gpt2-nano", "llama-60m"] {
        for policy in policies::all() {
            let setting = policies::setting(policy);
            plans.push((format!("{spec} {policy}"), plan(spec, &[&setting], false)));
        }
        plans.push((format!("{spec} full-rank"), plan(spec, &[], true)));
    }
    plans
}

#[test]
fn categories_add_up_to_the_plan_and_the_peak_to_the_lower_bound() {
    for (name, plan) in plans() {
        let memory = MemoryReport::new(&plan);
        let sum: u64 = memory.categories.iter().map(|category| category.bytes).sum();
        assert_eq!(sum, plan.total_bytes(), "{name}");
        assert_eq!(memory.total, sum, "{name}");
        let peak = &memory.peak;
        let program = plan.programs.iter().max_by_key(|program| program.arena_bytes).unwrap();
        assert_eq!(peak.bytes, program.arena_lower_bound, "{name}");
        let tensors: u64 = peak.tensors.iter().map(|tensor| tensor.bytes).sum();
        assert_eq!(tensors, peak.bytes, "{name}");
        assert_eq!(peak.kept_bytes + peak.transient_bytes, peak.bytes, "{name}");
        let at = peak.operation.as_ref().unwrap().index;
        for tensor in &peak.tensors {
            assert!(
                tensor.since.index <= at && at <= tensor.until.index,
                "{name}: {}",
                tensor.name
            );
        }
    }
}

#[test]
fn bytes_moved_and_timeline_agree_with_the_plan() {
    for (name, plan) in plans() {
        let memory = MemoryReport::new(&plan);
        let operations = Inspection::new(&plan).operations;
        let bytes = |program: &str| -> u64 {
            operations.iter().filter(|row| row.program == program).map(|row| row.bytes).sum()
        };
        let moved = memory.bytes_moved;
        let training = moved.forward + moved.backward + moved.recompute;
        assert_eq!(training, bytes("forward_backward"), "{name}");
        assert_eq!(moved.update, bytes("update"), "{name}");
        let curve = Timeline::new(&plan);
        let most = (0..curve.kept_bytes.len()).map(|at| curve.alive(at)).max().unwrap();
        assert_eq!(
            (most, curve.alive(curve.peak)),
            (memory.peak.bytes, memory.peak.bytes),
            "{name}"
        );
        assert_eq!(Some(curve.peak), memory.peak.operation.map(|place| place.index), "{name}");
        assert_eq!(curve.phases.iter().map(|run| run.count).sum::<usize>(), curve.kept_bytes.len());
        for line in curve.text(80).lines() {
            assert!(line.chars().count() <= 2 + 11 + 2 + 80, "{name}: {line}");
        }
    }
}

/// Every operation of the model stands in a line of the architecture, and one that a path names stands in the line
/// where its label is.
#[test]
fn operations_know_their_lines() {
    let plan = plan("llama-nano", &[], false);
    let training = plan.program(ProgramKind::ForwardBackward);
    let lines: Vec<&str> = plan.origin.architecture.lines().collect();
    assert!(training.operations.iter().all(|operation| operation.line.is_some()));
    let mut found = 0;
    for operation in &training.operations {
        let line = lines[operation.line.unwrap() as usize - 1];
        if operation.path.contains("down_proj") {
            assert!(line.contains("down_proj:"), "{} at {line}", operation.path);
            found += 1;
        }
    }
    assert!(found > 10);
    assert!(plan.program(ProgramKind::Update).operations.iter().all(|o| o.line.is_none()));
}

fn golden(name: &str, text: &str) {
    let folder = common::repository("tests/cases/reports");
    insta::with_settings!({
        snapshot_path => folder,
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, text);
    });
}

#[test]
fn reports_of_small_specs_are_as_committed() {
    for (spec, name) in [("llama-nano", "llama-nano-memory"), ("gpt2-nano", "gpt2-nano-memory")] {
        let plan = plan(spec, &[], false);
        let memory = MemoryReport::new(&plan);
        let text = memory_text::report(&memory, &Inspection::new(&plan), &plan.origin.architecture);
        let curve = Timeline::new(&plan).text(72);
        let shown: String = format!("{text}\n{curve}")
            .lines()
            .map(|line| format!("{}\n", line.trim_end()))
            .collect();
        golden(name, &shown);
        golden(&format!("{name}-json"), &serde_json::to_string_pretty(&memory).unwrap());
    }
}

#[test]
fn differences_of_small_specs_are_as_committed() {
    let (cola, dense) = (plan("llama-nano", &[], false), plan("llama-nano", &[], true));
    let difference = Difference::new(&cola, &dense);
    golden("difference-full-rank", &difference_text::report(&difference));
    let narrow = plan("llama-nano", &["cola.rank=8", "train.seed=7"], false);
    let difference = Difference::new(&cola, &narrow);
    golden("difference-rank", &difference_text::report(&difference));
    golden("difference-rank-json", &serde_json::to_string_pretty(&difference).unwrap());
}

#[test]
fn a_difference_tells_of_everything_and_of_nothing() {
    let cola = plan("llama-nano", &[], false);
    let same = Difference::new(&cola, &cola);
    assert!(same.is_empty() && same.same_model && same.same_numerics);
    assert!(difference_text::report(&same).contains("the same model, the same training"));
    let evaluated = plan("llama-nano", &["evaluation.every=3"], false);
    let difference = Difference::new(&cola, &evaluated);
    assert!(difference.same_numerics);
    assert_eq!(difference.settings.len(), 1);
    assert_eq!(difference.settings[0].key, "evaluation.every");
    assert_eq!(difference.settings[0].to.as_deref(), Some("3"));
    // Seen from the other side, additions are removals.
    let dense = plan("llama-nano", &[], true);
    let (there, back) = (Difference::new(&cola, &dense), Difference::new(&dense, &cola));
    assert!(!there.same_model && !there.linears.is_empty() && !there.operations.is_empty());
    assert_eq!(there.operations.len(), back.operations.len());
    for (a, b) in there.operations.iter().zip(&back.operations) {
        assert_eq!((a.op, a.from, a.to), (b.op, b.to, b.from));
    }
}

/// A plan compiles again to itself, without a file: also where the architecture is one.
#[test]
fn a_plan_can_be_compiled_again() {
    let own = common::repository("examples/own-architecture/duet-nano.toml");
    let own = own.to_str().unwrap();
    for (spec, full_rank) in [("llama-nano", false), ("llama-nano", true), (own, false)] {
        let first = plan(spec, &[], full_rank);
        let again = recompile(&first, Vec::new(), &mut Sources::default()).unwrap().plan;
        assert_eq!(first.programs, again.programs, "{spec}");
        assert_eq!(first.recipe, again.recipe, "{spec}");
        assert_eq!(first.form, again.form, "{spec}");
    }
}

#[test]
fn policies_are_compared_with_the_plan_itself() {
    let plan = plan("llama-nano", &[], false);
    let profile = profile("h100");
    let (rows, refused) =
        policies::compare(&plan, &policies::all(), Some(&profile), &mut Sources::default());
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(rows.iter().map(|row| row.policy.as_str()).collect::<Vec<_>>(), policies::all());
    let none = rows.iter().find(|row| row.policy == "none").unwrap();
    assert!(none.current && none.recompute_flops_per_token == 0);
    assert_eq!(none.activation_bytes, plan.bytes(Segment::Activations));
    assert_eq!(none.basis, Some(Basis::DataSheet.name()));
    for row in &rows {
        assert!(row.kept_bytes <= none.kept_bytes, "{}", row.policy);
        assert!(row.step_nanoseconds >= none.step_nanoseconds, "{}", row.policy);
    }
}

/// Exceptions and budgets of a plan's own policy do not stand in the way of the others.
#[test]
fn a_plan_of_its_own_kind_is_compared_with_every_policy() {
    let text = std::fs::read_to_string(common::repository("specs/llama-nano.toml")).unwrap();
    let exception = "[recompute]\npolicy = \"block\"\n\n[[recompute.override]]\ntargets = \"layers.0.**\"\npolicy = \"none\"\n";
    let request = Request {
        input: SpecInput::Text { name: "mixed.toml".into(), text: format!("{text}\n{exception}") },
        settings: Vec::new(),
        full_rank: false,
        dump: None,
    };
    let mixed = compile(request, &mut Sources::default()).unwrap().plan;
    let (rows, refused) =
        policies::compare(&mixed, &policies::all(), None, &mut Sources::default());
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(rows.len(), policies::all().len() + 1);
    assert!(rows[0].current && rows[0].activation_bytes == mixed.bytes(Segment::Activations));
    assert!(rows[1..].iter().all(|row| !row.current));
}

#[test]
fn what_fits_a_memory_fits_a_larger_one() {
    let plan = plan("llama-nano", &[], false);
    let profile = profile("rtx-4090");
    let search = |budget_bytes| Search {
        budget_bytes,
        beside: |_| 0,
        policies: policies::all().into_iter().map(str::to_owned).collect(),
        micro_batches: fit::micro_batches(&plan),
        profile: Some(&profile),
    };
    let fitting = |budget| fit::fit(&plan, &search(budget), &mut Sources::default()).unwrap();
    let whole = plan.total_bytes();
    let mut before: Vec<(String, u32)> = Vec::new();
    for budget in [whole / 8, whole / 4, whole / 2, whole, 2 * whole, 1 << 40] {
        let found = fitting(budget);
        let pairs: Vec<(String, u32)> =
            found.rows.iter().map(|row| (row.policy.clone(), row.micro_batch)).collect();
        assert!(before.iter().all(|pair| pairs.contains(pair)), "{budget}");
        for row in &found.rows {
            assert!(row.total_bytes <= budget);
            assert_eq!(row.accumulation * row.micro_batch, plan.recipe.global_batch);
        }
        let speeds: Vec<_> = found.rows.iter().map(|row| row.tokens_per_second.unwrap()).collect();
        assert!(speeds.is_sorted_by(|a, b| a >= b));
        before = pairs;
    }
    let micro_batches = fit::micro_batches(&plan).len();
    assert_eq!(before.len(), micro_batches * policies::all().len(), "all fit a terabyte");
    // The plan itself is among them, with its own bytes.
    let found = fitting(1 << 40);
    let own = found
        .rows
        .iter()
        .find(|row| row.policy == "none" && row.micro_batch == plan.recipe.micro_batch);
    assert_eq!(own.unwrap().total_bytes, whole);
    // Nothing fits a kilobyte, and what the least is, is told.
    let nothing = fitting(1024);
    assert!(nothing.rows.is_empty());
    let smallest = nothing.smallest.unwrap();
    assert!(smallest.total_bytes > smallest.state_bytes && smallest.state_bytes > 0);
    assert_eq!(smallest.total_bytes, found.rows.iter().map(|row| row.total_bytes).min().unwrap());
}

#[test]
fn predictions_say_what_they_rest_on_and_follow_the_work() {
    let cola = plan("llama-60m", &[], false);
    let step = |plan: &Plan, device: &str| predict::step(plan, &profile(device));
    let h100 = step(&cola, "h100");
    assert_eq!(h100.total.basis, Basis::DataSheet);
    assert_eq!(
        h100.total.nanoseconds,
        h100.micro_batch.nanoseconds * h100.accumulation + h100.update.nanoseconds
    );
    assert_eq!(h100.tokens, 512 * 256);
    assert!(step(&cola, "a100-80").total.nanoseconds > h100.total.nanoseconds);
    let again = plan("llama-60m", &["recompute.policy=block"], false);
    let block = step(&again, "h100");
    assert!(block.recompute.nanoseconds > 0);
    assert_eq!(h100.recompute.nanoseconds, 0);
    assert!(block.total.nanoseconds > h100.total.nanoseconds);
}

/// Every operation that moves bytes and has no products may have a bandwidth of its own in a profile.
#[test]
fn profiles_know_the_operations_of_plans() {
    let mut names = std::collections::BTreeSet::new();
    for (_, plan) in plans() {
        let rows = Inspection::new(&plan).operations;
        names.extend(rows.iter().filter(|row| row.flops == 0).map(|row| row.op));
    }
    assert!(names.contains("rms_norm") && names.contains("layer_norm") && names.len() > 10);
    let text = device::write(&profile("h100"));
    for name in names {
        let own = format!(
            "streams = [\n  {{ operation = \"{name}\", gigabytes = 1.0, how = \"assumed\" }},"
        );
        let text = text.replace("streams = [", &own);
        let read = device::read("own.toml", &text, &mut Sources::default()).unwrap();
        assert_eq!(read.stream_rate(name, 1 << 20).value, 1_000_000_000, "{name}");
    }
}
