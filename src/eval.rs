//! `colac eval`: perplexity of trained weights.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use colac_runtime::train::checkpoint::load_weights;
use colac_runtime::train::evaluate::Evaluator;
use serde::Serialize;

use crate::shared::console;
use crate::shared::corpus::{self, ValidationOptions};
use crate::shared::failure::Failure;
use crate::shared::interrupt;
use crate::shared::machine::MachineOptions;
use crate::shared::number;
use crate::shared::progress::{self, Busy};
use crate::shared::run_folder::VALIDATION_TOKENS;
use crate::shared::target::{SpecOptions, Target, WeightsOptions, text_setting};

/// Measure the perplexity of trained weights
///
/// Two perplexities are given. The exact one is the exponential of the mean loss over all predicted tokens. The
/// reference-compatible one is computed as the published CoLA code does (the mean of batch means, with one batch too
/// many in the divisor) and serves comparison with published tables only. Bits per byte do not depend on the tokenizer.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac eval runs/llama-nano-1 --tokens 0                    the newest checkpoint, all the validation data
  colac eval runs/llama-nano-1/checkpoints/step-001000 --json
  colac eval llama-nano --checkpoint model.safetensors --validation held-out.txt")]
pub(crate) struct Arguments {
    /// A run folder or a checkpoint in one; or a plan or a spec together with --checkpoint
    #[arg(value_name = "RUN|CHECKPOINT|PLAN|SPEC")]
    target: String,

    #[command(flatten)]
    weights: WeightsOptions,

    #[command(flatten)]
    data: ValidationOptions,

    /// Stop after about N predicted tokens; 0 takes all the validation data [default: the spec's evaluation.tokens]
    #[arg(long, value_name = "N", value_parser = number::natural, allow_negative_numbers = true)]
    tokens: Option<u64>,

    #[command(flatten)]
    machine: MachineOptions,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    options: SpecOptions,
}

/// The result for machines. Losses are in nats.
#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    form: &'static str,
    checkpoint: String,
    loss: f64,
    perplexity: f64,
    perplexity_reference_compatible: f64,
    bits_per_byte: Option<f64>,
    tokens: u64,
    rows: u64,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { target, weights, data, tokens, machine, json, options } = arguments;
    let target = Target::from_argument(&target)?;
    let weights = target.weights(&weights)?;
    data.check_given()?;
    let mut settings = data.settings();
    let given = data.tokenizer.as_ref().map(Path::new);
    if let Some(beside) = corpus::checkpoint_tokenizer(&weights, given)?.filter(|_| given.is_none())
    {
        settings.push(text_setting("data.tokenizer", &beside.to_string_lossy()));
    }
    settings.extend(tokens.map(|tokens| format!("evaluation.tokens={tokens}")));
    let plan = Arc::new(target.plan(&options, &settings)?);
    let kept = target.run_dir().map(|run_dir| run_dir.join(VALIDATION_TOKENS));
    machine.check_memory(&plan)?;
    let mut data = corpus::validation(&plan, kept.as_deref(), machine.threads())?;

    let stop = interrupt::stop_flag()?;
    let mut executor = machine.executor(&plan, None)?;
    load_weights(executor.as_mut(), &weights)?;
    let mut evaluator = Evaluator::new(&plan)?;
    let busy = Busy::new("evaluating");
    let report = evaluator.evaluate(executor.as_mut(), &mut data.rows, &stop)?;
    drop(busy);
    let Some(report) = report else {
        console::alert("interrupted");
        return Err(Failure::Interrupted);
    };
    if json {
        return console::out_json(&Report {
            name: &plan.name,
            form: plan.form.name(),
            checkpoint: weights.display().to_string(),
            loss: report.loss,
            perplexity: report.perplexity,
            perplexity_reference_compatible: report.perplexity_reference_compatible,
            bits_per_byte: report.bits_per_byte,
            tokens: report.tokens,
            rows: report.rows,
        });
    }
    console::out(format_args!(
        "{} ({}), {}\n  {}\n  loss {:.4} over {} tokens\n",
        plan.name,
        plan.form.name(),
        weights.display(),
        progress::evaluation(&report),
        report.loss,
        report.tokens,
    ))
}
