//! One scheduled graph to one program.

use std::collections::BTreeMap;

use colac_plan::program::{Operation, Program, ProgramKind, When, Write};
use colac_plan::{Segment, TensorId, TensorType};

use crate::emit::Scheduled;
use crate::emit::layout::Layout;
use crate::emit::lines::Lines;
use crate::graph::{Graph, Home, Input, NodeId, NodeKind, Output, Value, View};

/// A program, and the tensors it shares with the host.
pub(super) struct Written {
    pub(super) program: Program,
    pub(super) tokens: Option<TensorId>,
    pub(super) labels: Option<TensorId>,
    pub(super) loss: Option<TensorId>,
    pub(super) logits: Option<TensorId>,
    pub(super) dropout_draw: Option<TensorId>,
}

pub(super) fn write(
    scheduled: &Scheduled,
    layout: &mut Layout,
    loss_scale: TensorId,
    accumulate: TensorId,
    lines: &Lines,
) -> Written {
    let graph = &scheduled.graph;
    let mut tensors: BTreeMap<Value, TensorId> = BTreeMap::new();
    let (mut tokens, mut labels, mut dropout_draw) = (None, None, None);
    let prefix = scheduled.kind.name();
    for node in graph.nodes() {
        let ty = &node.results[0];
        let tensor = match &node.kind {
            NodeKind::Parameter(id) => layout.trained(*id).weight,
            NodeKind::Constant(content) => layout.constant(&node.origin.path, *content, ty),
            NodeKind::Input(Input::LossScale) => loss_scale,
            NodeKind::Input(Input::Tokens) => *tokens.insert(layout.root(
                &format!("{prefix}.tokens"),
                ty.clone(),
                Segment::Inputs,
            )),
            NodeKind::Input(Input::Labels) => *labels.insert(layout.root(
                &format!("{prefix}.labels"),
                ty.clone(),
                Segment::Inputs,
            )),
            NodeKind::Input(Input::DropoutDraw) => *dropout_draw.insert(layout.root(
                &format!("{prefix}.dropout_draw"),
                ty.clone(),
                Segment::Inputs,
            )),
            NodeKind::Op(_) | NodeKind::View(_) => continue,
        };
        tensors.insert(Value::of(node.id), tensor);
    }
    let outputs: BTreeMap<Value, Output> =
        graph.outputs().iter().map(|&(output, value)| (value, output)).collect();
    let mut written_gradients: Vec<TensorId> = Vec::new();
    let (mut loss, mut logits) = (None, None);
    let mut operations: Vec<Operation> = Vec::new();
    let mut operation_of: BTreeMap<NodeId, u32> = BTreeMap::new();
    for &id in &scheduled.order {
        let node = graph.node(id);
        let operands: Vec<TensorId> = graph.operands(id).iter().map(|v| tensors[v]).collect();
        let op = match &node.kind {
            // The tensor of a join is there since its first part was made.
            NodeKind::View(View::Join) => continue,
            NodeKind::View(view) => {
                let parent = layout.tensor(operands[0]);
                let place = view.strides(&parent.ty.shape, &parent.strides);
                let place = place.expect("passes make no view that has no strides");
                let ty = node.results[0].clone();
                tensors
                    .insert(Value::of(id), layout.view(&node.origin.path, ty, operands[0], place));
                continue;
            }
            NodeKind::Op(op) => op.clone(),
            NodeKind::Input(_) | NodeKind::Parameter(_) | NodeKind::Constant(_) => continue,
        };
        let mut results = Vec::with_capacity(node.results.len());
        let mut writes = Vec::with_capacity(node.results.len());
        for (r, ty) in node.results.iter().enumerate() {
            let value = Value { node: id, result: r as u16 };
            let name = if node.results.len() == 1 {
                node.origin.path.clone()
            } else {
                format!("{}.{r}", node.origin.path)
            };
            let mut write = Write::Overwrite;
            let tensor = match outputs.get(&value) {
                Some(Output::Gradient(parameter)) => {
                    let gradient = layout.trained(*parameter).gradient;
                    let first = !written_gradients.contains(&gradient);
                    write = if first { Write::AddIf(accumulate) } else { Write::Add };
                    written_gradients.push(gradient);
                    gradient
                }
                Some(Output::Loss) => *loss.insert(layout.root(
                    &format!("{prefix}.loss"),
                    ty.clone(),
                    Segment::Outputs,
                )),
                Some(Output::Logits) => *logits.insert(layout.root(
                    &format!("{prefix}.logits"),
                    ty.clone(),
                    Segment::Outputs,
                )),
                None => match graph.home(value) {
                    Some(home) => at_home(scheduled, layout, &mut tensors, (&name, value), home),
                    None => {
                        let strides = graph.stored_strides(value);
                        let offset = scheduled.placement.offsets[&value];
                        layout.placed(&name, ty.clone(), strides, offset)
                    }
                },
            };
            tensors.insert(value, tensor);
            results.push(tensor);
            writes.push(write);
        }
        let workspace = workspace(graph, id);
        operation_of.insert(id, operations.len() as u32);
        let after = graph
            .controls(id)
            .iter()
            .filter_map(|before| operation_of.get(before).copied())
            .collect();
        operations.push(Operation {
            op,
            operands,
            results,
            writes,
            when: When::Always,
            phase: node.phase,
            after,
            workspace,
            path: node.origin.path.clone(),
            scope: node.scope.map(|s| s.0),
            line: node.origin.span.and_then(|span| lines.of(span)),
        });
    }
    let training = scheduled.kind == ProgramKind::ForwardBackward;
    let scalars = if training { vec![loss_scale, accumulate] } else { Vec::new() };
    let program = Program {
        kind: scheduled.kind,
        inputs: tokens.into_iter().chain(labels).chain(scalars).chain(dropout_draw).collect(),
        outputs: loss.into_iter().chain(logits).collect(),
        operations,
        arena_bytes: scheduled.placement.bytes,
        arena_lower_bound: 0,
    };
    Written { program, tokens, labels, loss, logits, dropout_draw }
}

