//! Views of real tensors as they are stored: in f32, or in bf16 that is brought to f32 and back.
//!
//! Kernels compute in f32 whatever the storage and have one implementation for both. They read a part of a row with
//! [`Stored::part`] and write one with [`Stored::write`] or [`Stored::update`]: of f32 these hand out the memory itself, of
//! bf16 a buffer of the caller's, converted before or rounded after, so that each number stored is rounded once. What
//! the storage is, is asked for a part of a row and never for an element. A buffer is needed where the storage is not
//! f32, as long as [`Stored::buffer`] says; kernels take theirs from the thread's scratch, or small ones from the stack.
//!
//! The heads of attention are in [`crate::cpu::heads`], the factors of products in [`crate::cpu::factor`]. What is f32
//! by definition (statistics, scalars, workspace) is seen through [`Rows`]. Must not know operations.

use std::ops::Range;

use colac_plan::{DType, Tensor};

use crate::contract::LayoutProblem;
use crate::cpu::factor::Factor;
use crate::cpu::vector::{narrow, widen};
use crate::cpu::view::{Rows, Segments};

/// The address of elements in one of the formats of real numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pointer {
    F32(*mut f32),
    Bf16(*mut u16),
}

impl Pointer {
    /// The address of a real tensor's first element, checked as [`Segments::locate`] does.
    pub(crate) fn locate(segments: &Segments, tensor: &Tensor) -> Result<Pointer, LayoutProblem> {
        match tensor.ty.dtype {
            DType::Bf16 => Ok(Pointer::Bf16(segments.locate(tensor, DType::Bf16)?.cast())),
            DType::F32 | DType::I32 => {
                Ok(Pointer::F32(segments.locate(tensor, DType::F32)?.cast()))
            }
        }
    }

    /// The address so many elements further on.
    pub(crate) fn at(self, elements: usize) -> Pointer {
        match self {
            Pointer::F32(pointer) => Pointer::F32(pointer.wrapping_add(elements)),
            Pointer::Bf16(pointer) => Pointer::Bf16(pointer.wrapping_add(elements)),
        }
    }

    /// Numbers of buffer that so many elements need to be f32.
    pub(crate) fn buffer(self, elements: usize) -> usize {
        match self {
            Pointer::F32(_) => 0,
            Pointer::Bf16(_) => elements,
        }
    }

    /// Elements in f32: themselves, or in the buffer.
    ///
    /// # Safety
    /// So many elements lie here, and while the slice lives, nobody writes them.
    pub(crate) unsafe fn read(self, length: usize, buffer: &mut [f32]) -> &[f32] {
        match self {
            // SAFETY: passed on.
            Pointer::F32(pointer) => unsafe { std::slice::from_raw_parts(pointer, length) },
            Pointer::Bf16(pointer) => {
                let buffer = &mut buffer[..length];
                // SAFETY: passed on.
                widen(unsafe { std::slice::from_raw_parts(pointer, length) }, buffer);
                buffer
            }
        }
    }

    /// Lets `change` have elements in f32, with what they are (`keep`) or with anything in them, and stores what it leaves.
    ///
    /// # Safety
    /// So many elements lie here, and while this runs, nobody else reads or writes them.
    pub(crate) unsafe fn change<R>(
        self,
        length: usize,
        buffer: &mut [f32],
        keep: bool,
        change: impl FnOnce(&mut [f32]) -> R,
    ) -> R {
        match self {
            Pointer::F32(pointer) => {
                // SAFETY: passed on.
                change(unsafe { std::slice::from_raw_parts_mut(pointer, length) })
            }
            Pointer::Bf16(pointer) => {
                let buffer = &mut buffer[..length];
                // SAFETY: passed on.
                let stored = unsafe { std::slice::from_raw_parts_mut(pointer, length) };
                if keep {
                    widen(stored, buffer);
                }
                let result = change(buffer);
                narrow(buffer, stored);
                result
            }
        }
    }
}

impl Pointer {
    /// Stores numbers from here on.
    ///
    /// # Safety
    /// So many elements lie here, and nobody else reads or writes them.
    pub(crate) unsafe fn set(self, values: &[f32]) {
        let length = values.len();
        // SAFETY: passed on.
        unsafe {
            match self {
                Pointer::F32(pointer) => {
                    std::slice::from_raw_parts_mut(pointer, length).copy_from_slice(values);
                }
                Pointer::Bf16(pointer) => {
                    narrow(values, std::slice::from_raw_parts_mut(pointer, length));
                }
            }
        }
    }

