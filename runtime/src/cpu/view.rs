//! Checked views of a plan's tensors: where raw memory becomes rows and matrices.
//!
//! A view is made once, when an operation is prepared: its element format is right and all its elements lie inside its
//! segment. Element access checks indices against the view. What a view cannot check is that nobody writes what
//! another reads; [`disjoint`] proves that for the operands and results of an operation, and kernels cut their results
//! so that two tasks never share an element.
//!
//! Owns what is f32 or integer by definition; tensors of either real format are in [`crate::cpu::stored`]. Must not know
//! operations.

use std::ops::Range;

use colac_plan::{DType, Segment, Tensor};

use crate::contract::LayoutProblem;

/// First bytes and sizes of the segments, by [`Segment::index`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segments {
    pub(crate) pointers: [*mut u8; Segment::ALL.len()],
    pub(crate) bytes: [usize; Segment::ALL.len()],
}

// SAFETY: addresses with bounds, as for `Rows` below.
unsafe impl Send for Segments {}
// SAFETY: as above.
unsafe impl Sync for Segments {}

impl Segments {
    /// The address of a tensor's first element, after checking that it is of the given format and inside its segment.
    pub(crate) fn locate(&self, tensor: &Tensor, dtype: DType) -> Result<*mut u8, LayoutProblem> {
        if tensor.ty.dtype != dtype {
            return Err(LayoutProblem::ElementFormat { expected: dtype, found: tensor.ty.dtype });
        }
        if tensor.strides.len() != tensor.ty.shape.ndim() {
            return Err(LayoutProblem::Strides);
        }
        let segment = tensor.segment.index();
        let range = tensor.range().filter(|range| range.end <= self.bytes[segment] as u64);
        let range = range.ok_or(LayoutProblem::OutsideSegment(tensor.segment))?;
        let pointer = self.pointers[segment].wrapping_add(range.start as usize);
        if !(pointer as usize).is_multiple_of(dtype.bytes() as usize) {
            return Err(LayoutProblem::Alignment);
        }
        Ok(pointer)
    }
}

/// A tensor of f32 as rows that step evenly; for what is f32 by definition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pointer: *mut f32,
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) stride: usize,
}

// SAFETY: a view is an address with bounds; whoever reads or writes through it answers for the absence of races, as the
// accessors say.
unsafe impl Send for Rows {}
// SAFETY: as above.
unsafe impl Sync for Rows {}

impl Rows {
    /// The rows of a tensor.
    pub(crate) fn new(segments: &Segments, tensor: &Tensor) -> Result<Rows, LayoutProblem> {
        let pointer = segments.locate(tensor, DType::F32)?.cast();
        let stride = tensor.row_stride().ok_or(LayoutProblem::Strides)? as usize;
        let (rows, width) = (tensor.ty.shape.rows() as usize, tensor.ty.shape.width() as usize);
        Ok(Rows { pointer, rows, width, stride })
    }

    /// A tensor without gaps as one row of all its elements.
    pub(crate) fn packed(segments: &Segments, tensor: &Tensor) -> Result<Rows, LayoutProblem> {
        let pointer = segments.locate(tensor, DType::F32)?.cast();
        if !tensor.is_packed() {
            return Err(LayoutProblem::Strides);
        }
        let width = tensor.ty.shape.elements() as usize;
        Ok(Rows { pointer, rows: 1, width, stride: width })
    }

    /// Packed rows at the start of memory that holds at least that many; used for the workspace.
    pub(crate) fn over(pointer: *mut f32, rows: usize, width: usize) -> Rows {
        Rows { pointer, rows, width, stride: width }
    }

    /// The first element.
    pub(crate) fn pointer(&self) -> *mut f32 {
        self.pointer
    }

    fn element(&self, row: usize, columns: &Range<usize>) -> *mut f32 {
        assert!(row < self.rows && columns.start <= columns.end && columns.end <= self.width);
        self.pointer.wrapping_add(row * self.stride + columns.start)
    }

    /// Part of a row.
    ///
    /// # Safety
    /// While the slice lives, nobody writes these elements.
    pub(crate) unsafe fn part<'a>(&self, row: usize, columns: Range<usize>) -> &'a [f32] {
        let pointer = self.element(row, &columns);
        // SAFETY: in bounds, as checked; the caller answers for races.
        unsafe { std::slice::from_raw_parts(pointer, columns.len()) }
    }

    /// Part of a row, to be written.
    ///
    /// # Safety
    /// While the slice lives, nobody else reads or writes these elements.
    pub(crate) unsafe fn part_mut<'a>(&self, row: usize, columns: Range<usize>) -> &'a mut [f32] {
        let pointer = self.element(row, &columns);
        // SAFETY: in bounds, as checked; the caller answers for races.
        unsafe { std::slice::from_raw_parts_mut(pointer, columns.len()) }
    }

