//! Which bytes a tensor covers, and whether two tensors share some.
//!
//! Owns the arithmetic of strided pieces. All answers err on the safe side: "disjoint" and "contained" are said only
//! where that is proven, and what cannot be proven is refused by the rules. Must not know programs.

use crate::tensor::Tensor;

/// The bytes of a tensor: pieces of `width` contiguous bytes, repeated along axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Region {
    /// First byte within the segment.
    start: u64,
    /// One past the last byte.
    end: u64,
    /// Length of a contiguous piece.
    width: u64,
    /// Number of repetitions and bytes between them, from the widest step to the narrowest.
    axes: Vec<(u64, u64)>,
}

impl Region {
    /// The bytes of a tensor whose range fits its segment and whose elements do not overlap.
    pub(super) fn of(tensor: &Tensor) -> Region {
        let bytes = tensor.ty.dtype.bytes();
        let range = tensor.range().unwrap_or(0..u64::MAX);
        let mut axes: Vec<(u64, u64)> = tensor
            .ty
            .shape
            .0
            .iter()
            .zip(&tensor.strides)
            .map(|(a, s)| (a.extent, s * bytes))
            .collect();
        axes.retain(|&(extent, _)| extent > 1);
        axes.sort_by_key(|&(_, stride)| std::cmp::Reverse(stride));
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(axes.len());
        let mut width = bytes;
        // From the narrowest step outwards: what continues without a gap joins its neighbour.
        for (extent, stride) in axes.into_iter().rev() {
            match merged.last_mut() {
                None if stride == width => width *= extent,
                Some((inner, step)) if stride == *step * *inner => *inner *= extent,
                None | Some(_) => merged.push((extent, stride)),
            }
        }
        merged.reverse();
        Region { start: range.start, end: range.end, width, axes: merged }
    }

    /// Seen as rows `period` bytes apart: the bytes from a row's first to one past its last, if every step is a whole
    /// number of periods or stays within a row.
    fn within(&self, period: u64) -> Option<u64> {
        let mut span = self.width;
        for &(extent, stride) in &self.axes {
            if stride >= period {
                if !stride.is_multiple_of(period) {
                    return None;
                }
            } else {
                span += (extent - 1) * stride;
            }
        }
        Some(span)
    }

    fn separated_by(&self, other: &Region, period: u64) -> bool {
        let (low, high) = if self.start <= other.start { (self, other) } else { (other, self) };
        let (Some(low_span), Some(high_span)) = (low.within(period), high.within(period)) else {
            return false;
        };
        let column = (high.start - low.start) % period;
        column >= low_span && column + high_span <= period
    }

    /// Whether the two certainly share no byte: other ranges, or other columns of the same rows.
    pub(super) fn disjoint(&self, other: &Region) -> bool {
        if self.end <= other.start || other.end <= self.start {
            return true;
        }
        let periods = self.axes.iter().chain(&other.axes).map(|&(_, stride)| stride);
        periods.into_iter().any(|period| self.separated_by(other, period))
    }

    /// Whether every byte of `inner` is certainly one of this region.
    pub(super) fn contains(&self, inner: &Region) -> bool {
        if inner.start < self.start || inner.end > self.end {
            return false;
        }
        match self.axes[..] {
            [] => true,
            [(_, period)] if self.width <= period => inner
                .within(period)
                .is_some_and(|span| (inner.start - self.start) % period + span <= self.width),
            _ => self == inner,
        }
    }
}

/// Whether two tensors of one segment certainly share no byte; ranges are compared before pieces.
pub(super) fn disjoint(a: &Tensor, b: &Tensor) -> bool {
    if a.segment != b.segment {
        return true;
    }
    match (a.range(), b.range()) {
        (Some(x), Some(y)) if x.end <= y.start || y.end <= x.start => true,
        _ => Region::of(a).disjoint(&Region::of(b)),
    }
}

/// Whether no two elements of a tensor share bytes: each step is at least as wide as everything within it.
pub(super) fn is_injective(tensor: &Tensor) -> bool {
    let axes = tensor.ty.shape.0.iter().zip(&tensor.strides);
    let mut axes: Vec<(u64, u64)> = axes.map(|(a, &s)| (a.extent, s)).filter(|a| a.0 > 1).collect();
    axes.sort_by_key(|&(_, stride)| stride);
    let mut span: u64 = 1;
    for (extent, stride) in axes {
        if stride < span {
            return false;
        }
        let Some(wider) = (extent - 1).checked_mul(stride).and_then(|s| s.checked_add(span)) else {
            return false;
        };
        span = wider;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::TensorType;
    use crate::tensor::Segment;
    use proptest::prelude::*;

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

    /// Every element's first byte, one by one.
    fn bytes(tensor: &Tensor) -> std::collections::BTreeSet<u64> {
        let mut all = vec![tensor.offset];
        for (axis, stride) in tensor.ty.shape.0.iter().zip(&tensor.strides) {
            all = all
                .iter()
                .flat_map(|b| (0..axis.extent).map(move |i| b + i * stride * 4))
                .collect();
        }
        all.into_iter().collect()
    }

    #[test]
    fn column_slices_and_heads_are_told_apart() {
        let left = tensor(&[2, 4, 4], &[48, 12, 1], 0);
        let heads = tensor(&[2, 4, 2, 2], &[48, 12, 2, 1], 16);
        let right = tensor(&[8, 4], &[12, 1], 32);
        let whole = tensor(&[8, 12], &[12, 1], 0);
        assert!(disjoint(&left, &heads) && disjoint(&heads, &right) && disjoint(&right, &left));
        assert!(!disjoint(&whole, &heads));
        assert!(Region::of(&whole).contains(&Region::of(&heads)));
        assert!(!Region::of(&left).contains(&Region::of(&whole)));
        let narrow = tensor(&[8, 2], &[12, 1], 24);
        assert!(Region::of(&tensor(&[8, 4], &[12, 1], 16)).contains(&Region::of(&narrow)));
        assert!(!Region::of(&left).contains(&Region::of(&narrow)));
    }

    proptest! {
        /// What is said to be disjoint, contained or free of overlap is so, element by element.
        #[test]
        fn proofs_hold(
            extents in proptest::collection::vec(1u64..4, 1..4),
            strides in proptest::collection::vec(1u64..20, 4),
            offset in 0u64..30,
            other_extents in proptest::collection::vec(1u64..4, 1..4),
            other_strides in proptest::collection::vec(1u64..20, 4),
            other_offset in 0u64..30,
        ) {
            let a = tensor(&extents, &strides[..extents.len()], offset * 4);
            let b = tensor(&other_extents, &other_strides[..other_extents.len()], other_offset * 4);
            let (x, y) = (bytes(&a), bytes(&b));
            prop_assert_eq!(is_injective(&a), is_injective(&a) && x.len() as u64 == a.ty.shape.elements());
            if is_injective(&a) && is_injective(&b) {
                let (p, q) = (Region::of(&a), Region::of(&b));
                prop_assert!(!p.disjoint(&q) || x.is_disjoint(&y));
                prop_assert!(!p.contains(&q) || y.is_subset(&x));
            }
        }
    }
}
