//! The whole compiler as one straight function: spec, architecture, graph, passes, plan.
//!
//! Owns the order of the stages and the printing of graphs between them. Must not contain a rule of its own.

use std::collections::BTreeMap;

use colac_plan::hash::{self, Hash};
use colac_plan::plan::{Decision, Form, LinearReport, Origin};
use colac_plan::program::ProgramKind;
use colac_plan::recipe::Recipe;
use colac_plan::{Plan, Segment};

use crate::diagnostics::{Diagnostic, Diagnostics, Sources, did_you_mean};
use crate::emit::{self, Details, Scheduled};
use crate::graph::{Graph, Home, Output, PrintOptions};
use crate::language::architecture::Architecture;
use crate::language::config::Config;
use crate::language::expression::Value;
use crate::language::huggingface;
use crate::lower::{self, Model};
use crate::passes::codes::DOES_NOT_FIT;
use crate::passes::recompute::auto::Chosen;
use crate::passes::{self, PASSES, recompute};
use crate::spec::{Budget, FuseRule, Precision, Resolution, Spec, SpecInput};
use crate::view::text;

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
    /// The stage of [`PASSES`] after which the graph is printed.
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

/// What is kept of the graphs on the way to a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    Nothing,
    Graphs,
}

/// [`compile`]; `architecture` is the text of the architecture where it is not to be looked for by its name.
fn compile_with(
    request: Request,
    architecture: Option<&str>,
    keep: Keep,
    sources: &mut Sources,
) -> Result<Compiled, Diagnostics> {
    let mut dumper = Dumper::new(request.dump.clone(), keep)?;
    let again = (request.clone(), architecture);
    let Front { spec, architecture, config, mut graph, linears, mut diagnostics } = front(
        request.input,
        &request.settings,
        request.full_rank,
        architecture,
        &mut dumper,
        sources,
    )?;
    if spec.recompute.budget.is_some_and(|budget| budget.choose_micro_batch) {
        return with_chosen_micro_batch(&again.0, again.1, keep, &spec.recipe, sources);
    }
    let bypassed = spec.cola.as_ref().is_some_and(|c| !c.bypass.is_empty());
    dumper.after("cola", &graph)?;
    passes::simplify::run(&mut graph);
    dumper.after("simplify", &graph)?;
    if spec.compiler.group {
        passes::group::run(&mut graph);
    }
    dumper.after("group", &graph)?;
    passes::precision::run(&mut graph, spec.precision.value);
    dumper.after("precision", &graph)?;

    let mut training = training(&graph, spec.precision.value)?;
    dumper.after("autodiff", &training)?;
    let mut evaluate = only(&graph, u64::from(spec.recipe.evaluation.batch), Output::Loss)?;
    let mut logits = only(&graph, 1, Output::Logits)?;
    for program in [&mut evaluate, &mut logits] {
        passes::fuse::run(program, &spec.compiler.fuse);
        dumper.after("fuse", program)?;
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
        numerics: Hash::NONE,
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
    details.numerics = hash::training_numerics(&kept);
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
            let chosen = fitted(&training, &kept, budget, &spec.compiler.fuse)?;
            details.recompute = format!("auto: {}", chosen.description);
            training = chosen.graph;
        }
    }
    dumper.after("recompute", &training)?;
    passes::fuse::run(&mut training, &spec.compiler.fuse);
    dumper.after("fuse", &training)?;
    let training = scheduled(ProgramKind::ForwardBackward, training)?;
    dumper.after_schedule(&training);
    let programs = [training, evaluate, logits];
    let plan = emit::run(&programs, details).map_err(|error| bug(error.to_string()))?;
    Ok(Compiled { plan, warnings: diagnostics, dump: dumper.text, graphs: dumper.graphs })
}

/// Sizes of micro-batches that are compared, from the largest that fits.
const MICRO_BATCHES_COMPARED: usize = 4;

/// Compiles for the micro-batch with the least work an update: of the largest divisors of the global batch that fit, since
/// a smaller one reads the weights more often and a larger one makes more values again.
fn with_chosen_micro_batch(
    request: &Request,
    architecture: Option<&str>,
    keep: Keep,
    recipe: &Recipe,
    sources: &mut Sources,
) -> Result<Compiled, Diagnostics> {
    let global = recipe.global_batch;
    let mut best: Option<(u64, Compiled)> = None;
    let (mut compared, mut refused) = (0, None);
    for size in (1..=global).rev().filter(|size| global.is_multiple_of(*size)) {
        let mut request = request.clone();
        request.settings.extend([
            "recompute.choose_micro_batch=false".into(),
            format!("train.micro_batch={size}"),
            format!("train.global_batch={global}"),
            format!("evaluation.batch={}", recipe.evaluation.batch),
            format!("evaluation.reference_batch={}", recipe.evaluation.reference_batch),
        ]);
        match compile_with(request, architecture, keep, sources) {
            Ok(compiled) => {
                let price = recompute::auto::price_of_update(&compiled.plan);
                if best.as_ref().is_none_or(|(least, _)| price < *least) {
                    best = Some((price, compiled));
                }
                compared += 1;
                if compared == MICRO_BATCHES_COMPARED {
                    break;
                }
            }
            Err(diagnostics) if diagnostics.iter().all(|d| d.code == DOES_NOT_FIT) => {
                refused = Some(diagnostics);
            }
            Err(diagnostics) => return Err(diagnostics),
        }
    }
    match (best, refused) {
        (Some((_, compiled)), _) => Ok(compiled),
        (None, Some(diagnostics)) => Err(diagnostics),
        (None, None) => Err(bug("a batch has no divisors".into()).into()),
    }
}

