//! Products of matrices by the runtime's own kernel.
//!
//! Owns its launch. A device's library takes most products; this takes every one. Must not know operations.

use crate::cuda::launch::{Argument, Factor, Launch, Product};
use crate::cuda::source::{Family, Source};

/// Rows and columns of the result that a block owns.
const TILE: u64 = 64;
const THREADS: u32 = 256;

/// Elements from row to row and from column to column, as the product takes them.
fn strides(factor: &Factor) -> [Argument; 2] {
    match factor.transposed {
        false => [Argument::U64(factor.stride), Argument::U64(1)],
        true => [Argument::U64(1), Argument::U64(factor.stride)],
    }
}

/// A product of any formats, strides and alignment.
pub(crate) fn fallback(product: &Product) -> Launch {
    let Product { a, b, c, write } = product;
    let ((m, k), (inner, n)) = (a.extents(), b.extents());
    debug_assert!(k == inner && (m, n) == c.extents() && !c.transposed, "factors fit");
    let mut arguments = vec![Argument::Address(a.address)];
    arguments.extend(strides(a));
    arguments.push(Argument::Address(b.address));
    arguments.extend(strides(b));
    arguments.extend([Argument::Address(c.address), Argument::U64(c.stride)]);
    arguments.extend([m, n, k].map(Argument::U64));
    arguments.extend(write.arguments());
    let source = Source::new(Family::Product).format("A_T", a.dtype);
    let source = source.format("B_T", b.dtype).format("C_T", c.dtype);
    let grid = m.div_ceil(TILE) * n.div_ceil(TILE);
    Launch { source, entry: "product", grid, threads: THREADS, shared: 0, arguments }
}
