//! Everything that can be wrong with a run before anything is spent on it.
//!
//! Owns the checks that a compiled plan leaves open: its data ([`data`]) and the machine ([`machine`]), with findings at
//! the lines of the spec that they concern, all at once. Must not change anything on disk, and must not know how a run
//! is trained: it asks the libraries the questions that training will ask.

pub(crate) mod codes;
mod data;
mod machine;

use std::path::PathBuf;

use colac_compiler::diagnostics::{Diagnostic, Diagnostics, Severity, Sources, Span};
use colac_compiler::spec::{Spec, SpecInput};
use colac_compiler::view::{Inspection, text};
use colac_plan::Plan;
use serde::Serialize;

use crate::shared::console;
use crate::shared::estimate;
use crate::shared::failure::Failure;
use crate::shared::machine::MachineOptions;
use crate::shared::target::Target;

pub(crate) use data::repeats;

/// Where the run would go.
pub(crate) enum Folder {
    /// A folder that does not exist yet or holds no run.
    New(PathBuf),
    /// The folder of a run that goes on.
    Resume(PathBuf),
    /// None: the reason, and what to do.
    Refused(String, Option<String>),
}

/// What is asked about.
pub(crate) struct Question<'a> {
    pub(crate) target: &'a Target,
    /// Settings of `--set` and of options that stand for keys of the spec.
    pub(crate) settings: &'a [String],
    pub(crate) plan: &'a Plan,
    pub(crate) folder: Folder,
    pub(crate) machine: MachineOptions,
}

/// What was found.
pub(crate) struct Preflight {
    findings: Diagnostics,
    sources: Sources,
    facts: Facts,
}

/// What is known of the run; the field names are stable.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Facts {
    /// Name of the spec.
    name: String,
    /// `cola` or `full-rank`.
    form: &'static str,
    /// Trained numbers.
    parameters: u64,
    /// Updates of the schedule.
    steps: u64,
    /// Token positions of the schedule.
    tokens: u64,
    /// What is trained on.
    training: Option<data::Amount>,
    /// What is evaluated on.
    validation: Option<data::Amount>,
    /// How often the schedule goes over the training data.
    epochs: Option<f64>,
    /// Entries of the tokenizer.
    tokenizer_entries: Option<u64>,
    /// Bytes that the executor allocates.
    memory_needed: u64,
    /// Bytes that can be had.
    memory_available: Option<u64>,
    /// Bytes of one checkpoint.
    checkpoint_bytes: u64,
    /// Checkpoints on disk at once, the one being written included.
    checkpoints: u64,
    /// Bytes that the run will occupy: checkpoints, and tokens of text.
    disk_needed: u64,
    /// Bytes free where the run goes.
    disk_available: Option<u64>,
    /// Where the run goes.
    run_folder: Option<PathBuf>,
    /// Whether a run goes on there.
    resumes: bool,
    /// A guess of the time that the whole schedule takes here.
    seconds: Option<f64>,
}

/// The places of the spec, and what was found so far.
struct Findings {
    places: Option<Spec>,
    found: Diagnostics,
}

impl Findings {
    /// Adds a finding about a key of the spec.
    fn add(&mut self, key: &str, label: &str, mut finding: Diagnostic) {
        if let Some(span) = self.place(key) {
            finding = finding.at(span, label);
        }
        self.found.push(finding);
    }

    fn place(&self, key: &str) -> Option<Span> {
        self.places.as_ref()?.place(key)
    }
}

/// Checks everything.
pub(crate) fn check(question: &Question<'_>) -> Preflight {
    let Question { target, settings, plan, folder, machine } = question;
    let mut sources = Sources::default();
    let input = match target {
        Target::Spec(input) => input.clone(),
        Target::Plan(_) | Target::Run(_) | Target::Checkpoint { .. } => SpecInput::Text {
            name: "the plan's spec".to_owned(),
            text: plan.origin.resolved_spec.clone(),
        },
    };
    // The spec has compiled, so it is read for the places of its keys alone.
    let places = Spec::load(input, settings, false, &mut sources).ok().map(|(spec, _)| spec);
    let mut findings = Findings { places, found: Diagnostics::default() };
    let inspection = Inspection::new(plan);
    let mut facts = Facts {
        name: plan.name.clone(),
        form: plan.form.name(),
        parameters: inspection.parameters.total,
        steps: inspection.batch.steps,
        tokens: inspection.batch.tokens,
        ..Facts::default()
    };
    data::check(plan, &mut findings, &mut facts);
    machine::check(plan, folder, *machine, &mut findings, &mut facts);
    // Measuring takes a moment, and only a run that can begin takes time.
    if !findings.found.has_errors() {
        facts.seconds = estimate::seconds(plan, machine.threads());
    }
    Preflight { findings: findings.found, sources, facts }
}

