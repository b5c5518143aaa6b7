//! The whole compiler as one straight function: spec, architecture, graph, passes, plan.
//!
//! Owns the order of the stages. Must not contain a rule of its own.

mod budget;
mod stages;

use std::collections::BTreeMap;

use colac_plan::Plan;
use colac_plan::hash::{self, Hash};
use colac_plan::plan::{Decision, Form, LinearReport, Origin};
use colac_plan::program::ProgramKind;

use crate::diagnostics::{Diagnostic, Diagnostics, Sources};
use crate::emit::{self, Details, Scheduled};
use crate::graph::{Graph, Output, PrintOptions};
use crate::language::architecture::Architecture;
use crate::language::config::Config;
use crate::language::expression::Value;
use crate::language::huggingface;
use crate::lower::{self, Examined};
use crate::passes;
use crate::spec::{Precision, Refused, Resolution, Spec, SpecInput};

use stages::{Keep, Stages};

/// A dump is asked for after a pass that does not exist.
const UNKNOWN_PASS: &str = "compile::unknown_pass";
/// The head's matrix does not fill the tiles of matrix units.
const UNALIGNED_VOCABULARY: &str = "compile::unaligned_vocabulary";
/// The compiler broke one of its own invariants.
const BUG: &str = "compile::bug";

/// Codes of this stage with what they mean.
pub const CODES: [(&str, &str); 3] = [
    (UNKNOWN_PASS, "a dump is asked for after a pass that does not exist"),
    (UNALIGNED_VOCABULARY, "a vocabulary whose size is not a multiple of 64"),
    (BUG, "the compiler broke one of its own invariants; please report it"),
];

/// Every code of the compiler with what it means, stage by stage.
pub fn codes() -> impl Iterator<Item = (&'static str, &'static str)> {
    use crate::{device, language, spec};
    let stages = [spec::codes::ALL, language::codes::ALL, lower::codes::ALL, device::codes::ALL];
    let stages = stages.into_iter().flatten().copied();
    stages.chain(passes::codes::ALL).chain(CODES)
}

/// What to compile.
#[derive(Clone, Debug)]
pub struct Request {
    /// The spec.
    pub input: SpecInput,
    /// Arguments of `--set`, in order.
    pub settings: Vec<String>,
    /// Ignore `[cola]`.
    pub full_rank: bool,
    /// The stage of [`passes::PASSES`] after which the graph is printed.
    pub dump: Option<Dump>,
}

/// A request to print a graph.
#[derive(Clone, Debug)]
pub struct Dump {
    /// Name of the stage.
    pub pass: String,
    /// How.
    pub options: PrintOptions,
}

/// A plan and what was noticed on the way.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The plan, verified.
    pub plan: Plan,
    /// Warnings.
    pub warnings: Diagnostics,
    /// The graph asked for by [`Request::dump`].
    pub dump: Option<String>,
    /// By pass, the training graph after it, where [`recompile_keeping_graphs`] asks for them.
    pub graphs: BTreeMap<&'static str, Graph>,
}

/// Compiles a spec.
///
/// # Errors
/// Everything that is wrong with the spec and its architecture, as far as it can be seen at once. Texts are registered
/// in `sources`, so that the diagnostics can be rendered.
pub fn compile(request: Request, sources: &mut Sources) -> Result<Compiled, Diagnostics> {
    compile_with(request, None, Keep::Nothing, sources)
}

/// Compiles the spec that a plan carries once more, with other settings: what would the plan be if they were so? Takes the
/// architecture that the plan carries, too, and reads no file.
///
/// # Errors
/// As [`compile`].
pub fn recompile(
    plan: &Plan,
    settings: Vec<String>,
    sources: &mut Sources,
) -> Result<Compiled, Diagnostics> {
    let (request, architecture) = (again(plan, settings), Some(&*plan.origin.architecture));
    compile_with(request, architecture, Keep::Nothing, sources)
}

/// Compiles the spec that a plan carries once more and keeps the graph after every pass.
///
/// # Errors
/// As [`compile`].
pub fn recompile_keeping_graphs(
    plan: &Plan,
    sources: &mut Sources,
) -> Result<Compiled, Diagnostics> {
    let (request, architecture) = (again(plan, Vec::new()), Some(&*plan.origin.architecture));
    compile_with(request, architecture, Keep::Graphs, sources)
}

