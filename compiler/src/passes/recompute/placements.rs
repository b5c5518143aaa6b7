//! Finer choices than whole policies: which operations of which blocks keep their results.
//!
//! A block's choice is a set of its *kinds*: operations whose results its backward pass reads. A choice has two numbers:
//! bytes that live, and the price of making the rest again. Blocks that are alike have the same best choices, those that
//! no other beats in both. From the choice that keeps least in every block, single blocks are then upgraded, the
//! upgrade that saves most for its bytes first, later blocks before earlier ones (their backward pass begins while all
//! others still live). What comes of it is a list, from little memory to little work. A second one begins with the last
//! block keeping all: at the end of the forward pass its values live anyway, and then nothing is made again beside all
//! that the other blocks keep. A small model has all combinations of all choices in its list.
//!
//! Owns these lists. Must not know budgets: no list depends on one, so that more memory never means more work.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::{Graph, NodeId, NodeKind, Value};
use crate::passes::recompute::blocks::Blocks;
use crate::passes::recompute::keep::{Keep, needed};
use crate::passes::recompute::price;

/// Blocks of so few kinds have all choices tried; of more, those are that differ by one operation from the best so far.
const MOST_KINDS_TRIED: usize = 10;

/// Models with so few ways to combine the best choices of their blocks have all of them listed.
const MOST_COMBINATIONS: usize = 600;

/// Which of a block's kinds keep their results, in the order of [`Block::kinds`].
type Choice = Vec<bool>;

/// A choice with the bytes that live and the price of the rest.
type Rated = (Choice, u64, u64);

/// One way to place what lives, for all blocks.
#[derive(Clone, Debug)]
pub(super) struct Placement {
    /// Bytes that live.
    pub(super) bytes: u64,
    /// Price of what is made again.
    pub(super) price: u64,
    choices: Vec<Choice>,
}

/// A block's part of the question.
#[derive(Clone, Debug)]
struct Block {
    /// Operations whose results the backward pass reads.
    kinds: Vec<NodeId>,
    /// Root values of the block that the backward pass reads and that a choice may keep or not.
    needed: Vec<Value>,
    /// What blocks of one class have in common: names, bytes and prices of the kinds.
    class: Vec<(String, u64, u64)>,
}

/// The placements of a graph, from the least bytes on.
pub(super) struct Placements<'g> {
    graph: &'g Graph,
    blocks: &'g Blocks,
    parts: Vec<Block>,
    prices: BTreeMap<NodeId, u64>,
    /// The lists, each from the least bytes on.
    pub(super) lists: Vec<Vec<Placement>>,
}

