//! Where the parts of a block stand: layers from top to bottom, positions within a layer, bends of edges.
//!
//! Models are series and parallel: longest paths give the layers, a part stands below what it reads, and what passes a
//! layer gets a place in it. A residual connection, which passes many, runs to the right of them. Must not know colours.

use super::block::{Block, Item, Shape};
use super::measure::{self, Scale};

/// Between layers.
const LAYER_GAP: f64 = 24.0;
/// Between the last layer and the way out.
const LAST_GAP: f64 = 14.0;
/// Between parts of a layer.
const ITEM_GAP: f64 = 20.0;
/// Around what a frame holds.
pub(super) const PADDING: f64 = 14.0;
/// Above what a frame holds.
pub(super) const HEADER: f64 = 22.0;
/// Between residual connections side by side.
const LANE: f64 = 14.0;

/// A part in its place.
pub(super) struct Placed {
    pub(super) item: Item,
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
    /// Of a frame: what is in it, seen from its upper left corner.
    pub(super) inside: Option<Laid>,
}

/// An edge: corners, and whether it ends in an arrow.
pub(super) struct Path {
    pub(super) corners: Vec<(f64, f64)>,
    pub(super) arrow: bool,
}

/// A block in its places.
pub(super) struct Laid {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) placed: Vec<Placed>,
    pub(super) paths: Vec<Path>,
    /// Where edges come in at the top, and go out at the bottom.
    pub(super) entry: f64,
    pub(super) exit: f64,
}

/// A part on its way to its place.
struct Part {
    layer: usize,
    width: f64,
    height: f64,
    center: f64,
    /// Where edges meet it, from its center.
    entry: f64,
    exit: f64,
    /// Whether it is the bend of an edge that spans many layers and is to be out of the way.
    aside: bool,
    bend: bool,
}

/// Lays out a block.
pub(super) fn lay_out(block: Block, scale: &Scale) -> Laid {
    let Block { items, edges } = block;
    let mut laid: Vec<Option<Laid>> = Vec::with_capacity(items.len());
    let mut kept: Vec<Item> = Vec::with_capacity(items.len());
    for item in items {
        let (item, inside) = match item.shape {
            Shape::Frame(inner) => {
                let inside = lay_out(inner, scale);
                let shape = Shape::Frame(Block { items: Vec::new(), edges: Vec::new() });
                (Item { name: item.name, shape }, Some(inside))
            }
            _ => (item, None),
        };
        kept.push(item);
        laid.push(inside);
    }
    let layers = layers(kept.len(), &edges);
    let mut parts: Vec<Part> = kept
        .iter()
        .zip(&laid)
        .zip(&layers)
        .map(|((item, inside), &layer)| part(item, inside.as_ref(), layer, scale))
        .collect();
    let chains = bend(&mut parts, &edges);
    let links: Vec<(usize, usize)> =
        chains.iter().flat_map(|chain| chain.windows(2).map(|pair| (pair[0], pair[1]))).collect();
    let rows = order(&parts, &links);
    settle(&mut parts, &links, &rows);
    aside(&mut parts, &chains, &rows);
    place(kept, laid, parts, &chains, &rows)
}

fn part(item: &Item, inside: Option<&Laid>, layer: usize, scale: &Scale) -> Part {
    let (width, height) = match inside {
        Some(inside) => {
            let name = measure::text(&item.name, 12.0) + 2.0 * PADDING;
            ((inside.width + 2.0 * PADDING).max(name), inside.height + HEADER + PADDING)
        }
        None => measure::size(item, scale),
    };
    let port = |inside: &Laid, x: f64| PADDING + x + extra(width, inside) - width / 2.0;
    Part {
        layer,
        width,
        height,
        center: 0.0,
        entry: inside.map_or(0.0, |inside| port(inside, inside.entry)),
        exit: inside.map_or(0.0, |inside| port(inside, inside.exit)),
        aside: false,
        bend: false,
    }
}

/// Room at each side of what a frame holds where its name is wider.
fn extra(width: f64, inside: &Laid) -> f64 {
    (width - inside.width - 2.0 * PADDING) / 2.0
}

/// The layer of every part: one more than the deepest that it reads, and below the way in. Edges form no ring.
fn layers(count: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut layers = vec![1; count];
    layers[0] = 0;
    for _ in 0..count {
        for &(from, to) in edges {
            layers[to] = layers[to].max(layers[from] + 1);
        }
    }
    if let Some(deepest) = layers.iter().copied().max()
        && let Some(last) = layers.last_mut()
    {
        *last = deepest;
    }
    layers
}

