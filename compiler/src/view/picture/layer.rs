//! One turn of a repeat alone.
//!
//! Owns what is left of a stage when only one turn is looked at: the turn, and in place of what it reads from elsewhere a
//! node without work that bears its name. Must not know folding: it comes before.

use std::collections::BTreeMap;

use super::model::{BoxKind, Node, NodeKind, Stage, Use, Value};
use super::totals;

/// Of every outermost repeat the turn of this number; none where no repeat has one. Totals are those of the turn.
pub(super) fn only(stage: &Stage, number: u64) -> Option<Stage> {
    let mut inside = vec![false; stage.boxes.len()];
    for (index, one) in stage.boxes.iter().enumerate() {
        let outermost = one.kind == BoxKind::Turn && is_outermost(stage, index);
        let around = one.parent.is_some_and(|parent| inside[parent]);
        inside[index] = around || (outermost && one.first == Some(number));
    }
    if !inside.contains(&true) {
        return None;
    }
    let mut index_of_box = vec![0; stage.boxes.len()];
    let mut boxes = vec![stage.boxes[0].clone()];
    for (index, one) in stage.boxes.iter().enumerate().filter(|(index, _)| inside[*index]) {
        let mut one = one.clone();
        // What is around the turn is left out, down to the model.
        one.parent = one.parent.map(|parent| index_of_box[parent]);
        index_of_box[index] = boxes.len();
        boxes.push(one);
    }
    let mut left = Stage { boxes, nodes: Vec::new(), values: Vec::new(), ..*stage };
    let mut index_of_value: BTreeMap<usize, usize> = BTreeMap::new();
    for node in stage.nodes.iter().filter(|node| inside[node.parent]) {
        let mut show = |left: &mut Stage, value: usize, node: usize| {
            *index_of_value.entry(value).or_insert_with(|| {
                let shown = stage.values[value].clone();
                // What is kept elsewhere is not kept by this turn.
                let kept = shown.kept && inside[stage.nodes[shown.node].parent];
                left.values.push(Value { node, kept, ..shown });
                left.values.len() - 1
            })
        };
        let mut operands = Vec::with_capacity(node.operands.len());
        for operand in &node.operands {
            let maker = &stage.nodes[stage.values[operand.value].node];
            let (before, at) = (left.values.len(), left.nodes.len());
            let value = show(&mut left, operand.value, at);
            // Whatever stands inside and is read later, or stands outside, is not there yet.
            if left.values.len() > before && !inside[maker.parent] {
                left.nodes.push(stub(maker, value));
            }
            operands.push(Use::plain(value));
        }
        let at = left.nodes.len();
        let results = node.results.iter().map(|&value| show(&mut left, value, at)).collect();
        left.nodes.push(Node {
            parent: index_of_box[node.parent],
            operands,
            results,
            ..node.clone()
        });
    }
    totals::fill(&mut left);
    Some(left)
}

/// Whether no turn is around a box.
pub(super) fn is_outermost(stage: &Stage, index: usize) -> bool {
    let mut around = stage.boxes[index].parent;
    while let Some(outer) = around {
        if stage.boxes[outer].kind == BoxKind::Turn {
            return false;
        }
        around = stage.boxes[outer].parent;
    }
    true
}

/// A node in place of one that stands elsewhere: without work, beside the turn.
fn stub(maker: &Node, value: usize) -> Node {
    let kind = match maker.kind {
        NodeKind::Parameter | NodeKind::Constant => maker.kind,
        _ => NodeKind::Input,
    };
    let label = if maker.path.is_empty() { maker.op.to_owned() } else { maker.path.clone() };
    Node {
        parent: 0,
        op: maker.op,
        label,
        kind,
        operands: Vec::new(),
        results: vec![value],
        flops: 0,
        forward_flops: None,
        bytes: 0,
        parameters: 0,
        workspace: 0,
        ..maker.clone()
    }
}