impl<'g> Placements<'g> {
    /// Finds them.
    pub(super) fn of(graph: &'g Graph, blocks: &'g Blocks) -> Placements<'g> {
        let prices = blocks.forward().iter().map(|&id| (id, price(graph, id))).collect();
        let (parts, none) = (Vec::new(), Vec::new());
        let mut placements = Placements { graph, blocks, parts, prices, lists: none };
        placements.parts = placements.find_parts();
        let mut known: BTreeMap<&[(String, u64, u64)], Vec<Rated>> = BTreeMap::new();
        for part in &placements.parts {
            known.entry(&part.class).or_insert_with(|| placements.choices(part));
        }
        let choices: Vec<Vec<Rated>> =
            placements.parts.iter().map(|part| known[&part.class[..]].clone()).collect();
        placements.lists = lists(&choices);
        placements
    }

    /// What lives in a placement.
    pub(super) fn keep(&self, placement: &Placement) -> Keep {
        let mut keep = Keep::default();
        for &id in self.blocks.forward() {
            for result in 0..self.graph.node(id).results.len() as u16 {
                let value = Value { node: id, result };
                if self.blocks.is_fixed(value) || self.blocks.crosses(value) {
                    keep.lives.insert(value);
                }
            }
        }
        for (part, choice) in self.parts.iter().zip(&placement.choices) {
            let kept: BTreeSet<NodeId> = chosen(part, choice).collect();
            keep.lives.extend(part.needed.iter().filter(|value| kept.contains(&value.node)));
        }
        keep
    }

    /// A placement in words: runs of blocks with the operations that keep their results.
    pub(super) fn describe(&self, placement: &Placement) -> String {
        let words = |index: usize| {
            let (part, choice) = (&self.parts[index], &placement.choices[index]);
            let names: Vec<&str> = part
                .class
                .iter()
                .zip(choice)
                .filter(|(_, chosen)| **chosen)
                .map(|((name, ..), _)| name.as_str())
                .collect();
            match names.is_empty() {
                true => "nothing".to_owned(),
                false => names.join(", "),
            }
        };
        let path = |index: usize| {
            let scope = self.blocks.scope(index as u32);
            self.graph.scopes()[scope.0 as usize].path.as_str()
        };
        let mut runs: Vec<(usize, usize, String)> = Vec::new();
        for index in 0..self.parts.len() {
            let words = words(index);
            match runs.last_mut() {
                Some((_, last, same)) if *same == words => *last = index,
                _ => runs.push((index, index, words)),
            }
        }
        let run = |(first, last, words): &(usize, usize, String)| match first == last {
            true => format!("{} keeps {words}", path(*first)),
            false => format!("{} to {} keep {words}", path(*first), path(*last)),
        };
        runs.iter().map(run).collect::<Vec<_>>().join("; ")
    }

    fn find_parts(&self) -> Vec<Block> {
        let needed = needed(self.graph, self.blocks);
        let mut parts: Vec<Block> = (0..self.blocks.len())
            .map(|_| Block { kinds: Vec::new(), needed: Vec::new(), class: Vec::new() })
            .collect();
        for &value in &needed {
            let fixed = self.blocks.is_fixed(value) || self.blocks.crosses(value);
            let Some(block) = self.blocks.block(value.node).filter(|_| !fixed) else { continue };
            parts[block as usize].needed.push(value);
        }
        for (index, part) in parts.iter_mut().enumerate() {
            let makers: BTreeSet<NodeId> = part.needed.iter().map(|value| value.node).collect();
            let in_order = self.blocks.forward().iter().copied();
            part.kinds = in_order.filter(|id| makers.contains(id)).collect();
            let scope = self.blocks.scope(index as u32);
            let scope = &self.graph.scopes()[scope.0 as usize].path;
            for &kind in &part.kinds {
                let path = &self.graph.node(kind).origin.path;
                let inner = path.strip_prefix(scope.as_str()).unwrap_or(path);
                let op = match &self.graph.node(kind).kind {
                    NodeKind::Op(op) => op.name(),
                    _ => "",
                };
                let name = format!("{op} {}", inner.trim_start_matches('.')).trim_end().to_owned();
                let results = part.needed.iter().filter(|value| value.node == kind);
                let bytes = results.map(|&value| self.graph.ty(value).bytes()).sum();
                part.class.push((name, bytes, self.prices[&kind]));
            }
        }
        parts
    }

    /// Bytes and price of a choice.
    fn evaluate(&self, part: &Block, choice: &Choice) -> (u64, u64) {
        let kept: BTreeSet<NodeId> = chosen(part, choice).collect();
        let (mut live, mut clones) = (BTreeSet::new(), BTreeSet::new());
        let mut open: Vec<Value> = part.needed.clone();
        while let Some(value) = open.pop() {
            let is_operation = matches!(self.graph.node(value.node).kind, NodeKind::Op(_));
            if !is_operation || self.blocks.is_fixed(value) || self.blocks.crosses(value) {
                continue;
            }
            if kept.contains(&value.node) {
                live.insert(value);
            } else if clones.insert(value.node) {
                let operands = self.graph.operands(value.node);
                open.extend(operands.into_iter().map(|operand| self.graph.root(operand)));
            }
        }
        let bytes = live.iter().map(|&value| self.graph.ty(value).bytes()).sum();
        let price = clones.iter().map(|clone| self.prices.get(clone).copied().unwrap_or(0)).sum();
        (bytes, price)
    }

    /// Choices of a block, from the least bytes on.
    fn choices(&self, part: &Block) -> Vec<Rated> {
        let kinds = part.kinds.len();
        let mut tried: BTreeMap<Choice, (u64, u64)> = BTreeMap::new();
        let mut attempt = |choice: Choice| -> (u64, u64) {
            if let Some(&known) = tried.get(&choice) {
                return known;
            }
            let found = self.evaluate(part, &choice);
            tried.insert(choice, found);
            found
        };
        if kinds <= MOST_KINDS_TRIED {
            for bits in 0..1u32 << kinds {
                attempt((0..kinds).map(|kind| bits >> kind & 1 == 1).collect());
            }
        } else {
            for start in [false, true] {
                let mut choice = vec![start; kinds];
                let mut now = attempt(choice.clone());
                loop {
                    // The change by which most is saved for what it costs; products of differences, so that no division
                    // rounds.
                    let mut best: Option<(usize, u128, u128)> = None;
                    for kind in (0..kinds).filter(|&kind| choice[kind] == start) {
                        let mut changed = choice.clone();
                        changed[kind] = !start;
                        let then = attempt(changed);
                        let bytes = u128::from(then.0.abs_diff(now.0));
                        let price = u128::from(then.1.abs_diff(now.1));
                        let (gain, loss) = if start { (bytes, price) } else { (price, bytes) };
                        if best.is_none_or(|(_, g, l)| gain * l.max(1) > g * loss.max(1)) {
                            best = Some((kind, gain, loss));
                        }
                    }
                    let Some((kind, ..)) = best else { break };
                    choice[kind] = !start;
                    now = attempt(choice.clone());
                }
            }
        }
        let mut all: Vec<Rated> =
            tried.into_iter().map(|(choice, (bytes, price))| (choice, bytes, price)).collect();
        all.sort_by(|a, b| (a.1, a.2, &a.0).cmp(&(b.1, b.2, &b.0)));
        all
    }
}

