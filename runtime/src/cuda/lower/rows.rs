//! Sums and softmax of rows, and how kernels over rows share out a row among threads.
//!
//! Owns the launches of `rows.cu` and the shape of a launch that keeps rows in registers. Must not know other kernels.

use crate::cuda::launch::{Argument, Launch, Step};
use crate::cuda::lower::{Lowering, Steps};
use crate::cuda::source::{Family, Source};

/// Threads of a block in which a warp has a row.
const WARP_BLOCK: u32 = 128;
/// Most threads of a row.
const MOST_THREADS: u32 = 256;

/// How the elements of a row are shared out: what the macros `VEC`, `PARTS`, `ROW_THREADS` and `THREADS` say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowThreads {
    /// Neighbours that are read and written at once.
    pub(crate) vec: u64,
    /// Groups of neighbours that a thread keeps in registers; 0 where a row is too long for that.
    pub(crate) parts: u64,
    /// Threads of a row: 32 or all of the block.
    pub(crate) of_row: u32,
    /// Threads of a block.
    pub(crate) of_block: u32,
}

impl RowThreads {
    /// For rows of so many elements that are kept in registers where they fit: 32 numbers of a row at most for a thread, 16
    /// with narrow accesses, which take more registers for addresses.
    pub(crate) fn keeping(width: u64, wide: bool) -> RowThreads {
        let (vec, most) = if wide { (8, 4) } else { (1, 16) };
        let groups = width.div_ceil(vec);
        let mut of_row = 32;
        while of_row < MOST_THREADS && groups > u64::from(of_row) * most {
            of_row *= 2;
        }
        let parts = groups.div_ceil(u64::from(of_row)).max(1);
        let parts = if parts > most { 0 } else { parts };
        let of_block = if of_row == 32 { WARP_BLOCK } else { of_row };
        RowThreads { vec, parts, of_row, of_block }
    }

    /// For rows that are read once from beginning to end: a warp for a short row, a block for a long one.
    pub(crate) fn passing(width: u64, wide: bool) -> RowThreads {
        let vec = if wide { 8 } else { 1 };
        match width.div_ceil(vec) <= 32 * 16 {
            true => RowThreads { vec, parts: 0, of_row: 32, of_block: WARP_BLOCK },
            false => RowThreads { vec, parts: 0, of_row: MOST_THREADS, of_block: MOST_THREADS },
        }
    }

    /// Blocks for so many rows.
    pub(crate) fn grid(&self, rows: u64) -> u64 {
        rows.div_ceil(u64::from(self.of_block / self.of_row))
    }

    /// A source with the macros that the kernels read.
    pub(crate) fn define(&self, source: Source) -> Source {
        let source = source.define("VEC", self.vec).define("PARTS", self.parts);
        source.define("ROW_THREADS", self.of_row).define("THREADS", self.of_block)
    }
}

impl Lowering<'_> {
    /// [`colac_plan::Op::RowSum`].
    pub(super) fn row_sum(&self, mean: bool) -> Steps {
        let (x, y) = (self.operand(0)?, self.packed_result(0)?);
        let threads = RowThreads::passing(x.width, x.is_wide());
        let source = Source::new(Family::Rows).define("SUM", 1).format("X_T", x.dtype);
        let launch = Launch {
            source: threads.define(source),
            entry: "sum_of_rows",
            grid: threads.grid(x.rows),
            threads: threads.of_block,
            shared: 0,
            arguments: vec![
                Argument::Address(x.address),
                Argument::U64(x.stride),
                Argument::Address(y.address),
                Argument::U64(x.rows),
                Argument::U64(x.width),
                Argument::F32(if mean { x.width as f32 } else { 1.0 }),
            ],
        };
        Ok(vec![Step::Launch(launch)])
    }

    /// [`colac_plan::Op::Softmax`].
    pub(super) fn softmax(&self) -> Steps {
        let (x, y) = (self.operand(0)?, self.result(0)?);
        let threads = RowThreads::keeping(x.width, x.is_wide() && y.is_wide());
        let source = Source::new(Family::Rows).define("SOFTMAX", 1).format("X_T", x.dtype);
        let launch = Launch {
            source: threads.define(source),
            entry: if threads.parts > 0 { "softmax" } else { "softmax_of_long_rows" },
            grid: threads.grid(x.rows),
            threads: threads.of_block,
            shared: 0,
            arguments: vec![
                Argument::Address(x.address),
                Argument::U64(x.stride),
                Argument::Address(y.address),
                Argument::U64(y.stride),
                Argument::U64(x.rows),
                Argument::U64(x.width),
            ],
        };
        Ok(vec![Step::Launch(launch)])
    }
}
