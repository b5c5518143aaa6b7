//! The view of `[batch, seq, heads, dim]` that attention and rotary positions take.
//!
//! Works as [`crate::cpu::stored`]: f32 is used where it lies, bf16 goes through a buffer. Must not know operations.

use std::ops::Range;

use colac_plan::Tensor;

use crate::contract::LayoutProblem;
use crate::cpu::factor::Factor;
use crate::cpu::stored::Pointer;
use crate::cpu::view::{Matrix, Segments};

/// A real tensor `[batch, seq, heads, dim]` whose innermost axis is contiguous.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pointer: Pointer,
    pub(crate) batch: usize,
    pub(crate) seq: usize,
    pub(crate) heads: usize,
    pub(crate) dim: usize,
    strides: [usize; 3],
}

// SAFETY: as for `Stored`.
unsafe impl Send for Heads {}
// SAFETY: as for `Stored`.
unsafe impl Sync for Heads {}

impl Heads {
    /// The heads of a tensor of four axes.
    pub(crate) fn new(segments: &Segments, tensor: &Tensor) -> Result<Heads, LayoutProblem> {
        let pointer = Pointer::locate(segments, tensor)?;
        let axes: Vec<usize> = tensor.ty.shape.0.iter().map(|a| a.extent as usize).collect();
        let strides: Vec<usize> = tensor.strides.iter().map(|s| *s as usize).collect();
        match (&axes[..], &strides[..]) {
            (&[batch, seq, heads, dim], &[b, s, h, d]) if d == 1 || dim <= 1 => {
                Ok(Heads { pointer, batch, seq, heads, dim, strides: [b, s, h] })
            }
            _ => Err(LayoutProblem::Strides),
        }
    }

    /// Whether elements are f32, so that what is written in parts needs no sum elsewhere.
    pub(crate) fn is_f32(&self) -> bool {
        matches!(self.pointer, Pointer::F32(_))
    }

    /// Numbers of buffer that so many positions of one head need.
    pub(crate) fn buffer(&self, positions: usize) -> usize {
        self.pointer.buffer(positions * self.dim)
    }

    fn element(&self, batch: usize, position: usize, head: usize) -> Pointer {
        assert!(batch < self.batch && position < self.seq && head < self.heads);
        self.pointer
            .at(batch * self.strides[0] + position * self.strides[1] + head * self.strides[2])
    }

    /// The positions in `positions` of one head as a matrix `[positions, dim]`, as it is stored.
    pub(crate) fn factor(&self, batch: usize, head: usize, positions: Range<usize>) -> Factor {
        assert!(positions.start < positions.end && positions.end <= self.seq);
        let first = self.element(batch, positions.start, head);
        Factor::new(first, positions.len(), self.dim, self.strides[1])
    }

    /// The positions in `positions` of one head in f32. The buffer must not be used while the matrix is.
    ///
    /// # Safety
    /// While this runs, nobody writes these elements.
    pub(crate) unsafe fn matrix(
        &self,
        batch: usize,
        head: usize,
        positions: Range<usize>,
        buffer: &mut [f32],
    ) -> Matrix {
        // SAFETY: passed on.
        unsafe { self.factor(batch, head, positions).load(buffer) }
    }

    /// One head of one position in f32.
    ///
    /// # Safety
    /// While the slice lives, nobody writes these elements.
    pub(crate) unsafe fn vector<'a>(
        &self,
        batch: usize,
        position: usize,
        head: usize,
        buffer: &'a mut [f32],
    ) -> &'a [f32] {
        let pointer = self.element(batch, position, head);
        // SAFETY: in bounds, as checked; the caller answers for races.
        unsafe { pointer.read(self.dim, buffer) }
    }

    /// Stores what `change` makes of one head of one position. It finds there what there is where `keep`, else anything.
    ///
    /// # Safety
    /// While this runs, nobody else reads or writes these elements.
    pub(crate) unsafe fn change<R>(
        &self,
        (batch, position, head): (usize, usize, usize),
        keep: bool,
        buffer: &mut [f32],
        change: impl FnOnce(&mut [f32]) -> R,
    ) -> R {
        let pointer = self.element(batch, position, head);
        // SAFETY: in bounds, as checked; the caller answers for races.
        unsafe { pointer.change(self.dim, buffer, keep, change) }
    }
}