/// The training graph with the least work that fits; `kept` is the plan that keeps everything.
fn fitted(
    training: &Graph,
    kept: &Plan,
    budget: Budget,
    fuse: &[FuseRule],
) -> Result<Chosen, Diagnostic> {
    let Some(bytes) = budget.bytes else {
        return Err(Diagnostic::error(
            passes::codes::UNKNOWN_DEVICE,
            "the memory of a device is not known to a plan, which any device may run",
        )
        .at(budget.span, "which device?")
        .help("write a size such as \"24 GiB\"; only `colac train` knows its device"));
    };
    let others = kept.total_bytes() - kept.bytes(Segment::Activations);
    let arena = |kind| kept.program(kind).arena_bytes;
    let forward = arena(ProgramKind::Evaluate).max(arena(ProgramKind::Logits));
    let mut plan = |graph: &Graph| {
        let mut graph = graph.clone();
        passes::fuse::run(&mut graph, fuse);
        passes::place::run(&mut graph);
        let order = passes::schedule::run(&graph);
        passes::memory::run(&graph, &order).bytes.max(forward)
    };
    let room = bytes.saturating_sub(others);
    passes::recompute::auto::choose(training, room, &mut plan).map_err(|smallest| {
        let least = &smallest.0;
        let needs = others + least.bytes;
        let (gib, state) = (|bytes: u64| text::bytes(bytes), kept.state_bytes());
        let dominant = match least.bytes > state {
            true => format!(
                "the arena of activations, {} of it, with `{}`",
                gib(least.bytes),
                least.description
            ),
            false => format!("weights, gradients and optimizer, {} of it", gib(state)),
        };
        Diagnostic::error(
            DOES_NOT_FIT,
            format!("no policy fits {}: the least that is needed is {}", gib(bytes), gib(needs)),
        )
        .at(budget.span, format!("most of the least is {dominant}"))
        .help("lower `train.micro_batch` or `train.sequence_length`, or allow more memory")
    })
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
    let mut dumper = Dumper::new(None, Keep::Nothing)?;
    let front = front(input, settings, full_rank, None, &mut dumper, sources)?;
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
    dumper: &mut Dumper,
    sources: &mut Sources,
) -> Result<Front, Diagnostics> {
    let (mut spec, mut diagnostics) = Spec::load(input, settings, full_rank, sources)?;
    spec.architecture_text = architecture.map(Into::into);
    let Model { architecture, config, mut graph } = lower::model(&spec, sources)?;
    dumper.after("lower", &graph)?;
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

/// Verifies after every stage, prints the one asked for, and keeps the graphs.
struct Dumper {
    wanted: Option<Dump>,
    text: Option<String>,
    keep: Keep,
    graphs: BTreeMap<&'static str, Graph>,
}

impl Dumper {
    fn new(wanted: Option<Dump>, keep: Keep) -> Result<Dumper, Diagnostic> {
        if let Some(dump) = &wanted
            && !PASSES.iter().any(|p| p.name == dump.pass)
        {
            let names: Vec<&str> = PASSES.iter().map(|p| p.name).collect();
            let otherwise = || format!("write one of {}", names.join(", "));
            let help = did_you_mean(&dump.pass, names.iter().copied(), otherwise);
            let message = format!("there is no pass `{}`", dump.pass);
            return Err(Diagnostic::error(UNKNOWN_PASS, message).help(help));
        }
        Ok(Dumper { wanted, text: None, keep, graphs: BTreeMap::new() })
    }

    fn wants(&self, pass: &str) -> Option<PrintOptions> {
        self.wanted.as_ref().filter(|dump| dump.pass == pass).map(|dump| dump.options)
    }

    fn after(&mut self, pass: &'static str, graph: &Graph) -> Result<(), Diagnostic> {
        // The training graph comes last after a pass that runs for every program.
        if self.keep == Keep::Graphs {
            self.graphs.insert(pass, graph.clone());
        }
        if let Some(options) = self.wants(pass) {
            self.text = Some(graph.print(options));
        }
        graph.verify().map_err(|error| bug(format!("after {pass}: {error}")))
    }

    fn after_schedule(&mut self, scheduled: &Scheduled) {
        if let Some(options) = self.wants("schedule") {
            let place = |value| match scheduled.graph.home(value) {
                Some(Home::Join { start, .. }) => Some(format!("in its join from {start}")),
                Some(Home::Operand(_)) => Some("on its operand".to_owned()),
                None => {
                    scheduled.placement.offsets.get(&value).map(|offset| format!("at {offset}"))
                }
            };
            self.text = Some(scheduled.graph.print_ordered(&scheduled.order, &place, options));
        }
    }
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
    let mut dumper = Dumper::new(None, Keep::Nothing).expect("nothing is dumped");
    let front = front(input, &[], false, Some(architecture), &mut dumper, &mut sources);
    let mut graph = front.expect("the test's architecture is right").graph;
    passes::simplify::run(&mut graph);
    passes::precision::run(&mut graph, Precision::F32);
    training(&graph, Precision::F32).expect("the test's architecture has derivatives")
}
