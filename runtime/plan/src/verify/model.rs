//! Parameters, constants, the tensors known by meaning, and the update.

use std::collections::{BTreeMap, BTreeSet};

use crate::dtype::DType;
use crate::op::{Op, Real, UpdateRange};
use crate::parameter::{ConstantContent, Initialization, Parameter, Part, RopeScaling};
use crate::plan::Plan;
use crate::program::{Operation, Program, ProgramKind};
use crate::tensor::{Segment, Tensor, TensorId};

use super::context::{Checked, Context, at_operation, demand};
use super::rule::{Place, Rule, VerifyError, shown};
use super::table::{distinct, roles as known};

/// Elements from the start of a whole segment's tensor to a tensor inside it, and to one past its end.
fn elements_within(whole: &Tensor, tensor: &Tensor) -> Option<(u64, u64)> {
    let (all, part) = (whole.range()?, tensor.range()?);
    let inside = whole.segment == tensor.segment
        && whole.ty.dtype == tensor.ty.dtype
        && all.start <= part.start
        && part.end <= all.end;
    let bytes = tensor.ty.dtype.bytes();
    inside.then(|| ((part.start - all.start) / bytes, (part.end - all.start) / bytes))
}

/// Parameters and their gradients in their segments, their names and start values.
pub(super) fn parameters(cx: &Context<'_>) -> Checked {
    let plan = cx.plan;
    let (whole, whole_gradient) =
        (cx.tensor(plan.roles.parameters), cx.tensor(plan.roles.gradients));
    let mut end = 0;
    for parameter in &plan.parameters {
        let place = || cx.at_tensor(parameter.tensor);
        let (tensor, gradient) = (cx.tensor(parameter.tensor), cx.tensor(parameter.gradient));
        let found = elements_within(whole, tensor);
        demand(found.is_some_and(|(start, _)| start >= end), Rule::Parameters, place, || {
            "it is not within the parameter segment, or not behind the parameter before it".into()
        })?;
        let mirrored = |whole: &Tensor, other: &Tensor| {
            found.is_some()
                && found == elements_within(whole, other)
                && tensor.strides == other.strides
                && tensor.ty.shape.same_extents(&other.ty.shape)
        };
        demand(mirrored(whole_gradient, gradient), Rule::Parameters, place, || {
            format!("its gradient {} does not lie as it does", cx.named(parameter.gradient))
        })?;
        let master = match (plan.roles.master, parameter.master) {
            (Some(whole), Some(master)) => mirrored(cx.tensor(whole), cx.tensor(master)),
            (whole, master) => whole.is_none() && master.is_none(),
        };
        demand(master, Rule::Parameters, place, || {
            "its master parameter is missing or does not lie as it does".into()
        })?;
        let float = tensor.ty.dtype.is_float() && gradient.ty.dtype.is_float();
        demand(float, Rule::Parameters, place, || "it is not a real tensor".into())?;
        end = found.map_or(end, |(_, end)| end);
        let finite = match parameter.initialization {
            Initialization::Normal { std: size } | Initialization::Uniform { bound: size } => {
                size.get().is_finite() && size.get() >= 0.0
            }
            Initialization::Constant { value } => value.get().is_finite(),
        };
        demand(finite, Rule::Initialization, place, || {
            format!("it starts as {:?}, which is not finite or negative", parameter.initialization)
        })?;
    }
    unique(plan.parameters.iter().map(|p| p.path.as_str()).collect(), "path")?;
    let tensors = joined(cx)?;
    unique(tensors, "checkpoint name")
}

fn unique(mut names: Vec<&str>, what: &str) -> Checked {
    names.sort_unstable();
    let empty = names.first().is_some_and(|n| n.is_empty());
    demand(!empty, Rule::ParameterNames, || Place::Plan, || format!("a parameter has no {what}"))?;
    for pair in names.windows(2) {
        demand(
            pair[0] != pair[1],
            Rule::ParameterNames,
            || Place::Plan,
            || format!("two parameters have the {what} `{}`", shown(pair[0])),
        )?;
    }
    Ok(())
}