/// The request for the spec that a plan carries.
fn again(plan: &Plan, settings: Vec<String>) -> Request {
    let (name, text) = ("the plan's spec".to_owned(), plan.origin.resolved_spec.clone());
    let input = SpecInput::Text { name, text };
    Request { input, settings, full_rank: false, dump: None }
}

/// [`compile`]; `architecture` is the text of the architecture where it is not to be looked for by its name.
fn compile_with(
    request: Request,
    architecture: Option<&str>,
    keep: Keep,
    sources: &mut Sources,
) -> Result<Compiled, Diagnostics> {
    let mut stages = Stages::new(request.dump.clone(), keep)?;
    let again = (request.clone(), architecture);
    let Front { spec, architecture, config, mut graph, linears, mut diagnostics } = front(
        request.input,
        &request.settings,
        request.full_rank,
        architecture,
        &mut stages,
        sources,
    )?;
    if spec.recompute.budget.is_some_and(|budget| budget.choose_micro_batch) {
        return budget::with_chosen_micro_batch(&again.0, again.1, keep, &spec.recipe, sources);
    }
    let bypassed = spec.cola.as_ref().is_some_and(|c| !c.bypass.is_empty());
    stages.after("cola", &graph)?;
    passes::simplify::run(&mut graph);
    stages.after("simplify", &graph)?;
    if spec.compiler.group {
        passes::group::run(&mut graph);
    }
    stages.after("group", &graph)?;
    passes::precision::run(&mut graph, spec.precision.value);
    stages.after("precision", &graph)?;

    let mut training = training(&graph, spec.precision.value)?;
    stages.after("autodiff", &training)?;
    let mut evaluate = only(&graph, u64::from(spec.recipe.evaluation.batch), Output::Loss)?;
    let mut logits = only(&graph, 1, Output::Logits)?;
    for program in [&mut evaluate, &mut logits] {
        passes::fuse::run(program, &spec.compiler.fuse);
        stages.after("fuse", program)?;
    }
    let evaluate = scheduled(ProgramKind::Evaluate, evaluate)?;
    let logits = scheduled(ProgramKind::Logits, logits)?;

    let form = if spec.cola.is_some() { Form::Cola } else { Form::FullRank };
    let checkpoint_config = checkpoint_config(&spec, &architecture, &config, &linears, bypassed)?;
    let mut details = Details {
        name: spec.name.value.clone(),
        form,
        precision: spec.precision.value,
        linears,
        recompute: spec.recompute.policy.value.name().to_owned(),
        computation: Hash::NONE,
        recipe: spec.recipe.clone(),
        origin: Origin {
            spec: spec.text.to_string(),
            resolved_spec: spec.resolved.clone(),
            architecture: sources.get(architecture.source).text.to_string(),
            checkpoint_config,
            compiler_version: env!("CARGO_PKG_VERSION").into(),
        },
        architecture: architecture.source,
    };
    let emit = |training: Graph, details: Details| -> Result<Plan, Diagnostics> {
        let training = scheduled(ProgramKind::ForwardBackward, training)?;
        let programs = [training, evaluate.clone(), logits.clone()];
        emit::run(&programs, details).map_err(|error| bug(error.to_string()).into())
    };
    // Policies and joins change no bit of training: a run may go on under others than it was begun with.
    let kept = emit(training.clone(), details.clone())?;
    details.computation = hash::computation(&kept);
    match spec.recompute.budget {
        None => {
            passes::recompute::run(&mut training, &spec.recompute, &mut diagnostics);
            if diagnostics.has_errors() {
                return Err(diagnostics);
            }
            passes::recompute::check(&training, &spec.recompute)
                .map_err(|path| bug(format!("`{path}` runs again although its result lives")))?;
        }
        Some(budget) => {
            let chosen = budget::fitted(&training, &kept, budget, &spec.compiler.fuse)?;
            details.recompute = format!("auto: {}", chosen.description);
            training = chosen.graph;
        }
    }
    stages.after("recompute", &training)?;
    passes::fuse::run(&mut training, &spec.compiler.fuse);
    stages.after("fuse", &training)?;
    let training = scheduled(ProgramKind::ForwardBackward, training)?;
    stages.after_schedule(&training);
    let programs = [training, evaluate, logits];
    let plan = emit::run(&programs, details).map_err(|error| bug(error.to_string()))?;
    Ok(Compiled { plan, warnings: diagnostics, dump: stages.text, graphs: stages.graphs })
}

