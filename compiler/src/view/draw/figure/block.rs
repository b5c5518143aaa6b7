//! What a figure shows of a box: its parts and which reads which.
//!
//! Owns what is left out of figures: views, parameters and tables, inputs beside the tokens, and everything behind the
//! forward pass. Must not know where things are drawn.

use std::collections::BTreeMap;

use super::super::inner;
use crate::view::picture::model::{BoxKind, Node, NodeKind, Stage, Use};
use crate::view::text::count;

/// How a part looks.
pub(super) enum Shape {
    /// Where values come in or go out.
    Port,
    /// A bend of an edge that passes a layer.
    Bend,
    /// A low-rank pair.
    Pair { inputs: u64, rank: u64, outputs: u64, activation: String },
    /// A dense linear.
    Dense { inputs: u64, outputs: u64 },
    /// An operation.
    Operation(NodeKind),
    /// A sum or a product.
    Sign(char),
    /// A box with its parts.
    Frame(Block),
    /// Turns of a repeat that the figure shows elsewhere, or a linear that is not to scale.
    Card { stacked: bool, note: String },
}

/// A part.
pub(super) struct Item {
    pub(super) name: String,
    pub(super) shape: Shape,
}

/// Parts and edges; the first part is where values come in, the last where they go out.
pub(super) struct Block {
    pub(super) items: Vec<Item>,
    pub(super) edges: Vec<(usize, usize)>,
}

/// How much of a box is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Its parts as cards.
    Cards,
    /// Everything in it, linears to scale.
    All,
}

/// The parts of a box. `None` where the forward pass does nothing in it.
pub(super) fn block(stage: &Stage, around: usize, depth: Depth) -> Option<Block> {
    let mut building = Building { stage, item_of: BTreeMap::new(), block: Block::empty() };
    let mut starts: Vec<(usize, Item, Vec<usize>)> = Vec::new();
    for index in inner(stage, around) {
        let nodes = building.shown_in(index);
        let Some(&first) = nodes.first() else { continue };
        starts.push((first, part(stage, index, depth)?, nodes));
    }
    for (index, node) in stage.nodes.iter().enumerate().filter(|(_, node)| node.parent == around) {
        if is_shown(node) {
            starts.push((index, operation(node), vec![index]));
        }
    }
    starts.sort_by_key(|(first, ..)| *first);
    for (_, item, nodes) in starts {
        let number = building.block.items.len();
        building.item_of.extend(nodes.into_iter().map(|node| (node, number)));
        building.block.items.push(item);
    }
    building.block.items.push(Item { name: String::new(), shape: Shape::Port });
    building.connect();
    (building.block.items.len() > 2).then_some(building.block)
}

fn is_shown(node: &Node) -> bool {
    let supplied = matches!(
        node.kind,
        NodeKind::View | NodeKind::Parameter | NodeKind::Constant | NodeKind::Input
    );
    !supplied && node.phase == "forward"
}

/// A box as a part of the one around it.
fn part(stage: &Stage, index: usize, depth: Depth) -> Option<Item> {
    let one = &stage.boxes[index];
    let parameters = || match one.total.parameters {
        0 => String::new(),
        number => format!("{} parameters", count(number as f64)),
    };
    let card = |stacked: bool| Shape::Card { stacked, note: parameters() };
    let shape = match (depth, one.kind, &one.pair) {
        (Depth::Cards, BoxKind::Fold, _) => card(true),
        // A part with layers in it opens, so that they are seen.
        (Depth::Cards, BoxKind::Module, _) if has_turns(stage, index) => {
            Shape::Frame(block(stage, index, depth)?)
        }
        (Depth::Cards, ..) => card(false),
        (Depth::All, BoxKind::Pair, Some(pair)) => Shape::Pair {
            inputs: pair.inputs,
            rank: pair.rank,
            outputs: pair.outputs,
            activation: pair.activation.clone(),
        },
        (Depth::All, BoxKind::Linear, _) => dense(stage, index),
        // A fold and the turn that stands for its turns are one frame.
        (Depth::All, BoxKind::Fold, _) => {
            Shape::Frame(block(stage, inner(stage, index).next()?, depth)?)
        }
        (Depth::All, ..) => Shape::Frame(block(stage, index, depth)?),
    };
    let name = match (depth, one.kind, one.first, one.last) {
        (Depth::Cards, BoxKind::Turn, ..) => one.path.clone(),
        // Where layers differ, it matters which these are.
        (Depth::Cards, BoxKind::Fold, Some(first), Some(last)) if is_parted(stage, index) => {
            format!("{} ({first}–{last})", one.label)
        }
        _ => one.label.clone(),
    };
    Some(Item { name, shape })
}

/// Whether something repeats directly in a box or in a labelled part of it.
fn has_turns(stage: &Stage, index: usize) -> bool {
    inner(stage, index).any(|one| match stage.boxes[one].kind {
        BoxKind::Fold | BoxKind::Turn => true,
        BoxKind::Module => has_turns(stage, one),
        _ => false,
    })
}

