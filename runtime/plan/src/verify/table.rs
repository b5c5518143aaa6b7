//! The table of tensors: ids, extents, strides, places in segments, parents.

use std::collections::BTreeSet;

use crate::plan::{BatchInputs, Decision, Plan, Roles};
use crate::program::Write;
use crate::tensor::{Segment, TensorId};

use super::context::{Checked, Context, demand};
use super::region::{Region, is_injective};
use super::rule::{Place, Rule, shown};

/// Longest name or path, in bytes.
const MAX_TEXT: usize = 1024;
/// Elements of a tensor and strides, even of axes of one element, stay below this.
const MAX_ELEMENTS: u64 = 1 << 40;
/// Bytes of all segments together stay below this.
const MAX_BYTES: u64 = 1 << 63;

/// Offsets of roots and sizes of segments are multiples of this.
const ALIGNMENT: u64 = crate::op::cost::ALIGNMENT;

/// Names that reports and errors print.
pub(super) fn texts(plan: &Plan) -> Checked {
    let names = plan.tensors.iter().map(|t| &t.name);
    let axes = plan.tensors.iter().flat_map(|t| t.ty.shape.0.iter().map(|a| &a.name));
    let parameters = plan.parameters.iter().flat_map(|p| [&p.path, &p.checkpoint.name]);
    let operations = plan.programs.iter().flat_map(|p| p.operations.iter().map(|o| &o.path));
    let scalars = plan.scalars.iter().map(|s| &s.name);
    let linears = plan.linears.iter().flat_map(|l| {
        let decision = match &l.decision {
            Decision::Rewritten { activation, .. } => activation,
            Decision::KeptDense { reason } => reason,
        };
        [&l.path, decision]
    });
    let all = [&plan.name].into_iter().chain(names).chain(axes).chain(parameters).chain(operations);
    for text in all.chain(scalars).chain(&plan.scopes).chain(linears) {
        let printable = text.len() <= MAX_TEXT && !text.chars().any(char::is_control);
        let reason = || {
            format!("the name `{}` is longer than {MAX_TEXT} bytes or not printable", shown(text))
        };
        demand(printable, Rule::Text, || Place::Plan, reason)?;
    }
    Ok(())
}

/// The tensors of the roles, with their names.
pub(super) fn roles(roles: &Roles) -> Vec<(&'static str, TensorId)> {
    let Roles {
        train, evaluate, logits_tokens, logits, train_loss, evaluate_loss, loss_scale, ..
    } = roles;
    let Roles { accumulate, learning_rate, gradient_norm, gradient_finite, .. } = roles;
    let Roles { parameters, gradients, first_moment, second_moment, step, .. } = roles;
    let Roles { master, dropout_draw, .. } = roles;
    let BatchInputs { tokens: train_tokens, labels: train_labels } = train;
    let BatchInputs { tokens: evaluate_tokens, labels: evaluate_labels } = evaluate;
    let mut known = vec![
        ("train.tokens", *train_tokens),
        ("train.labels", *train_labels),
        ("evaluate.tokens", *evaluate_tokens),
        ("evaluate.labels", *evaluate_labels),
        ("logits_tokens", *logits_tokens),
        ("logits", *logits),
        ("train_loss", *train_loss),
        ("evaluate_loss", *evaluate_loss),
        ("loss_scale", *loss_scale),
        ("accumulate", *accumulate),
        ("learning_rate", *learning_rate),
        ("gradient_norm", *gradient_norm),
        ("gradient_finite", *gradient_finite),
        ("parameters", *parameters),
        ("gradients", *gradients),
        ("first_moment", *first_moment),
        ("second_moment", *second_moment),
        ("step", *step),
    ];
    known.extend(master.map(|master| ("master", master)));
    known.extend(dropout_draw.map(|draw| ("dropout_draw", draw)));
    known
}

/// Every id of the plan is in range.
pub(super) fn ids(plan: &Plan) -> Checked {
    let check = |id: TensorId, place: &dyn Fn() -> Place| {
        let count = plan.tensors.len();
        demand(id.index() < count, Rule::TensorId, place, || {
            format!("there is no tensor {id}; there are {count}")
        })
    };
    for (index, tensor) in plan.tensors.iter().enumerate() {
        if let Some(parent) = tensor.parent {
            check(parent, &|| Place::Tensor {
                id: TensorId(index as u32),
                name: tensor.name.clone(),
            })?;
        }
    }
    let parameters =
        plan.parameters.iter().flat_map(|p| [p.tensor, p.gradient].into_iter().chain(p.master));
    let constants = plan.constants.iter().map(|c| c.tensor);
    let scalars = plan.scalars.iter().map(|s| s.tensor);
    let known = roles(&plan.roles).into_iter().map(|(_, id)| id);
    for id in parameters.chain(constants).chain(scalars).chain(known) {
        check(id, &|| Place::Plan)?;
    }
    for program in &plan.programs {
        for &id in program.inputs.iter().chain(&program.outputs) {
            check(id, &|| Place::Program(program.kind))?;
        }
        for (index, operation) in program.operations.iter().enumerate() {
            let scalars = operation.writes.iter().filter_map(|write| match write {
                Write::AddIf(scalar) => Some(scalar),
                Write::Overwrite | Write::Add => None,
            });
            for &id in operation.operands.iter().chain(&operation.results).chain(scalars) {
                check(id, &|| super::context::at_operation(program, index))?;
            }
        }
    }
    Ok(())
}

