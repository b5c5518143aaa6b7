//! `colac race`: several forms of a model, trained on the same batches and compared.
//!
//! Owns the folder of a race, the order of its runs and going on where it was ended. What the results allow to claim is
//! the runtime's (`colac_runtime::race`).

mod contenders;
mod report;

use std::fs;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use clap::{Args, ValueEnum};
use colac_compiler::view::text;
use colac_plan::{Plan, file as plan_file, hash};
use colac_runtime::plot::log::RunLog;
use colac_runtime::plot::{Options as PlotOptions, XAxis};
use colac_runtime::race::length::Rule;
use colac_runtime::race::standings::{Contender, Finish, Standings};
use colac_runtime::train::checkpoint;
use colac_runtime::train::evaluate::{EvaluationReport, Evaluator};
use colac_runtime::train::lock::RunLock;
use colac_runtime::train::metrics::METRICS_FILE;
use colac_runtime::train::options::{Options, Outcome, Rows, Start};
use colac_runtime::train::run::train;
use serde::{Deserialize, Serialize};

use crate::race::contenders::Entrant;
use crate::shared::corpus::{TrainingPlace, ValidationOptions, not_there};
use crate::shared::failure::Failure;
use crate::shared::machine::MachineOptions;
use crate::shared::progress::TrainingProgress;
use crate::shared::run_folder::{self, PLAN_FILE, TRAINING_TOKENS, VALIDATION_TOKENS};
use crate::shared::target::paths_setting;
use crate::shared::{console, curves, files, interrupt, number};

/// The result, in the folder of the race.
const RESULT_FILE: &str = "race.json";
/// The result of one run, in its folder.
const FINISH_FILE: &str = "finish.json";

/// Train several forms of a model on the same batches and compare them
///
/// The contenders are the spec's own form, and with --against and --ranks others. With the same seed each of them sees
/// the same rows in the same order, and parameters that several have begin with the same values. All stop at equal
/// tokens, or at equal FLOPs as their plans count them; each learning-rate schedule ends with its contender's last step.
/// Without several seeds nothing can be said of a difference but that it is one: chance alone makes losses differ.
///
/// The folder of a race holds one ordinary run folder for each contender and seed, race.json, race.svg and race.html.
/// The same command goes on with a race that was interrupted, and adds contenders and seeds to one that is done.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  colac race llama-nano --against full-rank --seeds 3        is CoLA as good as full-rank?
  colac race llama-nano --ranks 16,32,64 --seeds 3           which rank?
  colac race llama-nano --against full-rank --equal flops    at the same compute
  colac race mine.toml --against llama-nano --steps 500 --json")]
pub(crate) struct Arguments {
    /// A spec: a path, or the name of a shipped one
    spec: String,

    /// Another contender: full-rank for the spec's dense form, or another spec; may be repeated
    #[arg(long, value_name = "full-rank|SPEC")]
    against: Vec<String>,

    /// Further contenders: the spec with these ranks
    #[arg(long, value_name = "R,R,...", value_delimiter = ',', value_parser = number::above_zero)]
    ranks: Vec<u64>,

    /// Runs of each contender, with seeds that count up from the spec's
    #[arg(long, value_name = "N", default_value = "1", value_parser = number::runs, allow_negative_numbers = true)]
    seeds: NonZeroU32,

    /// The first seed, instead of the spec's
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Where all contenders stop
    #[arg(long, value_enum, default_value_t = Equal::Tokens, value_name = "WHAT")]
    equal: Equal,

    /// Steps of the spec's own form, instead of the spec's; its schedule ends there
    #[arg(long, value_name = "N", value_parser = number::steps, allow_negative_numbers = true)]
    steps: Option<NonZeroU64>,

    /// About how many tokens the final evaluation predicts; 0 takes all the validation data [default: the spec's
    /// evaluation.tokens]
    #[arg(long, value_name = "N", value_parser = number::natural, allow_negative_numbers = true)]
    tokens: Option<u64>,

    /// The folder of the race [default: races/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Text (.txt, .jsonl, …), folders of it, or tokens to train on, instead of the spec's; may be repeated
    #[arg(long, value_name = "PATH")]
    data: Vec<String>,

