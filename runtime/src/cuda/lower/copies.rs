//! Rows copied, cleared, shifted.
//!
//! Owns the launches and the units that rows are copied in. Must not know element formats beyond their size.

use crate::cuda::launch::{Argument, Launch, Step, WriteMode};
use crate::cuda::lower::{Lowering, Steps};
use crate::cuda::source::{Family, Source};
use crate::cuda::view::Rows;

const THREADS: u32 = 256;
/// Units of a block.
const BLOCK_UNITS: u64 = 1024;

/// What rows are copied in, whatever their elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    name: &'static str,
    bytes: u64,
}

impl Unit {
    /// The widest that begins, steps and ends with all rows of these views.
    pub(super) fn of(views: &[Rows]) -> Unit {
        let fits = |bytes: u64| {
            views.iter().all(|rows| {
                let of = rows.dtype.bytes();
                let steps = rows.rows <= 1 || (rows.stride * of).is_multiple_of(bytes);
                rows.address.is_multiple_of(bytes)
                    && (rows.width * of).is_multiple_of(bytes)
                    && steps
            })
        };
        let units = [Unit { name: "Pack", bytes: 16 }, Unit { name: "u32", bytes: 4 }];
        let wide = units.into_iter().find(|unit| fits(unit.bytes));
        wide.unwrap_or(Unit { name: "u16", bytes: 2 })
    }

    /// Units from row to row.
    pub(super) fn stride(self, rows: &Rows) -> Argument {
        Argument::U64(rows.stride * rows.dtype.bytes() / self.bytes)
    }

    /// Units of a row.
    pub(super) fn width(self, rows: &Rows) -> u64 {
        rows.width * rows.dtype.bytes() / self.bytes
    }

    /// A kernel whose blocks own runs of units of `y`.
    pub(super) fn launch(
        self,
        family: Family,
        entry: &'static str,
        y: &Rows,
        arguments: Vec<Argument>,
    ) -> Launch {
        let source = Source::new(family).define("UNIT_T", self.name);
        let grid = (y.rows * self.width(y)).div_ceil(BLOCK_UNITS);
        Launch { source, entry, grid, threads: THREADS, shared: 0, arguments }
    }
}

/// Columns of a view.
fn columns(rows: Rows, start: u64, width: u64) -> Rows {
    Rows { address: rows.address + start * rows.dtype.bytes(), width, ..rows }
}

/// Rows of one view to those of another of the same extents and format.
fn copy(x: Rows, y: Rows) -> Launch {
    let unit = Unit::of(&[x, y]);
    let arguments = vec![
        Argument::Address(x.address),
        unit.stride(&x),
        Argument::Address(y.address),
        unit.stride(&y),
        Argument::U64(y.rows),
        Argument::U64(unit.width(&y)),
    ];
    unit.launch(Family::Copies, "copy_rows", &y, arguments)
}

/// Sets what is there to 0, unless it is to be added to.
pub(super) fn clear(y: Rows, write: WriteMode) -> Launch {
    let unit = Unit::of(&[y]);
    let mut arguments = vec![
        Argument::Address(y.address),
        unit.stride(&y),
        Argument::U64(y.rows),
        Argument::U64(unit.width(&y)),
    ];
    arguments.extend(write.arguments());
    unit.launch(Family::Copies, "clear_rows", &y, arguments)
}

impl Lowering<'_> {
    /// [`colac_plan::Op::Slice`].
    pub(super) fn slice(&self, start: u64, length: u64) -> Steps {
        let x = columns(self.operand(0)?, start, length);
        Ok(vec![Step::Launch(copy(x, self.result(0)?))])
    }

    /// [`colac_plan::Op::Concat`]: a copy for each part, and zeros in the gaps.
    pub(super) fn concat(&self, starts: &[u64]) -> Steps {
        let y = self.result(0)?;
        let mut steps = Vec::new();
        let mut end = 0;
        let gap = |from: u64, to: u64| {
            let gap = columns(y, from, to - from);
            (to > from).then(|| Step::Launch(clear(gap, WriteMode::Overwrite)))
        };
        for (operand, start) in starts.iter().enumerate() {
            let part = self.operand(operand)?;
            steps.extend(gap(end, *start));
            steps.push(Step::Launch(copy(part, columns(y, *start, part.width))));
            end = start + part.width;
        }
        steps.extend(gap(end, y.width));
        Ok(steps)
    }

    /// [`colac_plan::Op::Shift`].
    pub(super) fn shift(&self, by: i64) -> Steps {
        let (x, y) = (self.operand(0)?, self.result(0)?);
        let per_position = x.rows / self.positions();
        let sequence = per_position * self.operands[0].ty.shape.0[1].extent;
        let (unit, by) = (Unit::of(&[x, y]), shift_rows(by, per_position, sequence));
        let arguments = vec![
            Argument::Address(x.address),
            unit.stride(&x),
            Argument::Address(y.address),
            unit.stride(&y),
            Argument::U64(y.rows),
            Argument::U64(unit.width(&y)),
            Argument::U64(sequence),
            Argument::I64(by),
        ];
        Ok(vec![Step::Launch(unit.launch(Family::Copies, "shift_rows", &y, arguments))])
    }
}

/// Rows to move by for positions of so many rows. A shift beyond both ends is one past them, so that nothing overflows.
fn shift_rows(by: i64, per_position: u64, sequence: u64) -> i64 {
    let limit = (sequence / per_position.max(1)).cast_signed();
    by.clamp(-limit, limit) * per_position.cast_signed()
}