/// The parts of each joined tensor fit together; gives the name of every checkpoint tensor, joined ones once.
fn joined<'a>(cx: &Context<'a>) -> Result<Vec<&'a str>, VerifyError> {
    let (mut names, mut tensors) = (Vec::new(), BTreeMap::<&str, Vec<(&Parameter, Part)>>::new());
    for parameter in &cx.plan.parameters {
        let name = parameter.checkpoint.name.as_str();
        match parameter.checkpoint.part {
            Some(part) => tensors.entry(name).or_default().push((parameter, part)),
            None => names.push(name),
        }
    }
    for (name, mut parts) in tensors {
        names.push(name);
        parts.sort_by_key(|(_, part)| part.offset);
        let (first, Part { extent, .. }) = parts[0];
        let form = |parameter: &Parameter| {
            let ty = &cx.tensor(parameter.tensor).ty;
            let other: Vec<u64> = ty.shape.extents().into_iter().skip(1).collect();
            (ty.dtype, parameter.checkpoint.transposed, other)
        };
        let mut end = 0;
        for &(parameter, part) in &parts {
            let place = || cx.at_tensor(parameter.tensor);
            demand(form(parameter) == form(first), Rule::JoinedTensors, place, || {
                format!("it does not fit beside the other parts of `{}`", shown(name))
            })?;
            let rows = cx.tensor(parameter.tensor).ty.shape.0.first().map(|axis| axis.extent);
            let rows = rows.filter(|_| part.offset == end && part.extent == extent);
            demand(rows.is_some(), Rule::JoinedTensors, place, || {
                format!(
                    "it is at {} of {} in `{}`, where {end} of {extent} are taken",
                    part.offset,
                    part.extent,
                    shown(name)
                )
            })?;
            // Extents are below 2^40 and there are fewer parameters than bytes in a file.
            end += rows.unwrap_or(0);
        }
        let place = || cx.at_tensor(first.tensor);
        demand(end == extent, Rule::JoinedTensors, place, || {
            format!("the parts of `{}` end at {end} of {extent}", shown(name))
        })?;
    }
    Ok(names)
}

/// Constants have one content each.
pub(super) fn constants(cx: &Context<'_>) -> Checked {
    let mut filled = vec![false; cx.plan.tensors.len()];
    for constant in &cx.plan.constants {
        let tensor = cx.tensor(constant.tensor);
        let place = || cx.at_tensor(constant.tensor);
        let free = tensor.segment == Segment::Constants
            && tensor.parent.is_none()
            && !filled[constant.tensor.index()];
        demand(free, Rule::Constants, place, || {
            "it has a content but is no constant of its own, or has two".into()
        })?;
        filled[constant.tensor.index()] = true;
        let fits = match constant.content {
            ConstantContent::RopeCos { theta, scaling }
            | ConstantContent::RopeSin { theta, scaling } => {
                tensor.ty.shape.ndim() == 2
                    && tensor.ty.dtype.is_float()
                    && tensor.is_packed()
                    && positive(theta)
                    && scales(scaling)
            }
            ConstantContent::Positions => {
                tensor.ty.shape.ndim() >= 1
                    && tensor.ty.dtype == DType::I32
                    && tensor.is_packed()
                    && i32::try_from(tensor.ty.shape.width()).is_ok()
            }
        };
        demand(fits, Rule::Constants, place, || {
            format!("{} cannot hold {:?}", tensor.ty, constant.content)
        })?;
    }
    for (index, tensor) in cx.plan.tensors.iter().enumerate() {
        let empty =
            tensor.segment == Segment::Constants && tensor.parent.is_none() && !filled[index];
        demand(
            !empty,
            Rule::Constants,
            || cx.at_tensor(TensorId(index as u32)),
            || "it has no content".into(),
        )?;
    }
    Ok(())
}

fn positive(number: Real) -> bool {
    number.get().is_finite() && number.get() > 0.0
}

/// Whether the numbers of a scaling are in their ranges.
fn scales(scaling: RopeScaling) -> bool {
    match scaling {
        RopeScaling::None => true,
        RopeScaling::Linear { factor } => positive(factor),
        RopeScaling::Bands {
            factor,
            low_frequency_factor: low,
            high_frequency_factor: high,
            original_length,
        } => {
            positive(factor)
                && positive(low)
                && positive(high)
                && low.get() < high.get()
                && original_length > 0
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_length, attention_factor } => {
            positive(factor)
                && positive(beta_slow)
                && positive(beta_fast)
                && beta_slow.get() < beta_fast.get()
                && original_length > 0
                && positive(attention_factor)
        }
    }
}

