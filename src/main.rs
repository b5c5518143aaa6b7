//! The command line `colac`: joins the compiler and the runtime.
//!
//! Owns arguments, progress and printing, one file per subcommand; [`shared`] holds what several of them need. Must not
//! hold logic that a user of the libraries would miss.

mod compile;
mod data;
mod eval;
mod generate;
mod inspect;
mod shared;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use colac_compiler::spec::shipped;

use crate::shared::console;
use crate::shared::failure::EXIT_CODES;

/// Pre-train transformers in CoLA form: compile a spec to a plan, train the plan
///
/// CoLA (arXiv 2502.10940) replaces every dense projection y = W x of a transformer by a rank-r pair with an activation
/// in the middle, y = B σ(A x): about half the parameters and half the compute at full-rank quality. colac compiles a
/// short spec into a plan that states every operation, every byte and every FLOP, and trains exactly that.
#[derive(Debug, Parser)]
#[command(name = "colac", version, arg_required_else_help = true, after_long_help = manual())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Compile(compile::Arguments),
    Inspect(inspect::Arguments),
    Train(Box<train::Arguments>),
    Eval(eval::Arguments),
    Generate(generate::Arguments),
    Data(data::Arguments),
}

/// What `colac --help` says behind the list of commands.
fn manual() -> String {
    let specs: Vec<&str> = shipped::specs().iter().map(|(name, _)| *name).collect();
    format!(
        "\
Words:
  spec        a TOML file: model, rank and activation, training recipe, data
  plan        the compiled form, a file; wherever a plan is accepted, a spec is compiled on the fly
  run         a folder with plan, log and checkpoints
  checkpoint  a folder in a run; the weights are safetensors under Hugging Face names

Shipped specs, known by name from any folder:
  {}

Examples:
  colac train llama-nano                       train on the shipped corpus, a few minutes
  colac generate runs/llama-nano-1 --prompt 'She was'
  colac compile llama-350m                     write plan.bin and say what it costs
  colac inspect llama-350m --full-rank         what the dense model would cost
  colac compile llama-nano --set cola.rank=16 --set cola.activation=gelu -o small.bin

{EXIT_CODES}",
        specs.join("  ")
    )
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        console::note(format!(
            "{panic}\nthis is a bug in colac: please report it together with the command"
        ));
    }));
    let done = match Cli::parse().command {
        Command::Compile(arguments) => compile::run(arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Train(arguments) => train::run(&arguments),
        Command::Eval(arguments) => eval::run(arguments),
        Command::Generate(arguments) => generate::run(arguments),
        Command::Data(arguments) => data::run(arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
