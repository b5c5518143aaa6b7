//! The derivative of attention turns the gradients of rotated queries and keys back itself.
//!
//! ```text
//! before   %5 = attention_backward %4, %2, %3, %1, %0.0, %0.1     after   %5 = attention_backward %4, %2, %3, %1, %0.0, %0.1, @cos, @sin turned_back=dq,dk
//!          %6 = rope %5.0, @cos, @sin inverse
//!          %7 = rope %5.1, @cos, @sin inverse
//! ```
//!
//! The gradients are not written and read again before they are turned. Nothing else may read them, both tables are the
//! model's, and what is turned by other tables or in other pairs than what has joined already stays apart.

use colac_plan::Op;
use colac_plan::op::TurnedBack;

use crate::graph::{NodeId, NodeKind, Value};
use crate::passes::fuse::Fusion;

/// Operands of the derivative before the tables.
const TABLES: usize = 6;

/// The derivative with a rotation behind one of its results.
struct Turned {
    attention: NodeId,
    op: Op,
    operands: Vec<Value>,
    /// The result that is turned.
    result: u16,
}

/// What the derivative of attention before a rotation becomes with it, if the two may be one.
fn turned(fusion: &Fusion, rope: NodeId) -> Option<Turned> {
    let graph = &fusion.graph;
    let node = graph.node(rope);
    let NodeKind::Op(Op::Rope { inverse: true, interleaved }) = node.kind else { return None };
    let [gradient, cos, sin] = graph.operands(rope)[..] else { return None };
    let attention = gradient.node;
    let source = graph.node(attention);
    let NodeKind::Op(Op::AttentionBackward { scores, turned_back }) = source.kind else {
        return None;
    };
    let of_the_model = |table: Value| {
        matches!(graph.node(table.node).kind, NodeKind::Constant(_))
            && fusion.order.before(table.node, attention)
    };
    // The rotation happens where the derivative stands: nothing may have to come between.
    let alone = graph.controls(rope).is_empty() && source.phase == node.phase;
    let alone = alone && !fusion.read_elsewhere(attention, rope).contains(&gradient.result);
    let same_format = graph.ty(gradient).dtype == graph.ty(Value::of(rope)).dtype;
    if !alone || !same_format || !of_the_model(cos) || !of_the_model(sin) {
        return None;
    }
    let mut operands = graph.operands(attention);
    let mut all = match turned_back {
        Some(others) if others.interleaved == interleaved => others,
        Some(_) => return None,
        None => TurnedBack { queries: false, keys: false, interleaved },
    };
    match operands.get(TABLES..) {
        Some(tables) if tables == [cos, sin] => {}
        Some([]) => operands.extend([cos, sin]),
        _ => return None,
    }
    match gradient.result {
        0 if !all.queries => all.queries = true,
        1 if !all.keys => all.keys = true,
        _ => return None,
    }
    let op = Op::AttentionBackward { scores, turned_back: Some(all) };
    Some(Turned { attention, op, operands, result: gradient.result })
}

/// The derivative of attention whose gradient only this rotation reads.
pub(super) fn partners(fusion: &Fusion, rope: NodeId) -> Vec<NodeId> {
    turned(fusion, rope).map(|turned| turned.attention).into_iter().collect()
}

/// Makes the derivative `attention` do what the rotation does.
pub(super) fn join(fusion: &mut Fusion, rope: NodeId, attention: NodeId) -> bool {
    let Some(Turned { op, operands, result, .. }) = turned(fusion, rope) else { return false };
    let formats: Vec<_> = fusion.graph.node(attention).results.iter().map(|ty| ty.dtype).collect();
    fusion.rewrite(attention, op, &operands, &formats);
    fusion.graph.replace(Value::of(rope), Value { node: attention, result });
    fusion.graph.move_controls(rope, attention);
    fusion.graph.remove(rope);
    true
}
