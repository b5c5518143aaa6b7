//! `colac train`: a run from plan to checkpoints, fresh or resumed.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::Args;
use colac_compiler::diagnostics::Sources;
use colac_compiler::view::{Inspection, text};
use colac_plan::plan::Form;
use colac_plan::{Plan, file as plan_file, hash};
use colac_runtime::executor::Executor;
use colac_runtime::generate::sample::Sampling;
use colac_runtime::generate::{Options as GenerateOptions, generate};
use colac_runtime::train::checkpoint;
use colac_runtime::train::lock::RunLock;
use colac_runtime::train::options::{Options, Outcome, Rows, Start, Summary};
use colac_runtime::train::rows::TrainingRows;
use colac_runtime::train::run::train;

use crate::shared::corpus::{
    MissingData, TrainingData, TrainingPlace, ValidationOptions, not_there,
};
use crate::shared::estimate;
use crate::shared::failure::Failure;
use crate::shared::machine::MachineOptions;
use crate::shared::preflight::{self, Folder, Question};
use crate::shared::progress::{self, TrainingProgress};
use crate::shared::run_folder::{self, PLAN_FILE, TRAINING_TOKENS, VALIDATION_TOKENS};
use crate::shared::run_record::OpenSession;
use crate::shared::target::{SpecOptions, Target, paths_setting, text_setting};
use crate::shared::{console, files, interrupt, number, room, target};

/// Train a model
///
/// The run goes into a folder: the plan and its spec, metrics.jsonl, and checkpoints that hold everything needed to go
/// on bit for bit. Ctrl-C, SIGTERM or SIGUSR1 finishes the step, saves, and prints the command that goes on; a second
/// one ends at once. Results do not depend on the number of threads.
///
/// Data may be text (plain or JSON Lines, files or folders of them; it is tokenized into the run folder) or tokens made
/// by `colac data prepare`. Paths start at the current folder.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac train llama-nano                                   the shipped corpus, a few minutes
  colac train llama-nano --full-rank                       the dense model to compare with
  colac train plan.bin --data data/train --validation data/held-out --tokenizer tokenizer.json
  colac train llama-60m --dry-run                          what is missing, and how long it would take
  colac train llama-nano --steps 100                       stop early; the schedule stays as it is
  colac train runs/llama-nano-1 --resume                   go on
  colac train runs/llama-nano-1 --resume --max-hours 23.5  go on for a day at most, and be saved by then")]
pub(crate) struct Arguments {
    /// A plan, or a spec (a path or a shipped name), or with --resume a run folder
    #[arg(value_name = "PLAN|SPEC|RUN")]
    target: String,

    /// The run folder [default: a new folder runs/NAME-K]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Stop after this many steps of the run, without changing the schedule
    #[arg(long, value_name = "N", value_parser = number::steps, allow_negative_numbers = true)]
    steps: Option<NonZeroU64>,

    /// Stop after this many hours, early enough to have saved by then; exits with 130 unless the run is finished
    #[arg(long, value_name = "H", value_parser = hours, allow_negative_numbers = true)]
    max_hours: Option<f64>,

    /// What to do about a step whose loss or gradient is not finite, instead of the spec's train.on_non_finite
    #[arg(long, value_name = "POLICY", value_parser = ["halt", "skip", "rollback"])]
    on_non_finite: Option<String>,

    /// Write no event files for TensorBoard
    #[arg(long)]
    no_tensorboard: bool,

    /// Go on from the newest checkpoint of the run in --out, or of the newest run of this plan
    #[arg(long)]
    resume: bool,

    /// Start from the weights of a checkpoint folder or a safetensors file, under the names of the plan's checkpoints
    #[arg(long, value_name = "PATH", conflicts_with = "resume")]
    init_from: Option<PathBuf>,

    /// Text (.txt, .jsonl, …), folders of it, or tokens to train on, instead of the spec's; may be repeated
    #[arg(long, value_name = "PATH")]
    data: Vec<String>,

    #[command(flatten)]
    validation: ValidationOptions,

    /// Seed of start values and data order, instead of the spec's
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Check everything that can be wrong and print a report, without training or writing anything
    ///
    /// Data, tokenizer, run folder, memory and disk, how often the schedule goes over the data, and how long it would
    /// take. All findings at once; exits with 1 if training could not begin.
    #[arg(long)]
    dry_run: bool,

    /// With --dry-run: print JSON
    #[arg(long, requires = "dry_run")]
    json: bool,

    #[command(flatten)]
    machine: MachineOptions,

    #[command(flatten)]
    options: SpecOptions,
}

/// A positive number of hours.
fn hours(text: &str) -> Result<f64, String> {
    let hours: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match hours > 0.0 && hours.is_finite() {
        true => Ok(hours),
        false => Err("not a number above 0".to_owned()),
    }
}

