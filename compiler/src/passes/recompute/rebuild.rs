//! Makes forward values again where the backward pass needs them.
//!
//! Owns cloning, sharing and the control edges that hold clones back. Must not know why a value does not live.

use std::collections::BTreeMap;

use colac_plan::program::Phase;

use crate::graph::{Graph, NodeId, NodeKind, Value};
use crate::passes::recompute::PASS;
use crate::passes::recompute::blocks::Blocks;
use crate::passes::recompute::keep::Keep;

/// What shares clones: a block, the blocks of a segment, or a stage of the published placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Region {
    Block(u32),
    Segment(u32),
    Stage(u32),
}

/// Gives the backward pass clones of everything that does not live; returns how many regions they make up.
pub(super) fn run(graph: &mut Graph, blocks: &Blocks, keep: &Keep) -> u32 {
    let order = graph.order();
    let mut rebuild =
        Rebuild { graph, blocks, keep, regions: BTreeMap::new(), clones: BTreeMap::new() };
    for reader in order {
        rebuild.reader(reader);
    }
    rebuild.regions.len() as u32
}

struct Rebuild<'a> {
    graph: &'a mut Graph,
    blocks: &'a Blocks,
    keep: &'a Keep,
    /// The number of each region, and the gradient before which none of its clones runs.
    regions: BTreeMap<Region, (u32, Option<NodeId>)>,
    clones: BTreeMap<(Region, NodeId), NodeId>,
}

impl Rebuild<'_> {
    /// Lets a node of the backward pass read clones.
    fn reader(&mut self, reader: NodeId) {
        let node = self.graph.node(reader);
        if node.phase != Phase::Backward || !matches!(node.kind, NodeKind::Op(_)) {
            return;
        }
        let operands = self.graph.operands(reader);
        let gradient = operands.iter().find_map(|&operand| self.gradient(operand));
        for (position, &operand) in operands.iter().enumerate() {
            let new = self.resolve(operand, None, gradient);
            if new != operand {
                self.graph.set_operand(reader, position, new);
            }
        }
    }

    /// The node that makes a value, if that is a gradient.
    fn gradient(&self, value: Value) -> Option<NodeId> {
        let mut node = value.node;
        while matches!(self.graph.node(node).kind, NodeKind::View(_)) {
            node = self.graph.operands(node)[0].node;
        }
        let is_gradient = self.graph.node(node).phase == Phase::Backward
            || self.blocks.is_made_by_loss(Value { node, ..value });
        is_gradient.then_some(node)
    }

    /// What to read in place of a value: itself where it lives, else its clone. `region` is the reader's, if that is a
    /// clone.
    fn resolve(&mut self, value: Value, region: Option<Region>, gradient: Option<NodeId>) -> Value {
        let node = self.graph.node(value.node);
        match node.kind {
            NodeKind::Op(_) if node.phase == Phase::Forward => {
                let Some(own) = self.region(value, region) else { return value };
                Value { node: self.clone_of(value.node, own, gradient), ..value }
            }
            NodeKind::View(_) if node.phase == Phase::Forward => {
                let operands = self.graph.operands(value.node);
                let new: Vec<Value> =
                    operands.iter().map(|&v| self.resolve(v, region, gradient)).collect();
                let phase = new.iter().map(|v| self.graph.node(v.node).phase);
                let Some(Phase::Recompute(number)) =
                    phase.into_iter().find(|phase| matches!(phase, Phase::Recompute(_)))
                else {
                    return value;
                };
                let own = self.regions.iter().find(|(_, (n, _))| *n == number).map(|(r, _)| *r);
                let own = own.expect("a clone belongs to a region");
                let known = self.clones.get(&(own, value.node)).copied();
                let clone = known.unwrap_or_else(|| {
                    let phase = Phase::Recompute(number);
                    self.graph.repeat_node(value.node, &new, phase, PASS)
                });
                self.clones.insert((own, value.node), clone);
                Value { node: clone, ..value }
            }
            _ => value,
        }
    }

    /// The region in which a value is made again for a reader; none where the reader takes the value that lives.
    fn region(&self, value: Value, reader: Option<Region>) -> Option<Region> {
        let stage = self.keep.stages.get(&value.node).map(|&stage| Region::Stage(stage));
        if self.keep.lives.contains(&value) {
            let again = self.keep.again.contains(&value)
                && reader.is_none_or(|reader| Some(reader) == stage);
            return if again { stage } else { None };
        }
        let segment = self.keep.segment.get(&value).map(|&segment| Region::Segment(segment));
        let within = reader.filter(|region| matches!(region, Region::Segment(_)));
        segment.or(within).or(stage).or_else(|| self.blocks.block(value.node).map(Region::Block))
    }

    fn clone_of(&mut self, node: NodeId, region: Region, gradient: Option<NodeId>) -> NodeId {
        if let Some(&clone) = self.clones.get(&(region, node)) {
            return clone;
        }
        let next = self.regions.len() as u32;
        let (number, gradient) = *self.regions.entry(region).or_insert((next, gradient));
        let phase = Phase::Recompute(number);
        let mut operands = self.graph.operands(node);
        for operand in &mut operands {
            *operand = self.resolve(*operand, Some(region), gradient);
        }
        let clone = self.graph.repeat_node(node, &operands, phase, PASS);
        // What reads a clone of the region comes after what holds that clone back.
        let held = operands.iter().any(|operand| self.graph.node(operand.node).phase == phase);
        if let Some(gradient) = gradient.filter(|_| !held) {
            self.graph.add_control(gradient, clone);
        }
        self.clones.insert((region, node), clone);
        clone
    }
}
