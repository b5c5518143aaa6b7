//! Rewrites that keep a node's identity: one node becomes another operation, and takes over what ordered another node.
//!
//! A node that keeps its id keeps its place in [`Graph::order`], so that a pass which joins nodes does not move them.

use colac_plan::op::TypeError;
use colac_plan::program::Phase;
use colac_plan::{DType, Op, TensorType};
use petgraph::Direction;
use petgraph::visit::EdgeRef;

use crate::graph::{Edge, Graph, NodeId, NodeKind, Value};

impl Graph {
    /// Makes a node another operation over other operands. Results keep their numbers: readers of result `i` read
    /// result `i` of the new operation, so what is new must come behind. `formats` are the storage formats of all results.
    ///
    /// # Errors
    /// The shape rule's; the node is then as it was.
    pub fn rewrite(
        &mut self,
        id: NodeId,
        op: Op,
        operands: &[Value],
        formats: &[DType],
        pass: &'static str,
    ) -> Result<(), TypeError> {
        let types: Vec<&TensorType> = operands.iter().map(|&v| self.ty(v)).collect();
        let results = op.infer(&types)?;
        debug_assert_eq!(results.len(), formats.len(), "one format for each result");
        let position = self.position(id);
        let old: Vec<_> = self
            .inner
            .edges_directed(position, Direction::Incoming)
            .filter(|edge| matches!(edge.weight(), Edge::Operand { .. }))
            .map(|edge| edge.id())
            .collect();
        for edge in old {
            self.inner.remove_edge(edge);
        }
        for (i, operand) in operands.iter().enumerate() {
            let edge = Edge::Operand { position: i as u16, result: operand.result };
            self.inner.add_edge(self.position(operand.node), position, edge);
        }
        let node = &mut self.inner[position];
        node.kind = NodeKind::Op(op);
        node.results = results;
        node.origin.pass = pass;
        self.set_storage(id, formats);
        Ok(())
    }

    /// Orders after `to` what was ordered after `from`, and `to` after what `from` was ordered after.
    pub fn move_controls(&mut self, from: NodeId, to: NodeId) {
        let (old, new) = (self.position(from), self.position(to));
        for direction in [Direction::Incoming, Direction::Outgoing] {
            let edges: Vec<_> = self
                .inner
                .edges_directed(old, direction)
                .filter(|edge| *edge.weight() == Edge::Control)
                .map(|edge| (edge.id(), edge.source(), edge.target()))
                .collect();
            for (edge, source, target) in edges {
                self.inner.remove_edge(edge);
                let (source, target) = match direction {
                    Direction::Incoming => (source, new),
                    Direction::Outgoing => (new, target),
                };
                // Two nodes that become one need no order between them.
                if source != target {
                    self.inner.add_edge(source, target, Edge::Control);
                }
            }
        }
    }

    /// Moves a node to another part of the computation.
    pub fn set_phase(&mut self, id: NodeId, phase: Phase) {
        let position = self.position(id);
        self.inner[position].phase = phase;
    }

    /// Whether some node must come after this one though it reads none of its results.
    pub fn holds_back(&self, id: NodeId) -> bool {
        let mut edges = self.inner.edges_directed(self.position(id), Direction::Outgoing);
        edges.any(|edge| *edge.weight() == Edge::Control)
    }
}
