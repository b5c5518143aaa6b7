//! Dropout.
//!
//! Owns the launch. Must not know how words are drawn.

use crate::cuda::launch::{Argument, Launch, Step};
use crate::cuda::lower::{Lowering, Steps};
use crate::cuda::source::{Family, Source};

const THREADS: u32 = 256;

impl Lowering<'_> {
    /// [`colac_plan::Op::Dropout`], in place or not.
    pub(super) fn dropout(&self, probability: f64, key: u64) -> Steps {
        let (x, draw, y) = (self.operand(0)?, self.packed_operand(1)?, self.result(0)?);
        let (vec, elements) = if x.is_wide() && y.is_wide() { (8, 8) } else { (1, 4) };
        let threshold = (probability * 4_294_967_296.0).floor() as u32;
        let arguments = vec![
            Argument::Address(x.address),
            Argument::U64(x.stride),
            Argument::Address(draw.address),
            Argument::Address(y.address),
            Argument::U64(y.stride),
            Argument::U64(y.rows),
            Argument::U64(y.width),
            Argument::U64(key),
            Argument::U32(threshold),
            Argument::F32((1.0 / (1.0 - probability)) as f32),
        ];
        let source = Source::new(Family::Dropout).format("X_T", x.dtype).define("VEC", vec);
        let grid = (y.rows * y.width).div_ceil(elements * u64::from(THREADS));
        let launch =
            Launch { source, entry: "dropout", grid, threads: THREADS, shared: 0, arguments };
        Ok(vec![Step::Launch(launch)])
    }
}