/// Resolves a spec: every key with the value that holds and where it comes from, those of `[model]` that the architecture
/// decides and the length of the run among them. The result as TOML is a spec that trains the same.
///
/// # Errors
/// As [`compile`], as far as they do not need derivatives.
pub fn resolve(
    input: SpecInput,
    settings: &[String],
    full_rank: bool,
    sources: &mut Sources,
) -> Result<(Resolution, Diagnostics), Diagnostics> {
    let mut stages = Stages::new(None, Keep::Nothing)?;
    let front = front(input, settings, full_rank, None, &mut stages, sources)?;
    let mut resolution = front.spec.resolution;
    for (name, value) in front.config.iter() {
        let declared = front.config.place(name).expect("a setting with a value has a place");
        resolution.set_model_default(name, value, declared);
    }
    Ok((resolution, front.diagnostics))
}

/// A spec after everything that is decided before programs are split off.
struct Front {
    spec: Spec,
    architecture: Architecture,
    config: Config,
    graph: Graph,
    linears: Vec<LinearReport>,
    diagnostics: Diagnostics,
}

fn front(
    input: SpecInput,
    settings: &[String],
    full_rank: bool,
    architecture: Option<&str>,
    stages: &mut Stages,
    sources: &mut Sources,
) -> Result<Front, Diagnostics> {
    let (spec, mut outline, mut diagnostics) =
        match Spec::load_or_outline(input, settings, full_rank, sources) {
            Ok((spec, warnings)) => {
                let outline = spec.outline();
                (Some(spec), outline, warnings)
            }
            Err(refused) => {
                let Refused { diagnostics, outline } = *refused;
                (None, outline, diagnostics)
            }
        };
    if let Some(named) = &mut outline.architecture {
        named.text = architecture.map(Into::into);
    }
    let Examined { architecture, config, graph, diagnostics: found } =
        lower::examine(&outline, sources);
    diagnostics.extend(found);
    if diagnostics.has_errors() {
        let cola = outline.cola.as_ref();
        passes::cola::check(graph.as_ref(), cola, config.as_ref(), &mut diagnostics);
        return Err(diagnostics);
    }
    let (Some(mut spec), Some(architecture), Some(config), Some(mut graph)) =
        (spec, architecture, config, graph)
    else {
        return Err(bug("a model is missing without an error".into()).into());
    };
    stages.after("lower", &graph)?;
    check_vocabulary(&config, &mut diagnostics);
    spec.settle_steps(parameter_count(&graph), &mut diagnostics);
    let linears = passes::cola::run(
        &mut graph,
        spec.cola.as_ref(),
        spec.full_rank,
        &config,
        &mut diagnostics,
    );
    match diagnostics.has_errors() {
        true => Err(diagnostics),
        false => Ok(Front { spec, architecture, config, graph, linears, diagnostics }),
    }
}

/// The trained numbers of a graph before any pass: those of the full-rank model.
fn parameter_count(graph: &Graph) -> u64 {
    let mut graph = graph.clone();
    passes::simplify::remove_dead(&mut graph);
    graph.parameters().map(|(_, info)| info.ty.shape.elements()).sum()
}

/// Matrix units work on tiles: a vocabulary that does not fill the last one is slower than a larger one that does. A
/// vocabulary that is smaller than a tile is that of a test.
fn check_vocabulary(config: &Config, diagnostics: &mut Diagnostics) {
    const TILE: i64 = 64;
    let (Some(&Value::Integer(size)), Some(place)) =
        (config.get("vocab_size"), config.place("vocab_size"))
    else {
        return;
    };
    if size > TILE && size % TILE != 0 {
        let next = (size / TILE + 1).saturating_mul(TILE);
        diagnostics.push(
            Diagnostic::warning(
                UNALIGNED_VOCABULARY,
                format!("a vocabulary of {size} is not a multiple of {TILE}"),
            )
            .at(place, "makes the products of the head slower than they need be")
            .help(format!(
                "round it up to {next}: rows for which there is no token are trained never to be chosen"
            )),
        );
    }
}

