//! `colac fit`: what of a spec fits a memory, and how fast it would be.

use std::fmt::Write;

use clap::Args;
use colac_compiler::diagnostics::Sources;
use colac_compiler::fit::{self, Fit, Search, Smallest};
use colac_compiler::policies;
use colac_compiler::spec::parse_bytes;
use colac_compiler::view::text;
use colac_plan::Plan;
use colac_plan::profile::Profile;
use colac_runtime::cuda::{AttentionKernels, BesidePlan};
use serde::Serialize;

use crate::shared::console;
use crate::shared::devices::{self, DeviceOptions};
use crate::shared::failure::Failure;
use crate::shared::machine::Attention;
use crate::shared::target::{SpecOptions, Target};

/// List the micro-batches and recompute policies that fit a memory, the fastest first
///
/// The spec is compiled for every policy and every micro-batch that divides its global batch, so bytes are exact. Speed
/// is predicted from the profile of a device: rates that `colac calibrate` measured on it, or those of its data sheet,
/// and then the prediction is marked so. On a device some memory is not to be had: the context of the driver and what
/// libraries take. The profile says how much, and --reserve overrides it. What a GPU holds for a plan beside it, such as
/// the workspace of --attention cudnn, counts; cuDNN need not be installed for that.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac fit llama-1b --device h200
  colac fit llama-350m --device rtx-4090 --full-rank         does the dense model fit, too?
  colac fit llama-7b --memory 24GiB                          without a prediction, for any device
  colac fit llama-1b --device h100 --attention cudnn         with the workspace of cuDNN's attention
  colac fit mine.toml --device profiles/mi300.toml --micro-batches 8,16,32 --json")]
pub(crate) struct Arguments {
    /// A spec (a path or a shipped name), a plan, or a run folder
    #[arg(value_name = "SPEC|PLAN|RUN")]
    target: String,

    #[command(flatten)]
    device: DeviceOptions,

    /// Memory to fit into, such as 24GiB [default: the device's, less what is reserved]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    memory: Option<u64>,

    /// Memory of the device that is not to be had [default: the profile's]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, requires = "device")]
    reserve: Option<u64>,

    /// Whose kernels compute attention on a GPU
    #[arg(long, value_name = "KERNELS", value_enum, default_value_t = Attention::Own)]
    attention: Attention,

    /// Micro-batches to try [default: every divisor of the global batch]
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    micro_batches: Vec<u32>,

    /// Recompute policies to try [default: all]
    #[arg(long, value_name = "NAME,NAME,…", value_delimiter = ',')]
    policies: Vec<String>,

    /// Rows to print
    #[arg(long, value_name = "N", default_value_t = 20)]
    rows: usize,

    /// Print JSON, every row; field names are stable
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    options: SpecOptions,
}

/// What is printed for machines.
#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    form: &'static str,
    /// Name of the profile.
    device: Option<&'a str>,
    /// Bytes of the device that are not to be had.
    reserved_bytes: Option<u64>,
    /// `own` or `cudnn`.
    attention: &'static str,
    #[serde(flatten)]
    fit: &'a Fit,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments {
        target,
        device,
        memory,
        reserve,
        attention,
        micro_batches,
        policies: wanted,
        rows,
        json,
        options,
    } = arguments;
    let named = device.named()?;
    if named.is_none() && memory.is_none() {
        return Err(Failure::line("nothing says how much memory there is").or_help(|| {
            "add --device with a name such as h200, or --memory with a number such as 24GiB"
                .to_owned()
        }));
    }
    let known = policies::all();
    if let Some(unknown) = wanted.iter().find(|policy| !known.contains(&policy.as_str())) {
        return Err(Failure::line(format!("there is no recompute policy `{unknown}`"))
            .or_help(|| format!("write some of {}", known.join(","))));
    }
    let reserved = named.as_ref().map(|profile| reserve.unwrap_or(profile.reserved.value));
    let budget = budget(named.as_ref(), memory, reserved)?;
    let profile = match named {
        Some(profile) => Some(profile),
        None => device.named_or_own()?,
    };
    let plan = Target::from_argument(&target)?.plan(&options, &[])?;
    let sizes = match micro_batches.is_empty() {
        true => fit::micro_batches(&plan),
        false => checked(&plan, &micro_batches)?,
    };
    let search = Search {
        budget_bytes: budget,
        beside: beside(profile.as_ref(), attention),
        policies: match wanted.is_empty() {
            true => known.into_iter().map(str::to_owned).collect(),
            false => wanted,
        },
        micro_batches: sizes,
        profile: profile.as_ref(),
    };
    let mut sources = Sources::default();
    let found = fit::fit(&plan, &search, &mut sources)
        .map_err(|diagnostics| Failure::Texts(diagnostics, sources))?;
    if json {
        return console::out_json(&Report {
            name: &plan.name,
            form: plan.form.name(),
            device: profile.as_ref().map(|profile| profile.name.as_str()),
            reserved_bytes: reserved,
            attention: attention.name(),
            fit: &found,
        });
    }
    console::out(report(&plan, &found, profile.as_ref(), reserved, attention, rows))
}

/// What a plan may take: what is asked for, or the device's memory without what is reserved.
fn budget(
    device: Option<&Profile>,
    memory: Option<u64>,
    reserved: Option<u64>,
) -> Result<u64, Failure> {
    let Some(device) = device else { return Ok(memory.unwrap_or(0)) };
    let reserved = reserved.unwrap_or(0);
    match (memory, device.memory) {
        // What the user counts out is what the plan may take.
        (Some(bytes), _) => Ok(bytes),
        (None, Some(whole)) if whole.value > reserved => Ok(whole.value - reserved),
        (None, Some(_)) => Err(Failure::line(format!(
            "{} of {} are reserved, which leaves nothing for a plan",
            text::bytes(reserved),
            device.name
        ))
        .or_help(|| "lower --reserve".to_owned())),
        (None, None) => Err(Failure::line(format!(
            "the profile {} does not say how much memory the device has",
            device.name
        ))
        .or_help(|| "add --memory with a number such as 24GiB".to_owned())),
    }
}

