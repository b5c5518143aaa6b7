//! Identical turns of a repeat as one.
//!
//! Owns what identical means: the same boxes, operations, shapes, costs, decisions and kept marks, read from the same
//! place as seen from the turn. Only turns that follow each other fold. A turn that differs in anything stands alone; so
//! does one of which something is read that is not read of its neighbours, unless it is the first or the last of those
//! that fold. Must not know graphs or plans.
//!
//! ```text
//! layers.0 … layers.6, layers.7 of another rank, layers.8 … layers.31
//! layers.0-6 × 7       layers.7                  layers.8-31 × 24
//! ```

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Box, BoxKind, Carried, Node, Stage, Use, Value};

/// Folds a stage in which nothing is folded yet.
pub(super) fn fold(stage: Stage) -> Stage {
    let mut folding = Folding::new(stage);
    // Repeats within a turn are folded once, in the turn that stands for the others.
    let mut waiting = vec![0];
    while let Some(around) = waiting.pop() {
        for turns in folding.repeats(around) {
            folding.repeat(&turns);
        }
        let alive = |&inner: &usize| folding.run_of_box[inner].is_none_or(|(_, turn)| turn == 0);
        let inner = folding.children[around].iter().copied().filter(alive);
        waiting.extend(inner.collect::<Vec<_>>());
    }
    folding.finish()
}

/// Where an operand of a turn comes from, as seen from the turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Value number so and so of the turn itself.
    Own(usize),
    /// Value number so and so of the turn before.
    Before(usize),
    /// Value number so and so of the turn after.
    After(usize),
    /// A value that lies elsewhere.
    Elsewhere(usize),
}

/// Turns that follow each other and are identical.
struct Run {
    /// Boxes; the first stands for all.
    turns: Vec<usize>,
}

/// An operand that the other turns of a run read from a neighbour.
#[derive(Clone, Copy)]
struct Neighbour {
    run: usize,
    turn: i8,
    /// The value in the first turn.
    value: usize,
    /// The node that has no such neighbour.
    end: usize,
}

/// What is inside of a turn, in order.
struct Content {
    boxes: Vec<usize>,
    nodes: Vec<usize>,
    values: Vec<usize>,
}

struct Folding {
    stage: Stage,
    children: Vec<Vec<usize>>,
    nodes_of: Vec<Vec<usize>>,
    runs: Vec<Run>,
    /// By box of a turn: its run and its place in it.
    run_of_box: Vec<Option<(usize, usize)>>,
    /// By value in a turn that another one stands for: the value that stands for it, from the innermost run outwards.
    stands_for: BTreeMap<usize, usize>,
    /// By node and operand: from the outermost run inwards.
    neighbours: BTreeMap<(usize, usize), Vec<Neighbour>>,
}

impl Folding {
    fn new(stage: Stage) -> Folding {
        let mut children = vec![Vec::new(); stage.boxes.len()];
        for (index, one) in stage.boxes.iter().enumerate() {
            if let Some(parent) = one.parent {
                children[parent].push(index);
            }
        }
        let mut nodes_of = vec![Vec::new(); stage.boxes.len()];
        for (index, node) in stage.nodes.iter().enumerate() {
            nodes_of[node.parent].push(index);
        }
        Folding {
            run_of_box: vec![None; stage.boxes.len()],
            stage,
            children,
            nodes_of,
            runs: Vec::new(),
            stands_for: BTreeMap::new(),
            neighbours: BTreeMap::new(),
        }
    }

    /// The repeats directly in a box: their turns in order.
    fn repeats(&self, around: usize) -> Vec<Vec<usize>> {
        let mut repeats: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for &child in &self.children[around] {
            if self.stage.boxes[child].kind == BoxKind::Turn {
                repeats.entry(repeat(&self.stage.boxes[child].path)).or_default().push(child);
            }
        }
        let mut repeats: Vec<Vec<usize>> = repeats.into_values().collect();
        for turns in &mut repeats {
            turns.sort_by_key(|&turn| self.stage.boxes[turn].first);
        }
        repeats
    }

