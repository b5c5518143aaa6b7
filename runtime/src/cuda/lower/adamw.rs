//! AdamW over the ranges of the parameter segment.
//!
//! Owns the launches of `adamw.cu`: one for each range, then the step counter, which they all read. Must not know other
//! operations.

use colac_plan::Op;

use crate::cuda::launch::{Argument, Launch, Step};
use crate::cuda::lower::{Lowering, Steps};
use crate::cuda::source::{Family, Source};
use crate::cuda::view::Rows;

/// Groups of neighbours of a block.
const GROUPS: u64 = 1024;

impl Lowering<'_> {
    /// [`Op::AdamW`].
    pub(super) fn adamw(&self) -> Steps {
        let Op::AdamW { beta1, beta2, epsilon, clip_norm, ranges, master } = &self.operation.op
        else {
            unreachable!("{} is no AdamW", self.operation.op.name())
        };
        let gradients = self.packed_operand(0)?;
        let scalars = [1, 2, 3].map(|operand| self.packed_operand(operand));
        let [norm, finite, learning_rate] = scalars;
        let (norm, finite, learning_rate) = (norm?, finite?, learning_rate?);
        let (first, second) = (self.packed_result(1)?, self.packed_result(2)?);
        let step = self.packed_result(3)?;
        // What the update reads, and where that is a master its copy.
        let (kept, copies) = match master {
            true => (self.packed_result(4)?, Some(self.packed_result(0)?)),
            false => (self.packed_result(0)?, None),
        };
        // Groups are counted from the segment's start; only whole ones are read and written at once.
        let views = [gradients, kept, first, second].into_iter().chain(copies);
        let wide = views.into_iter().all(|view: Rows| view.address.is_multiple_of(16));
        let vec: u64 = if wide { 8 } else { 1 };
        let source = Source::new(Family::AdamW).format("G_T", gradients.dtype);
        let source = source.define("MASTER", u8::from(*master)).define("VEC", vec);
        let launch = |entry, grid, threads, arguments| {
            Step::Launch(Launch {
                source: source.clone(),
                entry,
                grid,
                threads,
                shared: 0,
                arguments,
            })
        };
        let mut steps: Vec<Step> = Vec::new();
        for range in ranges.iter().filter(|range| range.length > 0) {
            let groups = (range.start + range.length).div_ceil(vec) - range.start / vec;
            let arguments = vec![
                Argument::Address(gradients.address),
                Argument::Address(norm.address),
                Argument::Address(finite.address),
                Argument::Address(learning_rate.address),
                Argument::Address(kept.address),
                Argument::Address(copies.map_or(0, |copies| copies.address)),
                Argument::Address(first.address),
                Argument::Address(second.address),
                Argument::Address(step.address),
                Argument::U64(range.start),
                Argument::U64(range.length),
                Argument::F64(range.weight_decay.get()),
                Argument::F64(range.learning_rate_factor.get()),
                Argument::F64(beta1.get()),
                Argument::F64(beta2.get()),
                Argument::F64(epsilon.get()),
                Argument::F64(clip_norm.get()),
            ];
            steps.push(launch("adamw", groups.div_ceil(GROUPS), 256, arguments));
        }
        let arguments = vec![Argument::Address(finite.address), Argument::Address(step.address)];
        steps.push(launch("count_step", 1, 32, arguments));
        Ok(steps)
    }
}
