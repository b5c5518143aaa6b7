//! Chooses which forward values live until the backward pass, and makes the others again there.
//!
//! ```text
//! before   %1 = linear %0, @gate.cola_a                       z
//!          %2 = pointwise %1 { a * sigmoid(a) }
//!          %3 = linear %2, @gate.cola_b                       …
//!          %7 = linear_backward_weight %6, %2   # backward    %2 lives until here
//! after    %7 = pointwise %1 { a * sigmoid(a) } after %6   # recompute 0
//!          %8 = linear_backward_weight %6, %7   # backward    only the narrow %1 lives
//! ```
//!
//! | policy | lives until the backward pass | made again |
//! | --- | --- | --- |
//! | `none` | everything that the backward pass reads | nothing |
//! | `selective` | results of products and attention, and what costs no more bytes than they do | norms, activations, rotations … |
//! | `cola-m` | residual streams, r-wide values before σ | σ, up-projections, attention; no down-projection |
//! | `cola-m+` | r-wide values before σ, one residual stream a segment | the same, and residual streams from `B σ(z)` |
//! | `cola-m-reference` | residual streams, r-wide values behind σ | whole blocks, as the published code does |
//! | `block` | what crosses blocks (of a segment) | whole blocks |
//!
//! A block is a turn of a `repeat`. A clone belongs to a region (a block, or a segment of several), is shared by all that
//! read it there, and is held back by a control edge from the first gradient that needs the region, so that no schedule
//! can move it into the forward pass. Values outside of blocks live. In a model without r-wide values, the dense form of a
//! spec among them, the policies around them are `block`.
//!
//! Assumes: a training graph after autodiff. Guarantees: the same operations on the same operands, so that no bit of any
//! output changes; every clone in the phase [`Phase::Recompute`]; under `cola-m` and `cola-m+` no down-projection is among
//! them ([`check`]). Common subexpressions must not be merged afterwards, or the clones would be gone.

pub mod auto;

#[cfg(test)]
mod auto_tests;
mod blocks;
mod keep;
mod placements;
mod rebuild;

use colac_plan::TensorType;
use colac_plan::op::Cost;
use colac_plan::parameter::Role;
use colac_plan::program::Phase;

use crate::diagnostics::{Diagnostic, Diagnostics};
use crate::graph::{Graph, NodeId, NodeKind};
use crate::passes::{codes, simplify};
use crate::spec::{Recompute, RecomputePolicy};

pub use blocks::Blocks;
pub use keep::Keep;

const PASS: &str = "recompute";

/// Rewrites a training graph as the spec says.
pub fn run(graph: &mut Graph, recompute: &Recompute, diagnostics: &mut Diagnostics) {
    let blocks = Blocks::of(graph);
    let mut policies = policies(graph, &blocks, recompute, diagnostics);
    without_low_rank(graph, &blocks, &mut policies);
    if policies.iter().all(|policy| *policy == RecomputePolicy::None) {
        return;
    }
    if blocks.is_empty() {
        diagnostics.push(
            Diagnostic::warning(
                codes::NOTHING_REPEATS,
                "the architecture has no `repeat`, so nothing is made again",
            )
            .at(recompute.policy.span, "has no effect")
            .help("write the blocks of the model as turns of a `repeat`, or remove the policy"),
        );
        return;
    }
    let segment = recompute.segment.map_or_else(
        || default_segment(recompute.policy.value, blocks.len() as u32),
        |segment| segment.value,
    );
    let keep = Keep::of(graph, &blocks, keep::Settings { policies: &policies, segment });
    rebuild::run(graph, &blocks, &keep);
    simplify::remove_dead(graph);
}

