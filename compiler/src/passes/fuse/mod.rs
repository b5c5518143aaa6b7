//! Joins pointwise programs with their neighbours and with norms, and rotations with attention, so that what one reads or
//! writes the other need not.
//!
//! ```text
//! before   %1 = pointwise %0, %9 { a + b }       after   %3 = rms_norm %0, %9, @w x={ a + b }
//!          %3 = rms_norm %1, @w
//! ```
//!
//! [`RULES`] lists the rules, one file each. A joined operation equals its parts with every value between them rounded to
//! its storage format: joining never changes a bit of a result, nor the order in which gradients are added.
//!
//! Like places (the same pair of nodes in every turn of a repeat) are joined together, and then the program is planned as
//! it will be later. Where that needs more bytes than before, they are put back as they were.
//!
//! Assumes: a verified graph of one program, storage formats decided. Guarantees: no bit of an output changes, the
//! planned arena is no larger, nothing moves into an earlier region.

mod attention_backward;
mod horizontal;
mod join;
mod norm;
mod norm_backward;
mod order;
mod remake;
mod vertical;

use std::collections::BTreeSet;

use colac_plan::pointwise::Program;
use colac_plan::program::Phase;
use colac_plan::{DType, Op};

use crate::graph::{Graph, NodeId, NodeKind, Value};
use crate::passes::{memory, place, schedule, simplify};
use crate::spec::FuseRule;

use order::Order;

const PASS: &str = "fuse";

/// Rounds over the table: one rule makes places for another.
const MOST_ROUNDS: usize = 4;

/// A row of the table of rules.
pub struct Rule {
    /// Its name in specs.
    pub rule: FuseRule,
    /// What it joins, in one line.
    pub about: &'static str,
    /// Nodes that stand before this one and might be joined with it.
    partners: fn(&Fusion, NodeId) -> Vec<NodeId>,
    /// Joins a node with such a partner; false, and nothing is changed, where it cannot be after all.
    join: fn(&mut Fusion, NodeId, NodeId) -> bool,
}

/// Every rule, in the order in which they are tried.
pub const RULES: [Rule; 6] = [
    Rule {
        rule: FuseRule::Remake,
        about: "a program makes a value again that is a function of what it reads anyway",
        partners: remake::partners,
        join: remake::join,
    },
    Rule {
        rule: FuseRule::Vertical,
        about: "a program joins the program that reads it",
        partners: vertical::partners,
        join: vertical::join,
    },
    Rule {
        rule: FuseRule::Horizontal,
        about: "programs that read the same values become one",
        partners: horizontal::partners,
        join: horizontal::join,
    },
    Rule {
        rule: FuseRule::Norm,
        about: "the residual addition joins the norm that follows",
        partners: norm::partners,
        join: norm::join,
    },
    Rule {
        rule: FuseRule::NormBackward,
        about: "the addition of the residual's gradient joins the derivative of the norm before it",
        partners: norm_backward::partners,
        join: norm_backward::join,
    },
    Rule {
        rule: FuseRule::AttentionBackward,
        about: "the derivative of attention turns the gradients of queries and keys back itself",
        partners: attention_backward::partners,
        join: attention_backward::join,
    },
];

/// What became of one family of like places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The rule.
    pub rule: FuseRule,
    /// The two nodes, turns of repeats left out: `pointwise layers.*.mlp.act_fn with pointwise layers.*.mlp`.
    pub family: String,
    /// How many places were joined.
    pub places: usize,
    /// Bytes of the planned arena before.
    pub before: u64,
    /// Bytes of the planned arena with the places joined. Where they are more than before, the places were put back.
    pub after: u64,
}

/// Joins what the given rules join, and says what became of each family.
pub fn run(graph: &mut Graph, rules: &[FuseRule]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    if rules.is_empty() {
        return outcomes;
    }
    simplify::remove_dead(graph);
    let mut bytes = planned(graph);
    let mut fusion = Fusion { order: Order::new(graph), graph: std::mem::take(graph) };
    let mut refused: BTreeSet<(FuseRule, String)> = BTreeSet::new();
    for _ in 0..MOST_ROUNDS {
        let before = outcomes.len();
        for rule in RULES.iter().filter(|row| rules.contains(&row.rule)) {
            while let Some((family, places)) = fusion.next_family(rule, &refused) {
                let saved = fusion.clone();
                let mut joined = 0;
                for (node, partner) in places {
                    let there = fusion.graph.contains(node) && fusion.graph.contains(partner);
                    if there && (rule.partners)(&fusion, node).contains(&partner) {
                        joined += usize::from((rule.join)(&mut fusion, node, partner));
                    }
                }
                // What was made again may have been the last reader of something.
                simplify::remove_dead(&mut fusion.graph);
                let after = if joined == 0 { bytes } else { planned(&fusion.graph) };
                if joined == 0 || after > bytes {
                    fusion = saved;
                    refused.insert((rule.rule, family.clone()));
                }
                if joined > 0 {
                    let rule = rule.rule;
                    outcomes.push(Outcome { rule, family, places: joined, before: bytes, after });
                }
                bytes = bytes.min(after);
            }
        }
        let kept = |outcome: &Outcome| outcome.after <= outcome.before;
        if !outcomes[before..].iter().any(kept) {
            break;
        }
    }
    *graph = fusion.graph;
    outcomes
}

