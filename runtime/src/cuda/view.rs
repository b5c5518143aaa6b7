//! Views of a plan's tensors on the device: an address, a format, and how rows step.
//!
//! A view is made once, when an operation is lowered, after checking that all its elements lie inside their segment.
//! Must not know operations.

use colac_plan::{DType, Segment, Tensor};

use crate::contract::LayoutProblem;

/// First addresses and sizes of the segments on the device, by [`Segment::index`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segments {
    pub(crate) addresses: [u64; Segment::ALL.len()],
    pub(crate) bytes: [u64; Segment::ALL.len()],
}

impl Segments {
    /// The address of a tensor's first element, after checking that all of them are inside its segment.
    pub(crate) fn locate(&self, tensor: &Tensor) -> Result<u64, LayoutProblem> {
        if tensor.strides.len() != tensor.ty.shape.ndim() {
            return Err(LayoutProblem::Strides);
        }
        let segment = tensor.segment.index();
        let range = tensor.range().filter(|range| range.end <= self.bytes[segment]);
        let range = range.ok_or(LayoutProblem::OutsideSegment(tensor.segment))?;
        let address = self.addresses[segment] + range.start;
        if !address.is_multiple_of(tensor.ty.dtype.bytes()) {
            return Err(LayoutProblem::Alignment);
        }
        Ok(address)
    }
}

/// A tensor as rows that step evenly. Distances are in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) address: u64,
    pub(crate) dtype: DType,
    pub(crate) rows: u64,
    pub(crate) width: u64,
    pub(crate) stride: u64,
    /// Elements behind each row that belong to the tensor and are 0.
    pub(crate) padding: u64,
    /// Rows behind the last one that belong to the tensor and are 0.
    pub(crate) more_rows: u64,
}

impl Rows {
    /// The rows of a tensor.
    pub(crate) fn new(segments: &Segments, tensor: &Tensor) -> Result<Rows, LayoutProblem> {
        let address = segments.locate(tensor)?;
        let stride = tensor.row_stride().ok_or(LayoutProblem::Strides)?;
        let (rows, width) = (tensor.ty.shape.rows(), tensor.ty.shape.width());
        let dtype = tensor.ty.dtype;
        Ok(Rows { address, dtype, rows, width, stride, padding: 0, more_rows: 0 })
    }

    /// A tensor without gaps as one row of all its elements.
    pub(crate) fn packed(segments: &Segments, tensor: &Tensor) -> Result<Rows, LayoutProblem> {
        let address = segments.locate(tensor)?;
        if !tensor.is_packed() {
            return Err(LayoutProblem::Strides);
        }
        let width = tensor.ty.shape.elements();
        let dtype = tensor.ty.dtype;
        Ok(Rows { address, dtype, rows: 1, width, stride: width, padding: 0, more_rows: 0 })
    }

    /// Whether rows are as [`Rows::is_wide`] wants them once what pads them is counted in: a kernel that computes elements
    /// each by itself may compute the padding, too.
    pub(crate) fn is_wide_with_padding(&self) -> bool {
        let width = self.width.next_multiple_of(8);
        width - self.width <= self.padding && Rows { width, ..*self }.is_wide()
    }

    /// Whether every row begins at a multiple of 16 bytes and consists of whole groups of eight elements, so that a kernel
    /// may read and write eight neighbours at once.
    pub(crate) fn is_wide(&self) -> bool {
        let bytes = self.dtype.bytes();
        let steps = self.rows <= 1 || (self.stride * bytes).is_multiple_of(16);
        self.address.is_multiple_of(16) && steps && self.width.is_multiple_of(8)
    }
}

/// A tensor `[batch, seq, heads, dim]` whose innermost axis is contiguous. Distances are in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heads {
    pub(crate) address: u64,
    pub(crate) dtype: DType,
    pub(crate) batch: u64,
    pub(crate) seq: u64,
    pub(crate) heads: u64,
    pub(crate) dim: u64,
    /// Of batch, sequence and heads.
    pub(crate) strides: [u64; 3],
}

impl Heads {
    /// The heads of a tensor of four axes.
    pub(crate) fn new(segments: &Segments, tensor: &Tensor) -> Result<Heads, LayoutProblem> {
        let address = segments.locate(tensor)?;
        let axes = tensor.ty.shape.extents();
        match (&axes[..], &tensor.strides[..]) {
            (&[batch, seq, heads, dim], &[b, s, h, d]) if d == 1 || dim <= 1 => {
                let strides = [b, s, h];
                Ok(Heads { address, dtype: tensor.ty.dtype, batch, seq, heads, dim, strides })
            }
            _ => Err(LayoutProblem::Strides),
        }
    }

    /// Whether every head of every position begins at a multiple of 16 bytes and is whole groups of eight elements.
    pub(crate) fn is_wide(&self) -> bool {
        let bytes = self.dtype.bytes();
        let steps = [self.batch, self.seq, self.heads].into_iter().zip(self.strides);
        let even =
            |(extent, stride): (u64, u64)| extent <= 1 || (stride * bytes).is_multiple_of(16);
        self.address.is_multiple_of(16) && self.dim.is_multiple_of(8) && steps.into_iter().all(even)
    }
}