    /// Copies the elements from here on.
    ///
    /// # Safety
    /// So many elements lie here, and nobody writes them.
    pub(crate) unsafe fn copy_to(self, values: &mut [f32]) {
        let length = values.len();
        // SAFETY: passed on.
        unsafe {
            match self {
                Pointer::F32(pointer) => {
                    values.copy_from_slice(std::slice::from_raw_parts(pointer, length));
                }
                Pointer::Bf16(pointer) => {
                    widen(std::slice::from_raw_parts(pointer, length), values)
                }
            }
        }
    }
}

/// A real tensor as rows that step evenly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stored {
    pointer: Pointer,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
}

// SAFETY: a view is an address with bounds; whoever reads or writes through it answers for the absence of races, as the
// accessors say.
unsafe impl Send for Stored {}
// SAFETY: as above.
unsafe impl Sync for Stored {}

impl From<Rows> for Stored {
    fn from(rows: Rows) -> Stored {
        let Rows { rows: count, width, stride, .. } = rows;
        Stored { pointer: Pointer::F32(rows.pointer()), rows: count, width, stride }
    }
}

impl Stored {
    /// The rows of a tensor.
    pub(crate) fn new(segments: &Segments, tensor: &Tensor) -> Result<Stored, LayoutProblem> {
        let pointer = Pointer::locate(segments, tensor)?;
        let stride = tensor.row_stride().ok_or(LayoutProblem::Strides)? as usize;
        let (rows, width) = (tensor.ty.shape.rows() as usize, tensor.ty.shape.width() as usize);
        Ok(Stored { pointer, rows, width, stride })
    }

    /// A tensor without gaps as one row of all its elements.
    pub(crate) fn packed(segments: &Segments, tensor: &Tensor) -> Result<Stored, LayoutProblem> {
        let pointer = Pointer::locate(segments, tensor)?;
        if !tensor.is_packed() {
            return Err(LayoutProblem::Strides);
        }
        let width = tensor.ty.shape.elements() as usize;
        Ok(Stored { pointer, rows: 1, width, stride: width })
    }

    /// Whether elements are f32, so that what is written in parts needs no sum elsewhere.
    pub(crate) fn is_f32(&self) -> bool {
        matches!(self.pointer, Pointer::F32(_))
    }

    /// The address of a row, where elements are f32.
    pub(crate) fn f32_row(&self, row: usize) -> Option<*mut f32> {
        match self.element(row, &(0..self.width)) {
            Pointer::F32(pointer) => Some(pointer),
            Pointer::Bf16(_) => None,
        }
    }

    /// Whether rows follow each other without gaps.
    pub(crate) fn is_packed(&self) -> bool {
        self.stride == self.width || self.rows <= 1
    }

    /// The same elements as one row; only for packed rows.
    pub(crate) fn flat(&self) -> Stored {
        assert!(self.is_packed());
        let width = self.rows * self.width;
        Stored { pointer: self.pointer, rows: 1, width, stride: width }
    }

    /// Numbers of buffer that reading or writing so many elements at a time needs.
    pub(crate) fn buffer(&self, elements: usize) -> usize {
        self.pointer.buffer(elements)
    }

    fn element(&self, row: usize, columns: &Range<usize>) -> Pointer {
        assert!(row < self.rows && columns.start <= columns.end && columns.end <= self.width);
        self.pointer.at(row * self.stride + columns.start)
    }

