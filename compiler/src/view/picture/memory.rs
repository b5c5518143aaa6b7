//! The memory of a plan as pictures show it.
//!
//! Owns what is drawn of the arena. Must not decide what is alive when: the plan crate says that.

use colac_plan::verify::{alive, arena_bytes, lifetimes};
use colac_plan::{Plan, Segment};

use super::model::{Memory, Peak, ProgramMemory, Tensor};
use crate::view::inspection::phase_name;
use crate::view::memory::lives_at;

/// A curve has at most about so many steps.
const STEPS: usize = 600;

/// The memory of a plan.
pub(super) fn memory(plan: &Plan) -> Memory {
    let segments = Segment::ALL.into_iter().map(|segment| (segment.name(), plan.bytes(segment)));
    let mut memory = Memory {
        segments: segments.filter(|(_, bytes)| *bytes > 0).collect(),
        total: plan.total_bytes(),
        programs: Vec::new(),
        tensors: Vec::new(),
    };
    for program in plan.programs.iter().filter(|program| program.arena_bytes > 0) {
        let name = program.kind.name();
        let moments = alive(plan, program);
        let fullest = moments.iter().map(|moment| moment.bytes).max().unwrap_or(0);
        // The first of the fullest moments: what comes later only lasts.
        let at = moments.iter().position(|moment| moment.bytes == fullest);
        let mut peak = at.map(|position| Peak {
            position,
            bytes: fullest,
            path: program.operations[position].path.clone(),
            tensors: Vec::new(),
        });
        for life in lifetimes(plan, program) {
            let maker = &program.operations[life.first];
            let tensor = plan.tensor(life.root);
            if let Some(peak) = &mut peak
                && lives_at(&life, peak.position, &moments[peak.position])
            {
                peak.tensors.push(memory.tensors.len());
            }
            memory.tensors.push(Tensor(
                tensor.name.clone(),
                name,
                tensor.offset,
                arena_bytes(plan, life.root),
                life.first,
                life.last,
                maker.line,
                phase_name(maker.phase),
            ));
        }
        if let Some(peak) = &mut peak {
            peak.tensors.sort_by_key(|&index| (std::cmp::Reverse(memory.tensors[index].3), index));
        }
        let bytes: Vec<u64> = moments.iter().map(|moment| moment.bytes).collect();
        memory.programs.push(ProgramMemory {
            name,
            operations: program.operations.len(),
            arena: program.arena_bytes,
            lower_bound: program.arena_lower_bound,
            alive: thinned(&bytes),
            peak,
        });
    }
    memory
}

/// The steps of a curve. Where there are too many, of every stretch the fullest and the emptiest position: no peak is lost.
fn thinned(bytes: &[u64]) -> Vec<(usize, u64)> {
    let stretch = (2 * bytes.len()).div_ceil(STEPS).max(1);
    let mut steps: Vec<(usize, u64)> = Vec::new();
    for (number, part) in bytes.chunks(stretch).enumerate() {
        let start = number * stretch;
        let most = (0..part.len()).max_by_key(|&i| (part[i], std::cmp::Reverse(i)));
        let least = (0..part.len()).min_by_key(|&i| (part[i], i));
        let mut ends: Vec<usize> = most.into_iter().chain(least).collect();
        ends.sort_unstable();
        ends.dedup();
        for i in ends {
            if steps.last().is_none_or(|&(_, before)| before != part[i]) {
                steps.push((start + i, part[i]));
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_every_stretchs_peak() {
        let bytes: Vec<u64> = (0..10_000).map(|i| i * 7919 % 1000).collect();
        let steps = thinned(&bytes);
        assert!(steps.len() <= STEPS + 2);
        assert_eq!(steps.iter().map(|step| step.1).max(), bytes.iter().copied().max());
        assert!(steps.iter().all(|&(at, value)| bytes[at] == value));
        assert_eq!(thinned(&[5, 5, 7]), [(0, 5), (2, 7)]);
    }
}
