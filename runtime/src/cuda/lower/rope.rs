//! Rotary positions.
//!
//! Owns the launch. Must not know how the kernel computes.

use crate::cuda::launch::{Argument, Launch, Step};
use crate::cuda::lower::{Lowering, Steps};
use crate::cuda::source::{Family, Source};
use crate::cuda::view::Heads;

/// Heads that a thread turns.
const HEADS: u64 = 2;
const THREADS: u32 = 128;

impl Lowering<'_> {
    /// [`colac_plan::Op::Rope`], in place or not.
    pub(super) fn rope(&self, inverse: bool, interleaved: bool) -> Steps {
        let (x, cos, sin) = (self.operand_heads(0)?, self.operand(1)?, self.operand(2)?);
        let y = self.result_heads(0)?;
        let pairs = cos.width;
        let heads = x.is_wide() && y.is_wide();
        let vec = if heads && cos.is_wide() && sin.is_wide() { 8 } else { 1 };
        // In place the rest is where it belongs.
        let rest = if x.address == y.address { 0 } else { (x.dim - 2 * pairs) / vec };
        let items = x.batch * x.seq * x.heads.div_ceil(HEADS) * (pairs / vec + rest);
        let source = Source::new(Family::Rope).format("X_T", x.dtype);
        let source = source.define("INTERLEAVED", u8::from(interleaved)).define("VEC", vec);
        let index = if items < 1 << 32 { "u32" } else { "u64" };
        let source = source.define("INDEX", index);
        let place = |heads: &Heads| {
            let steps = heads.strides.map(Argument::U64);
            [Argument::Address(heads.address)].into_iter().chain(steps)
        };
        let mut arguments: Vec<Argument> = place(&x).collect();
        for table in [cos, sin] {
            arguments.extend([Argument::Address(table.address), Argument::U64(table.stride)]);
        }
        arguments.extend(place(&y));
        arguments.extend([x.seq, x.heads, pairs, rest].map(Argument::U64));
        arguments.push(Argument::F32(if inverse { -1.0 } else { 1.0 }));
        arguments.push(Argument::U64(items));
        let grid = items.div_ceil(u64::from(THREADS));
        let launch = Launch { source, entry: "rope", grid, threads: THREADS, shared: 0, arguments };
        Ok(vec![Step::Launch(launch)])
    }
}