/// The policies around r-wide values make sense where there are some: elsewhere, as in the dense form of the same spec,
/// `block` is what they come to.
fn without_low_rank(graph: &Graph, blocks: &Blocks, policies: &mut [RecomputePolicy]) {
    if has_low_rank(graph, blocks) {
        return;
    }
    for policy in policies {
        if matches!(
            policy,
            RecomputePolicy::ColaM | RecomputePolicy::ColaMPlus | RecomputePolicy::ColaMReference
        ) {
            *policy = RecomputePolicy::Block;
        }
    }
}

fn has_low_rank(graph: &Graph, blocks: &Blocks) -> bool {
    let is_low_rank = |id: &NodeId| blocks::weight_role(graph, *id) == Some(Role::LowRankDown);
    blocks.forward().iter().any(is_low_rank)
}

/// Price of one byte in FLOPs, for choices that no measured device should decide.
const BYTE_PRICE: u64 = 100;

/// What running a node costs.
fn price(graph: &Graph, id: NodeId) -> u64 {
    let node = graph.node(id);
    let NodeKind::Op(op) = &node.kind else { return 0 };
    let operands = graph.operands(id);
    let operands: Vec<&TensorType> = operands.iter().map(|&value| graph.ty(value)).collect();
    price_of(op.cost(&operands, &node.results.iter().collect::<Vec<_>>()))
}

fn price_of(cost: Cost) -> u64 {
    cost.products + cost.other + BYTE_PRICE * cost.bytes
}

/// What running a graph costs.
fn total_price(graph: &Graph) -> u64 {
    graph.nodes().map(|node| price(graph, node.id)).sum()
}

/// Blocks in a segment where the spec does not say. With `L` blocks and `k` in a segment, `cola-m+` keeps `L/k` residual
/// streams, and `2k` more live while a segment is differentiated: least near `k = √(L/2)`.
fn default_segment(policy: RecomputePolicy, blocks: u32) -> u32 {
    match policy {
        RecomputePolicy::ColaMPlus => {
            (1..=blocks.max(1)).min_by_key(|k| blocks.div_ceil(*k) + 2 * k).unwrap_or(1)
        }
        _ => 1,
    }
}

/// The policy of every node: that of the last override that selects it, else the spec's.
fn policies(
    graph: &Graph,
    blocks: &Blocks,
    recompute: &Recompute,
    diagnostics: &mut Diagnostics,
) -> Vec<RecomputePolicy> {
    let mut policies = vec![recompute.policy.value; graph.id_bound()];
    for one in &recompute.overrides {
        for selector in &one.targets {
            let mut selects = false;
            for &id in blocks.forward() {
                if selector.matches(&graph.node(id).origin.path) {
                    policies[id.0 as usize] = one.policy.value;
                    selects = true;
                }
            }
            if !selects {
                let mut paths: Vec<&str> = blocks
                    .forward()
                    .iter()
                    .map(|&id| graph.node(id).origin.path.as_str())
                    .collect();
                paths.dedup();
                let help = match selector.suggest(paths.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "remove the selector".into(),
                };
                diagnostics.push(
                    Diagnostic::error(
                        codes::RECOMPUTE_SELECTS_NOTHING,
                        format!("`{}` selects nothing of the model", selector.text()),
                    )
                    .at(selector.span(), "matches nothing")
                    .help(help),
                );
            }
        }
    }
    policies
}

/// What must hold of a training graph under a policy: where r-wide values before σ are kept, no down-projection runs
/// twice.
///
/// # Errors
/// The path of one that does.
pub fn check(graph: &Graph, recompute: &Recompute) -> Result<(), String> {
    let keeps = |policy| matches!(policy, RecomputePolicy::ColaM | RecomputePolicy::ColaMPlus);
    let all = recompute.overrides.iter().map(|one| one.policy.value);
    if !all.chain([recompute.policy.value]).all(keeps) {
        return Ok(());
    }
    let again = graph.nodes().find(|node| {
        matches!(node.phase, Phase::Recompute(_))
            && blocks::weight_role(graph, node.id) == Some(Role::LowRankDown)
    });
    again.map_or(Ok(()), |node| Err(node.origin.path.clone()))
}
