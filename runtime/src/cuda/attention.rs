//! An attention as a library is asked for it: one pass over tensors of heads, as a whole.
//!
//! Owns the words between [`crate::cuda::lower`], which says what is asked for, and devices that have a library for it.
//! Must not know which libraries there are.

use colac_plan::op::Mask;

use crate::cuda::view::Heads;

/// Which kernels compute attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttentionKernels {
    /// Our own, everywhere.
    #[default]
    Own,
    /// cuDNN's, and our own for those operations that it does not take.
    Cudnn,
}

/// Attention operations of a plan by what computes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttentionUse {
    /// By the library that was asked for.
    pub library: usize,
    /// By our own kernels.
    pub own: usize,
}

/// Forward or backward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pass {
    Forward,
    Backward,
}

/// Places of its tensors among [`Attention::heads`], forward and backward.
pub(crate) mod forward {
    pub(crate) const Q: usize = 0;
    pub(crate) const K: usize = 1;
    pub(crate) const V: usize = 2;
    pub(crate) const OUT: usize = 3;
}
pub(crate) mod backward {
    pub(crate) const DOUT: usize = 0;
    pub(crate) const Q: usize = 1;
    pub(crate) const K: usize = 2;
    pub(crate) const V: usize = 3;
    pub(crate) const OUT: usize = 4;
    pub(crate) const DQ: usize = 5;
    pub(crate) const DK: usize = 6;
    pub(crate) const DV: usize = 7;
}

/// All that a library's choice of kernels depends on: everything but addresses and the scale.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AttentionShape {
    pub(crate) pass: Pass,
    pub(crate) batch: u64,
    pub(crate) seq: u64,
    /// Heads of queries; a multiple of `groups`.
    pub(crate) heads: u64,
    /// Heads of keys and values.
    pub(crate) groups: u64,
    /// Width of every head.
    pub(crate) dim: u64,
    /// Whether later keys are hidden.
    pub(crate) causal: bool,
    /// How many keys a query sees at most, its own included.
    pub(crate) window: Option<u32>,
    /// Elements from batch to batch, position to position, head to head, of each tensor.
    pub(crate) strides: Vec<[u64; 3]>,
}

/// One attention, or its derivative: bf16, sums in f32, `softmax(scale · q kᵀ) v` over the keys that the mask shows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attention {
    pub(crate) shape: AttentionShape,
    /// What products of queries and keys are multiplied by.
    pub(crate) scale: f32,
    /// Addresses of the tensors of heads, in the order of [`forward`] or [`backward`].
    pub(crate) heads: Vec<u64>,
    /// Natural logarithms of the sums of exponentials, f32 `[batch, heads, seq]`: written forward, read backward.
    pub(crate) logarithms: u64,
    /// Backward: f32 `[batch, heads, seq]` for the row sums of `dout · out`, overwritten. Forward 0.
    pub(crate) row_sums: u64,
    /// The library's workspace; 0 until the executor has allocated it.
    pub(crate) workspace: u64,
}

impl AttentionShape {
    /// Whether the library's graphs are made for it, on GPUs of whatever kind. A row of one position is not: some versions end
    /// the process over its derivative.
    pub(crate) fn is_for_library(&self) -> bool {
        let &AttentionShape { batch, seq, heads, groups, dim, .. } = self;
        let counts = [batch, heads, groups].iter().all(|count| (1..1 << 16).contains(count));
        let narrow = dim.is_multiple_of(8) && (8..=128).contains(&dim);
        // Positions are compared as f32 where there is a window.
        let short = (2..1 << 24).contains(&seq);
        let sharing = groups > 0 && heads.is_multiple_of(groups);
        let window = self.window.is_none_or(|window| (1..1 << 24).contains(&window));
        counts && narrow && short && sharing && window
    }

    /// The shape of a pass over tensors in the order of [`forward`] or [`backward`]; `q` and `k` are among them.
    pub(crate) fn of(pass: Pass, mask: Mask, q: &Heads, k: &Heads, tensors: &[&Heads]) -> Self {
        let (causal, window) = match mask {
            Mask::Full => (false, None),
            Mask::Causal => (true, None),
            Mask::Window(width) => (true, Some(width)),
        };
        let strides = tensors.iter().map(|heads| plain_strides(heads)).collect();
        let &Heads { batch, seq, heads, dim, .. } = q;
        AttentionShape { pass, batch, seq, heads, groups: k.heads, dim, causal, window, strides }
    }
}

/// Strides in which an axis of one element has that of a tensor without gaps, since what stands there says nothing.
fn plain_strides(tensor: &Heads) -> [u64; 3] {
    let &Heads { batch, seq, heads, dim, strides, .. } = tensor;
    let packed = [seq * heads * dim, heads * dim, dim];
    let extents = [batch, seq, heads];
    std::array::from_fn(|axis| if extents[axis] <= 1 { packed[axis] } else { strides[axis] })
}
