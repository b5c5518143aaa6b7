//! Scheduled graphs to a plan.
//!
//! Owns the layout of everything outside the arena: parameters and what mirrors them, constants, inputs, outputs,
//! scalars; and the update program, which no graph has. Must not decide anything about the model: the passes did.

mod layout;
mod lines;
mod program;

use colac_plan::hash::Hash;
use colac_plan::op::UpdateRange;
use colac_plan::op::cost::aligned;
use colac_plan::parameter::Role;
use colac_plan::plan::{BatchInputs, Form, LinearReport, Origin, Plan, Roles, RuntimeScalar};
use colac_plan::program::{Operation, Phase, Program, ProgramKind, When, Write};
use colac_plan::recipe::{Optimizer, Recipe};
use colac_plan::verify::VerifyError;
use colac_plan::{DType, Op, Real, Segment, Shape, TensorId, TensorType};

use crate::diagnostics::SourceId;
use crate::graph::{Graph, NodeId};
use crate::passes::memory::Placement;
use crate::spec::Precision;

use layout::Layout;
use lines::Lines;

/// A graph ready to be written down.
#[derive(Clone, Debug)]
pub struct Scheduled {
    /// Which program it becomes.
    pub kind: ProgramKind,
    /// The graph.
    pub graph: Graph,
    /// Order of execution.
    pub order: Vec<NodeId>,
    /// Places in the arena.
    pub placement: Placement,
}

/// What a plan holds beside programs.
#[derive(Clone, Debug)]
pub struct Details {
    /// Name of the spec.
    pub name: String,
    /// Rewritten or not.
    pub form: Form,
    /// How numbers are stored.
    pub precision: Precision,
    /// What became of each linear.
    pub linears: Vec<LinearReport>,
    /// What lives from the forward to the backward pass, in words.
    pub recompute: String,
    /// What a step computes ([`Plan::computation`]).
    pub computation: Hash,
    /// The run.
    pub recipe: Recipe,
    /// Where it came from.
    pub origin: Origin,
    /// The source of `origin.architecture`, in which nodes have their places.
    pub architecture: SourceId,
}

/// Writes the plan down and verifies it. `programs` are the three programs with graphs, in order of kind.
///
/// # Errors
/// The verifier's, which are bugs of the compiler.
pub fn run(programs: &[Scheduled], details: Details) -> Result<Plan, VerifyError> {
    let first = &programs[0].graph;
    let lines = Lines::new(details.architecture, &details.origin.architecture);
    let mut layout = Layout::new(details.precision);
    let parameters = layout.parameters(first, &details.linears);
    let whole = layout.wholes();
    let scalar = |layout: &mut Layout, name: &str, segment, dtype| {
        layout.root(name, TensorType::new(dtype, Shape::scalar()), segment)
    };
    let step = scalar(&mut layout, "step", Segment::Optimizer, DType::I32);
    let loss_scale = scalar(&mut layout, "loss_scale", Segment::Scalars, DType::F32);
    let accumulate = scalar(&mut layout, "accumulate", Segment::Scalars, DType::F32);
    let learning_rate = scalar(&mut layout, "learning_rate", Segment::Scalars, DType::F32);
    let gradient_norm = scalar(&mut layout, "gradient_norm", Segment::Outputs, DType::F32);
    let gradient_finite = scalar(&mut layout, "gradient_finite", Segment::Outputs, DType::F32);

    let mut written: Vec<program::Written> = Vec::new();
    for scheduled in programs {
        written.push(program::write(scheduled, &mut layout, loss_scale, accumulate, &lines));
    }
    let update = update_program(
        &layout,
        &details.recipe.optimizer,
        &parameters,
        Update { norm: gradient_norm, finite: gradient_finite, learning_rate, step },
    );
    let io =
        |kind: ProgramKind| &written[programs.iter().position(|p| p.kind == kind).expect("given")];
    let (train, evaluate, logits) =
        (io(ProgramKind::ForwardBackward), io(ProgramKind::Evaluate), io(ProgramKind::Logits));
    let batch = |w: &program::Written| BatchInputs {
        tokens: w.tokens.expect("a model reads tokens"),
        labels: w.labels.expect("a loss reads labels"),
    };
    let logits_tensor = logits.logits.expect("the logits program has logits");
    let vocab_size = layout.tensor(logits_tensor).ty.shape.width();
    let roles = Roles {
        train: batch(train),
        evaluate: batch(evaluate),
        logits_tokens: logits.tokens.expect("a model reads tokens"),
        logits: logits_tensor,
        train_loss: train.loss.expect("the training program has a loss"),
        evaluate_loss: evaluate.loss.expect("the evaluation program has a loss"),
        loss_scale,
        accumulate,
        learning_rate,
        gradient_norm,
        gradient_finite,
        parameters: whole.parameters,
        master: whole.master,
        gradients: whole.gradients,
        first_moment: whole.first_moment,
        second_moment: whole.second_moment,
        step,
        dropout_draw: train.dropout_draw,
    };
    let mut all: Vec<Program> = written.into_iter().map(|w| w.program).collect();
    all.push(update);
    all.sort_by_key(|p| p.kind);
    let workspace = all.iter().flat_map(|p| &p.operations).map(|o| o.workspace).max().unwrap_or(0);
    layout.reserve(Segment::Workspace, aligned(workspace));
    layout.reserve(Segment::Activations, all.iter().map(|p| p.arena_bytes).max().unwrap_or(0));
    let named = |name: &str, tensor| RuntimeScalar { name: name.into(), tensor, bound: None };
    let scalars = vec![
        named("loss_scale", loss_scale),
        RuntimeScalar { bound: Some(1), ..named("accumulate", accumulate) },
        named("learning_rate", learning_rate),
    ];
    let scopes = first.scopes().iter().map(|s| s.path.clone()).collect();
    let (tensors, constants, segment_bytes) = layout.finish();
    let mut plan = Plan {
        name: details.name,
        form: details.form,
        vocab_size,
        tensors,
        parameters: parameters.into_iter().map(|(_, p)| p).collect(),
        constants,
        segment_bytes,
        programs: all,
        roles,
        scalars,
        scopes,
        linears: details.linears,
        recompute: details.recompute,
        computation: details.computation,
        recipe: details.recipe,
        origin: details.origin,
    };
    for index in 0..plan.programs.len() {
        plan.programs[index].arena_lower_bound =
            colac_plan::verify::arena_lower_bound(&plan, &plan.programs[index]);
    }
    colac_plan::verify::verify(&plan)?;
    Ok(plan)
}

