//! The checking mode: memory that the plan says nobody needs is overwritten with signalling NaNs.
//!
//! Owns the question which bytes are dead after each operation. A plan that places two living tensors on the same
//! bytes, or an executor that reads a tensor after its last planned use, then shows in the results. Must not know
//! operations.

#![expect(
    clippy::single_range_in_vec_init,
    reason = "lists of ranges of bytes, which may hold one"
)]

use std::ops::Range;

use colac_plan::{Plan, Program, Segment, TensorId};

/// A NaN whose quiet bit is not set, as f32 and as two bf16.
const SIGNALLING: u32 = 0x7fa0_7fa0;

/// Which bytes of the activation arena to overwrite.
#[derive(Clone, Debug, Default)]
pub(crate) struct Poison {
    /// Before the first operation.
    pub(crate) before: Vec<Range<u64>>,
    /// After each operation.
    pub(crate) after: Vec<Vec<Range<u64>>>,
}

/// The tensor whose life a view shares.
fn root(plan: &Plan, mut id: TensorId) -> TensorId {
    // A chain cannot be longer than the table; a cycle in a broken plan ends here too.
    for _ in 0..plan.tensors.len() {
        match plan.tensor(id).parent {
            Some(parent) => id = parent,
            None => break,
        }
    }
    id
}

/// What is left of `ranges` without `taken`.
fn without(ranges: Vec<Range<u64>>, taken: &Range<u64>) -> Vec<Range<u64>> {
    let cut = |range: Range<u64>| {
        [range.start..range.end.min(taken.start), range.start.max(taken.end)..range.end]
    };
    ranges.into_iter().flat_map(cut).filter(|range| range.start < range.end).collect()
}

/// The dead bytes of a program.
pub(crate) fn poison(plan: &Plan, program: &Program) -> Poison {
    let operations = program.operations.len();
    // First and one past the last use of each activation tensor, operations counted from 1.
    let mut lives: Vec<Option<Range<usize>>> = vec![None; plan.tensors.len()];
    let mut used = |id: TensorId, at: usize| {
        let root = root(plan, id);
        if plan.tensor(root).segment == Segment::Activations {
            let life = lives[root.index()].get_or_insert(at..at + 1);
            *life = life.start.min(at)..life.end.max(at + 1);
        }
    };
    program.inputs.iter().for_each(|id| used(*id, 0));
    for (index, operation) in program.operations.iter().enumerate() {
        operation.operands.iter().chain(&operation.results).for_each(|id| used(*id, index + 1));
    }
    program.outputs.iter().for_each(|id| used(*id, operations + 1));
    let lives: Vec<(Range<u64>, Range<usize>)> = lives
        .into_iter()
        .zip(&plan.tensors)
        .filter_map(|(life, tensor)| Some((tensor.range()?, life?)))
        .collect();
    let living =
        |at: usize| lives.iter().filter(move |(_, life)| life.start <= at && at < life.end);
    let arena = plan.bytes(Segment::Activations);
    let before = living(0).fold(vec![0..arena], |dead, (bytes, _)| without(dead, bytes));
    let after = (1..=operations)
        .map(|at| {
            let ending = lives.iter().filter(|(_, life)| life.end == at + 1);
            let dead: Vec<_> = ending.map(|(bytes, _)| bytes.clone()).collect();
            // A tensor that was placed on the dying one in this very operation lives on.
            let staying = lives.iter().filter(|(_, life)| life.start <= at && life.end > at + 1);
            staying.fold(dead, |dead, (bytes, _)| without(dead, bytes))
        })
        .collect();
    Poison { before, after }
}

/// Overwrites a range of a segment that starts at `segment`.
///
/// # Safety
/// The range lies inside the segment, and nobody else uses it.
pub(crate) unsafe fn overwrite(segment: *mut u8, range: &Range<u64>) {
    let (start, length) = (range.start as usize, (range.end - range.start) as usize);
    // SAFETY: passed on.
    let bytes = unsafe { std::slice::from_raw_parts_mut(segment.wrapping_add(start), length) };
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = SIGNALLING.to_ne_bytes()[(start + i) % 4];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_out() {
        assert_eq!(without(vec![0..100], &(20..30)), [0..20, 30..100]);
        assert_eq!(without(vec![0..10, 20..30], &(5..25)), [0..5, 25..30]);
        assert_eq!(without(vec![10..20], &(0..50)), []);
        assert_eq!(without(vec![10..20], &(30..50)), [10..20]);
    }

    #[test]
    fn the_pattern_is_a_signalling_nan() {
        let mut memory = [0u32; 4];
        // SAFETY: the range lies in the array.
        unsafe { overwrite(memory.as_mut_ptr().cast(), &(4..12)) };
        assert_eq!(memory, [0, SIGNALLING, SIGNALLING, 0]);
        assert!(f32::from_bits(SIGNALLING).is_nan() && SIGNALLING & 0x0040_0000 == 0);
    }
}
