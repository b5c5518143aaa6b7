//! The sections about training, and the rules between their keys.
//!
//! Owns how `[train]` to `[checkpoint]` become a [`Recipe`]; `[data]` is read by [`super::data`]. Must not know models
//! or plans.

use std::cmp::Ordering;

use colac_plan::recipe::{
    Checkpoint, Evaluation, LossNormalization, NonFinite, NonFinitePolicy, Optimizer, Recipe,
    Schedule, ScheduleKind,
};

use super::decode::{Decoder, Section};
use super::schema::MOST_STEPS;
use super::spanned::Spanned;
use super::{codes, data};
use crate::diagnostics::{Diagnostic, Severity, Span};

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Horizon {
    /// This many updates: `train.steps`.
    Steps(Spanned<u64>),
    /// This many tokens for each parameter of the full-rank model: `train.tokens_per_parameter`.
    TokensPerParameter(Spanned<f64>),
}

/// The updates of a run that is measured in tokens for each of so many parameters.
///
/// # Errors
///
/// A number that `train.steps` could not have.
pub(super) fn steps_for(
    ratio: Spanned<f64>,
    parameters: u64,
    recipe: &Recipe,
) -> Result<u64, Diagnostic> {
    let tokens = u64::from(recipe.global_batch) * u64::from(recipe.sequence_length);
    let steps = (ratio.value * parameters as f64 / tokens as f64).ceil();
    if steps <= MOST_STEPS as f64 {
        return Ok((steps as u64).max(1));
    }
    Err(Diagnostic::error(codes::OUT_OF_RANGE, "`train.tokens_per_parameter` is out of range")
        .at(ratio.span, format!("comes to {steps:.0} steps for {parameters} parameters"))
        .help("give a smaller number; about 20 is usual"))
}

/// The parts of the schedule that have a length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phases {
    warmup: Spanned<u64>,
    decay: Option<Spanned<u64>>,
}

/// Decodes everything but `[model]` and `[cola]`; `None` if a part is missing or wrong, which was then reported.
pub(super) fn decode(
    decoder: &mut Decoder<'_>,
    train: &Section<'_>,
) -> Option<(Horizon, Phases, Recipe)> {
    let sequence_length = decoder.count(train, "sequence_length");
    let micro_batch = decoder.count(train, "micro_batch");
    let global_batch = decoder.count(train, "global_batch");
    if let (Some(micro), Some(global)) = (micro_batch, global_batch) {
        check_batches(decoder, micro, global);
    }
    let horizon = horizon(decoder, train);
    let seed = decoder.integer(train, "seed");
    let loss_normalization =
        decoder.text(train, "loss_normalization").map(|name| match name.value.as_str() {
            "micro-batch" => LossNormalization::MicroBatch,
            _ => LossNormalization::GlobalToken,
        });
    let optimizer_section = decoder.section("optimizer");
    let learning_rate = decoder.number(&optimizer_section, "learning_rate");
    let optimizer = optimizer(decoder, &optimizer_section);
    let schedule = schedule(decoder, horizon, learning_rate);
    let evaluation = evaluation(decoder);
    let checkpoint = checkpoint(decoder);
    let non_finite = non_finite(decoder, train, checkpoint.as_ref());
    let data = data::decode(decoder);
    let (phases, schedule) = schedule?;
    let recipe = Recipe {
        sequence_length: sequence_length?.value,
        micro_batch: micro_batch?.value,
        global_batch: global_batch?.value,
        seed: seed?.value,
        loss_normalization: loss_normalization?,
        schedule,
        optimizer: optimizer?,
        evaluation: evaluation?,
        checkpoint: checkpoint?,
        data: data?,
        non_finite: non_finite?,
    };
    Some((horizon?, phases, recipe))
}

