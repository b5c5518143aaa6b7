//! Matrix products: the serial product of one tile, and the cutting of a product into tiles.
//!
//! Owns the only calls of the GEMM library. Tiles are cut by shape alone and each is one serial call over the whole
//! inner dimension, which the library sums in an order that depends on that dimension only; so a product has the same
//! bits whatever the number of threads. Where a factor or the result is stored in bf16, a tile goes through the inner
//! dimension in pieces whose factors are brought to f32, sums up in f32, and is rounded once. Must not know operations
//! other than the three products of a linear.
//!
//! On x86-64 the library packs into buffers that it keeps for each thread; [`warm_up`] makes a thread allocate them.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

use crate::cpu::attention::tiles;
use crate::cpu::factor::Factor;
use crate::cpu::kernel::{Buffers, Context, Kernel, WriteMode};
use crate::cpu::stored::Stored;
use crate::cpu::view::Matrix;

/// `c = alpha · a b`, or added to `c`. Serial.
///
/// # Safety
/// Nobody writes `a` or `b`, or touches `c`, while this runs, and `c` shares no element with `a` or `b`.
pub(crate) unsafe fn multiply(c: Matrix, beta: Accum, alpha: f32, a: Matrix, b: Matrix) {
    assert!(c.rows == a.rows && c.columns == b.columns && a.columns == b.rows);
    let reference = |m: Matrix| {
        // SAFETY: a `Matrix` lies inside the view it was cut from; the caller answers for races.
        unsafe {
            MatRef::from_raw_parts(
                m.pointer,
                m.rows,
                m.columns,
                m.row_stride as isize,
                m.column_stride as isize,
            )
        }
    };
    // SAFETY: as above, and nobody else refers to the elements of `c`.
    let target = unsafe {
        MatMut::from_raw_parts_mut(
            c.pointer,
            c.rows,
            c.columns,
            c.row_stride as isize,
            c.column_stride as isize,
        )
    };
    matmul(target, beta, reference(a), reference(b), alpha, Par::Seq);
}

/// Makes the calling thread allocate what the library keeps for it.
pub(crate) fn warm_up() {
    // Large enough that the library does not take the path for tiny products, which packs nothing.
    let (mut a, mut c) = (vec![0f32; 64 * 64], vec![0f32; 64 * 64]);
    let (a, c) = (Matrix::over(&mut a, 64, 64), Matrix::over(&mut c, 64, 64));
    // SAFETY: the buffers are local and apart.
    unsafe { multiply(c, Accum::Replace, 1.0, a, a.transposed()) };
}

/// Tiles below which a result is cut into lower ones.
const ENOUGH_TILES: usize = 8;

/// How a result of a given shape is cut: full tiles, smaller ones at the ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tiles {
    rows: usize,
    columns: usize,
    tile_rows: usize,
    tile_columns: usize,
}

impl Tiles {
    /// Tiles of a result `[rows, columns]`.
    pub(crate) fn new(rows: usize, columns: usize) -> Tiles {
        // Columns run along the library's vector axis, in steps of 96 with AVX-512 and of 24 with AVX2. Two steps and
        // the inner dimension's block of 512 stay in a second-level cache.
        let tile_columns = columns.clamp(1, 192);
        let across = columns.div_ceil(tile_columns).max(1);
        // The other factor is packed once for each tile, so high tiles are cheap: at 64 rows packing costs some 8 %, at
        // 256 some 2 %. Lower ones only where there would be too few to share.
        let tile_rows =
            rows.div_ceil(ENOUGH_TILES.div_ceil(across)).next_multiple_of(16).clamp(64, 256);
        Tiles { rows, columns, tile_rows, tile_columns }
    }

    fn across(&self) -> usize {
        self.columns.div_ceil(self.tile_columns)
    }

    /// Number of tiles.
    pub(crate) fn count(&self) -> usize {
        self.across() * self.rows.div_ceil(self.tile_rows)
    }

    /// Rows and columns of a tile.
    pub(crate) fn tile(&self, index: usize) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
        let (row, column) =
            (index / self.across() * self.tile_rows, index % self.across() * self.tile_columns);
        (
            row..(row + self.tile_rows).min(self.rows),
            column..(column + self.tile_columns).min(self.columns),
        )
    }
}

/// Inner dimension of factors that are brought to f32 at a time: with a tile they fill about a megabyte.
const INNER: usize = 512;

/// Numbers of scratch that [`multiply_tiled`] needs for a product.
pub(crate) fn scratch(c: Factor, a: Factor, b: Factor) -> usize {
    let Tiles { tile_rows, tile_columns, .. } = Tiles::new(c.rows, c.columns);
    let inner = a.columns.min(INNER);
    c.buffer(tile_rows * tile_columns)
        + a.buffer(tile_rows * inner)
        + b.buffer(inner * tile_columns)
}

