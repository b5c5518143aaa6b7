//! Whether the machine has room for a run: memory, disk, and a folder to write into.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use colac_compiler::diagnostics::Diagnostic;
use colac_compiler::view::text;
use colac_plan::{Plan, ProgramKind, Segment};
use colac_runtime::train::error::TrainError;
use colac_runtime::train::lock::{LOCK_FILE, RunLock};

use super::{Facts, Findings, Folder, codes};
use crate::shared::machine::{MachineOptions, taken_by_attention};

pub(super) fn check(
    plan: &Plan,
    folder: &Folder,
    machine: MachineOptions,
    findings: &mut Findings,
    facts: &mut Facts,
) {
    memory(plan, machine, findings, facts);
    let path = match folder {
        Folder::New(path) | Folder::Resume(path) => path.as_path(),
        Folder::Refused(reason, help) => {
            let help = help.clone().unwrap_or_else(|| "give another folder with --out".to_owned());
            let finding = Diagnostic::error(codes::RUN_FOLDER, reason).help(help);
            findings.found.push(finding);
            Path::new(".")
        }
    };
    facts.resumes = matches!(folder, Folder::Resume(_));
    if !matches!(folder, Folder::Refused(..)) {
        facts.run_folder = Some(path.to_owned());
    }
    let existing = existing_part(path);
    let writable = writable(path, &existing, findings);
    disk(plan, existing.as_path(), findings, facts, writable);
}

fn memory(plan: &Plan, machine: MachineOptions, findings: &mut Findings, facts: &mut Facts) {
    let beside = machine.beside(plan);
    let needed = plan.total_bytes() + beside.total();
    facts.memory_needed = needed;
    facts.memory_available = machine.available();
    if let Some(available) = facts.memory_available.filter(|&available| needed > available) {
        let finding = Diagnostic::error(
            codes::MEMORY,
            format!(
                "the run needs {} of memory, and {} has {} left{}",
                text::bytes(needed),
                machine.place(),
                text::bytes(available),
                taken_by_attention(beside)
            ),
        )
        .help("lower `micro_batch`: `global_batch` may stay, and is then made of more of them");
        findings.add("train.micro_batch", "decides the memory for activations", finding);
    }
    let arena = |kind| plan.program(kind).arena_lower_bound;
    let (training, evaluation) =
        (arena(ProgramKind::ForwardBackward), arena(ProgramKind::Evaluate));
    if evaluation > training {
        let finding = Diagnostic::warning(
            codes::EVALUATION_MEMORY,
            format!(
                "evaluating needs {} for activations, training only {}",
                text::bytes(evaluation),
                text::bytes(training)
            ),
        )
        .help("lower `evaluation.batch`; the result does not depend on it");
        findings.add("evaluation.batch", "decides the memory of the whole run", finding);
    }
}

/// The part of a path that exists: where a folder would be made.
fn existing_part(path: &Path) -> PathBuf {
    let part = path.ancestors().find(|part| part.exists() && !part.as_os_str().is_empty());
    part.map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Whether the folder takes files; why not is reported.
fn writable(path: &Path, existing: &Path, findings: &mut Findings) -> bool {
    if path.join(LOCK_FILE).is_file()
        && let Err(error) = RunLock::acquire(path)
    {
        let reason = match error {
            TrainError::InUse { process, .. } => {
                format!("process {process} works in {}", path.display())
            }
            other => other.to_string(),
        };
        let finding = Diagnostic::error(codes::IN_USE, reason)
            .help("wait for it to end, or give another folder with --out");
        findings.found.push(finding);
        return true;
    }
    let probe = existing.join(format!(".colac-dry-run-{}", std::process::id()));
    let made = OpenOptions::new().write(true).create_new(true).open(&probe);
    match made {
        Ok(_) => {
            // It was made a moment ago by this process; where it cannot be removed, it is empty.
            let _ = fs::remove_file(&probe);
            true
        }
        Err(error) => {
            let message = format!("{} cannot be written: {error}", existing.display());
            let finding = Diagnostic::error(codes::NOT_WRITABLE, message);
            findings.found.push(finding.help("give a folder that can be written with --out"));
            false
        }
    }
}

fn disk(plan: &Plan, existing: &Path, findings: &mut Findings, facts: &mut Facts, writable: bool) {
    let recipe = &plan.recipe;
    let (every, steps) = (recipe.checkpoint.every, recipe.schedule.steps);
    // Saved are the weights and both moments.
    facts.checkpoint_bytes = plan.bytes(Segment::Parameters) + plan.bytes(Segment::Optimizer);
    let saved = if every == 0 { 1 } else { steps.div_ceil(every) };
    // One more is on disk while it is written.
    let kept = u64::from(recipe.checkpoint.keep) + u64::from(recipe.checkpoint.keep_best) + 1;
    let marked = steps.checked_div(recipe.checkpoint.keep_every).unwrap_or(0);
    facts.checkpoints = match recipe.checkpoint.keep {
        0 => saved,
        _ => saved.min(kept.saturating_add(marked)),
    };
    let tokens = facts.disk_needed;
    facts.disk_needed = tokens + facts.checkpoints.saturating_mul(facts.checkpoint_bytes);
    facts.disk_available = writable.then(|| free_bytes(existing)).flatten();
    if let Some(free) = facts.disk_available.filter(|&free| facts.disk_needed > free) {
        let finding = Diagnostic::error(
            codes::DISK_SPACE,
            format!(
                "the run writes {}, and {} has {} free",
                text::bytes(facts.disk_needed),
                existing.display(),
                text::bytes(free)
            ),
        )
        .help("keep fewer checkpoints with `checkpoint.keep`, or give a folder on another disk with --out");
        let label = format!("{} of {}", facts.checkpoints, text::bytes(facts.checkpoint_bytes));
        findings.add("checkpoint.keep", &label, finding);
    }
    if every == 0 || every > steps {
        let finding = Diagnostic::warning(
            codes::NO_CHECKPOINT,
            format!("nothing is saved before the end, after {} steps", text::grouped(steps)),
        )
        .help("set `checkpoint.every` to what you are ready to lose when the machine stops");
        findings.add("checkpoint.every", "never reached before the end", finding);
    }
}

/// Bytes that this user may still write where a path lies; `None` where the system does not say.
#[cfg(unix)]
fn free_bytes(path: &Path) -> Option<u64> {
    let statistics = rustix::fs::statvfs(path).ok()?;
    Some(statistics.f_bavail.saturating_mul(statistics.f_frsize))
}

/// Other systems are not asked.
#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}
