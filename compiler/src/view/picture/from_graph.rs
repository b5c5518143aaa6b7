//! From a graph to the draft of a stage.
//!
//! Every node and every value of the graph is drafted exactly once. What operations read that is not computed
//! (parameters, inputs, tables) stands before its first reader. Must not know plans, boxes or folding.

use colac_plan::program::Phase;
use colac_plan::{Cost, Op, TensorType};

use super::draft::{Draft, Drafted, Turn};
use super::model::{Node, NodeKind, Use};
use super::words;
use crate::diagnostics::Span;
use crate::graph::{self, Graph, NodeId, Value};
use crate::view::inspection::phase_name;

/// Drafts a graph; `line` gives the line of the architecture that a place is in.
pub(super) fn draft(graph: &Graph, line: &dyn Fn(Span) -> Option<u32>) -> Draft {
    let turns = graph.scopes().iter().map(|scope| Turn {
        path: scope.path.clone(),
        index: scope.index,
        parent: scope.parent.map(|parent| parent.0 as usize),
    });
    let mut drafting = Drafting {
        graph,
        line,
        first: vec![None; graph.id_bound()],
        draft: Draft { turns: turns.collect(), ..Draft::default() },
    };
    let computed = |id: &NodeId| {
        matches!(graph.node(*id).kind, graph::NodeKind::Op(_) | graph::NodeKind::View(_))
    };
    let order = graph.order();
    for &id in order.iter().filter(|id| computed(id)) {
        for operand in graph.operands(id) {
            drafting.add(operand.node);
        }
        drafting.add(id);
    }
    for &id in &order {
        drafting.add(id);
    }
    drafting.draft
}

struct Drafting<'g> {
    graph: &'g Graph,
    line: &'g dyn Fn(Span) -> Option<u32>,
    /// By node: index of its first value, once it is drafted.
    first: Vec<Option<usize>>,
    draft: Draft,
}

impl Drafting<'_> {
    fn add(&mut self, id: NodeId) {
        if self.first[id.0 as usize].is_some() {
            return;
        }
        let graph = self.graph;
        let source = graph.node(id);
        let operands = graph.operands(id);
        let read = |value: &Value| {
            let first = self.first[value.node.0 as usize].expect("operands come first");
            Use::plain(first + usize::from(value.result))
        };
        let uses = operands.iter().map(read).collect();
        let mut path = source.origin.path.clone();
        let mut parameters = 0;
        let (op, kind, detail) = match &source.kind {
            graph::NodeKind::Input(input) => (input.name(), NodeKind::Input, None),
            graph::NodeKind::Parameter(parameter) => {
                path = graph.parameter_path(*parameter).to_owned();
                let members = graph.members(*parameter);
                let elements = |&m: &_| graph.parameter_info(m).ty.shape.elements();
                parameters = members.iter().map(elements).sum();
                let op = if members.len() > 1 { "stack" } else { "parameter" };
                (op, NodeKind::Parameter, None)
            }
            graph::NodeKind::Constant(content) => {
                ("constant", NodeKind::Constant, Some(format!("{content:?}")))
            }
            graph::NodeKind::Op(op) => (op.name(), words::kind(op), words::detail(op)),
            graph::NodeKind::View(view) => {
                let attributes = view.attributes();
                let detail = (!attributes.is_empty()).then_some(attributes);
                (view.name(), NodeKind::View, detail)
            }
        };
        let types: Vec<&TensorType> = operands.iter().map(|&v| graph.ty(v)).collect();
        let results: Vec<&TensorType> = source.results.iter().collect();
        let (cost, forward, workspace) = match &source.kind {
            graph::NodeKind::Op(op) => {
                let cost = op.cost(&types, &results);
                (cost, split(op, source.phase, cost), op.workspace_bytes(&types, &results))
            }
            _ => (Cost::default(), None, 0),
        };
        let first = self.draft.values.len();
        self.first[id.0 as usize] = Some(first);
        let at = self.draft.nodes.len();
        for (result, ty) in source.results.iter().enumerate() {
            let name = match source.results.len() {
                1 => path.clone(),
                _ => format!("{path}.{result}"),
            };
            let mut value = words::value(at, name, ty);
            let made = Value { node: id, result: result as u16 };
            value.kept = matches!(source.kind, graph::NodeKind::Op(_))
                && source.phase == Phase::Forward
                && read_later(graph, made);
            self.draft.values.push(value);
        }
        // A parameter that turns share is of none of them.
        let turn = match source.kind {
            graph::NodeKind::Parameter(_) => self.draft.turn_of(&path),
            _ => source.scope.map(|scope| scope.0 as usize),
        };
        self.draft.nodes.push(Drafted {
            turn,
            node: Node {
                parent: 0,
                op,
                label: String::new(),
                path,
                kind,
                phase: phase_name(source.phase),
                region: match source.phase {
                    Phase::Recompute(region) => Some(region),
                    Phase::Forward | Phase::Backward | Phase::Update => None,
                },
                program: None,
                position: None,
                pass: Some(source.origin.pass),
                line: source.origin.span.and_then(self.line),
                spec_line: None,
                detail,
                operands: uses,
                results: (first..self.draft.values.len()).collect(),
                flops: cost.products,
                forward_flops: forward,
                bytes: cost.bytes,
                parameters,
                workspace,
            },
        });
    }
}

/// The FLOPs of the forward pass in an operation, where its phase does not say it all.
pub(super) fn split(op: &Op, phase: Phase, cost: Cost) -> Option<u64> {
    let forward = op.forward_products(cost);
    let told = match phase {
        Phase::Recompute(_) => return None,
        Phase::Forward => cost.products,
        Phase::Backward | Phase::Update => 0,
    };
    (forward != told).then_some(forward)
}

/// Whether a value of the forward pass, or something that shows its bytes, is read after it.
fn read_later(graph: &Graph, value: Value) -> bool {
    graph.uses(value).into_iter().any(|(reader, _)| {
        let node = graph.node(reader);
        match node.kind {
            graph::NodeKind::View(_) => read_later(graph, Value::of(reader)),
            _ => node.phase != Phase::Forward,
        }
    })
}