    /// Splits the turns of a repeat into runs, each as long as it can be.
    fn repeat(&mut self, turns: &[usize]) {
        let contents: Vec<Content> = turns.iter().map(|&turn| self.content(turn)).collect();
        // By value: its turn and its number in it.
        let mut place = BTreeMap::new();
        for (turn, content) in contents.iter().enumerate() {
            place.extend(content.values.iter().enumerate().map(|(i, &value)| (value, (turn, i))));
        }
        let sources: Vec<Vec<Vec<Source>>> = contents
            .iter()
            .enumerate()
            .map(|(turn, content)| {
                let of = |&node: &usize| self.sources(node, turn, &place);
                content.nodes.iter().map(of).collect()
            })
            .collect();
        let read = self.read_elsewhere(&contents, &place);
        let mut start = 0;
        while start < turns.len() {
            let mut end = start + 1;
            while end < turns.len()
                && self.same(turns[start], &contents[start], turns[end], &contents[end])
                && same_sources(&sources[start..=end])
                && same_readers(&read[start..=end])
            {
                end += 1;
            }
            if end - start > 1 {
                self.join(&turns[start..end], &contents[start..end], &sources[start..end]);
            }
            start = end;
        }
    }

    fn content(&self, turn: usize) -> Content {
        let mut boxes = vec![turn];
        let mut at = 0;
        while at < boxes.len() {
            boxes.extend(&self.children[boxes[at]]);
            at += 1;
        }
        let mut nodes: Vec<usize> =
            boxes.iter().flat_map(|&inner| self.nodes_of[inner].iter().copied()).collect();
        nodes.sort_unstable();
        let results = nodes.iter().flat_map(|&node| {
            let made = self.stage.nodes[node].results.iter().copied();
            made.filter(move |&value| self.stage.values[value].node == node)
        });
        let values = results.collect();
        Content { boxes, nodes, values }
    }

    fn sources(
        &self,
        node: usize,
        turn: usize,
        place: &BTreeMap<usize, (usize, usize)>,
    ) -> Vec<Source> {
        let of = |operand: &Use| match place.get(&operand.value) {
            Some(&(other, number)) if other == turn => Source::Own(number),
            Some(&(other, number)) if other + 1 == turn => Source::Before(number),
            Some(&(other, number)) if other == turn + 1 => Source::After(number),
            _ => Source::Elsewhere(operand.value),
        };
        let node = &self.stage.nodes[node];
        // What a second operation adds to is made elsewhere in the same sense.
        let added = node.results.iter().map(|&value| of(&Use::plain(value)));
        node.operands.iter().map(of).chain(added).collect()
    }

    /// By turn: the numbers of its values that are read neither in it nor in a neighbour.
    fn read_elsewhere(
        &self,
        contents: &[Content],
        place: &BTreeMap<usize, (usize, usize)>,
    ) -> Vec<BTreeSet<usize>> {
        let mut turn_of = BTreeMap::new();
        for (turn, content) in contents.iter().enumerate() {
            turn_of.extend(content.nodes.iter().map(|&node| (node, turn)));
        }
        let mut read = vec![BTreeSet::new(); contents.len()];
        for (index, node) in self.stage.nodes.iter().enumerate() {
            for operand in &node.operands {
                let Some(&(turn, number)) = place.get(&operand.value) else { continue };
                if turn_of.get(&index).is_none_or(|&reader| reader.abs_diff(turn) > 1) {
                    read[turn].insert(number);
                }
            }
        }
        read
    }

