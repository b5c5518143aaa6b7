//! Values that lie in the rows of others: what is joined is made in its place, and what replaces columns does so there.
//!
//! ```text
//! before   %1 = linear_backward_input %d1, @q_proj.cola_b        [n, r]
//!          %2 = linear_backward_input %d2, @k_proj.cola_b        [n, s]
//!          %3 = concat %1, %2                                    [n, r + s]
//! after    the same values, %1 and %2 in the bytes of %3
//!          %3 = view.join %1, %2                                 no operation
//! ```
//!
//! A part stays apart, and is copied, where its maker or a reader cannot address columns of wider rows, where it is read
//! beyond the phase or made outside of the turn of the repeat in which the join is made, and where it is a part already:
//! then the copy is the part. A concat that leaves gaps stays as it is, because something has to fill them.
//!
//! Operations that may write onto an operand do so within the rows as well: a part that is made from a value read by
//! nothing else, and a result that replaces columns which nothing else reads.
//!
//! Assumes: a graph that no pass before the schedule changes any more. Guarantees: no bit of any value changes.

use colac_plan::Op;
use colac_plan::pointwise::Program;

use crate::graph::{Graph, Home, NodeId, NodeKind, Origin, Value, View};

const PASS: &str = "place";

/// Gives homes to whatever can have one.
pub fn run(graph: &mut Graph) {
    for id in graph.order() {
        join(graph, id);
    }
    for id in graph.order() {
        replace_columns(graph, Value::of(id));
    }
}

/// Turns a concat without gaps into a join.
fn join(graph: &mut Graph, id: NodeId) {
    let NodeKind::Op(Op::Concat { width, starts }) = &graph.node(id).kind else { return };
    let (width, starts) = (*width, starts.clone());
    let parts = graph.operands(id);
    let ends = parts.iter().zip(&starts).map(|(&part, start)| start + graph.ty(part).shape.width());
    let whole = Value::of(id);
    let gapless = ends.eq(starts.iter().copied().skip(1).chain([width]));
    let output = graph.outputs().iter().any(|&(_, value)| value == whole);
    if !gapless || starts[0] != 0 || output {
        return;
    }
    let mut apart = Vec::new();
    for (position, (&part, &start)) in parts.iter().zip(&starts).enumerate() {
        match placeable(graph, whole, part) {
            Some(result) => place(graph, whole, start, result),
            None => apart.push(position),
        }
    }
    if apart.len() == parts.len() {
        return;
    }
    for position in apart {
        let (part, start) = (parts[position], starts[position]);
        let node = graph.node(id);
        let (origin, phase, scope) =
            (Origin { pass: PASS, ..node.origin.clone() }, node.phase, node.scope);
        let mut program = Program::unary(|_, x| x);
        program.outputs[0].dtype = graph.ty(part).dtype;
        let copy = graph.op(Op::Pointwise { program }, &[part], origin, phase, scope);
        let copy = copy.expect("anything can be copied")[0];
        graph.set_operand(id, position, copy);
        graph.set_home(copy, Home::Join { whole, start });
    }
    graph.set_kind(id, NodeKind::View(View::Join));
}

/// The result behind a part, if it can be made within the join.
fn placeable(graph: &Graph, whole: Value, part: Value) -> Option<Value> {
    let mut result = part;
    while let NodeKind::View(View::MergeHeads) = graph.node(result.node).kind {
        result = graph.operands(result.node)[0];
    }
    let strides = graph.strides_in(whole, result)?;
    let join = graph.node(whole.node);
    let near = |reader: &NodeId| graph.node(*reader).phase == join.phase;
    let fits = can_move(graph, result, &strides, whole)
        && graph.node(result.node).scope == join.scope
        && graph.ty(result).dtype == graph.ty(whole).dtype
        && near(&result.node)
        && readers(graph, result).iter().all(near);
    fits.then_some(result)
}

/// Whether a result that has no home yet may lie with these strides; `reader` is on its bytes either way.
fn can_move(graph: &Graph, result: Value, strides: &[u64], reader: Value) -> bool {
    graph.home(result).is_none()
        && graph.maker_accepts(result, strides)
        && graph.readers_accept(result, strides, &|other| other == reader)
}

/// Makes a result within a join, and what it is made from there too as far as operations may replace their operands.
fn place(graph: &mut Graph, whole: Value, start: u64, mut result: Value) {
    while let Some(operand) = replaced(graph, whole, result)
        && !over_columns(graph, whole, start, result)
    {
        graph.set_home(result, Home::Operand(operand));
        result = operand;
    }
    graph.set_home(result, Home::Join { whole, start });
}

/// Whether a result could take the place of the same columns of another value of the join's shape: then all of the join
/// may, which the memory pass decides when it knows the order.
fn over_columns(graph: &Graph, whole: Value, start: u64, result: Value) -> bool {
    let NodeKind::Op(op) = &graph.node(result.node).kind else { return false };
    graph.operands(result.node).into_iter().enumerate().any(|(position, operand)| {
        let mut shown = operand;
        while let NodeKind::View(View::SplitHeads { .. } | View::MergeHeads) =
            graph.node(shown.node).kind
        {
            shown = graph.operands(shown.node)[0];
        }
        let NodeKind::View(View::Columns { start: from, .. }) = graph.node(shown.node).kind else {
            return false;
        };
        from == start
            && op.in_place(position, result.result.into())
            && same_type(graph, operand, result)
            && same_type(graph, graph.operands(shown.node)[0], whole)
    })
}