/// `steps` or `tokens_per_parameter`. Where both are given in different places, the nearer one holds: a spec that
/// extends another may measure its run otherwise, and so may `--set`.
fn horizon(decoder: &mut Decoder<'_>, train: &Section<'_>) -> Option<Horizon> {
    let ratio = |decoder: &mut Decoder<'_>| {
        Some(Horizon::TokensPerParameter(decoder.number(train, "tokens_per_parameter")?))
    };
    let steps = |decoder: &mut Decoder<'_>| Some(Horizon::Steps(decoder.integer(train, "steps")?));
    match (train.key_span("steps"), train.key_span("tokens_per_parameter")) {
        (Some(first), Some(second)) => {
            match decoder.distance(first).cmp(&decoder.distance(second)) {
                Ordering::Less => steps(decoder),
                Ordering::Greater => ratio(decoder),
                Ordering::Equal => {
                    decoder.report(
                        Diagnostic::error(
                            codes::CONTRADICTION,
                            "the length of the run is given twice",
                        )
                        .at(first, "as a number of steps")
                        .at(second, "and as tokens for each parameter")
                        .help("remove `steps` or `tokens_per_parameter`"),
                    );
                    None
                }
            }
        }
        (None, Some(_)) => ratio(decoder),
        (Some(_), None) => steps(decoder),
        (None, None) => {
            if train.exists() {
                decoder.report(
                    Diagnostic::error(codes::MISSING_KEY, "`train.steps` is missing")
                        .at(train.header, "in this section")
                        .help(
                            "add `steps = …`, or `tokens_per_parameter = …` to let the size of the model decide",
                        ),
                );
            }
            None
        }
    }
}

fn check_batches(decoder: &mut Decoder<'_>, micro: Spanned<u32>, global: Spanned<u32>) {
    if global.value.is_multiple_of(micro.value) {
        return;
    }
    let below = global.value / micro.value * micro.value;
    let near = match below {
        0 => format!("{}", micro.value),
        _ => format!("{below} or {}", below + micro.value),
    };
    decoder.report(
        Diagnostic::error(
            codes::BATCH_NOT_DIVISIBLE,
            "the global batch must be a whole number of micro-batches",
        )
        .at(global.span, format!("{} is not a multiple", global.value))
        .at(micro.span, format!("of {}", micro.value))
        .help(format!("set `global_batch` to {near}, or choose a `micro_batch` that divides it")),
    );
}

fn optimizer(decoder: &mut Decoder<'_>, section: &Section<'_>) -> Option<Optimizer> {
    let beta1 = decoder.number(section, "beta1");
    let beta2 = decoder.number(section, "beta2");
    let epsilon = decoder.number(section, "epsilon");
    let weight_decay = decoder.number(section, "weight_decay");
    let decay = decoder.text(section, "decay");
    let clip_norm = decoder.number(section, "clip_norm");
    if let Some(weight_decay) = weight_decay.filter(|decay| decay.value == 0.0) {
        unused(decoder, section, "decay", Some(weight_decay.span), "nothing decays");
    }
    Some(Optimizer {
        beta1: beta1?.value,
        beta2: beta2?.value,
        epsilon: epsilon?.value,
        weight_decay: weight_decay?.value,
        decay_all: decay?.value == "all",
        clip_norm: clip_norm?.value,
    })
}

