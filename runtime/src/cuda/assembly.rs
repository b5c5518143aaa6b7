//! What the assembler makes of kernels: that they compile, how many registers they take, how much they spill.
//!
//! NVRTC compiles for any GPU on a machine that has none, so tests look at every kernel of a plan this way. Owns the
//! reading of the assembler's log. Must not know which plans are looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use colac_plan::{DType, Plan};

use crate::conformance;
use crate::cuda::collect::Collector;
use crate::cuda::driver::{compile, libraries};
use crate::cuda::error::CudaError;
use crate::cuda::executor::DeviceExecutor;
use crate::cuda::launch::Kernel;
use crate::cuda::lower;
use crate::cuda::source::{Family, Source, type_name};

/// A kernel for an architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assembled {
    /// File, name and macros.
    pub kernel: String,
    /// What it was compiled for, e.g. `sm_90`.
    pub architecture: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes that a thread writes to memory and reads back because registers do not suffice.
    pub spilled_bytes: u32,
}

/// Whether NVRTC is there.
///
/// # Errors
/// If it is not installed.
pub fn available() -> Result<(), CudaError> {
    libraries::nvrtc().map(|_| ())
}

/// Kernels, each compiled once. Those that equal texts have are compiled together.
#[derive(Clone, Debug, Default)]
pub struct Kernels(BTreeMap<Source, BTreeSet<&'static str>>);

impl Kernels {
    /// Everything that some plans launch, that products fall back to and that products are timed on.
    ///
    /// # Errors
    /// A plan that cannot be lowered, or a launch whose arguments are not what its kernel takes.
    pub fn of(plans: impl IntoIterator<Item = Arc<Plan>>) -> Result<Kernels, CudaError> {
        Kernels::on(lower::LARGE, plans)
    }

    /// The same on a device of so many multiprocessors.
    fn on(
        multiprocessors: u64,
        plans: impl IntoIterator<Item = Arc<Plan>>,
    ) -> Result<Kernels, CudaError> {
        let mut collector = Collector::new(multiprocessors);
        collector.kernels.insert(lower::noise(0, 1).kernel());
        for plan in plans {
            DeviceExecutor::new(plan, &mut collector)?;
        }
        let mut kernels = Kernels::default();
        for Kernel { source, entry } in collector.kernels {
            kernels.0.entry(source).or_default().insert(entry);
        }
        Ok(kernels)
    }

    /// Those of the conformance suite, which runs some operations as on a device that its samples fill, too.
    ///
    /// # Errors
    /// As [`Kernels::of`].
    pub fn of_conformance() -> Result<Kernels, CudaError> {
        let mut kernels = Kernels::of(conformance::plans(&|_| true))?;
        let filled = conformance::plans(&lower::depends_on_multiprocessors);
        for (source, entries) in Kernels::on(1, filled)?.0 {
            kernels.0.entry(source).or_default().extend(entries);
        }
        Ok(kernels)
    }

    /// Without those that others have too.
    #[must_use]
    pub fn without(mut self, others: &Kernels) -> Kernels {
        self.0.retain(|source, _| !others.0.contains_key(source));
        self
    }

    /// Those of a file of kernels, e.g. `attention_tiles`.
    #[must_use]
    pub fn of_file(&self, name: &str) -> Kernels {
        let mut kernels = self.clone();
        kernels.0.retain(|source, _| source.family.file().0 == name);
        kernels
    }

    /// Each kernel as a variant: file, name, and the macros that decide what is compiled of the text, without element formats
    /// and without the width of rows that a kernel divides by; whether a program is part of it.
    pub fn variants(&self) -> BTreeSet<String> {
        let format = |value: &str| {
            [DType::F32, DType::Bf16, DType::I32].into_iter().any(|dtype| type_name(dtype) == value)
        };
        let name = |source: &Source, entry: &str| {
            let mut text = format!("{}: {entry}", source.family.file().0);
            for (name, value) in source.defines.iter().filter(|(_, value)| !format(value)) {
                let _ = match *name {
                    "WIDTH" | "IN_ROW" => write!(text, " {name}"),
                    _ => write!(text, " {name}={value}"),
                };
            }
            if !source.program.is_empty() && source.family != Family::Pointwise {
                text.push_str(" with a program");
            }
            text
        };
        let all = self.0.iter().flat_map(|(s, entries)| entries.iter().map(move |e| name(s, e)));
        all.collect()
    }

    /// Texts to compile.
    pub fn texts(&self) -> usize {
        self.0.len()
    }

    /// Compiles all of them, by as many compilers as there are cores.
    ///
    /// # Errors
    /// Without NVRTC, at a text that it refuses, or at a kernel that a text does not have.
    pub fn assemble(&self, architecture: &str) -> Result<Vec<Assembled>, CudaError> {
        let texts: Vec<_> = self.0.iter().collect();
        let next = AtomicUsize::new(0);
        let results = Mutex::new(vec![None; texts.len()]);
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some((source, entries)) = texts.get(index) else { break };
                        let result = assemble(source, entries, architecture);
                        let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                        results[index] = Some(result.map_err(|error| error.to_string()));
                    }
                });
            }
        });
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        let results: Result<Vec<_>, _> = results.into_iter().flatten().collect();
        Ok(results.map_err(CudaError::Compiler)?.concat())
    }
}

