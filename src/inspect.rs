//! `colac inspect`: what a plan does and what it costs.

use clap::Args;
use colac_compiler::view::{Inspection, text};

use crate::shared::console;
use crate::shared::failure::Failure;
use crate::shared::target::{SpecOptions, Target};

/// Show what a plan does and what it costs, before a byte is allocated
///
/// Parameters, FLOPs and memory, in total and for each layer; every linear with its rank and savings, or why it stays
/// dense; the operations by kind. The memory is what `colac train` allocates.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac inspect llama-350m
  colac inspect llama-350m --full-rank                       what the dense model would cost
  colac inspect runs/llama-nano-1 --json                     for machines")]
pub(crate) struct Arguments {
    /// A spec (a path or a shipped name), a plan, or a run folder
    #[arg(value_name = "SPEC|PLAN|RUN")]
    target: String,

    /// Print everything as JSON, operations one by one; field names are stable
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    options: SpecOptions,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let plan = Target::from_argument(&arguments.target)?.plan(&arguments.options, &[])?;
    let inspection = Inspection::new(&plan);
    match arguments.json {
        true => console::out_json(&inspection),
        false => console::out(text::report(&inspection)),
    }
}