/// What a GPU holds for a plan beside it: only a GPU has anything, which is the device of the profile unless that computes
/// with threads, or any that cuDNN is asked for on.
fn beside(profile: Option<&Profile>, attention: Attention) -> fn(&Plan) -> u64 {
    match (attention, profile) {
        (Attention::Cudnn, _) => |plan| BesidePlan::of(plan, AttentionKernels::Cudnn).of_plan(),
        (Attention::Own, Some(profile)) if profile.threads.is_none() => {
            |plan| BesidePlan::of(plan, AttentionKernels::Own).of_plan()
        }
        (Attention::Own, _) => |_| 0,
    }
}

/// Micro-batches must divide the global batch, or an update would have a smaller last one.
fn checked(plan: &Plan, sizes: &[u32]) -> Result<Vec<u32>, Failure> {
    let global = plan.recipe.global_batch;
    match sizes.iter().find(|size| !global.is_multiple_of(**size)) {
        None => Ok(sizes.to_vec()),
        Some(size) => {
            let all: Vec<String> =
                fit::micro_batches(plan).iter().map(ToString::to_string).collect();
            Err(Failure::line(format!(
                "a micro-batch of {size} does not divide the global batch of {global}"
            ))
            .or_help(|| format!("write some of {}", all.join(", "))))
        }
    }
}

fn report(
    plan: &Plan,
    found: &Fit,
    profile: Option<&Profile>,
    reserved: Option<u64>,
    attention: Attention,
    most: usize,
) -> String {
    let mut report =
        format!("{} ({}) in {}", plan.name, plan.form.name(), text::bytes(found.budget_bytes));
    if let Some(reserved) = reserved {
        let _ = write!(report, ", {} of the device left for its context", text::bytes(reserved));
    }
    report.push('\n');
    if let Some(profile) = profile {
        let _ = writeln!(report, "  speed predicted for {}", devices::described(profile));
    }
    if attention == Attention::Cudnn {
        report += "  memory counts the workspace of cuDNN's attention\n";
    }
    if found.rows.is_empty() {
        report += &nothing(found);
        return report;
    }
    let _ = writeln!(
        report,
        "\n  {:<20}{:>12}{:>12}{:>14}{:>14}{:>10}{:>12}{:>12}{:>16}",
        "policy",
        "micro-batch",
        "accumulated",
        "memory",
        "activations",
        "again",
        "step",
        "tokens/s",
        "whole job"
    );
    for row in found.rows.iter().take(most) {
        let mark = row.basis.map_or_else(String::new, devices::mark);
        let step = row.step_nanoseconds.map_or_else(|| "–".to_owned(), devices::time);
        let rate = row.tokens_per_second.map_or_else(|| "–".to_owned(), text::grouped);
        let job = row.job_hours.map_or_else(|| "–".to_owned(), |h| console::duration(h * 3600.0));
        let _ = writeln!(
            report,
            "  {:<20}{:>12}{:>12}{:>14}{:>14}{:>10}{step:>12}{rate:>12}{job:>16}{mark}",
            row.policy,
            row.micro_batch,
            row.accumulation,
            text::bytes(row.total_bytes + row.beside_bytes),
            text::bytes(row.activation_bytes),
            format!("{}.{:02} %", row.recompute_share / 100, row.recompute_share % 100),
        );
    }
    if found.rows.len() > most {
        let _ = writeln!(report, "  and {} more; --rows shows them", found.rows.len() - most);
    }
    let recipe = &plan.recipe;
    let tokens =
        recipe.schedule.steps * u64::from(recipe.global_batch) * u64::from(recipe.sequence_length);
    let _ = writeln!(
        report,
        "\n  the whole job is {} steps, {} tokens; time without evaluations and checkpoints",
        text::grouped(recipe.schedule.steps),
        text::count(tokens as f64)
    );
    if profile.is_none() {
        report += "  times are predicted once `colac calibrate` has measured this machine, or with --device\n";
    }
    let best = &found.rows[0];
    let _ = writeln!(
        report,
        "\nbest: --set train.micro_batch={} --set recompute.policy={}",
        best.micro_batch, best.policy
    );
    report
}

/// Where nothing fits: the least that is needed, and what dominates it.
fn nothing(found: &Fit) -> String {
    let Some(Smallest {
        policy,
        micro_batch,
        total_bytes,
        beside_bytes,
        dominated_by,
        dominating_bytes,
        state_bytes,
        peak,
    }) = &found.smallest
    else {
        return "  nothing was tried\n".to_owned();
    };
    let mut text = format!(
        "\n  nothing fits. The least is {}, at a micro-batch of {micro_batch} with policy {policy}\n  most of it is {dominated_by}: {}\n",
        text::bytes(total_bytes + beside_bytes),
        text::bytes(*dominating_bytes)
    );
    let _ = match *state_bytes > found.budget_bytes {
        true => writeln!(
            text,
            "  weights, gradients and optimizer alone take {}: a smaller model or a lower rank is needed",
            text::bytes(*state_bytes)
        ),
        false => writeln!(
            text,
            "  weights, gradients and optimizer take {}; activations are fullest at {peak}: a shorter train.sequence_length lowers them",
            text::bytes(*state_bytes)
        ),
    };
    text
}
