//! The computation graph: nodes with ordered operands and several results, parameters, repeat scopes.
//!
//! Owns identity (own node ids, never reused), edges, and the types of values. petgraph holds the edges and stays
//! private: it lists them newest first, so no code outside sees them raw. Must not know specs or plans.
//!
//! What a node means lives in [`colac_plan::Op`]; a graph adds what a plan has no operation for: inputs, parameters,
//! constants and views, which move no bytes.
//!
//! What lowering leaves, and the passes rely on: one graph with every value f32 and the micro-batch as the axis named
//! `batch`; [`Input::Tokens`] and [`Input::Labels`]; every linear an [`Op::Linear`] node listed in [`Graph::linears`]
//! (a bias is a [`Op::Pointwise`] node after it, its vector an input of form row); every labelled node of one operand
//! and equal shape listed in [`Graph::bypassable`]; the last linear's logits as [`Output::Logits`], and beside it an
//! [`Op::HeadLoss`] over the same input and weight as [`Output::Loss`] (each program drops the one it does not need;
//! autodiff turns the loss into [`Op::HeadLossWithGradient`] and supplies its scale). The head is a
//! [`LinearSite`] too; while it is one, the cola pass must be refused, because the loss reads its weight directly.

mod place;
mod print;
mod rewrite;
mod stack;
mod verify;
mod view;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use colac_plan::op::TypeError;
use colac_plan::parameter::{CheckpointName, ConstantContent, Initialization, Role};
use colac_plan::program::Phase;
use colac_plan::{DType, Op, TensorType};
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;

use crate::diagnostics::Span;

pub use place::Home;
pub use print::PrintOptions;
pub use verify::GraphError;
pub use view::View;

/// Names a node for the life of its graph; never reused. Its order means nothing: [`Graph::order`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// Result number `result` of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// The node that makes it.
    pub node: NodeId,
    /// Which of its results.
    pub result: u16,
}

/// Names a parameter, or a stack of parameters that operations read as one ([`Graph::stack`]); never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParameterId(pub u32);

/// Names a repeat scope by its position in [`Graph::scopes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeId(pub u32);

/// What the host supplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Input {
    /// Token ids, `[batch, seq]` i32.
    Tokens,
    /// What each position should predict, `[batch, seq]` i32; -100 where nothing.
    Labels,
    /// Factor on the summed loss, `[]` f32.
    LossScale,
    /// What the draws of dropouts depend on beside their keys, `[4]` i32.
    DropoutDraw,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// Supplied by the host for each run.
    Input(Input),
    /// A trained tensor, or a stack of them.
    Parameter(ParameterId),
    /// A table computed once.
    Constant(ConstantContent),
    /// An operation.
    Op(Op),
    /// Another shape of the same bytes.
    View(View),
}

/// Where a node came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Labels from the model down: `layers.3.self_attn.q_proj`; empty for what the architecture left unlabelled at top.
    pub path: String,
    /// The place in the architecture file.
    pub span: Option<Span>,
    /// What made it: `lower` or the name of a pass.
    pub pass: &'static str,
}

/// A node with what is known about it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// What it is.
    pub kind: NodeKind,
    /// Types of its results.
    pub results: Vec<TensorType>,
    /// Where it came from.
    pub origin: Origin,
    /// Part of the computation.
    pub phase: Phase,
    /// Innermost repeat scope.
    pub scope: Option<ScopeId>,
}

/// A trained tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterInfo {
    /// Path with the kind of tensor: `layers.3.self_attn.q_proj.weight`.
    pub path: String,
    /// Type of the weight.
    pub ty: TensorType,
    /// Start values.
    pub initialization: Initialization,
    /// What it is.
    pub role: Role,
    /// Its tensor in a checkpoint.
    pub checkpoint: CheckpointName,
    /// Its tensor where it does not lie in a joined one; `None` where `checkpoint` is no joined tensor.
    pub unjoined: Option<CheckpointName>,
    /// The innermost repeat scope of its first use.
    pub scope: Option<ScopeId>,
}