/// A finding for machines.
#[derive(Serialize)]
struct Finding<'a> {
    code: &'static str,
    severity: &'static str,
    message: &'a str,
    help: Option<&'a str>,
    /// `file:line` of each place that it concerns.
    places: Vec<String>,
}

/// All that a machine reads.
#[derive(Serialize)]
struct Report<'a> {
    /// Whether training could begin.
    ok: bool,
    findings: Vec<Finding<'a>>,
    #[serde(flatten)]
    facts: &'a Facts,
}

impl Preflight {
    /// Prints the report; an error if there is one among the findings.
    pub(crate) fn print(self, json: bool, deny_warnings: bool) -> Result<(), Failure> {
        let Preflight { mut findings, sources, facts } = self;
        if deny_warnings {
            findings = findings.denied();
        }
        let ok = !findings.has_errors();
        match json {
            true => {
                let report = Report { ok, findings: rows(&findings, &sources), facts: &facts };
                console::out_json(&report)?;
            }
            false => {
                crate::shared::failure::show(&findings, &sources);
                console::out(facts.text(&findings))?;
            }
        }
        if ok { Ok(()) } else { Err(Failure::Reported) }
    }
}

fn rows<'a>(findings: &'a Diagnostics, sources: &Sources) -> Vec<Finding<'a>> {
    let row = |diagnostic: &'a Diagnostic| Finding {
        code: diagnostic.code,
        severity: severity(diagnostic),
        message: &diagnostic.message,
        help: diagnostic.help.as_deref(),
        places: diagnostic.labels.iter().map(|label| sources.place(label.span)).collect(),
    };
    findings.iter().map(row).collect()
}

fn severity(diagnostic: &Diagnostic) -> &'static str {
    match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

impl Facts {
    fn text(&self, findings: &Diagnostics) -> String {
        let mut lines = vec![format!("dry run of {} ({})", self.name, self.form)];
        let mut line = |label: &str, value: String| lines.push(format!("  {label:<12}{value}"));
        let unknown = || "not known".to_owned();
        line("parameters", text::grouped(self.parameters));
        line(
            "schedule",
            format!(
                "{} steps, {} tokens",
                text::grouped(self.steps),
                text::count(self.tokens as f64)
            ),
        );
        line("training", self.training.as_ref().map_or_else(unknown, ToString::to_string));
        if let Some(epochs) = self.epochs {
            line("", format!("the schedule goes over it {epochs:.2} times"));
        }
        line(
            "validation",
            self.validation.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string),
        );
        if let Some(entries) = self.tokenizer_entries {
            line("tokenizer", format!("{} entries", text::grouped(entries)));
        }
        let available = |bytes: Option<u64>, word: &str| {
            bytes.map_or_else(unknown, |bytes| format!("{} {word}", text::bytes(bytes)))
        };
        line(
            "memory",
            format!(
                "{} of {}",
                text::bytes(self.memory_needed),
                available(self.memory_available, "left")
            ),
        );
        line(
            "disk",
            format!(
                "{} of {}, {} checkpoints of {}",
                text::bytes(self.disk_needed),
                available(self.disk_available, "free"),
                text::grouped(self.checkpoints),
                text::bytes(self.checkpoint_bytes)
            ),
        );
        if let Some(folder) = &self.run_folder {
            let what = if self.resumes { "goes on" } else { "new" };
            line("run folder", format!("{}, {what}", folder.display()));
        }
        if let Some(seconds) = self.seconds {
            line("time", format!("about {}", console::duration(seconds)));
        }
        let count = |severity| findings.iter().filter(|d| d.severity == severity).count();
        let named = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let verdict = match errors {
            0 => "training can begin; nothing was written",
            _ => "training cannot begin",
        };
        line(
            "findings",
            format!("{}, {}: {verdict}", named(errors, "error"), named(warnings, "warning")),
        );
        lines.join("\n") + "\n"
    }
}
