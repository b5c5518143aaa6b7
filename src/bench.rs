//! `colac bench`: how fast a plan trains on this machine.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use colac_compiler::view::text;
use colac_plan::predict;
use colac_runtime::cuda::BesidePlan;
use colac_runtime::host::initialize;
use colac_runtime::measure::calibrate::{self, Effort};
use colac_runtime::measure::clock::Moment;
use colac_runtime::measure::steps::{self, MadeUpRows, Measured, Row, Timing};
use colac_runtime::measure::{Summary, gpu, trace};
use serde::Serialize;

use crate::shared::console;
use crate::shared::devices::{self, PredictionOptions};
use crate::shared::failure::Failure;
use crate::shared::files;
use crate::shared::machine::{self, Device, MachineExecutor, MachineOptions};
use crate::shared::number;
use crate::shared::progress;
use crate::shared::target::{SpecOptions, Target};

/// Measure how fast a plan trains on this machine, on made-up tokens
///
/// Steps are those of training, without data, logging and checkpoints. Times are medians with the middle half of the
/// steps as their spread. The rate of products is compared with that of one large product, measured before and after
/// the steps with the same threads. Memory is what the process holds, beside what the plan says.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac bench llama-tiny
  colac bench llama-60m --steps 3 --set train.global_batch=8 --set train.micro_batch=8
  colac bench llama-tiny --full-rank --json                  what CoLA saves, for machines
  colac bench llama-tiny --profile                           which operations take the time
  colac bench llama-tiny --trace trace.json                  for chrome://tracing or ui.perfetto.dev")]
pub(crate) struct Arguments {
    /// A spec (a path or a shipped name), a plan, or a run folder
    #[arg(value_name = "SPEC|PLAN|RUN")]
    target: String,

    /// Steps to time
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = number::above_zero)]
    steps: u64,

    /// Steps before them that are not timed
    #[arg(long, value_name = "N", default_value_t = 2)]
    warmup: u64,

    /// Seed of the made-up tokens
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// Say which operations take the time: by kind, and the longest ones
    #[arg(long)]
    profile: bool,

    /// With --profile: how many of the longest operations
    #[arg(long, value_name = "N", default_value_t = 12, requires = "profile")]
    top: usize,

    /// Write when each operation of the last step ran, in the Trace Event Format
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// Print JSON; field names are stable
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    machine: MachineOptions,

    #[command(flatten)]
    prediction: PredictionOptions,

    #[command(flatten)]
    options: SpecOptions,
}

/// Everything that was measured, for machines.
#[derive(Serialize)]
struct Report {
    name: String,
    form: &'static str,
    /// `cpu`, or what the GPU calls itself.
    device: String,
    /// What computed attention, where cuDNN was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    attention: Option<String>,
    /// The recompute policy.
    recompute: String,
    /// Rows of a micro-batch.
    micro_batch: u32,
    /// Positions of a row.
    sequence_length: u32,
    /// Storage of parameters: `f32` or `bf16`.
    precision: &'static str,
    /// Threads of the CPU that computed; 0 where a GPU did.
    threads: usize,
    steps: u64,
    warmup: u64,
    /// Token positions of a step.
    tokens_per_step: u64,
    /// By the median step.
    tokens_per_second: f64,
    step_seconds: Summary,
    /// By the clock that predictions are compared with: processor time of a single thread, else `step_seconds`.
    clock_seconds: Summary,
    /// `processor time` or `wall time`.
    clock: &'static str,
    /// FLOPs of products and attention in a step.
    flops_per_step: u64,
    flops_per_second: f64,
    /// FLOP/s of one large product, before and after the steps.
    product_flops_per_second: [f64; 2],
    /// `flops_per_second` as a share of the faster of these.
    share_of_product_rate: f64,
    /// Bytes that the operations of a step read and write.
    bytes_per_step: u64,
    bytes_per_second: f64,
    memory: Memory,
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted: Option<Predicted>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kinds: Vec<Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    operations: Vec<Row>,
}

#[derive(Serialize)]
struct Memory {
    /// What the plan says: all segments.
    plan_bytes: u64,
    /// Anonymous memory of the process after the steps, where the system tells; on a GPU what is in use of its memory.
    resident_bytes: Option<u64>,
    /// Of it what is not the plan's.
    beside_plan_bytes: Option<i64>,
    /// Private scratch of the threads, or a GPU's workspace of attention, a part of that.
    scratch_bytes: u64,
    /// What was expected beside the plan, on a GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<BesidePlan>,
}

