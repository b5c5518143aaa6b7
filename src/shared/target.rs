//! What a command is given to work on: a spec, a plan, a run or a checkpoint.
//!
//! Owns how an argument is told apart and how it becomes a plan. Must not know what is done with the plan.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use colac_compiler::compile::{Compiled, Request, compile};
use colac_compiler::diagnostics::{Diagnostics, Sources};
use colac_compiler::spec::{Spec, SpecInput, shipped};
use colac_plan::{Plan, file as plan_file};
use colac_runtime::train::checkpoint::{self, MODEL_FILE};

use crate::shared::console;
use crate::shared::failure::{self, Failure};
use crate::shared::run_folder::PLAN_FILE;

/// Options wherever a spec is accepted.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SpecOptions {
    /// Override a field of the spec; may be repeated
    ///
    /// The value is TOML; a bare word is a string. Examples: --set train.micro_batch=4, --set cola.activation=gelu,
    /// --set 'cola.rank="hidden_size / 8"'.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,

    /// Compile the dense baseline: the same spec without its `cola` section
    #[arg(long)]
    pub(crate) full_rank: bool,

    /// Treat warnings about the spec as errors
    #[arg(long)]
    pub(crate) deny_warnings: bool,
}

impl SpecOptions {
    /// Shows warnings, or refuses to go on because of them.
    pub(crate) fn show_warnings(
        &self,
        warnings: Diagnostics,
        sources: &Sources,
    ) -> Result<(), Failure> {
        if self.deny_warnings && !warnings.is_empty() {
            return Err(Failure::Texts(warnings.denied(), sources.clone()));
        }
        failure::show(&warnings, sources);
        Ok(())
    }
}

/// Options of commands that use trained weights.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct WeightsOptions {
    /// The weights: a checkpoint folder, a run folder or a safetensors file [default: the run's newest checkpoint]
    #[arg(long, value_name = "PATH")]
    pub(crate) checkpoint: Option<PathBuf>,

    /// Of a run, take the checkpoint with the lowest validation loss instead of the newest
    #[arg(long)]
    pub(crate) best: bool,
}

/// What an argument names.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// A spec: a file, or a shipped one by name.
    Spec(SpecInput),
    /// A plan file.
    Plan(PathBuf),
    /// A run folder, which holds a plan and checkpoints.
    Run(PathBuf),
    /// A checkpoint folder inside a run folder.
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// The run it belongs to.
        run_dir: PathBuf,
    },
}

