//! Each operation alone: types, attributes, layouts, control edges, workspace, shared bytes, price.

use crate::op::Op;
use crate::program::{Phase, Program, ProgramKind};
use crate::shape::{Shape, TensorType};
use crate::tensor::TensorId;

use super::context::{Checked, Context, at_operation, demand};
use super::layout::{self, Layout};
use super::lifetime::same_layout;
use super::region;
use super::rule::{Place, Rule};

/// Most operands or results of an operation; pairs of them are compared.
const MAX_TENSORS: usize = 128;
/// Costs of a program together stay below this.
const MAX_PRICE: u128 = 1 << 63;

/// All four programs are there.
pub(super) fn programs(programs: &[Program]) -> Checked {
    let kinds: Vec<ProgramKind> = programs.iter().map(|p| p.kind).collect();
    let expected = [
        ProgramKind::ForwardBackward,
        ProgramKind::Update,
        ProgramKind::Evaluate,
        ProgramKind::Logits,
    ];
    let reason = || {
        let names: Vec<&str> = kinds.iter().map(|k| k.name()).collect();
        format!("its programs are {names:?}, not forward_backward, update, evaluate and logits")
    };
    demand(kinds == expected, Rule::Programs, || Place::Plan, reason)
}

pub(super) fn check(cx: &Context<'_>, program: &Program) -> Checked {
    let mut price: u128 = 0;
    for (index, operation) in program.operations.iter().enumerate() {
        let place = || at_operation(program, index);
        let (operands, results) = (&operation.operands, &operation.results);
        let few = operands.len() <= MAX_TENSORS && results.len() <= MAX_TENSORS;
        demand(few, Rule::Types, place, || {
            format!("it has more than {MAX_TENSORS} operands or results")
        })?;
        let types = |ids: &[TensorId]| -> Vec<&TensorType> {
            ids.iter().map(|&id| &cx.tensor(id).ty).collect()
        };
        let (read, made) = (types(operands), types(results));
        let inferred = operation.op.infer(&read).map_err(|error| super::VerifyError {
            rule: Rule::Types,
            place: place(),
            reason: error.to_string(),
        })?;
        demand(inferred.len() == made.len(), Rule::Types, place, || {
            format!("it has {} results, not {}", made.len(), inferred.len())
        })?;
        for (r, (expected, &found)) in inferred.iter().zip(&made).enumerate() {
            demand(operation.op.gives(r, expected, found), Rule::Types, place, || {
                format!(
                    "result {r} is {} of type {found}, but must be {expected}",
                    cx.named(results[r])
                )
            })?;
        }
        attributes(&operation.op).map_or(Ok(()), |name| {
            demand(false, Rule::Attributes, place, || {
                format!("its attribute {name} is not in its range")
            })
        })?;
        let lies = |id: TensorId, layout: Layout, what: &str| {
            demand(layout.holds(cx.tensor(id)), Rule::Layout, place, || {
                format!("{what} {} must {}", cx.named(id), layout.text())
            })
        };
        for (o, &id) in operands.iter().enumerate() {
            lies(id, layout::operand(&operation.op, o), "operand")?;
        }
        for (r, &id) in results.iter().enumerate() {
            lies(id, layout::result(&operation.op, r), "result")?;
        }
        let writes = operation.writes.len();
        demand(writes == results.len(), Rule::WriteCount, place, || {
            format!("it has {} results and {writes} ways of writing them", results.len())
        })?;
        let later = operation.after.iter().find(|&&before| before as usize >= index);
        demand(later.is_none(), Rule::After, place, || {
            format!("it waits for operation {}", later.unwrap_or(&0))
        })?;
        let scopes = cx.plan.scopes.len();
        let in_range = operation.scope.is_none_or(|scope| (scope as usize) < scopes);
        demand(in_range, Rule::Scope, place, || {
            format!("its scope is {:?} of {scopes}", operation.scope)
        })?;
        let fits = match program.kind {
            ProgramKind::ForwardBackward => operation.phase != Phase::Update,
            ProgramKind::Update => operation.phase == Phase::Update,
            ProgramKind::Evaluate | ProgramKind::Logits => operation.phase == Phase::Forward,
        };
        demand(fits, Rule::Phase, place, || format!("its phase is {:?}", operation.phase))?;
        workspace(cx, program, index, &read, &made)?;
        overlap(cx, program, index)?;
        price = price.saturating_add(bound_of(&operation.op, &read, &made));
        demand(price < MAX_PRICE, Rule::Price, place, || {
            "the costs up to here do not fit into 63 bits".into()
        })?;
    }
    Ok(())
}

fn workspace(
    cx: &Context<'_>,
    program: &Program,
    index: usize,
    read: &[&TensorType],
    made: &[&TensorType],
) -> Checked {
    let operation = &program.operations[index];
    let place = || at_operation(program, index);
    let (given, needed) = (operation.workspace, operation.op.workspace_bytes(read, made));
    demand(given >= needed, Rule::Workspace, place, || {
        format!("it needs {needed} bytes of workspace and has {given}")
    })?;
    let size = cx.plan.bytes(crate::Segment::Workspace);
    demand(given <= size, Rule::Workspace, place, || {
        format!("its workspace of {given} bytes exceeds the {size} there are")
    })
}

