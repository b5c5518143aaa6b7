//! `colac compile`: a spec becomes a plan file.

use std::path::{Path, PathBuf};

use clap::Args;
use colac_compiler::compile::{Compiled, Dump, Request, compile};
use colac_compiler::diagnostics::Sources;
use colac_compiler::graph::PrintOptions;
use colac_compiler::passes::PASSES;
use colac_compiler::spec::SpecInput;
use colac_compiler::view::{Inspection, text};
use colac_plan::file::{self as plan_file, MAGIC};
use colac_plan::plan::Form;

use crate::shared::console;
use crate::shared::failure::Failure;
use crate::shared::files;
use crate::shared::target::{SpecOptions, Target, begins_as_plan};

/// Compile a spec to a plan
///
/// A spec is a TOML file, or the name of one that ships with colac. The plan states every operation, every byte and
/// every FLOP of the training run; `colac train` does exactly that. The command prints what was rewritten, what it costs,
/// and what the full-rank model would cost.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac compile llama-350m                                   write plan.bin and say what it costs
  colac compile mine.toml -o mine.bin
  colac compile llama-nano --set cola.rank=16 --set cola.activation=gelu -o small.bin
  colac compile llama-nano --dump cola --turns 1             the first layer after the CoLA pass")]
pub(crate) struct Arguments {
    /// A spec: a path, or the name of a shipped one
    spec: String,

    /// The plan file to write [default: plan.bin]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    #[command(flatten)]
    options: SpecOptions,

    /// Print the graph after a pass
    #[arg(long, value_name = "PASS", long_help = dump_help())]
    dump: Option<String>,

    /// With --dump: print only the first N turns of every repeat, for instance the first two layers
    #[arg(long, value_name = "N", requires = "dump")]
    turns: Option<u64>,
}

fn dump_help() -> String {
    let mut help = "Print the graph after a pass\n\nThe graph goes to the standard output and everything else to the error \
                    output. A plan is then written only if --output is given. The passes:"
        .to_owned();
    for pass in PASSES {
        help += &format!("\n  {:<10} {}", pass.name, pass.about);
    }
    help
}

/// The plan's file if none is named.
const DEFAULT_OUTPUT: &str = "plan.bin";

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { spec, output, options, dump, turns } = arguments;
    let input = match Target::from_argument(&spec)? {
        Target::Spec(input) => input,
        Target::Plan(path) if begins_as_plan(&path)? => {
            return Err(is_no_spec(&spec, "a plan already"));
        }
        Target::Plan(_) => {
            return Err(Failure::line(format!("{spec} is named as a plan, not as a spec"))
                .or_help(|| {
                    "give the name of a shipped spec, or a path that ends in .toml".to_owned()
                }));
        }
        Target::Run(_) | Target::Checkpoint { .. } => {
            return Err(is_no_spec(&spec, "a folder of a run"));
        }
    };
    let dumps = dump.is_some();
    let request = Request {
        input: input.clone(),
        settings: options.set.clone(),
        full_rank: options.full_rank,
        dump: dump.map(|pass| Dump { pass, options: PrintOptions { turns } }),
    };
    let mut sources = Sources::default();
    let Compiled { plan, warnings, dump, .. } = match compile(request, &mut sources) {
        Ok(compiled) => compiled,
        Err(diagnostics) => return Err(Failure::Texts(diagnostics, sources)),
    };
    options.show_warnings(warnings, &sources)?;
    if let Some(graph) = dump {
        console::out(graph.trim_end())?;
        console::out("\n")?;
    }
    let output = match output {
        None if dumps => return Ok(()),
        output => output.unwrap_or_else(|| DEFAULT_OUTPUT.into()),
    };
    refuse_other_files(&output)?;
    files::make_folder_of(&output)?;
    plan_file::write_to_path(&plan, &output)
        .map_err(|error| Failure::from(error).or_help(|| files::elsewhere().to_owned()))?;

    let inspection = Inspection::new(&plan);
    let dense = match plan.form {
        Form::Cola => Some(Inspection::new(&compile_full_rank(&input, &options, &plan)?)),
        Form::FullRank => None,
    };
    let shown = output.display().to_string();
    let report = format!(
        "{} ({}) compiled to {shown}\n{}next: {}\n",
        inspection.name,
        inspection.form,
        text::summary(&inspection, dense.as_ref()),
        console::command(["train", &shown]),
    );
    match dumps {
        true => console::note(report.trim_end()),
        false => console::out(report)?,
    }
    Ok(())
}

/// The dense model that the plan is compared with. Its warnings are those of the spec, which have been shown. Where the
/// plan was fitted to a memory, the dense model need not fit: it keeps everything, with the plan's micro-batch.
fn compile_full_rank(
    input: &SpecInput,
    options: &SpecOptions,
    plan: &colac_plan::Plan,
) -> Result<colac_plan::Plan, Failure> {
    let mut settings = options.set.clone();
    if plan.recompute.starts_with("auto") {
        settings.push("recompute.policy=none".to_owned());
        settings.push(format!("train.micro_batch={}", plan.recipe.micro_batch));
        settings.push(format!("train.global_batch={}", plan.recipe.global_batch));
    }
    let request = Request { input: input.clone(), settings, full_rank: true, dump: None };
    let mut sources = Sources::default();
    match compile(request, &mut sources) {
        Ok(Compiled { plan, .. }) => Ok(plan),
        Err(diagnostics) => Err(Failure::Texts(diagnostics, sources)),
    }
}

fn is_no_spec(argument: &str, what: &str) -> Failure {
    Failure::line(format!("{argument} is {what}, not a spec"))
        .or_help(|| format!("see what is in it with `{}`", console::command(["inspect", argument])))
}

/// A mistyped `--output` must not cost a spec or a corpus: only plans are replaced.
fn refuse_other_files(output: &Path) -> Result<(), Failure> {
    let Ok(metadata) = std::fs::metadata(output) else { return Ok(()) };
    if metadata.is_dir() {
        return Err(Failure::line(format!("{} is a folder", output.display()))
            .or_help(|| "name a file, such as plan.bin, inside it".to_owned()));
    }
    let begins_as_plan = std::fs::read(output).is_ok_and(|bytes| bytes.starts_with(&MAGIC));
    match begins_as_plan || metadata.len() == 0 || !metadata.is_file() {
        true => Ok(()),
        false => Err(Failure::line(format!(
            "{} exists and is not a plan; it is not replaced",
            output.display()
        ))
        .or_help(|| "give another --output, or delete the file".to_owned())),
    }
}
