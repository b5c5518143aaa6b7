//! `colac train`: a run from plan to checkpoints, fresh or resumed.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use clap::Args;
use colac_compiler::view::{Inspection, text};
use colac_plan::plan::Form;
use colac_plan::{Plan, file as plan_file, hash};
use colac_runtime::executor::Executor;
use colac_runtime::generate::sample::Sampling;
use colac_runtime::generate::{Options as GenerateOptions, generate};
use colac_runtime::train::checkpoint;
use colac_runtime::train::lock::RunLock;
use colac_runtime::train::options::{Options, Outcome, Rows, Start, Summary};
use colac_runtime::train::run::train;

use crate::shared::corpus::{
    MissingData, TrainingData, TrainingPlace, ValidationOptions, not_there,
};
use crate::shared::estimate;
use crate::shared::failure::Failure;
use crate::shared::machine::MachineOptions;
use crate::shared::progress::{self, TrainingProgress};
use crate::shared::run_folder::{self, PLAN_FILE, TRAINING_TOKENS, VALIDATION_TOKENS};
use crate::shared::target::{SpecOptions, Target, paths_setting};
use crate::shared::{console, interrupt};

/// Train a model
///
/// The run goes into a folder: the plan and its spec, metrics.jsonl, and checkpoints that hold everything needed to go
/// on bit for bit. Ctrl-C finishes the step, saves, and prints the command that goes on; a second Ctrl-C ends at once.
/// Results do not depend on the number of threads.
///
/// Data may be text (files, or folders of .txt files; it is tokenized into the run folder) or token shards made by
/// `colac data prepare`. Paths start at the current folder.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac train llama-nano                                   the shipped corpus, a few minutes
  colac train llama-nano --full-rank                       the dense model to compare with
  colac train plan.bin --data data/train --validation data/held-out --tokenizer tokenizer.json
  colac train llama-nano --steps 100                       stop early; the schedule stays as it is
  colac train runs/llama-nano-1 --resume                   go on")]
pub(crate) struct Arguments {
    /// A plan, or a spec (a path or a shipped name), or with --resume a run folder
    #[arg(value_name = "PLAN|SPEC|RUN")]
    target: String,

    /// The run folder [default: a new folder runs/NAME-K]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Stop after this many steps of the run, without changing the schedule
    #[arg(long, value_name = "N")]
    steps: Option<NonZeroU64>,

    /// Go on from the newest checkpoint of the run in --out, or of the newest run of this plan
    #[arg(long)]
    resume: bool,

    /// Start from the weights of a checkpoint folder or a safetensors file, under the names of the plan's checkpoints
    #[arg(long, value_name = "PATH", conflicts_with = "resume")]
    init_from: Option<PathBuf>,

    /// Text files, folders of .txt files, or token shards to train on, instead of the spec's; may be repeated
    #[arg(long, value_name = "PATH")]
    data: Vec<String>,

    #[command(flatten)]
    validation: ValidationOptions,

    /// Seed of start values and data order, instead of the spec's
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    #[command(flatten)]
    machine: MachineOptions,

    #[command(flatten)]
    options: SpecOptions,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let target = Target::from_argument(&arguments.target)?;
    let plan = Arc::new(target.plan(&arguments.options, &settings(arguments))?);
    let place = Place::choose(arguments, &target, &plan)?;
    let machine = arguments.machine;

    let (training, validation) =
        (place.path().join(TRAINING_TOKENS), place.path().join(VALIDATION_TOKENS));
    let resumed = matches!(place, Place::Resume(_));
    let missing =
        TrainingPlace { training: &training, validation: &validation, resumed }.missing(&plan);
    if !missing.is_empty() {
        return Err(no_data(arguments, &plan, &missing));
    }
    machine.check_memory(&plan)?;