/// Results against results and operands, by bytes.
fn overlap(cx: &Context<'_>, program: &Program, index: usize) -> Checked {
    let operation = &program.operations[index];
    let place = || at_operation(program, index);
    for (r, &result) in operation.results.iter().enumerate() {
        let made = cx.tensor(result);
        for &other in &operation.results[..r] {
            demand(region::disjoint(made, cx.tensor(other)), Rule::Overlap, place, || {
                format!("its results {} and {} share bytes", cx.named(other), cx.named(result))
            })?;
        }
        let mut shared = 0;
        for (o, &operand) in operation.operands.iter().enumerate() {
            let read = cx.tensor(operand);
            if region::disjoint(made, read) {
                continue;
            }
            shared += 1;
            let allowed =
                shared == 1 && operation.op.in_place(o, r) && same_place(cx, operand, result);
            demand(allowed, Rule::Overlap, place, || {
                format!(
                    "result {} shares bytes with operand {}",
                    cx.named(result),
                    cx.named(operand)
                )
            })?;
        }
    }
    Ok(())
}

/// Whether two tensors are the same elements of the same bytes.
pub(super) fn same_place(cx: &Context<'_>, a: TensorId, b: TensorId) -> bool {
    let (a, b) = (cx.tensor(a), cx.tensor(b));
    a.segment == b.segment && a.offset == b.offset && same_layout(a, b)
}

/// The name of a real attribute that has no meaning, if there is one.
fn attributes(op: &Op) -> Option<&'static str> {
    let wrong = |name: &'static str, holds: bool| (!holds).then_some(name);
    match op {
        Op::RmsNorm { epsilon, .. } | Op::LayerNorm { epsilon, .. } => wrong("epsilon", epsilon.get().is_finite()),
        // The shape rule judges the cap.
        Op::Attention { scores } | Op::AttentionBackward { scores, .. } => {
            wrong("scale", scores.scale.get().is_finite())
        }
        Op::AdamW { beta1, beta2, epsilon, clip_norm, ranges, master: _ } => {
            let fraction = |x: f64| (0.0..1.0).contains(&x);
            let size = |x: f64| x.is_finite() && x >= 0.0;
            wrong("beta1", fraction(beta1.get()))
                .or(wrong("beta2", fraction(beta2.get())))
                .or(wrong("epsilon", size(epsilon.get()) && epsilon.get() > 0.0))
                .or(wrong("clip_norm", size(clip_norm.get())))
                .or(wrong("weight_decay", ranges.iter().all(|r| size(r.weight_decay.get()))))
                .or(wrong(
                    "learning_rate_factor",
                    ranges.iter().all(|r| size(r.learning_rate_factor.get())),
                ))
        }
        Op::Linear
        | Op::LinearBackwardInput
        | Op::LinearBackwardWeight
        | Op::Embedding
        | Op::EmbeddingBackward { .. }
        | Op::RmsNormBackward { .. }
        | Op::LayerNormBackward { .. }
        // Its shape rule judges its probability.
        | Op::Dropout { .. }
        | Op::RowSum { .. }
        | Op::Softmax
        | Op::Rope { .. }
        | Op::Pointwise { .. }
        | Op::ColumnSum
        | Op::HeadLoss { .. }
        | Op::HeadLossWithGradient { .. }
        | Op::GradientNorm
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Shift { .. }
        | Op::Sum => None,
    }
}

/// At least as large as every number of the operation's cost and every step on the way to it, so that costs can be
/// computed and added in 64 bits.
fn bound_of(op: &Op, read: &[&TensorType], made: &[&TensorType]) -> u128 {
    let elements = |i: usize| u128::from(read[i].shape.elements());
    // A mask only ever hides pairs of positions.
    let attention = |q: &Shape, v: &Shape| {
        let widths = u128::from(q.width()) + u128::from(v.width());
        8 * u128::from(q.rows()) * u128::from(q.0[1].extent) * (widths + 2)
    };
    let head = |factor: u128| factor * elements(0) * u128::from(read[1].shape.0[0].extent);
    let arithmetic = match op {
        Op::Linear => head(2),
        Op::LinearBackwardInput | Op::LinearBackwardWeight => {
            2 * elements(0) * u128::from(read[1].shape.width())
        }
        Op::Attention { .. } => attention(&read[0].shape, &read[2].shape),
        Op::AttentionBackward { turned_back, .. } => {
            let turned = if turned_back.is_some() { elements(1) + elements(2) } else { 0 };
            attention(&read[1].shape, &read[3].shape) + 22 * turned
        }
        Op::HeadLoss { transform, .. } => {
            head(6 + transform.as_ref().map_or(0, |t| u128::from(t.arithmetic())))
        }
        Op::HeadLossWithGradient { transform, .. } => {
            let both =
                transform.iter().map(|t| t.function.arithmetic() + t.derivative.arithmetic());
            head(7 + u128::from(both.sum::<u64>()))
        }
        Op::Slice { .. } | Op::Concat { .. } | Op::Shift { .. } => 0,
        Op::Pointwise { program } => {
            u128::from(program.arithmetic()) * u128::from(made[0].shape.elements())
        }
        Op::EmbeddingBackward { .. } => elements(1),
        Op::RmsNorm { prologue: program, .. }
        | Op::LayerNorm { prologue: program, .. }
        | Op::RmsNormBackward { epilogue: program, .. }
        | Op::LayerNormBackward { epilogue: program, .. } => {
            let inside = program.as_ref().map_or(0, |program| u128::from(program.arithmetic()));
            (22 + inside) * u128::from(made[0].shape.elements())
        }
        Op::Embedding
        | Op::Dropout { .. }
        | Op::RowSum { .. }
        | Op::Softmax
        | Op::Rope { .. }
        | Op::ColumnSum
        | Op::Sum
        | Op::GradientNorm
        | Op::AdamW { .. } => 22 * elements(0),
    };
    let bytes: u128 = read.iter().chain(made).map(|ty| 6 * u128::from(ty.bytes())).sum();
    arithmetic + bytes
}
