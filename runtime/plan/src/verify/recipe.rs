//! The recipe against the programs, and its numbers alone.

use crate::op::Op;
use crate::parameter::ConstantContent;
use crate::program::{Program, ProgramKind};
use crate::recipe::{Recipe, ScheduleKind};
use crate::tensor::TensorId;

use super::context::{Checked, Context, at_operation, demand};
use super::rule::{Place, Rule};

/// Every number where it has a meaning.
pub(super) fn numbers(recipe: &Recipe) -> Checked {
    let Recipe { schedule, optimizer, evaluation, .. } = recipe;
    let size = |x: f64| x.is_finite() && x >= 0.0;
    let decay = match schedule.kind {
        ScheduleKind::WarmupStableDecay { decay_steps } => decay_steps,
        ScheduleKind::Cosine | ScheduleKind::Linear | ScheduleKind::Constant => 0,
    };
    let phases = schedule.warmup_steps.checked_add(decay).is_some_and(|sum| sum <= schedule.steps);
    let rules = [
        ("sequence_length", recipe.sequence_length > 0),
        ("micro_batch", recipe.micro_batch > 0),
        ("global_batch", recipe.global_batch > 0),
        ("schedule.steps", schedule.steps > 0),
        ("schedule.warmup_steps (with the decay at most steps)", phases),
        ("schedule.learning_rate", size(schedule.learning_rate)),
        ("schedule.final_factor", (0.0..=1.0).contains(&schedule.final_factor)),
        ("optimizer.beta1", (0.0..1.0).contains(&optimizer.beta1)),
        ("optimizer.beta2", (0.0..1.0).contains(&optimizer.beta2)),
        ("optimizer.epsilon", optimizer.epsilon.is_finite() && optimizer.epsilon > 0.0),
        ("optimizer.weight_decay", size(optimizer.weight_decay)),
        ("optimizer.clip_norm", size(optimizer.clip_norm)),
        ("evaluation.batch", evaluation.batch > 0),
        ("evaluation.reference_batch", evaluation.reference_batch > 0),
        ("non_finite.limit", recipe.non_finite.limit > 0),
        ("data.validation_fraction", (0.0..1.0).contains(&recipe.data.validation_fraction)),
        (
            "data.mixture.weight",
            recipe.data.mixture.iter().all(|source| size(source.weight) && source.weight > 0.0),
        ),
    ];
    let wrong = rules.iter().find(|(_, holds)| !holds);
    demand(
        wrong.is_none(),
        Rule::RecipeNumbers,
        || Place::Recipe,
        || format!("{} is out of its range", wrong.map_or("", |rule| rule.0)),
    )
}

/// Batches and sequence length as the inputs and outputs have them.
pub(super) fn batches(cx: &Context<'_>) -> Checked {
    let (roles, recipe) = (&cx.plan.roles, &cx.plan.recipe);
    let whole = recipe.global_batch.is_multiple_of(recipe.micro_batch);
    demand(
        whole,
        Rule::RecipeBatches,
        || Place::Recipe,
        || {
            format!(
                "{} rows are no whole number of micro-batches of {}",
                recipe.global_batch, recipe.micro_batch
            )
        },
    )?;
    let shape = |id: TensorId, expected: &[u64]| {
        let found = &cx.tensor(id).ty.shape;
        demand(
            found.extents() == expected,
            Rule::RecipeBatches,
            || cx.at_tensor(id),
            || {
                format!(
                    "its shape is {found}, but by recipe and vocabulary it must be {expected:?}"
                )
            },
        )
    };
    let sequence = u64::from(recipe.sequence_length);
    let (train, evaluate) = (u64::from(recipe.micro_batch), u64::from(recipe.evaluation.batch));
    for (batch, loss, rows) in
        [(&roles.train, roles.train_loss, train), (&roles.evaluate, roles.evaluate_loss, evaluate)]
    {
        shape(batch.tokens, &[rows, sequence])?;
        shape(batch.labels, &[rows, sequence])?;
        shape(loss, &[rows])?;
    }
    shape(roles.logits_tokens, &[1, sequence])?;
    shape(roles.logits, &[1, sequence, cx.plan.vocab_size])
}

/// Token ids and positions are looked up only in tables that have them all, labels only in heads of exactly the
/// vocabulary.
pub(super) fn vocabulary(cx: &Context<'_>, program: &Program) -> Checked {
    let (roles, vocab) = (&cx.plan.roles, cx.plan.vocab_size);
    let sane = (1..1 << 31).contains(&vocab);
    demand(
        sane,
        Rule::RecipeVocabulary,
        || Place::Plan,
        || format!("its vocabulary has {vocab} tokens"),
    )?;
    let (tokens, labels) = match program.kind {
        ProgramKind::ForwardBackward | ProgramKind::Update => {
            (roles.train.tokens, Some(roles.train.labels))
        }
        ProgramKind::Evaluate => (roles.evaluate.tokens, Some(roles.evaluate.labels)),
        ProgramKind::Logits => (roles.logits_tokens, None),
    };
    for (index, operation) in program.operations.iter().enumerate() {
        let rows = |operand: usize| cx.tensor(operation.operands[operand]).ty.shape.0[0].extent;
        let from = |operand: usize| cx.root(operation.operands[operand]);
        let looks_up = |rows: u64| {
            let ids = from(0);
            let mut constants = cx.plan.constants.iter();
            let positions = constants.any(|constant| {
                constant.tensor == ids && constant.content == ConstantContent::Positions
            });
            (ids == tokens && rows >= vocab)
                || (positions && rows >= cx.tensor(ids).ty.shape.width())
        };
        let (holds, what) = match &operation.op {
            Op::Embedding => (looks_up(rows(1)), "table"),
            Op::EmbeddingBackward { rows } => (looks_up(*rows), "table"),
            Op::HeadLoss { .. } | Op::HeadLossWithGradient { .. } => {
                (Some(from(2)) == labels && rows(1) == vocab, "head")
            }
            _ => continue,
        };
        demand(
            holds,
            Rule::RecipeVocabulary,
            || at_operation(program, index),
            || {
                format!(
                    "its {what} does not fit the {vocab} token ids or the positions, or its ids are not those of the batch"
                )
            },
        )?;
    }
    Ok(())
}
