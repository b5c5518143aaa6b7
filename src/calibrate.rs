//! `colac calibrate`: the rates of this machine or its GPU, as a device profile.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use clap::Args;
use colac_compiler::device;
use colac_compiler::view::text;
use colac_runtime::cuda;
use colac_runtime::measure::calibrate::{self, Calibration, Effort, Identity};
use colac_runtime::measure::clock::Moment;
use serde::Serialize;

use crate::shared::console;
use crate::shared::devices;
use crate::shared::failure::Failure;
use crate::shared::files;
use crate::shared::machine::{self, Device, MachineOptions};
use crate::shared::progress;
use crate::shared::run_record;

/// Measure this machine, so that times can be predicted
///
/// Products of all shape classes that training meets, attention, and the bandwidth of everything between them: on the
/// CPU in f32 with the threads that training would use, on a GPU in bf16; about half a minute. The profile goes to
/// colac's configuration folder, where `colac inspect` and `colac fit` find it by its name, `cpu` or `cuda`. Nothing else
/// should run meanwhile: what the others take is missing in the rates.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac calibrate                                            measure, print, keep as `cpu`
  colac calibrate --device cuda                              the GPU, keep as `cuda`
  colac calibrate --threads 1 -o one-thread.toml             a profile of its own
  colac inspect llama-60m --device one-thread.toml           and its use")]
pub(crate) struct Arguments {
    /// The profile to write [default: devices/cpu.toml or devices/cuda.toml in colac's configuration folder]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Seconds for each measurement; more for a busy machine
    #[arg(long, value_name = "SECONDS", default_value_t = Effort::default().patience, value_parser = patience)]
    patience: f64,

    /// Print the measurements as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    machine: MachineOptions,
}

fn patience(argument: &str) -> Result<f64, String> {
    match argument.parse() {
        Ok(seconds) if (0.001..=60.0).contains(&seconds) => Ok(seconds),
        _ => Err("write a number of seconds between 0.001 and 60".to_owned()),
    }
}

/// A measurement, for machines.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    seconds: colac_runtime::measure::Summary,
    flops_per_second: Option<f64>,
    bytes_per_second: f64,
}

impl Row<'_> {
    fn of(point: &calibrate::Point) -> Row<'_> {
        Row {
            name: &point.name,
            seconds: point.seconds,
            flops_per_second: point.flops_per_second,
            bytes_per_second: point.bytes_per_second,
        }
    }
}

/// What is printed for machines.
#[derive(Serialize)]
struct Report<'a> {
    profile: String,
    device: &'a str,
    /// None on a GPU.
    threads: Option<usize>,
    points: Vec<Row<'a>>,
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { output, patience, json, machine } = arguments;
    let device = machine.device();
    let path = match output.clone().or_else(|| devices::own(device)) {
        Some(path) => path,
        None => {
            let name = devices::own_name(device);
            return Err(Failure::line("this system names no folder for configuration")
                .or_help(|| format!("say where the profile goes: -o {name}.toml")));
        }
    };
    if output.is_some() {
        refuse_other_files(&path)?;
    }
    files::check_writable(&path)?;
    let name = match &output {
        Some(path) => path.file_stem().map(|stem| stem.to_string_lossy().into_owned()),
        None => None,
    };
    let name = name.unwrap_or_else(|| devices::own_name(device).to_owned());
    let effort = Effort { patience, ..Effort::default() };
    let (calibration, threads) = match device {
        Device::Cpu => {
            let threads = machine.threads().get();
            let identity = Identity {
                name,
                device: run_record::processor().unwrap_or_else(|| "unknown processor".to_owned()),
                memory: machine::whole_memory(),
                facts: facts(Moment::now(threads).name(), &format!("--threads {threads}")),
            };
            let bar = progress::count("measuring");
            let observe = &mut |done, of| bar.set(done as u64, of as u64);
            let calibration = calibrate::calibrate(identity, threads, effort, observe)?;
            bar.finish();
            (calibration, Some(threads))
        }
        Device::Cuda(ordinal) => {
            let gpu = cuda::describe(ordinal)?;
            let identity = Identity {
                name,
                device: gpu.name,
                memory: Some(gpu.memory_bytes),
                facts: facts("wall time", &format!("--device cuda:{ordinal}")),
            };
            let bar = progress::count("measuring");
            let observe = &mut |done, of| bar.set(done as u64, of as u64);
            let calibration = calibrate::calibrate_gpu(identity, ordinal, effort, observe)?;
            bar.finish();
            (calibration, None)
        }
    };
    fs::write(&path, device::write(&calibration.profile))
        .map_err(|error| files::cannot("write", &path, &error))?;
    if json {
        return console::out_json(&Report {
            profile: path.display().to_string(),
            device: &calibration.profile.device,
            threads,
            points: calibration.points.iter().map(Row::of).collect(),
        });
    }
    console::out(format!("{}\nprofile  {}\n", table(&calibration, threads), path.display()))
}

/// What the figures go back to.
fn facts(clock: &str, options: &str) -> Vec<(String, String)> {
    let fact = |key: &str, value: String| (key.to_owned(), value);
    let mut facts = vec![
        fact("date", run_record::now()),
        fact("clock", clock.to_owned()),
        fact("command", format!("colac calibrate {options}")),
        fact("colac", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    facts.extend(run_record::processor().map(|processor| fact("machine", processor)));
    facts
}

/// Every measurement in a line.
fn table(calibration: &Calibration, threads: Option<usize>) -> String {
    let threads = match threads {
        Some(1) => ", 1 thread".to_owned(),
        Some(threads) => format!(", {threads} threads"),
        None => String::new(),
    };
    let mut table = format!(
        "{}{threads}\n  {:<40}{:>12}{:>10}{:>18}{:>14}\n",
        calibration.profile.device, "", "time", "spread", "products", "bytes"
    );
    for point in &calibration.points {
        let flops = point.flops_per_second.map_or_else(String::new, |r| devices::rate(r, "FLOP"));
        let _ = writeln!(
            table,
            "  {:<40}{:>12}{:>10}{flops:>18}{:>14}",
            point.name,
            devices::time((point.seconds.lower * 1e9) as u64),
            format!("{:.0} %", 100.0 * point.seconds.spread()),
            format!("{}/s", text::bytes(point.bytes_per_second as u64)),
        );
    }
    let wide = calibration.points.iter().filter(|point| point.seconds.spread() > 0.25).count();
    if 4 * wide > calibration.points.len() {
        table += "\nwarning: most times spread widely, as on a machine with other work; the rates hold for such a machine only\n";
    }
    table
}

/// Refuses to replace anything but an earlier profile.
fn refuse_other_files(path: &std::path::Path) -> Result<(), Failure> {
    let Ok(text) = fs::read_to_string(path) else {
        return match path.exists() {
            true => Err(Failure::line(format!("{} exists and is no profile", path.display()))
                .or_help(|| "give another -o".to_owned())),
            false => Ok(()),
        };
    };
    let mut sources = colac_compiler::diagnostics::Sources::default();
    match text.is_empty() || device::read("", &text, &mut sources).is_ok() {
        true => Ok(()),
        false => Err(Failure::line(format!(
            "{} exists and is no profile; it is not replaced",
            path.display()
        ))
        .or_help(|| "give another -o, or delete the file".to_owned())),
    }
}
