//! `colac graph`: pictures of a model.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, ValueEnum};
use colac_compiler::pictures::Stages;
use colac_compiler::view::compare::Comparison;
use colac_compiler::view::draw::{dot, explorer, figure, tree, tree_pair};
use colac_compiler::view::page;
use colac_compiler::view::picture::{Picture, StageName};
use colac_plan::Plan;
use colac_plan::plan::Form;

use crate::shared::console;
use crate::shared::curves;
use crate::shared::failure::Failure;
use crate::shared::number;
use crate::shared::target::{SpecOptions, Target};

/// Draw a model: what it computes, what was rewritten, what lives how long
///
/// The page (html) opens in any browser without a network: the model as boxes that open, stage by stage from the
/// architecture to the plan, with shapes, costs, the lines that things come from, and the arena over time. The figure
/// (svg) shows the model and one layer to scale, for a paper; the tree (text) is for the terminal, dot for Graphviz, and
/// json for Google's model-explorer. Identical layers are drawn once; a layer that differs stands alone.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Stages:
  forward     the model as the architecture says
  cola        selected linears are low-rank pairs
  backward    the loss has its gradients
  recompute   what is not kept is made again
  fused       operations are joined with their neighbours
  plan        every program in its order, every tensor in its place

Examples:
  colac graph llama-60m --open                               a page, in the browser
  colac graph llama-350m --format text                       a tree with the totals of every part
  colac graph llama-60m -o block.svg --layer 3               layer 3 as a figure
  colac graph plan.bin --against mine.toml -o both.html      two plans side by side
  colac graph llama-nano --against llama-nano --full-rank-against --format text
  colac graph llama-nano --format dot -o - | dot -Tsvg       by way of Graphviz")]
pub(crate) struct Arguments {
    /// A spec (a path or a shipped name), a plan, or a run folder
    #[arg(value_name = "SPEC|PLAN|RUN")]
    target: String,

    /// The file to write, - for the standard output [default: NAME.html; text goes to the standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// What to write [default: as the file is named, or html]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,

    /// Draw only this stage [default: all of them in html and json, cola or forward in svg and dot, plan in text]
    #[arg(long, value_enum, value_name = "STAGE", hide_possible_values = true)]
    stage: Option<Stage>,

    /// Draw only layer N: turn N of what repeats
    #[arg(long, value_name = "N", value_parser = number::natural, allow_negative_numbers = true)]
    layer: Option<u64>,

    /// Open what was written in the browser
    #[arg(long)]
    open: bool,

    /// Draw this spec, plan or run beside the first and mark what differs (html and text)
    #[arg(long, value_name = "SPEC|PLAN|RUN")]
    against: Option<String>,

    /// Override a field of the spec of --against only; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE", requires = "against")]
    set_against: Vec<String>,

    /// Compile the dense baseline of --against only
    #[arg(long, requires = "against")]
    full_rank_against: bool,

    #[command(flatten)]
    options: SpecOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Html,
    Svg,
    Dot,
    Json,
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stage {
    Forward,
    Cola,
    Backward,
    Recompute,
    Fused,
    Plan,
}

impl From<Stage> for StageName {
    fn from(stage: Stage) -> StageName {
        match stage {
            Stage::Forward => StageName::Forward,
            Stage::Cola => StageName::Cola,
            Stage::Backward => StageName::Backward,
            Stage::Recompute => StageName::Recompute,
            Stage::Fused => StageName::Fused,
            Stage::Plan => StageName::Plan,
        }
    }
}

impl Format {
    fn ending(self) -> &'static str {
        match self {
            Format::Html => "html",
            Format::Svg => "svg",
            Format::Dot => "dot",
            Format::Json => "json",
            Format::Text => "txt",
        }
    }

    /// As a file is named.
    fn of(file: &Path) -> Result<Format, Failure> {
        match file.extension().and_then(|ending| ending.to_str()) {
            Some("html" | "htm") => Ok(Format::Html),
            Some("svg") => Ok(Format::Svg),
            Some("dot" | "gv") => Ok(Format::Dot),
            Some("json") => Ok(Format::Json),
            Some("txt") => Ok(Format::Text),
            _ => Err(Failure::line(format!("{} does not say its format", file.display())).or_help(
                || "end the name in .html, .svg, .dot, .json or .txt, or add --format".to_owned(),
            )),
        }
    }

    /// The stages that are drawn where none is named: what a reader of that format can take in.
    fn stages(self, form: Form) -> Vec<StageName> {
        match self {
            Format::Html | Format::Json => StageName::ALL.to_vec(),
            Format::Text => vec![StageName::Plan],
            Format::Svg | Format::Dot => vec![match form {
                Form::Cola => StageName::Cola,
                Form::FullRank => StageName::Forward,
            }],
        }
    }
}

