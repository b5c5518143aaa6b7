//! The machine: which device, how many threads, whether a plan fits, and the executor.
//!
//! Owns the choice of executor. Must not know which programs are run on it.

use std::num::NonZeroUsize;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;

use clap::{Args, ValueEnum};
use colac_compiler::view::text;
use colac_plan::Plan;
use colac_runtime::cpu::{CpuExecutor, CpuOptions};
use colac_runtime::cuda::{self, AttentionKernels, BesidePlan, CudaExecutor};
use colac_runtime::executor::TimedExecutor;
use colac_runtime::train::checkpoint::{self, CHOICES_FILE};

use crate::shared::failure::Failure;
use crate::shared::number;
use crate::shared::run_record::Computer;

/// Options of every command that works with several threads.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct ThreadOptions {
    /// Threads to compute with; results do not depend on it [default: all cores]
    #[arg(long, value_name = "N", value_parser = number::threads, allow_negative_numbers = true)]
    threads: Option<NonZeroUsize>,
}

impl ThreadOptions {
    /// Threads to use.
    pub(crate) fn threads(self) -> NonZeroUsize {
        self.threads.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
    }
}

/// Where a plan runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    Cpu,
    /// The GPU of that number, from 0.
    Cuda(i32),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Device, String> {
        let number = |text: &str| text.parse().ok().filter(|number| *number >= 0);
        match text {
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            _ => (text.strip_prefix("cuda:").and_then(number).map(Device::Cuda))
                .ok_or_else(|| "write cpu, cuda, or cuda:1 for the second GPU".to_owned()),
        }
    }
}

/// Whose kernels compute attention on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Attention {
    /// colac's own
    Own,
    /// cuDNN's, and colac's own for operations that it does not take
    Cudnn,
}

impl Attention {
    /// The same for the runtime.
    pub(crate) fn kernels(self) -> AttentionKernels {
        match self {
            Attention::Own => AttentionKernels::Own,
            Attention::Cudnn => AttentionKernels::Cudnn,
        }
    }

    /// As it is written on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Attention::Own => "own",
            Attention::Cudnn => "cudnn",
        }
    }

    /// Refuses cuDNN where there is no GPU for it, or where it cannot be used.
    pub(crate) fn check(self, device: Device) -> Result<(), Failure> {
        match (self, device) {
            (Attention::Own, _) => Ok(()),
            (Attention::Cudnn, Device::Cpu) => Err(Failure::line(
                "--attention cudnn needs a GPU: add --device cuda, or leave it out on the CPU",
            )),
            (Attention::Cudnn, Device::Cuda(_)) => Ok(cuda::check_attention(self.kernels())?),
        }
    }
}

/// Options of every command that runs plans.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct MachineOptions {
    #[command(flatten)]
    threads: ThreadOptions,

    /// Where to compute: cpu, cuda, or cuda:N for the GPU with that number
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Device,

    /// Whose kernels compute attention on a GPU
    #[arg(long, value_name = "KERNELS", value_enum, default_value_t = Attention::Own)]
    attention: Attention,
}

/// An executor on the device that was asked for.
pub(crate) enum MachineExecutor {
    Cpu(Box<CpuExecutor>),
    Cuda(Box<CudaExecutor>),
}

impl MachineExecutor {
    /// Where it computes: `2 threads`, `NVIDIA H100 80GB HBM3`, and with what if that was chosen.
    pub(crate) fn place(&self, threads: NonZeroUsize) -> String {
        match self {
            MachineExecutor::Cpu(_) => format!("{threads} threads"),
            MachineExecutor::Cuda(executor) => {
                let name = &executor.description().name;
                self.attention().map_or_else(|| name.clone(), |how| format!("{name}, {how}"))
            }
        }
    }

    /// What computes, for the record of a run.
    pub(crate) fn computer(&self, threads: NonZeroUsize) -> Computer {
        let device = match self {
            MachineExecutor::Cpu(_) => "cpu".to_owned(),
            MachineExecutor::Cuda(executor) => executor.description().name.clone(),
        };
        Computer { device, threads: threads.get(), attention: self.attention() }
    }

    /// What computes attention where cuDNN was asked for, in words: it may take some operations and not others.
    pub(crate) fn attention(&self) -> Option<String> {
        let MachineExecutor::Cuda(executor) = self else { return None };
        if executor.kernels() == AttentionKernels::Own {
            return None;
        }
        let used = executor.attention();
        Some(match (used.library, used.own) {
            (_, 0) => "attention by cuDNN".to_owned(),
            (0, _) => "attention by colac's own kernels: cuDNN takes none of it".to_owned(),
            (library, own) => format!(
                "attention by cuDNN in {library} of {} operations, by colac's own kernels in the others",
                library + own
            ),
        })
    }

    /// What runs programs.
    pub(crate) fn as_mut(&mut self) -> &mut dyn TimedExecutor {
        match self {
            MachineExecutor::Cpu(executor) => executor.as_mut(),
            MachineExecutor::Cuda(executor) => executor.as_mut(),
        }
    }
}