/// Types and segments of the tensors known by meaning.
pub(super) fn roles(cx: &Context<'_>) -> Checked {
    let roles = &cx.plan.roles;
    let all = known(roles);
    demand(
        distinct(&all.iter().map(|(_, id)| *id).collect::<Vec<_>>()),
        Rule::Roles,
        || Place::Plan,
        || "two of its roles are the same tensor".into(),
    )?;
    let name = |id: TensorId| all.iter().find(|r| r.1 == id).map_or("", |r| r.0);
    let role = |id: TensorId, segments: &[Segment], dtype: Option<DType>, ndim: usize| {
        let tensor = cx.tensor(id);
        let fits = segments.contains(&tensor.segment)
            && dtype.map_or(tensor.ty.dtype.is_float(), |dtype| dtype == tensor.ty.dtype)
            && tensor.ty.shape.ndim() == ndim
            && tensor.is_packed()
            && tensor.parent.is_none();
        demand(
            fits,
            Rule::Roles,
            || cx.at_tensor(id),
            || format!("{} in {} cannot be `{}`", tensor.ty, tensor.segment, name(id)),
        )
    };
    for batch in [&roles.train, &roles.evaluate] {
        role(batch.tokens, &[Segment::Inputs], Some(DType::I32), 2)?;
        role(batch.labels, &[Segment::Inputs], Some(DType::I32), 2)?;
    }
    role(roles.logits_tokens, &[Segment::Inputs], Some(DType::I32), 2)?;
    role(roles.logits, &[Segment::Outputs], None, 3)?;
    for loss in [roles.train_loss, roles.evaluate_loss] {
        role(loss, &[Segment::Outputs], Some(DType::F32), 1)?;
    }
    for scalar in [roles.loss_scale, roles.accumulate, roles.learning_rate] {
        role(scalar, &[Segment::Scalars], Some(DType::F32), 0)?;
    }
    for scalar in [roles.gradient_norm, roles.gradient_finite] {
        role(scalar, &[Segment::Outputs, Segment::Scalars], Some(DType::F32), 0)?;
    }
    role(roles.step, &[Segment::Optimizer], Some(DType::I32), 0)?;
    if let Some(draw) = roles.dropout_draw {
        role(draw, &[Segment::Inputs], Some(DType::I32), 1)?;
    }
    let rows = [
        (roles.parameters, Segment::Parameters),
        (roles.gradients, Segment::Gradients),
        (roles.first_moment, Segment::Optimizer),
        (roles.second_moment, Segment::Optimizer),
    ];
    let rows = rows.into_iter().chain(roles.master.map(|master| (master, Segment::Optimizer)));
    let length = cx.tensor(roles.parameters).ty.shape.elements();
    for (id, segment) in rows {
        role(id, &[segment], None, 1)?;
        let tensor = cx.tensor(id);
        demand(
            tensor.ty.shape.elements() == length,
            Rule::Roles,
            || cx.at_tensor(id),
            || {
                format!(
                    "`{}` has {} elements, the parameters have {length}",
                    name(id),
                    tensor.ty.shape.elements()
                )
            },
        )?;
        let size = crate::op::cost::aligned(tensor.ty.bytes());
        let whole =
            segment == Segment::Optimizer || (tensor.offset == 0 && size == cx.plan.bytes(segment));
        demand(
            whole,
            Rule::Roles,
            || cx.at_tensor(id),
            || format!("it is not the whole of {segment}"),
        )?;
    }
    Ok(())
}