    #[command(flatten)]
    validation: ValidationOptions,

    #[command(flatten)]
    machine: MachineOptions,

    /// Override a field of every contender's spec; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,

    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Equal {
    Tokens,
    Flops,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let rule = match arguments.equal {
        Equal::Tokens => Rule::Tokens,
        Equal::Flops => Rule::Flops,
    };
    let entrants = contenders::gather(arguments, rule)?;
    let [first, ..] = &entrants[..] else { unreachable!("the spec's own form takes part") };
    let name = first.plan.name.clone();
    let seed = first.plan.recipe.seed;
    let seeds: Vec<u64> = (0..u64::from(arguments.seeds.get())).map(|i| seed + i).collect();
    let out = arguments.out.clone().unwrap_or_else(|| Path::new("races").join(&name));
    files::refuse_file(&out)?;
    let race = Race { arguments, rule, name, entrants, seeds, resumed: has_runs(&out), out };
    race.check()?;
    files::make_folder(&race.out)?;
    let _lock = RunLock::acquire(&race.out)?;
    let standings = race.run()?;
    race.draw()?;
    match arguments.json {
        true => console::out_json(&standings),
        false => console::out(report::table(&standings, &race.out)),
    }
}

/// Whether a folder has runs with checkpoints in it.
fn has_runs(out: &Path) -> bool {
    let entries = fs::read_dir(out).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| {
        checkpoint::list(&entry.path()).is_ok_and(|checkpoints| !checkpoints.is_empty())
    })
}

struct Race<'a> {
    arguments: &'a Arguments,
    rule: Rule,
    name: String,
    entrants: Vec<Entrant>,
    seeds: Vec<u64>,
    out: PathBuf,
    /// Whether runs of an earlier call are there, which have to see the same data.
    resumed: bool,
}

/// The result of one run as its folder keeps it, with what it depends on.
#[derive(Serialize, Deserialize)]
struct Stored {
    numerics: String,
    evaluation_tokens: u64,
    finish: Finish,
}