    let folder = place.open(&plan)?;
    let run_dir = folder.path.as_path();
    let lock = RunLock::acquire(run_dir)?;
    let (training, validation) = (run_dir.join(TRAINING_TOKENS), run_dir.join(VALIDATION_TOKENS));
    let data_place = TrainingPlace { training: &training, validation: &validation, resumed };
    let mut data = data_place.open(&plan, machine.threads())?;
    let tokenizer_json =
        data.tokenizer.as_ref().map(|tokenizer| tokenizer.to_json()).transpose()?;
    let stop = interrupt::stop_flag()?;
    let mut executor = machine.executor(&plan)?;
    run_folder::store_plan(run_dir, &plan)?;
    let run_dir = folder.keep();
    let inspection = Inspection::new(&plan);
    console::note(format!(
        "{} ({}): {} parameters, {} of memory, {} threads, into {}",
        plan.name,
        plan.form.name(),
        text::grouped(inspection.parameters.total),
        text::bytes(inspection.memory.total),
        machine.threads(),
        run_dir.display()
    ));

    // Training takes the lock itself.
    drop(lock);
    let options = Options {
        run_dir: run_dir.clone(),
        start: match &arguments.init_from {
            _ if resumed => Start::Resume,
            Some(weights) => Start::Weights(weights.clone()),
            None => Start::Fresh,
        },
        stop_at: arguments.steps.map(NonZeroU64::get),
        tokenizer_json,
    };
    let mut progress = TrainingProgress::new();
    let began = Instant::now();
    let rows = Rows {
        training: &mut data.training,
        validation: data.validation.as_mut().map(|rows| rows as _),
    };
    let summary = train(&mut executor, rows, &options, &stop, &mut progress);
    progress.finish();
    let summary = summary?;
    let seconds = began.elapsed().as_secs_f64();
    let report = Report {
        arguments,
        target: &target,
        inspection: &inspection,
        run_dir: &run_dir,
        summary: &summary,
    };
    if summary.outcome == Outcome::Interrupted {
        console::alert(report.interrupted());
        return Err(Failure::Interrupted);
    }
    console::out(report.result(seconds))?;
    sample(&mut executor, &data, &stop)?;
    console::out(report.next())
}

/// Options that change the recipe, as settings of the spec.
fn settings(arguments: &Arguments) -> Vec<String> {
    let mut settings = arguments.validation.settings();
    if !arguments.data.is_empty() {
        settings.push(paths_setting("data.train", &arguments.data));
    }
    settings.extend(arguments.seed.map(|seed| format!("train.seed={seed}")));
    settings
}

/// Which folder a run goes into.
enum Place {
    /// The next that is free.
    Next,
    /// This one, which holds no run.
    Given(PathBuf),
    /// This one, whose run goes on.
    Resume(PathBuf),
}

impl Place {
    fn choose(arguments: &Arguments, target: &Target, plan: &Plan) -> Result<Place, Failure> {
        if let Some(out) = arguments.out.as_ref().filter(|out| out.is_file()) {
            return Err(Failure::line(format!("{} is a file", out.display())).or_help(|| {
                "--out takes the folder of the run; it is made if it does not exist".to_owned()
            }));
        }
        if !arguments.resume {
            return match (&arguments.out, target.run_dir()) {
                (None, None) => Ok(Place::Next),
                (None, Some(run_dir)) => {
                    let run = run_dir.display().to_string();
                    let go_on = console::command(["train", &run, "--resume"]);
                    Err(Failure::line(format!("{run} holds a run already")).or_help(|| {
                        format!("go on with it: {go_on}\nor train its plan anew with --out DIR")
                    }))
                }
                (Some(out), _) if holds_run(out)? => {
                    let go_on =
                        format!("add --resume, or give another folder than {}", out.display());
                    Err(Failure::line(format!("{} holds a run already", out.display()))
                        .or_help(|| go_on))
                }
                (Some(out), _) => Ok(Place::Given(out.clone())),
            };
        }
        let run_dir = match (&arguments.out, target.run_dir()) {
            (Some(out), _) => out.clone(),
            (None, Some(run_dir)) => run_dir.to_owned(),
            (None, None) => return Place::newest(plan),
        };
        if !run_dir.is_dir() {
            return Err(Failure::line(format!(
                "there is no run to go on with in {}",
                run_dir.display()
            ))
            .or_help(|| "leave out --resume to begin one".to_owned()));
        }
        checkpoint::latest(&run_dir)?;
        let stored = run_dir.join(PLAN_FILE);
        if stored.is_file() && !is_same(plan, &stored)? {
            return Err(Failure::line(format!(
                "the run in {} was begun with another recipe, seed or model",
                run_dir.display()
            ))
            .or_help(|| {
                format!("go on with its own plan: {}", resume_command(&run_dir, arguments.steps))
            }));
        }
        Ok(Place::Resume(run_dir))
    }