fn schedule(
    decoder: &mut Decoder<'_>,
    horizon: Option<Horizon>,
    learning_rate: Option<Spanned<f64>>,
) -> Option<(Phases, Schedule)> {
    let section = decoder.section("schedule");
    let kind = decoder.text(&section, "kind");
    let warmup = decoder.integer(&section, "warmup_steps");
    let mut final_factor = decoder.number(&section, "final_factor").map(|factor| factor.value);
    let decay = section.has("decay_steps").then(|| decoder.integer(&section, "decay_steps"));
    let kind_name = kind.as_ref()?.value.as_str();
    // Points at `kind` only where the user wrote it: the default has no line in the spec.
    let because = section.has("kind").then(|| kind.as_ref().map(|kind| kind.span)).flatten();
    let shape = match kind_name {
        "warmup-stable-decay" => match decay {
            Some(decay_steps) => decay_steps
                .map(|steps| ScheduleKind::WarmupStableDecay { decay_steps: steps.value }),
            None => {
                let mut missing =
                    Diagnostic::error(codes::MISSING_KEY, "`schedule.decay_steps` is missing");
                if let Some(span) = because {
                    missing = missing.at(span, "this schedule ends with a decay");
                }
                decoder.report(
                    missing.help("add `decay_steps = …`, the length of the decay in updates"),
                );
                None
            }
        },
        other => {
            unused(decoder, &section, "decay_steps", because, "only `warmup-stable-decay` has it");
            match other {
                "linear" => Some(ScheduleKind::Linear),
                "constant" => {
                    unused(
                        decoder,
                        &section,
                        "final_factor",
                        because,
                        "the rate stays at its peak",
                    );
                    final_factor = Some(1.0);
                    Some(ScheduleKind::Constant)
                }
                _ => Some(ScheduleKind::Cosine),
            }
        }
    };
    let decay = match (shape, decay.flatten()) {
        (Some(ScheduleKind::WarmupStableDecay { .. }), Some(decay)) => Some(decay),
        _ => None,
    };
    let phases = Phases { warmup: warmup?, decay };
    let steps = match horizon? {
        Horizon::Steps(steps) => {
            let checked = phases.check(steps.value, steps.span);
            if let Some(diagnostic) = checked.unwrap_or_else(Some) {
                decoder.report(diagnostic);
            }
            steps.value
        }
        Horizon::TokensPerParameter(_) => 0,
    };
    let schedule = Schedule {
        kind: shape?,
        learning_rate: learning_rate?.value,
        warmup_steps: phases.warmup.value,
        steps,
        final_factor: final_factor?,
    };
    Some((phases, schedule))
}

impl Phases {
    /// Warm-up and decay must fit into the steps, which are given or follow from what stands at `place`. A warning where
    /// the warm-up takes all of them.
    ///
    /// # Errors
    ///
    /// `spec::schedule_exceeds_steps`.
    pub(super) fn check(self, steps: u64, place: Span) -> Result<Option<Diagnostic>, Diagnostic> {
        let Phases { warmup, decay } = self;
        if warmup.value + decay.map_or(0, |decay| decay.value) <= steps {
            let is_all = warmup.value == steps && steps > 1;
            return Ok(is_all.then(|| self.warmup_is_all(place)));
        }
        let phases = if decay.is_some() { "warm-up and decay are" } else { "the warm-up is" };
        let mut diagnostic = Diagnostic::error(
            codes::SCHEDULE_EXCEEDS_STEPS,
            format!("{phases} longer than the run"),
        )
        .at(warmup.span, format!("{} steps of warm-up", warmup.value));
        if let Some(decay) = decay {
            diagnostic = diagnostic.at(decay.span, format!("{} steps of decay", decay.value));
        }
        let keys =
            if decay.is_some() { "`warmup_steps` or `decay_steps`" } else { "`warmup_steps`" };
        Err(diagnostic
            .at(place, format!("the run has {steps} steps"))
            .help(format!("lower {keys}, or make the run longer")))
    }

    /// The rate rises until the run is over.
    fn warmup_is_all(self, steps: Span) -> Diagnostic {
        Diagnostic::warning(codes::WARMUP_IS_ALL, "the warm-up lasts until the end of the run")
            .at(self.warmup.span, "the learning rate only rises")
            .at(steps, "and never comes down again")
            .help("lower `warmup_steps`: a tenth of the run is usual")
    }
}

