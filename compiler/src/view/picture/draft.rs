//! A stage before it has boxes: nodes that know the turn and the path they come from.
//!
//! Owns how turns and paths become nested boxes. A path is a box where something lies below it or where it names a
//! linear; what else a path names is a node. Must not know whether the nodes come from a graph or from a plan.

use std::collections::{BTreeMap, BTreeSet};

use colac_plan::plan::{Decision, LinearReport};

use super::model::{Box, BoxKind, Node, NodeKind, Pair, Stage, Total, Value};

/// One turn of a repeat.
#[derive(Clone, Debug)]
pub(super) struct Turn {
    /// Its path: `layers.3`. Nodes of turns that share their parameters have paths without the number.
    pub(super) path: String,
    /// Which turn, from 0.
    pub(super) index: u64,
    /// The turn around it.
    pub(super) parent: Option<usize>,
}

/// A node, and the turn that it belongs to.
#[derive(Clone, Debug)]
pub(super) struct Drafted {
    pub(super) turn: Option<usize>,
    pub(super) node: Node,
}

/// Nodes in order, with their values.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft {
    pub(super) turns: Vec<Turn>,
    pub(super) nodes: Vec<Drafted>,
    pub(super) values: Vec<Value>,
}

/// What boxes say of linears.
pub(super) struct Linears<'p> {
    pub(super) reports: &'p [LinearReport],
    /// Whether those that are to be rewritten have been.
    pub(super) rewritten: bool,
    /// Token positions of one execution.
    pub(super) positions: u64,
}

impl Draft {
    /// The innermost turn that a path lies in: the first of those that share it.
    pub(super) fn turn_of(&self, path: &str) -> Option<usize> {
        let inside = |turn: &Turn| is_within(path, &turn.path);
        let longest = self.turns.iter().filter(|t| inside(t)).map(|t| t.path.len()).max()?;
        self.turns.iter().position(|turn| inside(turn) && turn.path.len() == longest)
    }

    /// The stage with its boxes, nothing folded yet.
    pub(super) fn enclose(
        self,
        (name, title): (&'static str, &'static str),
        linears: &Linears<'_>,
    ) -> Stage {
        let mut boxes = Boxes::new(&self, linears);
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for Drafted { turn, mut node } in self.nodes {
            (node.parent, node.label) = boxes.place(turn, &node);
            nodes.push(node);
        }
        let values = self.values;
        Stage { name, title, boxes: boxes.boxes, nodes, values }
    }
}

/// Whether a path is another one or lies below it.
fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The boxes of a stage while they are made.
struct Boxes<'p> {
    turns: Vec<Turn>,
    /// By turn: what the paths of its nodes begin with.
    bases: Vec<String>,
    linears: BTreeMap<&'p str, &'p LinearReport>,
    rewritten: bool,
    positions: u64,
    /// Paths below which something lies.
    outer: BTreeSet<String>,
    /// For members of groups: the path of the group.
    groups: BTreeMap<String, String>,
    known: BTreeMap<(Option<usize>, String), usize>,
    boxes: Vec<Box>,
}

