//! Totals of boxes.
//!
//! Owns what counts: what a box holds itself and what the boxes in it hold. Must not know folding: totals are made
//! before, and a fold adds those of its turns.

use std::ops::{AddAssign, Mul};

use colac_plan::ProgramKind;

use super::model::{Node, NodeKind, Stage, Total};

/// Fills the totals of a stage in which nothing is folded.
pub(super) fn fill(stage: &mut Stage) {
    let mut totals = vec![Total::default(); stage.boxes.len()];
    for (index, node) in stage.nodes.iter().enumerate() {
        totals[node.parent] += stage.total_of(index);
    }
    // A box comes after the one around it.
    for index in (1..stage.boxes.len()).rev() {
        let inner = totals[index];
        totals[stage.boxes[index].parent.expect("only the model has none")] += inner;
    }
    for (one, total) in stage.boxes.iter_mut().zip(totals) {
        one.total = total;
    }
}

impl Stage {
    /// What one instance of a node adds to the boxes that it stands in.
    pub fn total_of(&self, index: usize) -> Total {
        let node = &self.nodes[index];
        let own = |value: &&usize| self.values[**value].node == index && self.values[**value].kept;
        let kept = node.results.iter().filter(own).map(|&value| self.values[value].bytes).sum();
        Total { kept, ..work(node) }
    }
}

/// What a node adds beside what it keeps. Evaluation is no training, and its programs repeat the forward pass.
fn work(node: &Node) -> Total {
    let evaluates = [ProgramKind::Evaluate, ProgramKind::Logits].map(ProgramKind::name);
    let mut total = Total { parameters: node.parameters, ..Total::default() };
    if node.program.is_some_and(|program| evaluates.contains(&program)) {
        return total;
    }
    let forward =
        node.forward_flops.unwrap_or(if node.phase == "forward" { node.flops } else { 0 });
    match node.phase {
        "recompute" => total.recompute = node.flops,
        _ => (total.forward, total.backward) = (forward, node.flops - forward),
    }
    total.bytes = node.bytes;
    let does = !matches!(
        node.kind,
        NodeKind::Input | NodeKind::Parameter | NodeKind::Constant | NodeKind::View
    );
    // State has neither operands nor work of its own.
    total.operations = u64::from(does && !(node.operands.is_empty() && node.bytes == 0));
    total
}

impl Mul<u64> for Total {
    type Output = Total;

    fn mul(self, times: u64) -> Total {
        let Total { parameters, forward, backward, recompute, bytes, kept, operations } = self;
        Total {
            parameters: parameters * times,
            forward: forward * times,
            backward: backward * times,
            recompute: recompute * times,
            bytes: bytes * times,
            kept: kept * times,
            operations: operations * times,
        }
    }
}

impl AddAssign for Total {
    fn add_assign(&mut self, other: Total) {
        let Total { parameters, forward, backward, recompute, bytes, kept, operations } = other;
        self.parameters += parameters;
        self.forward += forward;
        self.backward += backward;
        self.recompute += recompute;
        self.bytes += bytes;
        self.kept += kept;
        self.operations += operations;
    }
}
