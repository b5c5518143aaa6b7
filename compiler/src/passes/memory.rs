//! Lifetimes to offsets in one arena.
//!
//! Each value that lives between operations gets a block of bytes from the operation that makes it to its last reader.
//! A join gets its block with the first of its parts, that of a value whose columns they replace if there is one, and a
//! result that has a home lies in the block of its root. Where an operation may write onto an operand that dies there,
//! result and operand share a block. Blocks are placed largest first, each at the lowest offset where it meets no block
//! alive at the same time; offsets are multiples of 256 bytes.
//!
//! Assumes: a schedule. Guarantees: two values alive at once never share a byte, except in place.

mod replaced;

use std::collections::BTreeMap;

use colac_plan::op::cost::aligned;

use crate::graph::{Graph, NodeId, NodeKind, Output, Value};

/// Where the values of one program lie.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// Offset in bytes of every root value in the arena.
    pub offsets: BTreeMap<Value, u64>,
    /// Bytes of arena used.
    pub bytes: u64,
    /// Joins that lie on the bytes of another root, element by element.
    pub onto: BTreeMap<Value, Value>,
}

/// Bytes with a lifetime, in positions of the schedule, both ends included.
struct Block {
    bytes: u64,
    first: usize,
    last: usize,
    values: Vec<Value>,
}

/// Plans the arena of a scheduled program.
pub fn run(graph: &Graph, order: &[NodeId]) -> Placement {
    let mut position = vec![usize::MAX; graph.id_bound()];
    for (i, &id) in order.iter().enumerate() {
        position[id.0 as usize] = i;
    }
    let mut last: BTreeMap<Value, usize> = BTreeMap::new();
    for (i, &id) in order.iter().enumerate() {
        // A view reads nothing: its readers do, and they count for the root.
        if matches!(graph.node(id).kind, NodeKind::Op(_)) {
            for operand in graph.operands(id) {
                last.insert(graph.root(operand), i);
            }
        }
    }
    let elsewhere: Vec<Value> = graph
        .outputs()
        .iter()
        .filter(|(output, _)| matches!(output, Output::Loss | Output::Logits | Output::Gradient(_)))
        .map(|&(_, value)| value)
        .collect();
    let mut blocks: Vec<Block> = Vec::new();
    let mut block_of: BTreeMap<Value, usize> = BTreeMap::new();
    let mut onto = BTreeMap::new();
    for (i, &id) in order.iter().enumerate() {
        let node = graph.node(id);
        let NodeKind::Op(op) = &node.kind else { continue };
        let operands = graph.operands(id);
        let roots: Vec<Value> = operands.iter().map(|&v| graph.root(v)).collect();
        let mut taken: Vec<usize> = Vec::new();
        for result in 0..node.results.len() as u16 {
            let value = Value { node: id, result };
            if elsewhere.contains(&value) {
                continue;
            }
            let root = graph.root(value);
            if root != value {
                if block_of.contains_key(&root) {
                    continue;
                }
                let end = last.get(&root).copied().unwrap_or(i);
                // A base that something was placed on already ends later than its own readers.
                let base = replaced::base(graph, root, &position).filter(|base| {
                    let block = block_of.get(base).map(|&block| blocks[block].last);
                    block.is_some() && block == last.get(base).copied()
                });
                let block = match base {
                    Some(base) => {
                        onto.insert(root, base);
                        let block = block_of[&base];
                        blocks[block].last = blocks[block].last.max(end);
                        blocks[block].values.push(root);
                        block
                    }
                    None => {
                        let bytes = aligned(graph.stored_bytes(root));
                        blocks.push(Block { bytes, first: i, last: end, values: vec![root] });
                        blocks.len() - 1
                    }
                };
                block_of.insert(root, block);
                continue;
            }
            let end = last.get(&value).copied().unwrap_or(i);
            let bytes = aligned(graph.stored_bytes(value));
            let reuse = (0..operands.len()).find_map(|o| {
                let block = *block_of.get(&roots[o])?;
                let once = roots.iter().filter(|&&r| r == roots[o]).count() == 1;
                let dies = last.get(&roots[o]) == Some(&i) && blocks[block].last == i;
                let (read, made) = (graph.ty(operands[o]), &node.results[result as usize]);
                let same = operands[o] == roots[o]
                    && !onto.contains_key(&roots[o])
                    && read.dtype.bytes() == made.dtype.bytes()
                    && read.shape.same_extents(&made.shape)
                    && graph.stored_strides(operands[o]) == graph.stored_strides(value);
                let free = once
                    && dies
                    && same
                    && op.in_place(o, result as usize)
                    && !taken.contains(&block);
                free.then_some(block)
            });
            let block = match reuse {
                Some(block) => {
                    taken.push(block);
                    blocks[block].last = end;
                    blocks[block].values.push(value);
                    block
                }
                None => {
                    blocks.push(Block { bytes, first: i, last: end, values: vec![value] });
                    blocks.len() - 1
                }
            };
            block_of.insert(value, block);
        }
    }
    Placement { onto, ..place(&blocks) }
}

fn place(blocks: &[Block]) -> Placement {
    let mut largest_first: Vec<usize> = (0..blocks.len()).collect();
    largest_first.sort_by_key(|&i| (std::cmp::Reverse(blocks[i].bytes), blocks[i].first, i));
    let mut placed: Vec<(u64, u64, usize, usize)> = Vec::with_capacity(blocks.len());
    let mut placement = Placement::default();
    for i in largest_first {
        let block = &blocks[i];
        // Placed blocks are kept sorted by offset, so the first gap that is wide enough is the lowest.
        let mut offset = 0;
        for &(start, end, first, last) in &placed {
            let together = first <= block.last && block.first <= last;
            if together && end > offset {
                if start >= offset + block.bytes {
                    break;
                }
                offset = end;
            }
        }
        let entry = (offset, offset + block.bytes, block.first, block.last);
        let at = placed.partition_point(|other| *other < entry);
        placed.insert(at, entry);
        placement.bytes = placement.bytes.max(offset + block.bytes);
        for &value in &block.values {
            placement.offsets.insert(value, offset);
        }
    }
    placement
}
