//! Rows of a table looked up by id, and the gradient of the table.
//!
//! Owns the launches. Must not know who sorts the ids: the order is a table of [`crate::cuda::order`].

use crate::cuda::launch::{Argument, Launch, Step};
use crate::cuda::lower::copies::{Unit, clear};
use crate::cuda::lower::{Lowering, Steps};
use crate::cuda::source::{Family, Source};

/// Runs of equal ids of a block, a warp for each, and groups of neighbours of a block.
const RUNS: u64 = 8;
const GROUPS: u64 = 32;

impl Lowering<'_> {
    /// [`colac_plan::Op::Embedding`].
    pub(super) fn embedding(&self) -> Steps {
        let (ids, table, y) = (self.packed_operand(0)?, self.operand(1)?, self.result(0)?);
        let unit = Unit::of(&[table, y]);
        let arguments = vec![
            Argument::Address(ids.address),
            Argument::Address(table.address),
            unit.stride(&table),
            Argument::U64(table.rows),
            Argument::Address(y.address),
            unit.stride(&y),
            Argument::U64(y.rows),
            Argument::U64(unit.width(&y)),
        ];
        Ok(vec![Step::Launch(unit.launch(Family::Embedding, "embedding", &y, arguments))])
    }

    /// [`colac_plan::Op::EmbeddingBackward`], with the address of the ids' order.
    pub(super) fn embedding_backward(&self, order: u64) -> Steps {
        let (ids, dy, dtable) = (self.packed_operand(0)?, self.operand(1)?, self.result(0)?);
        let (write, count) = (self.write(0)?, ids.width);
        let vec = if dy.is_wide() && dtable.is_wide() { 8 } else { 1 };
        let groups = dtable.width.div_ceil(vec);
        let across = groups.div_ceil(GROUPS);
        let source = Source::new(Family::Embedding).format("DY_T", dy.dtype);
        let source = source.format("D_T", dtable.dtype).define("VEC", vec);
        let mut arguments = vec![
            Argument::Address(order),
            Argument::U64(count),
            Argument::Address(dy.address),
            Argument::U64(dy.stride),
            Argument::Address(dtable.address),
            Argument::U64(dtable.stride),
            Argument::U64(dtable.rows),
            Argument::U64(dtable.width),
            Argument::U64(across),
        ];
        arguments.extend(write.arguments());
        let backward = Launch {
            source,
            entry: "embedding_backward",
            grid: count.div_ceil(RUNS) * across,
            threads: (RUNS * GROUPS) as u32,
            shared: 0,
            arguments,
        };
        // Rows that no id names are 0, or stay.
        Ok(vec![Step::Launch(clear(dtable, write)), Step::Launch(backward)])
    }
}