    /// The newest run that was begun with the numbers of this plan.
    fn newest(plan: &Plan) -> Result<Place, Failure> {
        let runs = run_folder::existing(&plan.name);
        for run_dir in runs.iter().rev() {
            if is_same(plan, &run_dir.join(PLAN_FILE))? && checkpoint::latest(run_dir).is_ok() {
                return Ok(Place::Resume(run_dir.clone()));
            }
        }
        let failure = match runs.last() {
            None => Failure::line(format!("there is no run runs/{}-K to go on with", plan.name)),
            Some(last) => Failure::line(format!(
                "no run of {} up to {} has a checkpoint and this recipe, seed and model",
                plan.name,
                last.display()
            )),
        };
        Err(failure.or_help(|| {
            "name the run's folder with --out, or leave out --resume to begin a run".to_owned()
        }))
    }

    /// The folder as far as it is known.
    fn path(&self) -> &Path {
        match self {
            Place::Next => Path::new("runs"),
            Place::Given(path) | Place::Resume(path) => path,
        }
    }

    fn open(self, plan: &Plan) -> Result<Folder, Failure> {
        let (path, is_new) = match self {
            Place::Next => (run_folder::create_next(&plan.name)?, true),
            Place::Resume(path) => (path, false),
            Place::Given(path) => {
                let is_new = !path.exists();
                std::fs::create_dir_all(&path).map_err(|error| {
                    Failure::line(format!("cannot create {}: {error}", path.display()))
                })?;
                (path, is_new)
            }
        };
        Ok(Folder { path, is_new })
    }
}

/// Whether the plan in a file trains with the same numbers.
fn is_same(plan: &Plan, stored: &Path) -> Result<bool, Failure> {
    Ok(hash::numerics(&plan_file::read_from_path(stored)?) == hash::numerics(plan))
}

/// Whether a folder has checkpoints; a run that was ended before its first one may be begun again.
fn holds_run(path: &Path) -> Result<bool, Failure> {
    Ok(!checkpoint::list(path)?.is_empty())
}

/// A run folder; removed again if it is new and training does not begin.
struct Folder {
    path: PathBuf,
    is_new: bool,
}