/// Forward and backward of one micro-batch.
fn training(graph: &Graph, precision: Precision) -> Result<Graph, Diagnostics> {
    let mut training = graph.clone();
    training.retain_outputs(|output| output == Output::Loss);
    passes::simplify::remove_dead(&mut training);
    passes::autodiff::run(&mut training)?;
    passes::precision::parameter_gradients(&mut training, precision);
    passes::simplify::run(&mut training);
    Ok(training)
}

/// The part of the forward graph that one output needs, for another number of rows and without dropout.
fn only(graph: &Graph, batch: u64, output: Output) -> Result<Graph, Diagnostics> {
    let mut program = graph.with_batch(batch).map_err(|error| bug(error.to_string()))?;
    program.retain_outputs(|other| other == output);
    passes::dropout::remove(&mut program);
    passes::simplify::remove_dead(&mut program);
    Ok(program)
}

fn scheduled(kind: ProgramKind, mut graph: Graph) -> Result<Scheduled, Diagnostics> {
    passes::place::run(&mut graph);
    graph.verify().map_err(|error| bug(format!("after place: {error}")))?;
    let order = passes::schedule::run(&graph);
    let placement = passes::memory::run(&graph, &order);
    Ok(Scheduled { kind, graph, order, placement })
}

/// The `config.json` of checkpoints, as JSON text; an empty object where the architecture gives none.
fn checkpoint_config(
    spec: &Spec,
    architecture: &Architecture,
    config: &Config,
    linears: &[LinearReport],
    bypassed: bool,
) -> Result<String, Diagnostics> {
    let largest = linears.iter().filter_map(|l| match l.decision {
        Decision::Rewritten { rank, .. } => Some(rank),
        Decision::KeptDense { .. } => None,
    });
    let rank = largest.max().unwrap_or(0);
    let names = |name: &str| match name {
        "sequence_length" => Some(Value::Integer(i64::from(spec.recipe.sequence_length))),
        "rank" => Some(Value::Integer(rank as i64)),
        "bypassed" => Some(Value::Boolean(bypassed)),
        _ => None,
    };
    let form =
        if spec.cola.is_some() { huggingface::Form::Cola } else { huggingface::Form::FullRank };
    let json = architecture.huggingface.config_json(config, form, &names)?.unwrap_or_default();
    Ok(serde_json::to_string_pretty(&json).expect("a JSON object can be written"))
}

fn bug(reason: String) -> Diagnostic {
    Diagnostic::error(BUG, format!("this is a bug in colac: {reason}"))
        .help("please report it together with the spec")
}

/// The training graph of an architecture before anything is made again, for tests of passes. Settings are those of
/// `[model]`.
#[cfg(test)]
pub(crate) fn training_graph(architecture: &str, settings: &[&str]) -> Graph {
    let mut spec = "name = \"test\"\narchitecture = \"./none.toml\"\n[model]\n".to_owned();
    settings.iter().for_each(|setting| spec.push_str(&format!("{setting}\n")));
    spec.push_str("[train]\nsequence_length = 8\nmicro_batch = 2\nsteps = 1\n");
    spec.push_str("[optimizer]\nlearning_rate = 0.1\n");
    let input = SpecInput::Text { name: "test".into(), text: spec };
    let mut sources = Sources::default();
    let mut stages = Stages::new(None, Keep::Nothing).expect("nothing is dumped");
    let front = front(input, &[], false, Some(architecture), &mut stages, &mut sources);
    let mut graph = front.expect("the test's architecture is right").graph;
    passes::simplify::run(&mut graph);
    passes::precision::run(&mut graph, Precision::F32);
    training(&graph, Precision::F32).expect("the test's architecture has derivatives")
}