/// Bytes of the arena as the passes that follow will plan it.
fn planned(graph: &Graph) -> u64 {
    let mut graph = graph.clone();
    place::run(&mut graph);
    memory::run(&graph, &schedule::run(&graph)).bytes
}

/// A graph while its nodes are joined.
#[derive(Clone, Debug)]
struct Fusion {
    graph: Graph,
    order: Order,
}

impl Fusion {
    /// The first family of a rule that was not refused, with its places in order.
    fn next_family(
        &self,
        rule: &Rule,
        refused: &BTreeSet<(FuseRule, String)>,
    ) -> Option<(String, Vec<(NodeId, NodeId)>)> {
        let mut first: Option<String> = None;
        let mut places = Vec::new();
        for id in self.order.nodes(&self.graph) {
            for partner in (rule.partners)(self, id) {
                let family = format!("{} with {}", self.kind(id), self.kind(partner));
                match &first {
                    Some(first) if *first != family => {}
                    None if refused.contains(&(rule.rule, family.clone())) => {}
                    _ => {
                        first = Some(family);
                        places.push((id, partner));
                    }
                }
            }
        }
        Some((first?, places))
    }

    /// What a node has in common with those of other turns of a repeat.
    fn kind(&self, id: NodeId) -> String {
        let node = self.graph.node(id);
        let name = match &node.kind {
            NodeKind::Op(op) => op.name(),
            _ => "",
        };
        let phase = match node.phase {
            Phase::Forward => "",
            Phase::Backward => "backward ",
            Phase::Recompute(_) => "recompute ",
            Phase::Update => "update ",
        };
        let turn = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let parts: Vec<&str> =
            node.origin.path.split('.').map(|p| if turn(p) { "*" } else { p }).collect();
        format!("{phase}{name} {}", parts.join(".")).trim_end().into()
    }

    /// The program of a pointwise node and its operands.
    fn pointwise(&self, id: NodeId) -> Option<(&Program, Vec<Value>)> {
        match &self.graph.node(id).kind {
            NodeKind::Op(Op::Pointwise { program }) => Some((program, self.graph.operands(id))),
            _ => None,
        }
    }

    fn is_pointwise(&self, id: NodeId) -> bool {
        matches!(self.graph.node(id).kind, NodeKind::Op(Op::Pointwise { .. }))
    }

    fn same_shape(&self, a: NodeId, b: NodeId) -> bool {
        let shape = |id| &self.graph.node(id).results[0].shape;
        shape(a).same_extents(shape(b))
    }

    /// Results of a node that something else than `reader` reads, or that the graph exists for.
    fn read_elsewhere(&self, id: NodeId, reader: NodeId) -> Vec<u16> {
        let outputs = self.graph.outputs();
        let needed = |&result: &u16| {
            let value = Value { node: id, result };
            outputs.iter().any(|&(_, output)| output == value)
                || self.graph.uses(value).iter().any(|&(other, _)| other != reader)
        };
        (0..self.graph.node(id).results.len() as u16).filter(needed).collect()
    }

    /// Makes `second` the operation that does the work of `first` as well, and removes `first`. `moved` are the results of
    /// `first` that stay, with their numbers there and in the joined operation. False if `second` depends on another
    /// reader of `first`.
    fn absorb(
        &mut self,
        first: NodeId,
        second: NodeId,
        op: Op,
        operands: &[Value],
        moved: &[(u16, u16)],
    ) -> bool {
        if !self.order.joins(&self.graph, first, second) {
            return false;
        }
        self.order.join(&self.graph, first, second);
        let own = self.graph.node(second).results.iter().map(|ty| ty.dtype);
        let mut formats: Vec<DType> = own.collect();
        formats
            .extend(moved.iter().map(|&(r, _)| self.graph.node(first).results[r as usize].dtype));
        self.rewrite(second, op, operands, &formats);
        for &(old, new) in moved {
            let old = Value { node: first, result: old };
            self.graph.replace(old, Value { node: second, result: new });
        }
        self.graph.move_controls(first, second);
        self.graph.remove(first);
        true
    }

    fn rewrite(&mut self, id: NodeId, op: Op, operands: &[Value], formats: &[DType]) {
        let rewritten = self.graph.rewrite(id, op, operands, formats, PASS);
        rewritten.expect("a joined operation takes what its parts took");
    }

    /// Takes out of a program what nothing reads any more.
    fn drop_unread(&mut self, id: NodeId) {
        let Some((program, operands)) = self.pointwise(id) else { return };
        let read = self.read_elsewhere(id, id);
        if read.is_empty() {
            return self.graph.remove(id);
        }
        if read.len() == program.outputs.len() {
            return;
        }
        let mut joined = join::Joined::default();
        let made = joined.apply(program, &operands);
        let outputs: Vec<_> =
            read.iter().map(|&r| (made[r as usize], program.outputs[r as usize].dtype)).collect();
        let formats: Vec<DType> = outputs.iter().map(|&(_, dtype)| dtype).collect();
        let Some((program, operands)) = joined.finish(&outputs) else { return };
        // Readers first: a result only ever moves to a number that is free by then.
        for (new, &old) in read.iter().enumerate() {
            let (old, new) =
                (Value { node: id, result: old }, Value { node: id, result: new as u16 });
            if old != new {
                self.graph.replace(old, new);
            }
        }
        self.rewrite(id, Op::Pointwise { program }, &operands, &formats);
    }
}