    /// A row.
    ///
    /// # Safety
    /// As [`Rows::part`].
    pub(crate) unsafe fn row<'a>(&self, row: usize) -> &'a [f32] {
        // SAFETY: passed on.
        unsafe { self.part(row, 0..self.width) }
    }

    /// A row, to be written.
    ///
    /// # Safety
    /// As [`Rows::part_mut`].
    pub(crate) unsafe fn row_mut<'a>(&self, row: usize) -> &'a mut [f32] {
        // SAFETY: passed on.
        unsafe { self.part_mut(row, 0..self.width) }
    }

    /// The first element.
    ///
    /// # Safety
    /// Nobody writes it at the same time.
    pub(crate) unsafe fn scalar(&self) -> f32 {
        // SAFETY: passed on.
        unsafe { self.part(0, 0..1)[0] }
    }

    /// The rows in `rows` as a matrix.
    pub(crate) fn matrix(&self, rows: Range<usize>) -> Matrix {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        Matrix {
            pointer: self.pointer.wrapping_add(rows.start * self.stride),
            rows: rows.len(),
            columns: self.width,
            row_stride: self.stride,
            column_stride: 1,
        }
    }
}

/// Integers without gaps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Integers {
    pointer: *mut i32,
    pub(crate) length: usize,
}

// SAFETY: as for `Rows`.
unsafe impl Send for Integers {}
// SAFETY: as for `Rows`.
unsafe impl Sync for Integers {}

impl Integers {
    /// The elements of an integer tensor.
    pub(crate) fn new(segments: &Segments, tensor: &Tensor) -> Result<Integers, LayoutProblem> {
        let pointer = segments.locate(tensor, DType::I32)?.cast();
        if !tensor.is_packed() {
            return Err(LayoutProblem::Strides);
        }
        Ok(Integers { pointer, length: tensor.ty.shape.elements() as usize })
    }

    /// All of them.
    ///
    /// # Safety
    /// While the slice lives, nobody writes them.
    pub(crate) unsafe fn all<'a>(&self) -> &'a [i32] {
        // SAFETY: in bounds by construction; the caller answers for races.
        unsafe { std::slice::from_raw_parts(self.pointer, self.length) }
    }

    /// All of them, to be written.
    ///
    /// # Safety
    /// While the slice lives, nobody else reads or writes them.
    pub(crate) unsafe fn all_mut<'a>(&self) -> &'a mut [i32] {
        // SAFETY: in bounds by construction; the caller answers for races.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.length) }
    }
}

/// A strided matrix of f32. Cutting it keeps it inside the view it was made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix {
    pub(crate) pointer: *mut f32,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