    /// Whether two turns hold the same, wiring left aside.
    fn same(&self, a: usize, of_a: &Content, b: usize, of_b: &Content) -> bool {
        let (boxes, nodes) = (&self.stage.boxes, &self.stage.nodes);
        let values = &self.stage.values;
        let relative = |path: &str, other: &str| {
            let (p, q) = (seen_from(path, &boxes[a]), seen_from(other, &boxes[b]));
            match (p, q) {
                (Some(p), Some(q)) => p == q,
                _ => path == other,
            }
        };
        let regions = |content: &Content| numbered(content.nodes.iter().map(|&n| nodes[n].region));
        let position = |content: &Content, inner: usize| {
            content.boxes.iter().position(|&other| other == inner)
        };
        let same_box = |(&x, &y): (&usize, &usize)| {
            let (p, q) = (&boxes[x], &boxes[y]);
            let around = |content: &Content, one: &Box| {
                one.parent.and_then(|parent| position(content, parent))
            };
            (p.kind, &p.pair, &p.reason, p.total) == (q.kind, &q.pair, &q.reason, q.total)
                && (x == a || (p.first == q.first && p.label == q.label))
                && around(of_a, p) == around(of_b, q)
        };
        let same_node = |(&x, &y): (&usize, &usize)| {
            let (p, q) = (&nodes[x], &nodes[y]);
            work(p) == work(q)
                && relative(&p.label, &q.label)
                && position(of_a, p.parent) == position(of_b, q.parent)
        };
        let same_value = |(&x, &y): (&usize, &usize)| {
            let (p, q) = (&values[x], &values[y]);
            (&p.shape, p.dtype, p.bytes, p.kept, p.segment)
                == (&q.shape, q.dtype, q.bytes, q.kept, q.segment)
        };
        of_a.boxes.len() == of_b.boxes.len()
            && of_a.nodes.len() == of_b.nodes.len()
            && of_a.values.len() == of_b.values.len()
            && of_a.boxes.iter().zip(&of_b.boxes).all(same_box)
            && of_a.nodes.iter().zip(&of_b.nodes).all(same_node)
            && of_a.values.iter().zip(&of_b.values).all(same_value)
            && regions(of_a) == regions(of_b)
    }

    /// Lets the first of several turns stand for the others.
    fn join(&mut self, turns: &[usize], contents: &[Content], sources: &[Vec<Vec<Source>>]) {
        let run = self.runs.len();
        self.runs.push(Run { turns: turns.to_vec() });
        for (turn, &one) in turns.iter().enumerate() {
            self.run_of_box[one] = Some((run, turn));
        }
        let (first, last) = (&contents[0], &contents[contents.len() - 1]);
        for other in &contents[1..] {
            self.stands_for.extend(other.values.iter().copied().zip(first.values.iter().copied()));
            for (&into, &from) in first.values.iter().zip(&other.values) {
                let places = self.stage.values[from].places.clone();
                self.stage.values[into].places.extend(places);
            }
            for (&into, &from) in first.boxes.iter().zip(&other.boxes) {
                let total = self.stage.boxes[from].total;
                self.stage.boxes[into].total += total;
            }
        }
        for &inner in &first.boxes {
            self.stage.boxes[inner].times *= turns.len() as u64;
        }
        for (number, (&node, &end)) in first.nodes.iter().zip(&last.nodes).enumerate() {
            let count = self.stage.nodes[node].operands.len();
            let seen = sources[0][number].iter().zip(&sources[1][number]).take(count);
            for (operand, (&of_first, &of_second)) in seen.enumerate() {
                let neighbour = match (of_first, of_second) {
                    (_, Source::Before(value)) => {
                        Neighbour { run, turn: -1, value: first.values[value], end: node }
                    }
                    (Source::After(value), _) => {
                        Neighbour { run, turn: 1, value: first.values[value], end }
                    }
                    _ => continue,
                };
                self.neighbours.entry((node, operand)).or_default().push(neighbour);
            }
        }
    }

