//! A spec that names a memory instead of a policy: what fits it with the least work.
//!
//! Owns the trying out: whole compilations for sizes of micro-batches, placements for what a policy keeps. Must not know how
//! candidates are made ([`crate::passes::recompute::auto`]) or what a stage does.

use colac_plan::program::ProgramKind;
use colac_plan::recipe::Recipe;
use colac_plan::{Plan, Segment};

use crate::compile::stages::Keep;
use crate::compile::{Compiled, Request, bug, compile_with};
use crate::diagnostics::{Diagnostic, Diagnostics, Sources};
use crate::graph::Graph;
use crate::passes;
use crate::passes::codes::DOES_NOT_FIT;
use crate::passes::recompute::auto::{self, Chosen};
use crate::spec::{Budget, FuseRule};
use crate::view::text;

/// Sizes of micro-batches that are compared, from the largest that fits.
const MICRO_BATCHES_COMPARED: usize = 4;

/// Compiles for the micro-batch with the least work an update: of the largest divisors of the global batch that fit, since
/// a smaller one reads the weights more often and a larger one makes more values again.
pub(super) fn with_chosen_micro_batch(
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
                let price = auto::price_of_update(&compiled.plan);
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
pub(super) fn fitted(
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
    auto::choose(training, room, &mut plan).map_err(|smallest| {
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
