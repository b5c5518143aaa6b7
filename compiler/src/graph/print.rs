//! Text form of a graph: one line a node, in topological order.
//!
//! ```text
//! %12 = linear %10, @layers.0.self_attn.q_proj.weight : f32[batch=8, seq=256, 512]   # layers.0.self_attn.q_proj
//! ```
//!
//! Nodes are numbered by their place in the text, not by id, so that a rewrite changes only the lines it means to.

use std::collections::BTreeMap;
use std::fmt::Write;

use colac_plan::TensorType;
use colac_plan::program::Phase;

use crate::graph::{Graph, NodeId, NodeKind, Output, Value};

/// What to print.
#[derive(Clone, Copy, Debug, Default)]
pub struct PrintOptions {
    /// Of every repeat, print only this many turns and say how many follow.
    pub turns: Option<u64>,
}

impl Graph {
    /// The graph as text, in topological order.
    pub fn print(&self, options: PrintOptions) -> String {
        self.print_ordered(&self.order(), &|_| None, options)
    }

    /// The graph as text in a given order; `note` adds a word behind the type of a value, e.g. its place in the arena.
    /// Constants that the order leaves out come first.
    pub fn print_ordered(
        &self,
        order: &[NodeId],
        note: &dyn Fn(Value) -> Option<String>,
        options: PrintOptions,
    ) -> String {
        let constant = |id: &NodeId| {
            matches!(self.node(*id).kind, NodeKind::Constant(_)) && !order.contains(id)
        };
        let order: Vec<NodeId> =
            self.order().into_iter().filter(constant).chain(order.iter().copied()).collect();
        let shown = |id: NodeId| {
            let mut scope = self.node(id).scope;
            while let Some(s) = scope {
                let s = &self.scopes()[s.0 as usize];
                if options.turns.is_some_and(|turns| s.index >= turns) {
                    return Err(s.label.clone());
                }
                scope = s.parent;
            }
            Ok(())
        };
        let mut numbers: BTreeMap<NodeId, usize> = BTreeMap::new();
        let numbered = |k: &NodeKind| !matches!(k, NodeKind::Parameter(_) | NodeKind::Input(_));
        for &id in order.iter().filter(|&&id| numbered(&self.node(id).kind) && shown(id).is_ok()) {
            let next = numbers.len();
            numbers.insert(id, next);
        }
        let name = |value: Value| {
            let node = self.node(value.node);
            match &node.kind {
                NodeKind::Parameter(p) => format!("@{}", self.parameter_path(*p)),
                NodeKind::Input(input) => format!("${}", input.name()),
                NodeKind::Constant(_) | NodeKind::Op(_) | NodeKind::View(_) => {
                    let suffix = if node.results.len() > 1 {
                        format!(".{}", value.result)
                    } else {
                        String::new()
                    };
                    match numbers.get(&value.node) {
                        Some(number) => format!("%{number}{suffix}"),
                        None => format!("%<{}>{suffix}", node.origin.path),
                    }
                }
            }
        };
        let mut text = String::new();
        let mut folded: BTreeMap<String, u64> = BTreeMap::new();
        for (id, info) in self.parameters() {
            let node = self.parameter_node(id).expect("listed parameters have a node");
            match shown(node) {
                Ok(()) => {
                    // Shaped as the parameter, which may be a part of what is read, and stored as that is.
                    let stored = self.ty(Value::of(node)).dtype;
                    let (path, ty) = (&info.path, TensorType::new(stored, info.ty.shape.clone()));
                    let _ = writeln!(
                        text,
                        "parameter @{path} : {ty} {:?} {:?}",
                        info.role, info.initialization
                    );
                }
                Err(label) => {
                    *folded.entry(format!("parameters of other {label}")).or_default() += 1
                }
            }
        }
        for id in order {
            let node = self.node(id);
            if !numbered(&node.kind) {
                continue;
            }
            if let Err(label) = shown(id) {
                *folded.entry(format!("nodes of other {label}")).or_default() += 1;
                continue;
            }
            let result = |(r, ty): (usize, &colac_plan::TensorType)| match note(Value {
                node: id,
                result: r as u16,
            }) {
                Some(note) => format!("{ty} {note}"),
                None => ty.to_string(),
            };
            let results: Vec<String> = node.results.iter().enumerate().map(result).collect();
            let operands: Vec<String> = self.operands(id).into_iter().map(name).collect();
            let (what, attributes) = match &node.kind {
                NodeKind::Op(op) => (op.name().to_string(), op.attributes()),
                NodeKind::View(view) => (format!("view.{}", view.name()), view.attributes()),
                NodeKind::Constant(content) => ("constant".into(), format!("{content:?}")),
                NodeKind::Parameter(_) | NodeKind::Input(_) => {
                    unreachable!("parameters and inputs are not numbered")
                }
            };
            let _ = write!(text, "%{} = {what}", numbers[&id]);
            for (i, operand) in operands.iter().enumerate() {
                let _ = write!(text, "{} {operand}", if i == 0 { "" } else { "," });
            }
            if !attributes.is_empty() {
                let _ = write!(text, " {attributes}");
            }
            let _ = write!(text, " : {}", results.join(", "));
            for before in self.controls(id) {
                let _ = write!(text, " after {}", name(Value::of(before)));
            }
            let phase = match node.phase {
                Phase::Forward => String::new(),
                Phase::Backward => "backward ".into(),
                Phase::Recompute(region) => format!("recompute {region} "),
                Phase::Update => "update ".into(),
            };
            let _ = writeln!(text, "   # {phase}{}", node.origin.path);
        }
        for (what, count) in folded {
            let _ = writeln!(text, "... {count} {what}");
        }
        for &(output, value) in self.outputs() {
            let hidden = shown(value.node).is_err();
            let _ = match output {
                _ if hidden => continue,
                Output::Loss => writeln!(text, "output loss = {}", name(value)),
                Output::Logits => writeln!(text, "output logits = {}", name(value)),
                Output::Gradient(p) => {
                    writeln!(
                        text,
                        "output gradient of @{} = {}",
                        self.parameter_path(p),
                        name(value)
                    )
                }
            };
        }
        text
    }
}