/// When the process must be over; `None` if that is beyond what the clock can count.
fn deadline(arguments: &Arguments) -> Option<Instant> {
    let time = Duration::try_from_secs_f64(arguments.max_hours? * 3600.0).ok()?;
    Instant::now().checked_add(time)
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let deadline = deadline(arguments);
    let target = Target::from_argument(&arguments.target)?;
    let plan = Arc::new(planned(arguments, &target)?);
    if arguments.dry_run {
        return dry_run(arguments, &target, &plan);
    }
    if let Some(weights) = &arguments.init_from {
        target::check_weights("--init-from", weights)?;
    }
    let place = Place::choose(arguments, &target, &plan)?;
    if place.is_done(arguments)? {
        return Ok(());
    }
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
    warn_of_repeats(arguments, &plan, data.training.rows_per_epoch())?;
    let tokenizer_json =
        data.tokenizer.as_ref().map(|tokenizer| tokenizer.to_json()).transpose()?;
    let stop = interrupt::stop_flag()?;
    let mut executor = machine.executor(&plan, Some(run_dir))?;
    run_folder::store_plan(run_dir, &plan)?;
    let run_dir = folder.keep();
    let inspection = Inspection::new(&plan);
    console::note(format!(
        "{} ({}): {} parameters, {} of memory, {}, into {}",
        plan.name,
        plan.form.name(),
        text::grouped(inspection.parameters.total),
        text::bytes(inspection.memory.total),
        executor.place(machine.threads()),
        run_dir.display()
    ));

    let identity = data.training.identity();
    let computer = executor.computer(machine.threads());
    let session = OpenSession::begin(&run_dir, &plan, resumed, identity, computer)?;
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
        deadline,
        tensorboard: !arguments.no_tensorboard,
        tokenizer_json,
    };
    let mut progress = TrainingProgress::new();
    let began = Instant::now();
    let rows = Rows {
        training: &mut data.training,
        validation: data.validation.as_mut().map(|rows| rows as _),
    };
    let summary = train(executor.as_mut(), rows, &options, &stop, &mut progress);
    progress.finish();
    let recorded = session.end(&summary);
    let summary = summary?;
    recorded?;
    let seconds = began.elapsed().as_secs_f64();
    let report = Report {
        arguments,
        target: &target,
        inspection: &inspection,
        run_dir: &run_dir,
        summary: &summary,
    };
    if matches!(summary.outcome, Outcome::Interrupted | Outcome::OutOfTime) {
        console::alert(report.interrupted());
        return Err(Failure::Interrupted);
    }
    console::out(report.result(seconds))?;
    sample(executor.as_mut(), &data, &stop)?;
    console::out(report.next())
}

/// The plan; for a spec that asks for whatever fits, one that fits with what the device holds for it beside.
fn planned(arguments: &Arguments, target: &Target) -> Result<Plan, Failure> {
    let (machine, settings) = (arguments.machine, settings(arguments));
    let asks = target.asks_for_device_memory(&arguments.options, &settings);
    let Some(room) = machine.room_for_a_plan().filter(|_| asks) else {
        return target.plan(&arguments.options, &settings);
    };
    let within = |bytes: u64| {
        let memory = text_setting("recompute.memory", &format!("{bytes} B"));
        target.plan(&arguments.options, &[&settings[..], &[memory]].concat())
    };
    room::filled(room, within, |plan| [plan.total_bytes(), machine.beside(plan).of_plan()])
}

/// Says so if the schedule goes over its rows more often than is of use.
fn warn_of_repeats(arguments: &Arguments, plan: &Plan, rows: u64) -> Result<(), Failure> {
    let seen = plan.recipe.schedule.steps as f64 * f64::from(plan.recipe.global_batch);
    let warnings = preflight::repeats(seen / rows.max(1) as f64).into_iter().collect();
    arguments.options.show_warnings(warnings, &Sources::default())
}

/// Checks everything that training would, and says what it found.
fn dry_run(arguments: &Arguments, target: &Target, plan: &Plan) -> Result<(), Failure> {
    let folder = match Place::choose(arguments, target, plan) {
        Ok(Place::Next) => Folder::New(run_folder::next(&plan.name)),
        Ok(Place::Given(path)) => Folder::New(path),
        Ok(Place::Resume(path)) => Folder::Resume(path),
        Err(Failure::Line { message, help }) => Folder::Refused(message, help),
        Err(other) => return Err(other),
    };
    let settings = [arguments.options.set.clone(), settings(arguments)].concat();
    let question =
        Question { target, settings: &settings, plan, folder, machine: arguments.machine };
    preflight::check(&question).print(arguments.json, arguments.options.deny_warnings)
}