#[derive(Serialize)]
struct Predicted {
    profile: String,
    step_seconds: f64,
    /// Predicted over the median of `clock_seconds`, less 1.
    error: f64,
    /// `measured`, `assumed` or `data sheet`.
    basis: &'static str,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { target, steps, warmup, seed, profile, top, trace, json, .. } = &arguments;
    let device = arguments.prediction.named_or_own(arguments.machine.device())?;
    let plan = Arc::new(Target::from_argument(target)?.plan(&arguments.options, &[])?);
    arguments.machine.check_memory(&plan)?;
    if let Some(path) = trace {
        refuse_other_files(path)?;
        files::check_writable(path)?;
    }
    let threads = match arguments.machine.device() {
        Device::Cpu => arguments.machine.threads().get(),
        Device::Cuda(_) => 0,
    };
    let before = product_rate(&arguments.machine)?;
    let mut executor = arguments.machine.executor(&plan, None)?;
    initialize(executor.as_mut());
    let bar = progress::count("steps");
    let all = warmup + steps;
    bar.set(0, all);
    let timing = Timing { threads, operations: *profile || trace.is_some() };
    let mut rows = MadeUpRows::new(&plan, *seed);
    let measured =
        steps::measure(executor.as_mut(), &mut rows, *warmup, *steps, timing, &mut |step| {
            bar.set(step + 1, all);
        })?;
    bar.finish();
    let (resident, scratch) = match &executor {
        MachineExecutor::Cpu(cpu) => (machine::anonymous_memory(), cpu.scratch_bytes()),
        MachineExecutor::Cuda(gpu) => {
            (gpu.memory_in_use().ok().map(|(used, _)| used), gpu.attention_workspace())
        }
    };
    let place = match &executor {
        MachineExecutor::Cpu(_) => None,
        MachineExecutor::Cuda(gpu) => Some(gpu.description().name.clone()),
    };
    let attention = executor.attention();
    drop(executor);
    let after = product_rate(&arguments.machine)?;
    if let Some(path) = trace {
        fs::write(path, trace::chrome(&plan, &measured.events))
            .map_err(|error| files::cannot("write", path, &error))?;
    }
    let time = Summary::of(&measured.seconds);
    let clock_time = Summary::of(&measured.clock_seconds);
    let predicted = device.map(|device| {
        let step = predict::step(&plan, &device);
        let seconds = step.total.nanoseconds as f64 * 1e-9;
        let basis = step.total.basis.name();
        Predicted {
            profile: device.name,
            step_seconds: seconds,
            error: seconds / clock_time.median - 1.0,
            basis,
        }
    });
    let (flops, bytes) = steps::work(&plan);
    let recipe = &plan.recipe;
    let tokens = u64::from(recipe.global_batch) * u64::from(recipe.sequence_length);
    let (kinds, operations) = tables(&plan, &measured, *profile);
    let report = Report {
        name: plan.name.clone(),
        form: plan.form.name(),
        device: place.unwrap_or_else(|| "cpu".to_owned()),
        attention,
        recompute: plan.recompute.clone(),
        micro_batch: plan.recipe.micro_batch,
        sequence_length: plan.recipe.sequence_length,
        precision: plan.precision(),
        threads,
        steps: *steps,
        warmup: *warmup,
        tokens_per_step: tokens,
        tokens_per_second: tokens as f64 / time.median,
        step_seconds: time,
        clock_seconds: clock_time,
        clock: Moment::now(threads).name(),
        flops_per_step: flops,
        flops_per_second: flops as f64 / time.median,
        product_flops_per_second: [before, after],
        share_of_product_rate: flops as f64 / time.median / before.max(after),
        bytes_per_step: bytes,
        bytes_per_second: bytes as f64 / time.median,
        memory: Memory {
            plan_bytes: plan.total_bytes(),
            resident_bytes: resident,
            beside_plan_bytes: resident.map(|r| r as i64 - plan.total_bytes() as i64),
            scratch_bytes: scratch,
            expected: (threads == 0).then(|| arguments.machine.beside(&plan)),
        },
        predicted,
        kinds,
        operations,
    };
    if *json {
        return console::out_json(&report);
    }
    console::out(written(&report, *top))?;
    match trace {
        Some(path) => console::out(format!("trace          {}\n", path.display())),
        None => Ok(()),
    }
}

/// A mistyped `--trace` must not cost a spec or a corpus: only traces are replaced.
fn refuse_other_files(path: &Path) -> Result<(), Failure> {
    let Ok(bytes) = fs::read(path) else { return Ok(()) };
    let beginning = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
    match bytes.is_empty() || beginning.contains("\"traceEvents\"") {
        true => Ok(()),
        false => Err(Failure::line(format!(
            "{} exists and is not a trace; it is not replaced",
            path.display()
        ))
        .or_help(|| "name another file, or delete this one".to_owned())),
    }
}

/// What a GPU holds beside a plan, part by part.
fn parts(beside: &BesidePlan) -> String {
    let BesidePlan { orders, copies, attention, products, context } = *beside;
    let parts = [
        ("for the context", context),
        ("for products", products),
        ("for cuDNN's attention", attention),
        ("for the order of ids", orders),
        ("for copies", copies),
    ];
    let parts = parts.iter().filter(|(_, bytes)| *bytes > 0);
    let parts: Vec<String> =
        parts.map(|(what, bytes)| format!("{} {what}", text::bytes(*bytes))).collect();
    parts.join(", ")
}