/// Gives every edge a bend in each layer that it passes; returns the edges with their bends.
fn bend(parts: &mut Vec<Part>, edges: &[(usize, usize)]) -> Vec<Vec<usize>> {
    let mut chains = Vec::with_capacity(edges.len());
    for &(from, to) in edges {
        let span = parts[to].layer - parts[from].layer;
        let mut chain = vec![from];
        for layer in parts[from].layer + 1..parts[to].layer {
            chain.push(parts.len());
            let bend = Item { name: String::new(), shape: Shape::Bend };
            parts.push(Part {
                bend: true,
                aside: span > 2,
                ..part(&bend, None, layer, &Scale::default())
            });
        }
        chain.push(to);
        chains.push(chain);
    }
    chains
}

/// The parts of every layer from left to right: below what they read, bends behind parts.
fn order(parts: &[Part], links: &[(usize, usize)]) -> Vec<Vec<usize>> {
    let depth = parts.iter().map(|part| part.layer + 1).max().unwrap_or(0);
    let mut rows: Vec<Vec<usize>> = Vec::with_capacity(depth);
    let mut position = vec![0.0; parts.len()];
    for layer in 0..depth {
        let mut row: Vec<usize> =
            (0..parts.len()).filter(|&index| parts[index].layer == layer).collect();
        let mean = |index: usize| {
            let from: Vec<f64> = links
                .iter()
                .filter(|&&(_, to)| to == index)
                .map(|&(from, _)| position[from])
                .collect();
            if from.is_empty() { 0.0 } else { from.iter().sum::<f64>() / from.len() as f64 }
        };
        let key = |&index: &usize| (parts[index].aside, mean(index), parts[index].bend, index);
        row.sort_by(|a, b| {
            let (a, b) = (key(a), key(b));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then((a.2, a.3).cmp(&(b.2, b.3)))
        });
        for (number, &index) in row.iter().enumerate() {
            position[index] = number as f64;
        }
        rows.push(row);
    }
    rows
}

/// Moves parts towards the middle of what they read and what reads them, as far as their neighbours leave room.
fn settle(parts: &mut [Part], links: &[(usize, usize)], rows: &[Vec<usize>]) {
    // Up and down by turns; at last down, so that what has one predecessor stands right below it.
    const SWEEPS: usize = 21;
    let solid: Vec<Vec<usize>> = rows
        .iter()
        .map(|row| row.iter().copied().filter(|&index| !parts[index].aside).collect())
        .collect();
    for row in &solid {
        spread(parts, row, &vec![0.0; row.len()]);
    }
    for sweep in 0..SWEEPS {
        let down = sweep % 2 == 0;
        let mut order: Vec<&Vec<usize>> = solid.iter().collect();
        if !down {
            order.reverse();
        }
        for row in order {
            let wanted: Vec<f64> =
                row.iter().map(|&index| wanted(parts, links, index, down)).collect();
            spread(parts, row, &wanted);
        }
    }
}

/// Where a part would stand best: in the middle of what it reads (`down`) or of what reads it. What runs aside has no say.
fn wanted(parts: &[Part], links: &[(usize, usize)], index: usize, down: bool) -> f64 {
    let here = &parts[index];
    let near = links.iter().filter_map(|&(from, to)| {
        let (other, there, own) = match down {
            true if to == index => (from, parts[from].exit, here.entry),
            false if from == index => (to, parts[to].entry, here.exit),
            _ => return None,
        };
        (!parts[other].aside).then_some(parts[other].center + there - own)
    });
    let (sum, count) = near.fold((0.0, 0.0), |(sum, count), x| (sum + x, count + 1.0));
    if count == 0.0 { here.center } else { sum / count }
}

/// The places nearest to the wanted ones that leave the gaps: weighted least squares under an order, by pooling neighbours
/// that are in each other's way.
fn spread(parts: &mut [Part], row: &[usize], wanted: &[f64]) {
    let mut offset = 0.0;
    let mut offsets = Vec::with_capacity(row.len());
    for (number, &index) in row.iter().enumerate() {
        if let Some(&before) = number.checked_sub(1).and_then(|before| row.get(before)) {
            offset += (parts[before].width + parts[index].width) / 2.0 + ITEM_GAP;
        }
        offsets.push(offset);
    }
    // Pools: weight, weighted sum, members.
    let mut pools: Vec<(f64, f64, usize)> = Vec::new();
    for ((&index, &wanted), &offset) in row.iter().zip(wanted).zip(&offsets) {
        let weight = if parts[index].bend { 0.05 } else { 1.0 };
        pools.push((weight, weight * (wanted - offset), 1));
        while let [.., (w, sum, n), (v, other, m)] = pools[..]
            && sum / w > other / v
        {
            pools.truncate(pools.len() - 2);
            pools.push((w + v, sum + other, n + m));
        }
    }
    let mut members = row.iter().zip(&offsets);
    for (weight, sum, count) in pools {
        for (&index, offset) in members.by_ref().take(count) {
            parts[index].center = sum / weight + offset;
        }
    }
}

