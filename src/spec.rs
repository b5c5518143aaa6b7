//! `colac spec`: specs as they are written, as they are in force, and what they may say.

use clap::Args;
use colac_compiler::compile::resolve;
use colac_compiler::diagnostics::Sources;
use colac_compiler::language::architecture::Architecture;
use colac_compiler::spec::json_schema::json_schema;
use colac_compiler::spec::{Spec, SpecInput, shipped};
use colac_plan::file as plan_file;
use serde::Serialize;

use crate::shared::console;
use crate::shared::failure::Failure;
use crate::shared::run_folder::PLAN_FILE;
use crate::shared::target::{SpecOptions, Target};

/// Show a spec as it is written or as it is in force, the keys there are, and the specs that ship
///
/// Without an option, prints the spec as it is written. With --resolved every key with the value that holds, after
/// everything it extends, --set and defaults, and where each value comes from: that is a spec itself, which trains the
/// same.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac spec llama-60m > mine.toml                         begin with a copy of a shipped spec
  colac spec mine.toml --resolved --set cola.rank=64       every value and where it comes from
  colac spec --schema > spec.schema.json                   for editors that check TOML
  colac spec --list                                        the specs and architectures that ship")]
pub(crate) struct Arguments {
    /// A spec (a path or a shipped name), a plan, or a run folder
    #[arg(value_name = "SPEC|PLAN|RUN", required_unless_present_any = ["schema", "list"])]
    target: Option<String>,

    /// Print every key with the value that holds and where it comes from
    #[arg(long, conflicts_with_all = ["schema", "list"])]
    resolved: bool,

    /// Print the JSON Schema of specs
    #[arg(long, conflicts_with_all = ["target", "list"])]
    schema: bool,

    /// List the shipped specs and architectures
    #[arg(long, conflicts_with = "target")]
    list: bool,

    /// With --resolved or --list: print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    options: SpecOptions,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { target, resolved, schema, json, .. } = arguments;
    match target {
        _ if *schema => console::out_json(&json_schema()),
        None => list(*json),
        Some(target) if *resolved => print_resolved(&spec_of(target)?, arguments),
        Some(_) if *json => Err(Failure::line("--json prints what --resolved and --list find")
            .or_help(|| "add --resolved".to_owned())),
        Some(target) => print_written(&spec_of(target)?, arguments),
    }
}

/// The spec behind an argument: of a plan or a run the one it was made from, as it was in force.
fn spec_of(argument: &str) -> Result<SpecInput, Failure> {
    let path = match Target::from_argument(argument)? {
        Target::Spec(input) => return Ok(input),
        Target::Plan(path) => path,
        Target::Run(run_dir) | Target::Checkpoint { run_dir, .. } => run_dir.join(PLAN_FILE),
    };
    let plan = plan_file::read_from_path(&path)?;
    let name = format!("the spec in {}", path.display());
    Ok(SpecInput::Text { name, text: plan.origin.resolved_spec })
}

fn print_written(input: &SpecInput, arguments: &Arguments) -> Result<(), Failure> {
    let options = &arguments.options;
    if !options.set.is_empty() || options.full_rank {
        return Err(Failure::line("--set and --full-rank do not change what is written")
            .or_help(|| "add --resolved to see the spec with them".to_owned()));
    }
    let mut sources = Sources::default();
    let (spec, warnings) = match Spec::load(input.clone(), &[], false, &mut sources) {
        Ok(loaded) => loaded,
        Err(diagnostics) => return Err(Failure::Texts(diagnostics, sources)),
    };
    options.show_warnings(warnings, &sources)?;
    console::out(&sources.get(spec.source).text)
}

fn print_resolved(input: &SpecInput, arguments: &Arguments) -> Result<(), Failure> {
    let SpecOptions { set, full_rank, .. } = &arguments.options;
    let mut sources = Sources::default();
    let (resolution, warnings) = match resolve(input.clone(), set, *full_rank, &mut sources) {
        Ok(resolved) => resolved,
        Err(diagnostics) => return Err(Failure::Texts(diagnostics, sources)),
    };
    arguments.options.show_warnings(warnings, &sources)?;
    match arguments.json {
        true => console::out_json(&resolution.json(&sources)),
        false => console::out(resolution.annotated(&sources)),
    }
}

/// What ships with the program.
#[derive(Debug, Serialize)]
struct Shipped {
    specs: Vec<ShippedSpec>,
    architectures: Vec<ShippedArchitecture>,
}

/// A shipped spec.
#[derive(Debug, Serialize)]
struct ShippedSpec {
    name: &'static str,
    /// The first comment of its file.
    about: String,
    architecture: String,
    /// Whether it has a `[cola]`.
    form: &'static str,
}

/// A shipped architecture.
#[derive(Debug, Serialize)]
struct ShippedArchitecture {
    name: &'static str,
    about: String,
    /// Its settings, for `[model]`.
    settings: Vec<String>,
}

fn list(json: bool) -> Result<(), Failure> {
    let mut shipped = Shipped { specs: Vec::new(), architectures: Vec::new() };
    for (name, text) in shipped::specs() {
        let mut sources = Sources::default();
        let input = SpecInput::Shipped((*name).to_owned());
        let (spec, _) = match Spec::load(input, &[], false, &mut sources) {
            Ok(loaded) => loaded,
            Err(diagnostics) => return Err(Failure::Texts(diagnostics, sources)),
        };
        let about = text.lines().next().and_then(|line| line.strip_prefix("# "));
        shipped.specs.push(ShippedSpec {
            name,
            about: about.unwrap_or_default().trim_end_matches('.').to_owned(),
            architecture: spec.architecture.value,
            form: if spec.cola.is_some() { "cola" } else { "full-rank" },
        });
    }
    for (name, text) in shipped::architectures() {
        let mut sources = Sources::default();
        let source = sources.add(*name, *text);
        match Architecture::parse(source, &mut sources) {
            Ok(architecture) => shipped.architectures.push(ShippedArchitecture {
                name,
                settings: architecture.config_names().map(str::to_owned).collect(),
                about: architecture.about,
            }),
            Err(diagnostics) => return Err(Failure::Texts(diagnostics, sources)),
        }
    }
    if json {
        return console::out_json(&shipped);
    }
    let mut lines = vec!["specs".to_owned()];
    lines.extend(shipped.specs.iter().map(|spec| format!("  {:<16}{}", spec.name, spec.about)));
    lines.push("architectures".to_owned());
    lines.extend(shipped.architectures.iter().map(|a| format!("  {:<16}{}", a.name, a.about)));
    console::out(lines.join("\n") + "\n")
}