impl Target {
    /// Tells an argument apart: a shipped name, a folder with a plan in it, a checkpoint of such a folder, a file that
    /// begins as plans do; anything else is the path of a spec.
    pub(crate) fn from_argument(argument: &str) -> Result<Target, Failure> {
        if shipped::spec(argument).is_some() {
            return Ok(Target::Spec(SpecInput::Shipped(argument.to_owned())));
        }
        let path = Path::new(argument);
        if path.is_dir() {
            return Target::folder(path);
        }
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            return Err(Failure::line(format!(
                "{argument} is named as a file of weights, which has no plan"
            ))
            .or_help(|| {
                "name the spec or the plan first, and the weights by --checkpoint".to_owned()
            }));
        }
        let plan_name = path.extension().is_some_and(|extension| extension == "bin");
        if path.is_file() {
            return Ok(match plan_name || begins_as_plan(path)? {
                true => Target::Plan(path.to_owned()),
                false => Target::Spec(SpecInput::Path(path.to_owned())),
            });
        }
        if plan_name {
            let help = || {
                format!(
                    "write a plan with `{}`",
                    console::command(["compile", "SPEC", "-o", argument])
                )
            };
            return Err(Failure::line(format!("{argument} does not exist")).or_help(help));
        }
        Ok(Target::Spec(SpecInput::from_argument(argument)))
    }

    fn folder(path: &Path) -> Result<Target, Failure> {
        if path.join(PLAN_FILE).is_file() {
            return Ok(Target::Run(path.to_owned()));
        }
        if path.join(MODEL_FILE).is_file() {
            // The path may be `.` or end in `..`, so its parents are looked for in the file system's own name for it.
            let whole = path.canonicalize()?;
            let run_dir = whole.parent().and_then(Path::parent).map(Path::to_owned);
            return match run_dir.filter(|run_dir| run_dir.join(PLAN_FILE).is_file()) {
                Some(run_dir) => Ok(Target::Checkpoint { path: path.to_owned(), run_dir }),
                None => Err(Failure::line(format!(
                    "{} is a checkpoint outside a run folder, so its plan is not known",
                    path.display()
                ))
                .or_help(|| {
                    "name the spec or the plan first, and the checkpoint by --checkpoint".to_owned()
                })),
            };
        }
        Err(Failure::line(format!(
            "{} is a folder, but neither a run (no {PLAN_FILE} in it) nor a checkpoint (no {MODEL_FILE})",
            path.display()
        ))
        .or_help(|| {
            "name a spec or a plan, a run's folder such as runs/NAME-1, or one of its checkpoints".to_owned()
        }))
    }

    /// The run folder that belongs to it.
    pub(crate) fn run_dir(&self) -> Option<&Path> {
        match self {
            Target::Run(path) => Some(path),
            Target::Checkpoint { run_dir, .. } => Some(run_dir),
            Target::Spec(_) | Target::Plan(_) => None,
        }
    }

    /// Its plan, compiled or read. `overrides` are settings that change the recipe but not the programs: they reach
    /// specs and plans alike.
    pub(crate) fn plan(
        &self,
        options: &SpecOptions,
        overrides: &[String],
    ) -> Result<Plan, Failure> {
        let path = match self {
            Target::Spec(input) => {
                let settings = [&options.set, overrides].concat();
                return compile_or_show(input, settings, options);
            }
            Target::Plan(path) => path.clone(),
            Target::Run(run_dir) | Target::Checkpoint { run_dir, .. } => run_dir.join(PLAN_FILE),
        };
        if !options.set.is_empty() || options.full_rank {
            return Err(Failure::line(format!(
                "--set and --full-rank change a spec, and {} is a plan already",
                path.display()
            ))
            .or_help(|| "give the spec it was compiled from instead".to_owned()));
        }
        let mut plan = plan_file::read_from_path(&path)?;
        if !overrides.is_empty() {
            override_recipe(&mut plan, overrides)?;
        }
        Ok(plan)
    }

    /// Where its weights are: `given`, or the checkpoint it is, or of the run it is the newest, or the best.
    pub(crate) fn weights(&self, options: &WeightsOptions) -> Result<PathBuf, Failure> {
        let of_run = |run_dir: &Path| {
            let found = match options.best {
                true => checkpoint::best(run_dir),
                false => checkpoint::latest(run_dir),
            };
            found.map_err(|error| {
                Failure::from(error)
                    .or_help(|| "train the run first, or name weights by --checkpoint".to_owned())
            })
        };
        let one = || {
            let failure = Failure::line("--best chooses among the checkpoints of a run");
            Err(failure.or_help(|| "name the run folder, or leave out --best".to_owned()))
        };
        match (options.checkpoint.as_deref(), self) {
            (Some(path), _) if path.join(PLAN_FILE).is_file() => of_run(path),
            (Some(_), _) | (None, Target::Checkpoint { .. }) if options.best => one(),
            (Some(path), _) => check_weights("--checkpoint", path).map(|()| path.to_owned()),
            (None, Target::Checkpoint { path, .. }) => Ok(path.clone()),
            (None, Target::Run(run_dir)) => of_run(run_dir),
            (None, Target::Spec(_) | Target::Plan(_)) => {
                // What is not there, or is neither, is what is wrong first.
                self.plan(&SpecOptions::default(), &[])?;
                Err(Failure::line("a spec or a plan has no weights").or_help(|| {
                    "name a run folder instead, or add --checkpoint with a checkpoint folder or a safetensors file"
                        .to_owned()
                }))
            }
        }
    }
}