impl<'p> Boxes<'p> {
    fn new(draft: &Draft, linears: &Linears<'p>) -> Boxes<'p> {
        let by_path = linears.reports.iter().map(|report| (report.path.as_str(), report));
        let mut outer = BTreeSet::new();
        let mut groups = BTreeMap::new();
        for Drafted { node, .. } in &draft.nodes {
            let parts = parts(&node.path);
            let mut path = String::new();
            for (depth, part) in parts.iter().enumerate() {
                let around = path.clone();
                path = below(&path, part);
                if let Some(members) = members(part) {
                    for member in members {
                        groups.entry(below(&around, member)).or_insert_with(|| path.clone());
                    }
                    outer.insert(path.clone());
                }
                // What is only read makes no box: neither of a norm that has a weight, nor of a program that has inputs.
                if depth + 1 < parts.len() && !is_supplied(node.kind) {
                    outer.insert(path.clone());
                }
            }
        }
        let model = Box {
            path: String::new(),
            label: "model".to_owned(),
            parent: None,
            kind: BoxKind::Model,
            times: 1,
            first: None,
            last: None,
            pair: None,
            reason: None,
            total: Total::default(),
        };
        Boxes {
            bases: bases(draft),
            turns: draft.turns.clone(),
            linears: by_path.collect(),
            rewritten: linears.rewritten,
            positions: linears.positions,
            outer,
            groups,
            known: BTreeMap::new(),
            boxes: vec![model],
        }
    }

    /// The box of a node and its name in it.
    fn place(&mut self, turn: Option<usize>, node: &Node) -> (usize, String) {
        let base = turn.map_or(String::new(), |turn| self.bases[turn].clone());
        let mut inside = turn.map_or(0, |turn| self.turn(turn));
        let foreign = match turn {
            Some(_) => !is_within(&node.path, &base),
            None => self.bases.iter().any(|base| is_within(&node.path, base)),
        };
        // What is computed in a turn and named after something outside of it, or the reverse, stays where it is computed.
        if foreign {
            return (inside, name(&node.path, node.op));
        }
        let mut path = base.clone();
        let mut rest = node.path[base.len()..].trim_start_matches('.');
        for part in parts(rest) {
            let next = below(&path, part);
            if !self.outer.contains(&next) && !self.linears.contains_key(next.as_str()) {
                break;
            }
            inside = self.module(turn, next.clone(), inside, part);
            path = next;
            rest = rest[part.len()..].trim_start_matches('.');
        }
        (inside, name(rest, node.op))
    }

    fn turn(&mut self, turn: usize) -> usize {
        let Turn { path, index, parent } = self.turns[turn].clone();
        let key = (Some(turn), String::new());
        if let Some(&known) = self.known.get(&key) {
            return known;
        }
        let mut around = parent.map_or(0, |parent| self.turn(parent));
        let outer = parent.map_or(String::new(), |parent| self.turns[parent].path.clone());
        let own = path[outer.len()..].trim_start_matches('.').to_owned();
        // A repeat may stand in a labelled part.
        let mut inside = parent.map_or(String::new(), |parent| self.bases[parent].clone());
        let all = parts(&own);
        let (labels, turn_label) = all.split_at(all.len().saturating_sub(2));
        for part in labels {
            inside = below(&inside, part);
            if self.outer.contains(&inside) {
                around = self.module(parent, inside.clone(), around, part);
            }
        }
        let label = turn_label.join(".");
        let made = self.push(path, label, around, BoxKind::Turn);
        (self.boxes[made].first, self.boxes[made].last) = (Some(index), Some(index));
        self.known.insert(key, made);
        made
    }

    fn module(&mut self, turn: Option<usize>, path: String, around: usize, label: &str) -> usize {
        let key = (turn, path.clone());
        if let Some(&known) = self.known.get(&key) {
            return known;
        }
        let around = match self.groups.get(&path).cloned() {
            Some(group) => {
                let base = turn.map_or(0, |turn| self.bases[turn].len());
                let label = group[base..].trim_start_matches('.').rsplit_once(".{");
                let label = label.map_or_else(
                    || group[base..].trim_start_matches('.').to_owned(),
                    |(_, inner)| format!("{{{inner}"),
                );
                self.module(turn, group, around, &label)
            }
            None => around,
        };
        let made = self.push(path.clone(), label.to_owned(), around, BoxKind::Module);
        if members(label).is_some() {
            self.boxes[made].kind = BoxKind::Group;
        }
        if let Some(report) = self.linears.get(path.as_str()).copied() {
            self.describe(made, report);
        }
        self.known.insert(key, made);
        made
    }

    fn describe(&mut self, made: usize, report: &LinearReport) {
        let described = &mut self.boxes[made];
        described.kind = BoxKind::Linear;
        match &report.decision {
            Decision::KeptDense { reason } => described.reason = Some(reason.clone()),
            Decision::Rewritten { rank, activation } if self.rewritten => {
                let (inputs, outputs) = (report.inputs, report.outputs);
                let (dense, weights) = (inputs * outputs, rank * (inputs + outputs));
                described.kind = BoxKind::Pair;
                described.pair = Some(Pair {
                    inputs,
                    rank: *rank,
                    outputs,
                    activation: activation.clone(),
                    dense_parameters: dense,
                    parameters: weights,
                    dense_flops: 2 * self.positions * dense,
                    flops: 2 * self.positions * weights,
                });
            }
            Decision::Rewritten { .. } => {}
        }
    }

    fn push(&mut self, path: String, label: String, parent: usize, kind: BoxKind) -> usize {
        self.boxes.push(Box {
            path,
            label,
            parent: Some(parent),
            kind,
            times: 1,
            first: None,
            last: None,
            pair: None,
            reason: None,
            total: Total::default(),
        });
        self.boxes.len() - 1
    }
}

/// What the paths of a turn's nodes begin with: the turn's path, or where turns share their parameters and with them the
/// paths of nodes, that of the repeat.
fn bases(draft: &Draft) -> Vec<String> {
    let mut bases: Vec<String> = Vec::with_capacity(draft.turns.len());
    for (index, turn) in draft.turns.iter().enumerate() {
        let (outer, base) = match turn.parent {
            Some(parent) => (draft.turns[parent].path.as_str(), bases[parent].as_str()),
            None => ("", ""),
        };
        let numbered = below(base, turn.path[outer.len()..].trim_start_matches('.'));
        let shared = numbered.rsplit_once('.').map_or("", |(repeat, _)| repeat).to_owned();
        let is_inside = |mut inner: usize| loop {
            match draft.turns[inner].parent {
                _ if inner == index => break true,
                Some(parent) => inner = parent,
                None => break false,
            }
        };
        let own = draft.nodes.iter().filter(|drafted| drafted.turn.is_some_and(is_inside));
        let bears_number =
            own.map(|drafted| &drafted.node.path).any(|path| is_within(path, &numbered));
        bases.push(if bears_number { numbered } else { shared });
    }
    bases
}

/// Whether a node is there without being computed.
fn is_supplied(kind: NodeKind) -> bool {
    matches!(kind, NodeKind::Parameter | NodeKind::Input | NodeKind::Constant)
}

/// A node's name in its box: what is left of its path, or what it does.
fn name(rest: &str, op: &str) -> String {
    if rest.is_empty() { op.to_owned() } else { rest.to_owned() }
}

fn below(path: &str, part: &str) -> String {
    if path.is_empty() { part.to_owned() } else { format!("{path}.{part}") }
}

/// The parts of a path between dots; several names in braces are one part.
fn parts(path: &str) -> Vec<&str> {
    let mut depth = 0;
    let split = path.split(move |c| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == '.' && depth == 0
    });
    split.filter(|part| !part.is_empty()).collect()
}

/// The names in braces.
fn members(part: &str) -> Option<impl Iterator<Item = &str>> {
    Some(part.strip_prefix('{')?.strip_suffix('}')?.split(','))
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn several_names_are_one_part() {
        assert_eq!(parts("layers.0.{q,mlp.up}.down"), ["layers", "0", "{q,mlp.up}", "down"]);
        assert_eq!(parts(""), [""; 0]);
    }
}
