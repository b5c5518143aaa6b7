//! Where tensors lie: segments, offsets, strides, slices.
//!
//! Owns the layout words of a plan. Must not know what is stored in a tensor or who computes it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::shape::TensorType;

/// A contiguous region of memory with one life and one purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Segment {
    /// Trained weights: matrices in layer order, then embeddings, then vectors.
    Parameters,
    /// Gradients, laid out as the parameters: the same elements at the same positions, whatever their size.
    Gradients,
    /// First moments, second moments, master parameters where there are any (each laid out as the parameters), the step
    /// counter.
    Optimizer,
    /// Everything between operations; one arena that all programs share, one at a time.
    Activations,
    /// Scratch memory of one operation at a time.
    Workspace,
    /// Tables computed once by the host.
    Constants,
    /// Filled by the host before a program runs.
    Inputs,
    /// Read by the host after a program ran.
    Outputs,
    /// Single numbers that the host sets or that programs hand to each other.
    Scalars,
}

impl Segment {
    /// All segments, in the order of [`Segment::index`].
    pub const ALL: [Segment; 9] = [
        Segment::Parameters,
        Segment::Gradients,
        Segment::Optimizer,
        Segment::Activations,
        Segment::Workspace,
        Segment::Constants,
        Segment::Inputs,
        Segment::Outputs,
        Segment::Scalars,
    ];

    /// Position in [`Segment::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The printed name.
    pub fn name(self) -> &'static str {
        match self {
            Segment::Parameters => "parameters",
            Segment::Gradients => "gradients",
            Segment::Optimizer => "optimizer",
            Segment::Activations => "activations",
            Segment::Workspace => "workspace",
            Segment::Constants => "constants",
            Segment::Inputs => "inputs",
            Segment::Outputs => "outputs",
            Segment::Scalars => "scalars",
        }
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Names a tensor of a plan by its position in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TensorId(pub u32);

impl TensorId {
    /// Position in the table.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for TensorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

/// Rows of fewer numbers are not padded: what they would waste is no small part of them.
pub const PADDED_WIDTH: u64 = 256;

/// What padded rows are a multiple of, in elements: 16 bytes of bf16.
pub const PADDED_TO: u64 = 8;

/// One tensor: logical type and place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tensor {
    /// The path of the node it comes from, e.g. `layers.3.self_attn.q_proj`, with a suffix where a node has several
    /// results. Names need not be unique.
    pub name: String,
    /// Logical type.
    pub ty: TensorType,
    /// Distance in elements between neighbours along each axis. The innermost is 1; outer ones may exceed the packed
    /// distance where rows are padded or the tensor is a slice of a wider one.
    pub strides: Vec<u64>,
    /// Where it lies.
    pub segment: Segment,
    /// First byte within the segment.
    pub offset: u64,
    /// The tensor whose bytes this one looks at, where it is a view or a slice. Its life is the parent's.
    pub parent: Option<TensorId>,
}

impl Tensor {
    /// Packed strides of a shape.
    pub fn packed_strides(ty: &TensorType) -> Vec<u64> {
        let mut strides = vec![1; ty.shape.ndim()];
        for axis in (1..strides.len()).rev() {
            strides[axis - 1] = strides[axis] * ty.shape.0[axis].extent;
        }
        strides
    }

    /// Strides of a shape whose rows are padded: a row of [`PADDED_WIDTH`] or more numbers that is no multiple of
    /// [`PADDED_TO`] is followed by so many unused ones that the next row begins at one. Matrix units and wide accesses
    /// need rows that begin at multiples of 16 bytes, which an odd width would deny to every row but a few. The numbers
    /// between belong to the tensor; executors keep those of parameters, gradients and moments at 0.
    pub fn padded_strides(ty: &TensorType) -> Vec<u64> {
        let mut strides = Tensor::packed_strides(ty);
        let (width, axes) = (ty.shape.width(), strides.len());
        if axes < 2 || !ty.dtype.is_float() || width < PADDED_WIDTH {
            return strides;
        }
        let mut stride = width.next_multiple_of(PADDED_TO);
        for axis in (0..axes - 1).rev() {
            strides[axis] = stride;
            stride *= ty.shape.0[axis].extent;
        }
        strides
    }

    /// Rows that a parameter of this type, or a stack of parameters, owns in its segment: a multiple of [`PADDED_TO`] from
    /// [`PADDED_WIDTH`] rows on, for the sake of the products in which rows are columns. The rows behind are 0, as what
    /// pads rows.
    pub fn padded_rows(ty: &TensorType) -> u64 {
        let rows = ty.shape.rows();
        match ty.shape.ndim() == 2 && rows >= PADDED_WIDTH {
            true => rows.next_multiple_of(PADDED_TO),
            false => rows,
        }
    }

    /// Elements from the first to the end of the last row, what pads it included.
    pub fn padded_elements(ty: &TensorType, strides: &[u64]) -> u64 {
        match strides.first() {
            Some(first) if strides.len() > 1 => first * ty.shape.0[0].extent,
            _ => ty.shape.elements(),
        }
    }

    /// Whether no element is skipped.
    pub fn is_packed(&self) -> bool {
        self.strides == Tensor::packed_strides(&self.ty)
    }

    /// Distance in elements between consecutive rows, where all leading axes together step evenly; `None` otherwise.
    /// Kernels see a tensor as `rows × width` with this stride.
    pub fn row_stride(&self) -> Option<u64> {
        let (axes, strides) = (&self.ty.shape.0, &self.strides);
        let Some(last) = axes.len().checked_sub(1) else { return Some(1) };
        if strides[last] != 1 {
            return None;
        }
        let mut stride = axes[last].extent;
        let mut expected = None;
        for axis in (0..last).rev().filter(|&axis| axes[axis].extent != 1) {
            match expected {
                None => stride = strides[axis],
                Some(expected) if expected != strides[axis] => return None,
                Some(_) => {}
            }
            expected = strides[axis].checked_mul(axes[axis].extent);
        }
        Some(stride)
    }

    /// Bytes from the first to one past the last element, skipped ones included. `None` where that overflows.
    pub fn span_bytes(&self) -> Option<u64> {
        let mut last: u64 = 0;
        for (axis, stride) in self.ty.shape.0.iter().zip(&self.strides) {
            if axis.extent == 0 {
                return Some(0);
            }
            last = last.checked_add((axis.extent - 1).checked_mul(*stride)?)?;
        }
        last.checked_add(1)?.checked_mul(self.ty.dtype.bytes())
    }

    /// Byte range within the segment. `None` where that overflows.
    pub fn range(&self) -> Option<std::ops::Range<u64>> {
        Some(self.offset..self.offset.checked_add(self.span_bytes()?)?)
    }
}
