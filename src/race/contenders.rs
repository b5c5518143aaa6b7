//! Who takes part in a race.
//!
//! Owns how arguments become contenders, for how many steps each trains, and that all of them can be compared. Must not
//! know runs.

use std::path::Path;

use colac_compiler::compile::{Compiled, Request, compile};
use colac_compiler::diagnostics::{Diagnostics, Sources};
use colac_compiler::spec::SpecInput;
use colac_compiler::view::{Inspection, text};
use colac_plan::plan::Form;
use colac_plan::{Plan, hash};
use colac_runtime::race::length::{self, Rule, Step};
use colac_runtime::race::standings::Contender;

use crate::race::{Arguments, settings};
use crate::shared::failure::{self, Failure};
use crate::shared::target::Target;

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
    /// Its plan for another seed.
    pub(super) fn with_seed(&self, seed: u64) -> Result<Plan, Failure> {
        self.compile(&[format!("train.seed={seed}")])
    }

    fn add(&mut self, setting: String) -> Result<(), Failure> {
        self.settings.push(setting);
        self.plan = self.compile(&[])?;
        Ok(())
    }

    /// Compiles it again; its warnings have been shown.
    fn compile(&self, more: &[String]) -> Result<Plan, Failure> {
        let settings = [&self.settings[..], more].concat();
        let mut sources = Sources::default();
        match compile(request(&self.input, settings, self.full_rank), &mut sources) {
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

fn request(input: &SpecInput, settings: Vec<String>, full_rank: bool) -> Request {
    Request { input: input.clone(), settings, full_rank, dump: None }
}

/// The contenders so far, and the warnings that have been shown: what is wrong with a spec is wrong with each of its
/// forms, and said once.
#[derive(Default)]
struct Field {
    entrants: Vec<Entrant>,
    warned: Vec<String>,
}

impl Field {
    fn enter(
        &mut self,
        name: impl FnOnce(&Plan) -> String,
        input: SpecInput,
        settings: Vec<String>,
        full_rank: bool,
    ) -> Result<(), Failure> {
        let mut sources = Sources::default();
        let Compiled { plan, warnings, .. } =
            match compile(request(&input, settings.clone(), full_rank), &mut sources) {
                Ok(compiled) => compiled,
                Err(diagnostics) => return Err(Failure::Texts(diagnostics, sources)),
            };
        let mut news = Diagnostics::default();
        for warning in warnings.iter().filter(|w| !self.warned.contains(&w.message)) {
            news.push(warning.clone());
        }
        self.warned.extend(news.iter().map(|warning| warning.message.clone()));
        failure::show(&news, &sources);
        let name = name(&plan);
        self.entrants.push(Entrant { name, input, settings, full_rank, plan });
        Ok(())
    }
}

/// All contenders, the spec's own form first, with the steps that the rule grants them.
pub(super) fn gather(arguments: &Arguments, rule: Rule) -> Result<Vec<Entrant>, Failure> {
    if arguments.against.is_empty() && arguments.ranks.is_empty() {
        return Err(Failure::line("a race needs two contenders")
            .or_help(|| "add --against full-rank, --against SPEC or --ranks 16,32".to_owned()));
    }
    let mut own = settings(arguments);
    own.extend(arguments.steps.map(|steps| format!("train.steps={steps}")));
    let input = spec(&arguments.spec)?;
    let mut field = Field::default();
    let by_form = |plan: &Plan| match plan.form {
        Form::Cola => "cola".to_owned(),
        Form::FullRank => FULL_RANK.to_owned(),
    };
    field.enter(by_form, input.clone(), own.clone(), false)?;
    for &rank in &arguments.ranks {
        let settings = [&own[..], &[format!("cola.rank={rank}")]].concat();
        field.enter(|_| format!("cola-rank-{rank}"), input.clone(), settings, false)?;
    }
    for against in &arguments.against {
        let (input, full_rank) = match against.as_str() {
            FULL_RANK => (input.clone(), true),
            other => (spec(other)?, false),
        };
        field.enter(|_| name_of(against), input, own.clone(), full_rank)?;
    }
    let mut entrants = field.entrants;
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
    for entrant in others {
        let (ours, theirs) = (&first.plan, &entrant.plan);
        let number = |value: u64| text::grouped(value);
        let differences = [
            ("model.vocab_size", number(ours.vocab_size), number(theirs.vocab_size)),
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
    Ok(())
}
