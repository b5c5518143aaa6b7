//! `colac generate`: text from trained weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use colac_plan::Plan;
use colac_runtime::data::Tokenizer;
use colac_runtime::generate::sample::Sampling;
use colac_runtime::generate::{Finish, Options, generate};
use colac_runtime::train::checkpoint::load_weights;

use crate::shared::console;
use crate::shared::corpus;
use crate::shared::failure::Failure;
use crate::shared::interrupt;
use crate::shared::machine::MachineOptions;
use crate::shared::target::{SpecOptions, Target, WeightsOptions};

/// Continue a text with a trained model
///
/// The prompt and its continuation go to the standard output, word by word. Equal weights, prompt and options give equal
/// text.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac generate runs/llama-nano-1 --prompt 'She was'
  colac generate runs/llama-nano-1 --temperature 0 --max-tokens 20
  colac generate runs/llama-nano-1 --top-k 40 --seed 7 > story.txt")]
pub(crate) struct Arguments {
    /// A run folder or a checkpoint in one; or a plan or a spec together with --checkpoint
    #[arg(value_name = "RUN|CHECKPOINT|PLAN|SPEC")]
    target: String,

    /// The text to continue; without it the model begins a text of its own
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    prompt: String,

    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 100)]
    max_tokens: usize,

    /// Divides the logits: below 1 the likely becomes likelier, 0 always takes the likeliest
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    temperature: f64,

    /// Choose among the K likeliest tokens only; 0 for all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,

    /// Choose among the likeliest tokens that together reach this probability
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true)]
    top_p: f64,

    /// Seed of the choices
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    #[command(flatten)]
    weights: WeightsOptions,

    /// The tokenizer.json [default: the checkpoint's, else the spec's]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,

    #[command(flatten)]
    machine: MachineOptions,

    #[command(flatten)]
    options: SpecOptions,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { target, prompt, max_tokens, temperature, top_k, top_p, seed, .. } = arguments;
    let target = Target::from_argument(&target)?;
    let plan = Arc::new(target.plan(&arguments.options, &[])?);
    let weights = target.weights(&arguments.weights)?;
    let tokenizer = tokenizer(arguments.tokenizer, &weights, &plan)?;
    arguments.machine.check_memory(&plan)?;

    let stop = interrupt::stop_flag()?;
    let mut executor = arguments.machine.executor(&plan, None)?;
    load_weights(executor.as_mut(), &weights)?;
    let options = Options { max_tokens, sampling: Sampling { temperature, top_k, top_p, seed } };
    // Shown with the first words of the answer, so that an error stands alone.
    let mut pending = Some(prompt.clone());
    let mut closed = Ok(());
    let began = Instant::now();
    let generation =
        generate(executor.as_mut(), &tokenizer, &prompt, &options, &stop, &mut |piece| {
            let text = pending.take().unwrap_or_default() + piece;
            let text = if console::out_is_terminal() { console::printable(&text) } else { text };
            if closed.is_ok() {
                closed = console::out(text);
                if closed.is_err() {
                    stop.store(true, std::sync::atomic::Ordering::Relaxed);
                }
            }
        })?;
    closed?;
    console::out(format_args!("{}\n", pending.unwrap_or_default()))?;
    let rate = generation.tokens as f64 / began.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
    let why = match generation.finish {
        Finish::EndOfText => "the text is at its end",
        Finish::MaxTokens => "--max-tokens reached",
        Finish::Interrupted => "interrupted",
    };
    if console::is_interactive() {
        console::note(format!("{} tokens, {rate:.1} a second; {why}", generation.tokens));
    }
    match generation.finish {
        Finish::Interrupted => Err(Failure::Interrupted),
        Finish::EndOfText | Finish::MaxTokens => Ok(()),
    }
}

/// The tokenizer given, or that of the checkpoint, or that of the plan.
fn tokenizer(given: Option<PathBuf>, weights: &Path, plan: &Plan) -> Result<Tokenizer, Failure> {
    let beside = corpus::checkpoint_tokenizer(weights, given.as_deref())?;
    let path = given.or(beside).or_else(|| plan.recipe.data.tokenizer.as_ref().map(PathBuf::from));
    match path {
        Some(path) => corpus::read_tokenizer(&path),
        None => Err(Failure::line(format!("{} comes without a tokenizer", weights.display()))
            .or_help(|| "pass --tokenizer FILE".to_owned())),
    }
}