fn chosen<'a>(part: &'a Block, choice: &'a Choice) -> impl Iterator<Item = NodeId> + 'a {
    part.kinds.iter().zip(choice).filter(|(_, chosen)| **chosen).map(|(kind, _)| *kind)
}

/// The choices that no other beats in bytes and price; both lists are ordered by bytes.
fn front(all: &[Rated]) -> Vec<Rated> {
    let mut front: Vec<Rated> = Vec::new();
    for one in all {
        if front.last().is_none_or(|last| one.2 < last.2) {
            front.push(one.clone());
        }
    }
    front
}

/// The placement that takes one choice for each block.
fn placement(choices: &[Vec<Rated>], picks: &[usize]) -> Placement {
    let picked = || choices.iter().zip(picks).map(|(choices, &pick)| &choices[pick]);
    Placement {
        bytes: picked().map(|choice| choice.1).sum(),
        price: picked().map(|choice| choice.2).sum(),
        choices: picked().map(|choice| choice.0.clone()).collect(),
    }
}

/// The lists of a model from the choices of its blocks.
fn lists(choices: &[Vec<Rated>]) -> Vec<Vec<Placement>> {
    let few = |choices: &[Vec<Rated>]| {
        let sizes = choices.iter().map(Vec::len);
        let count = sizes.fold(1usize, usize::saturating_mul);
        (count <= MOST_COMBINATIONS).then_some(count)
    };
    let fronts: Vec<Vec<Rated>> = choices.iter().map(|all| front(all)).collect();
    let (combined, count) = match (few(choices), few(&fronts)) {
        (Some(count), _) => (choices, count),
        (None, Some(count)) => (&fronts[..], count),
        (None, None) => {
            let mut picks = vec![0; fronts.len()];
            let plain = chain(&fronts, picks.clone());
            if let (Some(pick), Some(front)) = (picks.last_mut(), fronts.last()) {
                *pick = front.len() - 1;
            }
            return vec![plain, chain(&fronts, picks)];
        }
    };
    let mut list: Vec<Placement> = (0..count)
        .map(|mut number| {
            let pick = |choices: &Vec<Rated>| {
                let pick = number % choices.len();
                number /= choices.len();
                pick
            };
            let picks: Vec<usize> = combined.iter().map(pick).collect();
            placement(combined, &picks)
        })
        .collect();
    list.sort_by_key(|one| (one.bytes, one.price));
    vec![list]
}

/// Upgrades single blocks, the upgrade that saves most for its bytes first, until all keep everything.
fn chain(fronts: &[Vec<Rated>], mut picks: Vec<usize>) -> Vec<Placement> {
    let mut list = vec![placement(fronts, &picks)];
    let steps: Vec<Vec<usize>> = fronts.iter().map(|front| hull(front)).collect();
    loop {
        let upgrade = |block: usize| -> Option<(usize, u128, u128)> {
            let next = steps[block].iter().copied().find(|&step| step > picks[block])?;
            let (now, then) = (&fronts[block][picks[block]], &fronts[block][next]);
            Some((next, u128::from(now.2 - then.2), u128::from(then.1 - now.1)))
        };
        let mut best: Option<(usize, usize, u128, u128)> = None;
        for block in 0..fronts.len() {
            // Of blocks that are alike the last is first.
            if let Some((next, gain, loss)) = upgrade(block)
                && best.is_none_or(|(_, _, g, l)| gain * l.max(1) >= g * loss.max(1))
            {
                best = Some((block, next, gain, loss));
            }
        }
        let Some((block, next, ..)) = best else { return list };
        picks[block] = next;
        list.push(placement(fronts, &picks));
    }
}

/// The choices of a front between which each step saves less for its bytes than the one before: its lower convex hull.
fn hull(front: &[Rated]) -> Vec<usize> {
    let mut hull: Vec<usize> = Vec::new();
    let slope = |a: usize, b: usize| {
        (u128::from(front[a].2 - front[b].2), u128::from(front[b].1 - front[a].1))
    };
    for next in 0..front.len() {
        while let [.., a, b] = hull[..] {
            let ((first, over), (second, under)) = (slope(a, b), slope(b, next));
            if first * under.max(1) > second * over.max(1) {
                break;
            }
            hull.pop();
        }
        hull.push(next);
    }
    hull
}