    /// What a node of a turn that stands for others reads, as seen at the first `depth` of its neighbours.
    fn used(&self, node: usize, operand: usize, depth: usize) -> Use {
        let neighbours = self.neighbours.get(&(node, operand)).map_or(&[][..], |all| &all[..depth]);
        match neighbours.split_last() {
            None => {
                let (value, of) = self.seen(self.stage.nodes[node].operands[operand].value, node);
                Use { value, of, carried: None }
            }
            Some((neighbour, _)) => {
                let (value, of) = self.seen(neighbour.value, node);
                // What the end reads is seen from the runs around this one, which were found before it.
                let all = self.neighbours.get(&(neighbour.end, operand));
                let outer = all.into_iter().flatten().filter(|other| other.run < neighbour.run);
                let outside = self.used(neighbour.end, operand, outer.count());
                let outside = std::boxed::Box::new(outside);
                Use { value, of, carried: Some(Carried { turn: neighbour.turn, outside }) }
            }
        }
    }

    /// The value that stands for another one, and of which turns of the runs around it that the reader is not in.
    fn seen(&self, value: usize, reader: usize) -> (usize, Vec<u64>) {
        let read_in: BTreeSet<usize> =
            self.turns_around(reader).into_iter().map(|(run, _)| run).collect();
        let mut seen = value;
        let mut of: BTreeMap<usize, u64> = BTreeMap::new();
        loop {
            for (run, turn) in self.turns_around(self.stage.values[seen].node) {
                let number = self.stage.boxes[self.runs[run].turns[turn]].first.unwrap_or(0);
                of.entry(run).or_insert(number);
            }
            match self.stands_for.get(&seen) {
                Some(&other) => seen = other,
                None => break,
            }
        }
        let of = of.into_iter().filter(|(run, _)| !read_in.contains(run));
        (seen, of.map(|(_, number)| number).collect())
    }

    /// The runs around a node, with its turn in each.
    fn turns_around(&self, node: usize) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        let mut around = Some(self.stage.nodes[node].parent);
        while let Some(inner) = around {
            found.extend(self.run_of_box[inner]);
            around = self.stage.boxes[inner].parent;
        }
        found
    }

    /// The stage of what stands for others, with a box around each run.
    fn finish(self) -> Stage {
        let mut boxes: Vec<Box> = Vec::new();
        let mut index_of_box = vec![None; self.stage.boxes.len()];
        for (index, one) in self.stage.boxes.iter().enumerate() {
            let around = one.parent.map(|parent| index_of_box[parent]);
            let Some(parent) = around.map_or(Some(None), |parent| parent.map(Some)) else {
                continue;
            };
            let mut one = Box { parent, ..one.clone() };
            match self.run_of_box[index] {
                Some((run, 0)) => {
                    let fold = self.fold_box(&one, &self.runs[run]);
                    boxes.push(fold);
                    one.parent = Some(boxes.len() - 1);
                }
                Some(_) => continue,
                None => {}
            }
            index_of_box[index] = Some(boxes.len());
            boxes.push(one);
        }
        let mut node_index = vec![0; self.stage.nodes.len()];
        let mut value_index = vec![0; self.stage.values.len()];
        let alive = |node: usize| index_of_box[self.stage.nodes[node].parent].is_some();
        let mut count = 0;
        for node in (0..self.stage.nodes.len()).filter(|&node| alive(node)) {
            node_index[node] = count;
            count += 1;
        }
        let mut values: Vec<Value> = Vec::new();
        for (index, value) in self.stage.values.iter().enumerate() {
            if alive(value.node) {
                value_index[index] = values.len();
                values.push(Value { node: node_index[value.node], ..value.clone() });
            }
        }
        let mut nodes: Vec<Node> = Vec::with_capacity(count);
        for (index, node) in self.stage.nodes.iter().enumerate() {
            let Some(parent) = index_of_box[node.parent] else { continue };
            let used = |operand: usize| {
                let depth = self.neighbours.get(&(index, operand)).map_or(0, Vec::len);
                renumbered(self.used(index, operand, depth), &value_index)
            };
            let results = node.results.iter().map(|&value| value_index[self.seen(value, index).0]);
            nodes.push(Node {
                parent,
                operands: (0..node.operands.len()).map(used).collect(),
                results: results.collect(),
                ..node.clone()
            });
        }
        Stage { boxes, nodes, values, ..self.stage }
    }

    /// The box around identical turns.
    fn fold_box(&self, turn: &Box, run: &Run) -> Box {
        let last = &self.stage.boxes[run.turns[run.turns.len() - 1]];
        let name = repeat(&turn.path);
        let (first, last) = (turn.first.unwrap_or(0), last.last.unwrap_or(0));
        let path = format!("{name}.{first}-{last}");
        let label = name.rsplit_once('.').map_or(name, |(_, label)| label);
        Box {
            label: format!("{label} × {}", run.turns.len()),
            path,
            kind: BoxKind::Fold,
            first: Some(first),
            last: Some(last),
            ..turn.clone()
        }
    }
}

