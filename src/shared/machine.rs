//! The machine: how many threads, whether a plan fits, and the executor.
//!
//! Owns the choice of executor. Must not know which programs are run on it.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;

use clap::Args;
use colac_compiler::view::text;
use colac_plan::Plan;
use colac_runtime::cpu::{CpuExecutor, CpuOptions};

use crate::shared::failure::Failure;

/// Options of every command that computes.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct MachineOptions {
    /// Threads to compute with; results do not depend on it [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

impl MachineOptions {
    /// Threads to use.
    pub(crate) fn threads(self) -> NonZeroUsize {
        self.threads.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
    }

    /// Refuses a plan that the machine has no memory for: most systems would grant it and kill the process when it is
    /// used.
    pub(crate) fn check_memory(self, plan: &Plan) -> Result<(), Failure> {
        let needed = plan.total_bytes();
        match available_memory() {
            Some(available) if needed > available => Err(Failure::line(format!(
                "{} needs {} of memory, and this machine has {} left",
                plan.name,
                text::bytes(needed),
                text::bytes(available)
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

    /// Bytes that a plan may take where it is to fill the machine: what can be had, less a sixteenth for everything that
    /// is no plan. `None` where the system does not say.
    pub(crate) fn room_for_a_plan(self) -> Option<u64> {
        available_memory().map(|available| available - available / 16)
    }

    /// Memory for a plan, and the threads that work on it.
    pub(crate) fn executor(self, plan: &Arc<Plan>) -> Result<CpuExecutor, Failure> {
        let options = CpuOptions { threads: self.threads().get(), ..CpuOptions::default() };
        Ok(CpuExecutor::new(Arc::clone(plan), options)?)
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
