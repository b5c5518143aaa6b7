//! `colac plot`: logs of runs as pictures.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use colac_runtime::plot::{Options, Run, XAxis};

use crate::shared::console;
use crate::shared::curves;
use crate::shared::failure::Failure;

/// Draw the loss, learning rate, gradient norm and speed of runs
///
/// Writes an SVG and a page. The page needs no network and no other file; in it the x axis, scales and smoothing can be
/// changed, runs hidden, and every update read off. The SVG is what the page shows at first. Faint lines are single
/// updates, strong ones are smoothed, dots are validation losses; a mark at the bottom is an update without a finite
/// value. Time is that of updates alone, without evaluations and checkpoints; FLOPs are those that the plan counts.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac plot runs/llama-nano-1                               plot.svg and plot.html
  colac plot runs/llama-nano-1 runs/llama-nano-2 --x flops --out compare.html
  colac plot races/llama-nano --x tokens --title 'CoLA and full-rank'
  colac plot runs/llama-nano-1 --log-x --log-y --smoothing 1 --out paper.svg")]
pub(crate) struct Arguments {
    /// Run folders, folders with run folders in them, or metrics.jsonl files
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,

    /// A file to write, .svg or .html; may be repeated [default: plot.svg and plot.html]
    #[arg(short, long, value_name = "FILE")]
    out: Vec<PathBuf>,

    /// What the x axis counts
    #[arg(long, value_enum, default_value_t = Axis::Steps, value_name = "AXIS")]
    x: Axis,

    /// Draw the x axis logarithmically
    #[arg(long)]
    log_x: bool,

    /// Draw loss and gradient norm logarithmically
    #[arg(long)]
    log_y: bool,

    /// Updates over which the strong lines are smoothed; 1 for not at all [default: a hundredth of the longest run]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    smoothing: Option<u32>,

    /// The heading [default: the runs' names]
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Axis {
    Steps,
    Tokens,
    Flops,
    Seconds,
}

impl From<Axis> for XAxis {
    fn from(axis: Axis) -> XAxis {
        match axis {
            Axis::Steps => XAxis::Steps,
            Axis::Tokens => XAxis::Tokens,
            Axis::Flops => XAxis::Flops,
            Axis::Seconds => XAxis::Seconds,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let files = match arguments.out.is_empty() {
        true => ["plot.svg", "plot.html"].map(PathBuf::from).to_vec(),
        false => arguments.out.clone(),
    };
    for file in &files {
        curves::Format::of(file)?;
        curves::refuse_other_files(file)?;
    }
    let mut logs = Vec::new();
    for path in &arguments.runs {
        for log in curves::logs(path)? {
            if !logs.contains(&log) {
                logs.push(log);
            }
        }
    }
    let names = curves::names(&logs);
    let runs =
        logs.iter().zip(&names).map(|(log, name)| curves::read(log, name.clone(), name.clone()));
    let runs = runs.collect::<Result<Vec<_>, _>>()?;
    if let (Axis::Flops, Some(at)) =
        (arguments.x, runs.iter().position(|run| run.flops_per_step.is_none()))
    {
        return Err(no_plan(&logs[at]));
    }
    let options = Options {
        title: arguments.title.clone().unwrap_or_else(|| heading(&runs)),
        x: arguments.x.into(),
        log_x: arguments.log_x,
        log_y: arguments.log_y,
        smoothing: arguments.smoothing.map(f64::from),
    };
    for file in &files {
        curves::write(file, &runs, &options)?;
    }
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let count = runs.len();
    console::out(format_args!(
        "{}: {count} run{}\n",
        console::listed(&names),
        if count == 1 { "" } else { "s" }
    ))
}

fn no_plan(log: &Path) -> Failure {
    Failure::line(format!(
        "the FLOPs of {} are not known: there is no plan.bin beside it",
        log.display()
    ))
    .or_help(|| "take another x axis: --x steps, --x tokens or --x seconds".to_owned())
}

/// The names of a few runs, or their number.
fn heading(runs: &[Run]) -> String {
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    if names.len() <= 3 { console::listed(&names) } else { format!("{} runs", names.len()) }
}
