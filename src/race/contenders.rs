//! Who takes part in a race.
//!
//! Owns how arguments become contenders, for how many steps each trains, and that all of them can be compared. Must not
//! know runs.

use std::path::Path;

use colac_compiler::compile::{Request, compile};
use colac_compiler::diagnostics::Sources;
use colac_compiler::spec::SpecInput;
use colac_compiler::view::{Inspection, text};
use colac_plan::plan::Form;
use colac_plan::{Plan, hash};
use colac_runtime::race::length::{self, Rule, Step};
use colac_runtime::race::standings::Contender;

use crate::race::{Arguments, settings};
use crate::shared::failure::Failure;
use crate::shared::target::{Target, compile_or_show};

/// Name of the dense form, on the command line and in results.
pub(super) const FULL_RANK: &str = "full-rank";

/// A contender and how its plan is made.
pub(super) struct Entrant {
    pub(super) name: String,
    input: SpecInput,
    settings: Vec<String>,
    full_rank: bool,
    /// With its own number of steps and the first seed.
    pub(super) plan: Plan,
}

impl Entrant {
    fn new(
        name: String,
        input: SpecInput,
        settings: Vec<String>,
        full_rank: bool,
    ) -> Result<Entrant, Failure> {
        let plan = compile_or_show(&input, settings.clone(), full_rank)?;
        Ok(Entrant { name, input, settings, full_rank, plan })
    }

    fn add(&mut self, setting: String) -> Result<(), Failure> {
        self.settings.push(setting);
        self.plan = self.compile(&[])?;
        Ok(())
    }

    /// Its plan for another seed.
    pub(super) fn with_seed(&self, seed: u64) -> Result<Plan, Failure> {
        self.compile(&[format!("train.seed={seed}")])
    }

    /// Its warnings have been shown.
    fn compile(&self, more: &[String]) -> Result<Plan, Failure> {
        let request = Request {
            input: self.input.clone(),
            settings: [&self.settings[..], more].concat(),
            full_rank: self.full_rank,
            dump: None,
        };
        let mut sources = Sources::default();
        match compile(request, &mut sources) {
            Ok(compiled) => Ok(compiled.plan),
            Err(diagnostics) => Err(Failure::Texts(diagnostics, sources)),
        }
    }

    pub(super) fn contender(&self) -> Contender {
        let parameters = Inspection::new(&self.plan).parameters.total;
        let steps = self.plan.recipe.schedule.steps;
        Contender::new(
            self.name.clone(),
            self.plan.form.name(),
            parameters,
            steps,
            Step::of(&self.plan),
        )
    }
}

/// All contenders, the spec's own form first, with the steps that the rule grants them.
pub(super) fn gather(arguments: &Arguments, rule: Rule) -> Result<Vec<Entrant>, Failure> {
    let mut own = settings(arguments);
    own.extend(arguments.steps.map(|steps| format!("train.steps={steps}")));
    let input = spec(&arguments.spec)?;
    let mut first = Entrant::new(String::new(), input.clone(), own.clone(), false)?;
    first.name = match first.plan.form {
        Form::Cola => "cola".to_owned(),
        Form::FullRank => FULL_RANK.to_owned(),
    };
    let mut entrants = vec![first];
    for &rank in &arguments.ranks {
        let settings = [&own[..], &[format!("cola.rank={rank}")]].concat();
        let name = format!("cola-rank-{rank}");
        entrants.push(Entrant::new(name, input.clone(), settings, false)?);
    }
    for against in &arguments.against {
        entrants.push(match against.as_str() {
            FULL_RANK => Entrant::new(FULL_RANK.to_owned(), input.clone(), own.clone(), true)?,
            other => {
                let name = name_of(other);
                Entrant::new(name, spec(other)?, own.clone(), false)?
            }
        });
    }
    if entrants.len() < 2 {
        return Err(Failure::line("a race needs two contenders")
            .or_help(|| "add --against full-rank, --against SPEC or --ranks 16,32".to_owned()));
    }
    let steps = entrants[0].plan.recipe.schedule.steps;
    let first = Step::of(&entrants[0].plan);
    check(&entrants)?;
    for entrant in &mut entrants[1..] {
        let granted = length::steps(rule, first, steps, Step::of(&entrant.plan));
        if granted != entrant.plan.recipe.schedule.steps {
            entrant.add(format!("train.steps={granted}"))?;
        }
    }
    Ok(entrants)
}

fn spec(argument: &str) -> Result<SpecInput, Failure> {
    match Target::from_argument(argument)? {
        Target::Spec(input) => Ok(input),
        Target::Plan(_) | Target::Run(_) | Target::Checkpoint { .. } => {
            Err(Failure::line(format!("{argument} is not a spec"))
                .or_help(|| "a race compiles its contenders itself: name specs".to_owned()))
        }
    }
}

/// The name of a contender that is a spec: a file without its folder and ending.
fn name_of(argument: &str) -> String {
    let stem = Path::new(argument).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    stem.unwrap_or_else(|| argument.to_owned())
}

/// Contenders must differ in name and model, and agree in everything that decides what a batch is.
fn check(entrants: &[Entrant]) -> Result<(), Failure> {
    let (first, others) = entrants.split_first().expect("there are at least two contenders");
    for (index, entrant) in entrants.iter().enumerate() {
        for earlier in &entrants[..index] {
            if earlier.name == entrant.name {
                return Err(Failure::line(format!("two contenders are called {}", entrant.name))
                    .or_help(|| "name each contender once".to_owned()));
            }
            if hash::numerics(&earlier.plan) == hash::numerics(&entrant.plan) {
                return Err(Failure::line(format!(
                    "{} and {} are the same model with the same recipe",
                    earlier.name, entrant.name
                ))
                .or_help(|| "leave one of them out".to_owned()));
            }
        }
    }
    for entrant in others {
        let (ours, theirs) = (&first.plan, &entrant.plan);
        let number = |value: u64| text::grouped(value);
        let differences = [
            ("vocab_size", number(ours.vocab_size), number(theirs.vocab_size)),
            (
                "train.sequence_length",
                number(u64::from(ours.recipe.sequence_length)),
                number(u64::from(theirs.recipe.sequence_length)),
            ),
            (
                "train.global_batch",
                number(u64::from(ours.recipe.global_batch)),
                number(u64::from(theirs.recipe.global_batch)),
            ),
            ("train.seed", ours.recipe.seed.to_string(), theirs.recipe.seed.to_string()),
        ];
        let different = differences.into_iter().find(|(_, ours, theirs)| ours != theirs);
        if let Some((key, ours, theirs)) = different {
            return Err(Failure::line(format!(
                "{} and {} do not train on the same batches: {key} is {ours} and {theirs}",
                first.name, entrant.name
            ))
            .or_help(|| format!("set it for all: --set {key}=VALUE")));
        }
        if ours.recipe.data != theirs.recipe.data {
            return Err(Failure::line(format!(
                "{} and {} do not train on the same data",
                first.name, entrant.name
            ))
            .or_help(|| "set it for all: --data, --validation and --tokenizer".to_owned()));
        }
    }
    Ok(())
}