/// Options that change the recipe, as settings of the spec.
fn settings(arguments: &Arguments) -> Vec<String> {
    let mut settings = arguments.validation.settings();
    if !arguments.data.is_empty() {
        settings.push(paths_setting("data.train", &arguments.data));
    }
    settings.extend(arguments.seed.map(|seed| format!("train.seed={seed}")));
    let policy = arguments.on_non_finite.as_ref();
    settings.extend(policy.map(|policy| format!("train.on_non_finite={policy}")));
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
        if let Some(out) = &arguments.out {
            files::refuse_file(out)?;
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
        if let Err(error) = checkpoint::latest(&run_dir) {
            // A run that has not saved yet may well be going on.
            RunLock::check(&run_dir)?;
            return Err(Failure::from(error).or_help(|| {
                "name a run that has saved a state, or leave out --resume and give another --out"
                    .to_owned()
            }));
        }
        let stored = run_dir.join(PLAN_FILE);
        if stored.is_file() && !is_same(plan, &stored)? {
            return Err(Failure::line(format!(
                "the run in {} was begun with another recipe, seed or model",
                run_dir.display()
            ))
            .or_help(|| {
                format!("go on with its own plan: {}", resume_command(&run_dir, arguments))
            }));
        }
        Ok(Place::Resume(run_dir))
    }

    /// The newest run that was begun with the numbers of this plan.
    fn newest(plan: &Plan) -> Result<Place, Failure> {
        let runs = run_folder::existing(&plan.name);
        for run_dir in runs.iter().rev() {
            if is_same(plan, &run_dir.join(PLAN_FILE))? {
                if checkpoint::latest(run_dir).is_ok() {
                    return Ok(Place::Resume(run_dir.clone()));
                }
                RunLock::check(run_dir)?;
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

    /// Whether the run to go on with is at the step where this command should stop, or past it; says so.
    fn is_done(&self, arguments: &Arguments) -> Result<bool, Failure> {
        let (Place::Resume(run_dir), Some(steps)) = (self, arguments.steps) else {
            return Ok(false);
        };
        let newest = checkpoint::latest(run_dir)?;
        let Some(step) = checkpoint::step_of(&newest).filter(|&step| step >= steps.get()) else {
            return Ok(false);
        };
        console::alert(format!(
            "nothing to do: the run in {} is at step {}, and --steps stops it at {}",
            run_dir.display(),
            text::grouped(step),
            text::grouped(steps.get())
        ));
        Ok(true)
    }

    /// The folder as far as it is known.
    fn path(&self) -> &Path {
        match self {
            Place::Next => Path::new("runs"),
            Place::Given(path) | Place::Resume(path) => path,
        }
    }

    fn open(self, plan: &Plan) -> Result<NewFolder, Failure> {
        let (path, is_new) = match self {
            Place::Next => (run_folder::create_next(&plan.name)?, true),
            Place::Resume(path) => (path, false),
            Place::Given(path) => {
                let is_new = !path.exists();
                files::make_folder(&path)?;
                (path, is_new)
            }
        };
        Ok(NewFolder { path, is_new })
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
struct NewFolder {
    path: PathBuf,
    is_new: bool,
}

impl NewFolder {
    fn keep(mut self) -> PathBuf {
        self.is_new = false;
        std::mem::take(&mut self.path)
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if self.is_new {
            // The error that led here is what the user should see.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn resume_command(run_dir: &Path, arguments: &Arguments) -> String {
    let mut words = vec!["train".to_owned(), run_dir.display().to_string(), "--resume".to_owned()];
    if let Some(steps) = arguments.steps {
        words.extend(["--steps".to_owned(), steps.to_string()]);
    }
    if let Some(hours) = arguments.max_hours {
        words.extend(["--max-hours".to_owned(), hours.to_string()]);
    }
    console::command(words)
}

/// What is missing, where it is expected, how to make it, and how long all of it would take.
fn no_data(arguments: &Arguments, plan: &Plan, missing: &[MissingData]) -> Failure {
    let here =
        std::env::current_dir().map_or_else(|_| ".".to_owned(), |path| path.display().to_string());
    let mut help = vec![format!("expected, starting at the current folder {here}:")];
    for MissingData { name, path, .. } in missing {
        help.push(format!("  {name:<16} {}", path.display()));
    }
    help.push("make it from text files of your own, or folders of them:".to_owned());
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
        let why = match self.summary.outcome {
            Outcome::OutOfTime => "out of time",
            _ => "interrupted",
        };
        format!(
            "{why} after step {}; saved {}\ngo on with: {}",
            text::grouped(self.summary.step),
            self.summary.checkpoint.display(),
            resume_command(self.run_dir, self.arguments)
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
        let passed = [
            (self.summary.skipped, "skipped"),
            (self.summary.rollbacks, "answered by going back to a checkpoint"),
        ];
        for (count, what) in passed.iter().filter(|(count, _)| *count > 0) {
            lines.push(format!("  not finite  {} steps {what}", text::grouped(*count)));
        }
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
                (console::command(["train", &run, "--resume"]), "go on to the schedule's end")
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
