//! Sums over columns and over everything, the norm of the gradient, and sums that are stored with a write mode.
//!
//! Owns the launches of `reduce.cu`, which other operations share. Must not know what the sums mean.

use colac_plan::op::cost::sum_rows;

use crate::cuda::launch::{Argument, Launch, Step, WriteMode};
use crate::cuda::lower::{Lowering, Steps, partial_rows};
use crate::cuda::source::{Family, Source};
use crate::cuda::view::Rows;

/// Threads of a block, but for the last kernel of the norm.
const THREADS: u32 = 256;
/// Columns of a block of `column_partials`.
const COLUMNS: u64 = 128;
/// Columns and threads of a block of `sum_partials`.
const SUMMED_COLUMNS: u64 = 32;
const SUMMED_THREADS: u32 = 1024;
/// Groups of neighbours of a block of `store_sums`.
const STORED_GROUPS: u64 = 1024;
/// Elements whose squares are summed apart; the workspace is sized for it.
const NORM_BLOCK: u64 = 1 << 16;

fn vec(wide: bool) -> u64 {
    if wide { 8 } else { 1 }
}

/// Sums over runs of [`colac_plan::op::cost::REDUCTION_ROWS`] rows: of `dy`, and of `dy · (x - mean) · rstd`, as far as
/// there are places for them.
#[derive(Clone, Copy, Debug)]
pub(super) struct ColumnPartials {
    pub(super) dy: Rows,
    /// Where there are products.
    pub(super) x: Option<Rows>,
    pub(super) mean: Option<Rows>,
    /// Where there are products.
    pub(super) rstd: Option<Rows>,
    /// Address of a row of f32 for each run.
    pub(super) products: Option<u64>,
    /// As the products.
    pub(super) sums: Option<u64>,
}

impl ColumnPartials {
    pub(super) fn step(self) -> Step {
        let ColumnPartials { dy, x, mean, rstd, products, sums } = self;
        let wide = dy.is_wide() && x.is_none_or(|x| x.is_wide());
        let source = Source::new(Family::Reduce).format("DY_T", dy.dtype);
        let source = source.format("X_T", x.unwrap_or(dy).dtype).define("VEC", vec(wide));
        let source = source.define("PRODUCTS", u8::from(products.is_some()));
        let source = source.define("SUMS", u8::from(sums.is_some()));
        let centred = mean.is_some() && products.is_some();
        let address = |rows: Option<Rows>| Argument::Address(rows.map_or(0, |rows| rows.address));
        Step::Launch(Launch {
            source: source.define("CENTRED", u8::from(centred)),
            entry: "column_partials",
            grid: partial_rows(dy.rows) * dy.width.div_ceil(COLUMNS),
            threads: THREADS,
            shared: 0,
            arguments: vec![
                Argument::Address(dy.address),
                Argument::U64(dy.stride),
                address(x),
                Argument::U64(x.map_or(0, |x| x.stride)),
                address(mean),
                address(rstd),
                Argument::Address(products.unwrap_or(0)),
                Argument::Address(sums.unwrap_or(0)),
                Argument::U64(dy.rows),
                Argument::U64(dy.width),
            ],
        })
    }
}

/// Adds so many rows of f32 without gaps, from an address on, into `target`, one row.
pub(super) fn sum_partials(partials: u64, count: u64, target: Rows, write: WriteMode) -> Step {
    let mut arguments = vec![
        Argument::Address(partials),
        Argument::U64(count),
        Argument::Address(target.address),
        Argument::U64(target.width),
    ];
    arguments.extend(write.arguments());
    Step::Launch(Launch {
        source: Source::new(Family::Reduce).format("TARGET_T", target.dtype).define("VEC", 1),
        entry: "sum_partials",
        grid: target.width.div_ceil(SUMMED_COLUMNS),
        threads: SUMMED_THREADS,
        shared: 0,
        arguments,
    })
}