/// One turn of a `repeat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Path of the turn: `layers.3`.
    pub path: String,
    /// Label of the repeat: `layers`.
    pub label: String,
    /// Which turn, from 0.
    pub index: u64,
    /// The scope around it.
    pub parent: Option<ScopeId>,
}

/// Whether a linear may become a low-rank pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColaPermission {
    /// The spec decides.
    Allowed,
    /// It stays dense; the sentence says why.
    Never(String),
}

/// A linear of the model, the unit that the cola pass rewrites.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearSite {
    /// Path of the linear: `layers.3.self_attn.q_proj`.
    pub path: String,
    /// The [`Op::Linear`] node.
    pub node: NodeId,
    /// Further nodes with the same weight: the same linear in later turns of a repeat that shares its parameters.
    pub further: Vec<NodeId>,
    /// Its weight.
    pub weight: ParameterId,
    /// May it be rewritten?
    pub permission: ColaPermission,
    /// The call in the architecture file.
    pub span: Option<Span>,
}

impl LinearSite {
    /// Every node of the linear, the first turn's first.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        std::iter::once(self.node).chain(self.further.iter().copied())
    }
}

/// Results that a graph exists for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Output {
    /// Row losses `[batch]`.
    Loss,
    /// `[batch, seq, vocab]`.
    Logits,
    /// Gradient of a parameter or of a stack; several values may contribute to one, in program order.
    Gradient(ParameterId),
}

/// What connects two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    /// Result `result` of the source is operand `position` of the target.
    Operand { position: u16, result: u16 },
    /// The source comes before the target.
    Control,
}