/// Tensors of the update program.
struct Update {
    norm: TensorId,
    finite: TensorId,
    learning_rate: TensorId,
    step: TensorId,
}

fn update_program(
    layout: &Layout,
    optimizer: &Optimizer,
    parameters: &[(crate::graph::ParameterId, colac_plan::parameter::Parameter)],
    tensors: Update,
) -> Program {
    let whole = layout.wholes();
    // The segment's order keeps parameters of one role together, so ranges are few.
    let mut ranges: Vec<UpdateRange> = Vec::new();
    let start = |(_, p): &(_, colac_plan::parameter::Parameter)| layout.first_element(p.tensor);
    let end = layout.tensor(whole.parameters).ty.shape.elements();
    let ends = parameters.iter().skip(1).map(start).chain([end]);
    for (entry, end) in parameters.iter().zip(ends) {
        let (start, parameter) = (start(entry), &entry.1);
        let matrix = matches!(parameter.role, Role::Matrix | Role::LowRankDown | Role::LowRankUp);
        let decay = if matrix || optimizer.decay_all { optimizer.weight_decay } else { 0.0 };
        let length = end - start;
        match ranges.last_mut() {
            Some(range)
                if range.weight_decay == Real::new(decay)
                    && range.start + range.length == start =>
            {
                range.length += length;
            }
            _ => ranges.push(UpdateRange {
                start,
                length,
                weight_decay: Real::new(decay),
                learning_rate_factor: Real::new(1.0),
            }),
        }
    }
    let adamw = Op::AdamW {
        beta1: Real::new(optimizer.beta1),
        beta2: Real::new(optimizer.beta2),
        epsilon: Real::new(optimizer.epsilon),
        clip_norm: Real::new(optimizer.clip_norm),
        ranges,
        master: whole.master.is_some(),
    };
    let operation = |op: Op, operands: Vec<TensorId>, results: Vec<TensorId>, path: &str| {
        let types = |ids: &[TensorId]| -> Vec<TensorType> {
            ids.iter().map(|&t| layout.tensor(t).ty.clone()).collect()
        };
        let (read, made) = (types(&operands), types(&results));
        let workspace =
            op.workspace_bytes(&read.iter().collect::<Vec<_>>(), &made.iter().collect::<Vec<_>>());
        Operation {
            writes: vec![Write::Overwrite; results.len()],
            op,
            operands,
            results,
            when: When::Always,
            phase: Phase::Update,
            after: Vec::new(),
            workspace,
            path: path.into(),
            scope: None,
            line: None,
        }
    };
    let Update { norm, finite, learning_rate, step } = tensors;
    let gradients = whole.gradients;
    let state = [whole.parameters, whole.first_moment, whole.second_moment, step];
    let state: Vec<TensorId> = state.into_iter().chain(whole.master).collect();
    let operations = vec![
        operation(Op::GradientNorm, vec![gradients], vec![norm, finite], "gradient_norm"),
        operation(adamw, vec![gradients, norm, finite, learning_rate], state, "adamw"),
    ];
    Program {
        kind: ProgramKind::Update,
        inputs: vec![learning_rate],
        outputs: vec![norm, finite],
        operations,
        arena_bytes: 0,
        arena_lower_bound: 0,
    }
}
