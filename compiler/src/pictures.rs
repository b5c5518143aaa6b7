//! The picture of a plan at the stages of its compilation.
//!
//! Owns how graphs and places in the spec reach a picture: the spec that a plan carries is compiled once more, the graphs
//! on the way are kept, and where they are not those of the plan a note says so. Must not know what is drawn of them.

use std::collections::BTreeMap;

use colac_plan::Plan;

use crate::compile::recompile_keeping_graphs;
use crate::diagnostics::{Diagnostics, Sources, Span};
use crate::graph::{Graph, Output};
use crate::language::selector::Selector;
use crate::passes::simplify;
use crate::spec::{Cola, Spec, SpecInput};
use crate::view::picture::{Lines, NoTurn, Picture, Source, StageName, model, unfolded};

/// A plan with the graphs of its stages and the places of its decisions.
pub struct Stages {
    plan: Plan,
    graphs: BTreeMap<&'static str, Graph>,
    sources: Sources,
    decisions: BTreeMap<String, u32>,
    note: Option<String>,
}

impl Stages {
    /// Compiles the spec of a plan once more.
    ///
    /// # Errors
    /// What this compiler finds wrong with the spec, which can only happen where the plan is of another version;
    /// [`Stages::of_plan`] draws what can be drawn of it.
    pub fn new(plan: &Plan) -> Result<Stages, (Diagnostics, Sources)> {
        let mut sources = Sources::default();
        let compiled = match recompile_keeping_graphs(plan, &mut sources) {
            Ok(compiled) => compiled,
            Err(diagnostics) => return Err((diagnostics, sources)),
        };
        let note = note(plan, compiled.plan);
        let graphs = compiled.graphs.into_iter().map(of_training).collect();
        let input = SpecInput::Text {
            name: "the plan's spec".to_owned(),
            text: plan.origin.resolved_spec.clone(),
        };
        let spec = Spec::load(input, &[], false, &mut sources);
        let cola = spec.ok().and_then(|(spec, _)| spec.cola);
        let decisions = cola.map_or_else(BTreeMap::new, |cola| decisions(plan, &cola, &sources));
        Ok(Stages { plan: plan.clone(), graphs, sources, decisions, note })
    }

    /// A plan alone, where its spec cannot be compiled once more: no stage but the plan's can be drawn, and the picture says
    /// why.
    pub fn of_plan(plan: &Plan) -> Stages {
        let (own, this) = (&plan.origin.compiler_version, env!("CARGO_PKG_VERSION"));
        let note = format!(
            "the plan was compiled by colac {own}, and its spec does not compile with this colac {this}: only the plan \
             itself is drawn"
        );
        Stages {
            plan: plan.clone(),
            graphs: BTreeMap::new(),
            sources: Sources::default(),
            decisions: BTreeMap::new(),
            note: Some(note),
        }
    }

    /// The graph at a stage; none for the plan.
    pub fn graph(&self, stage: StageName) -> Option<&Graph> {
        self.graphs.get(stage.pass()?)
    }

    /// The picture at these stages; `layer` leaves only one turn of every outermost repeat.
    ///
    /// # Errors
    /// Where no repeat has that turn.
    pub fn picture(&self, stages: &[StageName], layer: Option<u64>) -> Result<Picture, NoTurn> {
        let source = |&stage: &StageName| (stage, self.source(stage));
        let sources: Vec<(StageName, Source<'_>)> = stages.iter().map(source).collect();
        let mut picture =
            self.with_lines(|lines| Picture::new(&self.plan, &sources, layer, lines))?;
        let has_graphs = stages.iter().any(|&stage| self.graph(stage).is_some());
        picture.note = self.note.clone().filter(|_| has_graphs || self.graphs.is_empty());
        Ok(picture)
    }

    /// One stage with nothing folded: every node and value exactly once.
    pub fn unfolded(&self, stage: StageName) -> model::Stage {
        let source = self.source(stage);
        self.with_lines(|lines| unfolded(stage, &source, &self.plan, lines))
    }

    fn source(&self, stage: StageName) -> Source<'_> {
        self.graph(stage).map_or(Source::Plan, Source::Graph)
    }

    fn with_lines<T>(&self, draw: impl FnOnce(&Lines<'_>) -> T) -> T {
        let architecture = |span: Span| {
            let source = self.sources.get(span.source);
            let is_architecture = *source.text == *self.plan.origin.architecture;
            is_architecture.then(|| line(&self.sources, span))
        };
        draw(&Lines { architecture: &architecture, decisions: &self.decisions })
    }
}

/// What to say where the plan is not what this compiler makes of its spec: then the graphs on the way to it, too, may be
/// others than those that it came from. The recipe is not drawn and may have been changed since; why linears stayed dense
/// is worded otherwise after `--full-rank`, which the spec of a plan does not tell.
fn note(plan: &Plan, again: Plan) -> Option<String> {
    let (own, this) = (&plan.origin.compiler_version, again.origin.compiler_version.clone());
    let again = Plan {
        origin: plan.origin.clone(),
        recipe: plan.recipe.clone(),
        linears: plan.linears.clone(),
        ..again
    };
    if again == *plan {
        return None;
    }
    let other = if *own == this { "another build of colac" } else { "colac" };
    Some(format!(
        "the plan was compiled by {other} {own}, and this colac {this} makes another plan of its spec: the stages before \
         the plan are those of this colac"
    ))
}

/// The graph after a pass as far as training needs it. Before programs are split off it gives logits, too, by the product
/// that the loss contains: counted with it, the head would seem twice as dear as it is.
fn of_training((pass, mut graph): (&'static str, Graph)) -> (&'static str, Graph) {
    if graph.outputs().iter().any(|&(output, _)| output == Output::Logits) {
        graph.retain_outputs(|output| output != Output::Logits);
        simplify::remove_dead(&mut graph);
    }
    (pass, graph)
}

/// The line that a place begins in, counted from 1.
fn line(sources: &Sources, span: Span) -> u32 {
    let before = &sources.get(span.source).text.as_bytes()[..span.start as usize];
    before.iter().filter(|&&byte| byte == b'\n').count() as u32 + 1
}

/// For every linear that `[cola]` speaks of, the line of the resolved spec that decides: of the last override that names
/// it, or the rank of all.
fn decisions(plan: &Plan, cola: &Cola, sources: &Sources) -> BTreeMap<String, u32> {
    let mut lines = BTreeMap::new();
    for linear in &plan.linears {
        let matches = |selectors: &[Selector]| {
            selectors.iter().any(|selector| selector.matches(&linear.path))
        };
        if !matches(&cola.targets) {
            continue;
        }
        let named = cola.overrides.iter().rev().find(|one| matches(&one.targets));
        let place = named.map_or(cola.rank.span, |one| match &one.rank {
            Some(rank) => rank.span,
            None => one.span,
        });
        lines.insert(linear.path.clone(), line(sources, place));
    }
    lines
}