impl Folder {
    fn keep(mut self) -> PathBuf {
        self.is_new = false;
        std::mem::take(&mut self.path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_new {
            // The error that led here is what the user should see.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn resume_command(run_dir: &Path, steps: Option<NonZeroU64>) -> String {
    let mut arguments =
        vec!["train".to_owned(), run_dir.display().to_string(), "--resume".to_owned()];
    if let Some(steps) = steps {
        arguments.extend(["--steps".to_owned(), steps.to_string()]);
    }
    console::command(arguments)
}

/// What is missing, where it is expected, how to make it, and how long all of it would take.
fn no_data(arguments: &Arguments, plan: &Plan, missing: &[MissingData]) -> Failure {
    let here =
        std::env::current_dir().map_or_else(|_| ".".to_owned(), |path| path.display().to_string());
    let mut help = vec![format!("expected, starting at the current folder {here}:")];
    for MissingData { name, path, .. } in missing {
        help.push(format!("  {name:<16} {}", path.display()));
    }
    help.push("make it from text files of your own, or folders of .txt files:".to_owned());
    let tokenizer =
        plan.recipe.data.tokenizer.clone().unwrap_or_else(|| "tokenizer.json".to_owned());
    for MissingData { option, path, .. } in missing {
        let path = path.display().to_string();
        help.push(match *option {
            "--tokenizer" => {
                let size = plan.vocab_size.to_string();
                format!(
                    "  {} TEXT",
                    console::command([
                        "data",
                        "train-tokenizer",
                        "--vocab-size",
                        &size,
                        "-o",
                        &path
                    ])
                )
            }
            _ => format!(
                "  {} TEXT",
                console::command(["data", "prepare", "--tokenizer", &tokenizer, "-o", &path])
            ),
        });
    }
    help.push("or name other data, text as it is or token shards:".to_owned());
    let other = console::command(["train", &arguments.target, "--data"]);
    help.push(format!("  {other} PATH --validation PATH --tokenizer FILE"));
    help.push(format!("time: {}", estimate::sentence(plan, arguments.machine.threads())));
    Failure::line(format!("{} has no data to train on: {}", plan.name, not_there(missing)))
        .or_help(|| help.join("\n"))
}

/// What is said at the end.
struct Report<'a> {
    arguments: &'a Arguments,
    target: &'a Target,
    inspection: &'a Inspection,
    run_dir: &'a Path,
    summary: &'a Summary,
}

impl Report<'_> {
    fn run(&self) -> String {
        self.run_dir.display().to_string()
    }

    fn interrupted(&self) -> String {
        format!(
            "interrupted after step {}; saved {}\ngo on with: {}",
            text::grouped(self.summary.step),
            self.summary.checkpoint.display(),
            resume_command(self.run_dir, self.arguments.steps)
        )
    }

    fn result(&self, seconds: f64) -> String {
        let Summary { step, started_at, loss, evaluation, checkpoint, tokens, .. } = self.summary;
        let inspection = self.inspection;
        let mut lines = vec![format!("{} ({})", inspection.name, inspection.form)];
        lines.push(format!("  linears     {}", text::linears(inspection)));
        lines.push(format!("  parameters  {}", text::grouped(inspection.parameters.total)));
        let trained = match step - started_at {
            0 => "nothing left to do".to_owned(),
            steps => format!("{} steps in {}", text::grouped(steps), console::duration(seconds)),
        };
        let seen = text::count(*tokens as f64);
        let (step, end) = (text::grouped(*step), text::grouped(inspection.batch.steps));
        lines.push(format!("  training    {trained}; step {step} of {end}, {seen} tokens seen"));
        if let Some(loss) = loss {
            lines.push(format!("  last loss   {loss:.4}"));
        }
        match evaluation {
            Some(report) => lines.push(format!("  validation  {}", progress::evaluation(report))),
            None => lines.push("  validation  none: the spec names no validation data".to_owned()),
        }
        lines.push(format!("  checkpoint  {}", checkpoint.display()));
        lines.join("\n") + "\n"
    }

    /// Three commands that make sense now.
    fn next(&self) -> String {
        let run = self.run();
        let generate = console::command(["generate", &run, "--prompt", "She was"]);
        let evaluate = console::command(["eval", &run, "--tokens", "0"]);
        let third = match (self.summary.outcome, self.target) {
            (Outcome::Stopped, _) => {
                (resume_command(self.run_dir, None), "go on to the schedule's end")
            }
            (_, Target::Spec(_)) if self.inspection.form == Form::Cola.name() => {
                (repeated_with("--full-rank"), "train the dense model to compare with")
            }
            _ => (console::command(["inspect", &run]), "see what was trained, layer by layer"),
        };
        format!(
            "next\n  {generate}\n      let it write\n  {evaluate}\n      measure it on all the validation data\n  {}\n      {}\n",
            third.0, third.1
        )
    }
}

/// This command again as it was typed, for a new folder and with one more option.
fn repeated_with(option: &str) -> String {
    let mut arguments = Vec::new();
    let mut typed = std::env::args().skip(1);
    while let Some(argument) = typed.next() {
        match argument.as_str() {
            "--out" => _ = typed.next(),
            "--resume" => {}
            _ if argument.starts_with("--out=") => {}
            _ => arguments.push(argument),
        }
    }
    arguments.push(option.to_owned());
    console::command(arguments)
}

/// Shows how the model by now goes on with a few words of the validation data.
fn sample(
    executor: &mut dyn Executor,
    data: &TrainingData,
    stop: &AtomicBool,
) -> Result<(), Failure> {
    let Some(tokenizer) = &data.tokenizer else {
        return console::out("  sample      none: the spec names no tokenizer\n");
    };
    let sampling =
        Sampling { temperature: 0.8, top_k: 0, top_p: 0.95, seed: executor.plan().recipe.seed };
    let options = GenerateOptions { max_tokens: 80, sampling };
    let generation = generate(executor, tokenizer, &data.prompt, &options, stop, &mut |_| ())?;
    let text: Vec<String> = console::printable(&generation.text)
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| format!("    {line}"))
        .collect();
    console::out(format_args!("  sample      after {:?}:\n{}\n", data.prompt, text.join("\n")))
}