impl Race<'_> {
    /// Everything that can be wrong is found before the first step.
    fn check(&self) -> Result<(), Failure> {
        let (training, validation) = self.token_folders();
        let place =
            TrainingPlace { training: &training, validation: &validation, resumed: self.resumed };
        let plan = &self.entrants[0].plan;
        let missing = place.missing(plan);
        if !missing.is_empty() {
            return Err(Failure::line(not_there(&missing)).or_help(|| {
                "name other data with --data, --validation and --tokenizer".to_owned()
            }));
        }
        for entrant in &self.entrants {
            self.arguments.machine.check_memory(&entrant.plan)?;
        }
        Ok(())
    }

    fn token_folders(&self) -> (PathBuf, PathBuf) {
        (self.out.join(TRAINING_TOKENS), self.out.join(VALIDATION_TOKENS))
    }

    fn run_dir(&self, entrant: &Entrant, seed: u64) -> PathBuf {
        self.out.join(format!("{}-seed-{seed}", entrant.name))
    }

    fn run(&self) -> Result<Standings, Failure> {
        let mut contenders: Vec<Contender> = self.entrants.iter().map(Entrant::contender).collect();
        let flops = |contender: &Contender| contender.flops as f64;
        let total = contenders.iter().map(flops).sum::<f64>() * self.seeds.len() as f64;
        console::note(format!(
            "{}: {} contenders, {} seed{}, stopped at equal {}; {}FLOP in all, into {}",
            self.name,
            self.entrants.len(),
            self.seeds.len(),
            if self.seeds.len() == 1 { "" } else { "s" },
            self.rule.name(),
            report::spaced(total),
            self.out.display()
        ));
        let stop = interrupt::stop_flag()?;
        let runs = self.entrants.len() * self.seeds.len();
        let (mut number, mut done, mut trained) = (0, 0.0, 0.0);
        let began = Instant::now();
        // Seed by seed, so that what there is of a race can be compared.
        for &seed in &self.seeds {
            for (entrant, contender) in self.entrants.iter().zip(&mut contenders) {
                number += 1;
                let work = flops(contender);
                let plan = entrant.with_seed(seed)?;
                let run_dir = self.run_dir(entrant, seed);
                let left = match trained > 0.0 {
                    true => {
                        let seconds = began.elapsed().as_secs_f64() * (total - done) / trained;
                        format!(", about {} left", console::duration(seconds))
                    }
                    false => String::new(),
                };
                let finish = match self.finished(&plan, &run_dir)? {
                    Some(finish) => finish,
                    None => {
                        console::note(format!(
                            "run {number} of {runs}: {}, seed {seed}{left}",
                            entrant.name
                        ));
                        let finish = self.train(&Arc::new(plan), &run_dir, seed, &stop)?;
                        trained += work;
                        finish
                    }
                };
                done += work;
                contender.add(finish);
            }
            self.store(&self.standings(contenders.clone()))?;
        }
        let standings = self.standings(contenders);
        self.store(&standings)?;
        Ok(standings)
    }

    fn standings(&self, contenders: Vec<Contender>) -> Standings {
        let dense = contenders.iter().find(|contender| contender.name == contenders::FULL_RANK);
        let reference = dense.or(contenders.first()).map(|contender| contender.name.clone());
        Standings::new(
            self.name.clone(),
            self.rule,
            self.seeds.clone(),
            contenders,
            reference.unwrap_or_default(),
        )
    }

    fn evaluation_tokens(&self, plan: &Plan) -> u64 {
        self.arguments.tokens.unwrap_or(plan.recipe.evaluation.tokens)
    }

    /// The result of a run that has ended, if it was trained and evaluated as this race asks for.
    fn finished(&self, plan: &Plan, run_dir: &Path) -> Result<Option<Finish>, Failure> {
        let stored = run_dir.join(PLAN_FILE);
        if !stored.is_file() {
            return Ok(None);
        }
        let numerics = hash::numerics(plan);
        if hash::numerics(&plan_file::read_from_path(&stored)?) != numerics {
            return Err(Failure::line(format!(
                "{} was trained with another recipe or model than this race asks for",
                run_dir.display()
            ))
            .or_help(|| {
                format!(
                    "give another folder with --out, or delete {} to train it anew",
                    run_dir.display()
                )
            }));
        }
        let Ok(text) = fs::read(run_dir.join(FINISH_FILE)) else { return Ok(None) };
        // A damaged result is made again from the run's last checkpoint.
        let stored = serde_json::from_slice::<Stored>(&text).ok();
        Ok(stored.and_then(|stored| {
            let is_same = stored.numerics == numerics.to_string()
                && stored.evaluation_tokens == self.evaluation_tokens(plan);
            is_same.then_some(stored.finish)
        }))
    }

    /// Trains one contender with one seed to its end, from where it stands.
    fn train(
        &self,
        plan: &Arc<Plan>,
        run_dir: &Path,
        seed: u64,
        stop: &AtomicBool,
    ) -> Result<Finish, Failure> {
        let machine = self.arguments.machine;
        let (training, validation) = self.token_folders();
        let place =
            TrainingPlace { training: &training, validation: &validation, resumed: self.resumed };
        let mut data = place.open(plan, machine.threads())?;
        if data.validation.is_none() {
            return Err(Failure::line(format!("{} names no validation data", plan.name)).or_help(
                || "pass --validation PATH, or set data.validation in the spec".to_owned(),
            ));
        }
        let tokenizer_json =
            data.tokenizer.as_ref().map(|tokenizer| tokenizer.to_json()).transpose()?;
        fs::create_dir_all(run_dir).map_err(|error| {
            Failure::line(format!("cannot create {}: {error}", run_dir.display()))
        })?;
        let mut executor = machine.executor(plan, Some(run_dir))?;
        let has_begun = !checkpoint::list(run_dir)?.is_empty();
        run_folder::store_plan(run_dir, plan)?;
        let options = Options {
            run_dir: run_dir.to_owned(),
            start: if has_begun { Start::Resume } else { Start::Fresh },
            stop_at: None,
            deadline: None,
            tensorboard: true,
            tokenizer_json,
        };
        let mut progress = TrainingProgress::new();
        let rows = Rows {
            training: &mut data.training,
            validation: data.validation.as_mut().map(|rows| rows as _),
        };
        let summary = train(executor.as_mut(), rows, &options, stop, &mut progress);
        progress.finish();
        let summary = summary?;
        if summary.outcome == Outcome::Interrupted {
            return Err(self.interrupted());
        }
        let wanted = self.evaluation_tokens(plan);
        let evaluation = match (summary.evaluation, &mut data.validation) {
            (Some(report), _) if wanted == plan.recipe.evaluation.tokens => Some(report),
            (_, Some(rows)) => {
                let mut plan = Plan::clone(plan);
                plan.recipe.evaluation.tokens = wanted;
                Evaluator::new(&plan)?.evaluate(executor.as_mut(), rows, stop)?
            }
            (_, None) => None,
        };
        let Some(report) = evaluation else { return Err(self.interrupted()) };
        let log = run_dir.join(METRICS_FILE);
        let log = fs::read(&log)
            .map_err(|error| Failure::line(format!("cannot read {}: {error}", log.display())))?;
        let EvaluationReport { loss, perplexity, bits_per_byte, tokens, .. } = report;
        let finish = Finish {
            seed,
            loss,
            perplexity,
            bits_per_byte,
            evaluated_tokens: tokens,
            tokens: summary.tokens,
            training_seconds: RunLog::parse(&log).training_seconds(),
            run: run_dir.display().to_string(),
        };
        let numerics = hash::numerics(plan).to_string();
        let stored = Stored { numerics, evaluation_tokens: wanted, finish };
        write_json(&run_dir.join(FINISH_FILE), &stored)?;
        console::note(format!(
            "  validation loss {loss:.4}, perplexity {perplexity:.2}, over {} tokens",
            text::grouped(tokens)
        ));
        Ok(stored.finish)
    }

    fn interrupted(&self) -> Failure {
        let typed = std::env::args_os().skip(1);
        console::alert(format!("interrupted\ngo on with: {}", console::command(typed)));
        Failure::Interrupted
    }

    fn store(&self, standings: &Standings) -> Result<(), Failure> {
        write_json(&self.out.join(RESULT_FILE), standings)
    }

    /// Draws all runs, those of a contender in one colour.
    fn draw(&self) -> Result<(), Failure> {
        let mut runs = Vec::new();
        for entrant in &self.entrants {
            for &seed in &self.seeds {
                let name = match self.seeds.len() {
                    1 => entrant.name.clone(),
                    _ => format!("{}, seed {seed}", entrant.name),
                };
                let log = self.run_dir(entrant, seed).join(METRICS_FILE);
                runs.push(curves::read(&log, name, entrant.name.clone())?);
            }
        }
        let options = PlotOptions {
            title: format!("{}, equal {}", self.name, self.rule.name()),
            x: match self.rule {
                Rule::Tokens => XAxis::Tokens,
                Rule::Flops => XAxis::Flops,
            },
            ..PlotOptions::default()
        };
        for name in ["race.svg", "race.html"] {
            let path = self.out.join(name);
            curves::refuse_other_files(&path)?;
            curves::write(&path, &runs, &options)?;
        }
        Ok(())
    }
}

/// Writes beside and renames, so that the file is whole or as it was.
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).expect("a result has a JSON form") + "\n";
    let beside = path.with_extension("json.partial");
    fs::write(&beside, text)
        .and_then(|()| fs::rename(&beside, path))
        .map_err(|error| Failure::line(format!("cannot write {}: {error}", path.display())))
}

/// Settings of every contender.
fn settings(arguments: &Arguments) -> Vec<String> {
    let mut settings = arguments.set.clone();
    settings.extend(arguments.validation.settings());
    if !arguments.data.is_empty() {
        settings.push(paths_setting("data.train", &arguments.data));
    }
    settings.extend(arguments.seed.map(|seed| format!("train.seed={seed}")));
    settings
}