/// Parents form no ring.
pub(super) fn rings(plan: &Plan) -> Checked {
    // 0: not seen, 1: on the chain being walked, 2: leads to a root.
    let mut state = vec![0u8; plan.tensors.len()];
    let mut chain = Vec::new();
    for start in 0..plan.tensors.len() {
        let mut next = Some(TensorId(start as u32));
        while let Some(id) = next.filter(|id| state[id.index()] != 2) {
            let name = || plan.tensor(id).name.clone();
            demand(
                state[id.index()] == 0,
                Rule::Parent,
                || Place::Tensor { id, name: name() },
                || "it is its own parent".into(),
            )?;
            state[id.index()] = 1;
            chain.push(id);
            next = plan.tensor(id).parent;
        }
        for id in chain.drain(..) {
            state[id.index()] = 2;
        }
    }
    Ok(())
}

/// Sizes of segments and arenas.
pub(super) fn sizes(plan: &Plan) -> Checked {
    let mut total: u64 = 0;
    for segment in Segment::ALL {
        let bytes = plan.bytes(segment);
        let reason =
            || format!("segment {segment} has {bytes} bytes, not a multiple of {ALIGNMENT}");
        demand(bytes.is_multiple_of(ALIGNMENT), Rule::SegmentSizes, || Place::Plan, reason)?;
        total = total.saturating_add(bytes);
    }
    let reason = || format!("its segments have {total} bytes or more together");
    demand(total < MAX_BYTES, Rule::SegmentSizes, || Place::Plan, reason)?;
    for program in &plan.programs {
        let bytes = program.arena_bytes;
        let reason = || format!("its arena has {bytes} bytes, not a multiple of {ALIGNMENT}");
        demand(
            bytes.is_multiple_of(ALIGNMENT),
            Rule::SegmentSizes,
            || Place::Program(program.kind),
            reason,
        )?;
    }
    Ok(())
}

/// Each tensor alone.
pub(super) fn tensors(plan: &Plan) -> Checked {
    for (index, tensor) in plan.tensors.iter().enumerate() {
        let place = || Place::Tensor { id: TensorId(index as u32), name: tensor.name.clone() };
        let axes = &tensor.ty.shape.0;
        let elements = axes.iter().try_fold(1u64, |product, a| product.checked_mul(a.extent));
        let sound = axes.iter().all(|a| a.extent > 0) && elements.is_some_and(|e| e < MAX_ELEMENTS);
        demand(sound, Rule::Extents, place, || format!("its shape is {}", tensor.ty.shape))?;
        let counted = tensor.strides.len() == axes.len();
        let innermost = tensor.strides.last().is_none_or(|&stride| stride == 1);
        let small = tensor.strides.iter().all(|&stride| stride < MAX_ELEMENTS);
        demand(
            counted && innermost && small && is_injective(tensor),
            Rule::Strides,
            place,
            || format!("its strides are {:?} for the shape {}", tensor.strides, tensor.ty.shape),
        )?;
        let (segment, size) = (tensor.segment, plan.bytes(tensor.segment));
        demand(segment != Segment::Workspace, Rule::Bounds, place, || {
            "it lies in the workspace".into()
        })?;
        let end = tensor.range().map(|range| range.end);
        demand(end.is_some_and(|end| end <= size), Rule::Bounds, place, || {
            format!(
                "it starts at {} and does not end within the {size} bytes of {segment}",
                tensor.offset
            )
        })?;
        let alignment = if tensor.parent.is_some() { tensor.ty.dtype.bytes() } else { ALIGNMENT };
        demand(tensor.offset.is_multiple_of(alignment), Rule::Alignment, place, || {
            format!("it starts at {}, not a multiple of {alignment}", tensor.offset)
        })?;
    }
    Ok(())
}

/// Views lie inside their parents.
pub(super) fn parents(plan: &Plan) -> Checked {
    for (index, tensor) in plan.tensors.iter().enumerate() {
        let Some(id) = tensor.parent else { continue };
        let parent = plan.tensor(id);
        let place = || Place::Tensor { id: TensorId(index as u32), name: tensor.name.clone() };
        let alike = tensor.segment == parent.segment && tensor.ty.dtype == parent.ty.dtype;
        let inside = alike && Region::of(parent).contains(&Region::of(tensor));
        demand(inside, Rule::Parent, place, || {
            let what = if alike {
                "outside of"
            } else {
                "in another segment or of another element format than"
            };
            format!("it is {what} its parent {id} `{}`", shown(&parent.name))
        })?;
    }
    Ok(())
}

/// Roots of segments that are not planned over time do not overlap.
pub(super) fn disjoint(cx: &Context<'_>) -> Checked {
    let mut roots: Vec<(Segment, u64, u64, TensorId)> = Vec::new();
    for (index, tensor) in cx.plan.tensors.iter().enumerate() {
        let planned = matches!(
            tensor.segment,
            Segment::Activations | Segment::Parameters | Segment::Gradients
        );
        if tensor.parent.is_none() && !planned {
            let range = tensor.range().expect("bounds are checked");
            roots.push((tensor.segment, range.start, range.end, TensorId(index as u32)));
        }
    }
    roots.sort_unstable();
    for pair in roots.windows(2) {
        let [(a, _, end, first), (b, start, _, second)] = [pair[0], pair[1]];
        demand(
            a != b || end <= start,
            Rule::Disjoint,
            || cx.at_tensor(second),
            || format!("it shares bytes of {a} with {}", cx.named(first)),
        )?;
    }
    Ok(())
}

/// Whether all ids are different.
pub(super) fn distinct(ids: &[TensorId]) -> bool {
    ids.iter().collect::<BTreeSet<_>>().len() == ids.len()
}
