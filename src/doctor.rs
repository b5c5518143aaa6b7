//! `colac doctor`: what this machine has for colac, and what is missing.
//!
//! Owns the report. Must not know where libraries are looked for or how operations are verified: the runtime does both.

use std::fmt::Write;

use clap::Args;
use colac_compiler::view::text;
use colac_runtime::conformance::Verdict;
use colac_runtime::cuda;
use serde::Serialize;

use crate::shared::console;
use crate::shared::failure::Failure;
use crate::shared::machine::{self, Attention, Device};
use crate::shared::run_record;

/// Say what this machine has: processor, GPU, NVIDIA's libraries, and what to install where something is missing
///
/// Ends with an error where a GPU is asked for (--device cuda) and cannot be used. With --verify every operation is run
/// on the device from awkward samples, in f32 and bf16, with every layout and way of writing, and compared with the
/// reference within bounds that follow from its arithmetic: the same suite that colac's own tests run.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac doctor
  colac doctor --device cuda                what the GPU needs, and whether it is there
  colac doctor --device cuda --verify       whether every operation is right on this GPU
  colac doctor --device cuda --verify --attention cudnn     whether attention is, by cuDNN
  COLAC_CUDA_LIB_PATH=/opt/nvidia/lib colac doctor --device cuda")]
pub(crate) struct Arguments {
    /// Look at this device: cpu, cuda, or cuda:N for the GPU with that number [default: both]
    #[arg(long, value_name = "DEVICE")]
    device: Option<Device>,

    /// Run every operation on the GPU and compare it with the reference; takes a minute
    #[arg(long, requires = "device")]
    verify: bool,

    /// Whose kernels compute attention on a GPU: with cudnn it is needed, and --verify runs attention alone
    #[arg(long, value_name = "KERNELS", value_enum, default_value_t = Attention::Own)]
    attention: Attention,

    /// Print JSON; field names are stable
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    colac: &'static str,
    processor: Option<String>,
    cores: usize,
    memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<Gpu>,
    /// Cases of --verify that cuDNN computed, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    cases_by_cudnn: Option<usize>,
    /// Operations that --verify ran.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    operations: Vec<Verdict>,
    /// Names of those that failed.
    failed: Vec<&'static str>,
}

#[derive(Serialize)]
struct Gpu {
    number: i32,
    /// What it calls itself, or why it cannot be used.
    device: Result<Described, String>,
    libraries: Vec<Found>,
}

#[derive(Serialize)]
struct Described {
    name: String,
    compute_capability: String,
    multiprocessors: i32,
    memory_bytes: u64,
    /// The newest CUDA that the driver knows.
    driver: String,
}

#[derive(Serialize)]
struct Found {
    name: &'static str,
    /// Whether nothing runs on the GPU without it.
    needed: bool,
    /// Version and place, or what to do.
    found: Result<String, String>,
}