/// `c = a b`, or added to `c`, rounded once. Serial; `scratch` is as [`scratch`] says.
///
/// # Safety
/// As [`multiply`].
unsafe fn multiply_stored(c: Factor, adds: bool, a: Factor, b: Factor, scratch: &mut [f32]) {
    let beta = |adds: bool| if adds { Accum::Add } else { Accum::Replace };
    if let (Some(c), Some(a), Some(b)) = (c.f32(), a.f32(), b.f32()) {
        // SAFETY: passed on.
        return unsafe { multiply(c, beta(adds), 1.0, a, b) };
    }
    let mut buffers = Buffers::new(scratch);
    let sums = buffers.take(c.buffer(c.rows * c.columns));
    let piece = a.columns.min(INNER);
    let (a_buffer, b_buffer) =
        (buffers.take(a.buffer(a.rows * piece)), buffers.take(b.buffer(piece * b.columns)));
    let target = c.f32().unwrap_or_else(|| Matrix::over(sums, c.rows, c.columns));
    let mut adding = adds && c.f32().is_some();
    for inner in tiles(0..a.columns, INNER) {
        // SAFETY: the sums are this call's; the rest is passed on.
        unsafe {
            let a = a.block(0..a.rows, inner.clone()).load(a_buffer);
            let b = b.block(inner, 0..b.columns).load(b_buffer);
            multiply(target, beta(adding), 1.0, a, b);
        }
        adding = true;
    }
    if c.f32().is_none() {
        // SAFETY: passed on; the sums are complete.
        unsafe { c.store(sums, adds) };
    }
}

/// Runs a whole product on the pool: `c = a b`, or added to `c`.
///
/// # Safety
/// As [`multiply`]; each thread's scratch is as [`scratch`] says.
pub(crate) unsafe fn multiply_tiled(
    context: &Context<'_>,
    c: Factor,
    adds: bool,
    a: Factor,
    b: Factor,
) {
    let tiles = Tiles::new(c.rows, c.columns);
    let needed = scratch(c, a, b);
    context.pool.run(tiles.count(), &|index, thread| {
        let (rows, columns) = tiles.tile(index);
        let (a, b) = (a.block(rows.clone(), 0..a.columns), b.block(0..b.rows, columns.clone()));
        // SAFETY: tiles do not overlap, the task takes its thread's scratch once; the rest is passed on.
        unsafe {
            let scratch = context.scratch.of(thread, needed);
            multiply_stored(c.block(rows, columns), adds, a, b, scratch);
        }
    });
}

/// One of the products of a linear: `c = a b` with the factors already turned as needed.
#[derive(Debug)]
pub(crate) struct Product {
    c: Factor,
    a: Factor,
    b: Factor,
    write: WriteMode,
}

impl Product {
    /// `y = x wᵀ`.
    pub(crate) fn linear(x: Stored, w: Stored, y: Stored) -> Product {
        let (c, a, b) =
            (y.factor(0..y.rows), x.factor(0..x.rows), w.factor(0..w.rows).transposed());
        Product { c, a, b, write: WriteMode::Overwrite }
    }

    /// `dx = dy w`.
    pub(crate) fn backward_input(dy: Stored, w: Stored, dx: Stored) -> Product {
        let (c, a, b) = (dx.factor(0..dx.rows), dy.factor(0..dy.rows), w.factor(0..w.rows));
        Product { c, a, b, write: WriteMode::Overwrite }
    }

    /// `dw = dyᵀ x`.
    pub(crate) fn backward_weight(dy: Stored, x: Stored, dw: Stored, write: WriteMode) -> Product {
        let (c, a, b) =
            (dw.factor(0..dw.rows), dy.factor(0..dy.rows).transposed(), x.factor(0..x.rows));
        Product { c, a, b, write }
    }
}

impl Kernel for Product {
    fn run(&self, context: &Context<'_>) {
        // SAFETY: preparing proved the result apart from the operands, and only this operation is running.
        unsafe { multiply_tiled(context, self.c, self.write.adds(), self.a, self.b) };
    }

    fn scratch(&self) -> usize {
        scratch(self.c, self.a, self.b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_everything_once() {
        for (rows, columns) in
            [(1, 1), (1, 2000), (2000, 1), (1024, 128), (1024, 1376), (257, 577), (0, 5), (5, 0)]
        {
            let tiles = Tiles::new(rows, columns);
            let mut seen = vec![0; rows * columns];
            for index in 0..tiles.count() {
                let (r, c) = tiles.tile(index);
                for i in r {
                    c.clone().for_each(|j| seen[i * columns + j] += 1);
                }
            }
            assert!(seen.iter().all(|n| *n == 1), "{rows} x {columns}");
        }
    }
}