/// Stores sums that were kept in f32, rows without gaps, or adds them to what is there.
pub(super) fn store_sums(sums: Rows, target: Rows, write: WriteMode) -> Step {
    let vec = vec(target.is_wide() && sums.is_wide());
    let mut arguments = vec![
        Argument::Address(sums.address),
        Argument::Address(target.address),
        Argument::U64(target.stride),
        Argument::U64(target.rows),
        Argument::U64(target.width),
    ];
    arguments.extend(write.arguments());
    Step::Launch(Launch {
        source: Source::new(Family::Reduce).format("TARGET_T", target.dtype).define("VEC", vec),
        entry: "store_sums",
        grid: (target.rows * (target.width / vec)).div_ceil(STORED_GROUPS),
        threads: THREADS,
        shared: 0,
        arguments,
    })
}

impl Lowering<'_> {
    /// [`colac_plan::Op::ColumnSum`].
    pub(super) fn column_sum(&self) -> Steps {
        let (x, y) = (self.operand(0)?, self.packed_result(0)?);
        let sums = self.workspace(0);
        let partials = ColumnPartials {
            dy: x,
            x: None,
            mean: None,
            rstd: None,
            products: None,
            sums: Some(sums),
        };
        Ok(vec![partials.step(), sum_partials(sums, partial_rows(x.rows), y, self.write(0)?)])
    }

    /// [`colac_plan::Op::Sum`].
    pub(super) fn sum(&self) -> Steps {
        let (x, y) = (self.operand(0)?, self.packed_result(0)?);
        let each = sum_rows(&self.operands[0].ty.shape);
        let (partials, count) = (self.workspace(0), x.rows.div_ceil(each));
        let blocks = Source::new(Family::Reduce).format("BLOCK_T", x.dtype);
        let blocks = Launch {
            source: blocks.define("VEC", vec(x.is_wide())),
            entry: "sum_blocks",
            grid: count,
            threads: THREADS,
            shared: 0,
            arguments: vec![
                Argument::Address(x.address),
                Argument::U64(x.stride),
                Argument::U64(x.rows),
                Argument::U64(x.width),
                Argument::U64(each),
                Argument::Address(partials),
            ],
        };
        let mut arguments =
            vec![Argument::Address(partials), Argument::U64(count), Argument::Address(y.address)];
        arguments.extend(self.write(0)?.arguments());
        let finish = Launch {
            source: Source::new(Family::Reduce).format("TARGET_T", y.dtype).define("VEC", 1),
            entry: "finish_sum",
            grid: 1,
            threads: THREADS,
            shared: 0,
            arguments,
        };
        Ok(vec![Step::Launch(blocks), Step::Launch(finish)])
    }

    /// [`colac_plan::Op::GradientNorm`].
    pub(super) fn gradient_norm(&self) -> Steps {
        let gradients = self.packed_operand(0)?;
        let (norm, finite) = (self.packed_result(0)?, self.packed_result(1)?);
        let (partials, count) = (self.workspace(0), gradients.width.div_ceil(NORM_BLOCK));
        let source = Source::new(Family::Reduce).format("BLOCK_T", gradients.dtype);
        let source = source.define("VEC", vec(gradients.is_wide()));
        let blocks = Launch {
            source: source.clone(),
            entry: "square_blocks",
            grid: count,
            threads: THREADS,
            shared: 0,
            arguments: vec![
                Argument::Address(gradients.address),
                Argument::U64(gradients.width),
                Argument::Address(partials),
            ],
        };
        let finish = Launch {
            source,
            entry: "finish_norm",
            grid: 1,
            threads: 1024,
            shared: 0,
            arguments: vec![
                Argument::Address(partials),
                Argument::U64(count),
                Argument::Address(norm.address),
                Argument::Address(finite.address),
            ],
        };
        Ok(vec![Step::Launch(blocks), Step::Launch(finish)])
    }
}
