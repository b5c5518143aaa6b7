//! Where forward values stand: the blocks of a model, what crosses between them, and the narrow points inside.
//!
//! A block is one turn of a `repeat`, the innermost around a node. Blocks are what recompute regions are made of, because
//! a block's backward pass is over before that of the block before it begins.
//!
//! Owns these facts about a graph. Must not know policies.

use std::collections::BTreeSet;

use colac_plan::Op;
use colac_plan::parameter::Role;
use colac_plan::program::Phase;

use crate::graph::{Graph, NodeId, NodeKind, ScopeId, Value};

/// The blocks of a graph and what is known of its forward values.
#[derive(Clone, Debug)]
pub struct Blocks {
    /// By node: the block it stands in.
    of: Vec<Option<u32>>,
    /// The scope of each block, in the order in which the model runs through them.
    scopes: Vec<ScopeId>,
    /// Forward operations in order.
    forward: Vec<NodeId>,
    /// Root values that another block, or a node outside of all blocks, reads.
    crossing: BTreeSet<Value>,
    /// Root values of blocks through which everything goes that a block computes from what it is given.
    cuts: BTreeSet<Value>,
    /// Results of the loss: the gradient that it makes on the spot among them.
    made_by_loss: BTreeSet<Value>,
}

impl Blocks {
    /// Looks at the forward part of a training graph.
    pub fn of(graph: &Graph) -> Blocks {
        let mut blocks = Blocks {
            of: vec![None; graph.id_bound()],
            scopes: Vec::new(),
            forward: Vec::new(),
            crossing: BTreeSet::new(),
            cuts: BTreeSet::new(),
            made_by_loss: BTreeSet::new(),
        };
        for id in graph.order() {
            let node = graph.node(id);
            if let Some(scope) = node.scope {
                let known = blocks.scopes.iter().rposition(|&other| other == scope);
                let block = known.unwrap_or_else(|| {
                    blocks.scopes.push(scope);
                    blocks.scopes.len() - 1
                });
                blocks.of[id.0 as usize] = Some(block as u32);
            }
            if node.phase == Phase::Forward && matches!(node.kind, NodeKind::Op(_)) {
                blocks.forward.push(id);
            }
            if let NodeKind::Op(Op::HeadLoss { .. } | Op::HeadLossWithGradient { .. }) = node.kind {
                let results = 0..node.results.len() as u16;
                blocks.made_by_loss.extend(results.map(|result| Value { node: id, result }));
            }
        }
        for &id in &blocks.forward {
            for operand in graph.operands(id) {
                let value = graph.root(operand);
                if blocks.block(value.node) != blocks.block(id) {
                    blocks.crossing.insert(value);
                }
            }
        }
        for block in 0..blocks.scopes.len() as u32 {
            blocks.find_cuts(graph, block);
        }
        blocks
    }

    /// Number of blocks.
    pub fn len(&self) -> usize {
        self.scopes.len()
    }

    /// Whether the model repeats nothing.
    pub fn is_empty(&self) -> bool {
        self.scopes.is_empty()
    }

    /// The block that a node stands in.
    pub fn block(&self, node: NodeId) -> Option<u32> {
        self.of.get(node.0 as usize).copied().flatten()
    }

    /// The scope of a block.
    pub fn scope(&self, block: u32) -> ScopeId {
        self.scopes[block as usize]
    }

    /// Forward operations in order.
    pub fn forward(&self) -> &[NodeId] {
        &self.forward
    }

    /// Whether a root value is read outside of the block that makes it.
    pub fn crosses(&self, value: Value) -> bool {
        self.crossing.contains(&value)
    }

    /// Whether all that a block makes of its input goes through this root value.
    pub fn is_cut(&self, value: Value) -> bool {
        self.cuts.contains(&value)
    }

    /// Whether a value lives until the backward pass whatever anybody decides: made outside of all blocks, or by the
    /// loss.
    pub fn is_fixed(&self, value: Value) -> bool {
        self.block(value.node).is_none() || self.made_by_loss.contains(&value)
    }

    /// Whether a value comes from the loss, e.g. the gradient that it makes on the spot.
    pub(super) fn is_made_by_loss(&self, value: Value) -> bool {
        self.made_by_loss.contains(&value)
    }

    /// A node is a cut if no edge of the block's dataflow leads past it. In an order of the nodes that lie between the
    /// block's input and its output, that is so where no edge from before it ends behind it.
    fn find_cuts(&mut self, graph: &Graph, block: u32) {
        let gives: BTreeSet<NodeId> = self.crossing.iter().map(|value| value.node).collect();
        let is_given = |value: Value| {
            matches!(graph.node(value.node).kind, NodeKind::Op(_))
                && self.block(value.node) != Some(block)
        };
        let roots = |id: NodeId| graph.operands(id).into_iter().map(|v| graph.root(v));
        // What depends on the block's input, and of that what its output depends on.
        let mut reached = BTreeSet::new();
        let mut between: Vec<NodeId> = Vec::new();
        for &id in self.forward.iter().filter(|&&id| self.block(id) == Some(block)) {
            if roots(id).any(|value| is_given(value) || reached.contains(&value.node)) {
                reached.insert(id);
                between.push(id);
            }
        }
        let mut needed = BTreeSet::new();
        for &id in between.iter().rev() {
            if gives.contains(&id) || needed.contains(&id) {
                needed.insert(id);
                needed.extend(roots(id).map(|value| value.node));
            }
        }
        between.retain(|id| needed.contains(id));
        let position = |node: NodeId| between.iter().position(|&id| id == node);
        // The farthest place to which an edge leads, from the input and from each node; an output leads to the end.
        let end = between.len();
        let (mut from_input, mut from) = (0, vec![0; end]);
        for (i, &id) in between.iter().enumerate() {
            for value in roots(id) {
                match position(value.node) {
                    Some(source) => from[source] = i.max(from[source]),
                    None if is_given(value) => from_input = i,
                    None => {}
                }
            }
            if gives.contains(&id) {
                from[i] = end;
            }
        }
        let mut farthest = from_input;
        for (i, &id) in between.iter().enumerate() {
            if farthest <= i {
                self.cuts.insert(Value::of(id));
            }
            farthest = farthest.max(from[i]);
        }
    }
}

/// Whether an operation computes a product or attention: what is dear to run again. All others cost about the bytes that
/// they move.
pub(super) fn is_heavy(graph: &Graph, node: NodeId) -> bool {
    let NodeKind::Op(op) = &graph.node(node).kind else { return false };
    matches!(
        op,
        Op::Linear | Op::Attention { .. } | Op::HeadLoss { .. } | Op::HeadLossWithGradient { .. }
    )
}

/// The role of a linear's weight; of a stack, if its members have the same.
pub(super) fn weight_role(graph: &Graph, node: NodeId) -> Option<Role> {
    if !matches!(graph.node(node).kind, NodeKind::Op(Op::Linear)) {
        return None;
    }
    let NodeKind::Parameter(weight) = graph.node(graph.operands(node)[1].node).kind else {
        return None;
    };
    let mut roles = graph.members(weight).into_iter().map(|id| graph.parameter_info(id).role);
    let first = roles.next()?;
    roles.all(|role| role == first).then_some(first)
}
