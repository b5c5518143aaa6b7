//! From a plan to the draft of its stage.
//!
//! Every operation of every program and every tensor is drafted exactly once. A tensor that no operation makes gets a
//! node of its own: a parameter with what belongs to it, an input, a table, state, a view. It stands before the first
//! operation that reads it; so does a join of values that are made side by side in it, behind all that makes them. Must
//! not know graphs, boxes or folding.

use std::collections::BTreeMap;

use colac_plan::verify::lifetimes;
use colac_plan::{Operation, Plan, Program, Segment, TensorId};

use super::draft::{Draft, Drafted, Turn};
use super::from_graph::split;
use super::model::{Node, NodeKind, Place, Use};
use super::words;
use crate::view::inspection::{cost, phase_name};
use crate::view::memory::is_kept;

/// Drafts all programs of a plan.
pub(super) fn draft(plan: &Plan) -> Draft {
    let mut drafting = Drafting::new(plan);
    for program in &plan.programs {
        for (position, operation) in program.operations.iter().enumerate() {
            for &tensor in &operation.operands {
                drafting.supply(tensor, Some((program, operation)));
            }
            drafting.operation(program, position, operation);
        }
    }
    for index in 0..plan.tensors.len() {
        drafting.supply(TensorId(index as u32), None);
    }
    drafting.draft
}

/// The turns behind the paths that a plan lists: a turn lies in the last one before it whose path it continues.
fn turns(plan: &Plan) -> Vec<Turn> {
    let mut turns: Vec<Turn> = Vec::with_capacity(plan.scopes.len());
    for path in &plan.scopes {
        let inside = |turn: &Turn| path.starts_with(&format!("{}.", turn.path));
        let parent = turns.iter().rposition(inside);
        let number = path.rsplit_once('.').and_then(|(_, number)| number.parse().ok());
        let index = number.unwrap_or(0);
        turns.push(Turn { path: path.clone(), index, parent });
    }
    turns
}

/// The life of a tensor in the arena.
#[derive(Clone, Copy)]
struct Life<'p> {
    /// The program, and the operation that touches it first.
    born: (&'p Program, &'p Operation),
    first: usize,
    last: usize,
    /// Whether it waits for the backward pass.
    kept: bool,
}

struct Drafting<'p> {
    plan: &'p Plan,
    /// By tensor: the value that shows it, once it is drafted.
    values: Vec<Option<usize>>,
    /// By tensor: whether an operation makes it.
    made: Vec<bool>,
    /// By tensor: its life in the arena.
    lives: Vec<Option<Life<'p>>>,
    parameters: BTreeMap<TensorId, usize>,
    draft: Draft,
}

