//! A stable total order of the nodes that keeps the peak of live bytes low.
//!
//! Starts from the order in which passes made the nodes, which is already good: a weight's gradient right after the
//! gradient it reads. Then a list scheduler looks a few nodes ahead and prefers what frees the most; its order is taken
//! only where the peak is lower.
//!
//! Guarantees: operands and control edges before their readers; equal graphs give equal orders.

use crate::graph::{Graph, Home, NodeId, NodeKind, Output, Value};

/// How far ahead of the oldest waiting node the scheduler looks.
const WINDOW: usize = 24;

/// Orders the operations of a program; sources (inputs, parameters, constants) are not in it.
pub fn run(graph: &Graph) -> Vec<NodeId> {
    let lives = Lives::new(graph);
    let natural = graph.order();
    let greedy = list_schedule(graph, &lives, &natural);
    let best = if lives.peak(&greedy) < lives.peak(&natural) { greedy } else { natural };
    best.into_iter().filter(|&id| is_work(graph, id)).collect()
}

fn is_work(graph: &Graph, id: NodeId) -> bool {
    matches!(graph.node(id).kind, NodeKind::Op(_) | NodeKind::View(_))
}

/// Bytes and readers of every value that lives in the arena; views count as what they show, and so does a result that
/// lies on the bytes of its operand.
struct Lives {
    /// For each node the values it makes: bytes and number of reads.
    made: Vec<Vec<(u64, u32)>>,
    /// For each node the root values it reads, once each.
    reads: Vec<Vec<Value>>,
}

impl Lives {
    fn new(graph: &Graph) -> Lives {
        let bound = graph.id_bound();
        let mut lives = Lives { made: vec![Vec::new(); bound], reads: vec![Vec::new(); bound] };
        let mut kept = vec![Vec::new(); bound];
        for &(output, value) in graph.outputs() {
            let in_arena = !matches!(output, Output::Gradient(_) | Output::Loss | Output::Logits);
            for made in graph.makers(value) {
                kept[made.node.0 as usize].push((made.result, in_arena));
            }
        }
        for node in graph.nodes() {
            let i = node.id.0 as usize;
            let mut reads: Vec<Value> =
                graph.operands(node.id).iter().flat_map(|&v| graph.makers(v)).collect();
            reads.sort_unstable();
            reads.dedup();
            lives.reads[i] = reads;
            if matches!(node.kind, NodeKind::Op(_)) {
                let elsewhere = |r: usize| {
                    kept[i].iter().any(|&(result, arena)| result as usize == r && !arena)
                };
                let on_operand = |r: usize| {
                    let value = Value { node: node.id, result: r as u16 };
                    matches!(graph.home(value), Some(Home::Operand(_)))
                };
                let bytes = |r: usize| match elsewhere(r) || on_operand(r) {
                    true => 0,
                    false => node.results[r].bytes(),
                };
                lives.made[i] = (0..node.results.len()).map(|r| (bytes(r), 0)).collect();
            }
        }
        for node in graph.nodes() {
            for read in lives.reads[node.id.0 as usize].clone() {
                if let Some(value) = lives.made[read.node.0 as usize].get_mut(read.result as usize)
                {
                    value.1 += 1;
                }
            }
        }
        lives
    }

    /// Bytes that executing a node adds, and bytes that die after it, given how many reads of each value are left.
    fn change(&self, id: NodeId, left: &[Vec<u32>]) -> (u64, u64) {
        let made = &self.made[id.0 as usize];
        let born = made.iter().map(|v| v.0).sum();
        let mut dies: u64 = made.iter().filter(|v| v.1 == 0).map(|v| v.0).sum();
        for read in &self.reads[id.0 as usize] {
            if let Some(&(bytes, _)) = self.made[read.node.0 as usize].get(read.result as usize)
                && left[read.node.0 as usize][read.result as usize] == 1
            {
                dies += bytes;
            }
        }
        (born, dies)
    }

    fn left(&self) -> Vec<Vec<u32>> {
        self.made.iter().map(|values| values.iter().map(|v| v.1).collect()).collect()
    }

    fn read(&self, id: NodeId, left: &mut [Vec<u32>]) {
        for read in &self.reads[id.0 as usize] {
            if let Some(count) = left[read.node.0 as usize].get_mut(read.result as usize) {
                *count -= 1;
            }
        }
    }

    fn peak(&self, order: &[NodeId]) -> u64 {
        let mut left = self.left();
        let (mut live, mut peak) = (0, 0);
        for &id in order {
            let (born, dies) = self.change(id, &left);
            live += born;
            peak = peak.max(live);
            live -= dies;
            self.read(id, &mut left);
        }
        peak
    }
}

fn list_schedule(graph: &Graph, lives: &Lives, natural: &[NodeId]) -> Vec<NodeId> {
    let mut before = vec![0u32; graph.id_bound()];
    let mut after: Vec<Vec<NodeId>> = vec![Vec::new(); graph.id_bound()];
    for &id in natural {
        let mut sources: Vec<NodeId> = graph.operands(id).iter().map(|v| v.node).collect();
        sources.extend(graph.controls(id));
        sources.sort_unstable();
        sources.dedup();
        before[id.0 as usize] = sources.len() as u32;
        for source in sources {
            after[source.0 as usize].push(id);
        }
    }
    let mut left = lives.left();
    let mut waiting: Vec<NodeId> = natural.to_vec();
    let mut order = Vec::with_capacity(natural.len());
    let mut start = 0;
    let mut done = vec![false; graph.id_bound()];
    while order.len() < natural.len() {
        while done[waiting[start].0 as usize] {
            start += 1;
        }
        let window = &waiting[start..(start + WINDOW).min(waiting.len())];
        let ready = window
            .iter()
            .enumerate()
            .filter(|(_, id)| !done[id.0 as usize] && before[id.0 as usize] == 0);
        let best = ready.min_by_key(|&(position, &id)| {
            let (born, dies) = lives.change(id, &left);
            (i128::from(born) - i128::from(dies), position)
        });
        let id = *best
            .expect("the oldest waiting node is ready, because the natural order is topological")
            .1;
        done[id.0 as usize] = true;
        lives.read(id, &mut left);
        for &next in &after[id.0 as usize] {
            before[next.0 as usize] -= 1;
        }
        order.push(id);
    }
    waiting.clear();
    order
}