/// Straightens edges that pass many layers: each runs to the right of all that it passes.
fn aside(parts: &mut [Part], chains: &[Vec<usize>], rows: &[Vec<usize>]) {
    let mut right: Vec<f64> = rows
        .iter()
        .map(|row| {
            let solid = row.iter().filter(|&&index| !parts[index].aside);
            let ends = solid.map(|&index| parts[index].center + parts[index].width / 2.0);
            ends.fold(f64::MIN, f64::max)
        })
        .collect();
    for chain in chains {
        let bends = &chain[1..chain.len() - 1];
        if bends.is_empty() || !parts[bends[0]].aside {
            continue;
        }
        let passed = bends.iter().map(|&index| right[parts[index].layer]);
        let lane = passed.fold(f64::MIN, f64::max) + LANE;
        for &index in bends {
            parts[index].center = lane;
            right[parts[index].layer] = lane;
        }
    }
}

fn place(
    items: Vec<Item>,
    laid: Vec<Option<Laid>>,
    parts: Vec<Part>,
    chains: &[Vec<usize>],
    rows: &[Vec<usize>],
) -> Laid {
    let left = parts.iter().map(|part| part.center - part.width / 2.0).fold(f64::MAX, f64::min);
    let right = parts.iter().map(|part| part.center + part.width / 2.0).fold(f64::MIN, f64::max);
    let mut tops = Vec::with_capacity(rows.len());
    let mut y = 0.0;
    for (number, row) in rows.iter().enumerate() {
        let height = row.iter().map(|&index| parts[index].height).fold(0.0, f64::max);
        tops.push((y, height));
        // Below the last layer of parts there is only the way out.
        y += height + if number + 2 == rows.len() { LAST_GAP } else { LAYER_GAP };
    }
    let height = y - LAYER_GAP;
    let middle = |part: &Part| {
        let (top, height) = tops[part.layer];
        top + height / 2.0
    };
    let sign = |index: usize| matches!(items.get(index).map(|i| &i.shape), Some(Shape::Sign(_)));
    let mut paths = Vec::with_capacity(chains.len());
    for chain in chains {
        let (first, last) = (chain[0], chain[chain.len() - 1]);
        let mut corners = Vec::new();
        let start = &parts[first];
        let x = start.center + start.exit - left;
        corners.push((x, middle(start) + start.height / 2.0));
        for pair in chain.windows(2) {
            let (from, to) = (&parts[pair[0]], &parts[pair[1]]);
            let (top, height) = tops[from.layer];
            let gap = top + height + LAYER_GAP / 2.0;
            let (x, next) = (from.center + from.exit - left, to.center + to.entry - left);
            // What comes from the side enters a sign at its side.
            if sign(pair[1]) && (x - next).abs() > to.width / 2.0 + 4.0 {
                let side = if x > next { to.width / 2.0 } else { -to.width / 2.0 };
                corners.push((x, middle(to)));
                corners.push((next + side, middle(to)));
                continue;
            }
            if (x - next).abs() > 0.5 {
                corners.push((x, gap));
                corners.push((next, gap));
            }
            if pair[1] == last {
                corners.push((next, middle(to) - to.height / 2.0));
            }
        }
        let target = &items[last].shape;
        let arrow = !matches!(target, Shape::Port | Shape::Frame(_));
        paths.push(Path { corners, arrow });
    }
    let (entry, last) = (parts[0].center - left, items.len() - 1);
    let exit = parts[last].center - left;
    let placed = items.into_iter().zip(laid).zip(&parts).map(|((item, inside), part)| Placed {
        item,
        x: part.center - part.width / 2.0 - left,
        y: middle(part) - part.height / 2.0,
        width: part.width,
        height: part.height,
        inside,
    });
    Laid { width: right - left, height, placed: placed.collect(), paths, entry, exit }
}
