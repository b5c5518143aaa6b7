//! `colac diff`: what changed between two plans.

use clap::Args;
use colac_compiler::view::{Difference, difference_text};

use crate::shared::console;
use crate::shared::failure::Failure;
use crate::shared::target::{SpecOptions, Target};

/// Say what changed between two specs, plans or runs, in the terms of a spec
///
/// Settings, linears, parameters, FLOPs, memory by category, and how many operations of each kind were added or removed
/// in which part of the model. Specs are compiled first; options hold for both.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac diff llama-60m llama-130m
  colac diff runs/llama-nano-1 runs/llama-nano-2             what was different about the second
  colac diff plan.bin mine.toml                              does the spec still give this plan?
  colac diff llama-60m llama-60m --full-rank-to              what CoLA changes, seen from CoLA
  colac diff llama-60m llama-60m --set-to cola.rank=64 --json")]
pub(crate) struct Arguments {
    /// A spec (a path or a shipped name), a plan, or a run folder
    #[arg(value_name = "A")]
    from: String,

    /// What it is compared with
    #[arg(value_name = "B")]
    to: String,

    /// Override a field of the second spec only; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set_to: Vec<String>,

    /// Compile the dense baseline of the second spec only
    #[arg(long)]
    full_rank_to: bool,

    /// Print JSON; field names are stable
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    options: SpecOptions,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { from, to, set_to, full_rank_to, json, options } = arguments;
    let other = SpecOptions {
        set: [options.set.as_slice(), &set_to].concat(),
        full_rank: options.full_rank || full_rank_to,
        ..options.clone()
    };
    let from = Target::from_argument(&from)?.plan(&options, &[])?;
    let to = Target::from_argument(&to)?.plan(&other, &[])?;
    let difference = Difference::new(&from, &to);
    match json {
        true => console::out_json(&difference),
        false => console::out(difference_text::report(&difference)),
    }
}
