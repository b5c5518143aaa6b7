//! Rotary positions.
//!
//! Owns the launch. Must not know how the kernel computes.

use colac_plan::DType;

use crate::contract::LayoutProblem;
use crate::cuda::error::CudaError;
use crate::cuda::launch::{Argument, Launch, Step};
use crate::cuda::lower::{Lowering, Steps};
use crate::cuda::source::{Family, Source};
use crate::cuda::view::{Heads, Rows};

/// Heads that a thread turns.
const HEADS: u64 = 2;
const THREADS: u32 = 128;

/// The two tables of angles, a row for each position and a number for each pair.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tables {
    pub(super) cos: Rows,
    pub(super) sin: Rows,
}

impl Tables {
    /// Whether a kernel may read eight neighbours of both at once.
    pub(super) fn are_wide(&self) -> bool {
        self.cos.is_wide() && self.sin.is_wide()
    }

    /// Addresses and distances.
    pub(super) fn arguments(&self) -> [Argument; 4] {
        let Tables { cos, sin } = self;
        [
            Argument::Address(cos.address),
            Argument::U64(cos.stride),
            Argument::Address(sin.address),
            Argument::U64(sin.stride),
        ]
    }
}

impl Lowering<'_> {
    /// [`colac_plan::Op::Rope`], in place or not.
    pub(super) fn rope(&self, inverse: bool, interleaved: bool) -> Steps {
        let tables = self.tables(1)?;
        let (x, y) = (self.operand_heads(0)?, self.result_heads(0)?);
        Ok(vec![Step::Launch(turn(&x, &y, &tables, inverse, interleaved))])
    }

    /// The tables of angles from operand `first` on.
    pub(super) fn tables(&self, first: usize) -> Result<Tables, CudaError> {
        let tables = Tables { cos: self.operand(first)?, sin: self.operand(first + 1)? };
        match [tables.cos, tables.sin].iter().position(|table| table.dtype != DType::F32) {
            None => Ok(tables),
            Some(wrong) => {
                let found = self.operands[first + wrong].ty.dtype;
                let problem = LayoutProblem::ElementFormat { expected: DType::F32, found };
                Err(self.layout(format!("operand {}", first + wrong), problem))
            }
        }
    }
}

/// The launch that turns the pairs of `x`; `y` may be `x`.
pub(super) fn turn(
    x: &Heads,
    y: &Heads,
    tables: &Tables,
    inverse: bool,
    interleaved: bool,
) -> Launch {
    let pairs = tables.cos.width;
    let vec = if x.is_wide() && y.is_wide() && tables.are_wide() { 8 } else { 1 };
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
    let mut arguments: Vec<Argument> = place(x).collect();
    arguments.extend(tables.arguments());
    arguments.extend(place(y));
    arguments.extend([x.seq, x.heads, pairs, rest].map(Argument::U64));
    arguments.push(Argument::F32(if inverse { -1.0 } else { 1.0 }));
    arguments.push(Argument::U64(items));
    let grid = items.div_ceil(u64::from(THREADS));
    Launch { source, entry: "rope", grid, threads: THREADS, shared: 0, arguments }
}