/// The operand that a result within a join may replace: nothing else reads it, and it may lie there itself.
fn replaced(graph: &Graph, whole: Value, result: Value) -> Option<Value> {
    let node = graph.node(result.node);
    let NodeKind::Op(op) = &node.kind else { return None };
    let operands = graph.operands(result.node);
    let fits = |position: usize, operand: Value| {
        let maker = graph.node(operand.node);
        let strides = graph.strides_in(whole, operand);
        op.in_place(position, result.result.into())
            && same_type(graph, operand, result)
            && (maker.phase, maker.scope) == (node.phase, node.scope)
            && graph.uses(operand).len() == 1
            && strides.is_some_and(|strides| can_move(graph, operand, &strides, result))
    };
    operands.iter().enumerate().find(|&(o, &operand)| fits(o, operand)).map(|(_, &operand)| operand)
}

fn same_type(graph: &Graph, a: Value, b: Value) -> bool {
    let (a, b) = (graph.ty(a), graph.ty(b));
    a.dtype == b.dtype && a.shape.same_extents(&b.shape)
}

/// Operations that read a value, or something that shows its bytes.
fn readers(graph: &Graph, value: Value) -> Vec<NodeId> {
    let mut found = Vec::new();
    for (reader, _) in graph.uses(value) {
        match graph.node(reader).kind {
            NodeKind::View(_) => found.extend(readers(graph, Value::of(reader))),
            _ => found.push(reader),
        }
    }
    found
}

/// Some columns of a value, and the result that may replace them.
struct Columns {
    range: (u64, u64),
    view: Value,
    replacement: Option<(Value, Value)>,
}

/// Results that replace columns of a value lie there, unless that would keep the whole longer than what is read of it.
fn replace_columns(graph: &mut Graph, base: Value) {
    let NodeKind::Op(_) = graph.node(base.node).kind else { return };
    let output = graph.outputs().iter().any(|&(_, value)| value == base);
    let Some(columns) = columns(graph, base).filter(|_| !output && graph.home(base).is_none())
    else {
        return;
    };
    let phase = graph.node(base.node).phase;
    let long = |value: Value| {
        readers(graph, value).iter().any(|&reader| graph.node(reader).phase != phase)
    };
    let lives = |c: &Columns| long(c.replacement.map_or(c.view, |(result, _)| result));
    let lasting: Vec<bool> = columns.iter().map(lives).collect();
    let kept = |(c, &lasting): (&Columns, &bool)| lasting && c.replacement.is_none();
    let free = columns.iter().zip(&lasting).any(kept) || lasting.iter().all(|&lasting| lasting);
    for (column, lasting) in columns.iter().zip(lasting) {
        if let Some((result, operand)) = column.replacement.filter(|_| free || !lasting) {
            graph.set_home(result, Home::Operand(operand));
        }
    }
}

/// The columns by which a value is read, if it is read so only and none are read twice.
fn columns(graph: &Graph, base: Value) -> Option<Vec<Columns>> {
    let mut found = Vec::new();
    for (reader, _) in graph.uses(base) {
        let NodeKind::View(View::Columns { start, length }) = graph.node(reader).kind else {
            return None;
        };
        let view = Value::of(reader);
        let replacement = replacement(graph, base, view);
        found.push(Columns { range: (start, start + length), view, replacement });
    }
    found.sort_by_key(|columns| columns.range);
    let apart = found.windows(2).all(|pair| pair[0].range.1 <= pair[1].range.0);
    (apart && !found.is_empty()).then_some(found)
}

/// The result that may replace some columns, and the view of them that its operation reads.
fn replacement(graph: &Graph, base: Value, columns: Value) -> Option<(Value, Value)> {
    let packed = graph.strides_in(base, base)?;
    let (mut view, mut below, mut strides) = (columns, base, packed);
    loop {
        if let NodeKind::View(kind) = graph.node(view.node).kind {
            strides = kind.strides(&graph.ty(below).shape, &strides)?.1;
        }
        let [(reader, operand)] = graph.uses(view)[..] else { return None };
        let result = match &graph.node(reader).kind {
            NodeKind::View(View::SplitHeads { .. } | View::MergeHeads) => {
                (below, view) = (view, Value::of(reader));
                continue;
            }
            NodeKind::Op(op) => {
                let results = 0..graph.node(reader).results.len() as u16;
                let mut results = results.map(|result| Value { node: reader, result });
                results.find(|result| {
                    op.in_place(operand, result.result.into()) && same_type(graph, *result, view)
                })?
            }
            _ => return None,
        };
        let near = graph.node(reader).phase == graph.node(base.node).phase
            && graph.node(reader).scope == graph.node(base.node).scope;
        let fits = near && can_move(graph, result, &strides, result);
        return fits.then_some((result, view));
    }
}
