//! `run.json`: what was run, on which machine, when, and how it ended.
//!
//! Owns the file's fields and when they are written: a session is added when training begins and closed when it ends, so
//! one without an end was killed. The file is replaced whole or not at all. Must not know how training works.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use colac_plan::{Plan, hash};
use colac_runtime::train::error::TrainError;
use colac_runtime::train::options::{Outcome, Summary};
use serde::{Deserialize, Serialize};

use crate::shared::console;
use crate::shared::failure::Failure;
use crate::shared::run_folder::write_atomically;

/// Name of the file in a run folder.
pub(crate) const RECORD_FILE: &str = "run.json";

/// Version of the file's format.
const FORMAT_VERSION: u64 = 1;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u64,
    name: String,
    form: String,
    hashes: PlanHashes,
    /// The resolved spec.
    spec: String,
    sessions: Vec<Session>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct PlanHashes {
    model: String,
    numerics: String,
    file: String,
}

/// One process that trained in the folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Session {
    started: String,
    /// Absent while it runs, and for good if it was killed.
    stopped: Option<String>,
    /// `finished`, `stopped`, `interrupted`, `out of time`, or `error: …`.
    outcome: Option<String>,
    /// Updates done when it began and when it ended.
    from_step: Option<u64>,
    to_step: Option<u64>,
    command: Vec<String>,
    process: u32,
    colac_version: String,
    /// Commit that this program was built from, if that was known.
    commit: Option<String>,
    compiler_version: String,
    /// Identity of the training rows.
    data: String,
    #[serde(flatten)]
    computer: Computer,
    machine: Machine,
}

/// What computed, as far as the bits of a run depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Computer {
    /// `cpu`, or the GPU as its driver calls it.
    #[serde(default = "cpu")]
    pub(crate) device: String,
    /// Of the CPU; no bit depends on how many.
    pub(crate) threads: usize,
    /// What computed attention, where that was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attention: Option<String>,
}

/// What computed before there was a choice.
fn cpu() -> String {
    "cpu".to_owned()
}

impl Computer {
    /// In words.
    fn described(&self) -> String {
        match &self.attention {
            Some(attention) => format!("{} ({attention})", self.device),
            None => self.device.clone(),
        }
    }

    /// What to tell a user whose run was on `earlier` last, if that makes a difference to its numbers.
    fn difference(&self, earlier: &Computer) -> Option<String> {
        let same = (&self.device, &self.attention) == (&earlier.device, &earlier.attention);
        (!same).then(|| {
            format!(
                "the run was on {} and goes on on {}: its numbers may differ in their last bits from those of a run that stayed",
                earlier.described(),
                self.described()
            )
        })
    }
}

/// Where it ran, as far as the system tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Machine {
    host: Option<String>,
    os: String,
    architecture: String,
    cpu: Option<String>,
    cores: Option<usize>,
    memory_bytes: Option<u64>,
    vector_units: Vec<String>,
    /// `COLAC_CPU_VECTORS`, which narrows the vector units that are used.
    vectors_limited_to: Option<String>,
}

