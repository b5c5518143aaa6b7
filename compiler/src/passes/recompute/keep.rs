//! Which forward values may live until the backward pass, policy by policy.
//!
//! Owns the policies. Must not know how the others are made again.

use std::collections::{BTreeMap, BTreeSet};

use colac_plan::parameter::Role;
use colac_plan::program::Phase;

use crate::graph::{Graph, NodeId, NodeKind, Value};
use crate::passes::recompute::blocks::{Blocks, is_heavy, weight_role};
use crate::spec::RecomputePolicy;

/// What lives, and what regions make again.
#[derive(Clone, Debug, Default)]
pub struct Keep {
    /// Root values that live from the forward to the backward pass if anything there needs them.
    pub(super) lives: BTreeSet<Value>,
    /// Values that several blocks' backward passes share once they are made again, with the number of the segment.
    pub(super) segment: BTreeMap<Value, u32>,
    /// For the published placement: the stage of each forward node, by node.
    pub(super) stages: BTreeMap<NodeId, u32>,
    /// Values that live and are made again nevertheless by the stage that made them.
    pub(super) again: BTreeSet<Value>,
}

/// How a policy applies to a graph.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings<'a> {
    /// By node: its policy.
    pub(super) policies: &'a [RecomputePolicy],
    /// Blocks in a segment.
    pub(super) segment: u32,
}

impl Keep {
    /// What the policies keep.
    pub(super) fn of(graph: &Graph, blocks: &Blocks, settings: Settings<'_>) -> Keep {
        let mut keep = Keep::default();
        let needed = needed(graph, blocks);
        for &id in blocks.forward() {
            for result in 0..graph.node(id).results.len() as u16 {
                let value = Value { node: id, result };
                if blocks.is_fixed(value) {
                    keep.lives.insert(value);
                    continue;
                }
                let policy = settings.policies[id.0 as usize];
                keep.decide(graph, blocks, &needed, settings.segment, policy, value);
            }
        }
        keep
    }

    fn decide(
        &mut self,
        graph: &Graph,
        blocks: &Blocks,
        needed: &BTreeSet<Value>,
        segment: u32,
        policy: RecomputePolicy,
        value: Value,
    ) {
        let crosses = blocks.crosses(value);
        let stream = crosses || self.is_stream(graph, blocks, value);
        let own_segment = segment_of(blocks, segment, value);
        let leaves = crosses && leaves_segment(graph, blocks, segment, value);
        let lives = match policy {
            RecomputePolicy::None => true,
            RecomputePolicy::Block => {
                // Several blocks are run again as one, or each would begin with those before it.
                if !leaves && segment > 1 {
                    self.segment.insert(value, own_segment);
                }
                leaves
            }
            RecomputePolicy::ColaM => stream || is_low_rank(graph, value),
            RecomputePolicy::ColaMPlus => {
                if stream && !leaves {
                    self.segment.insert(value, own_segment);
                }
                leaves || is_low_rank(graph, value)
            }
            RecomputePolicy::ColaMReference => {
                self.stages.insert(value.node, self.stage_after(graph, value.node));
                if stream {
                    self.again.insert(value);
                }
                stream || is_activated_low_rank(graph, value)
            }
            RecomputePolicy::Selective => crosses || self.pays(graph, blocks, needed, value),
        };
        if lives {
            self.lives.insert(value);
        }
    }

    /// The published code cuts blocks at the values behind σ: a node's stage is the number of such cuts before it.
    fn stage_after(&self, graph: &Graph, node: NodeId) -> u32 {
        let stages = graph.operands(node).into_iter().map(|operand| {
            let value = graph.root(operand);
            let before = self.stages.get(&value.node).copied().unwrap_or(0);
            before + u32::from(is_activated_low_rank(graph, value))
        });
        stages.max().unwrap_or(0)
    }

