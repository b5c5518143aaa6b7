//! A topological order that is kept up to date while nodes are joined.
//!
//! Joining `first` into `second` puts the result where `second` stood, so whatever reads `first` has to come behind it.
//! That is possible unless `second` itself depends on such a reader. Both are found in the stretch between the two.

use crate::graph::{Graph, NodeId};

/// Every node of a graph, each behind what it depends on.
#[derive(Clone, Debug)]
pub(super) struct Order {
    sequence: Vec<NodeId>,
    /// By node: where it stands.
    position: Vec<usize>,
}

impl Order {
    pub(super) fn new(graph: &Graph) -> Order {
        let sequence = graph.order();
        let mut position = vec![usize::MAX; graph.id_bound()];
        for (at, id) in sequence.iter().enumerate() {
            position[id.0 as usize] = at;
        }
        Order { sequence, position }
    }

    /// The nodes that are still there, in order.
    pub(super) fn nodes(&self, graph: &Graph) -> Vec<NodeId> {
        self.sequence.iter().copied().filter(|&id| graph.contains(id)).collect()
    }

    /// Whether one node stands before another.
    pub(super) fn before(&self, one: NodeId, other: NodeId) -> bool {
        self.position[one.0 as usize] < self.position[other.0 as usize]
    }

    /// Nodes between the two that depend on `first`, in order; `None` if `second` depends on one of them, so that the
    /// two cannot be one.
    fn delayed(&self, graph: &Graph, first: NodeId, second: NodeId) -> Option<Vec<NodeId>> {
        let between = self.position[first.0 as usize] + 1..self.position[second.0 as usize];
        let mut delayed: Vec<NodeId> = Vec::new();
        let waits = |id: NodeId, delayed: &[NodeId]| {
            let operands = graph.operands(id).into_iter().map(|v| v.node);
            operands.chain(graph.controls(id)).any(|n| delayed.contains(&n))
        };
        for &id in self.sequence[between].iter().filter(|&&id| graph.contains(id)) {
            let reads = graph.operands(id).iter().any(|v| v.node == first);
            if reads || graph.controls(id).contains(&first) || waits(id, &delayed) {
                delayed.push(id);
            }
        }
        (!waits(second, &delayed)).then_some(delayed)
    }

    /// Whether `first`, which stands before `second`, may become a part of it.
    pub(super) fn joins(&self, graph: &Graph, first: NodeId, second: NodeId) -> bool {
        self.delayed(graph, first, second).is_some()
    }

    /// Moves behind `second` what depends on `first`, which is about to become a part of `second`.
    ///
    /// Assumes that [`Order::joins`] holds.
    pub(super) fn join(&mut self, graph: &Graph, first: NodeId, second: NodeId) {
        let delayed = self.delayed(graph, first, second).expect("the two may be joined");
        let (from, to) = (self.position[first.0 as usize], self.position[second.0 as usize]);
        let stretch = self.sequence[from..=to].to_vec();
        let early = stretch.into_iter().filter(|id| *id != second && !delayed.contains(id));
        let stretch: Vec<NodeId> = early.chain([second]).chain(delayed.iter().copied()).collect();
        for (at, id) in (from..).zip(stretch) {
            self.sequence[at] = id;
            self.position[id.0 as usize] = at;
        }
    }
}
