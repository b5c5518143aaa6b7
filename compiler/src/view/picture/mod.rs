//! Pictures: what is drawn of a model, stage by stage.
//!
//! ```text
//! graph ─▶ from_graph ─┐
//!                      ├▶ draft ─▶ boxes ─▶ totals ─▶ fold ─▶ model ─▶ page, svg, dot, text, model-explorer
//! plan  ─▶ from_plan ──┘
//! ```
//!
//! Owns the stages and what a picture holds. Knows graphs and plans and nothing else of the compiler; what draws knows
//! the picture and nothing else.

mod draft;
mod fold;
mod from_graph;
mod from_plan;
mod layer;
mod memory;
pub mod model;
mod totals;
mod words;

use std::collections::BTreeMap;

use colac_plan::Plan;
use colac_plan::plan::Decision;

use crate::diagnostics::Span;
use crate::graph::Graph;
pub use model::Picture;
use model::{Linear, Stage, Text};

/// A stage as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StageName {
    /// What the architecture says.
    Forward,
    /// After the rewrite of linears.
    Cola,
    /// With the backward pass.
    Backward,
    /// After the recompute policy.
    Recompute,
    /// After fusion.
    Fused,
    /// The plan.
    Plan,
}

impl StageName {
    /// All, in the order of compilation.
    pub const ALL: [StageName; 6] = [
        StageName::Forward,
        StageName::Cola,
        StageName::Backward,
        StageName::Recompute,
        StageName::Fused,
        StageName::Plan,
    ];

    /// The name in a picture and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            StageName::Forward => "forward",
            StageName::Cola => "cola",
            StageName::Backward => "backward",
            StageName::Recompute => "recompute",
            StageName::Fused => "fused",
            StageName::Plan => "plan",
        }
    }

    /// The pass after which a graph is at this stage; none for the plan.
    pub fn pass(self) -> Option<&'static str> {
        match self {
            StageName::Forward => Some("lower"),
            StageName::Cola => Some("cola"),
            StageName::Backward => Some("autodiff"),
            StageName::Recompute => Some("recompute"),
            StageName::Fused => Some("fuse"),
            StageName::Plan => None,
        }
    }

    fn title(self) -> &'static str {
        match self {
            StageName::Forward => "The model as the architecture says",
            StageName::Cola => "Selected linears are low-rank pairs",
            StageName::Backward => "The loss has its gradients",
            StageName::Recompute => "What is not kept is made again",
            StageName::Fused => "Operations are joined with their neighbours",
            StageName::Plan => "The plan: every program in its order, every tensor in its place",
        }
    }
}

/// Where things stand in the texts that a picture quotes.
pub struct Lines<'a> {
    /// The line of the architecture that a place is in, counted from 1; none for places in other texts.
    pub architecture: &'a dyn Fn(Span) -> Option<u32>,
    /// By linear: the line of the resolved spec that decides about it, counted from 1.
    pub decisions: &'a BTreeMap<String, u32>,
}

/// What one stage is drawn from.
pub enum Source<'a> {
    /// A graph.
    Graph(&'a Graph),
    /// The plan.
    Plan,
}

/// A stage with nothing folded: every node and value of the graph or plan exactly once.
pub fn unfolded(name: StageName, source: &Source<'_>, plan: &Plan, lines: &Lines<'_>) -> Stage {
    let mut draft = match source {
        Source::Graph(graph) => from_graph::draft(graph, lines.architecture),
        Source::Plan => from_plan::draft(plan),
    };
    for drafted in &mut draft.nodes {
        drafted.node.spec_line = decision(lines.decisions, &drafted.node.path);
    }
    let recipe = &plan.recipe;
    let linears = draft::Linears {
        reports: &plan.linears,
        rewritten: name != StageName::Forward,
        positions: u64::from(recipe.micro_batch) * u64::from(recipe.sequence_length),
    };
    let mut stage = draft.enclose((name.name(), name.title()), &linears);
    totals::fill(&mut stage);
    stage
}

