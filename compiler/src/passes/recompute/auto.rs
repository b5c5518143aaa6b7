//! The policy `auto`: the least work that fits a number of bytes.
//!
//! Candidates are the other policies, those with segments in several sizes, and the lists of placements
//! (`placements.rs`). They do not depend on the budget, so a larger one never means more work, and none of the other
//! policies is ever better.
//! The price of an operation is its arithmetic plus a hundred for each byte that it moves, about what devices can do in
//! the time of a byte; no measured number decides what a plan is.

use colac_plan::{Plan, ProgramKind, TensorId, TensorType};

use crate::graph::Graph;
use crate::passes::recompute::blocks::Blocks;
use crate::passes::recompute::keep::{self, Keep};
use crate::passes::recompute::placements::Placements;
use crate::passes::recompute::{default_segment, has_low_rank, price_of, rebuild, total_price};
use crate::passes::simplify;
use crate::spec::RecomputePolicy;

/// Nodes that may be planned to look at all placements; of more only some are, by halving the list.
const MOST_NODES_PLANNED: usize = 60_000;

/// What was chosen.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The training graph.
    pub graph: Graph,
    /// In words.
    pub description: String,
    /// Bytes of its arena, as `plan` gave them.
    pub bytes: u64,
    /// Price of the whole program.
    pub price: u64,
}

/// The least bytes that any candidate needs, where none fits.
#[derive(Clone, Debug)]
pub struct Smallest(pub Chosen);

/// Chooses for a training graph whose arena may have `budget` bytes. `plan` gives the bytes of an arena.
///
/// # Errors
/// The candidate with the least bytes where none fits.
pub fn choose(
    graph: &Graph,
    budget: u64,
    plan: &mut dyn FnMut(&Graph) -> u64,
) -> Result<Chosen, Box<Smallest>> {
    let blocks = Blocks::of(graph);
    let mut tried: Vec<Chosen> = Vec::new();
    let mut attempt = |keep: Option<&Keep>, description: String| -> Chosen {
        let mut graph = graph.clone();
        if let Some(keep) = keep {
            rebuild::run(&mut graph, &blocks, keep);
            simplify::remove_dead(&mut graph);
        }
        let (bytes, price) = (plan(&graph), total_price(&graph));
        Chosen { graph, description, bytes, price }
    };
    tried.push(attempt(None, RecomputePolicy::None.name().into()));
    if tried[0].bytes <= budget {
        return Ok(tried.remove(0));
    }
    for (policy, segment) in fixed(graph, &blocks) {
        let policies = vec![policy; graph.id_bound()];
        let keep = Keep::of(graph, &blocks, keep::Settings { policies: &policies, segment });
        let description = match segment {
            1 => policy.name().to_owned(),
            _ => format!("{} in segments of {segment} blocks", policy.name()),
        };
        tried.push(attempt(Some(&keep), description));
    }
    let placements = Placements::of(graph, &blocks);
    for list in &placements.lists {
        let mut place = |index: usize| {
            let placement = &list[index];
            attempt(Some(&placements.keep(placement)), placements.describe(placement))
        };
        if list.len() * graph.len() <= MOST_NODES_PLANNED {
            tried.extend((0..list.len()).map(&mut place));
            continue;
        }
        // A list goes from few bytes to many: what fits is at its beginning, and its last that fits is the best.
        let (mut fits, mut above) = (0, list.len());
        while fits < above {
            let middle = fits + (above - fits) / 2;
            let one = place(middle);
            if one.bytes <= budget {
                fits = middle + 1;
            } else {
                above = middle;
            }
            tried.push(one);
        }
    }
    let fitting = tried.iter().filter(|one| one.bytes <= budget);
    let best = fitting.min_by_key(|one| (one.price, one.bytes)).cloned();
    best.ok_or_else(|| {
        let least = tried.into_iter().min_by_key(|one| (one.bytes, one.price));
        Box::new(Smallest(least.expect("policies were tried")))
    })
}

/// The price of all micro-batches of an update.
pub fn price_of_update(plan: &Plan) -> u64 {
    let types = |ids: &[TensorId]| -> Vec<&TensorType> {
        ids.iter().map(|&id| &plan.tensor(id).ty).collect()
    };
    let operations = plan.program(ProgramKind::ForwardBackward).operations.iter();
    let each: u64 =
        operations.map(|o| price_of(o.op.cost(&types(&o.operands), &types(&o.results)))).sum();
    each * u64::from(plan.recipe.global_batch / plan.recipe.micro_batch.max(1))
}

/// Policies and segments that are tried.
fn fixed(graph: &Graph, blocks: &Blocks) -> Vec<(RecomputePolicy, u32)> {
    let count = blocks.len() as u32;
    if count == 0 {
        return Vec::new();
    }
    let mut fixed = vec![(RecomputePolicy::Selective, 1)];
    let mut segments = |policy: RecomputePolicy, best: u32| {
        let mut sizes: Vec<u32> = [best / 2, best, best + 1, 2 * best].to_vec();
        sizes.retain(|&size| (1..=count).contains(&size));
        sizes.dedup();
        fixed.extend(sizes.into_iter().map(|size| (policy, size)));
    };
    segments(RecomputePolicy::Block, 1);
    if has_low_rank(graph, blocks) {
        segments(RecomputePolicy::ColaMPlus, default_segment(RecomputePolicy::ColaMPlus, count));
        fixed.push((RecomputePolicy::ColaM, 1));
        fixed.push((RecomputePolicy::ColaMReference, 1));
    }
    fixed
}