/// Refuses what cannot hold weights, before anything is made for them: what is not there, folders without a model, files
/// of another format.
pub(crate) fn check_weights(option: &str, path: &Path) -> Result<(), Failure> {
    let wrong = |what: &str| {
        let takes = match option {
            "--checkpoint" => "a checkpoint folder, a run folder or a safetensors file",
            _ => "a checkpoint folder or a safetensors file",
        };
        Err(Failure::line(format!("{} {what}", path.display()))
            .or_help(|| format!("{option} takes {takes}")))
    };
    if path.is_dir() {
        return match path.join(MODEL_FILE).is_file() {
            true => Ok(()),
            false => wrong(&format!("is a folder without {MODEL_FILE}")),
        };
    }
    let Ok(file) = File::open(path) else {
        return wrong(if path.exists() { "cannot be opened" } else { "does not exist" });
    };
    // A safetensors file begins with the length of its header, and a damaged one still does.
    let mut beginning = Vec::new();
    let begins = file.take(9).read_to_end(&mut beginning).is_ok();
    match begins && beginning.len() == 9 && beginning[8] == b'{' {
        true => Ok(()),
        false => wrong("is not a safetensors file"),
    }
}

/// Whether a file should be read as a plan: it has a plan's first bytes, or at least is not the beginning of a text.
pub(crate) fn begins_as_plan(path: &Path) -> Result<bool, Failure> {
    let mut beginning = Vec::new();
    File::open(path)
        .and_then(|file| file.take(plan_file::MAGIC.len() as u64).read_to_end(&mut beginning))
        .map_err(|error| {
            Failure::line(format!("cannot read {}: {error}", path.display()))
                .or_help(|| "make the file readable for this user, or give another path".to_owned())
        })?;
    Ok(beginning.first().is_some_and(|&first| first == plan_file::MAGIC[0]))
}

impl Target {
    /// Whether this is a spec that asks for whatever fits the device that trains it. What is wrong with the spec is said
    /// when it is compiled.
    pub(crate) fn asks_for_device_memory(
        &self,
        options: &SpecOptions,
        settings: &[String],
    ) -> bool {
        let Target::Spec(input) = self else { return false };
        let settings: Vec<String> = settings.iter().chain(&options.set).cloned().collect();
        let loaded =
            Spec::load(input.clone(), &settings, options.full_rank, &mut Sources::default());
        let budget = loaded.ok().and_then(|(spec, _)| spec.recompute.budget);
        budget.is_some_and(|budget| budget.bytes.is_none())
    }
}

/// Compiles a spec, showing its warnings.
pub(crate) fn compile_or_show(
    input: &SpecInput,
    settings: Vec<String>,
    options: &SpecOptions,
) -> Result<Plan, Failure> {
    let request =
        Request { input: input.clone(), settings, full_rank: options.full_rank, dump: None };
    let mut sources = Sources::default();
    match compile(request, &mut sources) {
        Ok(Compiled { plan, warnings, .. }) => {
            options.show_warnings(warnings, &sources)?;
            Ok(plan)
        }
        Err(diagnostics) => Err(Failure::Texts(diagnostics, sources)),
    }
}

/// Settings of the recipe applied to a plan by way of the spec it carries, so that both keep saying the same.
fn override_recipe(plan: &mut Plan, settings: &[String]) -> Result<(), Failure> {
    let input = SpecInput::Text {
        name: "the plan's spec".to_owned(),
        text: plan.origin.resolved_spec.clone(),
    };
    let mut sources = Sources::default();
    match Spec::load(input, settings, false, &mut sources) {
        Ok((spec, _)) => {
            plan.recipe = spec.recipe;
            plan.origin.resolved_spec = spec.resolved;
            Ok(())
        }
        Err(diagnostics) => Err(Failure::Texts(diagnostics, sources)),
    }
}

/// `section.key=["a", "b"]` for a list of paths: JSON strings are TOML strings too.
pub(crate) fn paths_setting(key: &str, paths: &[String]) -> String {
    let list: Vec<String> = paths.iter().map(|path| text(path)).collect();
    format!("{key}=[{}]", list.join(", "))
}

/// `section.key="a"`.
pub(crate) fn text_setting(key: &str, value: &str) -> String {
    format!("{key}={}", text(value))
}

fn text(value: &str) -> String {
    serde_json::to_string(value).expect("a text has a JSON form")
}