/// The computation graph of one program, or of all of them before they are split off.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    inner: StableDiGraph<Node, Edge>,
    index: Vec<Option<NodeIndex>>,
    parameters: Vec<stack::Trained>,
    /// By parameter: the node that reads it, its own or that of its stack.
    parameter_nodes: Vec<Option<NodeId>>,
    homes: BTreeMap<Value, Home>,
    scopes: Vec<Scope>,
    /// Linears in model order.
    pub linears: Vec<LinearSite>,
    /// Labelled nodes of one operand and the same shape, which `bypass` may name.
    pub bypassable: Vec<NodeId>,
    outputs: Vec<(Output, Value)>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Graph {
        Graph::default()
    }

    // --- building ---------------------------------------------------------------------------

    /// Opens one turn of a repeat.
    pub fn add_scope(&mut self, scope: Scope) -> ScopeId {
        self.scopes.push(scope);
        ScopeId(self.scopes.len() as u32 - 1)
    }

    /// Something the host supplies; one node per kind.
    pub fn input(&mut self, input: Input, ty: TensorType, origin: Origin) -> Value {
        if let Some(node) = self.nodes().find(|n| n.kind == NodeKind::Input(input)) {
            return Value { node: node.id, result: 0 };
        }
        self.add(NodeKind::Input(input), vec![ty], &[], origin, Phase::Forward, None)
    }

    /// A new trained tensor and the node that reads it.
    pub fn parameter(&mut self, info: ParameterInfo, origin: Origin) -> (ParameterId, Value) {
        let id = ParameterId(self.parameters.len() as u32);
        let (ty, scope) = (info.ty.clone(), info.scope);
        self.parameters.push(stack::Trained::Alone(info));
        let value = self.add(NodeKind::Parameter(id), vec![ty], &[], origin, Phase::Forward, scope);
        self.parameter_nodes.push(Some(value.node));
        (id, value)
    }

    /// A table; equal tables share a node.
    pub fn constant(&mut self, content: ConstantContent, ty: TensorType, origin: Origin) -> Value {
        let same = |n: &&Node| n.kind == NodeKind::Constant(content) && n.results[0] == ty;
        if let Some(node) = self.nodes().find(same) {
            return Value { node: node.id, result: 0 };
        }
        self.add(NodeKind::Constant(content), vec![ty], &[], origin, Phase::Forward, None)
    }

    /// An operation over values; its results take their types from the operation's shape rule.
    pub fn op(
        &mut self,
        op: Op,
        operands: &[Value],
        origin: Origin,
        phase: Phase,
        scope: Option<ScopeId>,
    ) -> Result<Vec<Value>, TypeError> {
        let types: Vec<&TensorType> = operands.iter().map(|&v| self.ty(v)).collect();
        let results = op.infer(&types)?;
        let count = results.len() as u16;
        let first = self.add(NodeKind::Op(op), results, operands, origin, phase, scope);
        Ok((0..count).map(|result| Value { result, ..first }).collect())
    }

    /// Another shape of a value.
    pub fn view(
        &mut self,
        view: View,
        operand: Value,
        origin: Origin,
        phase: Phase,
        scope: Option<ScopeId>,
    ) -> Result<Value, TypeError> {
        let ty = view.infer(&[self.ty(operand)])?;
        Ok(self.add(NodeKind::View(view), vec![ty], &[operand], origin, phase, scope))
    }

    /// Declares what the graph exists for. Gradients of one parameter may be declared several times.
    pub fn add_output(&mut self, output: Output, value: Value) {
        self.outputs.push((output, value));
    }

    /// Orders two nodes that no value connects.
    pub fn add_control(&mut self, before: NodeId, after: NodeId) {
        let (from, to) = (self.position(before), self.position(after));
        self.inner.add_edge(from, to, Edge::Control);
    }

    fn add(
        &mut self,
        kind: NodeKind,
        results: Vec<TensorType>,
        operands: &[Value],
        origin: Origin,
        phase: Phase,
        scope: Option<ScopeId>,
    ) -> Value {
        let id = NodeId(self.index.len() as u32);
        let position = self.inner.add_node(Node { id, kind, results, origin, phase, scope });
        self.index.push(Some(position));
        for (i, operand) in operands.iter().enumerate() {
            let edge = Edge::Operand { position: i as u16, result: operand.result };
            self.inner.add_edge(self.position(operand.node), position, edge);
        }
        Value { node: id, result: 0 }
    }

    // --- reading ----------------------------------------------------------------------------

    /// Whether a node is still there.
    pub fn contains(&self, id: NodeId) -> bool {
        self.index.get(id.0 as usize).is_some_and(Option::is_some)
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.inner[self.position(id)]
    }

    /// All nodes by id. Use [`Graph::order`] where order matters.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.index.iter().flatten().map(|&i| &self.inner[i])
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.inner.node_count()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.inner.node_count() == 0
    }

    /// One more than the largest id ever given: the length of tables by node.
    pub fn id_bound(&self) -> usize {
        self.index.len()
    }

    /// Type of a value.
    pub fn ty(&self, value: Value) -> &TensorType {
        &self.node(value.node).results[value.result as usize]
    }

    /// Operands of a node, in order.
    pub fn operands(&self, id: NodeId) -> Vec<Value> {
        let mut operands: Vec<(u16, Value)> = self
            .inner
            .edges_directed(self.position(id), Direction::Incoming)
            .filter_map(|edge| match *edge.weight() {
                Edge::Operand { position, result } => {
                    Some((position, Value { node: self.inner[edge.source()].id, result }))
                }
                Edge::Control => None,
            })
            .collect();
        operands.sort_unstable_by_key(|&(position, _)| position);
        operands.into_iter().map(|(_, value)| value).collect()
    }

    /// Nodes that must come before a node though it reads none of their results, by id.
    pub fn controls(&self, id: NodeId) -> Vec<NodeId> {
        let mut controls: Vec<NodeId> = self
            .inner
            .edges_directed(self.position(id), Direction::Incoming)
            .filter(|edge| *edge.weight() == Edge::Control)
            .map(|edge| self.inner[edge.source()].id)
            .collect();
        controls.sort_unstable();
        controls.dedup();
        controls
    }

    /// Who reads a value: node and operand position, by id.
    pub fn uses(&self, value: Value) -> Vec<(NodeId, usize)> {
        let mut uses: Vec<(NodeId, usize)> = self
            .inner
            .edges_directed(self.position(value.node), Direction::Outgoing)
            .filter_map(|edge| match *edge.weight() {
                Edge::Operand { position, result } if result == value.result => {
                    Some((self.inner[edge.target()].id, position as usize))
                }
                _ => None,
            })
            .collect();
        uses.sort_unstable();
        uses
    }

    /// What the graph exists for, in the order declared.
    pub fn outputs(&self) -> &[(Output, Value)] {
        &self.outputs
    }

    /// The value declared for an output that is declared once.
    pub fn output(&self, output: Output) -> Option<Value> {
        self.outputs.iter().find(|(o, _)| *o == output).map(|&(_, value)| value)
    }

    /// Repeat scopes.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// A topological order that depends only on the graph: of the nodes that are ready, the one with the smallest id
    /// comes first.
    pub fn order(&self) -> Vec<NodeId> {
        let mut waiting = vec![0u32; self.index.len()];
        let mut ready = BinaryHeap::new();
        for node in self.nodes() {
            let position = self.position(node.id);
            let incoming = self.inner.edges_directed(position, Direction::Incoming).count() as u32;
            waiting[node.id.0 as usize] = incoming;
            if incoming == 0 {
                ready.push(Reverse(node.id));
            }
        }
        let mut order = Vec::with_capacity(self.len());
        while let Some(Reverse(id)) = ready.pop() {
            order.push(id);
            for edge in self.inner.edges_directed(self.position(id), Direction::Outgoing) {
                let target = self.inner[edge.target()].id;
                let count = &mut waiting[target.0 as usize];
                *count -= 1;
                if *count == 0 {
                    ready.push(Reverse(target));
                }
            }
        }
        order
    }

    fn position(&self, id: NodeId) -> NodeIndex {
        self.index[id.0 as usize].expect("the node was not removed")
    }

    // --- rewriting --------------------------------------------------------------------------

    /// Replaces what a node is, keeping operands and result types; for rewrites that do not change types.
    pub fn set_kind(&mut self, id: NodeId, kind: NodeKind) {
        let position = self.position(id);
        self.inner[position].kind = kind;
    }

    /// Makes one operand of a node another value of the same shape.
    pub fn set_operand(&mut self, id: NodeId, operand: usize, value: Value) {
        let (target, source) = (self.position(id), self.position(value.node));
        let found = self.inner.edges_directed(target, Direction::Incoming).find(|edge| {
            matches!(edge.weight(), Edge::Operand { position, .. } if usize::from(*position) == operand)
        });
        let edge = found.expect("the node has the operand").id();
        self.inner.remove_edge(edge);
        let edge = Edge::Operand { position: operand as u16, result: value.result };
        self.inner.add_edge(source, target, edge);
    }

    /// Makes every reader of `old`, and every output, read `new` instead.
    pub fn replace(&mut self, old: Value, new: Value) {
        debug_assert!(
            self.ty(old).shape.same_extents(&self.ty(new).shape),
            "a replacement has the same shape"
        );
        let edges: Vec<_> = self
            .inner
            .edges_directed(self.position(old.node), Direction::Outgoing)
            .filter_map(|edge| match *edge.weight() {
                Edge::Operand { position, result } if result == old.result => {
                    Some((edge.id(), edge.target(), position))
                }
                _ => None,
            })
            .collect();
        let source = self.position(new.node);
        for (edge, target, position) in edges {
            self.inner.remove_edge(edge);
            self.inner.add_edge(source, target, Edge::Operand { position, result: new.result });
        }
        for (_, value) in &mut self.outputs {
            if *value == old {
                *value = new;
            }
        }
    }

    /// The same operation or view once more, over other operands of the same types; results keep their storage formats.
    pub(crate) fn repeat_node(
        &mut self,
        id: NodeId,
        operands: &[Value],
        phase: Phase,
        pass: &'static str,
    ) -> NodeId {
        let Node { kind, results, origin, scope, .. } = self.node(id).clone();
        self.add(kind, results, operands, Origin { pass, ..origin }, phase, scope).node
    }

    /// Removes a node that nobody reads.
    pub fn remove(&mut self, id: NodeId) {
        let position = self.position(id);
        debug_assert!(
            self.inner
                .edges_directed(position, Direction::Outgoing)
                .all(|e| *e.weight() == Edge::Control),
            "a removed node has no readers"
        );
        if let NodeKind::Parameter(parameter) = self.inner[position].kind {
            self.forget_parameter(parameter, id);
        }
        self.inner.remove_node(position);
        self.index[id.0 as usize] = None;
    }

    /// Forgets outputs that do not hold, e.g. the logits when the training program is split off.
    pub fn retain_outputs(&mut self, keep: impl Fn(Output) -> bool) {
        self.outputs.retain(|(output, _)| keep(*output));
    }

    /// Sets the storage formats of a node's results. Pointwise programs say their outputs' formats themselves and are
    /// adjusted.
    pub fn set_storage(&mut self, id: NodeId, formats: &[DType]) {
        let position = self.position(id);
        let node = &mut self.inner[position];
        for (ty, &dtype) in node.results.iter_mut().zip(formats) {
            ty.dtype = dtype;
        }
        if let NodeKind::Op(Op::Pointwise { program }) = &mut node.kind {
            for (output, &dtype) in program.outputs.iter_mut().zip(formats) {
                output.dtype = dtype;
            }
        }
    }

    /// Sets the storage format of one result, of an operation that gives it in any.
    pub fn set_result_storage(&mut self, value: Value, format: DType) {
        let position = self.position(value.node);
        self.inner[position].results[value.result as usize].dtype = format;
    }

    /// The same computation over another number of rows: the axis named `batch` of inputs and tables gets a new extent and
    /// every type is derived again.
    pub fn with_batch(&self, batch: u64) -> Result<Graph, TypeError> {
        let mut graph = self.clone();
        for id in self.order() {
            let operands: Vec<TensorType> =
                self.operands(id).iter().map(|&v| graph.ty(v).clone()).collect();
            let types: Vec<&TensorType> = operands.iter().collect();
            let node = self.node(id);
            let results = match &node.kind {
                NodeKind::Input(_) | NodeKind::Constant(_) => {
                    let mut ty = node.results[0].clone();
                    for axis in ty.shape.0.iter_mut().filter(|a| a.name == "batch") {
                        axis.extent = batch;
                    }
                    vec![ty]
                }
                NodeKind::Parameter(_) => node.results.clone(),
                // Types are derived anew, but storage formats are what the precision pass made them.
                NodeKind::Op(op) => {
                    let mut results = op.infer(&types)?;
                    for (new, old) in results.iter_mut().zip(&node.results) {
                        new.dtype = old.dtype;
                    }
                    results
                }
                NodeKind::View(view) => vec![view.infer(&types)?],
            };
            let position = graph.position(id);
            graph.inner[position].results = results;
        }
        Ok(graph)
    }
}

impl Value {
    /// The first result of a node.
    pub fn of(node: NodeId) -> Value {
        Value { node, result: 0 }
    }
}

impl Input {
    /// The printed name.
    pub fn name(self) -> &'static str {
        match self {
            Input::Tokens => "tokens",
            Input::Labels => "labels",
            Input::LossScale => "loss_scale",
            Input::DropoutDraw => "dropout_draw",
        }
    }

    /// Element format.
    pub fn dtype(self) -> DType {
        match self {
            Input::Tokens | Input::Labels | Input::DropoutDraw => DType::I32,
            Input::LossScale => DType::F32,
        }
    }
}