/// FLOP/s of one large product on the device: f32 on the CPU, bf16 on a GPU.
fn product_rate(machine: &MachineOptions) -> Result<f64, Failure> {
    match machine.device() {
        Device::Cpu => Ok(calibrate::product_rate(machine.threads().get(), Effort::default())?),
        Device::Cuda(ordinal) => Ok(gpu::product_rate(ordinal, SUSTAINED)?),
    }
}

/// Seconds for which a GPU is kept at one large product.
const SUSTAINED: f64 = 1.0;

fn tables(plan: &colac_plan::Plan, measured: &Measured, wanted: bool) -> (Vec<Row>, Vec<Row>) {
    match wanted {
        true => steps::rows(plan, measured),
        false => (Vec::new(), Vec::new()),
    }
}

fn written(report: &Report, top: usize) -> String {
    let plural = |n: u64| if n == 1 { "" } else { "s" };
    let mut text = format!(
        "{} ({}), {}, {} step{} of {} tokens after {} of warm-up\n",
        report.name,
        report.form,
        match report.threads {
            0 => report.device.clone(),
            threads => format!("{threads} thread{}", plural(threads as u64)),
        },
        report.steps,
        plural(report.steps),
        text::grouped(report.tokens_per_step),
        report.warmup
    );
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "  {label:<15}{value}");
    };
    let time = report.step_seconds;
    if let Some(attention) = &report.attention {
        line("", attention.clone());
    }
    line("tokens/s", text::grouped(report.tokens_per_second.round() as u64));
    line(
        "step",
        format!("{:.4} s   middle half {:.4} to {:.4} s", time.median, time.lower, time.upper),
    );
    if report.clock == "processor time" {
        let time = report.clock_seconds;
        line(
            "",
            format!(
                "{:.4} s of processor time   middle half {:.4} to {:.4} s",
                time.median, time.lower, time.upper
            ),
        );
    }
    let [before, after] = report.product_flops_per_second;
    line(
        "products",
        format!(
            "{}, {:.2}× of one large product: {} before, {} after",
            devices::rate(report.flops_per_second, "FLOP"),
            report.share_of_product_rate,
            devices::rate(before, "FLOP"),
            devices::rate(after, "FLOP")
        ),
    );
    line(
        "bytes",
        format!(
            "{} a step, {}/s",
            text::bytes(report.bytes_per_step),
            text::bytes(report.bytes_per_second as u64)
        ),
    );
    if let Some(predicted) = &report.predicted {
        line(
            "predicted",
            format!(
                "{:.4} s from profile {}{}: {:+.1} %",
                predicted.step_seconds,
                predicted.profile,
                devices::mark(predicted.basis),
                100.0 * predicted.error
            ),
        );
    }
    let memory = &report.memory;
    line("memory", format!("{} by the plan", text::bytes(memory.plan_bytes)));
    if let (Some(resident), Some(beside)) = (memory.resident_bytes, memory.beside_plan_bytes) {
        let sign = if beside < 0 { "-" } else { "" };
        line(
            "",
            format!(
                "{} resident; resident minus plan: {sign}{}, of which {} {}",
                text::bytes(resident),
                text::bytes(beside.unsigned_abs()),
                if report.threads == 0 {
                    "workspace of attention"
                } else {
                    "scratch of the threads"
                },
                text::bytes(memory.scratch_bytes)
            ),
        );
    }
    if let Some(expected) = &memory.expected {
        line("", format!("expected beside the plan: {}", parts(expected)));
    }
    if !report.kinds.is_empty() {
        let _ = writeln!(
            text,
            "\nby kind\n  {:<26}{:>7}{:>12}{:>8}{:>18}{:>14}",
            "", "count", "time", "share", "products", "bytes"
        );
        for row in &report.kinds {
            let _ = writeln!(text, "  {:<26}{:>7}{}", row.op, row.count, numbers(row));
        }
        let _ = writeln!(text, "\nlongest operations");
        for row in report.operations.iter().take(top) {
            let _ =
                writeln!(text, "  {:<26}{:>7}{}  {}", row.op, row.count, numbers(row), row.path);
        }
    }
    text
}

fn numbers(row: &Row) -> String {
    let flops = match row.flops {
        0 => String::new(),
        _ => devices::rate(row.flops_per_second, "FLOP"),
    };
    format!(
        "{:>12}{:>8}{flops:>18}{:>14}",
        devices::time((row.seconds * 1e9) as u64),
        format!("{:.1} %", 100.0 * row.share),
        format!("{}/s", text::bytes(row.bytes_per_second as u64))
    )
}