impl MachineOptions {
    /// Threads to use on the CPU.
    pub(crate) fn threads(self) -> NonZeroUsize {
        self.threads.threads()
    }

    /// Where to compute.
    pub(crate) fn device(self) -> Device {
        self.device
    }

    /// Bytes that nobody has, where that is known.
    pub(crate) fn available(self) -> Option<u64> {
        match self.device {
            Device::Cpu => available_memory(),
            Device::Cuda(ordinal) => cuda::free_memory(ordinal).ok(),
        }
    }

    /// What a GPU holds for a plan beside the plan's segments; nothing on the CPU.
    pub(crate) fn beside(self, plan: &Plan) -> BesidePlan {
        match self.device {
            Device::Cpu => BesidePlan::default(),
            Device::Cuda(_) => BesidePlan::of(plan, self.attention.kernels()),
        }
    }

    /// What has too little memory, in words.
    pub(crate) fn place(self) -> &'static str {
        match self.device {
            Device::Cpu => "this machine",
            Device::Cuda(_) => "the GPU",
        }
    }

    /// Refuses a device or kernels that are not there, and a plan that the machine has no memory for: most systems would grant it and
    /// kill the process when it is used.
    pub(crate) fn check_memory(self, plan: &Plan) -> Result<(), Failure> {
        self.attention.check(self.device)?;
        if let Device::Cuda(ordinal) = self.device {
            cuda::describe(ordinal)?;
        }
        let beside = self.beside(plan);
        let needed = plan.total_bytes() + beside.total();
        match self.available() {
            Some(available) if needed > available => Err(Failure::line(format!(
                "{} needs {} of memory, and {} has {} left{}",
                plan.name,
                text::bytes(needed),
                self.place(),
                text::bytes(available),
                taken_by_attention(beside)
            ))
            .or_help(|| {
                format!(
                    "lower train.micro_batch, now {}, in its spec or by --set",
                    plan.recipe.micro_batch
                )
            })),
            _ => Ok(()),
        }
    }

    /// Bytes that a plan may take where it is to fill the machine, with what a GPU holds for it: what can be had, less a
    /// sixteenth for everything that is no plan. `None` where the system does not say.
    pub(crate) fn room_for_a_plan(self) -> Option<u64> {
        let of_device = match self.device {
            Device::Cpu => 0,
            Device::Cuda(_) => BesidePlan::of_device(),
        };
        let available = self.available()?.saturating_sub(of_device);
        Some(available - available / 16)
    }

    /// Memory for a plan on the device, and what computes there. In the folder of a run and in its checkpoints a GPU keeps
    /// which algorithms it chose, so that the run goes on with the same ones.
    pub(crate) fn executor(
        self,
        plan: &Arc<Plan>,
        run_dir: Option<&Path>,
    ) -> Result<MachineExecutor, Failure> {
        let plan = Arc::clone(plan);
        match self.device {
            Device::Cpu => {
                let options = CpuOptions { threads: self.threads().get(), ..CpuOptions::default() };
                Ok(MachineExecutor::Cpu(Box::new(CpuExecutor::new(plan, options)?)))
            }
            Device::Cuda(ordinal) => {
                if let Some(run_dir) = run_dir {
                    checkpoint::restore_choices(run_dir)?;
                }
                let choices = run_dir.map(|folder| folder.join(CHOICES_FILE));
                let executor =
                    CudaExecutor::new(plan, ordinal, choices.as_deref(), self.attention.kernels())?;
                Ok(MachineExecutor::Cuda(Box::new(executor)))
            }
        }
    }
}

/// That a part of what is needed is cuDNN's, where it is.
pub(crate) fn taken_by_attention(beside: BesidePlan) -> String {
    match beside.attention {
        0 => String::new(),
        bytes => format!("; {} of it are for cuDNN's attention", text::bytes(bytes)),
    }
}

/// Bytes of memory that the machine has; `None` where the system does not say.
pub(crate) fn whole_memory() -> Option<u64> {
    kibibytes("/proc/meminfo", "MemTotal:").map(|number| number * 1024)
}

/// Bytes of memory that this process holds and that no file stands behind; `None` where the system does not say.
pub(crate) fn anonymous_memory() -> Option<u64> {
    kibibytes("/proc/self/status", "RssAnon:").map(|number| number * 1024)
}

/// The number in a line `NAME 123 kB` of a file of the system.
fn kibibytes(path: &str, name: &str) -> Option<u64> {
    let info = std::fs::read_to_string(path).ok()?;
    let line = info.lines().find(|line| line.starts_with(name))?;
    line[name.len()..].trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Bytes that can be had without pushing out other programs, swap included; `None` where the system does not say.
pub(crate) fn available_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kibibytes = |name: &str| -> Option<u64> {
        let line = info.lines().find(|line| line.starts_with(name))?;
        line[name.len()..].trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some((kibibytes("MemAvailable:")? + kibibytes("SwapFree:").unwrap_or(0)) * 1024)
}