/// Reports a key that is written and has no effect, and takes it out of the resolved spec.
///
/// Within one text that is an error. Where `--set` switches off what the spec says, as `schedule.kind=constant` does
/// to a `final_factor`, it is a warning: the user cannot remove a key from the command line. What is inherited may be
/// switched off without a word: that is what a spec extends another for.
pub(super) fn unused(
    decoder: &mut Decoder<'_>,
    section: &Section<'_>,
    name: &str,
    because: Option<Span>,
    reason: &str,
) {
    decoder.forget(section, name);
    let Some(written) = section.key_span(name) else { return };
    let mut diagnostic = Diagnostic::error(codes::UNUSED_KEY, format!("`{name}` has no effect"))
        .at(written, "this key")
        .help(format!("remove `{name}`"));
    match because {
        Some(because) => {
            let (cause, key) = (decoder.distance(because), decoder.distance(written));
            if key > 1 && cause < key {
                return;
            }
            diagnostic = diagnostic.at(because, format!("because of this: {reason}"));
            if because.source != written.source && cause == 0 {
                diagnostic.severity = Severity::Warning;
            }
        }
        None => diagnostic.labels[0].text = reason.to_owned(),
    }
    decoder.report(diagnostic);
}

fn evaluation(decoder: &mut Decoder<'_>) -> Option<Evaluation> {
    let section = decoder.section("evaluation");
    let every = decoder.integer(&section, "every");
    let tokens = decoder.integer(&section, "tokens");
    let batch = decoder.count(&section, "batch");
    let reference_batch = decoder.count(&section, "reference_batch");
    Some(Evaluation {
        every: every?.value,
        tokens: tokens?.value,
        batch: batch?.value,
        reference_batch: reference_batch?.value,
    })
}

fn checkpoint(decoder: &mut Decoder<'_>) -> Option<Checkpoint> {
    let section = decoder.section("checkpoint");
    let every = decoder.integer(&section, "every");
    let keep = decoder.count(&section, "keep");
    let keep_every = decoder.integer(&section, "keep_every");
    let keep_best = decoder.count(&section, "keep_best");
    if let (Some(every), Some(kept)) = (every, keep_every)
        && kept.value != 0
        && (every.value == 0 || !kept.value.is_multiple_of(every.value))
    {
        let (saved, help) = match every.value {
            0 => (
                "checkpoints come at the end only".to_owned(),
                "set `every`, or remove `keep_every`".to_owned(),
            ),
            every => (
                format!("checkpoints come every {every} steps"),
                format!("give `keep_every` a multiple of {every}"),
            ),
        };
        let diagnostic = Diagnostic::error(
            codes::CONTRADICTION,
            "`keep_every` names steps of which there are no checkpoints",
        );
        let diagnostic = match section.has("every") {
            true => diagnostic
                .at(kept.span, format!("every {} steps", kept.value))
                .at(every.span, saved),
            false => diagnostic.at(kept.span, format!("{saved} by default")),
        };
        decoder.report(diagnostic.help(help));
    }
    Some(Checkpoint {
        every: every?.value,
        keep: keep?.value,
        keep_every: keep_every?.value,
        keep_best: keep_best?.value,
    })
}

fn non_finite(
    decoder: &mut Decoder<'_>,
    train: &Section<'_>,
    checkpoint: Option<&Checkpoint>,
) -> Option<NonFinite> {
    let policy = decoder.text(train, "on_non_finite");
    let limit = decoder.count(train, "non_finite_limit");
    let policy = policy?;
    let because = train.has("on_non_finite").then_some(policy.span);
    let chosen = match policy.value.as_str() {
        "skip" => NonFinitePolicy::Skip,
        "rollback" => NonFinitePolicy::Rollback,
        _ => {
            unused(decoder, train, "non_finite_limit", because, "a run that halts has no limit");
            NonFinitePolicy::Halt
        }
    };
    if chosen == NonFinitePolicy::Rollback && checkpoint.is_some_and(|c| c.every == 0) {
        decoder.report(
            Diagnostic::error(
                codes::CONTRADICTION,
                "a run without regular checkpoints has nothing to roll back to",
            )
            .at(policy.span, "this goes back to the newest regular checkpoint")
            .help("set `checkpoint.every`, or choose \"skip\" or \"halt\""),
        );
    }
    Some(NonFinite { policy: chosen, limit: limit?.value })
}