    /// A narrow point of its block that cannot be had from what lives without a product: the residual stream.
    fn is_stream(&self, graph: &Graph, blocks: &Blocks, value: Value) -> bool {
        blocks.is_cut(value)
            && !is_low_rank(graph, value)
            && (is_heavy(graph, value.node)
                || self
                    .sources(graph, value)
                    .iter()
                    .any(|&source| is_heavy(graph, source.node) && !self.lives.contains(&source)))
    }

    /// Whether keeping a value is better than making it again from products that live: products always, others where
    /// the products that they come from would have to be kept for them alone and are no smaller.
    fn pays(
        &mut self,
        graph: &Graph,
        blocks: &Blocks,
        needed: &BTreeSet<Value>,
        value: Value,
    ) -> bool {
        if is_heavy(graph, value.node) {
            return true;
        }
        if !needed.contains(&value) {
            return false;
        }
        let sources = self.sources(graph, value);
        let extra: u64 = sources
            .iter()
            .filter(|source| !needed.contains(source) && !blocks.crosses(**source))
            .map(|source| graph.ty(*source).bytes())
            .sum();
        extra >= graph.ty(value).bytes()
    }

    /// What a value is made of, back to what lives and to products.
    fn sources(&self, graph: &Graph, value: Value) -> BTreeSet<Value> {
        let mut sources = BTreeSet::new();
        let mut open = vec![value];
        let mut seen = BTreeSet::new();
        while let Some(value) = open.pop() {
            for operand in graph.operands(value.node) {
                let operand = graph.root(operand);
                if !matches!(graph.node(operand.node).kind, NodeKind::Op(_))
                    || !seen.insert(operand)
                {
                    continue;
                }
                if self.lives.contains(&operand) || is_heavy(graph, operand.node) {
                    sources.insert(operand);
                } else {
                    open.push(operand);
                }
            }
        }
        sources
    }
}

/// Forward values that some backward node reads.
pub(super) fn needed(graph: &Graph, blocks: &Blocks) -> BTreeSet<Value> {
    let forward: BTreeSet<NodeId> = blocks.forward().iter().copied().collect();
    let mut needed = BTreeSet::new();
    for node in graph.nodes().filter(|node| !forward.contains(&node.id)) {
        if matches!(node.kind, NodeKind::Op(_)) {
            let roots = graph.operands(node.id).into_iter().map(|v| graph.root(v));
            needed.extend(roots.filter(|value| forward.contains(&value.node)));
        }
    }
    needed
}

/// A value before σ: what a down-projection gives.
fn is_low_rank(graph: &Graph, value: Value) -> bool {
    weight_role(graph, value.node) == Some(Role::LowRankDown)
}

/// A value behind σ: what an up-projection reads.
fn is_activated_low_rank(graph: &Graph, value: Value) -> bool {
    readers(graph, value).into_iter().any(|(reader, position)| {
        position == 0 && weight_role(graph, reader) == Some(Role::LowRankUp)
    })
}

/// Who reads a root value, through views too.
fn readers(graph: &Graph, value: Value) -> Vec<(NodeId, usize)> {
    let mut readers = Vec::new();
    for (reader, position) in graph.uses(value) {
        match graph.node(reader).kind {
            NodeKind::View(_) => readers.extend(self::readers(graph, Value::of(reader))),
            _ => readers.push((reader, position)),
        }
    }
    readers
}

/// The segment of the block that makes a value.
fn segment_of(blocks: &Blocks, segment: u32, value: Value) -> u32 {
    blocks.block(value.node).unwrap_or(0) / segment.max(1)
}

/// Whether a value that crosses blocks is read outside of its segment.
fn leaves_segment(graph: &Graph, blocks: &Blocks, segment: u32, value: Value) -> bool {
    let own = segment_of(blocks, segment, value);
    readers(graph, value).into_iter().any(|(reader, _)| {
        graph.node(reader).phase == Phase::Forward
            && blocks.block(reader).is_none_or(|block| block / segment.max(1) != own)
    })
}