/// The tensor of a result that lies on the bytes of another value; makes that of a join with its first part.
fn at_home(
    scheduled: &Scheduled,
    layout: &mut Layout,
    tensors: &mut BTreeMap<Value, TensorId>,
    (name, value): (&str, Value),
    home: Home,
) -> TensorId {
    let graph = &scheduled.graph;
    let ty = graph.ty(value).clone();
    match home {
        Home::Operand(operand) => {
            // Of the root, not of the view that is replaced: its bytes hold both.
            let mut root = tensors[&operand];
            let (offset, strides) =
                (layout.tensor(root).offset, layout.tensor(root).strides.clone());
            while let Some(parent) = layout.tensor(root).parent {
                root = parent;
            }
            let start = (offset - layout.tensor(root).offset) / ty.dtype.bytes();
            layout.view(name, ty, root, (start, strides))
        }
        Home::Join { whole, start } => {
            let path = &graph.node(whole.node).origin.path;
            let join = tensors.get(&whole).copied().unwrap_or_else(|| {
                let ty = graph.ty(whole).clone();
                let strides = graph.stored_strides(whole);
                match scheduled.placement.onto.get(&whole) {
                    Some(base) => layout.view(path, ty, tensors[base], (0, strides)),
                    None => layout.placed(path, ty, strides, scheduled.placement.offsets[&whole]),
                }
            });
            tensors.insert(whole, join);
            let strides = graph.strides_in(whole, value).expect("the graph's verifier asks this");
            layout.view(name, ty, join, (start, strides))
        }
    }
}

fn workspace(graph: &Graph, id: NodeId) -> u64 {
    let node = graph.node(id);
    let NodeKind::Op(op) = &node.kind else { return 0 };
    let operands = graph.operands(id);
    let types: Vec<&TensorType> = operands.iter().map(|&v| graph.ty(v)).collect();
    op.workspace_bytes(&types, &node.results.iter().collect::<Vec<_>>())
}