impl<'p> Drafting<'p> {
    fn new(plan: &'p Plan) -> Drafting<'p> {
        let mut made = vec![false; plan.tensors.len()];
        let mut lives = vec![None; plan.tensors.len()];
        for program in &plan.programs {
            for &result in program.operations.iter().flat_map(|operation| &operation.results) {
                made[result.index()] = true;
            }
            for life in lifetimes(plan, program) {
                let born = (program, &program.operations[life.first]);
                let (first, last, kept) = (life.first, life.last, is_kept(program, &life));
                lives[life.root.index()] = Some(Life { born, first, last, kept });
            }
        }
        let parameters = plan.parameters.iter().enumerate().map(|(i, p)| (p.tensor, i)).collect();
        let draft = Draft { turns: turns(plan), ..Draft::default() };
        let values = vec![None; plan.tensors.len()];
        Drafting { plan, values, made, lives, parameters, draft }
    }

    /// Drafts a tensor that no operation makes, and what it lies in, before the first operation that reads it.
    fn supply(&mut self, id: TensorId, reader: Option<(&Program, &Operation)>) {
        let plan = self.plan;
        if self.made[id.index()] || self.values[id.index()].is_some() {
            return;
        }
        let tensor = plan.tensor(id);
        let in_arena = tensor.segment == Segment::Activations;
        let (mut op, mut kind, mut parameters) = ("state", NodeKind::Memory, 0);
        let mut operands = Vec::new();
        let mut results = vec![id];
        match (tensor.segment, tensor.parent) {
            (Segment::Parameters, Some(_)) => {
                kind = NodeKind::Parameter;
                op = "stack";
                if self.parameters.contains_key(&id) {
                    op = "parameter";
                    parameters = tensor.ty.shape.elements();
                }
                results.extend(self.belongings(&tensor.name));
            }
            (Segment::Gradients | Segment::Optimizer, Some(_)) => op = "slice",
            (_, Some(parent)) => {
                (op, kind) = ("view", NodeKind::View);
                self.supply(parent, reader);
                operands.extend(self.values[parent.index()].map(Use::plain));
            }
            (Segment::Activations, None) => {
                (op, kind) = ("join", NodeKind::View);
                operands = self.parts(id);
            }
            (Segment::Inputs | Segment::Scalars, None) => (op, kind) = ("input", NodeKind::Input),
            (Segment::Constants, None) => (op, kind) = ("constant", NodeKind::Constant),
            (_, None) => {}
        }
        // What has bytes of its own belongs where they are first written.
        let born = self.lives[id.index()].map(|life| life.born);
        let place = born.or(reader).filter(|_| in_arena);
        let turn = match in_arena {
            true => place.and_then(|(_, operation)| operation.scope).map(|scope| scope as usize),
            false => self.draft.turn_of(&tensor.name),
        };
        let at = self.draft.nodes.len();
        let results = results.into_iter().map(|id| self.value(id, at)).collect();
        self.draft.nodes.push(Drafted {
            turn,
            node: Node {
                parent: 0,
                op,
                label: String::new(),
                path: tensor.name.clone(),
                kind,
                phase: place.map_or("forward", |(_, operation)| phase_name(operation.phase)),
                region: None,
                program: place.map(|(program, _)| program.kind.name()),
                position: None,
                pass: None,
                line: None,
                spec_line: None,
                detail: None,
                operands,
                results,
                flops: 0,
                forward_flops: None,
                bytes: 0,
                parameters,
                workspace: 0,
            },
        });
    }

    /// Gradient and master of a parameter or stack that no operation makes alone.
    fn belongings(&self, path: &str) -> Vec<TensorId> {
        let names = [format!("{path}.gradient"), format!("{path}.master")];
        let tensors = self.plan.tensors.iter().enumerate();
        let own = tensors.filter(|(index, tensor)| {
            let state = matches!(tensor.segment, Segment::Gradients | Segment::Optimizer);
            state && !self.made[*index] && names.contains(&tensor.name)
        });
        own.map(|(index, _)| TensorId(index as u32))
            .filter(|id| self.values[id.index()].is_none())
            .collect()
    }

    /// What operations have made in a join.
    fn parts(&self, join: TensorId) -> Vec<Use> {
        let tensors = self.plan.tensors.iter().zip(&self.values).zip(&self.made);
        let parts = tensors.filter(|((tensor, _), made)| tensor.parent == Some(join) && **made);
        parts.filter_map(|((_, value), _)| value.map(Use::plain)).collect()
    }

    fn value(&mut self, id: TensorId, node: usize) -> usize {
        if let Some(value) = self.values[id.index()] {
            return value;
        }
        let tensor = self.plan.tensor(id);
        let mut value = words::value(node, tensor.name.clone(), &tensor.ty);
        value.segment = Some(tensor.segment.name());
        let root = colac_plan::verify::root(self.plan, id);
        let life = self.lives[root.index()];
        value.kept = root == id && life.is_some_and(|life| life.kept);
        let (first, last) = (life.map(|life| life.first), life.map(|life| life.last));
        value.places = vec![Place(tensor.offset, first, last)];
        let index = self.draft.values.len();
        self.draft.values.push(value);
        self.values[id.index()] = Some(index);
        index
    }

    fn operation(&mut self, program: &Program, position: usize, operation: &Operation) {
        let at = self.draft.nodes.len();
        let cost = cost(self.plan, operation);
        let read = |id: &TensorId| {
            Use::plain(self.values[id.index()].expect("a verified plan reads what is there"))
        };
        let operands = operation.operands.iter().map(read).collect();
        let results = operation.results.iter().map(|&id| self.value(id, at)).collect();
        self.draft.nodes.push(Drafted {
            turn: operation.scope.map(|scope| scope as usize),
            node: Node {
                parent: 0,
                op: operation.op.name(),
                label: String::new(),
                path: operation.path.clone(),
                kind: words::kind(&operation.op),
                phase: phase_name(operation.phase),
                region: match operation.phase {
                    colac_plan::program::Phase::Recompute(region) => Some(region),
                    _ => None,
                },
                program: Some(program.kind.name()),
                position: Some(position),
                pass: None,
                line: operation.line,
                spec_line: None,
                detail: words::detail(&operation.op),
                operands,
                results,
                flops: cost.products,
                forward_flops: split(&operation.op, operation.phase, cost),
                bytes: cost.bytes,
                parameters: 0,
                workspace: operation.workspace,
            },
        });
    }
}