/// Whether a fold stands for only some turns of its repeat.
fn is_parted(stage: &Stage, index: usize) -> bool {
    let turns = |kind| matches!(kind, BoxKind::Fold | BoxKind::Turn);
    let parent = stage.boxes[index].parent;
    let siblings = stage.boxes.iter().filter(|one| one.parent == parent && turns(one.kind));
    siblings.count() > 1
}

/// A dense linear with the widths of its weight.
fn dense(stage: &Stage, index: usize) -> Shape {
    let weight = stage.nodes.iter().find(|node| {
        node.parent == index && node.kind == NodeKind::Product && node.phase == "forward"
    });
    let widths = weight.map(|node| {
        let width = |value: usize| {
            let shape = stage.values[value].shape.trim_end_matches(']');
            let last = shape.rsplit([',', '[', ' ']).next().unwrap_or_default();
            last.parse().unwrap_or(0)
        };
        (width(node.operands[0].value), width(node.results[0]))
    });
    match widths {
        Some((inputs, outputs)) => Shape::Dense { inputs, outputs },
        None => Shape::Card { stacked: false, note: String::new() },
    }
}

/// A node as a part.
fn operation(node: &Node) -> Item {
    let sign = match node.detail.as_deref().map(|detail| detail.trim_matches(['{', '}', ' '])) {
        Some("a + b") => Some('+'),
        Some("a * b") => Some('×'),
        _ => None,
    };
    match sign.filter(|_| node.label == node.op) {
        Some(sign) => Item { name: String::new(), shape: Shape::Sign(sign) },
        None => Item { name: node.label.clone(), shape: Shape::Operation(node.kind) },
    }
}

struct Building<'s> {
    stage: &'s Stage,
    /// By node: the part that it is in.
    item_of: BTreeMap<usize, usize>,
    block: Block,
}

impl Block {
    fn empty() -> Block {
        let port = Item { name: String::new(), shape: Shape::Port };
        Block { items: vec![port], edges: Vec::new() }
    }
}

impl Building<'_> {
    /// Nodes that are shown in a box of this block.
    fn shown_in(&self, index: usize) -> Vec<usize> {
        let inside = |node: &Node| {
            let mut around = Some(node.parent);
            while let Some(outer) = around {
                if outer == index {
                    return true;
                }
                around = self.stage.boxes[outer].parent;
            }
            false
        };
        let nodes = self.stage.nodes.iter().enumerate();
        nodes.filter(|(_, n)| is_shown(n) && inside(n)).map(|(index, _)| index).collect()
    }

    fn connect(&mut self) {
        let out = self.block.items.len() - 1;
        let readers: Vec<(usize, usize)> =
            self.item_of.iter().map(|(&node, &item)| (node, item)).collect();
        for (node, item) in readers {
            for operand in &self.stage.nodes[node].operands {
                for source in self.sources(operand, item) {
                    self.edge(source, item);
                }
            }
        }
        for item in 1..out {
            if !self.block.edges.iter().any(|&(from, _)| from == item) {
                self.block.edges.push((item, out));
            }
        }
    }

    /// Adds an edge, unless it is there or would close a ring: a part that is entered twice is drawn as entered once.
    fn edge(&mut self, from: usize, to: usize) {
        let edges = &mut self.block.edges;
        if from == to || edges.contains(&(from, to)) {
            return;
        }
        let mut reached = vec![to];
        let mut at = 0;
        while at < reached.len() {
            let here = reached[at];
            for &(a, b) in edges.iter() {
                if a == here && !reached.contains(&b) {
                    reached.push(b);
                }
            }
            at += 1;
        }
        if !reached.contains(&from) {
            edges.push((from, to));
        }
    }

    /// The parts that an operand comes from; 0 where it comes from outside.
    fn sources(&self, operand: &Use, reader: usize) -> Vec<usize> {
        let maker = self.stage.values[operand.value].node;
        let node = &self.stage.nodes[maker];
        if let Some(carried) = &operand.carried {
            // Seen from outside of the repeat, only what comes in counts; seen from inside, the turn before is outside.
            return match self.item_of.get(&maker) == Some(&reader) {
                true => self.sources(&carried.outside, reader),
                false => vec![0],
            };
        }
        match node.kind {
            NodeKind::Parameter | NodeKind::Constant => Vec::new(),
            NodeKind::Input if HOST.contains(&node.op) => Vec::new(),
            NodeKind::View => {
                node.operands.iter().flat_map(|operand| self.sources(operand, reader)).collect()
            }
            _ => vec![self.item_of.get(&maker).copied().unwrap_or(0)],
        }
    }
}

/// Inputs that no figure shows: what a text is compared with, and what the host sets.
const HOST: [&str; 3] = ["labels", "loss_scale", "dropout_draw"];