impl Found {
    fn is_fine(&self) -> bool {
        self.found.is_ok() || !self.needed
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let ordinal = match arguments.device {
        Some(Device::Cpu) => None,
        Some(Device::Cuda(ordinal)) => Some(ordinal),
        None => Some(0),
    };
    if ordinal.is_none() {
        arguments.attention.check(Device::Cpu)?;
    }
    let mut report = Report {
        colac: env!("CARGO_PKG_VERSION"),
        processor: run_record::processor(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: machine::whole_memory(),
        gpu: ordinal.map(|ordinal| gpu(ordinal, arguments.attention)),
        cases_by_cudnn: None,
        operations: Vec::new(),
        failed: Vec::new(),
    };
    let usable = report
        .gpu
        .as_ref()
        .is_none_or(|gpu| gpu.device.is_ok() && gpu.libraries.iter().all(Found::is_fine));
    if arguments.verify && usable {
        let Some(ordinal) = ordinal else {
            return Err(Failure::line(
                "--verify needs a GPU: the CPU is verified by colac's tests",
            ));
        };
        (report.operations, report.cases_by_cudnn) = match arguments.attention {
            Attention::Own => (cuda::verify(ordinal)?, None),
            Attention::Cudnn => {
                let verified = cuda::verify_attention(ordinal)?;
                (verified.verdicts, Some(verified.by_library))
            }
        };
        let failed = report.operations.iter().filter(|verdict| !verdict.failures.is_empty());
        report.failed = failed.map(|verdict| verdict.name).collect();
    }
    match arguments.json {
        true => console::out_json(&report)?,
        false => console::out(written(&report))?,
    }
    let asked = matches!(arguments.device, Some(Device::Cuda(_)));
    let in_vain = report.cases_by_cudnn == Some(0);
    match (asked && !usable) || in_vain || !report.failed.is_empty() {
        true => Err(Failure::Reported),
        false => Ok(()),
    }
}

fn gpu(number: i32, attention: Attention) -> Gpu {
    let device = cuda::describe(number).map_err(|error| error.to_string());
    let device = device.map(|gpu| Described {
        name: gpu.name,
        compute_capability: format!("{}.{}", gpu.capability.0, gpu.capability.1),
        multiprocessors: gpu.multiprocessors,
        memory_bytes: gpu.memory_bytes,
        driver: format!("{}.{}", gpu.driver_version / 1000, gpu.driver_version % 1000 / 10),
    });
    let told = |error: cuda::CudaError| error.to_string();
    let needed = cuda::libraries_found().into_iter();
    let needed =
        needed.map(|(name, found)| Found { name, needed: true, found: found.map_err(told) });
    let mut libraries: Vec<Found> = needed.collect();
    libraries.push(Found {
        name: "cuDNN",
        needed: attention == Attention::Cudnn,
        found: cuda::cudnn_found().map_err(told),
    });
    Gpu { number, device, libraries }
}

/// What the CUDA runtime rests on. It changes with the tables of docs/benchmarks.md, and names no more than they hold.
const PROOF: &str = "this version has not run on a GPU yet: its kernels ran on a CPU and through NVIDIA's compiler, whole runs on \
                     stand-ins for its libraries. An earlier one ran on an H100, attention by cuDNN on no GPU. --verify holds \
                     every operation to the reference here";

fn written(report: &Report) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "{label:<14}{value}");
    };
    line("colac", report.colac);
    let memory = report.memory_bytes.map_or_else(String::new, |b| format!(", {}", text::bytes(b)));
    let processor = report.processor.as_deref().unwrap_or("unknown processor");
    line("CPU", &format!("{processor}, {} cores{memory}", report.cores));
    if let Some(gpu) = &report.gpu {
        match &gpu.device {
            Ok(device) => line(
                &format!("GPU {}", gpu.number),
                &format!(
                    "{}, compute capability {}, {} multiprocessors, {}, driver for CUDA {}",
                    device.name,
                    device.compute_capability,
                    device.multiprocessors,
                    text::bytes(device.memory_bytes),
                    device.driver
                ),
            ),
            Err(why) => line(&format!("GPU {}", gpu.number), &format!("cannot be used: {why}")),
        }
        for library in &gpu.libraries {
            match &library.found {
                Ok(found) => line(library.name, found),
                Err(missing) if library.needed => line(library.name, missing),
                Err(missing) => {
                    line(library.name, &format!("{missing}; only --attention cudnn needs it"));
                }
            }
        }
    }
    if report.gpu.as_ref().is_some_and(|gpu| gpu.device.is_ok()) {
        line(
            "determinism",
            "two equal runs give equal bits: nothing adds up in an order that varies, and cuBLASLt and cuDNN are asked for \
             no algorithm that does",
        );
    }
    if report.gpu.is_some() {
        line("proof", PROOF);
    }
    if !report.operations.is_empty() {
        let _ = writeln!(text, "\n{:<28}{:>8}{:>22}", "operation", "cases", "worst error/bound");
        for verdict in &report.operations {
            let _ =
                writeln!(text, "{:<28}{:>8}{:>22.3}", verdict.name, verdict.cases, verdict.worst);
            for failure in &verdict.failures {
                let _ = writeln!(text, "  {failure}");
            }
        }
        if let Some(cases) = report.cases_by_cudnn {
            let all: usize = report.operations.iter().map(|verdict| verdict.cases).sum();
            let _ = writeln!(
                text,
                "{cases} of {all} cases were computed by cuDNN, the others by colac's own kernels"
            );
        }
        let _ = match report.failed.len() {
            0 => writeln!(text, "every operation is within its bounds"),
            _ => writeln!(text, "not right here: {}", report.failed.join(", ")),
        };
    }
    text
}
