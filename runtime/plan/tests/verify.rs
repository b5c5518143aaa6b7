//! Each rule of the verifier, broken alone.

#![allow(clippy::unwrap_used, reason = "a test may fail where it unwraps")]

mod common;

use colac_plan::op::{Mask, Scores};
use colac_plan::parameter::{ConstantContent, Initialization, Part, RopeScaling};
use colac_plan::plan::RuntimeScalar;
use colac_plan::pointwise::{self, Program as Pointwise};
use colac_plan::program::{Phase, When, Write};
use colac_plan::recipe::MixtureSource;
use colac_plan::verify::{Rule, arena_lower_bound, lifetimes, verify};
use colac_plan::{DType, Op, Plan, ProgramKind, Real, Segment, Tensor, TensorId, TensorType};
use common::{id, plan, program, restate_bounds, tensor, writer};

/// Breaks a rule; the text is what the error must say.
type Case = (Rule, &'static str, fn(&mut Plan));

/// Doubles a segment, so that something can be put behind what is there; gives the first byte of the new half.
fn grow(plan: &mut Plan, segment: Segment) -> u64 {
    let size = plan.segment_bytes[segment.index()];
    plan.segment_bytes[segment.index()] += size.max(256);
    size
}

/// A copy of a tensor under another name.
fn copy(plan: &mut Plan, name: &str, new: &str) -> TensorId {
    let mut copy = plan.tensor(id(plan, name)).clone();
    copy.name = new.into();
    plan.tensors.push(copy);
    TensorId(plan.tensors.len() as u32 - 1)
}

/// The AdamW operation.
fn adamw(plan: &mut Plan) -> &mut Op {
    &mut plan.programs[1].operations[1].op
}

/// Puts the first two parameters into one tensor of a checkpoint.
fn join(plan: &mut Plan) {
    for (parameter, offset) in plan.parameters.iter_mut().zip([0, 6]) {
        parameter.checkpoint.name = "joined".into();
        parameter.checkpoint.part = Some(Part { offset, extent: 12 });
    }
}

/// The place of one of the first two parameters, now joined.
fn part(plan: &mut Plan, index: usize) -> &mut Part {
    join(plan);
    plan.parameters[index].checkpoint.part.as_mut().expect("it was just joined")
}

fn first_range(plan: &mut Plan) -> &mut colac_plan::op::UpdateRange {
    let Op::AdamW { ranges, .. } = adamw(plan) else { panic!("the second operation of update") };
    &mut ranges[0]
}

/// Marks an operation and all after it that read it as for the last micro-batch only.
fn last_micro_batch(plan: &mut Plan, name: &str) {
    writer(plan, name).when = When::LastMicroBatch;
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    (Rule::Text, "not printable", |p| tensor(p, "x").name = "a\nb".into()),
    (Rule::Text, "not printable", |p| p.scopes[0] = "\u{1b}[31m".into()),
    (Rule::Text, "longer than", |p| p.parameters[0].path = "x".repeat(2000)),
    (Rule::TensorId, "there is no tensor %9999", |p| writer(p, "inner").operands[0] = TensorId(9999)),
    (Rule::TensorId, "there is no tensor %9999", |p| writer(p, "inner").results[0] = TensorId(9999)),
    (Rule::TensorId, "there is no tensor", |p| writer(p, "norm.weight.gradient").writes[1] = Write::AddIf(TensorId(9999))),
    (Rule::TensorId, "there is no tensor", |p| tensor(p, "gate").parent = Some(TensorId(9999))),
    (Rule::TensorId, "there is no tensor", |p| p.roles.step = TensorId(9999)),
    (Rule::TensorId, "there is no tensor", |p| p.programs[2].outputs.push(TensorId(9999))),
    (Rule::TensorId, "there is no tensor", |p| p.constants[0].tensor = TensorId(9999)),
    (Rule::TensorId, "there is no tensor", |p| p.scalars[0].tensor = TensorId(9999)),
    (Rule::TensorId, "there is no tensor", |p| p.parameters[0].gradient = TensorId(9999)),
    (Rule::Extents, "[0, 3, 4]", |p| tensor(p, "x").ty.shape.0[0].extent = 0),
    (Rule::Extents, "its shape is", |p| tensor(p, "x").ty.shape.0[0].extent = 1 << 40),
    (Rule::Extents, "its shape is", |p| tensor(p, "x").ty.shape.0.iter_mut().for_each(|a| a.extent = u64::MAX)),
    (Rule::Strides, "strides are [4, 1]", |p| { tensor(p, "x").strides.remove(0); }),
    (Rule::Strides, "strides are [12, 4, 2]", |p| tensor(p, "x").strides[2] = 2),
    (Rule::Strides, "strides are [12, 3, 1]", |p| tensor(p, "x").strides[1] = 3),
    (Rule::Strides, "strides are [12, 0, 1]", |p| tensor(p, "x").strides[1] = 0),
    (Rule::Strides, "strides are", |p| tensor(p, "x").strides[0] = u64::MAX),
    (Rule::Bounds, "does not end within", |p| tensor(p, "x").offset = 1 << 20),
    (Rule::Bounds, "does not end within", |p| tensor(p, "x").offset = u64::MAX - 255),
    (Rule::Bounds, "in the workspace", |p| tensor(p, "x").segment = Segment::Workspace),
    (Rule::Alignment, "not a multiple of 256", |p| tensor(p, "x").offset += 4),
    (Rule::Alignment, "not a multiple of 4", |p| tensor(p, "gate").offset += 2),
    (Rule::Parent, "its own parent", |p| { let x = id(p, "x"); tensor(p, "x").parent = Some(x); }),
    (Rule::Parent, "its own parent", |p| { let q = id(p, "q"); tensor(p, "n").parent = Some(q); }),
    (Rule::Parent, "outside of its parent", |p| tensor(p, "up").offset += 4),
    (Rule::Parent, "another segment", |p| { let x = id(p, "x"); tensor(p, "gate").parent = Some(x); tensor(p, "gate").segment = Segment::Outputs; tensor(p, "gate").offset = 0; grow(p, Segment::Outputs); }),
    (Rule::Parent, "another element format", |p| tensor(p, "gate").ty.dtype = DType::I32),
    (Rule::SegmentSizes, "not a multiple of 256", |p| p.segment_bytes[3] += 4),
    (Rule::SegmentSizes, "not a multiple of 256", |p| p.programs[0].arena_bytes -= 4),
    (Rule::SegmentSizes, "together", |p| p.segment_bytes = [1 << 61; 9]),
    (Rule::Disjoint, "shares bytes of inputs", |p| tensor(p, "train.labels").offset = 0),
    (Rule::Disjoint, "shares bytes of optimizer", |p| tensor(p, "second_moment").offset = 256),

    (Rule::Programs, "not forward_backward, update", |p| p.programs.swap(1, 2)),
    (Rule::Programs, "not forward_backward, update", |p| drop(p.programs.pop())),
    (Rule::Programs, "not forward_backward, update", |p| p.programs.push(p.programs[3].clone())),
    (Rule::Types, "linear takes 2 operands", |p| { writer(p, "y").operands.pop(); }),
    (Rule::Types, "input widths of linear differ", |p| { let w = id(p, "layers.0.gate+up"); writer(p, "y").operands[1] = w; }),
    (Rule::Types, "must be f32[2, 3, 4]", |p| { let w = id(p, "inner"); writer(p, "y").results[0] = w; }),
    (Rule::Types, "it has 2 results, not 1", |p| { let w = id(p, "inner"); writer(p, "y").results.push(w); }),
    (Rule::Types, "must be f32", |p| tensor(p, "rstd").ty.dtype = DType::Bf16),
    (Rule::Types, "must be i32", |p| { let x = id(p, "x"); let o = writer(p, "train.loss"); o.operands[2] = x; }),
    (Rule::Types, "a chunk must hold", |p| writer(p, "train.loss").op = Op::HeadLossWithGradient { chunk: 0, bias: false, transform: None }),
    (Rule::Types, "which is not computed yet", |p| {
        let Op::Pointwise { program } = &mut writer(p, "inner").op else { panic!("pointwise") };
        program.instructions.swap(0, 3);
    }),
    (Rule::Types, "more than 128 operands", |p| writer(p, "inner").operands = vec![TensorId(0); 129]),
    (Rule::Types, "does not fit", |p| first_range(p).length = 1 << 20),
    (Rule::Attributes, "epsilon", |p| writer(p, "n").op = Op::RmsNorm { epsilon: Real::new(f64::INFINITY), gain: true, prologue: None }),
    (Rule::Attributes, "weight_decay", |p| first_range(p).weight_decay = Real::new(f64::NAN)),
    (Rule::Attributes, "learning_rate_factor", |p| first_range(p).learning_rate_factor = Real::new(-1.0)),
    (Rule::Layout, "must have no gaps", |p| { let size = grow(p, Segment::Activations); p.programs[0].arena_bytes += size; let rstd = tensor(p, "rstd"); rstd.strides[0] = 4; rstd.offset = size; }),
    (Rule::Layout, "rows an even distance apart", |p| { let size = grow(p, Segment::Activations); p.programs[0].arena_bytes += size; let x = tensor(p, "x"); x.strides[0] = 13; x.offset = size; }),
    (Rule::WriteCount, "1 results and 0 ways", |p| writer(p, "y").writes.clear()),
    (Rule::After, "waits for operation 5", |p| program(p, ProgramKind::ForwardBackward).operations[5].after.push(5)),
    (Rule::After, "waits for operation", |p| p.programs[1].operations[0].after.push(u32::MAX)),
    (Rule::Scope, "its scope is Some(1) of 1", |p| writer(p, "y").scope = Some(1)),
    (Rule::Phase, "Update", |p| writer(p, "y").phase = Phase::Update),
    (Rule::Phase, "Backward", |p| p.programs[2].operations[0].phase = Phase::Backward),
    (Rule::Phase, "Forward", |p| p.programs[1].operations[0].phase = Phase::Forward),
    (Rule::Workspace, "needs 512 bytes of workspace and has 511", |p| writer(p, "train.loss").workspace -= 1),
    (Rule::Workspace, "exceeds", |p| writer(p, "y").workspace = 1 << 30),
    (Rule::Overlap, "shares bytes with operand", |p| tensor(p, "inner").offset = p.tensors[id(p, "pair").index()].offset),
    (Rule::Overlap, "share bytes", |p| { let gate = p.tensor(id(p, "dgate")).offset; tensor(p, "dup").offset = gate + 4; }),
    (Rule::Overlap, "shares bytes with operand", |p| { let y = id(p, "y"); writer(p, "r").operands[0] = y; }),
    (Rule::Price, "63 bits", |p| {
        // Every shape is within its limits; only the square of the sequence is not.
        let sequence = 1u64 << 39;
        for (name, extents) in [("long", vec![1, sequence, 1, 1]), ("long.out", vec![1, sequence, 1, 1]), ("long.lse", vec![1, 1, sequence])] {
            let ty = TensorType::f32(&extents);
            let (strides, offset) = (Tensor::packed_strides(&ty), p.segment_bytes[3]);
            p.segment_bytes[3] += ty.bytes();
            p.tensors.push(Tensor { name: name.into(), ty, strides, segment: Segment::Activations, offset, parent: None });
        }
        let (long, out, lse) = (id(p, "long"), id(p, "long.out"), id(p, "long.lse"));
        let operation = &mut p.programs[0].operations[0];
        operation.op = Op::Attention { scores: Scores::new(Mask::Full, Real::new(1.0)) };
        operation.operands = vec![long; 3];
        operation.results = vec![out, lse];
        operation.writes = vec![Write::Overwrite; 2];
    }),

    (Rule::Writable, "of constants", |p| {
        let (cos, sin) = (id(p, "cos"), id(p, "sin"));
        let mut operation = writer(p, "r").clone();
        operation.operands = vec![cos; 2];
        operation.results = vec![sin];
        p.programs[2].operations.push(operation);
    }),
    (Rule::Writable, "of gradients", |p| {
        let mut alias = p.tensor(p.programs[3].operations[0].results[0]).clone();
        (alias.segment, alias.offset) = (Segment::Gradients, 0);
        p.tensors.push(alias);
        p.programs[3].operations[0].results[0] = TensorId(p.tensors.len() as u32 - 1);
    }),
    (Rule::Writable, "of scalars", |p| {
        p.programs[1].inputs.push(p.roles.gradient_norm);
        p.scalars.push(RuntimeScalar { name: "norm".into(), tensor: p.roles.gradient_norm, bound: None });
    }),
    (Rule::Accumulation, "cannot be added", |p| writer(p, "y").writes[0] = Write::Add),
    (Rule::Accumulation, "not on the scalar `accumulate`", |p| { let s = id(p, "loss_scale"); writer(p, "norm.weight.gradient").writes[1] = Write::AddIf(s); }),
    (Rule::GradientOrder, "it overwrites", |p| { let a = p.roles.accumulate; p.programs[0].operations.last_mut().unwrap().writes[0] = Write::AddIf(a); }),
    (Rule::GradientOrder, "it adds to", |p| writer(p, "norm.weight.gradient").writes[1] = Write::Add),
    (Rule::GradientComplete, "layers.0.down.weight.gradient", |p| {
        let g = id(p, "layers.0.down.weight.gradient");
        p.programs[0].operations.retain(|o| !o.results.contains(&g));
        p.programs[0].operations.iter_mut().for_each(|o| o.after.clear());
        restate_bounds(p); }),
    (Rule::WrittenOnce, "part of which was written", |p| { let again = writer(p, "x").clone(); p.programs[0].operations.insert(1, again); p.programs[0].operations.iter_mut().for_each(|o| o.after.clear()); }),
    (Rule::ReadAfterWrite, "not all of which was written", |p| { p.programs[0].operations.swap(0, 1); }),
    (Rule::ReadAfterWrite, "`loss_scale`", |p| { p.programs[0].inputs.remove(2); }),
    (Rule::ReadAfterWrite, "only `update` may read", |p| { let g = id(p, "layers.0.gate+up.gradient"); writer(p, "pair").operands[1] = g; }),
    (Rule::Stale, "replaced", |p| { let n = id(p, "n"); writer(p, "pair").operands[0] = n; }),
    (Rule::LastMicroBatch, "for the last micro-batch only", |p| last_micro_batch(p, "x")),
    (Rule::LastMicroBatch, "it writes the gradient", |p| last_micro_batch(p, "layers.0.down.weight.gradient")),
    (Rule::LastMicroBatch, "it replaces the bytes", |p| last_micro_batch(p, "n.rotated")),
    (Rule::ProgramInputs, "twice", |p| { let t = id(p, "train.tokens"); p.programs[0].inputs.push(t); }),
    (Rule::ProgramInputs, "lack", |p| { p.programs[0].inputs.remove(1); }),
    (Rule::ProgramInputs, "neither", |p| { let t = id(p, "evaluate.tokens"); p.programs[0].inputs.push(t); }),
    (Rule::ProgramInputs, "neither", |p| drop(p.scalars.remove(0))),
    (Rule::ProgramOutputs, "lack", |p| p.programs[0].outputs.clear()),
    (Rule::ProgramOutputs, "is not written", |p| { let t = id(p, "logits"); p.programs[0].outputs.push(t); }),
    (Rule::ProgramOutputs, "does not outlive it", |p| { let t = id(p, "x"); p.programs[0].outputs.push(t); }),
    (Rule::ProgramOutputs, "is not written", |p| { let t = p.roles.step; p.programs[0].outputs.push(t); }),

    (Rule::Lifetimes, "shares bytes with", |p| { let x = p.tensor(id(p, "x")).offset; tensor(p, "ds").offset = x; }),
    (Rule::Lifetimes, "shares bytes with", |p| {
        // In place, but the operand is read again afterwards.
        let y = id(p, "y"); p.programs[0].operations.last_mut().unwrap().operands[1] = y; }),
    (Rule::Arena, "beyond the arena", |p| p.programs[0].arena_bytes = 256),
    (Rule::Arena, "exceeds", |p| p.programs[0].arena_bytes += 256),
    (Rule::LowerBound, "lower bound is given", |p| p.programs[0].arena_lower_bound -= 256),
    (Rule::LowerBound, "lower bound is given", |p| p.programs[1].arena_lower_bound = 256),

    (Rule::Parameters, "not behind the parameter before", |p| p.parameters.swap(0, 1)),
    (Rule::Parameters, "does not lie as it does", |p| p.parameters[0].gradient = p.parameters[1].gradient),
    (Rule::Parameters, "not within the parameter segment", |p| { let x = id(p, "cos"); p.parameters[0].tensor = x; }),
    (Rule::ParameterNames, "two parameters have the checkpoint name", |p| p.parameters[0].checkpoint.name = p.parameters[1].checkpoint.name.clone()),
    (Rule::ParameterNames, "two parameters have the path", |p| p.parameters[0].path = p.parameters[1].path.clone()),
    (Rule::ParameterNames, "a parameter has no", |p| p.parameters[0].checkpoint.name.clear()),
    (Rule::ParameterNames, "two parameters have the checkpoint name", |p| { join(p); p.parameters[2].checkpoint.name = "joined".into(); }),
    (Rule::JoinedTensors, "it is at 5 of 12 in `joined`, where 6 of 12 are taken", |p| part(p, 1).offset = 5),
    (Rule::JoinedTensors, "it is at 7 of 12 in `joined`, where 6 of 12 are taken", |p| part(p, 1).offset = 7),
    (Rule::JoinedTensors, "it is at 1 of 12 in `joined`, where 0 of 12 are taken", |p| part(p, 0).offset = 1),
    (Rule::JoinedTensors, "it is at 18446744073709551615 of 12", |p| part(p, 1).offset = u64::MAX),
    (Rule::JoinedTensors, "it is at 6 of 11 in `joined`, where 6 of 12 are taken", |p| part(p, 1).extent = 11),
    (Rule::JoinedTensors, "the parts of `joined` end at 12 of 13", |p| { part(p, 0).extent = 13; p.parameters[1].checkpoint.part.as_mut().unwrap().extent = 13; }),
    (Rule::JoinedTensors, "the parts of `joined` end at 6 of 12", |p| { join(p); p.parameters[1].checkpoint.part = None; p.parameters[1].checkpoint.name = "up".into(); }),
    (Rule::JoinedTensors, "does not fit beside the other parts of `joined`", |p| { join(p); p.parameters[1].checkpoint.transposed = !p.parameters[0].checkpoint.transposed; }),
    (Rule::JoinedTensors, "does not fit beside the other parts of `joined`", |p| { join(p); let down = &mut p.parameters[2].checkpoint; down.name = "joined".into(); down.part = Some(Part { offset: 12, extent: 12 }); }),
    (Rule::Initialization, "not finite or negative", |p| p.parameters[0].initialization = Initialization::Normal { std: Real::new(f64::NAN) }),
    (Rule::Initialization, "not finite or negative", |p| p.parameters[0].initialization = Initialization::Uniform { bound: Real::new(-1.0) }),
    (Rule::Initialization, "not finite or negative", |p| p.parameters[0].initialization = Initialization::Constant { value: Real::new(f64::INFINITY) }),
    (Rule::Constants, "or has two", |p| p.constants.push(p.constants[0].clone())),
    (Rule::Constants, "it has no content", |p| { p.constants.pop(); }),
    (Rule::Constants, "is no constant", |p| p.constants[0].tensor = id(p, "x")),
    (Rule::Constants, "cannot hold", |p| p.constants[0].content = ConstantContent::RopeCos { theta: Real::new(0.0), scaling: RopeScaling::None }),
    (Rule::Constants, "cannot hold", |p| { let t = tensor(p, "sin"); t.ty = TensorType::f32(&[3]); t.strides = vec![1]; }),
    (Rule::Roles, "same tensor", |p| p.roles.loss_scale = p.roles.learning_rate),
    (Rule::Roles, "cannot be `step`", |p| p.roles.step = id(p, "x")),
    (Rule::Roles, "cannot be `train_loss`", |p| tensor(p, "train.loss").ty.dtype = DType::I32),
    (Rule::Roles, "not the whole of parameters", |p| { grow(p, Segment::Parameters); }),
    (Rule::Roles, "has 200 elements", |p| tensor(p, "first_moment").ty = TensorType::f32(&[200])),
    (Rule::Update, "its constants are not those of the recipe", |p| p.recipe.optimizer.beta1 = 0.8),
    (Rule::Update, "not over the tensors of the roles", |p| { let (f, s) = (p.roles.first_moment, p.roles.second_moment); let r = &mut p.programs[1].operations[1].results; r[1] = s; r[2] = f; }),
    (Rule::Update, "0 AdamW", |p| drop(p.programs[1].operations.pop())),
    (Rule::UpdateRanges, "no one of its ranges holds", |p| first_range(p).length -= 64),
    (Rule::Scalars, "cannot be the scalar", |p| p.scalars[0].tensor = id(p, "x")),
    (Rule::Scalars, "are the same", |p| p.scalars[0].name = p.scalars[1].name.clone()),
    (Rule::Scalars, "are the same", |p| p.scalars[0].tensor = p.scalars[1].tensor),

    (Rule::RecipeBatches, "no whole number of micro-batches", |p| p.recipe.global_batch = 5),
    (Rule::RecipeBatches, "must be [4, 3]", |p| p.recipe.micro_batch = 4),
    (Rule::RecipeBatches, "must be [2, 3]", |p| p.recipe.evaluation.batch = 2),
    (Rule::RecipeBatches, "must be [2, 4]", |p| p.recipe.sequence_length = 4),
    (Rule::RecipeBatches, "must be [1, 3, 12]", |p| p.vocab_size = 12),
    (Rule::RecipeVocabulary, "does not fit the 12 token ids", |p| {
        p.vocab_size = 12;
        let t = tensor(p, "logits"); t.ty = TensorType::f32(&[1, 3, 12]); t.strides = vec![36, 12, 1]; }),
    (Rule::RecipeVocabulary, "its ids are not those of the batch", |p| { let labels = id(p, "train.labels"); writer(p, "x").operands[0] = labels; }),
    (Rule::RecipeNumbers, "sequence_length", |p| p.recipe.sequence_length = 0),
    (Rule::RecipeNumbers, "micro_batch", |p| p.recipe.micro_batch = 0),
    (Rule::RecipeNumbers, "global_batch", |p| p.recipe.global_batch = 0),
    (Rule::RecipeNumbers, "schedule.steps", |p| { p.recipe.schedule.steps = 0; }),
    (Rule::RecipeNumbers, "warmup_steps", |p| p.recipe.schedule.warmup_steps = 101),
    (Rule::RecipeNumbers, "warmup_steps", |p| p.recipe.schedule.warmup_steps = 90),
    (Rule::RecipeNumbers, "learning_rate", |p| p.recipe.schedule.learning_rate = f64::NAN),
    (Rule::RecipeNumbers, "final_factor", |p| p.recipe.schedule.final_factor = 1.5),
    (Rule::RecipeNumbers, "beta1", |p| p.recipe.optimizer.beta1 = 1.0),
    (Rule::RecipeNumbers, "beta2", |p| p.recipe.optimizer.beta2 = -0.1),
    (Rule::RecipeNumbers, "epsilon", |p| p.recipe.optimizer.epsilon = 0.0),
    (Rule::RecipeNumbers, "weight_decay", |p| p.recipe.optimizer.weight_decay = f64::INFINITY),
    (Rule::RecipeNumbers, "clip_norm", |p| p.recipe.optimizer.clip_norm = -1.0),
    (Rule::RecipeNumbers, "evaluation.batch", |p| p.recipe.evaluation.batch = 0),
    (Rule::RecipeNumbers, "reference_batch", |p| p.recipe.evaluation.reference_batch = 0),
    (Rule::RecipeNumbers, "validation_fraction", |p| p.recipe.data.validation_fraction = 1.0),
    (Rule::RecipeNumbers, "mixture.weight", |p| {
        let (name, paths) = ("a".to_owned(), vec!["a".to_owned()]);
        p.recipe.data.mixture = vec![MixtureSource { name, paths, weight: 0.0 }];
    }),
];

#[test]
fn each_rule_is_enforced() {
    let mut failures = Vec::new();
    for (number, (rule, text, break_it)) in CASES.iter().enumerate() {
        let mut plan = plan();
        break_it(&mut plan);
        match verify(&plan) {
            Ok(()) => failures.push(format!("case {number}: {rule:?} ({text}) is accepted")),
            Err(error) => {
                let line = error.to_string();
                if error.rule != *rule || !line.contains(text) || line.contains('\n') {
                    failures.push(format!(
                        "case {number}: {rule:?} ({text}) gives {:?}: {line}",
                        error.rule
                    ));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn each_rule_has_a_case() {
    let missing: Vec<&Rule> =
        Rule::ALL.iter().filter(|rule| !CASES.iter().any(|case| case.0 == **rule)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_sound_plan_is_accepted() {
    verify(&plan()).unwrap();
}

#[test]
fn errors_name_program_operation_path_and_tensor() {
    let mut plan = plan();
    plan.programs[0].operations.swap(0, 1);
    let error = verify(&plan).unwrap_err().to_string();
    assert!(
        error.starts_with(
            "forward_backward, operation 0 (rms_norm `layers.0.rms_norm`): it reads %"
        ),
        "{error}"
    );
    assert!(error.contains("`x`"), "{error}");
}

#[test]
fn lifetimes_are_those_of_roots_and_the_bound_counts_in_place_once() {
    let plan = plan();
    let program = plan.program(ProgramKind::ForwardBackward);
    let lifetimes = lifetimes(&plan, program);
    assert!(lifetimes.windows(2).all(|pair| pair[0].first <= pair[1].first));
    let position = |name: &str| {
        let id = id(&plan, name);
        program.operations.iter().position(|o| o.results.contains(&id)).unwrap()
    };
    let of = |name: &str| *lifetimes.iter().find(|l| l.root == id(&plan, name)).unwrap();
    // Read through the view `q` by the gradient of the stacked weight, long after `n` itself.
    assert_eq!(
        (of("n").first, of("n").last),
        (position("n"), position("layers.0.gate+up.gradient"))
    );
    assert_eq!((of("y").first, of("y").last), (position("y"), position("r")));
    assert!(lifetimes.iter().all(|l| l.root != id(&plan, "q") && l.root != id(&plan, "gate")));
    // By hand: all activations have at most 256 bytes but pair and dpair, which have 288 each, padded to 512. Most are
    // alive when the gates' gradients are made: x, n, rstd, pair, ds, dpair, dr, and inner is dead.
    let alive_then = 5 * 256 + 2 * 512;
    assert_eq!(arena_lower_bound(&plan, program), alive_then);
    // In `logits` nothing has more than 256 bytes, and never more than three are alive: x, n and pair; x + y takes the
    // place of y.
    assert_eq!(arena_lower_bound(&plan, plan.program(ProgramKind::Logits)), 3 * 256);
}

#[test]
fn a_result_may_not_take_the_place_of_what_is_read_twice() {
    let mut plan = plan();
    let y = id(&plan, "y");
    let x = id(&plan, "x");
    let operation = writer(&mut plan, "r");
    operation.op = Op::Pointwise { program: Pointwise::sum(3) };
    operation.operands = vec![x, y, y];
    assert_eq!(verify(&plan).unwrap_err().rule, Rule::Overlap);
}

#[test]
fn a_result_may_not_take_the_place_of_an_operand_that_every_element_needs() {
    let mut plan = plan();
    let mut b = pointwise::Builder::new();
    let x = b.input(pointwise::InputForm::Elements);
    let column = b.input(pointwise::InputForm::Column);
    let sum = b.binary(pointwise::Binary::Add, x, column);
    let op = Op::Pointwise { program: b.finish(&[(sum, DType::F32)]) };
    assert!(op.in_place(0, 0) && !op.in_place(1, 0));
    let (x, rstd) = (id(&plan, "x"), id(&plan, "rstd"));
    let rstd_offset = plan.tensor(rstd).offset;
    let operation = writer(&mut plan, "r");
    operation.op = op;
    operation.operands = vec![x, rstd];
    tensor(&mut plan, "r").offset = rstd_offset;
    assert_eq!(verify(&plan).unwrap_err().rule, Rule::Overlap);
}

#[test]
fn slices_must_cover_what_is_read_as_a_whole() {
    let mut plan = plan();
    // Only one of the two slices is written, the other result goes elsewhere.
    let offset = grow(&mut plan, Segment::Activations);
    plan.programs[0].arena_bytes += offset;
    let elsewhere = copy(&mut plan, "inner", "elsewhere");
    plan.tensors[elsewhere.index()].offset = offset;
    writer(&mut plan, "dup").results[1] = elsewhere;
    let error = verify(&plan).unwrap_err();
    assert_eq!(error.rule, Rule::ReadAfterWrite);
    assert!(error.reason.contains("`dpair`"), "{error}");
}

#[test]
fn joined_parameters_are_accepted() {
    let mut joined = plan();
    join(&mut joined);
    verify(&joined).unwrap();
}
