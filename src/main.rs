//! The command line `colac`: joins the compiler and the runtime.
//!
//! Owns arguments, progress and printing, one file per subcommand; [`shared`] holds what several of them need. Must not
//! hold logic that a user of the libraries would miss.

mod bench;
mod calibrate;
mod compile;
mod completions;
mod data;
mod diff;
mod doctor;
mod eval;
mod explain;
mod fit;
mod generate;
mod graph;
mod inspect;
mod man;
mod manual;
mod plot;
mod race;
mod shared;
mod spec;
mod train;

use std::process::ExitCode;

use clap::{FromArgMatches, Parser, Subcommand};

use crate::shared::console::{self, OutputOptions};

/// Pre-train transformers in CoLA form: compile a spec to a plan, train the plan
///
/// CoLA (arXiv 2502.10940) replaces every dense projection y = W x of a transformer by a rank-r pair with an activation
/// in the middle, y = B σ(A x): about half the parameters and half the compute at full-rank quality. colac compiles a
/// short spec into a plan that states every operation, every byte and every FLOP, and trains exactly that.
#[derive(Debug, Parser)]
#[command(name = "colac", version, arg_required_else_help = true, subcommand_required = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    output: OutputOptions,
}

/// The commands; `manual::GROUPS` says under which heading each one is listed.
#[derive(Debug, Subcommand)]
enum Command {
    Compile(compile::Arguments),
    Spec(spec::Arguments),
    Inspect(inspect::Arguments),
    Diff(diff::Arguments),
    Graph(graph::Arguments),
    Fit(fit::Arguments),
    Plot(plot::Arguments),
    Explain(explain::Arguments),
    Train(Box<train::Arguments>),
    Race(Box<race::Arguments>),
    Eval(eval::Arguments),
    Generate(generate::Arguments),
    Data(data::Arguments),
    Bench(bench::Arguments),
    Doctor(doctor::Arguments),
    Calibrate(calibrate::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        #[cfg(feature = "arrow")]
        if colac_runtime::data::source::guarded::panic_becomes_an_error() {
            return;
        }
        console::alert(format!(
            "{panic}\nthis is a bug in colac: please report it together with the command"
        ));
    }));
    let matches = manual::command().color(console::color_as_typed()).get_matches();
    let Cli { command, output } =
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    console::set_up(output);
    let done = match command {
        Command::Compile(arguments) => compile::run(arguments),
        Command::Spec(arguments) => spec::run(&arguments),
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Diff(arguments) => diff::run(arguments),
        Command::Graph(arguments) => graph::run(&arguments),
        Command::Fit(arguments) => fit::run(arguments),
        Command::Plot(arguments) => plot::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Train(arguments) => train::run(&arguments),
        Command::Race(arguments) => race::run(&arguments),
        Command::Eval(arguments) => eval::run(arguments),
        Command::Generate(arguments) => generate::run(arguments),
        Command::Data(arguments) => data::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Calibrate(arguments) => calibrate::run(arguments),
        Command::Completions(arguments) => completions::run(arguments),
        Command::Man(arguments) => man::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