fn assemble(
    source: &Source,
    entries: &BTreeSet<&'static str>,
    architecture: &str,
) -> Result<Vec<Assembled>, CudaError> {
    let macros: Vec<String> =
        source.defines.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let describe =
        |entry: &str| format!("{}: {entry} {}", source.family.file().0, macros.join(" "));
    let log = compile::compile(&source.text(), architecture)
        .map_err(|error| CudaError::Compiler(format!("{}: {error}", describe(""))))?
        .log;
    let found = read(&log);
    for entry in entries {
        if !found.iter().any(|(name, ..)| name == entry) {
            let message = format!("{}: {architecture} has no such kernel:\n{log}", describe(entry));
            return Err(CudaError::Compiler(message));
        }
    }
    // A text's other kernels are looked at too: they come out of the same file.
    let assembled = found.into_iter().map(|(name, registers, spilled_bytes)| Assembled {
        kernel: describe(&name),
        architecture: architecture.to_owned(),
        registers,
        spilled_bytes,
    });
    Ok(assembled.collect())
}

/// Name, registers and spilled bytes of each kernel in a log of the assembler.
fn read(log: &str) -> Vec<(String, u32, u32)> {
    let number_before = |line: &str, what: &str| -> Option<u32> {
        line[..line.find(what)?].trim_end().rsplit([' ', ',']).next()?.parse().ok()
    };
    let mut kernels = Vec::new();
    let (mut name, mut spilled) = (None, None);
    for line in log.lines() {
        if let Some((_, of)) = line.split_once("Function properties for ") {
            (name, spilled) = (Some(of.trim().to_owned()), None);
        }
        if let (Some(stores), Some(loads)) =
            (number_before(line, " bytes spill stores"), number_before(line, " bytes spill loads"))
        {
            spilled = Some(stores + loads);
        }
        if let Some(registers) = number_before(line, " registers")
            && let (Some(name), Some(spilled)) = (name.take(), spilled)
        {
            kernels.push((name, registers, spilled));
        }
    }
    kernels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::calibrate;
    use crate::skip::skip;

    #[test]
    fn logs_are_read() {
        let log = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'add' for 'sm_90'\n\
            ptxas info    : Function properties for add\n    \
            8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n\
            ptxas info    : Used 40 registers, used 1 barriers, 8 bytes cumulative stack size\n\
            ptxas info    : Compiling entry function 'copy' for 'sm_90'\n\
            ptxas info    : Function properties for copy\n    \
            0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
            ptxas info    : Used 9 registers, used 0 barriers\n";
        assert_eq!(read(log), [("add".to_owned(), 40, 16), ("copy".to_owned(), 9, 0)]);
    }

    /// Every kernel of the conformance suite, for the oldest and the newest architecture in use, and those that only a
    /// calibration needs.
    #[test]
    fn kernels_compile_and_spill_nothing() {
        let kernels = Kernels::of_conformance().expect("launches fit their kernels");
        let calibration = calibrate::plans_of_gpu().expect("operands that operations take");
        let calibration = Kernels::of(calibration).expect("launches fit their kernels");
        let calibration = calibration.without(&kernels);
        assert!(calibration.texts() > 0);
        if let Err(error) = available() {
            let reason = format!("{error} (tests/cuda/install-nvrtc does that for tests)");
            return skip("cuda::assembly::tests::kernels_compile_and_spill_nothing", &reason);
        }
        let tiles = kernels.of_file("attention_tiles");
        assert!(tiles.texts() > 0);
        for (kernels, architecture) in
            [(&kernels, "sm_80"), (&kernels, "sm_90"), (&tiles, "sm_90a"), (&calibration, "sm_90")]
        {
            let assembled = kernels.assemble(architecture).expect("NVRTC takes every text");
            let spilling: Vec<&Assembled> =
                assembled.iter().filter(|k| k.spilled_bytes > 0).collect();
            assert!(spilling.is_empty(), "{spilling:#?}");
        }
    }
}
