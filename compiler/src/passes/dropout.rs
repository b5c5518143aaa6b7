//! Takes dropout out of what is not training.
//!
//! ```text
//! before   %1 = linear %0, @w      %2 = dropout p=0.1 %1, %draw      %3 = linear %2, @v
//! after    %1 = linear %0, @w                                        %3 = linear %1, @v
//! ```
//!
//! Elements that survive a dropout are divided by the share of those that do, so without it the expected value is the
//! same and nothing needs to be scaled. Guarantees: no dropout is left, and nothing reads the draw.

use colac_plan::Op;

use crate::graph::{Graph, NodeKind, Value};

/// Makes every reader of a dropout read what goes into it.
pub fn remove(graph: &mut Graph) {
    for id in graph.order() {
        if let NodeKind::Op(Op::Dropout { .. }) = graph.node(id).kind {
            let operand = graph.operands(id)[0];
            graph.replace(Value::of(id), operand);
            graph.remove(id);
        }
    }
}