/// The path of a repeat: that of a turn without its number.
fn repeat(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(name, _)| name)
}

/// A path as seen from a turn: how many turns of the same repeat away it lies, and what is left of it. The gradient of a
/// norm may be made in the turn before that of the norm, whose path it bears.
fn seen_from<'p>(path: &'p str, turn: &Box) -> Option<(i64, &'p str)> {
    let name = repeat(&turn.path);
    let rest = path.strip_prefix(name)?;
    let rest = rest.strip_prefix('.')?;
    let number = &rest[..rest.find('.').unwrap_or(rest.len())];
    let away = number.parse::<i64>().ok()? - turn.first? as i64;
    Some((away, &rest[number.len()..]))
}

/// Everything by which two nodes can differ that is not a place.
fn work(node: &Node) -> impl PartialEq + '_ {
    let what = (node.op, node.kind, node.phase, node.program, node.pass, &node.detail);
    let from = (node.line, node.spec_line, node.operands.len(), node.results.len());
    let costs = (node.flops, node.forward_flops, node.bytes, node.parameters, node.workspace);
    (what, from, costs)
}

/// Regions by their first appearance: each turn has its own.
fn numbered(regions: impl Iterator<Item = Option<u32>>) -> Vec<Option<usize>> {
    let mut seen = Vec::new();
    let number = |region| match seen.iter().position(|&other| other == region) {
        Some(number) => number,
        None => {
            seen.push(region);
            seen.len() - 1
        }
    };
    let mut number = number;
    regions.map(|region| region.map(&mut number)).collect()
}

/// Whether turns read from the same places: all of them, or all but the first from the turn before, or all but the last
/// from the turn after.
fn same_sources(turns: &[Vec<Vec<Source>>]) -> bool {
    let nodes = turns[0].len();
    (0..nodes).all(|node| {
        let operands = turns[0][node].len();
        (0..operands).all(|operand| {
            let all: Vec<Source> = turns.iter().map(|turn| turn[node][operand]).collect();
            let equal = |part: &[Source]| part.windows(2).all(|pair| pair[0] == pair[1]);
            let (from_before, from_after) = (&all[1..], &all[..all.len() - 1]);
            match (from_before[0], from_after[0]) {
                (Source::Before(_), _) => equal(from_before),
                (_, Source::After(_)) => equal(from_after),
                _ => equal(&all),
            }
        })
    })
}

/// Whether the same is read of turns elsewhere; the first and the last are where others go on, so more may be of them.
fn same_readers(turns: &[BTreeSet<usize>]) -> bool {
    let [first, inner @ .., last] = turns else { return true };
    let all_inner = inner.windows(2).all(|pair| pair[0] == pair[1]);
    let Some(common) = inner.first() else { return true };
    all_inner && common.is_subset(first) && common.is_subset(last)
}

fn renumbered(used: Use, index: &[usize]) -> Use {
    let carried = used.carried.map(|Carried { turn, outside }| Carried {
        turn,
        outside: std::boxed::Box::new(renumbered(*outside, index)),
    });
    Use { value: index[used.value], of: used.of, carried }
}