/// Single numbers that the host sets.
pub(super) fn scalars(cx: &Context<'_>) -> Checked {
    let scalars = &cx.plan.scalars;
    for scalar in scalars {
        let tensor = cx.tensor(scalar.tensor);
        let single = tensor.segment == Segment::Scalars
            && tensor.ty.shape.ndim() == 0
            && tensor.parent.is_none();
        demand(
            single,
            Rule::Scalars,
            || cx.at_tensor(scalar.tensor),
            || {
                format!(
                    "{} in {} cannot be the scalar `{}`",
                    tensor.ty,
                    tensor.segment,
                    shown(&scalar.name)
                )
            },
        )?;
    }
    let mut names: Vec<&str> = scalars.iter().map(|s| s.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let tensors: Vec<TensorId> = scalars.iter().map(|s| s.tensor).collect();
    let different = names.len() == scalars.len() && distinct(&tensors);
    demand(different, Rule::Scalars, || Place::Plan, || "two of its scalars are the same".into())
}

/// Inputs and declared outputs of a program.
pub(super) fn interface(cx: &Context<'_>, program: &Program) -> Checked {
    let roles = &cx.plan.roles;
    let (inputs, outputs) = match program.kind {
        ProgramKind::ForwardBackward => {
            let batch = [roles.train.tokens, roles.train.labels].into_iter();
            (batch.chain(roles.dropout_draw).collect(), vec![roles.train_loss])
        }
        ProgramKind::Update => (vec![], vec![roles.gradient_norm, roles.gradient_finite]),
        ProgramKind::Evaluate => {
            (vec![roles.evaluate.tokens, roles.evaluate.labels], vec![roles.evaluate_loss])
        }
        ProgramKind::Logits => (vec![roles.logits_tokens], vec![roles.logits]),
    };
    let place = || Place::Program(program.kind);
    for (name, ids, needed, rule) in [
        ("inputs", &program.inputs, &inputs, Rule::ProgramInputs),
        ("outputs", &program.outputs, &outputs, Rule::ProgramOutputs),
    ] {
        demand(distinct(ids), rule, place, || format!("its {name} name a tensor twice"))?;
        let missing = needed.iter().find(|id| !ids.contains(id));
        demand(missing.is_none(), rule, place, || {
            format!("its {name} lack {}", missing.map_or(String::new(), |&id| cx.named(id)))
        })?;
    }
    let scalars: BTreeSet<TensorId> = cx.plan.scalars.iter().map(|s| s.tensor).collect();
    for &id in &program.inputs {
        let scalar = scalars.contains(&id);
        demand(scalar || inputs.contains(&id), Rule::ProgramInputs, place, || {
            format!("its input {} is neither of its batch nor a listed scalar", cx.named(id))
        })?;
    }
    Ok(())
}

/// The norm and AdamW stand in `update`, once each, over the tensors of the roles; nowhere else.
pub(super) fn update(cx: &Context<'_>) -> Checked {
    let roles = &cx.plan.roles;
    let (mut norms, mut steps) = (0, 0);
    for program in &cx.plan.programs {
        for (index, operation) in program.operations.iter().enumerate() {
            let Operation { op, operands, results, .. } = operation;
            let right = match op {
                Op::GradientNorm => {
                    norms += 1;
                    operands[..] == [roles.gradients]
                        && results[..] == [roles.gradient_norm, roles.gradient_finite]
                }
                Op::AdamW { master, .. } => {
                    steps += 1;
                    let state =
                        [roles.parameters, roles.first_moment, roles.second_moment, roles.step];
                    let state: Vec<TensorId> = state.into_iter().chain(roles.master).collect();
                    let read = [
                        roles.gradients,
                        roles.gradient_norm,
                        roles.gradient_finite,
                        roles.learning_rate,
                    ];
                    operands[..] == read && *results == state && *master == roles.master.is_some()
                }
                _ => continue,
            };
            let place = || at_operation(program, index);
            let right = right && program.kind == ProgramKind::Update;
            demand(right, Rule::Update, place, || {
                "it is not over the tensors of the roles, or not in `update`".into()
            })?;
            if let Op::AdamW { beta1, beta2, epsilon, clip_norm, ranges, master: _ } = op {
                let stated = &cx.plan.recipe.optimizer;
                let recipe =
                    [stated.beta1, stated.beta2, stated.epsilon, stated.clip_norm].map(Real::new);
                demand(
                    [*beta1, *beta2, *epsilon, *clip_norm] == recipe,
                    Rule::Update,
                    place,
                    || "its constants are not those of the recipe".into(),
                )?;
                update_ranges(cx, cx.plan, ranges, place)?;
            }
        }
    }
    demand(
        norms == 1 && steps == 1,
        Rule::Update,
        || Place::Program(ProgramKind::Update),
        || format!("it has {norms} gradient norms and {steps} AdamW, not one of each"),
    )
}

fn update_ranges(
    cx: &Context<'_>,
    plan: &Plan,
    ranges: &[UpdateRange],
    place: impl Fn() -> Place,
) -> Checked {
    let whole = cx.tensor(plan.roles.parameters);
    let mut at = 0;
    for parameter in &plan.parameters {
        let (start, end) =
            elements_within(whole, cx.tensor(parameter.tensor)).unwrap_or((0, u64::MAX));
        // Parameters and ranges are both in order, so one walk over both finds each parameter's range.
        while ranges.get(at).is_some_and(|r| r.start + r.length <= start) {
            at += 1;
        }
        let inside = ranges.get(at).is_some_and(|r| r.start <= start && end <= r.start + r.length);
        demand(inside, Rule::UpdateRanges, &place, || {
            format!("no one of its ranges holds {}", cx.named(parameter.tensor))
        })?;
    }
    Ok(())
}
