//! Totals of boxes.
//!
//! Owns what counts: what a box holds itself and what the boxes in it hold. Must not know folding: totals are made
//! before, and a fold adds those of its turns.

use std::ops::AddAssign;

use colac_plan::ProgramKind;

use super::model::{Node, NodeKind, Stage, Total};

/// Fills the totals of a stage in which nothing is folded.
pub(super) fn fill(stage: &mut Stage) {
    let mut totals = vec![Total::default(); stage.boxes.len()];
    for node in &stage.nodes {
        totals[node.parent] += of(node);
    }
    for value in stage.values.iter().filter(|value| value.kept) {
        totals[stage.nodes[value.node].parent].kept += value.bytes;
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

/// What a node adds. Evaluation is no training, and its programs repeat the forward pass.
fn of(node: &Node) -> Total {
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
