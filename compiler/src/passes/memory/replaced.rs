//! Joins on the bytes of a value whose columns their parts replace, one by one.
//!
//! ```text
//! %1 = linear %0, @{gate,up}            %2 = view.columns %1 start=0      %3 = view.columns %1 start=f
//! %7 = pointwise %2, %6 { … }           %8 = pointwise %3, %5 { … }       %9 = view.join %7, %8
//! ```
//!
//! Where nothing reads columns of `%1` after the part that takes their place is made, `%9` needs no bytes of its own.
//! Owns that question, which depends on the order of operations. Must not know blocks and offsets.

use std::ops::Range;

use crate::graph::{Graph, Home, NodeId, NodeKind, Value, View};

/// A part of a join: its columns, the operation that makes it, and the operand that it may replace.
struct Part {
    columns: Range<u64>,
    maker: NodeId,
    operand: usize,
}

/// The value on whose bytes a join may lie, given the operations in order that read each root.
pub(super) fn base(graph: &Graph, join: Value, position: &[usize]) -> Option<Value> {
    let NodeKind::View(View::Join) = graph.node(join.node).kind else { return None };
    let mut parts = Vec::new();
    let mut base = None;
    let mut start = 0;
    for part in graph.operands(join.node) {
        let columns = start..start + graph.ty(part).shape.width();
        start = columns.end;
        let [made] = graph.makers(part)[..] else { return None };
        let NodeKind::Op(op) = &graph.node(made.node).kind else { return None };
        let operands = graph.operands(made.node);
        let replaced = |(o, &operand): (usize, &Value)| {
            let (root, found) = shown(graph, operand);
            let (read, written) = (graph.ty(operand), graph.ty(made));
            let fits = op.in_place(o, made.result.into())
                && found == columns
                && read.dtype == written.dtype
                && read.shape.same_extents(&written.shape)
                && base.is_none_or(|base| base == root)
                && graph.ty(root).shape.same_extents(&graph.ty(join).shape);
            fits.then_some((o, root))
        };
        let (operand, root) = operands.iter().enumerate().find_map(replaced)?;
        base = Some(root);
        parts.push(Part { columns, maker: made.node, operand });
    }
    let same_rows = |&base: &Value| graph.stored_strides(base) == graph.stored_strides(join);
    base.filter(same_rows).filter(|&base| is_free(graph, base, &parts, position))
}

/// Whether every reader of a value reads columns before they are replaced, or replaces them.
fn is_free(graph: &Graph, base: Value, parts: &[Part], position: &[usize]) -> bool {
    let mut waiting = vec![base];
    while let Some(value) = waiting.pop() {
        let (_, columns) = shown(graph, value);
        for (reader, operand) in graph.uses(value) {
            let NodeKind::Op(_) = graph.node(reader).kind else {
                waiting.push(Value::of(reader));
                continue;
            };
            // What replaced columns before shows them too.
            for result in 0..graph.node(reader).results.len() as u16 {
                let result = Value { node: reader, result };
                if graph.home(result) == Some(Home::Operand(value)) {
                    waiting.push(result);
                }
            }
            let late = parts.iter().any(|part| {
                let overlap = part.columns.start < columns.end && columns.start < part.columns.end;
                let replaces = reader == part.maker && operand == part.operand;
                let before = position[reader.0 as usize] < position[part.maker.0 as usize];
                overlap && !replaces && !before
            });
            if late {
                return false;
            }
        }
    }
    true
}

/// The root of a value and the columns of it that the value shows; all of them where that cannot be said.
fn shown(graph: &Graph, value: Value) -> (Value, Range<u64>) {
    let root = graph.root(value);
    let all = 0..graph.ty(root).shape.width();
    let (mut value, mut columns) = (value, None::<Range<u64>>);
    while value != root {
        let below = match (&graph.node(value.node).kind, graph.home(value)) {
            (NodeKind::View(_), _) => graph.operands(value.node)[0],
            (_, Some(Home::Operand(operand))) => operand,
            _ => return (root, all),
        };
        if let NodeKind::View(View::Columns { start, length }) = graph.node(value.node).kind {
            // Columns of heads are in every head.
            if graph.ty(below).shape.ndim() != graph.ty(root).shape.ndim() {
                return (root, all);
            }
            let within = columns.unwrap_or(0..length);
            columns = Some(start + within.start..start + within.end);
        }
        value = below;
    }
    (root, columns.unwrap_or(all))
}