/// Where the result goes.
enum Output {
    Standard,
    File(PathBuf),
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let format = match (arguments.format, &arguments.output) {
        (Some(format), _) => format,
        (None, Some(file)) if !is_standard(file) => Format::of(file)?,
        (None, _) => Format::Html,
    };
    refuse_what_cannot_be_drawn(arguments, format)?;
    let plan = Target::from_argument(&arguments.target)?.plan(&arguments.options, &[])?;
    let output = match &arguments.output {
        Some(file) if is_standard(file) => Output::Standard,
        Some(file) => Output::File(file.clone()),
        None if format == Format::Text => Output::Standard,
        None => Output::File(format!("{}.{}", plan.name, format.ending()).into()),
    };
    if let Output::File(file) = &output {
        curves::refuse_other_files(file)?;
    }
    let picture = picture(&plan, format, arguments)?;
    let text = match &arguments.against {
        Some(against) => {
            let options = SpecOptions {
                set: [&*arguments.options.set, &*arguments.set_against].concat(),
                full_rank: arguments.options.full_rank || arguments.full_rank_against,
                ..arguments.options.clone()
            };
            let other = Target::from_argument(against)?.plan(&options, &[])?;
            compared(picture, self::picture(&other, format, arguments)?, format)
        }
        None => drawn(&picture, format),
    };
    match output {
        Output::Standard => console::out(text),
        Output::File(file) => {
            curves::write_text(&file, &text)?;
            console::out(format_args!("{}\n", file.display()))?;
            if arguments.open { open(&file) } else { Ok(()) }
        }
    }
}

fn is_standard(file: &Path) -> bool {
    file == Path::new("-")
}

fn refuse_what_cannot_be_drawn(arguments: &Arguments, format: Format) -> Result<(), Failure> {
    if arguments.against.is_some() && !matches!(format, Format::Html | Format::Text) {
        return Err(Failure::line(format!(
            "two plans are not drawn side by side as {}",
            format.ending()
        ))
        .or_help(|| "write --format html or --format text".to_owned()));
    }
    let shown = matches!(arguments.stage, None | Some(Stage::Forward | Stage::Cola));
    if format == Format::Svg && !shown {
        return Err(Failure::line("a figure shows the model before its backward pass")
            .or_help(|| "write --stage forward or --stage cola, or look at a page".to_owned()));
    }
    let to_file = match &arguments.output {
        Some(file) => !is_standard(file),
        None => format != Format::Text,
    };
    if arguments.open && !to_file {
        return Err(Failure::line("--open opens a file, and the standard output is none")
            .or_help(|| "name a file by --output".to_owned()));
    }
    Ok(())
}

fn picture(plan: &Plan, format: Format, arguments: &Arguments) -> Result<Picture, Failure> {
    let mut wanted = match arguments.stage {
        Some(stage) => vec![stage.into()],
        None => format.stages(plan.form),
    };
    let is_asked = arguments.stage.is_some_and(|stage| stage != Stage::Plan);
    let stages = match Stages::new(plan) {
        Ok(stages) => stages,
        // A plan of another version can be looked at though its spec means nothing to this one. Beside another picture its
        // stages would be missed.
        Err(_) if wanted.contains(&StageName::Plan) && !is_asked && arguments.against.is_none() => {
            wanted = vec![StageName::Plan];
            Stages::of_plan(plan)
        }
        Err((diagnostics, sources)) => return Err(Failure::Texts(diagnostics, sources)),
    };
    let picture = stages.picture(&wanted, arguments.layer).map_err(|error| {
        Failure::from(error).or_help(|| "leave --layer out to see the whole model".to_owned())
    })?;
    if let Some(note) = &picture.note {
        console::alert(format!("warning: {note}"));
    }
    Ok(picture)
}

fn drawn(picture: &Picture, format: Format) -> String {
    let stage = &picture.stages[0];
    match format {
        Format::Html => page::page(picture),
        Format::Svg => figure::svg(picture, stage),
        Format::Dot => dot::text(picture, stage),
        Format::Json => explorer::json(picture),
        Format::Text => tree::text(picture),
    }
}

fn compared(a: Picture, b: Picture, format: Format) -> String {
    let comparison = Comparison::new(a, b);
    match format {
        Format::Text => tree_pair::text(&comparison),
        Format::Html | Format::Svg | Format::Dot | Format::Json => {
            page::comparison_page(&comparison)
        }
    }
}

/// Hands a file to whatever the system opens such files with.
fn open(file: &Path) -> Result<(), Failure> {
    let file = fs::canonicalize(file)?;
    let (program, first): (&str, &[&str]) = match std::env::consts::OS {
        "macos" => ("open", &[]),
        "windows" => ("cmd", &["/C", "start", ""]),
        _ => ("xdg-open", &[]),
    };
    let mut command = Command::new(program);
    command.args(first).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let opened = command.status().is_ok_and(|status| status.success());
    match opened {
        true => Ok(()),
        false => Err(Failure::line(format!("{program} could not open {}", file.display()))
            .or_help(|| "open it by hand: it is written".to_owned())),
    }
}