    /// Part of a row in f32.
    ///
    /// # Safety
    /// While the slice lives, nobody writes these elements.
    pub(crate) unsafe fn part<'a>(
        &self,
        row: usize,
        columns: Range<usize>,
        buffer: &'a mut [f32],
    ) -> &'a [f32] {
        let pointer = self.element(row, &columns);
        // SAFETY: in bounds, as checked; the caller answers for races.
        unsafe { pointer.read(columns.len(), buffer) }
    }

    /// A row in f32.
    ///
    /// # Safety
    /// As [`Stored::part`].
    pub(crate) unsafe fn row<'a>(&self, row: usize, buffer: &'a mut [f32]) -> &'a [f32] {
        // SAFETY: passed on.
        unsafe { self.part(row, 0..self.width, buffer) }
    }

    /// One element.
    ///
    /// # Safety
    /// Nobody writes it at the same time.
    pub(crate) unsafe fn number(&self, row: usize, column: usize) -> f32 {
        // SAFETY: passed on.
        unsafe { self.part(row, column..column + 1, &mut [0.0])[0] }
    }

    /// Stores what `fill` puts into part of a row; it finds anything there.
    ///
    /// # Safety
    /// While this runs, nobody else reads or writes these elements.
    pub(crate) unsafe fn write<R>(
        &self,
        row: usize,
        columns: Range<usize>,
        buffer: &mut [f32],
        fill: impl FnOnce(&mut [f32]) -> R,
    ) -> R {
        let pointer = self.element(row, &columns);
        // SAFETY: in bounds, as checked; the caller answers for races.
        unsafe { pointer.change(columns.len(), buffer, false, fill) }
    }

    /// Stores what `change` makes of part of a row.
    ///
    /// # Safety
    /// As [`Stored::write`].
    pub(crate) unsafe fn update<R>(
        &self,
        row: usize,
        columns: Range<usize>,
        buffer: &mut [f32],
        change: impl FnOnce(&mut [f32]) -> R,
    ) -> R {
        let pointer = self.element(row, &columns);
        // SAFETY: in bounds, as checked; the caller answers for races.
        unsafe { pointer.change(columns.len(), buffer, true, change) }
    }

    /// [`Stored::write`] of a row.
    ///
    /// # Safety
    /// As [`Stored::write`].
    pub(crate) unsafe fn write_row<R>(
        &self,
        row: usize,
        buffer: &mut [f32],
        fill: impl FnOnce(&mut [f32]) -> R,
    ) -> R {
        // SAFETY: passed on.
        unsafe { self.write(row, 0..self.width, buffer, fill) }
    }

    /// Stores numbers in a row from `column` on.
    ///
    /// # Safety
    /// As [`Stored::write`].
    pub(crate) unsafe fn set(&self, row: usize, column: usize, values: &[f32]) {
        let pointer = self.element(row, &(column..column + values.len()));
        // SAFETY: in bounds, as checked; the caller answers for races.
        unsafe { pointer.set(values) };
    }

    /// Sets part of a row to 0.
    ///
    /// # Safety
    /// As [`Stored::write`].
    pub(crate) unsafe fn clear(&self, row: usize, columns: Range<usize>) {
        match self.element(row, &columns) {
            // SAFETY: in bounds, as checked; the caller answers for races. Zero is all zero bits in both formats.
            Pointer::F32(pointer) => unsafe { pointer.write_bytes(0, columns.len()) },
            // SAFETY: as above.
            Pointer::Bf16(pointer) => unsafe { pointer.write_bytes(0, columns.len()) },
        }
    }

    /// Copies part of a row of another tensor to a row from `column` on, rounded where the formats differ so.
    ///
    /// # Safety
    /// As [`Stored::part`] for the source and [`Stored::write`] for what is written; they are apart.
    pub(crate) unsafe fn copy(
        &self,
        row: usize,
        column: usize,
        source: &Stored,
        source_row: usize,
        columns: Range<usize>,
    ) {
        let length = columns.len();
        let target = self.element(row, &(column..column + length));
        // SAFETY: in bounds, as checked; the caller answers for races and says that they are apart.
        unsafe {
            match (target, source.element(source_row, &columns)) {
                (Pointer::F32(y), Pointer::F32(x)) => y.copy_from_nonoverlapping(x, length),
                (Pointer::Bf16(y), Pointer::Bf16(x)) => y.copy_from_nonoverlapping(x, length),
                (Pointer::F32(y), Pointer::Bf16(x)) => widen(
                    std::slice::from_raw_parts(x, length),
                    std::slice::from_raw_parts_mut(y, length),
                ),
                (Pointer::Bf16(y), Pointer::F32(x)) => narrow(
                    std::slice::from_raw_parts(x, length),
                    std::slice::from_raw_parts_mut(y, length),
                ),
            }
        }
    }

    /// The rows in `rows` as a factor or the result of a product.
    pub(crate) fn factor(&self, rows: Range<usize>) -> Factor {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        Factor::new(self.pointer.at(rows.start * self.stride), rows.len(), self.width, self.stride)
    }
}