/// The line that decides about the linear that a path lies in.
fn decision(decisions: &BTreeMap<String, u32>, path: &str) -> Option<u32> {
    let mut path = path;
    loop {
        if let Some(&line) = decisions.get(path) {
            return Some(line);
        }
        path = path.rsplit_once('.')?.0;
    }
}

/// There is no turn of the number that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTurn {
    /// Nothing in the model repeats.
    #[error("nothing repeats in this model, so it has no layer {0}")]
    NothingRepeats(u64),
    /// Repeats have fewer turns.
    #[error("there is no layer {number}: the layers are 0 to {last}")]
    Beyond {
        /// The number asked for.
        number: u64,
        /// The number of the last turn there is.
        last: u64,
    },
}

impl Picture {
    /// The picture of a plan at some stages, identical turns folded; `layer` leaves only one turn of every outermost
    /// repeat.
    ///
    /// # Errors
    /// Where no repeat has that turn.
    pub fn new(
        plan: &Plan,
        stages: &[(StageName, Source<'_>)],
        layer: Option<u64>,
        lines: &Lines<'_>,
    ) -> Result<Picture, NoTurn> {
        let mut drawn = Vec::with_capacity(stages.len());
        for (name, source) in stages {
            let mut stage = unfolded(*name, source, plan, lines);
            if let Some(number) = layer {
                stage = layer::only(&stage, number).ok_or_else(|| no_turn(&stage, number))?;
            }
            drawn.push(fold::fold(stage));
        }
        let has_plan = stages.iter().any(|(name, _)| *name == StageName::Plan);
        Ok(Picture {
            name: plan.name.clone(),
            form: plan.form.name(),
            compiler: plan.origin.compiler_version.clone(),
            precision: plan.precision(),
            recompute: plan.recompute.clone(),
            note: None,
            micro_batch: plan.recipe.micro_batch,
            sequence_length: plan.recipe.sequence_length,
            spec: Text {
                name: format!("{}, resolved", plan.name),
                text: plan.origin.resolved_spec.clone(),
            },
            architecture: Text {
                name: "architecture".to_owned(),
                text: plan.origin.architecture.clone(),
            },
            stages: drawn,
            linears: linears(plan),
            memory: has_plan.then(|| memory::memory(plan)),
        })
    }
}

impl Picture {
    /// What to know about one of its stages: [`Picture::note`] is not about the plan, unless nothing else is drawn.
    pub fn note_on(&self, stage: &Stage) -> Option<&str> {
        let plan = StageName::Plan.name();
        let is_alone = self.stages.iter().all(|one| one.name == plan);
        self.note.as_deref().filter(|_| stage.name != plan || is_alone)
    }
}

fn no_turn(stage: &Stage, number: u64) -> NoTurn {
    let outermost = (0..stage.boxes.len()).filter(|&index| layer::is_outermost(stage, index));
    match outermost.filter_map(|index| stage.boxes[index].last).max() {
        Some(last) => NoTurn::Beyond { number, last },
        None => NoTurn::NothingRepeats(number),
    }
}

fn linears(plan: &Plan) -> Vec<Linear> {
    let row = |report: &colac_plan::plan::LinearReport| {
        let (inputs, outputs) = (report.inputs, report.outputs);
        let (rank, activation, reason) = match &report.decision {
            Decision::Rewritten { rank, activation } => {
                (Some(*rank), Some(activation.clone()), None)
            }
            Decision::KeptDense { reason } => (None, None, Some(reason.clone())),
        };
        let saved =
            rank.map_or(0, |rank| (inputs * outputs) as i64 - (rank * (inputs + outputs)) as i64);
        Linear {
            path: report.path.clone(),
            inputs,
            outputs,
            rank,
            activation,
            reason,
            saved_parameters: saved,
            // Forward one product, backward two, two FLOPs for each weight.
            saved_flops: 6 * saved,
        }
    };
    plan.linears.iter().map(row).collect()
}