// SAFETY: as for `Rows`.
unsafe impl Send for Matrix {}
// SAFETY: as for `Rows`.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// A matrix of packed rows over a slice that holds it. The slice must not be used while the matrix is.
    pub(crate) fn over(elements: &mut [f32], rows: usize, columns: usize) -> Matrix {
        assert!(rows * columns <= elements.len());
        Matrix {
            pointer: elements.as_mut_ptr(),
            rows,
            columns,
            row_stride: columns,
            column_stride: 1,
        }
    }

    /// Rows and columns exchanged.
    pub(crate) fn transposed(self) -> Matrix {
        Matrix {
            pointer: self.pointer,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// The bytes of a tensor as `count` pieces of `width` bytes, `stride` apart, the first at `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pieces {
    start: u64,
    width: u64,
    stride: u64,
    count: u64,
}

impl Pieces {
    /// `None` where the tensor's pieces do not step evenly.
    fn of(tensor: &Tensor) -> Option<Pieces> {
        let bytes = tensor.ty.dtype.bytes();
        let mut axes: Vec<(u64, u64)> =
            tensor.ty.shape.0.iter().zip(&tensor.strides).map(|(a, s)| (a.extent, *s)).collect();
        axes.retain(|(extent, _)| *extent != 1);
        let mut width = 1;
        while let Some((extent, stride)) = axes.last().copied()
            && stride == width
        {
            width *= extent;
            axes.pop();
        }
        let (mut count, mut stride) = (1, width);
        if let Some((extent, step)) = axes.pop() {
            (count, stride) = (extent, step);
            while let Some((extent, step)) = axes.pop() {
                if step != stride * count {
                    return None;
                }
                count *= extent;
            }
        }
        Some(Pieces { start: tensor.offset, width: width * bytes, stride: stride * bytes, count })
    }
}

/// Whether no two elements of a tensor share bytes.
pub(crate) fn is_injective(tensor: &Tensor) -> bool {
    let mut axes: Vec<(u64, u64)> =
        tensor.strides.iter().copied().zip(tensor.ty.shape.0.iter().map(|a| a.extent)).collect();
    axes.retain(|(_, extent)| *extent > 1);
    axes.sort_unstable();
    axes.windows(2)
        .all(|pair| pair[0].0.checked_mul(pair[0].1).is_some_and(|span| span <= pair[1].0))
        && axes.first().is_none_or(|(stride, _)| *stride >= 1)
}

/// Whether two tensors certainly share no bytes: other segments, other ranges, or interleaved slices of the same rows.
pub(crate) fn disjoint(a: &Tensor, b: &Tensor) -> bool {
    if a.segment != b.segment || a.ty.shape.elements() == 0 || b.ty.shape.elements() == 0 {
        return true;
    }
    let (Some(x), Some(y)) = (a.range(), b.range()) else { return false };
    if x.end <= y.start || y.end <= x.start {
        return true;
    }
    let (Some(x), Some(y)) = (Pieces::of(a), Pieces::of(b)) else { return false };
    // A single piece may be seen with the other's stride.
    let stride = if x.count > 1 { x.stride } else { y.stride };
    if (x.count > 1 && y.count > 1 && x.stride != y.stride) || x.width > stride || y.width > stride
    {
        return false;
    }
    let (low, high) = if x.start <= y.start { (x, y) } else { (y, x) };
    let distance = (high.start - low.start) % stride;
    distance >= low.width && distance + high.width <= stride
}

#[cfg(test)]
mod tests {
    use super::*;
    use colac_plan::TensorType;

    fn tensor(extents: &[u64], strides: &[u64], offset: u64) -> Tensor {
        Tensor {
            name: String::new(),
            ty: TensorType::f32(extents),
            strides: strides.to_vec(),
            segment: Segment::Activations,
            offset,
            parent: None,
        }
    }

    #[test]
    fn slices_of_the_same_rows_are_told_apart() {
        let whole = tensor(&[4, 12], &[12, 1], 0);
        let left = tensor(&[4, 4], &[12, 1], 0);
        let middle = tensor(&[4, 4], &[12, 1], 16);
        let wide = tensor(&[4, 8], &[12, 1], 16);
        assert!(disjoint(&left, &middle) && disjoint(&middle, &left) && disjoint(&left, &wide));
        assert!(!disjoint(&middle, &wide) && !disjoint(&whole, &left) && !disjoint(&left, &left));
        let heads = tensor(&[1, 4, 2, 2], &[48, 12, 2, 1], 32);
        assert!(disjoint(&heads, &middle) && !disjoint(&heads, &wide));
        assert!(
            !disjoint(&left, &tensor(&[2, 4], &[10, 1], 16)),
            "other strides cannot be told apart"
        );
        assert!(disjoint(&left, &tensor(&[4, 12], &[12, 1], 1024)));
    }

    #[test]
    fn overlapping_rows_are_found() {
        assert!(is_injective(&tensor(&[4, 4], &[12, 1], 0)));
        assert!(is_injective(&tensor(&[1, 4], &[0, 1], 0)));
        assert!(!is_injective(&tensor(&[4, 4], &[3, 1], 0)));
        assert!(!is_injective(&tensor(&[4, 4], &[4, 0], 0)));
    }

    #[test]
    fn tensors_outside_their_segment_are_refused() {
        let mut memory = crate::cpu::memory::Memory::zeroed(256).unwrap();
        let pointers = [memory.pointer(); Segment::ALL.len()];
        let segments = Segments { pointers, bytes: [256; Segment::ALL.len()] };
        assert!(Rows::new(&segments, &tensor(&[4, 16], &[16, 1], 0)).is_ok());
        let refused = Rows::new(&segments, &tensor(&[4, 16], &[16, 1], 4));
        assert_eq!(refused.err(), Some(LayoutProblem::OutsideSegment(Segment::Activations)));
        let refused = Rows::new(&segments, &tensor(&[2, 2, 4], &[16, 4, 1], 2));
        assert_eq!(refused.err(), Some(LayoutProblem::Alignment));
        let refused = Rows::new(&segments, &tensor(&[2, 2, 4], &[32, 4, 1], 0));
        assert_eq!(refused.err(), Some(LayoutProblem::Strides));
        assert!(Rows::new(&segments, &tensor(&[u64::MAX, 2], &[u64::MAX, 1], 0)).is_err());
    }
}
