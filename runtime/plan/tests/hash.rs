//! What each of the three hashes covers.

#![allow(clippy::unwrap_used, reason = "a test may fail where it unwraps")]

mod common;

use colac_plan::hash::{Hashes, computation, hashes};
use colac_plan::parameter::Part;
use colac_plan::verify::verify;
use colac_plan::{Op, Plan, Real, Segment};

/// Which hashes a change moves: model, numerics, file.
fn moved(change: impl FnOnce(&mut Plan)) -> [bool; 3] {
    // As the compiler does it for the plan in which nothing is made again.
    let hashed = |plan: &mut Plan| {
        plan.computation = computation(plan);
        hashes(plan)
    };
    let mut plan = common::plan();
    let before = hashed(&mut plan);
    change(&mut plan);
    verify(&plan).expect("the changed plan is sound");
    let Hashes { model, numerics, file } = hashed(&mut plan);
    [model != before.model, numerics != before.numerics, file != before.file]
}

#[test]
fn a_comment_or_a_setting_outside_of_training_moves_only_the_file() {
    let only_file = [false, false, true];
    assert_eq!(moved(|_| ()), [false; 3]);
    assert_eq!(moved(|p| p.origin.spec.push_str("# another comment")), only_file);
    assert_eq!(moved(|p| p.recipe.checkpoint.every = 1), only_file);
    assert_eq!(moved(|p| p.recipe.evaluation.every = 1), only_file);
    assert_eq!(moved(|p| p.recipe.data.train[0].push('x')), only_file);
    assert_eq!(moved(|p| p.name.push('x')), only_file);
    assert_eq!(moved(|p| p.programs[0].operations[0].path.push('x')), only_file);
    assert_eq!(moved(|p| p.tensors[60].name.push('x')), only_file);
}

#[test]
fn another_place_in_the_arena_or_another_evaluation_batch_moves_only_the_file() {
    let only_file = [false, false, true];
    let placed = moved(|p| {
        let last = p.segment_bytes[Segment::Activations.index()];
        p.segment_bytes[Segment::Activations.index()] += 256;
        p.programs[0].arena_bytes = last + 256;
        common::tensor(p, "ds").offset = last;
    });
    assert_eq!(placed, only_file);
    let evaluated = moved(|p| {
        // `evaluate` with a batch of its own: another operation count is change enough.
        let operation = p.programs[2].operations.last_mut().unwrap();
        operation.op = Op::HeadLoss { chunk: 3, bias: false, transform: None };
    });
    assert_eq!(evaluated, only_file);
}

#[test]
fn what_changes_a_weight_moves_numerics() {
    let numerics = [false, true, true];
    assert_eq!(moved(|p| p.recipe.seed += 1), numerics);
    assert_eq!(moved(|p| p.recipe.global_batch *= 2), numerics);
    assert_eq!(moved(|p| p.recipe.schedule.steps += 1), numerics);
    assert_eq!(moved(|p| p.recipe.data.mode = colac_plan::recipe::BatchMode::Pack), numerics);
    assert_eq!(
        moved(|p| p.programs[0].operations[1].op =
            Op::RmsNorm { epsilon: Real::new(1e-5), gain: true, prologue: None }),
        numerics
    );
    assert_eq!(moved(|p| p.parameters[0].path.push('x')), numerics);
    let order = moved(|p| {
        // Two neighbours that do not need each other.
        p.programs[0].operations.swap(8, 9);
        common::restate_bounds(p);
    });
    assert_eq!(order, numerics);
    let writes = moved(|p| {
        let accumulating = common::writer(p, "layers.0.down.weight.gradient");
        accumulating.writes[0] = colac_plan::program::Write::Overwrite;
    });
    assert_eq!(writes, numerics);
}

#[test]
fn names_and_shapes_of_parameters_move_all() {
    assert_eq!(moved(|p| p.parameters[0].checkpoint.name.push('x')), [true; 3]);
    assert_eq!(moved(|p| p.parameters[0].checkpoint.transposed = true), [true; 3]);
    let part = Some(Part { offset: 0, extent: 6 });
    assert_eq!(moved(|p| p.parameters[0].checkpoint.part = part), [true; 3]);
}

#[test]
fn hashes_print_in_hexadecimal() {
    let text = hashes(&common::plan()).model.to_string();
    assert!(
        text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()),
        "{text}"
    );
}
