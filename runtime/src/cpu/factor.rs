//! Factors and results of matrix products as they are stored.
//!
//! The product itself takes f32 ([`Matrix`]). A block of an f32 factor is one as it stands; a block of a bf16 factor is
//! converted into a buffer. Must not know how products are cut.

use std::ops::Range;

use crate::cpu::stored::Pointer;
use crate::cpu::vector::{narrow, narrow_sum, widen};
use crate::cpu::view::Matrix;

/// A strided matrix in f32 or bf16, contiguous along one of its axes. Cutting it keeps it inside the view it was made
/// from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factor {
    pointer: Pointer,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    row_stride: usize,
    column_stride: usize,
}

// SAFETY: as for `Stored`.
unsafe impl Send for Factor {}
// SAFETY: as for `Stored`.
unsafe impl Sync for Factor {}

impl From<Matrix> for Factor {
    fn from(matrix: Matrix) -> Factor {
        let Matrix { pointer, rows, columns, row_stride, column_stride } = matrix;
        Factor { pointer: Pointer::F32(pointer), rows, columns, row_stride, column_stride }
    }
}

impl Factor {
    /// Rows of contiguous elements. Views make factors of what lies inside them.
    pub(crate) fn new(pointer: Pointer, rows: usize, columns: usize, row_stride: usize) -> Factor {
        Factor { pointer, rows, columns, row_stride, column_stride: 1 }
    }

    /// Rows and columns exchanged.
    pub(crate) fn transposed(self) -> Factor {
        Factor {
            pointer: self.pointer,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// The block of the given rows and columns.
    pub(crate) fn block(self, rows: Range<usize>, columns: Range<usize>) -> Factor {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        assert!(columns.start <= columns.end && columns.end <= self.columns);
        let distance = rows.start * self.row_stride + columns.start * self.column_stride;
        let pointer = self.pointer.at(distance);
        Factor { pointer, rows: rows.len(), columns: columns.len(), ..self }
    }

    /// The same elements, where they are f32.
    pub(crate) fn f32(self) -> Option<Matrix> {
        let Factor { pointer, rows, columns, row_stride, column_stride } = self;
        match pointer {
            Pointer::F32(pointer) => {
                Some(Matrix { pointer, rows, columns, row_stride, column_stride })
            }
            Pointer::Bf16(_) => None,
        }
    }

    /// Numbers of buffer that [`Factor::load`] needs for a block of so many elements.
    pub(crate) fn buffer(&self, elements: usize) -> usize {
        self.pointer.buffer(elements)
    }

    /// The matrix in f32: itself, or a copy in the buffer with the same order of axes. The buffer must not be used while
    /// the copy is.
    ///
    /// # Safety
    /// While this runs, nobody writes these elements.
    pub(crate) unsafe fn load(self, buffer: &mut [f32]) -> Matrix {
        let pointer = match self.pointer {
            Pointer::F32(_) => return self.f32().expect("it is f32"),
            Pointer::Bf16(pointer) => pointer,
        };
        // Along which axis elements follow each other.
        let by_rows = self.column_stride == 1;
        let (lines, length, stride) = match by_rows {
            true => (self.rows, self.columns, self.row_stride),
            false => (self.columns, self.rows, self.column_stride),
        };
        assert!(by_rows || self.row_stride == 1, "one axis of a factor is contiguous");
        for (line, target) in buffer[..lines * length].chunks_exact_mut(length.max(1)).enumerate() {
            // SAFETY: the line lies in the view that the factor was made from; the caller answers for races.
            let stored =
                unsafe { std::slice::from_raw_parts(pointer.wrapping_add(line * stride), length) };
            widen(stored, target);
        }
        let copy = Matrix::over(buffer, lines, length);
        if by_rows { copy } else { copy.transposed() }
    }

    /// Stores packed rows of sums, or adds them to what is there, rounding once. The rows of a result are contiguous.
    ///
    /// # Safety
    /// While this runs, nobody else reads or writes these elements.
    pub(crate) unsafe fn store(self, sums: &[f32], adds: bool) {
        assert!(self.column_stride == 1, "results of products are rows");
        for (row, sums) in sums[..self.rows * self.columns].chunks_exact(self.columns).enumerate() {
            // SAFETY: the row lies in the view that the matrix was made from; the caller answers for races.
            unsafe {
                match self.pointer.at(row * self.row_stride) {
                    Pointer::F32(pointer) => {
                        let stored = std::slice::from_raw_parts_mut(pointer, self.columns);
                        match adds {
                            true => crate::cpu::vector::accumulate(stored, sums),
                            false => stored.copy_from_slice(sums),
                        }
                    }
                    Pointer::Bf16(pointer) => {
                        let stored = std::slice::from_raw_parts_mut(pointer, self.columns);
                        match adds {
                            true => narrow_sum(sums, stored),
                            false => narrow(sums, stored),
                        }
                    }
                }
            }
        }
    }
}