impl Machine {
    fn this() -> Machine {
        let line = |path: &str| -> Option<String> {
            Some(fs::read_to_string(path).ok()?.lines().next()?.trim().to_owned())
        };
        let value = |path: &str, name: &str| -> Option<String> {
            let text = fs::read_to_string(path).ok()?;
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = value("/proc/meminfo", "MemTotal")
            .and_then(|text| text.strip_suffix("kB")?.trim().parse::<u64>().ok());
        let system =
            line("/proc/sys/kernel/ostype").unwrap_or_else(|| std::env::consts::OS.to_owned());
        let release = line("/proc/sys/kernel/osrelease");
        Machine {
            host: line("/proc/sys/kernel/hostname"),
            os: release.map_or_else(|| system.clone(), |release| format!("{system} {release}")),
            architecture: std::env::consts::ARCH.to_owned(),
            cpu: value("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().ok().map(usize::from),
            memory_bytes: memory.map(|kibibytes| kibibytes * 1024),
            vector_units: vector_units(),
            vectors_limited_to: std::env::var("COLAC_CPU_VECTORS").ok(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn vector_units() -> Vec<String> {
    let units = [
        ("avx", std::arch::is_x86_feature_detected!("avx")),
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
    ];
    units.iter().filter(|(_, there)| *there).map(|(name, _)| (*name).to_owned()).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_units() -> Vec<String> {
    Vec::new()
}

/// A session that is going on.
#[derive(Debug)]
pub(crate) struct OpenSession<'a> {
    run_dir: &'a Path,
    record: Record,
}

impl<'a> OpenSession<'a> {
    /// Adds a session to the record of a run, or begins one; says so where another device goes on with the run. Call it only while holding the run's lock.
    pub(crate) fn begin(
        run_dir: &'a Path,
        plan: &Plan,
        resumed: bool,
        data: String,
        computer: Computer,
    ) -> Result<OpenSession<'a>, Failure> {
        let hashes = hash::hashes(plan);
        let earlier = fs::read(run_dir.join(RECORD_FILE)).ok().filter(|_| resumed);
        let earlier = earlier.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
        let mut sessions: Vec<Session> = earlier.map_or_else(Vec::new, |record| record.sessions);
        let last = sessions.last().map(|session| &session.computer);
        if let Some(difference) = last.and_then(|last| computer.difference(last)) {
            console::alert(difference);
        }
        sessions.push(Session {
            started: now(),
            stopped: None,
            outcome: None,
            from_step: None,
            to_step: None,
            command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect(),
            process: std::process::id(),
            colac_version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("COLAC_COMMIT").map(str::to_owned),
            compiler_version: plan.origin.compiler_version.clone(),
            data,
            computer,
            machine: Machine::this(),
        });
        let record = Record {
            format: FORMAT_VERSION,
            name: plan.name.clone(),
            form: plan.form.name().to_owned(),
            hashes: PlanHashes {
                model: hashes.model.to_string(),
                numerics: hashes.numerics.to_string(),
                file: hashes.file.to_string(),
            },
            spec: plan.origin.resolved_spec.clone(),
            sessions,
        };
        let session = OpenSession { run_dir, record };
        session.write()?;
        Ok(session)
    }

    /// Closes the session.
    pub(crate) fn end(mut self, result: &Result<Summary, TrainError>) -> Result<(), Failure> {
        let session = self.record.sessions.last_mut().expect("a session was added");
        session.stopped = Some(now());
        match result {
            Ok(summary) => {
                let outcome = match summary.outcome {
                    Outcome::Finished => "finished",
                    Outcome::Stopped => "stopped",
                    Outcome::Interrupted => "interrupted",
                    Outcome::OutOfTime => "out of time",
                };
                session.outcome = Some(outcome.to_owned());
                (session.from_step, session.to_step) =
                    (Some(summary.started_at), Some(summary.step));
            }
            Err(error) => session.outcome = Some(format!("error: {error}")),
        }
        self.write()
    }

    fn write(&self) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(&self.record)
            .expect("numbers and texts always have a JSON form");
        write_atomically(&self.run_dir.join(RECORD_FILE), (text + "\n").as_bytes())
    }
}

/// The processor as the system names it.
pub(crate) fn processor() -> Option<String> {
    Machine::this().cpu
}

/// The time as RFC 3339 writes it, in UTC.
pub(crate) fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    utc(since.as_secs())
}

/// Seconds since 1970 as a date and a time.
fn utc(seconds: u64) -> String {
    let (mut days, time) = (seconds / 86_400, seconds % 86_400);
    let leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut year = 1970;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Threads make no difference to numbers; the device and whose attention it is do. What older records do not say was
    /// computed on the CPU.
    #[test]
    fn another_device_makes_a_difference() {
        let old: Computer = serde_json::from_str("{\"threads\": 2}").unwrap();
        let computer = |device: &str, threads, attention: Option<&str>| Computer {
            device: device.to_owned(),
            threads,
            attention: attention.map(str::to_owned),
        };
        assert_eq!(old, computer("cpu", 2, None));
        assert_eq!(computer("cpu", 8, None).difference(&old), None);
        let gpu = computer("GPU", 2, None);
        let moved = gpu.difference(&old).unwrap();
        assert!(moved.starts_with("the run was on cpu and goes on on GPU: "), "{moved}");
        let other = computer("GPU", 2, Some("attention by cuDNN"));
        assert!(other.difference(&gpu).unwrap().contains("GPU (attention by cuDNN)"));
        assert_eq!(other.difference(&other), None);
    }

    /// As `date -u -d @SECONDS` says.
    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), expected);
        }
    }
}
