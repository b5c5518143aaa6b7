//! `colac inspect`: what a plan does and what it costs.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use colac_compiler::diagnostics::{Diagnostics, Sources};
use colac_compiler::policies::{self, PolicyRow};
use colac_compiler::view::memory_text;
use colac_compiler::view::{Inspection, MemoryReport, Timeline, text};
use colac_plan::Plan;
use colac_plan::profile::Profile;
use colac_runtime::plot::{MemoryCurve, memory_svg};
use serde::Serialize;

use crate::shared::console;
use crate::shared::curves;
use crate::shared::devices::{self, DeviceOptions};
use crate::shared::failure::Failure;
use crate::shared::target::{SpecOptions, Target};

/// Show what a plan does and what it costs, before a byte is allocated
///
/// Parameters, FLOPs and memory, in total and for each layer; every linear with its rank and savings, or why it stays
/// dense; the operations by kind. The memory is what `colac train` allocates: by category, with the tensors that are
/// alive when most is, since and until which operation, and the line of the architecture that makes each. Last, what
/// the same spec would cost under every recompute policy.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac inspect llama-350m
  colac inspect llama-350m --full-rank                       what the dense model would cost
  colac inspect llama-60m --timeline                         bytes alive over the program
  colac inspect llama-60m --timeline memory.svg              the same as a picture
  colac inspect llama-1b --device h200                       with the step times of a device
  colac inspect runs/llama-nano-1 --json                     for machines")]
pub(crate) struct Arguments {
    /// A spec (a path or a shipped name), a plan, or a run folder
    #[arg(value_name = "SPEC|PLAN|RUN")]
    target: String,

    /// Print everything as JSON, operations one by one; field names are stable
    #[arg(long)]
    json: bool,

    /// Draw the bytes alive over the program: here, or as a picture to FILE.svg
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    timeline: Option<Option<PathBuf>>,

    #[command(flatten)]
    device: DeviceOptions,

    #[command(flatten)]
    options: SpecOptions,
}

/// Everything, for machines.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    inspection: &'a Inspection,
    memory_report: &'a MemoryReport,
    policies: &'a [PolicyRow],
    #[serde(skip_serializing_if = "Option::is_none")]
    timeline: Option<&'a Timeline>,
}

/// Columns of a timeline in letters.
const COLUMNS: usize = 80;

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { target, json, timeline, device, options } = arguments;
    if let Some(Some(file)) = &timeline {
        check_picture(file)?;
    }
    let profile = device.named_or_own()?;
    let plan = Target::from_argument(&target)?.plan(&options, &[])?;
    let inspection = Inspection::new(&plan);
    let memory = MemoryReport::new(&plan);
    let curve = timeline.is_some().then(|| Timeline::new(&plan));
    if let (Some(Some(file)), Some(curve)) = (&timeline, &curve) {
        draw(file, &inspection, &memory, curve)?;
    }
    let (rows, refused) =
        policies::compare(&plan, &policies::all(), profile.as_ref(), &mut Sources::default());
    if json {
        return console::out_json(&Report {
            inspection: &inspection,
            memory_report: &memory,
            policies: &rows,
            timeline: curve.as_ref(),
        });
    }
    let mut report = text::report(&inspection);
    report.push('\n');
    report += &memory_text::report(&memory, &inspection, &plan.origin.architecture);
    if let Some(curve) = curve.filter(|_| timeline == Some(None)) {
        let _ = write!(report, "\nbytes alive over {}\n{}", curve.program, curve.text(COLUMNS));
    }
    report.push('\n');
    report += &policy_table(&plan, &rows, &refused, profile.as_ref());
    console::out(report)
}

/// What each policy would cost, and for which device times are predicted.
fn policy_table(
    plan: &Plan,
    rows: &[PolicyRow],
    refused: &[(String, Diagnostics)],
    profile: Option<&Profile>,
) -> String {
    let mut table = format!(
        "recompute policies, at a micro-batch of {}\n  {:<20}{:>14}{:>14}{:>14}{:>20}{:>14}\n",
        plan.recipe.micro_batch, "", "activations", "kept", "total", "FLOPs again", "step"
    );
    for row in rows {
        let name = format!("{}{}", row.policy, if row.current { " (this plan)" } else { "" });
        let again = format!(
            "{} ({}.{:02} %)",
            text::count(row.recompute_flops_per_token as f64),
            row.recompute_share / 100,
            row.recompute_share % 100
        );
        let step = row.step_nanoseconds.map_or_else(|| "–".to_owned(), devices::time);
        let mark = row.basis.map_or_else(String::new, devices::mark);
        let _ = writeln!(
            table,
            "  {name:<20}{:>14}{:>14}{:>14}{again:>20}{step:>14}{mark}",
            text::bytes(row.activation_bytes),
            text::bytes(row.kept_bytes),
            text::bytes(row.total_bytes),
        );
    }
    for (policy, diagnostics) in refused {
        let why = diagnostics.iter().next().map_or("", |diagnostic| &diagnostic.message);
        let _ = writeln!(table, "  {policy:<20}  not for this plan: {why}");
    }
    let _ = match profile {
        Some(profile) => writeln!(table, "  steps on {}", devices::described(profile)),
        None => writeln!(
            table,
            "  step times are predicted once `colac calibrate` has measured this machine, or with --device"
        ),
    };
    table
}

/// The name of a picture ends in .svg, and nothing but an earlier picture is replaced.
fn check_picture(file: &Path) -> Result<(), Failure> {
    match file.extension().is_some_and(|extension| extension == "svg") {
        true => curves::refuse_other_files(file),
        false => {
            Err(Failure::line(format!("{} is not named as an SVG", file.display())).or_help(|| {
                "end the name in .svg, or give --timeline alone for one in letters".to_owned()
            }))
        }
    }
}

fn draw(
    file: &Path,
    inspection: &Inspection,
    memory: &MemoryReport,
    curve: &Timeline,
) -> Result<(), Failure> {
    let peak = memory.peak.operation.as_ref().map(|place| {
        let words = format!(
            "{}: operation {}, {} {}",
            text::bytes(memory.peak.bytes),
            place.index,
            place.op,
            place.path
        );
        (place.index, words.trim_end().to_owned())
    });
    let svg = memory_svg(&MemoryCurve {
        title: format!(
            "{} ({}): activations over {}",
            inspection.name, inspection.form, curve.program
        ),
        note: format!(
            "micro-batch of {} rows of {} tokens; arena {}",
            inspection.batch.micro_batch,
            inspection.batch.sequence_length,
            text::bytes(curve.arena_bytes)
        ),
        kept: curve.kept_bytes.clone(),
        transient: curve.transient_bytes.clone(),
        phases: curve
            .phases
            .iter()
            .map(|run| (run.phase.to_owned(), run.first, run.count))
            .collect(),
        peak,
        arena: curve.arena_bytes,
    });
    curves::write_text(file, &svg)
}
